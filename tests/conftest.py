"""Fixtures for all tests.

Virtual time (`@pytest.mark.looptime`) rules within the test function only: fixtures are set up and torn down in real
time. So whatever remembers loop times (clients, limiters, backoffs) is made in the test, not in a fixture.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from blockbuster import blockbuster_ctx
from hypothesis import settings
from structlog.typing import EventDict

from tests.fakes.apiserver import FakeApiServer

# A busy machine is no failure; and what CI finds, anyone can find again.
settings.register_profile("unhurried", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def no_current_loop() -> None:
    """Until a test runs a loop there is none.

    looptime asks for the current loop around tests that are not async too; the first time that makes one, which nobody closes.
    """
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session", autouse=True)
def no_blocking() -> Iterator[None]:
    """Code of this project that blocks the event loop (a file, a sleep, a lock) fails its test."""
    with blockbuster_ctx("syncer"):
        yield


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    """What the test logs: dicts with `event`, `log_level` and the event's values, in order."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
async def virtual_api() -> AsyncIterator[FakeApiServer]:
    """A started, empty API server."""
    async with FakeApiServer(service_cidr="10.43.0.0/16") as api:
        yield api


@pytest.fixture
async def host_api() -> AsyncIterator[FakeApiServer]:
    """Another one; its revisions and service addresses have nothing in common with those of `virtual_api`."""
    async with FakeApiServer(service_cidr="10.96.0.0/16", first_revision=5000) as api:
        yield api

"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.apiserver import FakeApiServer


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

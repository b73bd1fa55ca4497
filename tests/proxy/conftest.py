"""A front door between two upstreams that say what a test tells them, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.proxy.front import Front, front
from tests.proxy.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.proxy.front import Served


@pytest.fixture
async def bare() -> AsyncIterator[Wire]:
    """The virtual API server as those see it whom nobody vouches for."""
    async with Wire() as wire:
        yield wire


@pytest.fixture
async def vouched() -> AsyncIterator[Wire]:
    """The same, reached with the front proxy's certificate."""
    async with Wire() as wire:
        yield wire


@pytest.fixture
async def door(vouched: Served, bare: Served) -> AsyncIterator[Front]:
    """What is tested."""
    async with front(vouched, bare) as door:
        yield door

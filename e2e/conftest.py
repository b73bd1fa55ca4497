"""Everything in this directory needs a real Kubernetes."""

import asyncio

import pytest

pytest_plugins = ["e2e.fixtures", "e2e.tenants", "e2e.installed"]


@pytest.fixture(scope="session", autouse=True)
def no_current_loop() -> None:
    """As for all other tests (tests/conftest.py): else there would be one that nobody closes."""
    asyncio.set_event_loop(None)

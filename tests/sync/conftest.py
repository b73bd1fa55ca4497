"""A client for each side, against two fake API servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import Side
from tests.fakes.apiserver import FakeApiServer


@pytest.fixture
async def clients(virtual_api: FakeApiServer, host_api: FakeApiServer) -> AsyncIterator[Mapping[Side, Client]]:
    """Clients of `virtual_api` and `host_api`; the host has the namespace host-ns."""
    host_api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "host-ns"}})
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as virtual, Client(Cluster(host_api.url), Side.HOST) as host:
        yield {Side.VIRTUAL: virtual, Side.HOST: host}

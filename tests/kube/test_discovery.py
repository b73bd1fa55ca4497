from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from syncer.errors import Forbidden, SyncerError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.discovery import Discovery
from syncer.kube.types import LEASES, PODS, Resource, Side
from tests.fakes.requests import on

if TYPE_CHECKING:
    from tests.fakes.apiserver import FakeApiServer

COLOURS = Resource("lab.test", "v1", "colours", "Colour", namespaced=False)


async def test_what_is_served_is_asked_for_once(virtual_api: FakeApiServer) -> None:
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as client:
        discovery = Discovery(client)
        for _ in range(3):
            assert await discovery.find("v1", "Pod") == PODS
            assert await discovery.find("coordination.k8s.io/v1", "Lease") == LEASES
    assert [line.path for line in virtual_api.requests] == ["/api/v1", "/apis/coordination.k8s.io/v1"]


async def test_what_is_not_may_come(virtual_api: FakeApiServer) -> None:
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as client:
        discovery = Discovery(client)
        assert await discovery.find("v1", "Colour") is None
        assert await discovery.find("lab.test/v1", "Colour") is None
        assert await discovery.find("../x y/v1", "Colour") is None
        virtual_api.register(COLOURS)
        assert await discovery.find("lab.test/v1", "Colour") == COLOURS


async def test_a_refusal_is_no_answer(virtual_api: FakeApiServer) -> None:
    virtual_api.fault(on(), status=403)
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as client:
        with pytest.raises(Forbidden):
            await Discovery(client).find("v1", "Pod")


@pytest.mark.parametrize("resources", [[{"name": "colours"}], ["colours"], 7, [{"name": 7, "kind": "Colour", "namespaced": True}]])
async def test_a_list_that_makes_no_sense_is_told(resources: object) -> None:
    """As an API service that a tenant registers may answer."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response({"resources": resources})

    async with RawTestServer(answer) as server, Client(Cluster(str(server.make_url("/"))), Side.VIRTUAL) as client:
        with pytest.raises(SyncerError, match=r"list of the types of lab.test/v1 cannot be read"):
            await Discovery(client).find("lab.test/v1", "Colour")

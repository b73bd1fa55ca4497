"""Writes that are sent only with permission, and requests that are given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from syncer.errors import NETWORK_ERRORS, NotLeading
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, Key, Obj, Side, uid_of

if TYPE_CHECKING:
    from tests.fakes.apiserver import FakeApiServer

KEY = Key("ns", "one")


class Permission:
    """Is refused after so many questions."""

    def __init__(self, times: float) -> None:
        self.left = times

    def __call__(self) -> None:
        if self.left <= 0:
            raise NotLeading("not any more")
        self.left -= 1


def configmap(name: str = "one") -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": name}}


@pytest.fixture
def api(host_api: FakeApiServer) -> FakeApiServer:
    host_api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})
    return host_api


async def test_no_write_without_it_and_reading_needs_none(api: FakeApiServer) -> None:
    async with Client(Cluster(api.url), Side.HOST) as client:
        uid = uid_of(await client.create(CONFIGMAPS, "ns", configmap()))
        limited = client.only_while(Permission(0))
        with pytest.raises(NotLeading):
            await limited.create(CONFIGMAPS, "ns", configmap("two"))
        with pytest.raises(NotLeading):
            await limited.patch(CONFIGMAPS, KEY, {"data": {"a": "b"}})
        with pytest.raises(NotLeading):
            await limited.delete(CONFIGMAPS, KEY, uid=uid)
        assert "data" not in await limited.get(CONFIGMAPS, KEY)
        assert len((await limited.list_page(CONFIGMAPS, "ns"))[0]) == 1
        await client.patch(CONFIGMAPS, KEY, {"data": {"a": "b"}})
        await client.only_while(Permission(2)).patch(CONFIGMAPS, KEY, {"data": {"a": "c"}})
        assert (await client.get(CONFIGMAPS, KEY))["data"] == {"a": "c"}
        assert not limited.closed
    assert limited.closed


async def test_one_that_is_withdrawn_while_the_connection_is_made_is_in_time(api: FakeApiServer) -> None:
    async with Client(Cluster(api.url), Side.HOST) as client:
        for _ in range(2):  # on a new connection, then on one that was used before
            with pytest.raises(NETWORK_ERRORS, match="not any more"):
                await client.only_while(Permission(1)).create(CONFIGMAPS, "ns", configmap())
            assert api.get(CONFIGMAPS, KEY) is None
            await client.list_page(CONFIGMAPS, "ns")


async def test_what_is_given_up_is_not_sent_later() -> None:
    """The server is told so at once, with a reset: else the system would go on delivering it behind our back."""
    ended: asyncio.Queue[BaseException | bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{")
        try:
            ended.put_nowait(await reader.read())
        except OSError as error:
            ended.put_nowait(error)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(Cluster(f"http://127.0.0.1:{port}"), Side.HOST) as client:
        request = asyncio.create_task(client.create(CONFIGMAPS, "ns", configmap()))
        await asyncio.sleep(0.1)
        request.cancel()
        assert isinstance(await asyncio.wait_for(ended.get(), 5), ConnectionResetError)

"""Services that are made again when somebody deletes them. That addresses are kept is seen in e2e/test_mainstays.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from syncer.kube.client import Client
from syncer.kube.types import CONFIGMAPS, SERVICES, Key, Obj, Side
from syncer.runtime.store import Store
from syncer.sync.fence import Fence, owner_key
from syncer.sync.mainstays import OF_RELEASE, Mainstays, is_of_release, remakes
from syncer.sync.recorder import Notice
from tests.fakes.apiserver import FakeApiServer
from tests.patience import until

OWNER = owner_key("host-ns", "one")
FRONT = Key("host-ns", "one")
REFERENCE = {"apiVersion": "v1", "kind": "ConfigMap", "name": OWNER.name, "uid": "o"}


def service(name: str = "one", **spec: Any) -> Obj:
    metadata = {"name": name, "namespace": "host-ns", "uid": "1", "resourceVersion": "7", "labels": {"app": "vcluster"}}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"], "ownerReferences": [{"uid": "x"}]},
        "spec": {"ports": [{"port": 443}], **spec},
        "status": {"loadBalancer": {}},
    }


def test_it_is_made_as_it_was_and_else_with_other_addresses() -> None:
    spec = {
        "type": "NodePort",
        "clusterIP": "10.0.0.7",
        "clusterIPs": ["10.0.0.7"],
        "ipFamilies": ["IPv4"],
        "ports": [{"port": 443, "nodePort": 30443}],
    }
    metadata = {"name": "one", "namespace": "host-ns", "labels": {"app": "vcluster"}, "ownerReferences": [REFERENCE]}
    lost = service()
    lost["spec"] = spec
    same, other = remakes(lost, REFERENCE)
    assert same == {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    assert other == {**same, "spec": {"type": "NodePort", "ipFamilies": ["IPv4"], "ports": [{"port": 443}]}}


def test_a_headless_one_stays_headless_and_nobody_need_own_it() -> None:
    (only,) = remakes(service(clusterIP="None", clusterIPs=["None"]), None)
    assert only["spec"]["clusterIP"] == "None"
    assert "ownerReferences" not in only["metadata"]


class Running:
    """Mainstays over a cache, and what they told."""

    def __init__(self, host: Client, virtual: Client) -> None:
        self.told: list[str] = []
        self.services = Store(Side.HOST, SERVICES)
        self.fence = Fence(virtual=virtual, host=host, recorder=self, namespace="host-ns", name="one", clock=lambda: 0.0)
        self.mainstays = Mainstays(host, self.services, self.fence, ["one", "one-dns"], REFERENCE, pause=0.01)

    def warn(self, notice: Notice) -> None:
        self.told.append(notice.reason)

    def lose(self, name: str = "one") -> None:
        """Have the cache learn of a Service, and of its end."""
        self.services.apply(service(name))
        self.services.remove(Key("host-ns", name), "1")


@pytest.fixture
async def running(clients: Mapping[Side, Client]) -> Running:
    running = Running(clients[Side.HOST], clients[Side.VIRTUAL])
    await running.fence.open()
    return running


@asynccontextmanager
async def run(running: Running) -> AsyncIterator[None]:
    task = asyncio.create_task(running.mainstays.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_one_that_is_deleted_is_made_again_and_told(running: Running, host_api: FakeApiServer) -> None:
    async with run(running):
        running.lose()
        await until(lambda: host_api.get(SERVICES, FRONT) is not None)
        running.lose("one-dns")
        await until(lambda: host_api.get(SERVICES, Key("host-ns", "one-dns")) is not None)
        await until(lambda: running.told == ["ServiceLost", "ServiceLost"])


async def test_others_are_none_of_our_business(running: Running, host_api: FakeApiServer) -> None:
    async with run(running):
        running.lose("two")
        running.lose("one-dns")
        await until(lambda: running.told)
    assert host_api.get(SERVICES, Key("host-ns", "two")) is None


async def test_it_stays_gone_when_all_is_to_go(running: Running, host_api: FakeApiServer) -> None:
    host_api.remove(CONFIGMAPS, OWNER)
    async with run(running):
        running.lose()
        await until(lambda: not running.mainstays._lost)
    assert host_api.get(SERVICES, FRONT) is None
    assert running.told == []


async def test_one_that_an_upgrade_leaves_out_stays_gone(running: Running, host_api: FakeApiServer) -> None:
    """The former leader still runs then."""
    host_api.change(CONFIGMAPS, OWNER, {"metadata": {"annotations": {OF_RELEASE: "one"}}})
    async with run(running):
        running.lose("one-dns")
        await until(lambda: not running.mainstays._lost)
        running.lose()
        await until(lambda: host_api.get(SERVICES, FRONT) is not None)
    assert host_api.get(SERVICES, Key("host-ns", "one-dns")) is None
    assert running.told == ["ServiceLost"]


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        (None, True),
        ({}, True),
        ({OF_RELEASE: "one,one-dns"}, True),
        ({OF_RELEASE: "one, one-dns"}, True),
        ({OF_RELEASE: "one"}, False),
        ({OF_RELEASE: "one-dns-2"}, False),
        ({OF_RELEASE: ""}, False),
    ],
)
def test_what_the_owner_tells_of_the_release(annotations: Obj | None, expected: bool) -> None:
    assert is_of_release("one-dns", {"metadata": {"annotations": annotations}}) is expected


async def test_one_that_somebody_else_made_again_is_left_alone(running: Running, host_api: FakeApiServer) -> None:
    theirs = service()
    theirs["metadata"] = {"name": "one", "namespace": "host-ns", "labels": {"app": "theirs"}}
    host_api.create(theirs)
    async with run(running):
        running.lose()
        await until(lambda: not running.mainstays._lost)
    found = host_api.get(SERVICES, FRONT)
    assert found is not None
    assert found["metadata"]["labels"] == {"app": "theirs"}
    assert running.told == []

"""Shown nodes through the whole engine: how much is written, and what is lost when others write in the same moment."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from syncer.kube.types import LEASES, NODES, PODS, Key, Obj, Side
from syncer.resources import chosen, known
from syncer.resources.nodes import MADE_UP, REAL
from syncer.sync.spec import SyncSpec
from tests.fakes.requests import is_write, on
from tests.sync.harness import World, clock, named, pod, running

pytestmark = pytest.mark.looptime

SHOWN: list[SyncSpec] = chosen({name for name, on in known().items() if on} | {REAL.name})
N1 = Key("", "node-1")


def beat(world: World) -> None:
    """What a kubelet reports every few seconds: nothing new."""
    node = world.host.get(NODES, N1)
    assert node is not None
    conditions = [{**item, "lastHeartbeatTime": world.host.registry.timestamp()} for item in node["status"]["conditions"]]
    world.host.change(NODES, N1, {"status": {"conditions": conditions}})


def node_writes(world: World, since: float) -> list[str]:
    entries = [*world.journal.find(resource=NODES, since=since), *world.journal.find(resource=LEASES, since=since)]
    return [str(entry) for entry in entries if is_write(entry.request)]


async def with_a_pod(world: World) -> Obj:
    world.kubelet.register()
    world.virtual.create(pod("web"))
    await world.settle_running()
    node = world.virtual.get(NODES, N1)
    assert node is not None
    assert MADE_UP not in SHOWN
    return node


async def test_an_hour_of_heartbeats_costs_a_write_every_five_minutes() -> None:
    async with running(SHOWN) as world:
        await with_a_pod(world)
        began = clock()
        for _ in range(360):
            await asyncio.sleep(10)
            beat(world)
        await world.settle()
        assert 10 <= len(node_writes(world, began)) <= 12


async def test_a_watched_node_is_renewed_every_ten_seconds_and_no_other() -> None:
    async with running(SHOWN) as world:
        await with_a_pod(world)
        began = clock()
        await asyncio.sleep(60)
        assert node_writes(world, began) == []
        world.virtual.create(named("Namespace", "kube-node-lease", ""))  # as every API server has it
        node = world.virtual.get(NODES, N1)
        assert node is not None
        dead = [{**item, "status": "Unknown", "reason": "NodeStatusUnknown"} for item in node["status"]["conditions"]]
        world.virtual.change(NODES, N1, {"status": {"conditions": dead}})
        await asyncio.sleep(1)
        began = clock()
        await asyncio.sleep(600)
        renewals = [entry.at for entry in world.journal.find("patch", LEASES, since=began)]
        assert 57 <= len(renewals) <= 60
        assert all(later - earlier <= 10.5 for earlier, later in pairwise(renewals))
        assert len(node_writes(world, began)) == len(renewals)


async def test_a_taint_that_the_tenant_adds_in_the_same_moment_is_not_lost() -> None:
    async with running(SHOWN) as world:
        await with_a_pod(world)
        own, theirs = {"key": "own", "effect": "NoSchedule"}, {"key": "host", "effect": "NoSchedule"}
        world.virtual.hang_watches()
        world.virtual.change(NODES, N1, {"spec": {"taints": [own]}})
        world.host.change(NODES, N1, {"spec": {"taints": [theirs]}})
        await asyncio.sleep(3)
        world.virtual.resume_watches()
        await world.settle()
        node = world.virtual.get(NODES, N1)
        assert node is not None
        assert {taint["key"] for taint in node["spec"]["taints"]} == {"own", "host"}


async def test_a_host_node_that_a_failing_list_leaves_out_is_asked_for_before_its_node_goes() -> None:
    async with running(SHOWN) as world:
        node = await with_a_pod(world)
        world.host.registry.delete(NODES, N1, {})
        world.virtual.fault(on("delete", NODES), status=500, times=2)
        await world.settle()
        assert world.virtual.get(NODES, N1) is None
        asked = world.journal.find("get", NODES, side=Side.HOST)
        assert [entry.name for entry in asked] == [N1.name] * len(asked) != []
        world.kubelet.register()
        await world.settle_running()
        again = world.virtual.get(NODES, N1)
        assert again is not None
        assert again["metadata"]["uid"] != node["metadata"]["uid"]
        assert world.virtual.get(PODS, Key("default", "web")) is not None

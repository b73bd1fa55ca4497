"""Nobody waits for somebody else's burst."""

from __future__ import annotations

import asyncio

import pytest

from syncer.kube.types import PODS, Key, Side
from tests.fakes.requests import on
from tests.sync.harness import NAMES, World, clock, named, pod, running, stage

pytestmark = pytest.mark.looptime

BURST = 2000
AHEAD = 64
"""Writes that may go before: those in flight, and a turn of the other namespace for each of ours."""


def put_burst(world: World) -> None:
    world.virtual.create(named("Namespace", "greedy", ""))
    for number in range(BURST):
        world.virtual.create(pod(f"p{number}", "greedy"))


def ahead_of(world: World, name: str, since: float) -> int:
    """How many host pods were asked for from `since` to the one of that pod."""
    names = [entry.name for entry in world.journal.find("create", PODS, side=Side.HOST, since=since)]
    return names.index(NAMES.host_name("default", name))


async def test_a_burst_of_one_namespace_delays_a_pod_of_another_by_few_writes() -> None:
    async with running() as world:
        world.host.fault(on("create", PODS), delay=0.05)
        put_burst(world)
        await asyncio.sleep(0.2)
        began = clock()
        world.virtual.create(pod("web"))
        await asyncio.sleep(0.4)
        assert ahead_of(world, "web", began) < AHEAD


async def test_the_first_list_after_a_start_delays_a_new_pod_by_few_writes() -> None:
    async with stage() as world:
        put_burst(world)
        world.host.fault(on("create", PODS), delay=0.05)
        syncer = await world.start()
        await syncer.wait_listed()
        await asyncio.sleep(0.1)
        began = clock()
        world.virtual.create(pod("web"))
        await asyncio.sleep(0.4)
        assert ahead_of(world, "web", began) < AHEAD


async def test_what_the_host_does_is_seen_during_a_burst() -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        await world.settle()
        world.host.fault(on("create", PODS), delay=0.05)
        put_burst(world)
        await asyncio.sleep(0.1)
        began = clock()
        world.kubelet.run(NAMES.host_key(Key("default", "web")))
        await asyncio.sleep(0.3)
        virtual = world.virtual_pod("web")
        assert virtual is not None
        assert virtual["status"]["phase"] == "Running"
        assert len(world.journal.find("create", PODS, side=Side.HOST, since=began)) < 200


async def test_status_that_cannot_be_written_holds_no_new_pod_up() -> None:
    async with running() as world:
        for number in range(50):
            world.virtual.create(pod(f"p{number}"))
        await world.settle()
        world.virtual.fault(on("patch", PODS, subresource="status"), hang=True)
        world.run_pods()
        await asyncio.sleep(1)
        world.virtual.create(pod("web"))
        await asyncio.sleep(2)
        assert world.host_pod("web") is not None

"""A tenant resizes a pod that runs, through the whole engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from syncer.kube.types import PODS, Key, Side
from syncer.translate.downward import RESIZED
from tests.fakes.requests import on
from tests.sync.harness import NAMES, World, pod, running

pytestmark = pytest.mark.looptime

WEB = Key("default", "web")


def container(cpu: str) -> dict[str, Any]:
    return {"name": "app", "image": "nginx:1", "resources": {"requests": {"cpu": cpu}}}


async def resized(world: World, cpu: str) -> None:
    world.virtual.create(pod("web", containers=[container("1")]))
    await world.settle_running()
    world.virtual.put({**world.virtual_pod("web"), "spec": {**world.virtual_pod("web")["spec"], "containers": [container(cpu)]}})  # type: ignore[index,dict-item]


def on_host(world: World) -> tuple[str, str]:
    """The CPU of the host pod, and what is on record."""
    host = world.host_pod("web")
    assert host is not None
    recorded = json.loads(host["metadata"]["annotations"][RESIZED])
    return host["spec"]["containers"][0]["resources"]["requests"]["cpu"], recorded["app"]["requests"]["cpu"]


async def test_it_is_recorded_once_the_host_has_taken_it() -> None:
    async with running() as world:
        await resized(world, "2")
        await world.settle()
        assert on_host(world) == ("2", "2")
        assert await world.scan_writes() == []


async def test_a_refused_one_is_not_recorded_and_goes_through_later() -> None:
    async with running() as world:
        quota = f'pods "{NAMES.host_name("default", "web")}" is forbidden: exceeded quota: q, requested: cpu=1, used: cpu=9, limited: cpu=9'
        world.host.fault(on("patch", PODS, subresource="resize"), status=403, message=quota)
        await resized(world, "2")
        await asyncio.sleep(20)
        assert on_host(world) == ("1", "1")
        assert ("ExceededQuota", "web") in world.warnings()
        world.host.clear_faults()
        await asyncio.sleep(60)
        assert on_host(world) == ("2", "2")


async def test_a_lost_answer_is_no_second_resize() -> None:
    async with running() as world:
        world.host.fault(on("patch", PODS, subresource="resize"), drop=True, after=True, times=1)
        await resized(world, "2")
        await asyncio.sleep(30)
        await world.settle()
        assert on_host(world) == ("2", "2")
        assert len(world.journal.find("patch", PODS, side=Side.HOST, subresource="resize")) == 1

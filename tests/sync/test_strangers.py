"""What a pod refers to may have a name on the host that somebody else has taken: the pod never reads that."""

from __future__ import annotations

import asyncio

import pytest

from syncer.kube.types import CONFIGMAPS, Key, Obj, Side
from tests.fakes.requests import on
from tests.sync.harness import HOST_NAMESPACE, NAMES, World, named, pod, running

pytestmark = pytest.mark.looptime

SETTINGS = NAMES.host_key(Key("default", "settings"))


def reading(*, optional: bool) -> Obj:
    made = pod("web", configmap="settings")
    made["spec"]["volumes"][0]["configMap"]["optional"] = optional
    return made


def stranger(world: World) -> None:
    world.host.create(named("ConfigMap", SETTINGS.name, HOST_NAMESPACE, data={"whose": "a stranger's"}))
    world.protect(Side.HOST, CONFIGMAPS, SETTINGS, unchanged=True)


@pytest.mark.parametrize("optional", [False, True])
async def test_a_pod_does_not_start_over_a_strangers_object(optional: bool) -> None:
    async with running() as world:
        stranger(world)
        world.virtual.create(reading(optional=optional))
        await asyncio.sleep(10)
        assert world.host_pod("web") is None
        assert world.warnings() == [("NameTaken", "web")]
        world.virtual.create(named("ConfigMap", "settings", data={"whose": "mine"}))
        await asyncio.sleep(60)
        assert world.host_pod("web") is None


async def test_it_starts_when_the_name_is_free() -> None:
    async with running() as world:
        world.host.create(named("ConfigMap", SETTINGS.name, HOST_NAMESPACE))
        world.virtual.create(reading(optional=True))
        await asyncio.sleep(10)
        assert world.host_pod("web") is None
        world.host.remove(CONFIGMAPS, SETTINGS)
        await asyncio.sleep(60)
        assert world.host_pod("web") is not None


async def test_what_nobody_has_is_asked_for_once() -> None:
    async with running() as world:
        world.virtual.create(reading(optional=True))
        await world.settle_running()
        assert world.host_pod("web") is not None
        assert (
            len([entry for entry in world.host.requests if entry.method == "GET" and entry.path.endswith(f"/configmaps/{SETTINGS.name}")])
            == 1
        )


async def test_nothing_is_asked_for_where_all_is_there() -> None:
    async with running() as world:
        world.host.fault(on("get", CONFIGMAPS, name=SETTINGS.name), status=500)
        world.virtual.create(named("ConfigMap", "settings"))
        world.virtual.create(reading(optional=False))
        await world.settle_running()
        assert world.host_pod("web") is not None

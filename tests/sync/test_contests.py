"""Fields that one side does not keep: told of, then left alone, while everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.typing import EventDict

from syncer.kube.types import EVENTS, PODS, SERVICES, Key, Obj, Side, key_of, labels_of
from syncer.sync.contests import FUTILE, Contests
from tests.fakes.requests import is_write
from tests.sync.harness import World, clock, pod, running, service

pytestmark = pytest.mark.looptime

WEB = Key("default", "web")


def told(world: World) -> list[tuple[str, str]]:
    return sorted((event["reason"], event["message"]) for event in world.virtual.objects(EVENTS))


def writes(world: World, side: Side, since: float) -> int:
    return sum(
        1
        for entry in world.journal.entries
        if entry.at >= since and entry.side is side and is_write(entry.request) and entry.request.resource != EVENTS
    )


@asynccontextmanager
async def meddler(world: World, name: str, labels: Obj) -> AsyncIterator[None]:
    """A controller of the host that wants these labels on a pod."""

    async def meddle() -> None:
        while True:
            await asyncio.sleep(0.05)
            host = world.host_pod(name)
            if host is not None and any(labels_of(host).get(key) != value for key, value in labels.items()):
                world.host.change(PODS, key_of(host), {"metadata": {"labels": labels}})

    task = asyncio.create_task(meddle())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def make_running(world: World, **spec: Any) -> None:
    world.virtual.create(pod("web", **spec))
    await world.settle_running()


async def test_a_label_that_a_controller_of_the_host_keeps_changing_back_is_left_alone(logs: list[EventDict]) -> None:
    async with running() as world:
        assert world.syncer is not None
        await make_running(world)
        began = clock()
        async with meddler(world, "web", {"team": "theirs"}):
            world.virtual.change(PODS, WEB, {"metadata": {"labels": {"team": "ours", "other": "fine"}}})
            await asyncio.sleep(300)
            assert writes(world, Side.HOST, began) <= FUTILE
            host = world.host_pod("web")
            assert host is not None
            assert labels_of(host)["team"] == "theirs"
            assert labels_of(host)["other"] == "fine"
            assert told(world) == [
                ("FieldContested", "something on the host cluster keeps changing metadata.labels.team back; it is left as it is there")
            ]
            assert [(e["path"], e["side"]) for e in logs if e["event"] == "field.contested"] == [("metadata.labels.team", Side.HOST)]
            assert world.syncer.ledger.drift_counts() == {("pods", "host", "contested"): 1}
            assert world.syncer.rows() == {}
            assert await world.scan_writes() == []

            world.virtual.change(PODS, WEB, {"metadata": {"labels": {"other": "new"}}})
            await asyncio.sleep(1)
            host = world.host_pod("web")
            assert host is not None
            assert labels_of(host)["other"] == "new", "other labels go on"
        world.virtual.change(PODS, WEB, {"metadata": {"labels": {"team": "ours2"}}})
        await asyncio.sleep(1)
        host = world.host_pod("web")
        assert host is not None
        assert labels_of(host)["team"] == "ours2", "another value is another wish"
        world.virtual.remove(PODS, WEB)
        await world.settle_running()
        assert world.syncer.ledger.drift_counts() == {}


async def test_a_label_that_was_left_alone_is_asked_for_again_after_an_hour() -> None:
    async with running() as world:
        await make_running(world)
        async with meddler(world, "web", {"team": "theirs"}):
            world.virtual.change(PODS, WEB, {"metadata": {"labels": {"team": "ours"}}})
            await asyncio.sleep(60)
        await asyncio.sleep(3600 + 700)
        host = world.host_pod("web")
        assert host is not None
        assert labels_of(host)["team"] == "ours"


async def test_a_selector_is_never_left_alone_only_asked_for_less_often() -> None:
    async with running() as world:
        world.virtual.create(service("web", selector={"app": "web"}))
        await world.settle()
        began = clock()

        async def widen() -> None:
            while True:
                await asyncio.sleep(0.05)
                host = world.host_copy(SERVICES, "web")
                if host is not None and host["spec"]["selector"].get("app") != "all":
                    world.host.change(SERVICES, key_of(host), {"spec": {"selector": {"app": "all"}}})

        task = asyncio.create_task(widen())
        await asyncio.sleep(600)
        task.cancel()
        assert 600 / 35 <= writes(world, Side.HOST, began) <= 600 / 30 + 2 * FUTILE
        assert "FieldContested" in [reason for reason, _ in told(world)]
        await asyncio.sleep(35)
        host = world.host_copy(SERVICES, "web")
        assert host is not None
        assert host["spec"]["selector"]["app"] == "web"


@pytest.mark.parametrize("warns", [True, False])
async def test_a_status_field_that_the_virtual_side_does_not_have_is_not_asked_for_again_and_again(
    warns: bool, logs: list[EventDict]
) -> None:
    async with running() as world:
        world.virtual.features.lacks = {("status", "newField"), ("status", "containerStatuses", "[]", "newField")}
        world.virtual.features.warns = warns
        await make_running(world)
        host = world.host_pod("web")
        assert host is not None
        containers = [{**item, "newField": {"a": 1}} for item in host["status"]["containerStatuses"]]
        world.host.change(PODS, key_of(host), {"status": {"newField": "x", "containerStatuses": containers}})
        await world.settle()
        for number in range(20):
            world.host.change(PODS, key_of(host), {"status": {"message": str(number)}})
            await world.settle()
        virtual = world.virtual_pod("web")
        assert virtual is not None
        assert virtual["status"]["message"] == "19"
        began = clock()
        for _ in range(5):
            world.host.change(PODS, key_of(host), {"metadata": {"annotations": {"touched": str(clock())}}})
            await world.settle()
        assert writes(world, Side.VIRTUAL, began) == 0
        assert await world.scan_writes() == []
        paths = {entry["path"] for entry in logs if entry["event"] == "field.not_kept"}
        assert {"status.newField", "status.containerStatuses[].newField"} <= paths
        assert [entry for entry in logs if entry["event"] == "field.contested"] == []
        assert len([entry for entry in logs if entry["event"] == "field.not_kept"]) == len(paths), "listed once"
        assert told(world) == []


@pytest.mark.parametrize("warns", [True, False])
async def test_a_field_that_the_host_drops_as_it_makes_a_pod_is_told_to_the_tenant(warns: bool) -> None:
    async with running() as world:
        world.host.features.lacks = {("spec", "hostUsers")}
        world.host.features.warns = warns
        await make_running(world, hostUsers=False)
        assert told(world) == [("FieldNotKept", "the host cluster does not keep spec.hostUsers; it is made without")]
        assert await world.scan_writes() == []


async def test_a_field_that_the_host_lacks_is_not_patched_for_ever() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(service("web"))
        await world.settle()
        world.host.features.lacks = {("spec", "trafficDistribution")}
        began = clock()
        world.virtual.change(SERVICES, WEB, {"spec": {"trafficDistribution": "PreferClose", "sessionAffinity": "ClientIP"}})
        await world.settle()
        host = world.host_copy(SERVICES, "web")
        assert host is not None
        assert host["spec"]["sessionAffinity"] == "ClientIP"
        assert writes(world, Side.HOST, began) <= 2
        assert await world.scan_writes() == []
        assert ("FieldNotKept", "the host cluster does not keep spec.trafficDistribution; it goes on without") in told(world)
        assert world.syncer.ledger.drift_counts() == {("services", "host", "not_kept"): 1}


async def test_a_value_that_changes_to_and_fro_is_no_contest() -> None:
    async with running() as world:
        await make_running(world)
        for number in range(20):
            world.virtual.change(PODS, WEB, {"metadata": {"labels": {"role": ("leader", "follower")[number % 2]}}})
            await world.settle()
            host = world.host_pod("web")
            assert host is not None
            assert labels_of(host)["role"] == ("leader", "follower")[number % 2]
        assert told(world) == []


async def test_somebody_who_removes_a_label_now_and_then_fights_nobody() -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        world.virtual.change(PODS, WEB, {"metadata": {"labels": {"a": "b"}}})
        await world.settle_running()
        for _ in range(10):
            host = world.host_pod("web")
            assert host is not None
            world.host.change(PODS, key_of(host), {"metadata": {"labels": {"a": None}}})
            await asyncio.sleep(60)
            host = world.host_pod("web")
            assert host is not None
            assert labels_of(host)["a"] == "b"
        assert told(world) == []


def test_a_field_that_goes_with_a_change_of_type_is_no_contest() -> None:
    contests = Contests(lambda: 1.0)
    policy = {"internalTrafficPolicy": "Cluster"}
    for _ in range(FUTILE):
        there = {"spec": {"type": "ClusterIP", **policy}}
        assert contests.answered(Side.HOST, SERVICES, "uid", {"spec": policy}, there) == []
        gone = {"spec": {"type": "ExternalName"}}
        assert contests.answered(Side.HOST, SERVICES, "uid", {"spec": {"externalName": None}}, gone) == []

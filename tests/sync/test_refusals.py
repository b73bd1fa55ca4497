"""What an API server refuses reaches the tenant in words, is tried again at a bounded pace, and is forgotten once it works."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from structlog.typing import EventDict

from syncer.kube.types import EVENTS, PODS, SERVICES, Key, Side, labels_of
from syncer.naming import LABEL_NAMESPACE
from tests.fakes.requests import on
from tests.sync.harness import NAMES, World, clock, named, pod, running, service

pytestmark = pytest.mark.looptime

QUOTA = f'pods "{NAMES.host_name("default", "web")}" is forbidden: exceeded quota: compute in namespace {NAMES.host_namespace}'
REFUSALS: dict[str, dict[str, Any]] = {
    "quota": {"status": 403, "reason": "Forbidden", "message": QUOTA},
    "invalid": {"status": 422, "reason": "Invalid", "message": f'Pod "{NAMES.host_name("default", "web")}" is invalid: spec.volumes[0]'},
}


def messages(world: World) -> list[str]:
    return [event["message"] for event in world.virtual.objects(EVENTS)]


def tries(world: World, since: float) -> list[float]:
    return [entry.at for entry in world.journal.find("create", PODS, side=Side.HOST, since=since)]


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_told_once_tried_again_and_cleared(refusal: dict[str, Any], logs: list[EventDict]) -> None:
    async with running() as world:
        assert world.syncer is not None
        rule = world.host.fault(on("create", PODS), **refusal)
        began = clock()
        world.virtual.create(pod("web"))
        await asyncio.sleep(240)
        assert world.warnings() == [(refusal["reason"], "web")]
        (message,) = messages(world)
        assert "default/web" in message or '"web"' in message, message
        assert "tried again" in message
        assert world.syncer.rows() == {("pods", "default/web"): "refused"}
        assert [entry["event"] for entry in logs].count("host.refused") == 1
        made = tries(world, began)
        assert len(made) < 20
        assert max(later - earlier for earlier, later in pairwise(made)) < 35
        rule.lift()
        await asyncio.sleep(35)
        await world.settle()
        assert world.host_pod("web") is not None
        assert world.syncer.rows() == {}
        assert [entry["event"] for entry in logs].count("pair.recovered") == 1


async def test_a_refusal_that_passes_at_once_is_told_to_nobody() -> None:
    async with running() as world:
        world.host.fault(on("create", PODS), **REFUSALS["quota"], times=2)
        world.virtual.create(pod("web"))
        await world.settle()
        assert world.host_pod("web") is not None
        assert world.warnings() == []


async def test_a_refused_pod_that_the_tenant_takes_back_leaves_no_row_and_no_retries() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.host.fault(on("create", PODS), **REFUSALS["quota"])
        world.virtual.create(pod("web"))
        await asyncio.sleep(20)
        world.virtual.registry.delete(PODS, Key("default", "web"), {})
        await world.settle()
        assert world.syncer.rows() == {}
        began = clock()
        await asyncio.sleep(120)
        assert tries(world, began) == []


async def test_one_namespaces_refusals_hold_nobody_else_up() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(named("Namespace", "full", ""))
        create = on("create", PODS)
        refused = world.host.fault(lambda request: create(request) and labels_of(request.body)[LABEL_NAMESPACE] == "full", status=403)
        for number in range(40):
            world.virtual.create(pod(f"p{number}", "full"))
        await asyncio.sleep(10)
        began = clock()
        world.virtual.create(pod("web"))
        await asyncio.sleep(0.5)
        assert world.host_pod("web") is not None
        assert refused.hits > 40
        await asyncio.sleep(20)
        assert len(tries(world, began)) < 40 * 5


async def test_a_refused_change_of_a_running_object_is_told_too() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(service("web"))
        await world.settle()
        rule = world.host.fault(on("patch", SERVICES), status=422, message="spec.ports[0].nodePort: provided port is already allocated")
        world.virtual.change(SERVICES, Key("default", "web"), {"spec": {"selector": {"app": "other"}}})
        await asyncio.sleep(20)
        assert world.warnings() == [("Invalid", "web")]
        assert world.syncer.rows() == {("services", "default/web"): "refused"}
        rule.lift()
        await asyncio.sleep(35)
        assert world.syncer.rows() == {}
        copy = world.host_copy(SERVICES, "web")
        assert copy is not None
        assert copy["spec"]["selector"]["app"] == "other"


async def test_a_conflict_is_neither_told_nor_in_the_ledger() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(pod("web"))
        await world.settle_running()
        world.host.fault(on("patch", PODS), status=409, times=3)
        world.virtual.change(PODS, Key("default", "web"), {"metadata": {"labels": {"a": "b"}}})
        await asyncio.sleep(5)
        await world.settle()
        assert world.warnings() == []
        copy = world.host_pod("web")
        assert copy is not None
        assert copy["metadata"]["labels"]["a"] == "b"


async def test_a_static_pods_mirror_is_refused_in_words_without_a_write_to_the_host() -> None:
    async with running() as world:
        began = clock()
        mirror = pod("etcd")
        mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
        world.virtual.create(mirror)
        await asyncio.sleep(30)
        assert world.warnings() == [("StaticPod", "etcd")]
        assert [entry for entry in world.journal.find(side=Side.HOST, since=began) if entry.request.method != "GET"] == []

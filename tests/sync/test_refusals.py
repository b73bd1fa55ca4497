"""What an API server refuses reaches the tenant in words, is tried again at a bounded pace, and is forgotten once it works."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from structlog.typing import EventDict

from syncer.kube.types import CONFIGMAPS, EVENTS, PODS, SERVICES, Key, Resource, Side, key_of, labels_of
from syncer.naming import LABEL_NAMESPACE
from syncer.sync.refusals import CONDITION
from tests.fakes.requests import Request, on
from tests.sync.harness import NAMES, World, clock, named, pod, running, service

pytestmark = pytest.mark.looptime

HOST_POD = NAMES.host_name("default", "web")
QUOTA = f'pods "{HOST_POD}" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=2, limited: pods=2'
DENIED = 'admission webhook "w.example" denied the request: no'
REFUSALS: dict[str, tuple[dict[str, Any], str, float]] = {
    "quota": ({"status": 403, "message": QUOTA}, "ExceededQuota", 2.1),
    "invalid": ({"status": 422, "message": f'Pod "{HOST_POD}" is invalid: spec.volumes[0]'}, "Invalid", 33),
    "webhook": ({"status": 400, "message": 'admission webhook "w.example" denied the request: no'}, "AdmissionDenied", 33),
    "webhook down": (
        {"status": 500, "message": f'Internal error occurred: failed calling webhook "w": {HOST_POD}'},
        "AdmissionUnavailable",
        33,
    ),
    "right": (
        {"status": 403, "message": 'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods"'},
        "MissingRight",
        33,
    ),
}


def messages(world: World) -> list[str]:
    return [event["message"] for event in world.virtual.objects(EVENTS)]


def tries(world: World, since: float) -> list[float]:
    return [entry.at for entry in world.journal.find("create", PODS, side=Side.HOST, since=since)]


def warnings(world: World) -> list[tuple[str, str]]:
    """Reason and object of each Warning."""
    return sorted(
        (event["reason"], event["involvedObject"]["name"]) for event in world.virtual.objects(EVENTS) if event["type"] == "Warning"
    )


def condition(world: World, kind: str, name: str = "web", resource: Resource = PODS) -> tuple[str, str] | None:
    """Status and reason of a condition of a virtual object."""
    obj = world.virtual.get(resource, Key("default", name)) or {}
    found = [item for item in (obj.get("status") or {}).get("conditions") or () if item["type"] == kind]
    return (found[0]["status"], found[0].get("reason", "")) if found else None


@dataclass
class Quota:
    """The host takes no more than `limit` pods at a time."""

    world: World
    limit: int
    refusals: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        create = on("create", PODS)
        self.world.host.fault(lambda request: create(request) and self.is_full(), status=403, message=QUOTA)

    def is_full(self) -> bool:
        full = len(self.world.host.objects(PODS)) >= self.limit
        if full:
            self.refusals.append(clock())
        return full


@pytest.mark.parametrize(("refusal", "reason", "longest"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_told_once_tried_again_and_cleared(
    refusal: dict[str, Any], reason: str, longest: float, logs: list[EventDict]
) -> None:
    async with running() as world:
        assert world.syncer is not None
        rule = world.host.fault(on("create", PODS), **refusal)
        began = clock()
        world.virtual.create(pod("web"))
        await asyncio.sleep(240)
        assert warnings(world) == [(reason, "web")]
        (message,) = messages(world)
        assert "tried again" in message
        assert "system:" not in message
        assert condition(world, "PodScheduled") == ("False", reason)
        assert world.syncer.rows() == {("pods", "default/web"): "refused"}
        assert [entry["event"] for entry in logs].count("host.refused") == 1
        made = tries(world, began)
        assert len(made) < 240 / longest + 12
        assert max(later - earlier for earlier, later in pairwise(made)) <= longest
        rule.lift()
        await asyncio.sleep(longest)
        await world.settle()
        assert world.host_pod("web") is not None
        assert world.syncer.rows() == {}
        assert [entry["event"] for entry in logs].count("pair.recovered") == 1
        assert condition(world, "PodScheduled") is None
        assert sorted(event["type"] for event in world.virtual.objects(EVENTS)) == ["Normal", "Warning"]


@pytest.mark.parametrize("count", [1, 10, 300])
async def test_when_there_is_room_again_all_run_within_five_seconds_and_meanwhile_few_tries_are_made(count: int) -> None:
    async with running() as world:
        quota = Quota(world, 0)
        for number in range(count):
            world.virtual.create(pod(f"p{number}"))
        await asyncio.sleep(60)
        assert len(quota.refusals) < count * 1.2 + 60
        assert len(warnings(world)) == count
        quota.limit = count
        await asyncio.sleep(4)
        assert len(world.host.objects(PODS)) == count
        await world.settle()
        assert world.syncer is not None
        assert world.syncer.rows() == {}
        assert [condition(world, "PodScheduled", f"p{number}") for number in range(count)] == [None] * count


async def test_a_pod_that_goes_makes_room_for_the_next_and_no_crowd_comes_for_one_place() -> None:
    async with running() as world:
        quota = Quota(world, 3)
        for number in range(100):
            world.virtual.create(pod(f"p{number}"))
        await asyncio.sleep(30)
        for _ in range(5):
            quota.refusals.clear()
            gone = world.host.objects(PODS)[0]
            world.virtual.remove(PODS, Key("default", gone["metadata"]["annotations"]["vcluster.loft.sh/object-name"]))
            await asyncio.sleep(5)
            assert len(world.host.objects(PODS)) == 3
            assert len(quota.refusals) < 20


async def test_what_asks_for_too_much_holds_up_nobody_who_asks_for_less() -> None:
    """As the quota says which amount it refused, those who ask for less are a group of their own."""
    async with running() as world:
        free = [0]

        def amount(request: Request) -> int:
            return int(request.body["spec"]["containers"][0]["resources"]["requests"]["cpu"])

        create = on("create", PODS)
        for size in (1, 64):
            message = f"exceeded quota: compute, requested: requests.cpu={size}, used: requests.cpu=0, limited: requests.cpu=1"
            world.host.fault(
                lambda request, size=size: create(request) and amount(request) == size > free[0],  # type: ignore[misc]  # mypy takes the default for an argument
                status=403,
                message=f'pods "x" is forbidden: {message}',
            )
        for number in range(60):
            size = 1 if number == 40 else 64
            container = {"name": "app", "image": "a", "resources": {"requests": {"cpu": str(size)}}}
            world.virtual.create(pod(f"p{number}", containers=[container]))
        await asyncio.sleep(60)
        free[0] = 1
        await asyncio.sleep(4)
        assert world.host_pod("p40") is not None
        assert len(world.host.objects(PODS)) == 1


async def test_a_refused_pod_that_the_tenant_mends_is_tried_at_once() -> None:
    async with running() as world:
        create = on("create", PODS)
        world.host.fault(lambda request: create(request) and "team" not in labels_of(request.body), status=403, message="no label team")
        world.virtual.create(pod("web"))
        world.virtual.create(pod("other"))
        await asyncio.sleep(120)
        world.virtual.change(PODS, Key("default", "web"), {"metadata": {"labels": {"team": "a"}}})
        await asyncio.sleep(0.5)
        assert world.host_pod("web") is not None
        assert world.host_pod("other") is None


async def test_a_successor_of_a_refused_pod_is_told_too() -> None:
    async with running() as world:
        world.host.fault(on("create", PODS), status=403, message=QUOTA)
        for _ in range(2):
            world.virtual.create(pod("web"))
            await asyncio.sleep(5)
            assert condition(world, "PodScheduled") == ("False", "ExceededQuota")
            world.virtual.remove(PODS, Key("default", "web"))
        assert len(warnings(world)) == 2


async def test_a_restart_forgets_no_condition_and_tells_when_it_is_over() -> None:
    async with running() as world:
        rule = world.host.fault(on("create", PODS), status=403, message=QUOTA)
        world.virtual.create(pod("web"))
        await asyncio.sleep(5)
        await world.kill()
        rule.lift()
        await world.start()
        await world.settle()
        assert world.host_pod("web") is not None
        assert condition(world, "PodScheduled") is None
        assert [event["reason"] for event in world.virtual.objects(EVENTS) if event["type"] == "Normal"] == ["Synced"]


async def test_refused_pods_that_are_deleted_leave_nothing_behind() -> None:
    async with running() as world:
        assert world.syncer is not None
        quota = Quota(world, 0)
        for number in range(50):
            world.virtual.create(pod(f"p{number}"))
        await asyncio.sleep(30)
        quota.refusals.clear()
        for number in range(50):
            world.virtual.remove(PODS, Key("default", f"p{number}"))
        await asyncio.sleep(30)
        assert len(quota.refusals) < 5
        assert world.syncer.rows() == {}
        assert [loop.refusals() for loop in world.syncer.engine.loops if loop.refusals()] == []


async def test_a_refused_patch_holds_up_neither_status_nor_other_patches() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(pod("web"))
        await world.settle()
        world.run_pods()
        await world.settle()
        patch = on("patch", PODS)
        world.host.fault(lambda request: patch(request) and "labels" in request.body["metadata"], status=400, message=DENIED)
        change = {"metadata": {"labels": {"a": "b"}}, "spec": {"activeDeadlineSeconds": 100}}
        world.virtual.change(PODS, Key("default", "web"), change)
        await asyncio.sleep(10)
        assert condition(world, CONDITION) == ("False", "AdmissionDenied")
        assert condition(world, "PodScheduled") == ("True", "")
        host = world.host_pod("web")
        assert host is not None
        assert host["spec"]["activeDeadlineSeconds"] == 100
        world.host.change(PODS, key_of(host), {"status": {"message": "still here"}})
        await asyncio.sleep(1)
        virtual = world.virtual_pod("web")
        assert virtual is not None
        assert virtual["status"]["message"] == "still here"
        assert condition(world, CONDITION) == ("False", "AdmissionDenied")
        world.virtual.change(PODS, Key("default", "web"), {"metadata": {"labels": None}})
        await world.settle()
        assert condition(world, CONDITION) is None
        assert world.syncer.rows() == {}


async def test_the_operator_reads_which_right_is_missing_and_the_tenant_does_not(logs: list[EventDict]) -> None:
    async with running() as world:
        message = 'pods "x" is forbidden: User "system:serviceaccount:host-ns:syncer" cannot create resource "pods" in API group ""'
        world.host.fault(on("create", PODS), status=403, message=message)
        for number in range(20):
            world.virtual.create(pod(f"p{number}"))
        await asyncio.sleep(60)
        told = [entry for entry in logs if entry["event"] == "right.missing"]
        assert [(entry["verb"], entry["resource"]) for entry in told] == [("create", "pods")]
        assert [text for text in messages(world) if "syncer:" in text or "host-ns" in text] == []
        assert len(tries(world, clock() - 30)) < 10


async def test_one_who_waits_no_more_is_subscribed_no_more() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.host.fault(on("create", CONFIGMAPS), status=403, message=QUOTA)
        world.virtual.create(named("ConfigMap", "settings"))
        for number in range(5):
            world.virtual.create(pod(f"p{number}", configmap="settings"))
        await asyncio.sleep(10)
        assert world.syncer.engine._subscribers
        for number in range(5):
            world.virtual.remove(PODS, Key("default", f"p{number}"))
        await asyncio.sleep(10)
        assert world.syncer.engine._subscribers == {}


async def test_a_refusal_that_passes_at_once_is_told_to_nobody() -> None:
    async with running() as world:
        world.host.fault(on("create", PODS), status=403, message=QUOTA, times=3)
        world.virtual.create(pod("web"))
        await world.settle()
        assert world.host_pod("web") is not None
        assert world.warnings() == []


async def test_a_refused_pod_that_the_tenant_takes_back_leaves_no_row_and_no_retries() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.host.fault(on("create", PODS), status=403, message=QUOTA)
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
        assert refused.hits >= 40
        await asyncio.sleep(20)
        assert len(tries(world, began)) < 40


async def test_a_refused_change_of_a_running_object_is_told_too() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(service("web"))
        await world.settle()
        rule = world.host.fault(on("patch", SERVICES), status=422, message="spec.ports[0].nodePort: provided port is already allocated")
        world.virtual.change(SERVICES, Key("default", "web"), {"spec": {"selector": {"app": "other"}}})
        await asyncio.sleep(20)
        assert ("Invalid", "web") in warnings(world)
        assert condition(world, CONDITION, resource=SERVICES) == ("False", "Invalid")
        assert world.syncer.rows() == {("services", "default/web"): "refused"}
        rule.lift()
        await asyncio.sleep(35)
        assert world.syncer.rows() == {}
        copy = world.host_copy(SERVICES, "web")
        assert copy is not None
        assert copy["spec"]["selector"]["app"] == "other"
        assert condition(world, CONDITION, resource=SERVICES) is None


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


async def test_what_is_waited_for_is_heard_while_the_condition_of_a_refusal_is_taken_back() -> None:
    async with running() as world:
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        refusal = world.host.fault(on("create", PODS), status=403, message=QUOTA)
        world.virtual.create(pod("web", configmap="settings"))
        await asyncio.sleep(10)
        assert condition(world, "PodScheduled") == ("False", "ExceededQuota")
        world.virtual.fault(on("patch", PODS, subresource="status"), delay=3.0)
        world.host.fault(on("create", CONFIGMAPS), delay=1.0)
        refusal.lift()
        began = clock()
        (copy,) = (obj for obj in world.host.objects(CONFIGMAPS) if obj["metadata"]["name"].startswith("settings"))
        world.host.remove(CONFIGMAPS, key_of(copy))
        await asyncio.sleep(30)
        assert world.host_pod("web") is not None
        (created,) = (at for at in tries(world, began))
        assert created - began < 10

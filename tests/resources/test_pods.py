from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import (
    PODS,
    Obj,
    Side,
)
from syncer.naming import ANNOTATION_UID
from syncer.resources import pods
from syncer.resources.pods.decision import STUCK_SECONDS
from syncer.sync.intents import Bind, Create, Delete, Patch, Refuse, Warn
from tests.resources.apply import NOW, World, told
from tests.resources.objects import HOST, deleting, named, pod
from tests.resources.pod_states import BOUND, HOST_WEB, LIVE, ON_NODE, RUNNING, WEB, merged, state

RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("nothing at all", None, None, []),
    # virtual only
    ("new: created on the host", {}, None, ["create host pods hostns/web-x-default-x-vc"]),
    ("new, with a node of its own choosing: created", ON_NODE, None, ["create host pods hostns/web-x-default-x-vc"]),
    ("Delete virtual pod: deleting without a host pod", merged(LIVE, deleting()), None, ["delete virtual pods default/web grace=0"]),
    ("host pod vanished while running", LIVE, None, ["delete virtual pods default/web grace=0 unexplained"]),
    ("host pod vanished after it was bound", BOUND, None, ["delete virtual pods default/web grace=0 unexplained"]),
    (
        "bound by a scheduler of the tenant's own: no proof of a host pod",
        merged(BOUND, {"spec": {"schedulerName": "mine"}}),
        None,
        ["create host pods hostns/web-x-default-x-vc"],
    ),
    ("finished, host pod collected: left alone", merged(LIVE, {"status": {"phase": "Succeeded"}}), None, []),
    ("failed, host pod collected: left alone", merged(LIVE, {"status": {"phase": "Failed"}}), None, []),
    (
        "finished and deleting without a host pod",
        merged(LIVE, {"status": {"phase": "Succeeded"}}, deleting()),
        None,
        ["delete virtual pods default/web grace=0"],
    ),
    (
        "a Job's pod vanished: deleted, and marked failed for its finalizer's owner",
        merged(LIVE, {"metadata": {"finalizers": ["batch.kubernetes.io/job-tracking"]}}),
        None,
        ["delete virtual pods default/web grace=0 unexplained", "patch virtual pods default/web status"],
    ),
    (
        "only a finalizer keeps it, and it is marked failed: nothing left to do",
        merged(LIVE, deleting(0), {"metadata": {"finalizers": ["x/y"]}, "status": {"phase": "Failed"}}),
        None,
        [],
    ),
    ("static pod's mirror", {"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}, None, ["refuse StaticPod"]),
    # both
    ("in sync", {}, {}, []),
    ("in sync, running", LIVE, LIVE, []),
    ("status up", ON_NODE, LIVE, ["patch virtual pods default/web status"]),
    ("scheduled: bound, then status", {}, LIVE, ["bind default/web n1", "patch virtual pods default/web status"]),
    (
        "scheduled to a node that the virtual cluster has not got yet: status does not wait",
        {},
        {"spec": {"nodeName": "n2"}, "status": RUNNING},
        ["patch virtual pods default/web status", "wait virtual nodes n2"],
    ),
    ("another node than the host's", {"spec": {"nodeName": "n0"}, "status": RUNNING}, LIVE, ["delete virtual pods default/web"]),
    ("bound in the virtual cluster, not scheduled on the host", ON_NODE, {}, []),
    (
        "labels down",
        merged(LIVE, {"metadata": {"labels": {"a": "b"}}}),
        merged(LIVE, {"metadata": {"annotations": {"vcluster.loft.sh/managed-labels": None}, "labels": {"a": None}}}),
        ["patch host pods hostns/web-x-default-x-vc metadata"],
    ),
    (
        "readiness gate condition down",
        {
            "spec": {"readinessGates": [{"conditionType": "x/ready"}]},
            "status": {"conditions": [{"type": "x/ready", "status": "True", "lastTransitionTime": "2027-01-15T07:00:00Z"}]},
        },
        {},
        ["patch host pods hostns/web-x-default-x-vc status"],
    ),
    # deletion
    ("virtual deleting", merged(LIVE, deleting(12)), LIVE, ["delete host pods hostns/web-x-default-x-vc grace=12"]),
    ("virtual deleted by force", merged(LIVE, deleting(0)), LIVE, ["delete host pods hostns/web-x-default-x-vc grace=1"]),
    (
        "virtual deleted by force, host still in its own",
        merged(LIVE, deleting(0)),
        merged(LIVE, deleting(7)),
        ["delete host pods hostns/web-x-default-x-vc grace=1"],
    ),
    ("virtual deleted by force, host has been told", merged(LIVE, deleting(0)), merged(LIVE, deleting(1)), []),
    ("virtual deleting, never bound: its grace period says nothing", deleting(0), {}, ["delete host pods hostns/web-x-default-x-vc"]),
    ("host deleting", LIVE, merged(LIVE, deleting(7)), ["delete virtual pods default/web grace=7"]),
    ("host deleting, no grace period on it", LIVE, merged(LIVE, deleting(None)), ["delete virtual pods default/web grace=30"]),
    ("both deleting, same grace period", merged(LIVE, deleting(7)), merged(LIVE, deleting(7)), []),
    (
        "both deleting, virtual's was shortened",
        merged(LIVE, deleting(1)),
        merged(LIVE, deleting(7)),
        ["delete host pods hostns/web-x-default-x-vc grace=1"],
    ),
    (
        "both deleting, host's was shortened",
        merged(LIVE, deleting(7)),
        merged(LIVE, deleting(1)),
        ["delete virtual pods default/web grace=1"],
    ),
    (
        "status goes up while both are deleting",
        merged(LIVE, deleting(7)),
        merged(LIVE, deleting(7), {"status": {"phase": "Failed"}}),
        ["patch virtual pods default/web status"],
    ),
    (
        "status goes up when the deletion is passed on",
        LIVE,
        merged(LIVE, deleting(7), {"status": {"reason": "Evicted"}}),
        ["patch virtual pods default/web status", "delete virtual pods default/web grace=7"],
    ),
    (
        "no metadata down while deleting",
        merged(LIVE, deleting(7), {"metadata": {"labels": {"late": "x"}}}),
        merged(LIVE, deleting(7), {"metadata": {"labels": {"late": None}}}),
        [],
    ),
    # host only
    ("host only", None, LIVE, ["delete host pods hostns/web-x-default-x-vc unexplained"]),
    ("host only, deleting", None, merged(LIVE, deleting()), [f"again {STUCK_SECONDS:g}"]),
    ("host only, only a finalizer keeps it", None, merged(LIVE, deleting(0), {"metadata": {"finalizers": ["x/y"]}}), []),
    # a predecessor's
    (
        "host pod of an earlier pod",
        {},
        merged(LIVE, {"metadata": {"annotations": {ANNOTATION_UID: "uid-before"}}}),
        ["delete host pods hostns/web-x-default-x-vc unexplained", "wait host pods hostns/web-x-default-x-vc"],
    ),
    (
        "host pod of an earlier pod, deleting",
        {},
        merged(LIVE, deleting(), {"metadata": {"annotations": {ANNOTATION_UID: "uid-before"}}}),
        [f"again {STUCK_SECONDS:g}", "wait host pods hostns/web-x-default-x-vc"],
    ),
    (
        "host pod of an earlier pod, and the new one is being deleted",
        deleting(),
        merged(LIVE, deleting(0), {"metadata": {"finalizers": ["x/y"], "annotations": {ANNOTATION_UID: "uid-before"}}}),
        ["delete virtual pods default/web grace=0"],
    ),
]


@pytest.mark.parametrize(("virtual", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(virtual: Obj | None, host: Obj | None, expected: list[str]) -> None:
    assert told(state(virtual, host).decide(pods.SPEC, WEB)) == expected


@pytest.mark.parametrize(("virtual", "host"), [rule[1:3] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_every_state_settles(virtual: Obj | None, host: Obj | None) -> None:
    state(virtual, host).settle(pods.SPEC, WEB)


def test_a_stuck_host_pod_is_removed_by_force_once_nothing_waits_for_it() -> None:
    world = state(None, merged(LIVE, deleting()))
    world.now = NOW + STUCK_SECONDS
    assert told(world.decide(pods.SPEC, WEB)) == ["delete host pods hostns/web-x-default-x-vc grace=0 unexplained"]
    world.settle(pods.SPEC, WEB)
    assert world.get(Side.HOST, PODS, HOST_WEB) is None


def test_a_stuck_predecessor_does_not_hold_its_successor_up_for_ever() -> None:
    world = state({}, merged(LIVE, deleting(), {"metadata": {"annotations": {ANNOTATION_UID: "uid-before"}}}))
    world.now = NOW + STUCK_SECONDS
    assert world.settle(pods.SPEC, WEB) == []
    host = world.get(Side.HOST, PODS, HOST_WEB)
    assert host is not None
    assert host["metadata"]["annotations"][ANNOTATION_UID] == "uid-web"


def test_a_pod_of_another_owner_under_our_name_is_no_pair() -> None:
    world = state({}, None)
    world.put(Side.HOST, PODS, named(HOST_WEB.name, HOST, spec={}))
    assert told(world.decide(pods.SPEC, WEB)) == [f"create host pods {HOST_WEB}"]  # which the executor refuses: the name is taken


def test_a_status_field_that_went_away_is_removed() -> None:
    world = state(merged(ON_NODE, {"status": {**RUNNING, "nominatedNodeName": "n1", "message": "x"}}), LIVE)
    (patch,) = world.decide(pods.SPEC, WEB)
    assert isinstance(patch, Patch)
    assert patch.body == {"status": {"message": None, "nominatedNodeName": None}}


def test_injected_sidecars_do_not_show() -> None:
    statuses = [{"name": "app", "ready": True}, {"name": "istio-proxy", "ready": True}]
    world = state(ON_NODE, merged(LIVE, {"status": {"containerStatuses": statuses}}))
    (patch,) = world.decide(pods.SPEC, WEB)
    assert isinstance(patch, Patch)
    assert patch.body["status"]["containerStatuses"] == statuses[:1]


def test_an_image_change_goes_down_and_leaves_injected_containers_alone() -> None:
    world = state(LIVE, LIVE)
    host = world.get(Side.HOST, PODS, HOST_WEB)
    virtual = world.get(Side.VIRTUAL, PODS, WEB)
    assert host is not None
    assert virtual is not None
    host["spec"]["containers"].append({"name": "istio-proxy", "image": "istio"})
    virtual["spec"]["containers"][0]["image"] = "nginx:2"
    world.settle(pods.SPEC, WEB)
    host = world.get(Side.HOST, PODS, HOST_WEB)
    assert host is not None
    assert [container["image"] for container in host["spec"]["containers"]] == ["nginx:2", "istio"]


def test_ephemeral_containers_are_added_through_their_subresource() -> None:
    world = state(LIVE, LIVE)
    virtual = world.get(Side.VIRTUAL, PODS, WEB)
    assert virtual is not None
    virtual["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "busybox"}]
    (patch,) = world.decide(pods.SPEC, WEB)
    assert isinstance(patch, Patch)
    assert (patch.subresource, patch.strategy) == ("ephemeralcontainers", "strategic")
    world.settle(pods.SPEC, WEB)
    host = world.get(Side.HOST, PODS, HOST_WEB)
    assert host is not None
    assert [container["name"] for container in host["spec"]["ephemeralContainers"]] == ["debug"]


SIZED = {"spec": {"containers": [{"name": "app", "image": "nginx", "resources": {"requests": {"cpu": "1"}}}]}}


def test_a_resize_goes_down_through_its_subresource_and_is_recorded_after_it() -> None:
    world = resized("2")
    assert told(world.decide(pods.SPEC, WEB)) == [f"patch host pods {HOST_WEB} resize", f"patch host pods {HOST_WEB} metadata"]
    world.settle(pods.SPEC, WEB)
    assert cpu(world) == "2"


def test_what_the_host_resized_stays() -> None:
    world = resized("1", on_host="4")
    assert world.settle(pods.SPEC, WEB) == []
    assert (cpu(world), world.log) == ("4", [])


def test_a_resize_that_the_host_happens_to_have_is_only_recorded() -> None:
    world = resized("2", on_host="2")
    assert told(world.decide(pods.SPEC, WEB)) == [f"patch host pods {HOST_WEB} metadata"]
    assert world.settle(pods.SPEC, WEB) == []


def resized(to: str, *, on_host: str = "1") -> World:
    """The tenant made a pod with one CPU, and gave it `to`; meanwhile the host gave it `on_host`."""
    world = state(merged(LIVE, SIZED), LIVE)
    for side, key, amount in ((Side.VIRTUAL, WEB, to), (Side.HOST, HOST_WEB, on_host)):
        pod_there = world.get(side, PODS, key)
        assert pod_there is not None
        pod_there["spec"]["containers"][0]["resources"] = {"requests": {"cpu": amount}}
    return world


def cpu(world: World) -> str:
    host = world.get(Side.HOST, PODS, HOST_WEB)
    assert host is not None
    amount: str = host["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    return amount


GATED = {
    "spec": {"readinessGates": [{"conditionType": "x/ready"}]},
    "status": {"conditions": [{"type": "x/ready", "status": "True", "lastTransitionTime": "2027-01-15T07:00:00Z"}]},
}
GROWN = {"spec": {"containers": [{"name": "app", "image": "nginx", "resources": {"requests": {"cpu": "2"}}}]}}
DEBUGGED = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]}}
LACKING: list[tuple[str, Obj, Obj, str]] = [
    ("resize", merged(LIVE, GROWN), SIZED, "its containers keep the resources that they have"),
    ("ephemeralcontainers", merged(LIVE, DEBUGGED), {}, "its new ephemeral containers do not run"),
    (
        "status",
        merged(LIVE, GATED),
        {"spec": GATED["spec"]},
        "the conditions of its readiness gates are not passed on, and it does not get ready",
    ),
]


@pytest.mark.parametrize(("subresource", "virtual", "before", "message"), LACKING, ids=[case[0] for case in LACKING])
def test_a_right_that_is_missing_is_told_and_not_tried(subresource: str, virtual: Obj, before: Obj, message: str) -> None:
    world = state(merged(LIVE, before), LIVE)
    world.put(Side.VIRTUAL, PODS, pod(virtual))
    right = f"pods/{subresource}"
    world.policy = replace(world.policy, lacking=frozenset({right}))
    (warning,) = world.settle(pods.SPEC, WEB)
    assert isinstance(warning, Warn)
    assert warning.message == f"{message}: the host cluster does not let the syncer patch {right}"
    assert [write for write in world.log if isinstance(write, Patch) and write.side is Side.HOST] == []


def test_a_refusal_says_why_without_host_names() -> None:
    (refusal,) = state({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}, None).decide(pods.SPEC, WEB)
    assert isinstance(refusal, Refuse)
    assert "static pod" in refusal.message
    assert HOST not in refusal.message


def test_the_whole_life_of_a_pod() -> None:
    world = state({}, None)
    world.settle(pods.SPEC, WEB)
    host = world.get(Side.HOST, PODS, HOST_WEB)
    assert host is not None
    host["spec"]["nodeName"] = "n1"
    host["status"] = deepcopy(RUNNING)
    world.settle(pods.SPEC, WEB)
    virtual = world.get(Side.VIRTUAL, PODS, WEB)
    assert virtual is not None
    assert (virtual["spec"]["nodeName"], virtual["status"]["phase"], virtual["status"]["podIP"]) == ("n1", "Running", "10.0.0.7")
    world.delete(Side.VIRTUAL, PODS, WEB, "uid-web")
    world.settle(pods.SPEC, WEB)
    assert host["metadata"]["deletionGracePeriodSeconds"] == 30
    del world.objects[Side.HOST, PODS][HOST_WEB]  # the kubelet confirms
    world.settle(pods.SPEC, WEB)
    assert world.get(Side.VIRTUAL, PODS, WEB) is None
    assert [type(write) for write in world.log] == [Create, Bind, Patch, Delete, Delete]


def at(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def deletion(grace: int, since: float) -> Obj:
    return {"deletionTimestamp": at(since + grace), "deletionGracePeriodSeconds": grace}


DELETIONS = st.none() | st.builds(deletion, st.sampled_from([0, 1, 30]), st.sampled_from([-90.0, 0.0]))
SIDES = st.fixed_dictionaries(
    {
        "node": st.sampled_from(["", "n1", "n2"]),
        "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
        "started": st.booleans(),
        "finalizer": st.booleans(),
        "deletion": DELETIONS,
        "labels": st.dictionaries(st.sampled_from(["a", "release"]), st.sampled_from(["x", "y"]), max_size=2),
        "image": st.sampled_from(["nginx", "nginx:2"]),
    }
)


def changes(side: dict[str, Any]) -> Obj:
    metadata: Obj = {"labels": side["labels"], **(side["deletion"] or {})}
    if side["finalizer"] or (side["deletion"] and side["deletion"]["deletionGracePeriodSeconds"] == 0):
        metadata["finalizers"] = ["x/y"]  # else an API server would not keep it
    status: Obj = {"phase": side["phase"], **({"startTime": "2027-01-15T07:00:00Z"} if side["started"] else {})}
    spec: Obj = {"containers": [{"name": "app", "image": side["image"]}], **({"nodeName": side["node"]} if side["node"] else {})}
    return {"metadata": metadata, "spec": spec, "status": status}


@given(virtual=st.none() | SIDES, host=st.none() | SIDES, predecessor=st.booleans(), waited=st.sampled_from([0.0, 10.0]))
def test_any_state_settles_and_stays(virtual: dict[str, Any] | None, host: dict[str, Any] | None, predecessor: bool, waited: float) -> None:
    world = state(None if virtual is None else changes(virtual), None if host is None else changes(host))
    if predecessor and (object_there := world.get(Side.HOST, PODS, HOST_WEB)) is not None:
        object_there["metadata"]["annotations"][ANNOTATION_UID] = "uid-before"
    world.settle(pods.SPEC, WEB, waited=waited)
    for write in world.log:
        if isinstance(write, Delete) and write.side is Side.VIRTUAL:
            assert write.key == WEB
        if isinstance(write, Create):
            assert virtual is not None, "a host pod without a virtual one"
            assert not virtual["started"], "a pod was started a second time"

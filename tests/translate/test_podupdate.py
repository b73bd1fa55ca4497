from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.naming import Names
from syncer.translate.downward import APPLIED, RESIZED, pod_annotations
from syncer.translate.merge import apply
from syncer.translate.podupdate import created_annotations, host_ephemeral_update, host_pod_update, host_resize, resize_record
from tests.fakes.patches import strategic

Call = Callable[..., Any]


def images(**by_name: str) -> Obj:
    return {"containers": [{"name": name, "image": image} for name, image in by_name.items()]}


def record(images: dict[str, str], *gates: str) -> str:
    return json.dumps({"images": images} | ({"gates": list(gates)} if gates else {}), separators=(",", ":"), sort_keys=True)


@pytest.fixture
def created(pod: Call, on_host: Call) -> Call:
    """The host pod as it was created for a virtual pod with this spec."""

    def create(**spec: Any) -> Obj:
        virtual = pod(**spec)
        return {"metadata": {"name": "h", "annotations": created_annotations(virtual)}, "spec": on_host(virtual)}

    return create


def test_created_annotations(pod: Call) -> None:
    virtual = pod(schedulingGates=[{"name": "g"}], initContainers=[{"name": "init", "image": "busybox"}])
    assert created_annotations(virtual) == {**pod_annotations(virtual), APPLIED: record({"app": "nginx:1", "init": "busybox"}, "g")}


FIELDS: list[tuple[Obj, Obj, Obj | None]] = [
    ({}, {}, None),
    ({"activeDeadlineSeconds": 9}, {"activeDeadlineSeconds": 9}, None),
    ({}, {"activeDeadlineSeconds": 9}, {"activeDeadlineSeconds": 9}),
    ({"activeDeadlineSeconds": 9}, {"activeDeadlineSeconds": 5}, {"activeDeadlineSeconds": 5}),
    ({"activeDeadlineSeconds": 5}, {"activeDeadlineSeconds": 9}, None),  # the host has a stricter one; it can only fall
    ({"activeDeadlineSeconds": 5}, {}, None),
    ({"terminationGracePeriodSeconds": 30}, {"terminationGracePeriodSeconds": 5}, None),
    ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "a"}]}, None),
    ({"tolerations": [{"key": "a"}]}, {"tolerations": []}, None),
    ({"tolerations": None}, {"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "a"}]}),
    (
        {"tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 300}, {"key": "h"}]},
        {"tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 30}, {"key": "b"}]},
        {"tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 30}, {"key": "h"}, {"key": "b"}]},
    ),
    ({"nodeSelector": {"a": "1"}}, {"nodeSelector": {"a": "1", "b": "2"}}, None),  # immutable, for the pod is not gated
]


@pytest.mark.parametrize(("then", "now", "spec"), FIELDS)
def test_fields(pod: Call, policy: Call, created: Call, then: Obj, now: Obj, spec: Obj | None) -> None:
    virtual, host = pod(**now), created(**then)
    before = copy.deepcopy((virtual, host))
    assert host_pod_update(policy(), virtual, host) == ({"spec": spec} if spec else None)
    assert (virtual, host) == before


@pytest.mark.parametrize(("then", "now", "spec"), FIELDS)
def test_a_patched_host_pod_needs_no_second_patch(pod: Call, policy: Call, created: Call, then: Obj, now: Obj, spec: Obj | None) -> None:
    host = created(**then)
    assert host_pod_update(policy(), pod(**now), strategic(host, host_pod_update(policy(), pod(**now), host) or {})) is None


def test_a_changed_image_is_passed_on_translated(pod: Call, policy: Call, created: Call) -> None:
    mirror = policy(translate_images={"nginx:2": "mirror/nginx:2"})
    host = created(**images(app="nginx:1", other="redis:1"), initContainers=[{"name": "init", "image": "busybox:1"}])
    virtual = pod(**images(app="nginx:2", other="redis:1"), initContainers=[{"name": "init", "image": "busybox:2"}])
    patch = host_pod_update(mirror, virtual, host)
    assert patch == {
        "spec": {
            "containers": [{"name": "app", "image": "mirror/nginx:2"}],
            "initContainers": [{"name": "init", "image": "busybox:2"}],
        },
        "metadata": {"annotations": {APPLIED: record({"app": "nginx:2", "other": "redis:1", "init": "busybox:2"})}},
    }
    assert host_pod_update(mirror, virtual, strategic(host, patch)) is None


def test_an_image_that_the_host_replaced_is_not_fought_over(pod: Call, policy: Call, created: Call) -> None:
    host = strategic(created(), {"spec": images(app="mirror/nginx:1", sidecar="istio:1")})
    assert host_pod_update(policy(), pod(), host) is None
    patch = host_pod_update(policy(), pod(**images(app="nginx:2")), host)
    assert patch is not None
    assert patch["spec"] == images(app="nginx:2")
    replaced_again = strategic(strategic(host, patch), {"spec": images(app="mirror/nginx:2")})
    assert host_pod_update(policy(), pod(**images(app="nginx:2")), replaced_again) is None


def test_back_and_forth(pod: Call, policy: Call, created: Call) -> None:
    host = created()
    for image in ("nginx:2", "nginx:1"):
        virtual = pod(**images(app=image))
        host = strategic(host, host_pod_update(policy(), virtual, host) or {})
        assert host["spec"]["containers"][0]["image"] == image
        assert host_pod_update(policy(), virtual, host) is None


@pytest.mark.parametrize("annotations", [None, {APPLIED: None}, {APPLIED: "{broken"}, {APPLIED: "[]"}])
def test_without_a_record_the_host_pod_itself_is_compared(pod: Call, policy: Call, created: Call, annotations: Any) -> None:
    host = created(schedulingGates=[{"name": "g"}])
    host["metadata"]["annotations"] = annotations
    assert host_pod_update(policy(), pod(schedulingGates=[{"name": "g"}]), host) is None
    patch = host_pod_update(policy(), pod(**images(app="nginx:2")), host)
    assert patch == {
        "spec": {**images(app="nginx:2"), "schedulingGates": [{"$patch": "delete", "name": "g"}]},
        "metadata": {"annotations": {APPLIED: record({"app": "nginx:2"})}},
    }


def test_scheduling_gates(pod: Call, policy: Call, created: Call) -> None:
    host = created(schedulingGates=[{"name": "a"}, {"name": "b"}])
    host["spec"]["schedulingGates"].append({"name": "kueue.x-k8s.io/admission"})  # the host's own stays
    patch = host_pod_update(policy(), pod(schedulingGates=[{"name": "b"}]), host)
    assert patch == {
        "spec": {"schedulingGates": [{"$patch": "delete", "name": "a"}]},
        "metadata": {"annotations": {APPLIED: record({"app": "nginx:1"}, "b")}},
    }
    assert host_pod_update(policy(), pod(), {"metadata": host["metadata"], "spec": {**host["spec"], "schedulingGates": []}}) is None


def test_a_gated_pod_may_still_be_directed(pod: Call, policy: Call, created: Call) -> None:
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    gates = [{"name": "g"}]
    host = created(schedulingGates=gates, nodeSelector={"a": "1"})
    virtual = pod(schedulingGates=gates, nodeSelector={"a": "1", "b": "2"}, affinity=affinity)
    patch = host_pod_update(policy(), virtual, host)
    assert patch == {"spec": {"nodeSelector": {"b": "2"}, "affinity": affinity}}
    assert host_pod_update(policy(), virtual, strategic(host, patch)) is None


def test_ephemeral_containers(pod: Call, policy: Call, names: Names, created: Call) -> None:
    def update(virtual: Obj, host: Obj) -> Obj | None:
        return host_ephemeral_update(names, policy(), virtual, host, api_address="10.1.0.1", services=())

    first, second = {"name": "d1", "image": "busybox"}, {"name": "d2", "image": "busybox"}
    host = created()
    assert update(pod(), host) is None
    patch = update(pod(ephemeralContainers=[first, second]), host)
    assert patch is not None
    assert [item["name"] for item in patch["spec"]["ephemeralContainers"]] == ["d1", "d2"]
    host = strategic(host, patch)
    assert update(pod(ephemeralContainers=[first, second]), host) is None
    third = {"name": "d3", "image": "busybox"}
    patch = update(pod(ephemeralContainers=[first, second, third]), host)
    assert patch is not None
    assert [item["name"] for item in patch["spec"]["ephemeralContainers"]] == ["d3"]


def sized(cpu: str | None = None, memory: str | None = None, /, **limits: str) -> Obj:
    requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    return {"containers": [{"name": "app", "image": "nginx:1", "resources": {"requests": requests, "limits": limits}}]}


def on_app(**resources: Obj) -> Obj:
    return {"spec": {"containers": [{"name": "app", "resources": resources}]}}


SMALL = sized("1", "1Gi", memory="2Gi")
RESIZES: list[tuple[str, Obj, Obj, Obj, Obj | None]] = [
    ("nothing changed", SMALL, {}, SMALL, None),
    ("more", SMALL, {}, sized("2", "1Gi", memory="3Gi"), on_app(requests={"cpu": "2"}, limits={"memory": "3Gi"})),
    ("a limit more", sized("1"), {}, sized("1", cpu="2"), on_app(limits={"cpu": "2"})),
    ("a limit less", sized("1", cpu="2"), {}, sized("1"), on_app(limits={"cpu": None})),
    ("the first ones", sized(), {}, sized("1"), on_app(requests={"cpu": "1"})),
    ("the host resized it, the tenant said nothing", SMALL, on_app(requests={"cpu": "4"}), SMALL, None),
    ("the host has defaults", sized(), on_app(requests={"cpu": "4"}), sized(), None),
    (
        "the host resized one thing, the tenant another",
        SMALL,
        on_app(requests={"cpu": "4"}),
        sized("1", "2Gi", memory="2Gi"),
        on_app(requests={"memory": "2Gi"}),
    ),
    (
        "both the same thing: the tenant's is younger",
        SMALL,
        on_app(requests={"cpu": "4"}),
        sized("2", "1Gi", memory="2Gi"),
        on_app(requests={"cpu": "2"}),
    ),
    ("the host happens to have it", SMALL, on_app(requests={"cpu": "2"}), sized("2", "1Gi", memory="2Gi"), None),
    (
        "a sidecar and the pod as a whole",
        {"initContainers": [{"name": "side", "resources": {"requests": {"cpu": "1"}}}], "resources": {"requests": {"cpu": "3"}}},
        {},
        {"initContainers": [{"name": "side", "resources": {"requests": {"cpu": "2"}}}], "resources": {"requests": {"cpu": "4"}}},
        {"spec": {"initContainers": [{"name": "side", "resources": {"requests": {"cpu": "2"}}}], "resources": {"requests": {"cpu": "4"}}}},
    ),
    (
        "claims of devices are no sizes",
        {},
        {},
        {"containers": [{"name": "app", "image": "nginx:1", "resources": {"claims": [{"name": "g"}]}}]},
        None,
    ),
    ("the host lacks the container", SMALL, {"spec": {"containers": [{"$patch": "delete", "name": "app"}]}}, sized("2"), None),
]


@pytest.mark.parametrize(("then", "host_change", "now", "expected"), [case[1:] for case in RESIZES], ids=[case[0] for case in RESIZES])
def test_a_resize(pod: Call, created: Call, then: Obj, host_change: Obj, now: Obj, expected: Obj | None) -> None:
    host = strategic(created(**then), host_change)
    before = copy.deepcopy(host)
    assert host_resize(pod(**now), host) == expected
    assert host == before
    host = strategic(host, expected or {})
    host = apply(host, resize_record(pod(**now), host) or {})
    assert host_resize(pod(**now), host) is None, "a second one"
    assert resize_record(pod(**now), host) is None


def test_resources_cost_an_annotation_only_where_there_are_some(pod: Call, created: Call) -> None:
    assert RESIZED not in created()["metadata"]["annotations"]
    assert RESIZED in created(**SMALL)["metadata"]["annotations"]
    assert resize_record(pod(), created()) is None


def test_there_and_back(pod: Call, created: Call) -> None:
    host = created(**SMALL)
    for now in (sized("2", "1Gi", memory="2Gi"), SMALL):
        patch = host_resize(pod(**now), host)
        assert patch is not None
        host = apply(strategic(host, patch), resize_record(pod(**now), host) or {})
        assert host["spec"]["containers"][0]["resources"] == now["containers"][0]["resources"]


def test_enforced_tolerations_are_added_to_pods_that_run(pod: Call, policy: Call, created: Call) -> None:
    enforcing = policy(enforced_tolerations=({"key": "dedicated", "operator": "Exists"},))
    host = created(tolerations=[{"key": "a"}])
    patch = host_pod_update(enforcing, pod(tolerations=[{"key": "a"}]), host)
    assert patch == {"spec": {"tolerations": [{"key": "a"}, {"key": "dedicated", "operator": "Exists"}]}}
    assert host_pod_update(enforcing, pod(tolerations=[{"key": "a"}]), strategic(host, patch)) is None


def test_a_gated_pod_is_not_directed_to_other_nodes_than_the_clusters(pod: Call, policy: Call, on_host: Call) -> None:
    enforcing = policy(node_selector="pool=blue")
    virtual = pod(schedulingGates=[{"name": "g"}])
    host = {"metadata": {"annotations": created_annotations(virtual)}, "spec": on_host(virtual, policy=enforcing)}
    assert host_pod_update(enforcing, virtual, host) is None
    virtual = pod(schedulingGates=[{"name": "g"}], nodeSelector={"pool": "red", "disk": "ssd"})
    assert host_pod_update(enforcing, virtual, host) == {"spec": {"nodeSelector": {"disk": "ssd"}}}

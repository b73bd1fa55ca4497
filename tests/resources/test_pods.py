from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import (
    CONFIGMAPS,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICES,
    Key,
    Obj,
    Ref,
    Side,
)
from syncer.naming import ANNOTATION_UID
from syncer.resources import pods
from syncer.resources.pods.decision import STUCK_SECONDS
from syncer.sync.intents import Bind, Create, Delete, Patch, Refuse, Wait, Warn
from syncer.translate.merge import apply
from tests.resources.apply import NAMES, NOW, World, told
from tests.resources.objects import DNS, HOST, deleting, host_marks, named, pod, ready_world

WEB = Key("default", "web")
HOST_WEB = Key(HOST, "web-x-default-x-vc")

RUNNING = {"phase": "Running", "qosClass": "BestEffort", "startTime": "2027-01-15T07:00:00Z", "podIP": "10.0.0.7"}
ON_NODE = {"spec": {"nodeName": "n1"}}
BOUND = {**ON_NODE, "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}
LIVE = {**ON_NODE, "status": RUNNING}


def merged(*changes: Obj) -> Obj:
    result: Obj = {}
    for change in changes:
        result = apply(result, change)
    return result


def created_host(virtual: Obj) -> Obj:
    """The host pod that a virtual one gets, as stored just after creation."""
    world = ready_world(pods.SPEC)
    world.put(Side.VIRTUAL, PODS, pod({"metadata": virtual["metadata"], "spec": {**virtual["spec"], "nodeName": None}}))
    world.settle(pods.SPEC, WEB)
    host = world.get(Side.HOST, PODS, HOST_WEB)
    assert host is not None
    return host


def state(virtual: Obj | None, host: Obj | None, *, nodes: tuple[str, ...] = ("n1",)) -> World:
    """`virtual` and `host` are changes to an ordinary pod and to its host pod; None: it is not there."""
    world = ready_world(pods.SPEC)
    for node in nodes:
        world.put(Side.VIRTUAL, NODES, {"metadata": {"name": node}})
    plain = pod({"spec": (virtual or {}).get("spec", {})} if virtual else {})
    if virtual is not None:
        world.put(Side.VIRTUAL, PODS, pod(virtual))
    if host is not None:
        world.put(Side.HOST, PODS, apply(created_host(plain), host))
    return world


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


class TestCreation:
    def world(self, changes: Obj | None = None) -> World:
        return state(changes or {}, None)

    def created(self, world: World) -> Obj:
        (create,) = world.decide(pods.SPEC, WEB)
        assert isinstance(create, Create)
        return create.obj

    def test_markers_owner_and_addresses(self) -> None:
        obj = self.created(self.world())
        assert obj["metadata"]["ownerReferences"] == [ready_world().policy.owner]
        assert obj["metadata"]["annotations"]["vcluster.loft.sh/object-uid"] == "uid-web"
        assert obj["spec"]["dnsConfig"]["nameservers"] == [DNS]
        assert "status" not in obj

    @pytest.mark.parametrize("spec", [{"ports": []}, {"clusterIP": "None"}, {"clusterIP": ""}], ids=["none yet", "headless", "empty"])
    def test_waits_for_the_address_of_the_virtual_api_server(self, spec: Obj) -> None:
        world = self.world()
        world.put(Side.HOST, SERVICES, named("vc", HOST, spec=spec))
        assert told(world.decide(pods.SPEC, WEB)) == ["wait host services hostns/vc"]

    def test_waits_for_dns(self) -> None:
        world = self.world()
        del world.objects[Side.HOST, SERVICES][Key(HOST, "kube-dns-x-vc")]
        copy = NAMES.host_key(Key("kube-system", "kube-dns"))
        assert told(world.decide(pods.SPEC, WEB)) == [f"wait host services hostns/kube-dns-x-vc host services {copy}"]

    @pytest.mark.parametrize("spec", [{"dnsPolicy": "Default"}, {"dnsPolicy": "None"}, {"hostNetwork": True}])
    def test_pods_that_do_not_use_dns_do_not_wait_for_it(self, spec: Obj) -> None:
        world = self.world({"spec": spec})
        del world.objects[Side.HOST, SERVICES][Key(HOST, "kube-dns-x-vc")]
        self.created(world)

    def test_a_copy_of_kube_dns_serves_when_no_service_was_made_for_it(self) -> None:
        world = self.world()
        del world.objects[Side.HOST, SERVICES][Key(HOST, "kube-dns-x-vc")]
        foreign = {"metadata": {**host_marks("Service", "kube-dns", "kube-system"), "labels": {}}, "spec": {"clusterIP": "10.96.0.66"}}
        world.put(Side.HOST, SERVICES, foreign)
        assert told(world.decide(pods.SPEC, WEB))[0].startswith("wait")
        world.put(Side.HOST, SERVICES, {"metadata": host_marks("Service", "kube-dns", "kube-system"), "spec": {"clusterIP": "10.96.0.66"}})
        assert self.created(world)["spec"]["dnsConfig"]["nameservers"] == ["10.96.0.66"]

    MOUNTING: Obj = {  # noqa: RUF012  never changed
        "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "configMap": {"name": "settings", "optional": True}},
                {"name": "b", "secret": {"secretName": "absent"}},
            ],
        }
    }

    def test_waits_for_copies_of_what_exists_and_not_for_what_does_not(self) -> None:
        world = self.world(self.MOUNTING)
        world.put(Side.VIRTUAL, CONFIGMAPS, named("settings"))
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        assert told(world.decide(pods.SPEC, WEB)) == [
            "wait host configmaps hostns/settings-x-default-x-vc host secrets hostns/pull-x-default-x-vc at most 5"
        ]
        world.put(Side.HOST, CONFIGMAPS, {"metadata": host_marks("ConfigMap", "settings")})
        world.put(Side.HOST, SECRETS, {"metadata": host_marks("Secret", "pull")})
        (create,) = world.decide(pods.SPEC, WEB)
        assert isinstance(create, Create)
        assert create.vacant == ((Ref(Side.HOST, SECRETS, Key(HOST, "absent-x-default-x-vc")), "absent"),)

    def test_says_so_when_it_waits_long_for_copies(self) -> None:
        world = self.world(self.MOUNTING)
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        (wait,) = told(world.decide(pods.SPEC, WEB, waited=4.9))
        assert wait.endswith("at most 5")
        assert told(world.decide(pods.SPEC, WEB, waited=5.0)) == ["warn NotCopied", "wait host secrets hostns/pull-x-default-x-vc"]

    def test_a_stranger_with_the_copys_name_is_not_the_copy(self) -> None:
        world = self.world(self.MOUNTING)
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        world.put(Side.HOST, SECRETS, {"metadata": {**host_marks("Secret", "pull"), "annotations": {}}})
        assert told(world.decide(pods.SPEC, WEB, waited=5.0))[0] == "warn NotCopied"

    CLAIMING: Obj = {  # noqa: RUF012  never changed
        "spec": {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "tmp", "ephemeral": {}}]}
    }
    OWNED: Obj = {"ownerReferences": [{"kind": "Pod", "name": "web", "uid": "uid-web", "controller": True}]}  # noqa: RUF012  never changed

    def claiming(self) -> World:
        world = self.world(self.CLAIMING)
        world.policy = replace(world.policy, synced=world.policy.synced | {PERSISTENT_VOLUME_CLAIMS})
        return world

    def test_waits_for_claims_whether_they_exist_or_not(self) -> None:
        world = self.claiming()
        on_host = [f"host persistentvolumeclaims hostns/{name}-x-default-x-vc" for name in ("data", "web-tmp")]
        both = " ".join([*on_host, *(f"virtual persistentvolumeclaims default/{name}" for name in ("data", "web-tmp"))])
        assert told(world.decide(pods.SPEC, WEB)) == [f"wait {both} at most 5"]
        for name in ("data", "web-tmp"):
            world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, {"metadata": host_marks("PersistentVolumeClaim", name)})
        assert told(world.decide(pods.SPEC, WEB)) == [f"wait {both} at most 5"], "what is there on the host is left from before"
        world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, named("data"))
        tmp = named("web-tmp")
        tmp["metadata"] |= self.OWNED
        world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, tmp)
        volumes = self.created(world)["spec"]["volumes"]
        assert [item["persistentVolumeClaim"]["claimName"] for item in volumes] == ["data-x-default-x-vc", "web-tmp-x-default-x-vc"]

    def test_an_ephemeral_volume_is_not_filled_with_another_claim(self) -> None:
        world = self.claiming()
        for name in ("data", "web-tmp"):
            world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, {"metadata": host_marks("PersistentVolumeClaim", name)})
            world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, named(name))
        warning, wait = world.decide(pods.SPEC, WEB, waited=5.0)
        assert isinstance(warning, Warn)
        assert warning.message == "not copied to the host yet: PersistentVolumeClaim web-tmp"
        assert isinstance(wait, Wait)

    def test_claims_that_are_not_synced_are_refused(self) -> None:
        (refusal,) = self.world(self.CLAIMING).decide(pods.SPEC, WEB)
        assert isinstance(refusal, Refuse)
        assert refusal.message == "it uses PersistentVolumeClaim data, web-tmp, but claims are not synced to the host cluster"

    SANDBOXED: Obj = {"spec": {"runtimeClassName": "gvisor"}}  # noqa: RUF012  never changed

    def test_waits_for_the_runtime_class(self) -> None:
        world = self.world(self.SANDBOXED)
        assert told(world.decide(pods.SPEC, WEB)) == ["warn NoRuntimeClass", "wait host runtimeclasses gvisor"]
        world.put(Side.HOST, RUNTIME_CLASSES, {"metadata": {"name": "gvisor"}})
        assert self.created(world)["spec"]["runtimeClassName"] == "gvisor"

    def test_without_a_look_at_runtime_classes_the_host_decides(self) -> None:
        world = self.world(self.SANDBOXED)
        world.policy = replace(world.policy, lacking=frozenset({"runtimeclasses.node.k8s.io"}))
        assert self.created(world)["spec"]["runtimeClassName"] == "gvisor"

    @pytest.mark.parametrize(("name", "passes"), [("high", True), ("low", False), ("system-node-critical", False)])
    def test_priority_classes(self, name: str, passes: bool) -> None:
        world = self.world({"spec": {"priorityClassName": name, "priority": 7, "preemptionPolicy": "Never"}})
        for on_host in ("high", "system-node-critical"):
            world.put(Side.HOST, PRIORITY_CLASSES, {"metadata": {"name": on_host}})
        spec = self.created(world)["spec"]
        assert spec.get("priorityClassName") == (name if passes else None)
        assert not {"priority", "preemptionPolicy"} & spec.keys()

    def test_does_not_wait_for_copies_that_are_not_synced(self) -> None:
        world = self.world(self.MOUNTING)
        world.policy = replace(world.policy, synced=frozenset({CONFIGMAPS}))
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        self.created(world)

    def test_services_of_the_namespace_become_variables(self) -> None:
        world = self.world()
        world.put(Side.VIRTUAL, SERVICES, named("db", spec={"clusterIP": "10.96.1.1", "ports": [{"port": 5432}]}))
        world.put(Side.VIRTUAL, SERVICES, named("other", "shop", spec={"clusterIP": "10.96.1.2", "ports": [{"port": 1}]}))
        env = {item["name"]: item.get("value") for item in self.created(world)["spec"]["containers"][0]["env"]}
        assert env["DB_SERVICE_HOST"] == "10.96.1.1"
        assert "OTHER_SERVICE_HOST" not in env

    def test_variables_of_an_envfrom_are_not_shadowed(self) -> None:
        world = self.world({"spec": {"containers": [{"name": "app", "image": "x", "envFrom": [{"configMapRef": {"name": "settings"}}]}]}})
        world.put(Side.VIRTUAL, CONFIGMAPS, named("settings"))
        world.put(Side.VIRTUAL, SERVICES, named("db", spec={"clusterIP": "10.96.1.1", "ports": [{"port": 5432}]}))
        world.put(Side.HOST, CONFIGMAPS, {"metadata": host_marks("ConfigMap", "settings"), "data": {"DB_SERVICE_HOST": "mine"}})
        names = {item["name"] for item in self.created(world)["spec"]["containers"][0].get("env", ())}
        assert "DB_SERVICE_HOST" not in names
        assert "DB_SERVICE_PORT" in names

    SELECTORS: list[tuple[Obj, list[str]]] = [  # noqa: RUF012  never changed
        ({"matchLabels": {"team": "a"}}, ["a1", "a2"]),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["b"]}]}, ["b1"]),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, ["b1", "default", "kube-system", "shop"]),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, ["a1", "a2", "b1"]),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, ["default", "kube-system", "shop"]),
        ({"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "x", "operator": "Unheard"}]}, []),
    ]

    @pytest.mark.parametrize(("selector", "expected"), SELECTORS)
    def test_affinity_to_namespaces_by_label(self, selector: Obj, expected: list[str]) -> None:
        term = {"topologyKey": "zone", "labelSelector": {}, "namespaceSelector": selector}
        world = self.world({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
        for name, team in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            world.put(Side.VIRTUAL, NAMESPACES, {"metadata": {"name": name, "labels": {"team": team}}})
        on_host = self.created(world)["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
        told_namespaces = {
            tuple(e.get("values", ())) for e in on_host["labelSelector"].get("matchExpressions", ()) if e["operator"] == "In"
        } | {(value,) for key, value in on_host["labelSelector"]["matchLabels"].items() if key == "vcluster.loft.sh/namespace"}
        assert told_namespaces == ({tuple(expected)} if expected else set())

    def test_tells_the_host_who_controls_the_pod(self) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "u", "controller": True}
        annotations = self.created(self.world({"metadata": {"ownerReferences": [owner]}}))["metadata"]["annotations"]
        assert annotations["vcluster.loft.sh/owner-set-kind"] == "DaemonSet"
        assert annotations["cluster-autoscaler.kubernetes.io/daemonset-pod"] == "true"
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"

    def test_what_the_tenant_tells_the_autoscaler_stands(self) -> None:
        said = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
        world = self.world({"metadata": {"ownerReferences": [owner], "annotations": said}})
        assert self.created(world)["metadata"]["annotations"].items() >= said.items()


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

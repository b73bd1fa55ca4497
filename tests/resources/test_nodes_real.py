"""Real nodes: which are shown, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from syncer.kube.types import LEASES, NODES, PODS, Key, Obj, Side
from syncer.resources import nodes
from syncer.resources.nodes.leases import RENEWAL_SECONDS
from syncer.sync.intents import Again, Create, Patch
from syncer.translate.merge import apply
from syncer.translate.nodes import HEARTBEAT_SECONDS
from tests.resources.apply import NOW, POLICY, World, told
from tests.resources.objects import deleting, host_marks, pod, ready_world

N1 = Key("", "n1")
LEASE = Key("kube-node-lease", "n1")
ON_NODE: Obj = {"spec": {"nodeName": "n1"}}
DAEMON: Obj = {"metadata": {"ownerReferences": [{"kind": "DaemonSet", "name": "d", "uid": "u", "controller": True}]}}
CREATE, DELETE, GONE = "create virtual nodes n1", "delete virtual nodes n1", "delete virtual nodes n1 unexplained"
ALL: Any = {"sync_all_nodes": True}
POOL: Any = {"node_selector": "pool=a"}
UNION: Any = {**POOL, "enforce_node_selector": False}
AT = "2027-01-15T08:00:00Z"


def host_node(changes: Obj | None = None) -> Obj:
    conditions = [
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": AT, "lastTransitionTime": AT},
        {"type": "DiskPressure", "status": "False", "reason": "Fine", "lastHeartbeatTime": AT, "lastTransitionTime": AT},
    ]
    base: Obj = {
        "metadata": {"name": "n1", "uid": "host-n1", "labels": {"kubernetes.io/hostname": "n1", "pool": "a"}},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"], "providerID": "kind://n1"},
        "status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3"}, "conditions": conditions, "nodeInfo": {"kubeletVersion": "v1"}},
    }
    changed: Obj = apply(base, changes or {})
    return changed


def world_of(
    host: Obj | None, node: Obj | None = None, *, flags: Any = ALL, policy: Any = None, virtual: Any = (), pods: Any = ()
) -> World:
    """`host` and `node` are changes to the host's node and to the Node that shows it as it is without them; None: it is not there."""
    world = ready_world(nodes.REAL)
    world.policy = replace(POLICY, **ALL)
    if node is not None:
        put_host(world, {})
        world.settle(nodes.REAL, N1)
        shown = world.get(Side.VIRTUAL, NODES, N1)
        assert shown is not None
        world.put(Side.VIRTUAL, NODES, apply(shown, node))
        del world.objects[Side.HOST, NODES][N1]
    world.policy = replace(POLICY, **flags, **(policy or {}))
    if host is not None:
        put_host(world, host)
    for number, change in enumerate(virtual):
        world.put(Side.VIRTUAL, PODS, apply(pod(ON_NODE, f"p{number}"), change))
    for number, change in enumerate(pods):
        world.put(Side.HOST, PODS, apply({"metadata": host_marks("Pod", f"p{number}"), **ON_NODE}, change))
    world.log.clear()
    return world


def put_host(world: World, changes: Obj) -> None:
    """As the watch keeps it."""
    (watch,) = [watch for watch in nodes.REAL.watches if watch.slim is not None]
    assert watch.slim is not None
    kept = watch.slim(host_node(changes), world.view())
    assert kept is not None
    world.put(Side.HOST, NODES, kept)


def shown(world: World) -> Obj:
    world.settle(nodes.REAL, N1)
    node = world.get(Side.VIRTUAL, NODES, N1)
    assert node is not None
    return node


OTHER_POOL = {"metadata": {"labels": {"pool": "b"}}}
FOREIGN = {"metadata": {"annotations": {"vcluster.loft.sh/managed-by": None}}}
WHICH: list[tuple[str, Any, Obj | None, Obj | None, list[Obj], list[str]]] = [
    ("unused", {}, {}, None, [], []),
    ("used", {}, {}, None, [{}], [CREATE]),
    ("used by a DaemonSet alone", {}, {}, None, [DAEMON], []),
    ("not used any more", {}, {}, {}, [], [DELETE]),
    ("in use", {}, {}, {}, [{}], []),
    ("all", ALL, {}, None, [], [CREATE]),
    ("all, and not used any more", ALL, {}, {}, [], []),
    ("selected", POOL, {}, None, [], [CREATE]),
    ("not selected", POOL, OTHER_POOL, None, [], []),
    ("not selected, all", {**POOL, **ALL}, OTHER_POOL, None, [], []),
    ("not selected, but used: it could not be", POOL, OTHER_POOL, None, [{}], []),
    ("not selected any more", POOL, OTHER_POOL, {}, [], [DELETE]),
    ("not selected any more, but its pods go on", POOL, OTHER_POOL, {}, [{}], ["patch virtual nodes n1 metadata"]),
    ("neither selected nor used", UNION, OTHER_POOL, None, [], []),
    ("not selected, but used", UNION, OTHER_POOL, None, [{}], [CREATE]),
    ("selected, not used", UNION, {}, None, [], [CREATE]),
    ("selected by an expression", {"node_selector": "pool notin (b), !gone"}, {}, None, [], [CREATE]),
    ("not on the host", ALL, None, None, [{}], []),
    ("gone from the host", ALL, None, {}, [], [GONE]),
    ("gone from the host with its pods", {}, None, {}, [{}], [GONE]),
    ("another of that name", ALL, {"metadata": {"uid": "another"}}, {}, [], [DELETE]),
    ("being deleted", ALL, None, deleting(None), [], []),
    ("the tenant's own, of that name", ALL, {}, FOREIGN, [], []),
    ("the tenant's own, not on the host", ALL, None, FOREIGN, [], []),
    ("of another virtual cluster", ALL, None, {"metadata": {"annotations": {"vcluster.loft.sh/managed-by": "x"}}}, [], []),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "host", "node", "virtual", "expected"), [case[1:] for case in WHICH], ids=[case[0] for case in WHICH])
def test_which_nodes_are_shown(flags: Any, host: Obj | None, node: Obj | None, virtual: list[Obj], expected: list[str]) -> None:
    world = world_of(host, node, flags=flags, virtual=virtual)
    assert told(world.decide(nodes.REAL, N1)) == expected
    world.settle(nodes.REAL, N1)


TAINT, TENANTS = {"key": "k", "value": "v", "effect": "NoSchedule"}, {"key": "own", "effect": "NoExecute"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
ALMOST = [{**TAINT, "value": "w"}, {**TAINT, "effect": "NoExecute"}]
DOWN = {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}}
DEDICATED = {"enforced_tolerations": ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"},)}
EVERYTHING = {"enforced_tolerations": ({"operator": "Exists"},)}
TAINTS: list[tuple[str, Any, list[Obj], list[Obj], Obj, list[Obj]]] = [
    ("the host's", {}, [], [TAINT], {}, [TAINT]),
    ("the tenant's", {}, [TENANTS], [], {}, [TENANTS]),
    ("both", {}, [TENANTS], [TAINT], {}, [TAINT, TENANTS]),
    ("changed on the host", {}, [{**TAINT, "value": "old"}], [TAINT], {}, [TAINT]),
    ("the API server's, on a new Node", {}, [NOT_READY], [], {}, []),
    ("a node controller's, of a node that is well", {}, [{**NOT_READY, "key": "node.kubernetes.io/unreachable"}], [], {}, []),
    ("a node controller's, of a node that is down", {}, [NOT_READY], [], DOWN, [NOT_READY]),
    ("the host's, of a node that is down", {}, [], [NOT_READY], DOWN, [NOT_READY]),
    ("tolerated by every pod", DEDICATED, [], [TAINT], {}, []),
    ("not quite tolerated", DEDICATED, [], ALMOST, {}, ALMOST),
    ("all tolerated", EVERYTHING, [TENANTS], [TAINT, NOT_READY], {}, [TENANTS]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "virtual", "host", "state", "expected"), [case[1:] for case in TAINTS], ids=[case[0] for case in TAINTS]
)
def test_taints(policy: Any, virtual: list[Obj], host: list[Obj], state: Obj, expected: list[Obj]) -> None:
    world = world_of({"spec": {"taints": host}, **state}, {"spec": {"taints": virtual}}, policy=policy)
    assert shown(world)["spec"].get("taints", []) == expected


def test_a_taint_that_the_host_drops_goes_and_the_tenants_stays() -> None:
    world = world_of({"spec": {"taints": [TAINT, {"key": "l", "effect": "NoSchedule"}]}})
    node = shown(world)
    world.put(Side.VIRTUAL, NODES, apply(node, {"spec": {"taints": [TENANTS, *node["spec"]["taints"]]}}))
    put_host(world, {"spec": {"taints": [{"key": "l", "effect": "NoSchedule"}]}})
    assert shown(world)["spec"]["taints"] == [{"key": "l", "effect": "NoSchedule"}, TENANTS]
    put_host(world, {})
    node = shown(world)
    assert node["spec"]["taints"] == [TENANTS]
    assert "vcluster.loft.sh/original-taints" not in node["metadata"]["annotations"]


def test_an_unreadable_record_of_taints_is_none() -> None:
    for record in ("x", "{}", "[1]", '["x"]', '["[]"]'):
        world = world_of({}, {"metadata": {"annotations": {"vcluster.loft.sh/original-taints": record}}, "spec": {"taints": [TENANTS]}})
        assert shown(world)["spec"]["taints"] == [TENANTS]


def test_labels_and_annotations_both_ways() -> None:
    world = world_of({"metadata": {"labels": {"rack": "7", "vcluster.loft.sh/managed-by": "outer"}, "annotations": {"team.io/x": "1"}}})
    node = shown(world)
    assert node["metadata"]["labels"] == {"kubernetes.io/hostname": "n1", "pool": "a", "rack": "7"}
    assert node["metadata"]["annotations"]["team.io/x"] == "1"
    tenants = {"metadata": {"labels": {"own": "1", "rack": "8"}, "annotations": {"own": "2", "team.io/x": None}}}
    world.put(Side.VIRTUAL, NODES, apply(node, tenants))
    node = shown(world)
    assert node["metadata"]["labels"] == {"kubernetes.io/hostname": "n1", "pool": "a", "rack": "7", "own": "1"}
    assert (node["metadata"]["annotations"]["own"], node["metadata"]["annotations"]["team.io/x"]) == ("2", "1")
    put_host(world, {"metadata": {"labels": {"pool": None}}})
    node = shown(world)
    assert node["metadata"]["labels"] == {"kubernetes.io/hostname": "n1", "own": "1"}
    assert "team.io/x" not in node["metadata"]["annotations"]
    assert node["metadata"]["annotations"]["own"] == "2"


@pytest.mark.parametrize(
    "key",
    [
        "csi.volume.kubernetes.io/nodeid", "kubeadm.alpha.kubernetes.io/cri-socket", "projectcalico.org/IPv4Address",
        "management.cattle.io/pod-requests", "flannel.alpha.coreos.com/public-ip", "k3s.io/node-args", "cluster.x-k8s.io/machine",
        "io.cilium.network.ipv4-pod-cidr", "vcluster.loft.sh/managed-by", "kubectl.kubernetes.io/last-applied-configuration",
    ],
)  # fmt: skip
def test_annotations_of_the_hosts_machinery_stay_there(key: str) -> None:
    node = shown(world_of({"metadata": {"annotations": {key: "secret", "example.com/kubernetes.io": "shown"}}}))
    assert "secret" not in node["metadata"]["annotations"].values()
    assert node["metadata"]["annotations"]["example.com/kubernetes.io"] == "shown"


def test_volumes_of_the_node_stay_on_the_host() -> None:
    node = shown(world_of({"status": {"volumesInUse": ["v"], "volumesAttached": [{"name": "v"}], "somethingNew": {"a": 1}}}))
    assert not {"volumesInUse", "volumesAttached"} & set(node["status"])
    assert node["status"]["somethingNew"] == {"a": 1}


NGINX = {"names": ["docker.io/library/nginx@sha256:1", "docker.io/library/nginx:1", "registry.example/project-x:1"]}
SECRET = {"names": ["registry.example/secret:1"]}
STARTED = {
    "status": {"containerStatuses": [{"name": "app", "image": "docker.io/library/nginx:1", "imageID": "docker.io/library/nginx@sha256:1"}]}
}


@pytest.mark.parametrize(
    ("policy", "pods", "expected"),
    [
        pytest.param({}, [], [], id="nobody's business"),
        pytest.param({}, [STARTED], NGINX["names"][:2], id="those of our own pods, by their names"),
        pytest.param({}, [{"spec": {"containers": [{"image": SECRET["names"][0]}]}}], SECRET["names"], id="not started yet"),
        pytest.param({"clear_node_images": True}, [STARTED], [], id="cleared"),
        pytest.param({}, [{**STARTED, "spec": {"nodeName": "n2"}}], [], id="of a pod on another node"),
    ],
)
def test_images(policy: Any, pods: list[Obj], expected: list[str]) -> None:
    world = world_of({"status": {"images": [NGINX, SECRET]}}, policy=policy, pods=pods)
    assert [name for image in shown(world)["status"].get("images", []) for name in image["names"]] == expected


def test_a_new_node_has_no_null() -> None:
    (create,) = world_of({}).decide(nodes.REAL, N1)
    assert isinstance(create, Create)
    assert None not in create.obj["metadata"]["annotations"].values()
    assert None not in create.obj["spec"].values()


def test_a_cordon_is_the_hosts() -> None:
    world = world_of({"spec": {"unschedulable": True}}, {})
    assert told(world.decide(nodes.REAL, N1)) == ["patch virtual nodes n1 metadata+spec"]
    assert shown(world)["spec"]["unschedulable"] is True
    put_host(world, {})
    assert "unschedulable" not in shown(world)["spec"]


def test_what_cannot_change_is_set_once() -> None:
    world = world_of({"spec": {"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24"], "providerID": "other"}}, {})
    assert told(world.settle(nodes.REAL, N1)) == []
    assert shown(world)["spec"]["providerID"] == "kind://n1"


def beat(seconds: float) -> Obj:
    at = f"2027-01-15T08:{int(seconds) // 60:02}:{int(seconds) % 60:02}Z"
    return {"status": {"conditions": [{**item, "lastHeartbeatTime": at} for item in host_node()["status"]["conditions"]]}}


def test_heartbeats_alone_are_written_every_few_minutes() -> None:
    world = world_of({}, {})
    writes = []
    for seconds in range(10, 1810, 10):
        put_host(world, beat(seconds))
        before = len(world.log)
        world.settle(nodes.REAL, N1)
        writes += [seconds] * (len(world.log) - before)
    assert writes == [300, 600, 900, 1200, 1500, 1800]
    assert HEARTBEAT_SECONDS == 300


def test_a_change_is_written_at_once_heartbeats_and_all() -> None:
    world = world_of({}, {})
    host = beat(70)
    host["status"]["conditions"][0] |= {"status": "False", "reason": "KubeletNotReady"}
    put_host(world, host)
    assert told(world.decide(nodes.REAL, N1)) == ["patch virtual nodes n1 status"]
    assert shown(world)["status"]["conditions"] == host["status"]["conditions"]


def test_conditions_of_the_tenant_stay_and_those_that_the_host_drops_go() -> None:
    world = world_of({})
    node = shown(world)
    own = {"type": "Own", "status": "True", "lastHeartbeatTime": "2027-01-15T09:00:00Z"}
    world.put(Side.VIRTUAL, NODES, apply(node, {"status": {"conditions": [own, *node["status"]["conditions"]]}}))
    assert told(world.settle(nodes.REAL, N1)) == []
    put_host(world, {"status": {"conditions": host_node()["status"]["conditions"][:1]}})
    assert [item["type"] for item in shown(world)["status"]["conditions"]] == ["Ready", "Own"]
    put_host(world, beat(400))
    assert shown(world)["status"]["conditions"][0]["lastHeartbeatTime"] == "2027-01-15T08:06:40Z", "another's heartbeat is no excuse"


def test_fields_that_the_virtual_api_server_does_not_know_are_not_sent_for_ever() -> None:
    world = world_of({"status": {"runtimeHandlers": [{"name": "runc"}], "nodeInfo": {"kubeletVersion": "v1", "swap": {"capacity": 1}}}})
    (create,) = world.decide(nodes.REAL, N1)
    assert isinstance(create, Create)
    node = world.put(Side.VIRTUAL, NODES, create.obj)
    del node["status"]["runtimeHandlers"], node["status"]["nodeInfo"]["swap"]
    assert world.decide(nodes.REAL, N1) == []


def test_a_resource_that_is_gone_from_the_node_goes() -> None:
    world = world_of({"status": {"capacity": {"cpu": "4", "example.com/gpu": "1"}}})
    assert "example.com/gpu" in shown(world)["status"]["capacity"]
    put_host(world, {})
    assert shown(world)["status"]["capacity"] == {"cpu": "4"}


def test_a_made_up_node_becomes_a_real_one() -> None:
    world = ready_world(nodes.MADE_UP)
    world.put(Side.HOST, PODS, {"metadata": host_marks("Pod", "p0"), **ON_NODE})
    world.settle(nodes.MADE_UP, N1)
    uid = world.objects[Side.VIRTUAL, NODES][N1]["metadata"]["uid"]
    real = world_of({})
    real.objects[Side.VIRTUAL, NODES] = world.objects[Side.VIRTUAL, NODES]
    node = shown(real)
    assert node["metadata"]["uid"] == uid, "pods are bound to it"
    assert node["metadata"]["labels"] == host_node()["metadata"]["labels"]
    assert {field: node["status"][field] for field in host_node()["status"]} == host_node()["status"]


class TestLeases:
    """Only where a node controller runs."""

    def test_none_without_a_node_controller(self) -> None:
        world = world_of({}, {})
        world.put(Side.VIRTUAL, LEASES, {"metadata": {"name": "leader", "namespace": "kube-system"}})
        assert told(world.decide(nodes.REAL, N1)) == []

    def test_one_for_every_node_once_one_has_one(self) -> None:
        world = self.watched()
        assert told(world.settle(nodes.REAL, N1)) == ["again 10"]
        lease, node = self.lease(world), shown(world)
        assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
        assert lease["spec"] == {"holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": "2027-01-15T08:00:00.000000Z"}

    def test_renewed_as_kubelets_do(self) -> None:
        world = self.watched()
        world.settle(nodes.REAL, N1)
        world.now = NOW + 4
        assert world.decide(nodes.REAL, N1) == [Again(after=6.0)]
        world.now = NOW + RENEWAL_SECONDS
        (patch, again) = world.decide(nodes.REAL, N1)
        assert isinstance(patch, Patch)
        assert isinstance(again, Again)
        world.settle(nodes.REAL, N1)
        assert self.lease(world)["spec"]["renewTime"] == "2027-01-15T08:00:10.000000Z"

    def test_renewed_at_once_when_the_clock_went_back(self) -> None:
        world = self.watched()
        world.settle(nodes.REAL, N1)
        world.now = NOW - 3600
        assert len(world.decide(nodes.REAL, N1)) == 2

    def test_one_for_a_node_that_was_taken_for_dead(self) -> None:
        world = world_of({}, DOWN)
        assert told(world.decide(nodes.REAL, N1)) == [
            "patch virtual nodes n1 status",
            "create virtual leases kube-node-lease/n1",
            "again 10",
        ]

    def test_none_for_a_node_that_is_dead(self) -> None:
        assert told(world_of(DOWN, DOWN).settle(nodes.REAL, N1)) == []

    def test_another_ones_is_left_alone(self) -> None:
        world = self.watched()
        world.put(Side.VIRTUAL, LEASES, {"metadata": {"name": "n1", "namespace": "kube-node-lease"}})
        assert told(world.settle(nodes.REAL, N1)) == []

    def watched(self) -> World:
        world = world_of({}, {})
        world.put(
            Side.VIRTUAL,
            LEASES,
            {"metadata": {"name": "n2", "namespace": "kube-node-lease", "labels": {"vcluster.loft.sh/managed-by": "vc"}}},
        )
        return world

    def lease(self, world: World) -> Obj:
        lease = world.get(Side.VIRTUAL, LEASES, LEASE)
        assert lease is not None
        return lease

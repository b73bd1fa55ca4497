from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import NODES, PODS, Key, Obj, Side
from syncer.resources import nodes
from syncer.resources.nodes.needed import is_needed
from syncer.sync.intents import Create, Patch
from syncer.translate.merge import apply
from tests.resources.apply import World, told
from tests.resources.objects import deleting, host_marks, pod, ready_world

N1 = Key("", "n1")
DAEMON: Obj = {"metadata": {"ownerReferences": [{"kind": "DaemonSet", "name": "d", "uid": "u", "controller": True}]}}
ON_NODE: Obj = {"spec": {"nodeName": "n1"}}
FINISHED: Obj = {"status": {"phase": "Succeeded"}}
DAEMON_MARK: Obj = {"metadata": {"annotations": {"vcluster.loft.sh/owner-set-kind": "DaemonSet"}}}


def made_up() -> Obj:
    world = state(None, [], [{}])
    world.settle(nodes.MADE_UP, N1)
    node = world.get(Side.VIRTUAL, NODES, N1)
    assert node is not None
    return node


def state(node: Obj | None, virtual: list[Obj], host: list[Obj]) -> World:
    """`node` is a change to a made-up Node; `virtual` and `host` are changes to pods on it, the n-th of one is the n-th of the other."""
    world = ready_world(nodes.MADE_UP)
    if node is not None:
        world.put(Side.VIRTUAL, NODES, apply(made_up(), node))
    for number, change in enumerate(virtual):
        world.put(Side.VIRTUAL, PODS, apply(pod(ON_NODE, f"p{number}"), change))
    for number, change in enumerate(host):
        world.put(Side.HOST, PODS, apply({"metadata": host_marks("Pod", f"p{number}"), **ON_NODE}, change))
    return world


CREATE, DELETE = "create virtual nodes n1", "delete virtual nodes n1"
STATUS = ["patch virtual nodes n1 status"]
LEASE = ["create virtual leases kube-node-lease/n1", "again 10"]
UNKNOWN: Obj = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
TAINTS = ["patch virtual nodes n1 metadata+spec"]
UNREACHABLE: Obj = {
    "spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": effect} for effect in ("NoSchedule", "NoExecute")]}
}
NOT_READY: Obj = {"spec": {"taints": [{"key": "node.kubernetes.io/not-ready"}]}}
TENANTS = {"metadata": {"labels": {"x": "y"}}, "spec": {"taints": [{"key": "x"}], "unschedulable": True}}

RULES: list[tuple[str, Obj | None, list[Obj], list[Obj], list[str]]] = [
    ("fake: not needed, not there", None, [], [], []),
    ("fake: Create for a host pod", None, [], [{}], [CREATE]),
    ("Create for a virtual pod that is bound to it", None, [{}], [], [CREATE]),
    ("no change", {}, [{}], [{}], []),
    ("fake: Delete when no pod is there any more", {}, [], [], [DELETE]),
    ("a host pod on another node", {}, [], [{"spec": {"nodeName": "n2"}}], [DELETE]),
    ("a host pod that is not ours", {}, [], [{"metadata": {"labels": None}}], [DELETE]),
    ("a DaemonSet's pod does not keep it", {}, [DAEMON], [{}], [DELETE]),
    ("a DaemonSet's pod whose virtual pod is gone", {}, [], [DAEMON_MARK], [DELETE]),
    ("a DaemonSet's pod does not bring it", None, [DAEMON], [DAEMON_MARK], []),
    ("beside a DaemonSet's", {}, [DAEMON, {}], [DAEMON_MARK, {}], []),
    ("a ReplicaSet's pod", {}, [apply(DAEMON, {"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "controller": True}]}})], [{}], []),
    ("finished, but its host pod has logs", {}, [FINISHED], [FINISHED], []),
    ("finished, and the host pod is gone", {}, [FINISHED], [], [DELETE]),
    ("all host pods vanished: the virtual ones are protected", {}, [{}, {}], [], []),
    ("being deleted: made again once it is gone", deleting(None), [{}], [{}], []),
    ("somebody else's Node, unneeded", {"metadata": {"labels": None}}, [], [], []),
    ("a Node that only looks like ours", {"metadata": {"annotations": None}}, [], [], []),
    ("a Node of another virtual cluster's", {"metadata": {"annotations": {"vcluster.loft.sh/managed-by": "other"}}}, [], [], []),
    ("somebody else's Node, needed", {"metadata": {"labels": None}, "status": None}, [{}], [{}], []),
    ("status lost", {"status": None}, [{}], [{}], STATUS),
    ("version of the virtual API server", {"status": {"nodeInfo": {"kubeletVersion": "v1.30.0"}}}, [{}], [{}], STATUS),
    ("not ready", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, [{}], [{}], STATUS),
    ("taken for dead by a node controller", UNKNOWN, [{}], [{}], [*STATUS, *LEASE]),
    ("unreachable, says a node controller", UNREACHABLE, [{}], [{}], TAINTS),
    ("shown until --sync=nodes was taken away", {"metadata": {"annotations": {"vcluster.loft.sh/object-uid": "u"}}}, [{}], [{}], [DELETE]),
    ("the API server's taint", NOT_READY, [{}], [{}], TAINTS),
    ("the tenant's taints, labels and cordon stay", TENANTS, [{}], [{}], []),
]  # fmt: skip


@pytest.mark.parametrize(("node", "virtual", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(node: Obj | None, virtual: list[Obj], host: list[Obj], expected: list[str]) -> None:
    world = state(node, virtual, host)
    assert told(world.decide(nodes.MADE_UP, N1)) == expected
    world.settle(nodes.MADE_UP, N1)


def test_what_a_made_up_node_says() -> None:
    (create,) = state(None, [], [{}]).decide(nodes.MADE_UP, N1)
    assert isinstance(create, Create)
    assert create.obj["metadata"]["labels"]["kubernetes.io/hostname"] == "n1"
    status = create.obj["status"]
    assert status["nodeInfo"]["kubeletVersion"] == "v1.36.0"
    assert {item["type"]: item["status"] for item in status["conditions"]}["Ready"] == "True"
    assert status["conditions"][0]["lastHeartbeatTime"] == "2027-01-15T08:00:00Z"


def test_conditions_of_others_stay() -> None:
    world = state({"status": {"conditions": [{"type": "Custom", "status": "True"}]}}, [{}], [{}])
    (patch,) = world.decide(nodes.MADE_UP, N1)
    assert isinstance(patch, Patch)
    assert [item["type"] for item in patch.body["status"]["conditions"]][:1] == ["Custom"]


def test_lists_are_replaced_only_as_they_were_seen() -> None:
    """A taint or condition that somebody adds in the same moment is not lost: the API server tells us to look again."""
    for change in (UNKNOWN, NOT_READY):
        world = state(change, [{}], [{}])
        patch = world.decide(nodes.MADE_UP, N1)[0]
        node = world.get(Side.VIRTUAL, NODES, N1)
        assert isinstance(patch, Patch)
        assert node is not None
        assert patch.body["metadata"]["resourceVersion"] == node["metadata"]["resourceVersion"]


def test_the_tenants_taint_survives_the_removal_of_the_api_servers() -> None:
    world = state({"spec": {"taints": [{"key": "x"}, {"key": "node.kubernetes.io/not-ready"}]}}, [{}], [{}])
    world.settle(nodes.MADE_UP, N1)
    node = world.get(Side.VIRTUAL, NODES, N1)
    assert node is not None
    assert node["spec"]["taints"] == [{"key": "x"}]


def test_pods_of_either_side_wake_their_node() -> None:
    view = ready_world(nodes.MADE_UP).view()
    for wake in nodes.MADE_UP.index_wakes:
        index = nodes.MADE_UP.indexes[wake.side, wake.resource][wake.index]
        assert [wake.key(value, view) for value in index(pod(ON_NODE))] == [N1]
        assert list(index(pod())) == []
    assert {wake.side for wake in nodes.MADE_UP.index_wakes} == set(Side)


PODS_THERE = st.lists(st.sampled_from([{}, DAEMON, FINISHED, {"spec": {"nodeName": "n2"}}]), max_size=2)


@given(node=st.none() | st.sampled_from([{}, {"status": None}, {"metadata": {"labels": None}}]), virtual=PODS_THERE, host=PODS_THERE)
def test_any_state_settles_and_stays(node: Obj | None, virtual: list[Obj], host: list[Obj]) -> None:
    world = state(node, virtual, host)
    foreign = node is not None and "metadata" in node
    world.settle(nodes.MADE_UP, N1)
    assert (world.get(Side.VIRTUAL, NODES, N1) is not None) == (foreign or is_needed("n1", world.view()))
    assert not (foreign and world.log)

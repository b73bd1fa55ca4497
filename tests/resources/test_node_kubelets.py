"""Where virtual nodes say that their kubelet is, and the host Services that lead there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import ENDPOINT_SLICES, NODES, PODS, SERVICES, Key, Obj, Side
from syncer.naming import Names
from syncer.resources import nodes
from syncer.sync.intents import Delete
from syncer.sync.spec import SyncSpec
from syncer.translate.kubelets import PORT, host_name, node_of
from syncer.translate.merge import apply
from tests.resources.apply import NAMES, OWNER, POLICY, World, told
from tests.resources.objects import API, HOST, deleting, host_marks, named, ready_world

N1 = Key("", "n1")
SERVICE = Key(HOST, "vc-node-n1")
ON: Any = {"fake_kubelets": True, "kubelet_port": 8443}
NO_ADDRESS: Any = {"fake_kubelets": True, "kubelet_port": 0}
OFF: Any = {"fake_kubelets": False, "kubelet_port": 8443}
CREATE, DELETE = "create host services hostns/vc-node-n1", "delete host services hostns/vc-node-n1"
SPEC = nodes.SERVICES_OF_MADE_UP


def host_node() -> Obj:
    status = {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "ExternalIP", "address": "198.51.100.7"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10255}},
        "conditions": [],
    }
    return {"metadata": {"name": "n1", "uid": "host-n1"}, "status": status}


def world_of(nodes_spec: SyncSpec, flags: Any = ON) -> World:
    """With a pod on a node of the host, for which a Node is there."""
    world = ready_world(nodes_spec, SPEC)
    world.policy = replace(POLICY, **flags)
    world.put(Side.HOST, SERVICES, named("vc", HOST, spec={"clusterIP": API, "ports": [{"port": 443}], "selector": {"app": "vcluster"}}))
    world.put(Side.HOST, PODS, {"metadata": host_marks("Pod", "p"), "spec": {"nodeName": "n1"}})
    if nodes_spec is nodes.REAL:
        world.put(Side.HOST, NODES, host_node())
    world.settle(nodes_spec, N1)
    return world


def settle(world: World, nodes_spec: SyncSpec) -> None:
    for _ in range(2):
        world.settle(nodes_spec, N1)
        world.settle(SPEC, N1)


def status(world: World) -> Obj:
    node = world.get(Side.VIRTUAL, NODES, N1)
    assert node is not None
    found: Obj = node["status"]
    return found


def service(world: World) -> Obj:
    found = world.get(Side.HOST, SERVICES, SERVICE)
    assert found is not None
    return found


@pytest.mark.parametrize("spec", [nodes.MADE_UP, nodes.REAL], ids=lambda spec: spec.name)
def test_a_node_has_a_kubelet_at_an_address_of_its_own(spec: SyncSpec) -> None:
    world = world_of(spec)
    settle(world, spec)
    host = service(world)
    assert host["spec"]["selector"] == {"app": "vcluster"}
    assert host["spec"]["ports"] == [{"name": "kubelet", "port": 10250, "protocol": "TCP", "targetPort": 8443}]
    assert host["metadata"]["ownerReferences"] == [OWNER]
    assert host["metadata"]["labels"] == {
        "vcluster.loft.sh/managed-by": "vc",
        "vcluster.loft.sh/belongs-to": "vc",
        "vcluster.loft.sh/node": "n1",
    }
    external = [{"type": "ExternalIP", "address": "198.51.100.7"}] if spec is nodes.REAL else []
    assert status(world)["addresses"] == [
        {"type": "Hostname", "address": "n1.nodes.vcluster.com"},
        {"type": "InternalIP", "address": host["spec"]["clusterIP"]},
        *external,
    ]
    assert status(world)["daemonEndpoints"] == {"kubeletEndpoint": {"Port": PORT}}
    world.log.clear()
    settle(world, spec)
    assert world.log == []


@pytest.mark.parametrize("spec", [nodes.MADE_UP, nodes.REAL], ids=lambda spec: spec.name)
def test_without_addresses_nodes_have_only_a_name(spec: SyncSpec) -> None:
    world = world_of(spec, NO_ADDRESS)
    settle(world, spec)
    assert world.get(Side.HOST, SERVICES, SERVICE) is None
    assert status(world)["addresses"][0] == {"type": "Hostname", "address": "n1.nodes.vcluster.com"}
    assert "InternalIP" not in {item["type"] for item in status(world)["addresses"]}


@pytest.mark.parametrize("spec", [nodes.MADE_UP, nodes.REAL], ids=lambda spec: spec.name)
def test_when_kubelets_are_switched_off_addresses_are_as_they_were(spec: SyncSpec) -> None:
    world, never = world_of(spec), world_of(spec, OFF)
    settle(world, spec)
    settle(never, spec)
    assert never.get(Side.HOST, SERVICES, SERVICE) is None
    world.policy = replace(world.policy, **OFF)
    settle(world, spec)
    assert world.get(Side.HOST, SERVICES, SERVICE) is None
    for field in ("addresses", "daemonEndpoints"):
        assert status(world)[field] == status(never)[field]
    if spec is nodes.REAL:
        assert status(never)["addresses"] == host_node()["status"]["addresses"]


RULES: list[tuple[str, Obj | None, Obj | None, Obj | None, list[str]]] = [
    ("in sync", {}, {}, {}, []),
    ("there is none yet", {}, None, {}, [CREATE]),
    ("nothing in front yet", {}, None, None, ["wait host services hostns/vc"]),
    ("the Node is gone, perhaps for a moment", None, {}, {}, ["wait virtual nodes n1 at most 10"]),
    (
        "the Node was made anew",
        {"metadata": {"uid": "other"}},
        {},
        {},
        ["patch host services hostns/vc-node-n1 metadata"],
    ),
    ("somebody else's Node", {"metadata": {"annotations": None}}, None, {}, []),
    ("the Node became somebody else's", {"metadata": {"annotations": None}}, {}, {}, [DELETE]),
    ("another virtual cluster's Node", {"metadata": {"annotations": {"vcluster.loft.sh/managed-by": "x"}}}, None, {}, []),
    ("the Node is going", deleting(None), None, {}, []),
    ("the Node is going, but not gone", deleting(None), {}, {}, []),
    ("the Service is going", {}, deleting(None), {}, ["wait host services hostns/vc-node-n1"]),
    ("a stranger's Service has the name", {}, {"metadata": {"labels": None}}, {}, [CREATE]),
    ("of another virtual cluster", {}, {"metadata": {"labels": {"vcluster.loft.sh/belongs-to": "x"}}}, {}, [CREATE]),
    ("a copy of another kind", {}, {"metadata": {"annotations": {"vcluster.loft.sh/object-kind": "/v1, Kind=Service"}}}, {}, [CREATE]),
    (
        "the selector in front changed",
        {},
        {},
        {"spec": {"selector": {"app": None, "release": "vc"}}},
        ["patch host services hostns/vc-node-n1 spec"],
    ),
    ("the selector in front went", {}, {}, {"spec": {"selector": None}}, ["patch host services hostns/vc-node-n1 spec"]),
    ("a port changed by hand", {}, {"spec": {"ports": [{"port": 1}]}}, {}, ["patch host services hostns/vc-node-n1 spec"]),
    ("the owner is missing", {}, {"metadata": {"ownerReferences": None}}, {}, ["patch host services hostns/vc-node-n1 metadata"]),
]


@pytest.mark.parametrize(("node", "host", "front", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(node: Obj | None, host: Obj | None, front: Obj | None, expected: list[str]) -> None:
    """Changes to a Node, its Service and the Service in front; None: it is not there."""
    world = world_of(nodes.MADE_UP)
    settle(world, nodes.MADE_UP)
    for side, resource, key, change in (
        (Side.VIRTUAL, NODES, N1, node),
        (Side.HOST, SERVICES, SERVICE, host),
        (Side.HOST, SERVICES, Key(HOST, "vc"), front),
    ):
        had = world.objects[side, resource].pop(key)
        if change is not None:
            world.put(side, resource, apply(had, change))
    assert told(world.decide(SPEC, N1)) == expected


def test_what_the_front_selects_no_more_goes_from_the_selector() -> None:
    world = world_of(nodes.MADE_UP)
    settle(world, nodes.MADE_UP)
    front = world.get(Side.HOST, SERVICES, Key(HOST, "vc"))
    assert front is not None
    world.put(Side.HOST, SERVICES, apply(front, {"spec": {"selector": {"app": None, "release": "vc"}}}))
    settle(world, nodes.MADE_UP)
    assert service(world)["spec"]["selector"] == {"release": "vc"}


def test_it_goes_with_the_node() -> None:
    world = world_of(nodes.MADE_UP)
    settle(world, nodes.MADE_UP)
    world.objects[Side.HOST, PODS].clear()
    settle(world, nodes.MADE_UP)
    assert world.get(Side.VIRTUAL, NODES, N1) is None
    assert told(world.decide(SPEC, N1, waited=9.9)) == ["wait virtual nodes n1 at most 10"]
    assert told(world.decide(SPEC, N1, waited=10.0)) == [f"{DELETE} unexplained"]
    world.settle(SPEC, N1, waited=10.0)
    assert world.get(Side.HOST, SERVICES, SERVICE) is None
    assert isinstance(world.log[-1], Delete)


def test_the_address_of_a_strangers_service_is_not_shown() -> None:
    world = world_of(nodes.MADE_UP)
    settle(world, nodes.MADE_UP)
    had = world.objects[Side.HOST, SERVICES].pop(SERVICE)
    world.put(Side.HOST, SERVICES, apply(had, {"metadata": {"annotations": None}}))
    world.settle(nodes.MADE_UP, N1)
    assert [item["type"] for item in status(world)["addresses"]] == ["Hostname"]


def test_wakes() -> None:
    """A Service of a node has the Node decided; the Service in front has all Services of nodes decided."""
    world = world_of(nodes.MADE_UP)
    settle(world, nodes.MADE_UP)
    view = world.view()
    (of_nodes,), (of_services,) = nodes.MADE_UP.wakes, SPEC.wakes
    assert list(of_nodes.keys(service(world), view)) == [N1]
    front = world.get(Side.HOST, SERVICES, Key(HOST, "vc"))
    assert front is not None
    assert list(of_nodes.keys(front, view)) == []
    assert list(of_services.keys(front, view)) == [N1]
    assert list(of_services.keys(service(world), view)) == []


NODE_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,70}[a-z0-9])?", fullmatch=True)


@given(one=NODE_NAMES, other=NODE_NAMES)
def test_names_of_services_are_valid_and_tell_nodes_apart(one: str, other: str) -> None:
    names = Names("vc", HOST)
    for node in (one, other):
        name = names.node_service(node).name
        assert len(name) <= 63
        assert name.replace("-", "").isalnum()
        assert name[-1] != "-"
    assert (names.node_service(one) == names.node_service(other)) == (one == other)


def test_host_names_have_no_dots_of_the_nodes() -> None:
    assert host_name("ip-10-0-0-1.ec2.internal") == "ip-10-0-0-1-ec2-internal.nodes.vcluster.com"


def test_a_service_of_another_name_leads_to_no_node() -> None:
    world = world_of(nodes.MADE_UP)
    settle(world, nodes.MADE_UP)
    assert node_of(NAMES, service(world)) == "n1"
    assert node_of(NAMES, apply(service(world), {"metadata": {"name": "copy"}})) is None


ENDPOINTS = nodes.ENDPOINTS_OF_MADE_UP
FRONT_SLICE: Obj = {
    "metadata": {"name": "vc-1", "namespace": HOST, "labels": {"kubernetes.io/service-name": "vc"}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["192.0.2.9"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "of-the-host"}}],
    "ports": [{"name": "https", "port": 8443}],
}
CREATED, DELETED_SLICE = "create host endpointslices hostns/vc-node-n1", "delete host endpointslices hostns/vc-node-n1"


def without_selector(*slices: Obj) -> World:
    """As when the syncer runs outside of the host cluster."""
    world = world_of(nodes.MADE_UP)
    world.objects.setdefault((Side.HOST, ENDPOINT_SLICES), {})
    for place, functions in ENDPOINTS.indexes.items():
        world.indexes.setdefault(place, {}).update(functions)
    front = world.objects[Side.HOST, SERVICES].pop(Key(HOST, "vc"))
    world.put(Side.HOST, SERVICES, apply(front, {"spec": {"selector": None}}))
    for item in slices:
        world.put(Side.HOST, ENDPOINT_SLICES, item)
    settle(world, nodes.MADE_UP)
    world.settle(ENDPOINTS, N1)
    return world


def copied(world: World) -> Obj:
    found = world.get(Side.HOST, ENDPOINT_SLICES, SERVICE)
    assert found is not None
    return found


class TestWithoutSelector:
    def test_the_same_is_behind_the_nodes_service(self) -> None:
        slices = (
            FRONT_SLICE,
            apply(FRONT_SLICE, {"metadata": {"name": "vc-2"}, "addressType": "IPv6", "endpoints": [{"addresses": ["::9"]}]}),
        )
        world = without_selector(*slices)
        assert "selector" not in service(world)["spec"]
        found = copied(world)
        assert found["endpoints"] == [{"addresses": ["192.0.2.9"], "conditions": {"ready": True}}]
        assert found["ports"] == [{"name": "kubelet", "port": 8443, "protocol": "TCP"}]
        assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "vc-node-n1"
        assert found["metadata"]["ownerReferences"] == [OWNER]
        assert told(world.decide(ENDPOINTS, N1)) == []

    def test_nothing_where_nothing_is(self) -> None:
        world = without_selector(apply(FRONT_SLICE, {"endpoints": []}), apply(FRONT_SLICE, {"metadata": {"name": "x", "labels": None}}))
        assert told(world.decide(ENDPOINTS, N1)) == []

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"endpoints": [{"addresses": ["192.0.2.10"]}]}, ["patch host endpointslices hostns/vc-node-n1 endpoints"]),
            ({"endpoints": []}, [DELETED_SLICE]),
            ({"addressType": "IPv6"}, [DELETED_SLICE, "wait host endpointslices hostns/vc-node-n1"]),
            ({"metadata": {"labels": None}}, [DELETED_SLICE]),
            ({"metadata": {"labels": {"team": "x"}}}, []),
        ],
        ids=["other addresses", "none", "another family", "not of the front any more", "nothing of interest"],
    )
    def test_it_follows(self, change: Obj, expected: list[str]) -> None:
        world = without_selector(FRONT_SLICE)
        had = world.objects[Side.HOST, ENDPOINT_SLICES].pop(Key(HOST, "vc-1"))
        world.put(Side.HOST, ENDPOINT_SLICES, apply(had, change))
        assert told(world.decide(ENDPOINTS, N1)) == expected
        world.settle(ENDPOINTS, N1)

    def test_it_goes_when_the_front_has_a_selector_and_with_the_node(self) -> None:
        world = without_selector(FRONT_SLICE)
        front = world.objects[Side.HOST, SERVICES].pop(Key(HOST, "vc"))
        world.put(Side.HOST, SERVICES, apply(front, {"spec": {"selector": {"app": "vcluster"}}}))
        assert told(world.decide(ENDPOINTS, N1)) == [DELETED_SLICE]
        del world.objects[Side.VIRTUAL, NODES][N1]
        assert told(world.decide(ENDPOINTS, N1)) == [f"{DELETED_SLICE} unexplained"]

    def test_a_strangers_is_left_alone(self) -> None:
        world = without_selector(FRONT_SLICE)
        had = world.objects[Side.HOST, ENDPOINT_SLICES].pop(SERVICE)
        world.put(Side.HOST, ENDPOINT_SLICES, apply(had, {"metadata": {"annotations": None}}))
        assert told(world.decide(ENDPOINTS, N1)) == [CREATED], "which the host refuses"

    def test_what_is_kept_in_memory(self) -> None:
        world = without_selector(FRONT_SLICE)
        (watch,) = (watch for watch in ENDPOINTS.watches if watch.slim is not None)
        assert watch.slim is not None
        view = world.view()
        assert watch.slim(copied(world), view) is not None
        assert watch.slim(FRONT_SLICE, view) is not None
        assert watch.slim(apply(FRONT_SLICE, {"metadata": {"labels": {"kubernetes.io/service-name": "x"}}}), view) is None
        of_front = ENDPOINTS.wakes[1].keys
        assert list(of_front(FRONT_SLICE, view)) == [N1]
        assert list(of_front(copied(world), view)) == []

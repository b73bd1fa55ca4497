from __future__ import annotations

from typing import Any

import pytest

from syncer.kube.types import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES, Key, Obj, Side, annotations_of, labels_of
from syncer.naming import ANNOTATION_NAME
from syncer.resources import endpoints, endpointslices
from syncer.sync.intents import Create, Delete
from syncer.sync.spec import SyncSpec
from syncer.translate.endpoints import MANAGED_BY, MANAGER, SERVICE_NAME
from syncer.translate.merge import apply
from syncer.translate.services import KUBERNETES
from tests.resources.apply import World, told
from tests.resources.objects import HOST, deleting, host_marks, named, ready_world

DB = Key("default", "db")
HOST_DB = Key(HOST, "db-x-default-x-vc")
SLICE = Key("default", "db-1")
HOST_SLICE = Key(HOST, "db-1-x-default-x-vc")
PORTS = [{"name": "sql", "port": 5432, "protocol": "TCP"}]
SUBSETS = [{"addresses": [{"ip": "192.0.2.1", "nodeName": "n1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": PORTS}]
OWN = {"metadata": {"annotations": {ANNOTATION_NAME: "db"}}}
LEADER = "control-plane.alpha.kubernetes.io/leader"


def service(changes: Obj | None = None) -> Obj:
    changed: Obj = apply(named("db", spec={"type": "ClusterIP", "clusterIP": "10.96.7.7", "ports": [{"port": 5432}]}), changes or {})
    return changed


def state(spec: SyncSpec, virtual: Obj | None, of_service: Obj | None, *, copied: bool = True) -> World:
    """`virtual` and `of_service` are changes to an ordinary object and its Service; `copied`: the Service is on the host."""
    world = ready_world(spec)
    for name in ("db", "kubernetes"):
        if of_service is not None:
            world.put(Side.VIRTUAL, SERVICES, apply(service(of_service), {"metadata": {"name": name}}))
    if copied:
        world.put(Side.HOST, SERVICES, {"metadata": host_marks("Service", "db"), "spec": {}})
    if virtual is not None:
        base = named("db", subsets=SUBSETS) if spec is endpoints.SPEC else endpoint_slice()
        base["metadata"]["uid"] = "uid-" + base["metadata"]["name"]
        world.put(Side.VIRTUAL, spec.kind, apply(base, virtual))
    return world


def endpoint_slice() -> Obj:
    obj = named("db-1", addressType="IPv4", endpoints=[{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}], ports=PORTS)
    obj["metadata"]["labels"] = {SERVICE_NAME: "db"}
    return obj


def settled(spec: SyncSpec, virtual: Obj, of_service: Obj) -> World:
    world = state(spec, virtual, of_service)
    key = DB if spec is endpoints.SPEC else SLICE
    assert world.settle(spec, key) == []
    return world


SELECTED = {"spec": {"selector": {"app": "db"}}}
EXTERNAL = {"spec": {"type": "ExternalName"}}
EXCLUDED = {"metadata": {"labels": {"vcluster.loft.sh/controlled-by": "x"}}}
CREATE = [f"create host endpoints {HOST_DB}"]

RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("nothing at all", None, None, []),
    ("Forward create", {}, {}, CREATE),
    ("its Service has a selector", {}, SELECTED, []),
    ("its Service is an ExternalName", {}, EXTERNAL, []),
    ("its Service is looked after by another controller", {}, EXCLUDED, []),
    ("its Service is headless", {}, {"spec": {"clusterIP": "None"}}, CREATE),
    ("there is no Service of that name", {}, None, []),
    ("deleting before it was copied", deleting(None), {}, []),
]


@pytest.mark.parametrize(("virtual", "of_service", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(virtual: Obj | None, of_service: Obj | None, expected: list[str]) -> None:
    world = state(endpoints.SPEC, virtual, of_service)
    assert told(world.decide(endpoints.SPEC, DB)) == expected
    assert world.settle(endpoints.SPEC, DB) == []


def test_dont_sync_default_kubernetes() -> None:
    world = state(endpoints.SPEC, {"metadata": {"name": "kubernetes"}}, {})
    assert world.decide(endpoints.SPEC, KUBERNETES) == []


def test_endpoints_that_are_there_before_the_service_wait_for_it() -> None:
    world = state(endpoints.SPEC, {}, {}, copied=False)
    assert told(world.decide(endpoints.SPEC, DB)) == [f"wait host services {HOST_DB}"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"subsets": [{"addresses": [{"ip": "192.0.2.9"}], "ports": PORTS}]}, id="Forward update"),
        pytest.param({"subsets": None}, id="no addresses any more"),
        pytest.param({"metadata": {"labels": {"a": "b"}}}, id="labels"),
    ],
)
def test_a_change_goes_down(change: Obj) -> None:
    world = settled(endpoints.SPEC, {}, {})
    changed = apply(world.get(Side.VIRTUAL, ENDPOINTS, DB), change)
    world.objects[Side.VIRTUAL, ENDPOINTS][DB] = changed
    assert world.settle(endpoints.SPEC, DB) == []
    host = world.get(Side.HOST, ENDPOINTS, HOST_DB)
    assert host is not None
    assert host.get("subsets") == changed.get("subsets")
    assert len(world.log) == 2


def test_only_the_order_changed() -> None:
    """API servers up to 1.34 or so order and group addresses as they like."""
    world = settled(
        endpoints.SPEC, {"subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}], "ports": [*PORTS, {"port": 1}]}]}, {}
    )
    host = world.get(Side.HOST, ENDPOINTS, HOST_DB)
    assert host is not None
    host["subsets"] = [{"addresses": [{"ip": f"192.0.2.{n}"}], "ports": [{"port": 1}, *PORTS]} for n in (2, 1)]
    assert world.decide(endpoints.SPEC, DB) == []


@pytest.mark.parametrize("gone", ["Endpoints", "Service", "selector"])
def test_it_goes_with_what_it_stands_for(gone: str) -> None:
    world = settled(endpoints.SPEC, {}, {})
    match gone:
        case "Endpoints":
            world.objects[Side.VIRTUAL, ENDPOINTS].clear()
        case "Service":
            del world.objects[Side.VIRTUAL, SERVICES][DB]
        case _:
            world.put(Side.VIRTUAL, SERVICES, service(SELECTED))
    (delete,) = world.decide(endpoints.SPEC, DB)
    assert isinstance(delete, Delete)
    assert delete.unexplained is (gone == "Endpoints")
    assert world.settle(endpoints.SPEC, DB) == []
    assert world.get(Side.HOST, ENDPOINTS, HOST_DB) is None


class TestLeftByTheHostsController:
    """The Service had a selector; its host Endpoints have the Service's labels, and no annotation of ours."""

    def world(self, of_service: Obj) -> World:
        world = state(endpoints.SPEC, {}, of_service)
        marks = host_marks("Endpoints", "db")
        labels = {**marks["labels"], "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
        left = {"metadata": {"name": HOST_DB.name, "namespace": HOST, "labels": labels}, "subsets": [{"addresses": [{"ip": "10.244.0.9"}]}]}
        (watch,) = (watch for watch in endpoints.SPEC.watches if (watch.side, watch.resource) == (Side.HOST, ENDPOINTS))
        assert watch.slim is not None
        slim = watch.slim({**left, "apiVersion": "v1", "kind": "Endpoints"}, world.view())
        assert slim is not None
        assert "subsets" not in slim
        world.put(Side.HOST, ENDPOINTS, slim)
        return world

    def test_they_are_taken_over(self) -> None:
        world = self.world({})
        assert world.settle(endpoints.SPEC, DB) == []
        host = world.get(Side.HOST, ENDPOINTS, HOST_DB)
        assert host is not None
        assert host["subsets"] == SUBSETS
        assert annotations_of(host)[ANNOTATION_NAME] == "db"
        assert "endpoints.kubernetes.io/managed-by" not in labels_of(host)

    def test_they_are_left_while_there_is_a_selector(self) -> None:
        assert self.world(SELECTED).decide(endpoints.SPEC, DB) == []

    def test_those_of_a_service_that_is_not_ours_are_nobodys_business(self) -> None:
        world = self.world({})
        world.put(Side.HOST, SERVICES, {"metadata": {"name": HOST_DB.name, "namespace": HOST}, "spec": {}})
        host = world.get(Side.HOST, ENDPOINTS, HOST_DB)
        assert host is not None
        assert endpoints.SPEC.virtual_key(host, world.view()) is None


def test_what_would_keep_the_host_from_mirroring_is_left_out() -> None:
    world = settled(endpoints.SPEC, {"metadata": {"annotations": {LEADER: "{}", "kept": "yes"}}}, {})
    host = world.get(Side.HOST, ENDPOINTS, HOST_DB)
    assert host is not None
    assert LEADER not in annotations_of(host)
    assert annotations_of(host)["kept"] == "yes"


POD = {"kind": "Pod", "name": "db-0", "namespace": "default", "uid": "uid-db-0", "resourceVersion": "7"}
HOST_POD = {"kind": "Pod", "name": "db-0-x-default-x-vc", "namespace": HOST, "uid": "host-pod"}


class TestTargets:
    """References to pods: translated where they are on the host, else left out."""

    def addressed(self, spec: SyncSpec, target: Obj | None) -> Obj:
        more = {"targetRef": target} if target else {}
        if spec is endpoints.SPEC:
            return {"subsets": [{"addresses": [{"ip": "10.244.0.9", **more}], "ports": PORTS}]}
        return {"endpoints": [{"addresses": ["10.244.0.9"], "nodeName": "n1", **more}]}

    def target(self, host: Obj | None) -> Any:
        assert host is not None
        item = host["endpoints"][0] if "endpoints" in host else host["subsets"][0]["addresses"][0]
        return item.get("targetRef")

    @pytest.mark.parametrize(("spec", "key", "host_key"), [(endpoints.SPEC, DB, HOST_DB), (endpointslices.SPEC, SLICE, HOST_SLICE)])
    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            pytest.param(POD, HOST_POD, id="a pod"),
            pytest.param({"kind": "Pod", "name": "db-0"}, HOST_POD, id="a pod, without saying which"),
            pytest.param({**POD, "uid": "before"}, None, id="a predecessor of the pod"),
            pytest.param({**POD, "name": "gone"}, None, id="no pod that there is"),
            pytest.param({**POD, "kind": "Node"}, None, id="a node"),
            pytest.param(None, None, id="nothing"),
        ],
    )
    def test_target(self, spec: SyncSpec, key: Key, host_key: Key, target: Obj | None, expected: Obj | None) -> None:
        world = state(spec, self.addressed(spec, target), {})
        world.put(Side.VIRTUAL, PODS, named("db-0"))
        world.put(Side.HOST, PODS, {"metadata": {**host_marks("Pod", "db-0"), "uid": "host-pod"}})
        assert world.settle(spec, key) == []
        assert self.target(world.get(Side.HOST, spec.kind, host_key)) == expected

    def test_a_namesake_of_another_kind(self) -> None:
        addresses = [{"ip": "10.244.0.9", "targetRef": POD}, {"ip": "10.244.0.8", "targetRef": {"kind": "Node", "name": "db-0"}}]
        world = state(endpoints.SPEC, {"subsets": [{"addresses": addresses, "ports": PORTS}]}, {})
        world.put(Side.HOST, PODS, {"metadata": {**host_marks("Pod", "db-0"), "uid": "host-pod"}})
        world.settle(endpoints.SPEC, DB)
        host = world.get(Side.HOST, ENDPOINTS, HOST_DB)
        assert host is not None
        assert host["subsets"][0]["addresses"] == [{"ip": "10.244.0.9", "targetRef": HOST_POD}, {"ip": "10.244.0.8"}]

    def test_a_pod_that_is_on_its_way_is_waited_for(self) -> None:
        world = state(endpoints.SPEC, self.addressed(endpoints.SPEC, POD), {})
        world.put(Side.VIRTUAL, PODS, {"metadata": {"name": "db-0", "namespace": "default", "uid": "uid-db-0"}})
        assert told(world.settle(endpoints.SPEC, DB)) == [f"wait host pods {HOST}/db-0-x-default-x-vc"]
        assert self.target(world.get(Side.HOST, ENDPOINTS, HOST_DB)) is None
        world.put(Side.HOST, PODS, {"metadata": {**host_marks("Pod", "db-0"), "uid": "host-pod"}})
        assert world.settle(endpoints.SPEC, DB) == []
        assert self.target(world.get(Side.HOST, ENDPOINTS, HOST_DB)) == HOST_POD


class TestSlices:
    def test_it_belongs_to_the_host_service(self) -> None:
        world = settled(endpointslices.SPEC, {}, {})
        host = world.get(Side.HOST, ENDPOINT_SLICES, HOST_SLICE)
        assert host is not None
        assert labels_of(host)[SERVICE_NAME] == HOST_DB.name
        assert labels_of(host)[MANAGED_BY] == MANAGER
        assert [type(write) for write in world.log] == [Create]

    def test_its_manager_stays(self) -> None:
        world = settled(endpointslices.SPEC, {"metadata": {"labels": {MANAGED_BY: "example.org/broker"}}}, {})
        host = world.get(Side.HOST, ENDPOINT_SLICES, HOST_SLICE)
        assert host is not None
        assert labels_of(host)[MANAGED_BY] == "example.org/broker"

    def test_a_selector_of_the_service_is_no_hindrance(self) -> None:
        world = settled(endpointslices.SPEC, {}, SELECTED)
        assert world.get(Side.HOST, ENDPOINT_SLICES, HOST_SLICE) is not None

    @pytest.mark.parametrize(
        ("virtual", "of_service"),
        [
            pytest.param({"metadata": {"labels": {SERVICE_NAME: None}}}, {}, id="of no Service"),
            pytest.param({"metadata": {"labels": {SERVICE_NAME: "other"}}}, {}, id="of a Service that is not there"),
            pytest.param({"metadata": {"labels": {SERVICE_NAME: "kubernetes"}}}, {}, id="of the API server"),
            pytest.param({}, EXTERNAL, id="of an ExternalName"),
        ],
    )
    def test_not_copied(self, virtual: Obj, of_service: Obj) -> None:
        assert state(endpointslices.SPEC, virtual, of_service).decide(endpointslices.SPEC, SLICE) == []

    @pytest.mark.parametrize("manager", ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"])
    def test_what_kubernetes_itself_made_is_not_even_kept(self, manager: str) -> None:
        (watch,) = (watch for watch in endpointslices.SPEC.watches if (watch.side, watch.resource) == (Side.VIRTUAL, ENDPOINT_SLICES))
        assert watch.slim is not None
        view = state(endpointslices.SPEC, None, None).view()
        assert watch.slim(apply(endpoint_slice(), {"metadata": {"labels": {MANAGED_BY: manager}}}), view) is None
        assert watch.slim(endpoint_slice(), view) is not None

    def test_nor_is_what_the_hosts_controllers_made(self) -> None:
        (watch,) = (watch for watch in endpointslices.SPEC.watches if (watch.side, watch.resource) == (Side.HOST, ENDPOINT_SLICES))
        assert watch.slim is not None
        view = state(endpointslices.SPEC, None, None).view()
        mirrored = {"metadata": {**host_marks("Endpoints", "db"), "name": "db-x-default-x-vc-abcde"}}
        assert watch.slim(mirrored, view) is None

    def test_moved_to_another_service(self) -> None:
        world = settled(endpointslices.SPEC, {}, {})
        world.put(Side.VIRTUAL, SERVICES, named("other", spec={"clusterIP": "10.96.7.8"}))
        obj = world.get(Side.VIRTUAL, ENDPOINT_SLICES, SLICE)
        assert obj is not None
        obj["metadata"]["labels"][SERVICE_NAME] = "other"
        assert world.settle(endpointslices.SPEC, SLICE) == []
        host = world.get(Side.HOST, ENDPOINT_SLICES, HOST_SLICE)
        assert host is not None
        assert labels_of(host)[SERVICE_NAME] == "other-x-default-x-vc"

    def test_another_kind_of_addresses(self) -> None:
        world = settled(endpointslices.SPEC, {}, {})
        obj = apply(endpoint_slice(), {"addressType": "IPv6", "endpoints": [{"addresses": ["2001:db8::1"]}], "metadata": {"uid": "anew"}})
        world.put(Side.VIRTUAL, ENDPOINT_SLICES, obj)
        assert world.settle(endpointslices.SPEC, SLICE) == []
        host = world.get(Side.HOST, ENDPOINT_SLICES, HOST_SLICE)
        assert host is not None
        assert host["addressType"] == "IPv6"

    def test_its_service_wakes_it(self) -> None:
        world = state(endpointslices.SPEC, {}, {})
        for wake in endpointslices.SPEC.wakes:
            obj = world.get(wake.side, SERVICES, DB if wake.side is Side.VIRTUAL else HOST_DB)
            assert obj is not None
            assert list(wake.keys(obj, world.view())) == [SLICE]

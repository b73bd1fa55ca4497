"""What is behind Services without selector, on real API servers with their own controllers: on the host once, and never twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until
from e2e.servicepairs import MERGE, ServicePairs, service
from syncer.kube.types import ENDPOINT_SLICES, ENDPOINTS, PODS, Key

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MIRRORING = "endpointslicemirroring-controller.k8s.io"


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("endpoints")


@pytest.fixture(scope="module")
def pairs(daemon: Daemon) -> ServicePairs:
    return ServicePairs(daemon)


def host_key(pairs: ServicePairs, name: str) -> Key:
    return pairs.names.host_key(Key("default", name))


def host_endpoints(pairs: ServicePairs, name: str) -> list[str] | None:
    """The addresses of the host Endpoints; None when there are none."""
    found = pairs.host.find(ENDPOINTS.path(*host_key(pairs, name)))
    return None if found is None else [item["ip"] for subset in found.get("subsets") or () for item in subset["addresses"]]


def host_slices(pairs: ServicePairs, name: str) -> list[tuple[str, list[str]]]:
    """Who manages the host's EndpointSlices of a Service, and which addresses they have: what kube-proxy goes by."""
    key = host_key(pairs, name)
    items = pairs.host.get(ENDPOINT_SLICES.path(key.namespace), labelSelector=f"{SERVICE_NAME}={key.name}")["items"]
    found = [
        (item["metadata"]["labels"].get(MANAGED_BY, ""), sorted(address for one in item["endpoints"] or () for address in one["addresses"]))
        for item in items
    ]
    return sorted((manager, addresses) for manager, addresses in found if addresses)


def wait_slices(pairs: ServicePairs, name: str, *expected: tuple[str, list[str]]) -> None:
    wait_until(lambda: host_slices(pairs, name) == [*expected], f"slices of {name}: {host_slices(pairs, name)}, not {expected}", 20)


def endpoint_slice(name: str, service_name: str, *addresses: str, **labels: str) -> Obj:
    metadata = {"name": name, "namespace": "default", "labels": {SERVICE_NAME: service_name, **labels}}
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    ports = [{"name": "", "port": 80, "protocol": "TCP"}]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }


def test_the_service_first(pairs: ServicePairs) -> None:
    pairs.create(service("first"))
    pairs.settle("first")
    pairs.endpoints("first", "192.0.2.1", "192.0.2.2")
    wait_slices(pairs, "first", (MIRRORING, ["192.0.2.1", "192.0.2.2"]))


def test_the_endpoints_first(pairs: ServicePairs) -> None:
    pairs.endpoints("last", "192.0.2.3")
    pairs.create(service("last"))
    wait_slices(pairs, "last", (MIRRORING, ["192.0.2.3"]))


def test_a_change_goes_down_and_a_foreign_change_on_the_host_is_taken_back(pairs: ServicePairs) -> None:
    pairs.create(service("changes"))
    pairs.endpoints("changes", "192.0.2.1")
    wait_slices(pairs, "changes", (MIRRORING, ["192.0.2.1"]))
    pairs.endpoints("changes", "192.0.2.7", "192.0.2.8")
    wait_slices(pairs, "changes", (MIRRORING, ["192.0.2.7", "192.0.2.8"]))
    path = ENDPOINTS.path(*host_key(pairs, "changes"))
    pairs.host.request("PATCH", path, {"subsets": None}, content_type=MERGE)
    wait_slices(pairs, "changes", (MIRRORING, ["192.0.2.7", "192.0.2.8"]))


@pytest.mark.parametrize("gone", ["endpoints", "service"])
def test_they_go(pairs: ServicePairs, gone: str) -> None:
    name = f"goes-{gone}"
    pairs.create(service(name))
    pairs.endpoints(name, "192.0.2.1")
    wait_slices(pairs, name, (MIRRORING, ["192.0.2.1"]))
    pairs.virtual.delete(ENDPOINTS.path("default", name) if gone == "endpoints" else pairs.path(name))
    wait_until(lambda: host_endpoints(pairs, name) is None, "the host Endpoints go", 20)
    wait_slices(pairs, name)


def test_a_selector_that_comes_and_goes(pairs: ServicePairs) -> None:
    pairs.create(service("turns"))
    pairs.endpoints("turns", "192.0.2.1")
    wait_slices(pairs, "turns", (MIRRORING, ["192.0.2.1"]))
    pairs.patch("turns", {"selector": {"app": "nobody"}})
    wait_until(lambda: host_endpoints(pairs, "turns") == [], "the host's controller has taken over", 30)
    wait_slices(pairs, "turns")
    pairs.patch("turns", {"selector": None})
    pairs.settle("turns")
    pairs.endpoints("turns", "192.0.2.5")
    wait_slices(pairs, "turns", (MIRRORING, ["192.0.2.5"]))
    annotations = pairs.host.get(ENDPOINTS.path(*host_key(pairs, "turns")))["metadata"]["annotations"]
    assert annotations["vcluster.loft.sh/object-name"] == "turns"


def test_hand_made_slices_and_no_twice(pairs: ServicePairs) -> None:
    """The slices that the virtual cluster mirrors from Endpoints stay there: the host mirrors its own."""
    pairs.virtual.apply(endpoint_slice("by-hand-1", "by-hand", "192.0.2.11"))
    pairs.create(service("by-hand"))
    pairs.endpoints("by-hand", "192.0.2.12")
    pairs.virtual.apply(endpoint_slice("by-hand-2", "by-hand", "192.0.2.13", **{MANAGED_BY: "example.test"}))
    ours = ("syncer.vcluster.loft.sh", ["192.0.2.11"])
    wait_slices(pairs, "by-hand", (MIRRORING, ["192.0.2.12"]), ("example.test", ["192.0.2.13"]), ours)

    def mirrored() -> bool:
        items = pairs.virtual.get(ENDPOINT_SLICES.path("default"), labelSelector=f"{SERVICE_NAME}=by-hand")["items"]
        return MIRRORING in [item["metadata"]["labels"].get(MANAGED_BY) for item in items]

    wait_until(mirrored, "the virtual cluster mirrors as well")
    pairs.virtual.apply(endpoint_slice("by-hand-1", "by-hand", "192.0.2.21"))
    pairs.virtual.delete(ENDPOINT_SLICES.path("default", "by-hand-2"))
    ours = ("syncer.vcluster.loft.sh", ["192.0.2.21"])
    wait_slices(pairs, "by-hand", (MIRRORING, ["192.0.2.12"]), ours)
    pairs.virtual.delete(pairs.path("by-hand"))
    wait_slices(pairs, "by-hand")


def test_a_slice_beside_those_of_a_selector(pairs: ServicePairs) -> None:
    pairs.create(service("mixed", selector={"app": "nobody"}))
    pairs.virtual.apply(endpoint_slice("mixed-more", "mixed", "192.0.2.31"))
    wait_slices(pairs, "mixed", ("syncer.vcluster.loft.sh", ["192.0.2.31"]))


def test_a_host_service_that_somebody_deletes_takes_nothing_along_for_good(pairs: ServicePairs) -> None:
    pairs.create(service("heals"))
    pairs.endpoints("heals", "192.0.2.41")
    wait_slices(pairs, "heals", (MIRRORING, ["192.0.2.41"]))
    pairs.host.delete(pairs.host_path("heals"))
    pairs.settle("heals")
    wait_slices(pairs, "heals", (MIRRORING, ["192.0.2.41"]))


@pytest.mark.usefixtures("simulated_nodes")
def test_references_to_pods_are_those_of_the_host(pairs: ServicePairs) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "target", "namespace": "default"}}
    uid = pairs.virtual.apply({**pod, "spec": {"containers": [{"name": "app", "image": "nginx:1"}]}})["metadata"]["uid"]
    pairs.create(service("refers"))
    target = {"kind": "Pod", "name": "target", "namespace": "default", "uid": uid}
    subsets = [{"addresses": [{"ip": "10.244.0.99", "nodeName": "n1", "targetRef": target}], "ports": [{"port": 80}]}]
    pairs.virtual.apply(
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "refers", "namespace": "default"}, "subsets": subsets}
    )
    pods = PODS.path(*host_key(pairs, "target"))
    wait_until(lambda: pairs.host.find(pods) is not None, "the pod is on the host")
    there = host_key(pairs, "target")
    wanted: dict[str, Any] = {
        "kind": "Pod",
        "namespace": there.namespace,
        "name": there.name,
        "uid": pairs.host.get(pods)["metadata"]["uid"],
    }

    def refers() -> bool:
        found = pairs.host.find(ENDPOINTS.path(*host_key(pairs, "refers")))
        return found is not None and found["subsets"][0]["addresses"][0] == {"ip": "10.244.0.99", "nodeName": "n1", "targetRef": wanted}

    wait_until(refers, "the reference is translated", 20)
    path = ENDPOINT_SLICES.path(pairs.host_namespace)
    selector = f"{SERVICE_NAME}={host_key(pairs, 'refers').name}"
    wait_until(
        lambda: pairs.host.get(path, labelSelector=selector)["items"][0]["endpoints"][0]["targetRef"] == wanted, "so is the slice's", 20
    )


def test_default_kubernetes_stays_in_the_virtual_cluster(pairs: ServicePairs) -> None:
    assert host_endpoints(pairs, "kubernetes") is None
    assert host_slices(pairs, "kubernetes") == []
    found = pairs.virtual.get(ENDPOINTS.path("default", "kubernetes"))
    api = pairs.host.get(f"/api/v1/namespaces/{pairs.host_namespace}/services/endpoints")
    assert found["subsets"][0]["addresses"] == [{"ip": api["spec"]["clusterIP"]}]
    assert pairs.get("kubernetes")["spec"]["clusterIP"] == api["spec"]["clusterIP"]


def test_leader_election_by_endpoints_costs_nothing_on_the_host(pairs: ServicePairs) -> None:
    pairs.create(service("elects"))
    pairs.endpoints("elects", "192.0.2.51")
    wait_slices(pairs, "elects", (MIRRORING, ["192.0.2.51"]))
    path = ENDPOINTS.path(*host_key(pairs, "elects"))
    before = pairs.host.get(path)["metadata"]["resourceVersion"]
    for number in range(5):
        annotations = {"control-plane.alpha.kubernetes.io/leader": f'{{"renewTime":{number}}}'}
        pairs.virtual.request("PATCH", ENDPOINTS.path("default", "elects"), {"metadata": {"annotations": annotations}}, content_type=MERGE)
    pairs.create(service("behind"))
    pairs.endpoints("behind", "192.0.2.52")
    wait_slices(pairs, "behind", (MIRRORING, ["192.0.2.52"]))
    host = pairs.host.get(path)["metadata"]
    assert "control-plane.alpha.kubernetes.io/leader" not in host["annotations"]
    assert host["resourceVersion"] == before

"""Real API servers take what the loops decide, fill in their defaults, and are not asked for the same thing again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.decisions import Cluster
from e2e.lab.api import wait_until
from e2e.lab.state import HOST_SERVICE_RANGE
from syncer.kube.types import ENDPOINTS, EVENTS, NODES, PODS, SERVICE_CIDRS, SERVICES, Key, Obj, Resource, Side, key_of
from syncer.naming import Names
from syncer.resources import configmaps, events, kubernetes_endpoints, kubernetes_service, nodes, pods, secrets, services
from syncer.sync.intents import Again, Wait
from syncer.sync.referenced import FORCE_SYNC
from syncer.sync.view import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.host import HostCluster

pytestmark = pytest.mark.apiserver

NAME = "decided"
KUBERNETES = Key("default", "kubernetes")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")

NOTHING_COPIED = {"automountServiceAccountToken": False}
"""A pod with it refers to no ConfigMap, so the loop of pods alone can take it to the host."""
UNPLACED = {**NOTHING_COPIED, "nodeSelector": {"example.test/nobody": "has-it"}}
"""Nor does the host's scheduler place it, whatever nodes other tests have left there."""


@pytest.fixture(scope="module")
def cluster(host_cluster: HostCluster, virtual_cluster: StartVirtual) -> Iterator[Cluster]:
    virtual = virtual_cluster(NAME)
    names = Names(NAME, virtual.host_namespace)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"vc-{NAME}-owner", "namespace": names.host_namespace}}
    applied = host_cluster.api.apply(owner)
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": f"vc-{NAME}-owner", "uid": applied["metadata"]["uid"]}
    policy = Policy(service_name=NAME, dns_service=f"{NAME}-dns", owner=reference, virtual_version="v1.36.0")
    cluster = Cluster({Side.VIRTUAL: virtual.api, Side.HOST: host_cluster.api}, names, policy)
    cidr = {"apiVersion": SERVICE_CIDRS.api_version, "kind": "ServiceCIDR", "metadata": {"name": "host"}}
    virtual.api.apply({**cidr, "spec": {"cidrs": [HOST_SERVICE_RANGE]}})
    wait_until(lambda: virtual.api.find("/api/v1/namespaces/default/serviceaccounts/default") is not None, "no default service account")
    yield cluster
    for pod in host_cluster.api.get(PODS.path(names.host_namespace))["items"]:
        cluster.delete(Side.HOST, PODS, key_of(pod), {"gracePeriodSeconds": 0})  # there is no kubelet that would confirm
    virtual.remove(wait=False)


def named(name: str, kind: str, **fields: Any) -> Obj:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, **fields}


class TestServices:
    DB = Key("default", "db")

    @pytest.fixture(autouse=True)
    def accepted(self, cluster: Cluster) -> None:
        wait_until(lambda: self._try(cluster), "the virtual API server takes no address of the host")

    def _try(self, cluster: Cluster) -> bool:
        return cluster.settle(kubernetes_service.SPEC, KUBERNETES) == []

    def test_kubernetes_has_the_address_of_the_host_service(self, cluster: Cluster) -> None:
        address = cluster.get(Side.HOST, SERVICES, Key(cluster.names.host_namespace, NAME))["spec"]["clusterIP"]
        assert cluster.get(Side.VIRTUAL, SERVICES, KUBERNETES)["spec"]["clusterIP"] == address
        assert cluster.settle(kubernetes_endpoints.SPEC, KUBERNETES) == []
        endpoints = cluster.get(Side.VIRTUAL, ENDPOINTS, KUBERNETES)
        assert endpoints["subsets"][0]["addresses"] == [{"ip": address}]
        path = ENDPOINT_SLICES.path("default")

        def mirrored() -> bool:
            slices = cluster.apis[Side.VIRTUAL].get(path, labelSelector="kubernetes.io/service-name=kubernetes")["items"]
            return any(endpoint["addresses"] == [address] for item in slices for endpoint in item["endpoints"])

        wait_until(mirrored, "no EndpointSlice of default/kubernetes")

    def test_a_service_through_all_its_types(self, cluster: Cluster) -> None:
        port = {"name": "sql", "port": 5432, "appProtocol": "tcp"}
        cluster.create(Side.VIRTUAL, SERVICES, named("db", "Service", spec={"ports": [port], "selector": {"app": "db"}}))
        self.check(cluster)
        more = {"name": "more", "port": 1, "protocol": "UDP", "targetPort": "more"}
        changes: list[Obj] = [
            {"type": "NodePort"},
            {"ports": [{"name": "sql", "port": 5433, "targetPort": 5433}, more]},
            {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"], "externalTrafficPolicy": "Local"},
            {"loadBalancerSourceRanges": None, "externalTrafficPolicy": "Cluster", "sessionAffinity": "ClientIP"},
            {"sessionAffinity": "None", "sessionAffinityConfig": None, "internalTrafficPolicy": "Local"},
            {"type": "ClusterIP", "externalTrafficPolicy": None, "selector": None},
            {"externalIPs": ["192.0.2.7"], "publishNotReadyAddresses": True},
            {"externalIPs": None, "publishNotReadyAddresses": None, "trafficDistribution": "PreferClose"},
            {"type": "ExternalName", "externalName": "db.example", "clusterIP": None, "clusterIPs": None},
            {"type": "ClusterIP", "externalName": None},
        ]
        for change in changes:
            cluster.patch(Side.VIRTUAL, SERVICES, self.DB, {"spec": change})
            self.check(cluster)

    def test_a_load_balancers_status_comes_up(self, cluster: Cluster) -> None:
        key = Key("default", "balanced")
        cluster.create(Side.VIRTUAL, SERVICES, named("balanced", "Service", spec={"type": "LoadBalancer", "ports": [{"port": 80}]}))
        self.check(cluster, key)
        for ingress in ([{"ip": "192.0.2.1"}], [{"hostname": "lb.example"}], None):
            status = {"status": {"loadBalancer": {"ingress": ingress}}}
            cluster.patch(Side.HOST, SERVICES, cluster.names.host_key(key), status, subresource="status")
            assert cluster.settle(services.SPEC, key, waited=1) == []
            found = cluster.get(Side.VIRTUAL, SERVICES, key)["status"]["loadBalancer"].get("ingress")
            assert [{k: v for k, v in item.items() if k != "ipMode"} for item in found or ()] == (ingress or [])

    def test_from_headless_and_back(self, cluster: Cluster) -> None:
        key = Key("default", "head")
        for address in ("None", None, "None"):
            cluster.create(Side.VIRTUAL, SERVICES, named("head", "Service", spec={"clusterIP": address, "ports": [{"port": 80}]}))
            self.check(cluster, key)
            cluster.delete(Side.VIRTUAL, SERVICES, key)

    def check(self, cluster: Cluster, key: Key = DB) -> None:
        assert cluster.settle(services.SPEC, key, waited=1) == []
        virtual = cluster.get(Side.VIRTUAL, SERVICES, key)["spec"]
        host = cluster.get(Side.HOST, SERVICES, cluster.names.host_key(key))["spec"]
        assert virtual.pop("selector", None) == (self.tenants(host.pop("selector", None)))
        assert virtual == host

    def tenants(self, selector: Obj | None) -> Obj | None:
        return {k: v for k, v in selector.items() if "vcluster.loft.sh/" not in k} if selector else None


class TestReferenced:
    @pytest.mark.parametrize(("spec", "kind"), [(configmaps.SPEC, "ConfigMap"), (secrets.SPEC, "Secret")])
    def test_contents_change_immutable_or_not(self, cluster: Cluster, spec: Any, kind: str) -> None:
        key, resource = Key("default", "app"), spec.kind
        body = named("app", kind, data={"a": "MQ=="})
        body["metadata"]["annotations"] = {FORCE_SYNC: "true"}
        cluster.create(Side.VIRTUAL, resource, body)
        for change in ({}, {"data": {"a": None, "b": "Mg=="}}, {"immutable": True}, {"metadata": {"labels": {"x": "y"}}}):
            cluster.patch(Side.VIRTUAL, resource, key, change)
            self.check(cluster, spec, key)
        cluster.delete(Side.VIRTUAL, resource, key)
        cluster.create(Side.VIRTUAL, resource, {**body, "data": {"c": "Mw=="}, **({"type": "x/y"} if kind == "Secret" else {})})
        self.check(cluster, spec, key)
        cluster.delete(Side.VIRTUAL, resource, key)
        assert cluster.settle(spec, key) == []
        assert cluster.get(Side.HOST, resource, cluster.names.host_key(key)) is None

    def check(self, cluster: Cluster, spec: Any, key: Key) -> None:
        assert cluster.settle(spec, key) == []
        virtual, host = cluster.get(Side.VIRTUAL, spec.kind, key), cluster.get(Side.HOST, spec.kind, cluster.names.host_key(key))
        assert [virtual.get(field) for field in ("data", "immutable", "type")] == [
            host.get(field) for field in ("data", "immutable", "type")
        ]


class TestPods:
    WEB = Key("default", "web")
    N1 = Key("", "decided-n1")

    def test_the_life_of_a_pod(self, cluster: Cluster) -> None:
        names, host_key = cluster.names, cluster.names.host_key(self.WEB)
        spec = {"containers": [{"name": "app", "image": "nginx", "resources": {"requests": {"cpu": "1"}}}], **UNPLACED}
        cluster.create(Side.VIRTUAL, PODS, named("web", "Pod", spec=spec))
        assert cluster.settle(pods.SPEC, self.WEB, waited=60) == []
        metadata = {"name": host_key.name, "uid": cluster.get(Side.HOST, PODS, host_key)["metadata"]["uid"]}
        target = {"apiVersion": "v1", "kind": "Node", "name": self.N1.name}
        path = PODS.path(names.host_namespace, host_key.name, "binding")
        cluster.apis[Side.HOST].request("POST", path, {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target})

        (wait,) = cluster.settle(pods.SPEC, self.WEB)
        assert isinstance(wait, Wait)
        assert cluster.settle(nodes.MADE_UP, self.N1) == []
        node = cluster.get(Side.VIRTUAL, NODES, self.N1)
        assert node["spec"].get("taints") is None
        assert {item["type"]: item["status"] for item in node["status"]["conditions"]}["Ready"] == "True"

        statuses = [{"name": "app", "ready": True, "restartCount": 0, "image": "nginx", "imageID": "", "state": {"running": {}}}]
        running = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "podIP": "10.244.0.9", "containerStatuses": statuses}
        running["podIPs"] = [{"ip": "10.244.0.9"}]
        cluster.patch(Side.HOST, PODS, host_key, {"status": running}, subresource="status")
        assert cluster.settle(pods.SPEC, self.WEB) == []
        virtual = cluster.get(Side.VIRTUAL, PODS, self.WEB)
        assert (virtual["spec"]["nodeName"], virtual["status"]["phase"], virtual["status"]["podIP"]) == (
            self.N1.name,
            "Running",
            "10.244.0.9",
        )

        cluster.patch(Side.VIRTUAL, PODS, self.WEB, {"metadata": {"labels": {"x": "y"}, "annotations": {"x": "y"}}})
        image = {"spec": {"containers": [{"name": "app", "image": "nginx:2"}]}}
        cluster.patch(Side.VIRTUAL, PODS, self.WEB, image, strategy="strategic")
        assert cluster.settle(pods.SPEC, self.WEB) == []
        host = cluster.get(Side.HOST, PODS, host_key)
        assert (host["metadata"]["labels"]["x"], host["spec"]["containers"][0]["image"]) == ("y", "nginx:2")

        cluster.delete(Side.VIRTUAL, PODS, self.WEB, {"gracePeriodSeconds": 20})
        assert cluster.settle(pods.SPEC, self.WEB) == []
        assert cluster.get(Side.HOST, PODS, host_key)["metadata"]["deletionGracePeriodSeconds"] == 20
        cluster.delete(Side.HOST, PODS, host_key, {"gracePeriodSeconds": 3})
        assert cluster.settle(pods.SPEC, self.WEB) == []
        assert cluster.get(Side.VIRTUAL, PODS, self.WEB)["metadata"]["deletionGracePeriodSeconds"] == 3
        cluster.delete(Side.HOST, PODS, host_key, {"gracePeriodSeconds": 0})
        assert cluster.settle(pods.SPEC, self.WEB) == []
        assert cluster.get(Side.VIRTUAL, PODS, self.WEB) is None
        assert cluster.settle(nodes.MADE_UP, self.N1) == []
        assert cluster.get(Side.VIRTUAL, NODES, self.N1) is None

    def test_a_finalizer_outlives_the_host_pod(self, cluster: Cluster) -> None:
        key = Key("default", "job")
        host_key = cluster.names.host_key(key)
        body = named(
            "job",
            "Pod",
            spec={"containers": [{"name": "app", "image": "x"}], "restartPolicy": "Never", "nodeName": "nowhere", **NOTHING_COPIED},
        )
        body["metadata"]["finalizers"] = ["example.test/kept"]
        cluster.create(Side.VIRTUAL, PODS, body)
        assert cluster.settle(pods.SPEC, key, waited=60) == []
        status = {"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}}
        cluster.patch(Side.HOST, PODS, host_key, status, subresource="status")
        assert cluster.settle(pods.SPEC, key) == []
        cluster.delete(Side.HOST, PODS, host_key, {"gracePeriodSeconds": 0})
        assert cluster.settle(pods.SPEC, key) == []
        virtual = cluster.get(Side.VIRTUAL, PODS, key)
        assert virtual["status"]["phase"] == "Failed"
        assert virtual["metadata"]["deletionGracePeriodSeconds"] == 0
        cluster.patch(Side.VIRTUAL, PODS, key, {"metadata": {"finalizers": None}})
        assert cluster.get(Side.VIRTUAL, PODS, key) is None

    def test_a_host_pod_without_a_virtual_one_goes(self, cluster: Cluster) -> None:
        key = Key("default", "left")
        cluster.create(
            Side.VIRTUAL,
            PODS,
            named("left", "Pod", spec={"containers": [{"name": "app", "image": "x"}], "nodeName": "nowhere", **NOTHING_COPIED}),
        )
        assert cluster.settle(pods.SPEC, key, waited=60) == []
        cluster.delete(Side.VIRTUAL, PODS, key, {"gracePeriodSeconds": 0})
        (again,) = cluster.settle(pods.SPEC, key)
        assert isinstance(again, Again)
        assert 30 < again.after <= 61


def test_events_are_mirrored_once_per_version(cluster: Cluster) -> None:
    cluster.create(Side.VIRTUAL, PODS, named("told", "Pod", spec={"containers": [{"name": "app", "image": "x"}], **UNPLACED}))
    assert cluster.settle(pods.SPEC, Key("default", "told"), waited=60) == []
    host_key = cluster.names.host_key(Key("default", "told"))
    host = cluster.get(Side.HOST, PODS, host_key)
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": host_key.namespace, "name": host_key.name, "uid": host["metadata"]["uid"]}
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{host_key.name}.1a2b", "namespace": host_key.namespace},
        "involvedObject": about,
        "reason": "Pulled",
        "message": f"of {host_key.namespace}/{host_key.name}",
        "type": "Normal",
        "count": 1,
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "action": "Pulling",
        "reportingComponent": "kubelet",
        "reportingInstance": "n1",
    }
    cluster.create(Side.HOST, EVENTS, body)
    key = Key("default", "told.1a2b")
    for count in (1, 2):
        cluster.patch(Side.HOST, EVENTS, Key(host_key.namespace, f"{host_key.name}.1a2b"), {"count": count})
        wait_until(lambda: cluster.settle(events.SPEC, key) == [], "the event was written long enough ago", 10)
        event = cluster.get(Side.VIRTUAL, EVENTS, key)
        assert (event["count"], event["message"], event["involvedObject"]["name"]) == (count, "of default/told", "told")
    writes = len(cluster.log)
    assert cluster.settle(events.SPEC, key) == []
    assert len(cluster.log) == writes

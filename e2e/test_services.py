"""Services of a running syncer on real API servers: whatever the tenant does, both sides come to say the same."""

from __future__ import annotations

import signal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import ApiFailure, wait_until
from e2e.servicepairs import MERGE, ServicePairs, service
from syncer.kube.types import ENDPOINTS, RESOURCE_QUOTAS, SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

ELSEWHERE = "elsewhere"  # a host namespace that is not the tenant's


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("services")


@pytest.fixture(scope="module")
def pairs(daemon: Daemon) -> Iterator[ServicePairs]:
    pairs = ServicePairs(daemon)
    daemon.virtual.host.create_namespace(ELSEWHERE)
    yield pairs
    pairs.host.delete(f"/api/v1/namespaces/{ELSEWHERE}")


def node_ports(spec: Obj) -> list[int]:
    return [port.get("nodePort", 0) for port in spec["ports"]]


def host_stranger(pairs: ServicePairs, name: str, **spec: Any) -> None:
    """A Service that somebody else has on the host."""
    body = service(name, **spec)
    body["metadata"]["namespace"] = ELSEWHERE
    pairs.host.request("POST", SERVICES.path(ELSEWHERE), body)


TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
WALK = [TYPES[number] for number in (0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0)]


def test_every_change_of_type_ends_with_two_that_agree(pairs: ServicePairs) -> None:
    assert len({*pairwise(WALK)}) == 12, "all of them"
    pairs.create(
        service("walks", selector={"app": "walks"}, ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81, "protocol": "UDP"}])
    )
    uid = pairs.get("walks")["metadata"]["uid"]
    for kind in WALK[1:]:
        answer = pairs.patch("walks", {"type": kind, "externalName": "example.test" if kind == "ExternalName" else None})["spec"]
        host = pairs.get_host("walks")["spec"]
        if kind != "ExternalName":
            assert answer["clusterIP"] == host["clusterIP"], f"{kind}: at once, and not a moment later"
        if kind in ("NodePort", "LoadBalancer"):
            assert 0 not in node_ports(answer)
            assert node_ports(answer) == node_ports(host), f"{kind}: the host's win, at once"
        settled = pairs.settle("walks")
        assert settled["type"] == kind
        assert {field: answer.get(field) for field in ("clusterIP", "ports")} == {
            field: settled.get(field) for field in ("clusterIP", "ports")
        }
    assert pairs.get("walks")["metadata"]["uid"] == uid
    assert pairs.events("walks") == []


def test_external_name_to_headless_and_back(pairs: ServicePairs) -> None:
    pairs.create(service("head", type="ExternalName", externalName="example.test"))
    for _ in range(2):
        pairs.patch(
            "head", {"type": "ClusterIP", "externalName": None, "clusterIP": "None", "ports": [{"port": 80}], "selector": {"a": "b"}}
        )
        assert pairs.settle("head")["clusterIP"] == "None"
        pairs.patch("head", {"type": "ExternalName", "externalName": "example.test", "clusterIP": None, "clusterIPs": None})
        assert pairs.settle("head")["type"] == "ExternalName"


@pytest.mark.parametrize("addresses", [("None", ""), ("", "None")], ids=["headless to not", "to headless"])
def test_made_anew_with_or_without_an_address(pairs: ServicePairs, addresses: tuple[str, str]) -> None:
    for address in addresses:
        body = service("anew", **({"clusterIP": address} if address else {}))
        wait_until(lambda body=body: bool(pairs.create(body)), "the Service can be made", 20)  # type: ignore[misc]
        assert (pairs.settle("anew")["clusterIP"] == "None") is (address == "None")
        pairs.virtual.delete(pairs.path("anew"))
    wait_until(lambda: pairs.host.find(pairs.host_path("anew")) is None, "the host Service goes")


FIELDS: list[Obj] = [
    {"externalIPs": ["192.0.2.7"]},
    {"externalIPs": None, "publishNotReadyAddresses": True},
    {"publishNotReadyAddresses": None, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}},
    {"sessionAffinity": "None", "sessionAffinityConfig": None, "internalTrafficPolicy": "Local"},
    {"internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferClose"},
    {"trafficDistribution": None, "selector": {"app": "other", "more": "labels"}},
    {"selector": {"app": None}},
    {
        "ports": [
            {"name": "web", "port": 8080, "targetPort": "http", "appProtocol": "kubernetes.io/h2c"},
            {"name": "b", "port": 1, "protocol": "UDP"},
        ]
    },
    {"ports": [{"name": "web", "port": 8080, "targetPort": 81}]},
    {
        "type": "LoadBalancer",
        "loadBalancerClass": "example.test/lb",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "loadBalancerIP": "192.0.2.9",
    },
    {"loadBalancerSourceRanges": None, "loadBalancerIP": None, "externalTrafficPolicy": "Local"},
    {"externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": False},
    {"ports": [{"name": "web", "port": 8080, "nodePort": 0}]},
    {"allocateLoadBalancerNodePorts": True, "ports": [{"name": "web", "port": 8080}, {"name": "c", "port": 2}]},
    {"type": "NodePort", "loadBalancerClass": None, "allocateLoadBalancerNodePorts": None, "externalTrafficPolicy": "Local"},
    {"externalTrafficPolicy": "Cluster", "selector": None},
]


def test_every_field_goes_down_and_off_again(pairs: ServicePairs) -> None:
    pairs.create(service("fields", selector={"app": "fields"}))
    for change in FIELDS:
        pairs.patch("fields", change)
        spec = pairs.settle("fields")
        plain = {field: value for field, value in change.items() if field not in ("ports", "selector")}
        assert {field: spec.get(field) for field in plain} == plain, change
    selector = pairs.get_host("fields")["spec"].get("selector")
    assert selector is None


def test_the_hosts_selector_is_narrowed(pairs: ServicePairs) -> None:
    pairs.create(service("narrow", selector={"app": "narrow"}))
    assert pairs.get_host("narrow")["spec"]["selector"] == {
        "app": "narrow",
        "vcluster.loft.sh/managed-by": "services",
        "vcluster.loft.sh/namespace": "default",
    }


def test_a_body_without_a_kind(pairs: ServicePairs) -> None:
    made = pairs.create({"metadata": {"name": "kindless"}, "spec": {"ports": [{"port": 80}], "type": "NodePort"}})
    assert made["spec"]["clusterIP"] == pairs.get_host("kindless")["spec"]["clusterIP"]
    pairs.settle("kindless")


def test_a_load_balancer_has_the_hosts_address_ports_and_status(pairs: ServicePairs) -> None:
    body = service(
        "balanced", type="LoadBalancer", externalTrafficPolicy="Local", ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    )
    made, host = pairs.create(body)["spec"], pairs.get_host("balanced")["spec"]
    fields = ("clusterIP", "clusterIPs", "ports", "healthCheckNodePort")
    assert [made[field] for field in fields] == [host[field] for field in fields]
    pairs.settle("balanced")
    port = {"port": 80, "protocol": "TCP", "error": "example.test/Pending"}
    condition = {
        "type": "example.test/Ready",
        "status": "False",
        "reason": "Waiting",
        "message": f"of {pairs.host_namespace}/balanced-x-default-x-services",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    told = {**condition, "message": "of default/balanced"}
    statuses: list[tuple[Obj, list[Obj]]] = [
        ({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP", "ports": [port]}]}}, []),
        ({"loadBalancer": {"ingress": [{"hostname": "lb.example.test"}]}, "conditions": [condition]}, [told]),
        ({"loadBalancer": {"ingress": None}, "conditions": None}, []),
    ]
    for status, conditions in statuses:
        pairs.host.request("PATCH", pairs.host_path("balanced", "status"), {"status": status}, content_type=MERGE)
        wanted = pairs.get_host("balanced")["status"].get("loadBalancer", {})

        def shown(wanted: Obj = wanted, conditions: list[Obj] = conditions) -> bool:
            virtual = pairs.get("balanced")["status"]
            return bool(virtual.get("loadBalancer", {}) == wanted and virtual.get("conditions", []) == conditions)

        wait_until(shown, f"the status {status} is shown", 10)


def test_a_tenants_word_on_the_status_is_taken_and_then_the_hosts_is_shown(pairs: ServicePairs) -> None:
    pairs.create(service("lifecycle", type="LoadBalancer"))
    pairs.settle("lifecycle")
    change = {"metadata": {"annotations": {"patched": "true"}}, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}
    answer = pairs.virtual.request("PATCH", pairs.path("lifecycle", "status"), change, content_type=MERGE)
    assert answer["status"]["loadBalancer"]["ingress"][0]["ip"] == "203.0.113.1"
    wait_until(lambda: not pairs.get("lifecycle")["status"]["loadBalancer"], "nothing balances it")
    wait_until(lambda: pairs.get_host("lifecycle")["metadata"]["annotations"].get("patched") == "true", "its annotation goes down")
    pairs.virtual.delete(pairs.path("lifecycle"))
    wait_until(lambda: pairs.host.find(pairs.host_path("lifecycle")) is None, "it goes on the host")


def test_a_node_port_that_is_free_is_given_and_one_that_is_taken_refused_in_words(pairs: ServicePairs) -> None:
    host_stranger(pairs, "taken", type="NodePort", ports=[{"port": 80, "nodePort": 30321}])
    assert node_ports(pairs.create(service("asks", type="NodePort", ports=[{"port": 80, "nodePort": 30322}]))["spec"]) == [30322]
    clash = [{"port": 80, "nodePort": 30321}]
    with pytest.raises(ApiFailure, match="30321: provided port is already allocated") as created:
        pairs.create(service("clashes", type="NodePort", ports=clash))
    with pytest.raises(ApiFailure, match="30321: provided port is already allocated") as updated:
        pairs.patch("asks", {"ports": clash})
    for failure in (created.value, updated.value):
        assert failure.status == 422
        assert not [word for word in (pairs.host_namespace, ELSEWHERE, "-x-") if word in str(failure)]
    assert pairs.virtual.find(pairs.path("clashes")) is None
    assert node_ports(pairs.settle("asks")) == [30322]


def test_a_hosts_quota_refuses_node_ports_at_once(pairs: ServicePairs) -> None:
    used = sum(
        len(item["spec"]["ports"])
        for item in pairs.host.get(SERVICES.path(pairs.host_namespace))["items"]
        if "nodePort" in str(item["spec"])
    )
    path = RESOURCE_QUOTAS.path(pairs.host_namespace, "few")
    pairs.create(service("limited"))
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": pairs.host_namespace}}
    pairs.host.apply({**quota, "spec": {"hard": {"services.nodeports": str(used)}}})
    wait_until(lambda: "used" in pairs.host.get(path).get("status", {}), "the quota counts")
    try:
        with pytest.raises(ApiFailure, match="has no room for it") as refusal:
            pairs.patch("limited", {"type": "NodePort"})
        assert pairs.host_namespace not in str(refusal.value)
        assert pairs.settle("limited")["type"] == "ClusterIP"
    finally:
        pairs.host.delete(path)


def test_an_update_that_the_virtual_api_server_refuses_is_taken_back(pairs: ServicePairs) -> None:
    pairs.create(service("refused"))
    pairs.settle("refused")
    with pytest.raises(ApiFailure, match="a valid label"):
        pairs.patch("refused", {"type": "NodePort"}, {"labels": {"bad": "not a label"}})
    assert pairs.get_host("refused")["spec"]["type"] == "NodePort", "it was changed ahead"
    pairs.patch("refused", {}, {"labels": {"good": "label"}})
    assert pairs.settle("refused")["type"] == "ClusterIP"


class TestDeletedOnTheHost:
    def test_it_comes_back_with_the_same_address_and_ports(self, pairs: ServicePairs) -> None:
        pairs.create(service("back", type="NodePort"))
        before, uid = pairs.settle("back"), pairs.get_host("back")["metadata"]["uid"]
        pairs.host.delete(pairs.host_path("back"))
        wait_until(lambda: (pairs.host.find(pairs.host_path("back")) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, "it is back")
        assert pairs.settle("back") == before
        assert pairs.events("back") == []

    def test_where_that_is_taken_the_virtual_one_follows_and_keeps_its_endpoints(self, daemon: Daemon, pairs: ServicePairs) -> None:
        pairs.create(service("moved", type="NodePort"))
        pairs.endpoints("moved", "192.0.2.1")
        before, uids = pairs.settle("moved"), [pairs.virtual.get(path)["metadata"]["uid"] for path in _both(pairs, "moved")]
        daemon.send(signal.SIGSTOP)
        try:
            pairs.host.delete(pairs.host_path("moved"))
            host_stranger(
                pairs, "took", clusterIP=before["clusterIP"], type="NodePort", ports=[{"port": 80, "nodePort": node_ports(before)[0]}]
            )
        finally:
            daemon.send(signal.SIGCONT)
        wait_until(lambda: pairs.get("moved")["spec"].get("clusterIP") not in (None, before["clusterIP"]), "it has another address", 30)
        now = pairs.settle("moved")
        assert node_ports(now) != node_ports(before)
        assert [pairs.virtual.get(path)["metadata"]["uid"] for path in _both(pairs, "moved")] == uids
        wait_until(lambda: bool(pairs.events("moved")), "the tenant is told")
        (event,) = pairs.events("moved")
        assert (event["reason"], event["involvedObject"]["uid"]) == ("Readdressed", uids[0])
        assert now["clusterIP"] in event["message"]
        assert before["clusterIP"] in event["message"]


def _both(pairs: ServicePairs, name: str) -> list[str]:
    return [pairs.path(name), ENDPOINTS.path("default", name)]


def test_services_that_were_made_without_admission_are_readdressed_in_place(daemon: Daemon, pairs: ServicePairs) -> None:
    daemon.stop()
    pairs.remove_admission()
    names = ["early-balanced", "early-by-hand", "early-headless", "early-plain"]
    pairs.create(service("early-balanced", type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerSourceRanges=["192.0.2.0/24"]))
    pairs.create(service("early-by-hand"))
    pairs.create(service("early-headless", clusterIP="None", selector={"a": "b"}))
    pairs.create(service("early-plain", selector={"a": "b"}, sessionAffinity="ClientIP"))
    pairs.endpoints("early-by-hand", "192.0.2.1")
    uids = [pairs.get(name)["metadata"]["uid"] for name in names]
    before = pairs.get("early-balanced")["spec"]
    endpoints = pairs.virtual.get(ENDPOINTS.path("default", "early-by-hand"))["metadata"]["uid"]
    daemon.start()
    for name in names:
        pairs.settle(name)
    assert [pairs.get(name)["metadata"]["uid"] for name in names] == uids
    assert pairs.virtual.get(ENDPOINTS.path("default", "early-by-hand"))["metadata"]["uid"] == endpoints
    after = pairs.get("early-balanced")["spec"]
    kept = ("type", "externalTrafficPolicy", "loadBalancerSourceRanges", "sessionAffinity", "internalTrafficPolicy")
    assert [after[field] for field in kept] == [before[field] for field in kept]
    assert daemon.metric("syncer_fence_closed") == 0

from __future__ import annotations

import pytest

from syncer.kube.types import ENDPOINTS, SERVICES, Key, Obj, Side
from syncer.resources import kubernetes_service
from syncer.resources.kubernetes_service import KUBERNETES, WRITTEN_ADDRESS
from syncer.translate.merge import apply
from tests.resources.apply import World, told
from tests.resources.objects import API, HOST, deleting, named, ready_world

PORT = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}


def state(service: Obj | None, endpoints: Obj | None, *, host: Obj | None = None) -> World:
    """Changes to default/kubernetes as it should be, and to Endpoints as we write them; `host` replaces the spec of the host Service."""
    world = ready_world(kubernetes_service.SPEC)
    if host is not None:
        world.put(Side.HOST, SERVICES, named("vc", HOST, spec=host))
    if service is not None:
        right = named("kubernetes", spec={"type": "ClusterIP", "clusterIP": API, "clusterIPs": [API], "ports": [PORT]})
        world.put(Side.VIRTUAL, SERVICES, apply(right, service))
    if endpoints is not None:
        ours = named("kubernetes", subsets=[{"addresses": [{"ip": API}], "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}])
        ours["metadata"]["annotations"] = {WRITTEN_ADDRESS: API}
        world.put(Side.VIRTUAL, ENDPOINTS, apply(ours, endpoints))
    return world


def moved(address: str) -> Obj:
    """Endpoints as we wrote them for another address."""
    subsets = [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}]
    return {"metadata": {"annotations": {WRITTEN_ADDRESS: address}}, "subsets": subsets}


THEIRS = {"metadata": {"annotations": None}, "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 6443}]}]}
OVERWRITTEN = {"subsets": THEIRS["subsets"]}
READDRESSED = ["delete virtual services default/kubernetes", "create virtual services default/kubernetes"]
REPOINTED = ["patch virtual endpoints default/kubernetes metadata+subsets"]
WAIT = "wait host services hostns/vc"

RULES: list[tuple[str, Obj | None, Obj | None, Obj | None, list[str]]] = [
    ("as it should be", {}, {}, None, []),
    ("kubernetes service with recreation", {"spec": {"clusterIP": "10.43.0.1"}}, THEIRS, None, READDRESSED),
    ("kubernetes service not existent virtual", None, THEIRS, None, READDRESSED[1:]),
    ("kubernetes service not existent on the host", {}, {}, {}, [WAIT]),
    ("the host's is headless", {}, {}, {"clusterIP": "None"}, [WAIT]),
    ("being deleted", deleting(None), THEIRS, None, ["wait virtual services default/kubernetes"]),
    ("no Endpoints: the API server maintains none", {}, None, None, ["create virtual endpoints default/kubernetes"]),
    ("Endpoints of the API server's", {}, THEIRS, None, []),
    ("Endpoints that the API server has overwritten", {}, OVERWRITTEN, None, []),
    (
        "Endpoints of ours for an earlier address",
        {},
        moved("10.96.9.9"),
        None,
        REPOINTED,
    ),
    ("Endpoints being deleted", {}, apply(moved("10.96.9.9"), deleting(None)), None, []),
]


@pytest.mark.parametrize(("service", "endpoints", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(service: Obj | None, endpoints: Obj | None, host: Obj | None, expected: list[str]) -> None:
    world = state(service, endpoints, host=host)
    assert told(world.decide(kubernetes_service.SPEC, KUBERNETES)) == expected
    world.settle(kubernetes_service.SPEC, KUBERNETES)


def test_the_api_servers_own_ports_are_kept() -> None:
    world = state({"spec": {"clusterIP": "10.43.0.1"}}, THEIRS)
    world.settle(kubernetes_service.SPEC, KUBERNETES)
    service = world.get(Side.VIRTUAL, SERVICES, KUBERNETES)
    assert service is not None
    assert (service["spec"]["clusterIP"], service["spec"]["ports"]) == (API, [PORT])
    assert service["metadata"]["labels"] == {"component": "apiserver", "provider": "kubernetes"}


def test_other_services_are_none_of_its_business() -> None:
    world = state(None, None)
    assert world.decide(kubernetes_service.SPEC, Key("default", "db")) == []


def test_only_these_endpoints_are_cached() -> None:
    (watch,) = (watch for watch in kubernetes_service.SPEC.watches if watch.resource == ENDPOINTS)
    assert watch.slim is not None
    view = state(None, None).view()
    assert watch.slim(named("kubernetes"), view) is not None
    assert watch.slim(named("kubernetes", "shop"), view) is None
    assert watch.slim(named("db"), view) is None


def test_the_service_in_front_of_the_api_server_wakes_it() -> None:
    view = state(None, None).view()
    wake = kubernetes_service.SPEC.wakes[0]
    assert list(wake.keys(named("vc", HOST), view)) == [KUBERNETES]
    assert list(wake.keys(named("db", HOST), view)) == []

from __future__ import annotations

from dataclasses import replace

import pytest

from syncer.kube.types import SERVICES, Key, Obj, Side, uid_of
from syncer.resources import kubernetes_service
from syncer.translate.merge import apply
from syncer.translate.services import KUBERNETES
from tests.resources.apply import World, told
from tests.resources.objects import API, HOST, deleting, named, ready_world

PORT = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}


def state(service: Obj | None, *, host: Obj | None = None) -> World:
    """Changes to default/kubernetes as it should be; `host` replaces the spec of the host Service."""
    world = ready_world(kubernetes_service.SPEC)
    if host is not None:
        world.put(Side.HOST, SERVICES, named("vc", HOST, spec=host))
    if service is not None:
        right = named("kubernetes", spec={"type": "ClusterIP", "clusterIP": API, "clusterIPs": [API], "ports": [PORT]})
        world.put(Side.VIRTUAL, SERVICES, apply(right, service))
    return world


OWN = {"spec": {"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"]}}
RELEASED = {"spec": {"type": "ExternalName", "externalName": "readdressing.invalid", "clusterIP": None, "clusterIPs": None}}
BACK = "patch virtual services default/kubernetes spec"
WAIT = "wait host services hostns/vc"

RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("as it should be", {}, None, []),
    ("kubernetes service with recreation", OWN, None, [BACK, BACK]),
    ("interrupted between the two", RELEASED, None, [BACK]),
    ("kubernetes service not existent virtual", None, None, ["create virtual services default/kubernetes"]),
    ("kubernetes service not existent on the host", {}, {}, [WAIT]),
    ("the host's is headless", {}, {"clusterIP": "None"}, [WAIT]),
    ("being deleted", apply(OWN, deleting(None)), None, ["wait virtual services default/kubernetes"]),
]


@pytest.mark.parametrize(("service", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(service: Obj | None, host: Obj | None, expected: list[str]) -> None:
    world = state(service, host=host)
    assert told(world.decide(kubernetes_service.SPEC, KUBERNETES)) == expected
    world.settle(kubernetes_service.SPEC, KUBERNETES)


def test_it_stays_the_same_object_with_the_api_servers_own_ports() -> None:
    world = state(OWN)
    before = world.get(Side.VIRTUAL, SERVICES, KUBERNETES)
    world.settle(kubernetes_service.SPEC, KUBERNETES)
    service = world.get(Side.VIRTUAL, SERVICES, KUBERNETES)
    assert service is not None
    assert before is not None
    assert (service["spec"]["type"], service["spec"]["clusterIP"], service["spec"]["ports"]) == ("ClusterIP", API, [PORT])
    assert uid_of(service) == uid_of(before)


@pytest.mark.parametrize(
    ("version", "ranges", "tried"),
    [
        ("v1.36.0", (), True),
        ("v1.33.1+k3s1", (), True),
        ("", (), True),
        ("v1.32.5-eks-1a2b", (), False),
        ("v1.30.0", ("10.96.0.0/16",), True),
        ("v1.30.0", ("10.100.0.0/16", "fd00::/108"), False),
    ],
)
def test_an_old_api_server_is_not_asked_for_what_it_would_refuse(version: str, ranges: tuple[str, ...], tried: bool) -> None:
    world = state(OWN)
    world.policy = replace(world.policy, virtual_version=version, service_cidr=ranges)
    left = world.settle(kubernetes_service.SPEC, KUBERNETES)
    assert told(left) == ([] if tried else ["wait "])
    assert bool(world.log) is tried


def test_other_services_are_none_of_its_business() -> None:
    world = state(None)
    assert world.decide(kubernetes_service.SPEC, Key("default", "db")) == []


def test_the_service_in_front_of_the_api_server_wakes_it() -> None:
    view = state(None).view()
    wake = kubernetes_service.SPEC.wakes[0]
    assert list(wake.keys(named("vc", HOST), view)) == [KUBERNETES]
    assert list(wake.keys(named("db", HOST), view)) == []

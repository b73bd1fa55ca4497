from __future__ import annotations

import pytest

from syncer.kube.types import ENDPOINTS, SERVICES, Key, Obj, Side
from syncer.resources import endpoints, kubernetes_endpoints
from syncer.resources.kubernetes_endpoints import WRITTEN_ADDRESS
from syncer.translate.merge import apply
from syncer.translate.services import KUBERNETES
from tests.resources.apply import World, told
from tests.resources.objects import API, HOST, deleting, named, ready_world


def subsets(address: str) -> list[Obj]:
    return [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}]


def written(address: str) -> Obj:
    """Endpoints as we write them."""
    return {"metadata": {"annotations": {WRITTEN_ADDRESS: address}}, "subsets": subsets(address)}


def state(changes: Obj | None, *, host: Obj | None = None) -> World:
    world = ready_world(kubernetes_endpoints.SPEC)
    if host is not None:
        world.put(Side.HOST, SERVICES, named("vc", HOST, spec=host))
    if changes is not None:
        world.put(Side.VIRTUAL, ENDPOINTS, apply(named("kubernetes"), changes))
    return world


THEIRS = {"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 6443}]}]}

RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("none: the API server maintains none", None, None, ["create virtual endpoints default/kubernetes"]),
    ("ours", written(API), None, []),
    ("the API server's", THEIRS, None, []),
    ("ours, which the API server has overwritten", apply(written(API), THEIRS), None, []),
    ("ours for an earlier address", written("10.96.9.9"), None, ["patch virtual endpoints default/kubernetes metadata+subsets"]),
    ("being deleted", apply(written("10.96.9.9"), deleting(None)), None, []),
    ("the host has no address yet", None, {"clusterIP": "None"}, ["wait host services hostns/vc"]),
]


@pytest.mark.parametrize(("changes", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(changes: Obj | None, host: Obj | None, expected: list[str]) -> None:
    world = state(changes, host=host)
    assert told(world.decide(kubernetes_endpoints.SPEC, KUBERNETES)) == expected
    world.settle(kubernetes_endpoints.SPEC, KUBERNETES)


def test_others_are_none_of_its_business() -> None:
    assert state(None).decide(kubernetes_endpoints.SPEC, Key("default", "db")) == []
    (_, wake) = kubernetes_endpoints.SPEC.wakes
    view = state(None).view()
    assert list(wake.keys(named("kubernetes"), view)) == [KUBERNETES]
    assert list(wake.keys(named("kubernetes", "shop"), view)) == []


@pytest.mark.parametrize("key", [KUBERNETES, Key("default", "selected"), Key("default", "by-hand"), Key("default", "none")])
def test_both_loops_of_endpoints_agree_on_which_are_needed_in_full(key: Key) -> None:
    world = state(None)
    world.put(Side.VIRTUAL, SERVICES, named("selected", spec={"selector": {"a": "b"}}))
    world.put(Side.VIRTUAL, SERVICES, named("by-hand", spec={}))
    one, other = kubernetes_endpoints.SPEC.hydrate, endpoints.SPEC.hydrate
    assert one is not None
    assert other is not None
    assert one(key, world.view()) is other(key, world.view()) is (key.name in ("kubernetes", "by-hand"))

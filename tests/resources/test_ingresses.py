from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import INGRESS_CLASSES, INGRESSES, Key, Obj, Side
from syncer.naming import ANNOTATION_UID, LABEL_MANAGED_BY
from syncer.resources.ingresses import APPLIED, SPEC
from syncer.sync.intents import Create, Patch, Warn
from syncer.translate.merge import apply
from tests.resources.apply import World, told
from tests.resources.objects import HOST, deleting, named, ready_world

WEB = Key("default", "web")
HOST_WEB = Key(HOST, "web-x-default-x-vc")
ME = f"host ingresses {HOST_WEB}"
MINE = f"virtual ingresses {WEB}"


def backend(name: str) -> Obj:
    return {"service": {"name": name, "port": {"number": 80}}}


def rule(host: str, *services: str) -> Obj:
    paths = [{"path": f"/{name}", "pathType": "Prefix", "backend": backend(name)} for name in services]
    return {"host": host, "http": {"paths": paths}}


SPEC_OF_WEB: Obj = {"ingressClassName": "nginx", "rules": [rule("a.example", "app")], "tls": [{"secretName": "cert"}]}
ADDRESS: Obj = {"loadBalancer": {"ingress": [{"ip": "192.0.2.7", "ports": [{"port": 443, "protocol": "TCP"}]}]}}
WITHOUT_CLASS: Obj = {"spec": {"ingressClassName": None}}


def world_with(virtual: Obj | None, *changes_of_host: Obj, host: bool = True, drift: int = 0, before: Obj | None = None) -> World:
    """A synced Ingress with changes: `virtual` to the virtual one since then (None: it is gone), `before` to what both began with.

    Changes of the host one follow, which count `drift` up its generation.
    """
    world = ready_world(SPEC)
    start = named("web", spec=SPEC_OF_WEB)
    start["metadata"]["uid"] = "uid-web"
    start = apply(start, before or {})
    world.put(Side.VIRTUAL, INGRESSES, start)
    if host:
        world.settle(SPEC, WEB)
        world.log.clear()
        made = world.objects[Side.HOST, INGRESSES][HOST_WEB]
        made["metadata"]["generation"] = 1 + drift
        for change in changes_of_host:
            made = apply(made, change)
        world.objects[Side.HOST, INGRESSES][HOST_WEB] = made
    if virtual is None:
        del world.objects[Side.VIRTUAL, INGRESSES][WEB]
    else:
        world.objects[Side.VIRTUAL, INGRESSES][WEB] = apply(start, virtual)
    return world


def spec_of(side: Side, world: World) -> Any:
    found = world.get(side, INGRESSES, WEB if side is Side.VIRTUAL else HOST_WEB)
    assert found is not None
    return found["spec"]


HOST_PATH = {"path": "/app", "pathType": "Prefix", "backend": backend("app-x-default-x-vc")}
HOST_RULES = [{"host": "a.example", "http": {"paths": [HOST_PATH]}}]
SOLVER = {"path": "/.well-known/acme-challenge/x", "pathType": "ImplementationSpecific", "backend": backend("cm-acme-http-solver")}
WITH_SOLVER: Obj = {"spec": {"rules": [{"host": "a.example", "http": {"paths": [SOLVER, HOST_PATH]}}]}}
OTHER_RULES: Obj = {"spec": {"rules": [rule("stolen.example", "theirs")]}}

RULES: list[tuple[str, World, list[str]]] = [
    ("Create forward", world_with({}, host=False), [f"create {ME}"]),
    ("deleting already", world_with(deleting(None), host=False), []),
    ("Update forward not needed", world_with({}), []),
    ("Update forward", world_with({"spec": {"rules": [rule("b.example", "app")]}}), [f"patch {ME} metadata+spec"]),
    ("label forward", world_with({"metadata": {"labels": {"a": "b"}}}), [f"patch {ME} metadata"]),
    ("made anew", world_with({"metadata": {"uid": "another"}}), [f"patch {ME} metadata"]),
    ("Update backwards: address", world_with({}, {"status": ADDRESS}), [f"patch {MINE} status"]),
    ("Update backwards not needed", world_with({"status": ADDRESS}, {"status": ADDRESS}), []),
    ("address lost", world_with({"status": ADDRESS}, {"status": {"loadBalancer": {}}}), [f"patch {MINE} status"]),
    ("class given by the host", world_with({}, {"spec": {"ingressClassName": "nginx"}}, before=WITHOUT_CLASS), [f"patch {MINE} spec"]),
    (
        "class given by the host, to one that names its class the old way",
        world_with(
            {},
            {"spec": {"ingressClassName": "nginx"}},
            before={**WITHOUT_CLASS, "metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}},
        ),
        [],
    ),
    ("class taken away by the tenant", world_with(WITHOUT_CLASS), [f"patch {ME} metadata+spec"]),
    ("annotation of a host controller", world_with({}, {"metadata": {"annotations": {"alb/state": "x"}}}), []),
    ("path added by cert-manager", world_with({}, WITH_SOLVER, drift=1), []),
    ("rules taken away by somebody", world_with({}, OTHER_RULES, drift=1), [f"patch {ME} metadata+spec"]),
    ("rules changed in our own request", world_with({}, OTHER_RULES), []),
    ("virtual one is gone", world_with(None), [f"delete {ME} unexplained"]),
    ("virtual one is gone, host one is going", world_with(None, deleting(None)), []),
    ("host one is going", world_with({}, deleting(None)), [f"wait {ME}"]),
    ("virtual one waits for finalizers and works on", world_with(apply(deleting(None), {"metadata": {"finalizers": ["x"]}})), []),
]


@pytest.mark.parametrize(("world", "expected"), [case[1:] for case in RULES], ids=[case[0] for case in RULES])
def test_rule(world: World, expected: list[str]) -> None:
    assert told(world.decide(SPEC, WEB)) == expected
    world.settle(SPEC, WEB)
    assert told(world.decide(SPEC, WEB)) in ([], [f"wait {ME}"])


def test_what_is_created() -> None:
    annotations = {"nginx.ingress.kubernetes.io/auth-secret": "users", "note": "kept"}
    (create,) = world_with({"metadata": {"annotations": annotations}}, host=False).decide(SPEC, WEB)
    assert isinstance(create, Create)
    assert create.obj["spec"] == {"ingressClassName": "nginx", "rules": HOST_RULES, "tls": [{"secretName": "cert-x-default-x-vc"}]}
    made = create.obj["metadata"]
    assert (made["name"], made["namespace"]) == (HOST_WEB.name, HOST)
    assert made["annotations"]["nginx.ingress.kubernetes.io/auth-secret"] == "users-x-default-x-vc"
    assert made["annotations"]["note"] == "kept"
    assert made["annotations"][ANNOTATION_UID] == "uid-web"
    assert made["annotations"][APPLIED].endswith(" 1 nginx")


def test_an_annotation_that_went_goes_on_the_host_and_others_stay() -> None:
    world = world_with({}, {"metadata": {"annotations": {"theirs": "x"}}}, before={"metadata": {"annotations": {"ours": "y"}}})
    world.objects[Side.VIRTUAL, INGRESSES][WEB]["metadata"]["annotations"] = {}
    world.settle(SPEC, WEB)
    host = world.get(Side.HOST, INGRESSES, HOST_WEB)
    assert host is not None
    assert "ours" not in host["metadata"]["annotations"]
    assert host["metadata"]["annotations"]["theirs"] == "x"


def test_a_change_of_the_virtual_one_takes_away_what_it_had_before() -> None:
    world = world_with({"spec": {"tls": None, "ingressClassName": None}})
    world.settle(SPEC, WEB)
    assert spec_of(Side.HOST, world) == {"rules": HOST_RULES}
    assert "ingressClassName" not in spec_of(Side.VIRTUAL, world)


def test_a_class_that_the_host_gave_outlives_a_change_that_comes_before_it_was_shown() -> None:
    world = world_with({"spec": {"tls": None}}, {"spec": {"ingressClassName": "standard"}}, before=WITHOUT_CLASS)
    world.settle(SPEC, WEB)
    assert spec_of(Side.HOST, world)["ingressClassName"] == "standard"
    assert spec_of(Side.VIRTUAL, world)["ingressClassName"] == "standard"


def test_what_was_taken_away_is_put_back_once() -> None:
    """The generation that our patch makes is the one that we note, so an admission plugin that changes it again is not fought."""
    world = world_with({}, OTHER_RULES, drift=4)
    (patch,) = world.decide(SPEC, WEB)
    assert isinstance(patch, Patch)
    assert patch.body["spec"] == {"rules": HOST_RULES}
    assert patch.body["metadata"]["annotations"][APPLIED].split(" ")[1:] == ["6", "nginx"]
    host = apply(apply(world.objects[Side.HOST, INGRESSES][HOST_WEB], patch.body), OTHER_RULES)
    host["metadata"]["generation"] = 6
    world.objects[Side.HOST, INGRESSES][HOST_WEB] = host
    assert world.decide(SPEC, WEB) == []


def put_class(world: World, side: Side, annotations: dict[str, str] | None = None) -> None:
    world.put(side, INGRESS_CLASSES, {"metadata": {"name": "nginx", "annotations": annotations or {}}, "spec": {"controller": "x"}})


CLASSES: list[tuple[str, dict[str, str] | None, bool, frozenset[str], bool]] = [
    ("a class that nobody has", None, False, frozenset(), True),
    ("the host's class, mirrored", {LABEL_MANAGED_BY: "vc"}, True, frozenset(), True),
    ("the host's class, gone since", {LABEL_MANAGED_BY: "vc"}, False, frozenset(), True),
    ("the tenant's own class", {}, False, frozenset(), False),
    ("the tenant's own class of a name that the host has", {}, True, frozenset(), True),
    ("the tenant's own class, the host's are not known", {}, False, frozenset({"ingressclasses.networking.k8s.io"}), True),
]


@pytest.mark.parametrize(("own", "on_host", "lacking", "copied"), [case[1:] for case in CLASSES], ids=[case[0] for case in CLASSES])
def test_class(own: dict[str, str] | None, on_host: bool, lacking: frozenset[str], copied: bool) -> None:
    for host in (False, True):
        world = world_with({}, host=host)
        world.policy = replace(world.policy, lacking=lacking)
        if own is not None:
            put_class(world, Side.VIRTUAL, own)
        if on_host:
            put_class(world, Side.HOST)
        world.settle(SPEC, WEB)
        assert (world.get(Side.HOST, INGRESSES, HOST_WEB) is not None) is copied


def test_a_class_wakes_the_ingresses_that_ask_for_it() -> None:
    world = world_with({})
    put_class(world, Side.VIRTUAL)
    (obj,) = world.objects[Side.VIRTUAL, INGRESS_CLASSES].values()
    for wake in SPEC.wakes:
        assert [*wake.keys(obj, world.view())] == [WEB]


def test_names_of_custom_resources_are_told_when_written() -> None:
    world = world_with({"metadata": {"annotations": {"konghq.com/plugins": "limit"}}}, host=False)
    create, warn = world.decide(SPEC, WEB)
    assert isinstance(create, Create)
    assert isinstance(warn, Warn)
    assert "konghq.com/plugins" in warn.message
    world.settle(SPEC, WEB)
    assert world.decide(SPEC, WEB) == []


def test_an_annotation_that_the_host_cannot_take_is_refused() -> None:
    name = "s" * 50
    annotations = {f"alb.ingress.kubernetes.io/conditions.{name}": "[]"}
    world = world_with({"metadata": {"annotations": annotations}, "spec": {"rules": [rule("a.example", name)]}}, host=False)
    assert told(world.decide(SPEC, WEB)) == ["refuse NameTooLong"]


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "ingressClassName": st.sampled_from(["nginx", "other"]),
        "defaultBackend": st.sampled_from(["a", "b"]).map(backend),
        "rules": st.lists(st.sampled_from([rule("a.example", "a"), rule("b.example", "a", "b")]), max_size=2),
        "tls": st.just([{"secretName": "cert"}]),
    },
)


@given(before=st.none() | SPECS, after=st.none() | SPECS, drift=st.sampled_from([{}, WITH_SOLVER, OTHER_RULES]), count=st.integers(0, 1))
def test_any_state_settles_and_stays(before: Obj | None, after: Obj | None, drift: Obj, count: int) -> None:
    world = ready_world(SPEC)
    for spec in (before, after):
        world.objects[Side.VIRTUAL, INGRESSES].pop(WEB, None)
        if spec is not None:
            world.put(Side.VIRTUAL, INGRESSES, named("web", spec=spec))
        world.settle(SPEC, WEB)
        assert [intent for intent in world.decide(SPEC, WEB) if isinstance(intent, Create | Patch)] == []
        host = world.get(Side.HOST, INGRESSES, HOST_WEB)
        assert (host is None) == (spec is None)
        if host is not None and not drift:
            assert host["spec"].get("ingressClassName") == (spec or {}).get("ingressClassName")
            assert len(host["spec"].get("rules") or ()) == len((spec or {}).get("rules") or ())
        if host is not None:
            host["metadata"]["generation"] = host["metadata"].get("generation", 1) + count
            world.objects[Side.HOST, INGRESSES][HOST_WEB] = apply(host, drift)

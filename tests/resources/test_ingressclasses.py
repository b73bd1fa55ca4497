from __future__ import annotations

import pytest

from syncer.kube.types import INGRESS_CLASSES, Key, Obj, Side
from syncer.naming import LABEL_MANAGED_BY
from syncer.resources.ingressclasses import SPEC
from syncer.sync.intents import Create
from syncer.translate.merge import apply
from tests.resources.apply import World, told
from tests.resources.objects import deleting

NGINX = Key("", "nginx")
ME = f"virtual ingressclasses {NGINX}"
DEFAULT = "ingressclass.kubernetes.io/is-default-class"
ON_HOST: Obj = {
    "metadata": {"name": "nginx", "labels": {"helm": "x"}, "annotations": {DEFAULT: "true", "meta.helm.sh/release-namespace": "secret"}},
    "spec": {"controller": "k8s.io/ingress-nginx", "parameters": {"apiGroup": "x", "kind": "Parameters", "name": "p", "scope": "Cluster"}},
}
MIRRORED: Obj = {"metadata": {"name": "nginx", "annotations": {DEFAULT: "true", LABEL_MANAGED_BY: "vc"}}, "spec": ON_HOST["spec"]}
NOT_OURS: Obj = {"metadata": {"annotations": {LABEL_MANAGED_BY: None}}}
NO_DEFAULT: Obj = {"metadata": {"annotations": {DEFAULT: None}}}
NAMESPACED: Obj = {"spec": {"parameters": {"scope": "Namespace", "namespace": "secret"}}}


def world_with(virtual: Obj | None, host: Obj | None) -> World:
    """`virtual` and `host` are changes to what is in sync; None: there is none."""
    world = World(SPEC)
    if virtual is not None:
        world.put(Side.VIRTUAL, INGRESS_CLASSES, apply(MIRRORED, virtual))
    if host is not None:
        world.put(Side.HOST, INGRESS_CLASSES, apply(ON_HOST, host))
    return world


RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("Sync Up", None, {}, [f"create {ME}"]),
    ("Sync: not needed", {}, {}, []),
    ("Sync: parameters changed", {}, {"spec": {"parameters": {"name": "q"}}}, [f"patch {ME} spec"]),
    ("Sync: parameters gone", {}, {"spec": {"parameters": None}}, [f"patch {ME} spec"]),
    ("Sync: parameters that may not be shown", {}, NAMESPACED, [f"patch {ME} spec"]),
    ("Sync: no default any more", {}, NO_DEFAULT, [f"patch {ME} metadata"]),
    ("Sync: the default now", NO_DEFAULT, {}, [f"patch {ME} metadata"]),
    ("Sync: the tenant has added to it", {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}, {}, []),
    ("Sync: another controller", {}, {"spec": {"controller": "other"}}, [f"delete {ME}", f"create {ME}"]),
    ("Sync Down: the host's is gone", {}, None, [f"delete {ME} unexplained"]),
    ("the host's is going, and was never shown", None, deleting(None), []),
    ("being deleted by the tenant", {"metadata": {"deletionTimestamp": "x", "finalizers": ["x"]}}, {}, []),
    ("the tenant's own, of the same name", NOT_OURS, {"spec": {"controller": "other"}}, []),
    ("the tenant's own", NOT_OURS, None, []),
    ("that of another virtual cluster around this one", {"metadata": {"annotations": {LABEL_MANAGED_BY: "outer"}}}, None, []),
]


@pytest.mark.parametrize(("virtual", "host", "expected"), [case[1:] for case in RULES], ids=[case[0] for case in RULES])
def test_rule(virtual: Obj | None, host: Obj | None, expected: list[str]) -> None:
    world = world_with(virtual, host)
    assert told(world.decide(SPEC, NGINX)) == expected
    world.settle(SPEC, NGINX)


@pytest.mark.parametrize("changes", [{}, NAMESPACED], ids=["for all", "of a namespace"])
def test_nothing_else_of_the_host_is_shown(changes: Obj) -> None:
    (create,) = world_with(None, changes).decide(SPEC, NGINX)
    assert isinstance(create, Create)
    assert create.obj["metadata"] == {"name": "nginx", "annotations": {DEFAULT: "true", LABEL_MANAGED_BY: "vc"}}
    assert "secret" not in str(create.obj)
    assert ("parameters" in create.obj["spec"]) is not bool(changes)

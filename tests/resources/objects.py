"""Objects that the tables of tests/resources start from."""

from __future__ import annotations

from typing import Any

from syncer.kube.types import NAMESPACES, SERVICES, Obj, Side
from syncer.naming import ANNOTATION_KIND, ANNOTATION_NAME, ANNOTATION_NAMESPACE, ANNOTATION_UID, LABEL_MANAGED_BY, LABEL_NAMESPACE
from syncer.sync.spec import SyncSpec
from syncer.translate.merge import apply
from tests.resources.apply import NAMES, World

HOST = "hostns"
API = "10.96.0.10"
DNS = "10.96.0.53"
DELETED = "2027-01-15T08:00:00Z"  # NOW of the World


def named(name: str, namespace: str = "default", **fields: Any) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace}, **fields}


def pod(changes: Obj | None = None, name: str = "web", namespace: str = "default") -> Obj:
    base = named(name, namespace, spec={"containers": [{"name": "app", "image": "nginx"}], "terminationGracePeriodSeconds": 30})
    base["metadata"]["uid"] = f"uid-{name}"
    base["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    changed: Obj = apply(base, changes or {})
    return changed


def deleting(grace: int | None = 30) -> Obj:
    return {"metadata": {"deletionTimestamp": DELETED, **({} if grace is None else {"deletionGracePeriodSeconds": grace})}}


def host_marks(kind: str, name: str, namespace: str = "default", uid: str = "") -> Obj:
    """Metadata of a host object that is provably ours."""
    return {
        "name": NAMES.host_name(namespace, name),
        "namespace": HOST,
        "labels": {LABEL_MANAGED_BY: "vc", LABEL_NAMESPACE: namespace},
        "annotations": {
            ANNOTATION_NAME: name,
            ANNOTATION_NAMESPACE: namespace,
            ANNOTATION_UID: uid or f"uid-{name}",
            ANNOTATION_KIND: f"/v1, Kind={kind}",
        },
    }


def ready_world(*specs: SyncSpec) -> World:
    """A world whose virtual API server and DNS have addresses on the host."""
    world = World(*specs)
    for namespace in ("default", "kube-system", "shop"):
        world.put(Side.VIRTUAL, NAMESPACES, {"metadata": {"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}}})
    world.put(Side.HOST, SERVICES, named("vc", HOST, spec={"clusterIP": API, "ports": [{"port": 443}]}))
    world.put(Side.HOST, SERVICES, named("kube-dns-x-vc", HOST, spec={"clusterIP": DNS, "ports": [{"port": 53}]}))
    return world

"""Whether both sides of a virtual cluster, as they are, say the same: the end state that every run has to come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncer.kube.types import Key, key_of
from syncer.naming import ANNOTATION_KIND, ANNOTATION_NAME, ANNOTATION_NAMESPACE, ANNOTATION_UID, LABEL_MANAGED_BY, Names
from syncer.translate.references import references, token_sources
from syncer.translate.services import CHANGING, PENDING
from syncer.translate.token_secret import KIND as TOKEN_KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from e2e.lab.api import Obj
    from e2e.lab.virtual import VirtualCluster


def differences(virtual: VirtualCluster) -> list[str]:
    """What differs between both sides, or is there on one alone, a sentence each."""
    pods = _virtual(virtual, "pods")
    return [
        *_pods(virtual, pods),
        *_services(virtual),
        *_copies(virtual, "configmaps", pods, lambda pod: references(pod).configmaps),
        *_copies(virtual, "secrets", pods, lambda pod: references(pod).secrets),
        *_tokens(virtual, pods),
        *_nodes(virtual, pods),
    ]


def versions(virtual: VirtualCluster) -> dict[str, str]:
    """resourceVersion, by place and name, of everything that a syncer could write: the same again when nobody has written."""
    found: dict[str, Obj] = {}
    for plural in ("pods", "services", "configmaps", "secrets"):
        found |= {f"host {plural} {key}": obj for key, obj in _host(virtual, plural).items()}
    for plural in ("pods", "services", "endpoints", "configmaps", "secrets", "nodes", "events"):
        found |= {f"virtual {plural} {key}": obj for key, obj in _virtual(virtual, plural).items()}
    return {place: obj["metadata"]["resourceVersion"] for place, obj in found.items()}


def _virtual(virtual: VirtualCluster, plural: str) -> dict[Key, Obj]:
    return {key_of(item): item for item in virtual.api.get(f"/api/v1/{plural}")["items"]}


def _host(virtual: VirtualCluster, plural: str) -> dict[str, Obj]:
    path = f"/api/v1/namespaces/{virtual.host_namespace}/{plural}"
    items = virtual.host.api.get(path, labelSelector=f"{LABEL_MANAGED_BY}={virtual.name}")["items"]
    return {item["metadata"]["name"]: item for item in items}


def _image_of(host: Obj) -> tuple[Key, str]:
    """Key and UID of the virtual object that a host object says it is the image of."""
    annotations = host["metadata"]["annotations"]
    return Key(annotations[ANNOTATION_NAMESPACE], annotations[ANNOTATION_NAME]), annotations[ANNOTATION_UID]


def _pods(virtual: VirtualCluster, pods: dict[Key, Obj]) -> Iterator[str]:
    names, images = Names(virtual.name, virtual.host_namespace), _host(virtual, "pods")
    for key, pod in pods.items():
        image = images.pop(names.host_name(key.namespace, key.name), None)
        if image is None:
            yield f"the pod {key} has no host pod"
        elif _image_of(image) != (key, pod["metadata"]["uid"]):
            yield f"the host pod of {key} is that of {_image_of(image)}"
        elif (ours := _told(pod)) != (theirs := _told(image)):
            yield f"the pod {key}: {ours}, on the host: {theirs}"
    yield from (f"the host pod {name} has no virtual pod" for name in images)


def _told(pod: Obj) -> dict[str, Any]:
    """What a tenant sees of how a pod is."""
    status = pod.get("status", {})
    return {
        "deleting": "deletionTimestamp" in pod["metadata"],
        "node": pod["spec"].get("nodeName"),
        **{field: status.get(field) for field in ("phase", "podIP", "startTime")},
        "conditions": {item["type"]: item["status"] for item in status.get("conditions") or ()},
        "containers": [
            [item[field] for field in ("name", "ready", "restartCount", "state")] for item in status.get("containerStatuses") or ()
        ],
    }


def _services(virtual: VirtualCluster) -> Iterator[str]:
    names, images = Names(virtual.name, virtual.host_namespace), _host(virtual, "services")
    for key, service in _virtual(virtual, "services").items():
        if key == Key("default", "kubernetes"):
            continue
        image = images.pop(names.host_name(key.namespace, key.name), None)
        if image is None:
            yield f"the Service {key} has no host Service"
            continue
        if _image_of(image) != (key, service["metadata"]["uid"]):
            yield f"the host Service of {key} is that of {_image_of(image)}"
        if service["spec"]["clusterIP"] != image["spec"]["clusterIP"]:
            yield f"the Service {key} has the address {service['spec']['clusterIP']}, on the host {image['spec']['clusterIP']}"
        yield from (
            f"the host Service of {key} still has {mark}" for mark in (PENDING, CHANGING) if mark in image["metadata"]["annotations"]
        )
    yield from (f"the host Service {name} has no virtual Service" for name in images)


def _copies(virtual: VirtualCluster, plural: str, pods: dict[Key, Obj], referred: Callable[[Obj], Iterable[str]]) -> Iterator[str]:
    names, originals = Names(virtual.name, virtual.host_namespace), _virtual(virtual, plural)
    images = {
        name: obj for name, obj in _host(virtual, plural).items() if obj["metadata"]["annotations"].get(ANNOTATION_KIND) != TOKEN_KIND
    }
    needed = {Key(key.namespace, name) for key, pod in pods.items() for name in referred(pod)} & originals.keys()
    for key in needed:
        image = images.pop(names.host_name(key.namespace, key.name), None)
        if image is None:
            yield f"{key}, one of {plural}, has no copy on the host"
        elif image.get("data") != originals[key].get("data"):
            yield f"{key}, one of {plural}, has other contents on the host"
    yield from (f"{name}, one of {plural} on the host, is the copy of nothing that a pod needs" for name in images)


def _tokens(virtual: VirtualCluster, pods: dict[Key, Obj]) -> Iterator[str]:
    wanted = {(key, pod["metadata"]["uid"]) for key, pod in pods.items() if token_sources(pod)}
    kept = [obj for obj in _host(virtual, "secrets").values() if obj["metadata"]["annotations"].get(ANNOTATION_KIND) == TOKEN_KIND]
    present = {_image_of(obj) for obj in kept}
    yield from (f"the pod {key} ({uid}) has no tokens on the host" for key, uid in wanted - present)
    yield from (f"tokens on the host are of no pod: {key} ({uid})" for key, uid in present - wanted)


def _nodes(virtual: VirtualCluster, pods: dict[Key, Obj]) -> Iterator[str]:
    used = {pod["spec"].get("nodeName", "") for pod in pods.values()} - {""}
    present = {key.name for key in _virtual(virtual, "nodes")}
    if used != present:
        yield f"there are the nodes {sorted(present)}, and pods on {sorted(used)}"

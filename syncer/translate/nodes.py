"""Host nodes as a virtual cluster sees them, and how what the tenant adds to its Node survives.

Labels are shown as they are, since selectors and topology go by them. Annotations are shown but for those of the machinery that
runs the node (`_MACHINERY`), which tell of the host's network, of its machines and of other tenants' pods. So do the lists
of images and volumes: of images only those remain that this virtual cluster runs, of volumes nothing.

What came from the host is on record in annotations, as with every pair; so the tenant's own labels, annotations, taints and
conditions stay, and what the host drops goes. Everything else is the host's alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from syncer.kube.types import Obj, annotations_of, key_of, labels_of, uid_of
from syncer.naming import (
    ANNOTATION_MANAGED_ANNOTATIONS,
    ANNOTATION_MANAGED_LABELS,
    ANNOTATION_UID,
    DOMAIN,
    LABEL_MANAGED_BY,
    Names,
)
from syncer.translate.merge import diff, owned

FAKE_NODE = DOMAIN + "/fake-node"
"""Label of made-up Nodes, value "true"."""
ORIGINAL_TAINTS = DOMAIN + "/original-taints"
"""Annotation of a shown Node: the host's taints as they were last shown, a JSON list of JSON texts."""
MANAGED_CONDITIONS = DOMAIN + "/managed-conditions"
"""Annotation of a shown Node: the types of the host's conditions, one a line."""

HEARTBEAT_SECONDS = 300.0
"""By how much a shown heartbeat may lag behind the host's; kubelets themselves tell of nothing new every five minutes."""

_MACHINERY = re.compile(
    r"([^/]*\.)?(kubernetes\.io|k8s\.io|x-k8s\.io|k3s\.io|rke2\.io|cattle\.io|k0sproject\.io|talos\.dev|openshift\.io|gardener\.cloud"
    r"|projectcalico\.org|cilium\.io|coreos\.com|ovn\.org|weave\.works|antrea\.io|kube-router\.io|kilo\.squat\.ai|submariner\.io"
    r"|gke\.io|googleapis\.com|amazonaws\.com|eks\.aws|azure\.com|digitalocean\.com|hetzner\.cloud|karpenter\.sh|longhorn\.io|metallb\.io)/.*"
    rf"|io\.cilium\..*|{re.escape(DOMAIN)}/.*"
)
_HIDDEN_STATUS = frozenset({"volumesInUse", "volumesAttached", "config"})
_FOLLOWS_READY = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
_ONCE = ("podCIDR", "podCIDRs", "providerID")
"""Fields of the spec that cannot change any more once they are set."""
_COMPARED = ("capacity", "allocatable", "addresses", "daemonEndpoints", "images")
_COMPARED_INFO = (
    "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeletVersion", "operatingSystem",
    "architecture",
)  # fmt: skip
"""Known to every version. What a server does not know it drops, and would be sent for ever; so the rest only goes along."""

Tolerations = Iterable[Mapping[str, Any]]
IsOwnImage = Callable[[str], bool]
"""Whether a name of an image is that of one which a pod of this virtual cluster runs there."""


def kept(host: Obj, *, images: bool) -> Obj:
    """What of a host node is worth keeping in memory: what may be shown. The list of images only if they are wanted."""
    metadata = dict(host["metadata"])
    metadata["annotations"] = {key: value for key, value in annotations_of(host).items() if not _MACHINERY.fullmatch(key)}
    hidden = _HIDDEN_STATUS if images else _HIDDEN_STATUS | {"images"}
    status = {key: value for key, value in (host.get("status") or {}).items() if key not in hidden}
    return {**host, "metadata": metadata, "status": status}


def shown_node(names: Names, tolerations: Tolerations, host: Obj, is_own_image: IsOwnImage) -> Obj:
    """The virtual Node to create for a host node, as `kept` leaves it."""
    metadata = _metadata(names, host)
    taints = _host_taints(host, tolerations)
    annotations = {**metadata["annotations"], ORIGINAL_TAINTS: _record(taints)}
    metadata["annotations"] = {key: value for key, value in annotations.items() if value is not None}
    spec = {key: value for key, value in {**_host_spec({}, host), "taints": taints}.items() if value}
    status = _status({}, host, is_own_image)
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": key_of(host).name, **metadata}, "spec": spec, "status": status}


def node_patch(names: Names, tolerations: Tolerations, virtual: Obj, host: Obj) -> Obj | None:
    """The merge patch of metadata and spec that brings a virtual Node to what the host has now; None when nothing is to be done."""
    metadata = _metadata(names, host)
    recorded = annotations_of(virtual)
    for part, record in (("labels", ANNOTATION_MANAGED_LABELS), ("annotations", ANNOTATION_MANAGED_ANNOTATIONS)):
        for key in recorded.get(record, "").split("\n"):
            metadata[part].setdefault(key, None)
    metadata["labels"][FAKE_NODE] = None
    shown = _host_taints(host, tolerations)
    metadata["annotations"][ORIGINAL_TAINTS] = _record(shown)
    have = virtual.get("spec") or {}
    spec = owned(have, _host_spec(have, host)) or {}
    taints = shown + _own_taints(virtual, host, shown)
    if _by_identity(taints) != _by_identity(have.get("taints") or ()):
        spec["taints"] = taints or None
    changed = owned({"labels": labels_of(virtual), "annotations": recorded}, metadata) or {}
    patch = {**({"metadata": changed} if changed else {}), **({"spec": spec} if spec else {})}
    return patch or None


def node_status_patch(virtual: Obj, host: Obj, is_own_image: IsOwnImage) -> Obj | None:
    """The merge patch of the status, None when nothing is to be done. To be written before `node_patch`, which records what it showed.

    Heartbeats alone are no reason until the shown ones lag behind by `HEARTBEAT_SECONDS`.
    """
    have = virtual.get("status") or {}
    want = _status(virtual, host, is_own_image)
    types = _types(host)
    if _meaning(have) == _meaning(want) and _heartbeat(want, types) - _heartbeat(have, types) < HEARTBEAT_SECONDS:
        return None
    patch = diff(have, want)
    return None if patch is None else {"status": patch}


def without_not_ready(taints: Iterable[Obj]) -> list[Obj]:
    """Without the taints that say that a node is not ready: every API server puts one on a new Node, and node controllers do."""
    return [taint for taint in taints if taint.get("key") not in _FOLLOWS_READY]


def ready_status(node: Mapping[str, Any]) -> str:
    """The status of the condition Ready: True, False or Unknown; "" when there is none."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return next((str(condition.get("status")) for condition in conditions if condition.get("type") == "Ready"), "")


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether a pod with that toleration may be on a node with that taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def _metadata(names: Names, host: Obj) -> Obj:
    """Labels and annotations with their records; None for a record of nothing."""
    labels = {key: value for key, value in labels_of(host).items() if not key.startswith(f"{DOMAIN}/")}
    annotations = dict(annotations_of(host))
    return {
        "labels": labels,
        "annotations": {
            **annotations,
            LABEL_MANAGED_BY: names.suffix,
            ANNOTATION_UID: uid_of(host),
            ANNOTATION_MANAGED_LABELS: "\n".join(sorted(labels)) or None,
            ANNOTATION_MANAGED_ANNOTATIONS: "\n".join(sorted(annotations)) or None,
            MANAGED_CONDITIONS: "\n".join(sorted(_types(host))) or None,
        },
    }


def _host_spec(have: Mapping[str, Any], host: Obj) -> Obj:
    spec = host.get("spec") or {}
    once = {field: spec[field] for field in _ONCE if spec.get(field) and not have.get(field)}
    return {"unschedulable": spec.get("unschedulable") or None, **once}


def _host_taints(host: Obj, tolerations: Tolerations) -> list[Obj]:
    """Those that matter: what every pod tolerates on the host keeps none away."""
    enforced = list(tolerations)
    taints = (host.get("spec") or {}).get("taints") or ()
    return [taint for taint in taints if not any(tolerates(toleration, taint) for toleration in enforced)]


def _own_taints(virtual: Obj, host: Obj, shown: list[Obj]) -> list[Obj]:
    """The tenant's. While the node is ready those are left out that say that it is not; a node controller agrees, and does not fight."""
    taints = (virtual.get("spec") or {}).get("taints") or []
    if ready_status(host) == "True":
        taints = without_not_ready(taints)
    from_host = {*_by_identity(shown), *_recorded(virtual)}
    return [taint for taint in taints if _identity(taint) not in from_host]


def _identity(taint: Mapping[str, Any]) -> tuple[str, str]:
    """What an API server tells two taints of a node apart by."""
    return taint.get("key") or "", taint.get("effect") or ""


def _by_identity(taints: Iterable[Obj]) -> dict[tuple[str, str], Obj]:
    return {_identity(taint): taint for taint in taints}


def _record(taints: list[Obj]) -> str | None:
    return json.dumps([json.dumps(taint, sort_keys=True) for taint in taints]) if taints else None


def _recorded(virtual: Obj) -> set[tuple[str, str]]:
    """Identities of the host's taints as they were last shown. A record that cannot be read is none."""
    try:
        taints = [json.loads(text) for text in json.loads(annotations_of(virtual).get(ORIGINAL_TAINTS) or "[]")]
        return {_identity(taint) for taint in taints}
    except (ValueError, TypeError, AttributeError):
        return set()


def _status(virtual: Obj, host: Obj, is_own_image: IsOwnImage) -> Obj:
    status = dict(host.get("status") or {})
    if "images" in status:
        status["images"] = _own_images(status["images"] or (), is_own_image)
    from_host = {*_types(host), *annotations_of(virtual).get(MANAGED_CONDITIONS, "").split("\n")}
    own = [condition for condition in (virtual.get("status") or {}).get("conditions") or () if condition.get("type") not in from_host]
    conditions = [*(status.get("conditions") or ()), *own]
    return {**{key: value for key, value in status.items() if value}, **({"conditions": conditions} if conditions else {})}


def _own_images(images: Iterable[Obj], is_own_image: IsOwnImage) -> list[Obj]:
    """By the names that our pods know them by: others may have given the same image a name that tells of them."""
    found = [{**image, "names": [*filter(is_own_image, image.get("names") or ())]} for image in images]
    return [image for image in found if image["names"]]


def _types(node: Obj) -> set[str]:
    return {condition.get("type") or "" for condition in (node.get("status") or {}).get("conditions") or ()}


def _meaning(status: Mapping[str, Any]) -> Obj:
    """What of a status is worth a write."""
    info = status.get("nodeInfo") or {}
    conditions = {
        condition.get("type"): {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
        for condition in status.get("conditions") or ()
    }
    compared = {field: status.get(field) or None for field in _COMPARED}
    return {**compared, "nodeInfo": {field: info.get(field) or "" for field in _COMPARED_INFO}, "conditions": conditions}


def _heartbeat(status: Mapping[str, Any], types: set[str]) -> float:
    """The newest heartbeat of conditions of these types, in epoch seconds; 0.0 without any."""
    times = [condition.get("lastHeartbeatTime") for condition in status.get("conditions") or () if condition.get("type") in types]
    return max((datetime.fromisoformat(time).timestamp() for time in times if time), default=0.0)

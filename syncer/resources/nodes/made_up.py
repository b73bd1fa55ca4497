"""What a made-up Node's pair needs; it has no host object."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from syncer.kube.types import NODES, Lane, Obj, Side, annotations_of, is_deleting, key_of, labels_of, uid_of
from syncer.naming import ANNOTATION_MANAGED_LABELS, LABEL_MANAGED_BY
from syncer.resources.nodes.kubelet import shown_kubelet
from syncer.resources.nodes.leases import keep_alive
from syncer.resources.nodes.needed import is_needed
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch
from syncer.sync.view import View
from syncer.translate.merge import owned
from syncer.translate.metadata import recorded_uid
from syncer.translate.nodes import FAKE_NODE, MANAGED_CONDITIONS, ready_status, without_not_ready

_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

_RESOURCES = {"cpu": "16", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"}
"""Plausible and large: scheduling is the host's business, and what is free there the tenant may not know."""
_CONDITIONS = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("NetworkUnavailable", "False", "RouteCreated", "the host cluster provides the network"),
    ("Ready", "True", "KubeletReady", "pods of this virtual cluster run on this node"),
)


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a made-up Node needs now."""
    node, name = pair.virtual, pair.key.name
    needed = is_needed(name, view)
    if node is None:
        return [Create(Side.VIRTUAL, NODES, _node(name, view))] if needed else []
    if is_deleting(node) or annotations_of(node).get(LABEL_MANAGED_BY) != view.names.suffix:
        return []
    if recorded_uid(node):
        return [Delete(Side.VIRTUAL, NODES, pair.key, uid_of(node), "it shows a host node, and nodes are made up now")]
    if labels_of(node).get(FAKE_NODE) != "true":
        return []
    if not needed:
        return [Delete(Side.VIRTUAL, NODES, pair.key, uid_of(node), "no pod of this virtual cluster is on that node any more")]
    return _update(node, name, view) + keep_alive(node, view, doubted=ready_status(node) == "Unknown")


def _update(node: Obj, name: str, view: View) -> list[Intent]:
    """One write at a time: both replace lists that others write to as well, so both insist on the Node as it was seen."""
    metadata = {"resourceVersion": node["metadata"]["resourceVersion"]}
    if status := _status_changes(node, name, view):
        body = {"metadata": metadata, "status": status}
        return [Patch(Side.VIRTUAL, NODES, key_of(node), uid_of(node), body, subresource="status", lane=Lane.STATUS)]
    taints = (node.get("spec") or {}).get("taints") or []
    if (left := without_not_ready(taints)) != taints:
        return [Patch(Side.VIRTUAL, NODES, key_of(node), uid_of(node), {"metadata": metadata, "spec": {"taints": left or None}})]
    return []


def _node(name: str, view: View) -> Obj:
    labels = {
        FAKE_NODE: "true",
        "kubernetes.io/hostname": name,  # as on the host, so that a selector by it means the same on both sides
        "kubernetes.io/arch": _ARCHITECTURE,
        "kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": _ARCHITECTURE,
        "beta.kubernetes.io/os": "linux",
    }
    annotations = {
        LABEL_MANAGED_BY: view.names.suffix,
        # As on a Node that shows a real one, so that it can become one without a trace.
        ANNOTATION_MANAGED_LABELS: "\n".join(sorted(labels)),
        MANAGED_CONDITIONS: "\n".join(sorted(kind for kind, _, _, _ in _CONDITIONS)),
    }
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    status = {**_fixed_status(name, view), "conditions": _conditions(view.now)}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


def _fixed_status(name: str, view: View) -> Obj:
    return {
        "capacity": dict(_RESOURCES),
        "allocatable": dict(_RESOURCES),
        "addresses": [{"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        **shown_kubelet(name, view),
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
            "kubeletVersion": view.policy.virtual_version, "kubeProxyVersion": view.policy.virtual_version,
            "operatingSystem": "linux", "architecture": _ARCHITECTURE,
        },
    }  # fmt: skip


def _conditions(now: float) -> list[Obj]:
    time = datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        {"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": time, "lastTransitionTime": time}
        for kind, status, reason, message in _CONDITIONS
    ]


def _status_changes(node: Mapping[str, Any], name: str, view: View) -> Obj:
    status = node.get("status") or {}
    changes = owned(status, _fixed_status(name, view)) or {}
    conditions = status.get("conditions") or []
    present = {condition.get("type"): condition.get("status") for condition in conditions}
    if any(present.get(kind) != wanted for kind, wanted, _, _ in _CONDITIONS):
        ours = {kind for kind, _, _, _ in _CONDITIONS}
        changes["conditions"] = [c for c in conditions if c.get("type") not in ours] + _conditions(view.now)
    return changes

"""Nodes: made up, because a namespace's owner may not read the host's. One virtual Node per host node that runs something of ours.

A Node is *needed* while one of our host pods names it, running or finished, or an unfinished virtual pod does. Finished
pods count because the virtual pod garbage collector removes every pod whose Node is gone, and their logs with them;
virtual pods count because a Node that goes with vanished host pods would have the same collector delete what the
deletion guard is just protecting. Pods of DaemonSets do not count: they are there because the Node is.

A Node without our label and annotation is never touched, whoever made it. Only the taint that the virtual API server
itself puts on every new Node is removed; the tenant's own taints, labels and cordons stay.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from syncer.kube.types import NODES, PODS, Key, Lane, Obj, Ref, Side, annotations_of, is_deleting, labels_of, uid_of
from syncer.naming import DOMAIN, LABEL_MANAGED_BY, Names
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch
from syncer.sync.spec import IndexWake, Right, Scope, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.merge import owned
from syncer.translate.metadata import virtual_key
from syncer.translate.owners import OWNER_SET_KIND, controller_kind
from syncer.translate.status import is_finished

FAKE_NODE = DOMAIN + "/fake-node"
"""Label of made-up Nodes, value "true"."""

_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_NOT_READY = "node.kubernetes.io/not-ready"

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
    """What a made-up Node needs now; there is no host object."""
    node = pair.virtual
    needed = is_needed(pair.key.name, view)
    if node is None:
        return [Create(Side.VIRTUAL, NODES, _node(pair.key.name, view))] if needed else []
    if is_deleting(node) or not _is_ours(view.names, node):
        return []
    if not needed:
        return [Delete(Side.VIRTUAL, NODES, pair.key, uid_of(node), "no pod of this virtual cluster is on that node any more")]
    intents: list[Intent] = []
    taints = (node.get("spec") or {}).get("taints") or []
    if any(taint.get("key") == _NOT_READY for taint in taints):
        spec = {"taints": [taint for taint in taints if taint.get("key") != _NOT_READY] or None}
        intents.append(Patch(Side.VIRTUAL, NODES, pair.key, uid_of(node), {"spec": spec}))
    if status := _status_changes(node, pair.key.name, view):
        intents.append(Patch(Side.VIRTUAL, NODES, pair.key, uid_of(node), {"status": status}, subresource="status", lane=Lane.STATUS))
    return intents


def is_needed(node: str, view: View) -> bool:
    """Whether a pod keeps the virtual Node there."""
    for key in view.find(Side.HOST, PODS, "node", node):
        host = view.get(Side.HOST, PODS, key)
        if host is not None and (virtual := virtual_key(view.names, PODS, host)) is not None:
            pod = view.get(Side.VIRTUAL, PODS, virtual)
            kind = annotations_of(host).get(OWNER_SET_KIND) if pod is None else controller_kind(pod)
            if kind != "DaemonSet":
                return True
    return bool(view.find(Side.VIRTUAL, PODS, "node", node))


def _is_ours(names: Names, node: Obj) -> bool:
    return labels_of(node).get(FAKE_NODE) == "true" and annotations_of(node).get(LABEL_MANAGED_BY) == names.suffix


def _node(name: str, view: View) -> Obj:
    labels = {
        FAKE_NODE: "true",
        "kubernetes.io/hostname": name,  # as on the host, so that a selector by it means the same on both sides
        "kubernetes.io/arch": _ARCHITECTURE,
        "kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": _ARCHITECTURE,
        "beta.kubernetes.io/os": "linux",
    }
    metadata = {"name": name, "labels": labels, "annotations": {LABEL_MANAGED_BY: view.names.suffix}}
    status = {**_fixed_status(name, view), "conditions": _conditions(view.now)}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


def _fixed_status(name: str, view: View) -> Obj:
    return {
        "capacity": dict(_RESOURCES),
        "allocatable": dict(_RESOURCES),
        "addresses": [{"type": "Hostname", "address": name}],
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


def node_of(pod: Obj) -> str:
    """The node that a pod is on, "" for none."""
    return (pod.get("spec") or {}).get("nodeName") or ""


def _index_host(pod: Obj) -> list[str]:
    return [node] if (node := node_of(pod)) else []


def _index_virtual(pod: Obj) -> list[str]:
    """Only while the pod keeps its Node, so that the Node is decided anew when it no longer does."""
    finished = is_finished(pod)
    return [] if finished or controller_kind(pod) == "DaemonSet" else _index_host(pod)


SPEC = SyncSpec(
    name="fake-nodes",
    kind=NODES,
    watches=(
        Watch(side=Side.VIRTUAL, resource=NODES),
        Watch(side=Side.VIRTUAL, resource=PODS),
        Watch(side=Side.HOST, resource=PODS, scope=Scope.MANAGED),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, NODES, key),
    host_ref=lambda _names, _key: None,
    virtual_key=lambda _host, _view: None,
    index_wakes=tuple(IndexWake(side, PODS, "node", lambda name, _view: Key("", name)) for side in Side),
    indexes={(Side.HOST, PODS): {"node": _index_host}, (Side.VIRTUAL, PODS): {"node": _index_virtual}},
    host_rights=(Right(group="", resource="pods", verbs=("get", "list", "watch")),),
)

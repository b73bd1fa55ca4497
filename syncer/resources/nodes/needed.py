"""Which nodes this virtual cluster uses, and what of its pods is known by node.

A Node is *needed* while one of our host pods names it, running or finished, or an unfinished virtual pod does. Finished
pods count because the virtual pod garbage collector removes every pod whose Node is gone, and their logs with them;
virtual pods count because a Node that goes with vanished host pods would have the same collector delete what the
deletion guard is just protecting. Pods of DaemonSets do not count: they are there because the Node is.
"""

from __future__ import annotations

from collections.abc import Iterable

from syncer.kube.types import PODS, Key, Obj, Side, annotations_of
from syncer.sync.spec import IndexWake
from syncer.sync.view import Indexes, View
from syncer.translate.metadata import virtual_key
from syncer.translate.owners import OWNER_SET_KIND, controller_kind
from syncer.translate.status import is_finished


def is_needed(node: str, view: View) -> bool:
    """Whether a pod keeps the virtual Node there."""
    if view.has(Side.VIRTUAL, PODS, "node", node):
        return True
    for key in view.find(Side.HOST, PODS, "node", node):
        host = view.get(Side.HOST, PODS, key)
        if host is not None and (virtual := virtual_key(view.names, PODS, host)) is not None:
            pod = view.get(Side.VIRTUAL, PODS, virtual)
            kind = annotations_of(host).get(OWNER_SET_KIND) if pod is None else controller_kind(pod)
            if kind != "DaemonSet":
                return True
    return False


def runs_image(node: str, image: str, view: View) -> bool:
    """Whether a host pod of ours on that node runs an image of that name, as its kubelet calls it."""
    return view.has(Side.HOST, PODS, "node-image", f"{node} {image}")


def _node_of(pod: Obj) -> str:
    return (pod.get("spec") or {}).get("nodeName") or ""


def _by_node(pod: Obj) -> list[str]:
    return [node] if (node := _node_of(pod)) else []


def _by_node_in_use(pod: Obj) -> list[str]:
    """Only while the pod keeps its Node, so that the Node is decided anew when it no longer does."""
    return [] if is_finished(pod) or controller_kind(pod) == "DaemonSet" else _by_node(pod)


def _by_node_and_image(pod: Obj) -> Iterable[str]:
    """By the names that were asked for, and those that the kubelet tells."""
    if node := _node_of(pod):
        spec, status = pod.get("spec") or {}, pod.get("status") or {}
        for kind in ("initContainer", "container", "ephemeralContainer"):
            for container in (*(spec.get(f"{kind}s") or ()), *(status.get(f"{kind}Statuses") or ())):
                for name in (container.get("image"), container.get("imageID")):
                    if name:
                        yield f"{node} {name}"


BY_NODE: Indexes = {(Side.HOST, PODS): {"node": _by_node}, (Side.VIRTUAL, PODS): {"node": _by_node_in_use}}
BY_NODE_AND_IMAGE: Indexes = {
    (Side.HOST, PODS): {"node": _by_node, "node-image": _by_node_and_image},
    (Side.VIRTUAL, PODS): {"node": _by_node_in_use},
}
USED_OR_NOT = tuple(IndexWake(side, PODS, "node", lambda name, _view: Key("", name)) for side in Side)
"""Has a Node decided when a pod comes to it or leaves it."""
IMAGE_IN_USE = IndexWake(Side.HOST, PODS, "node-image", lambda value, _view: Key("", value.partition(" ")[0]))

"""What a real node's pair needs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from syncer.kube.types import NODES, Lane, Obj, Side, annotations_of, is_deleting, key_of, labels_of, uid_of
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.resources.nodes.kubelet import shown_kubelet
from syncer.resources.nodes.leases import keep_alive
from syncer.resources.nodes.needed import is_needed, runs_image
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch
from syncer.sync.view import View
from syncer.translate.metadata import recorded_uid
from syncer.translate.nodes import kept, node_patch, node_status_patch, ready_status, shown_node
from syncer.translate.selectors import matches, parse_selector


def slim(host: Obj, view: View) -> Obj:
    """Of a host node what may be shown."""
    return kept(host, images=not view.policy.clear_node_images)


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the Node of a host node needs now; `pair.host` is a node as `slim` leaves it."""
    node, host = pair.virtual, pair.host if pair.host is None else _with_kubelet(pair.host, view)
    if node is None:
        return [_create(host, view)] if host is not None and _is_shown(host, view) else []
    if is_deleting(node) or not _is_ours(view.names, node):
        return []
    if host is None:
        return [Delete(Side.VIRTUAL, NODES, pair.key, uid_of(node), "the host has no node of that name any more", unexplained=True)]
    if recorded_uid(node) not in ("", uid_of(host)):
        return [Delete(Side.VIRTUAL, NODES, pair.key, uid_of(node), "the host has another node of that name now")]
    if not _is_shown(host, view) and not is_needed(pair.key.name, view):
        return [Delete(Side.VIRTUAL, NODES, pair.key, uid_of(node), "the host node is not selected or not used any more")]
    doubted = ready_status(node) == "Unknown" != ready_status(host)
    return _update(node, host, view) + keep_alive(node, view, doubted=doubted)


def _with_kubelet(host: Obj, view: View) -> Obj:
    """The host's node as it is shown: with the kubelet that the tenant is to ask."""
    status = host.get("status") or {}
    return {**host, "status": {**status, **shown_kubelet(key_of(host).name, view, status.get("addresses") or ())}}


def _is_shown(host: Obj, view: View) -> bool:
    """Whether a Node is made for it. One that is there stays for as long as it is needed as well, or its pods would be lost."""
    policy, name = view.policy, key_of(host).name
    if policy.node_selector:
        selected = matches(parse_selector(policy.node_selector), labels_of(host))
        return selected or (not policy.enforce_node_selector and is_needed(name, view))
    return policy.sync_all_nodes or is_needed(name, view)


def _is_ours(names: Names, node: Mapping[str, Any]) -> bool:
    return annotations_of(node).get(LABEL_MANAGED_BY) == names.suffix


def _create(host: Obj, view: View) -> Intent:
    name = key_of(host).name
    return Create(Side.VIRTUAL, NODES, shown_node(view.names, view.policy.enforced_tolerations, host, partial(_runs, view, name)))


def _update(node: Obj, host: Obj, view: View) -> list[Intent]:
    """One write at a time: both replace lists that others write to as well, so both insist on the Node as it was seen."""
    key, version = key_of(node), node["metadata"]["resourceVersion"]
    if status := node_status_patch(node, host, partial(_runs, view, key.name)):
        body = {"metadata": {"resourceVersion": version}, **status}
        return [Patch(Side.VIRTUAL, NODES, key, uid_of(node), body, subresource="status", lane=Lane.STATUS)]
    if patch := node_patch(view.names, view.policy.enforced_tolerations, node, host):
        body = {**patch, "metadata": {**(patch.get("metadata") or {}), "resourceVersion": version}}
        return [Patch(Side.VIRTUAL, NODES, key, uid_of(node), body)]
    return []


def _runs(view: View, node: str, image: str) -> bool:
    return runs_image(node, image, view)

"""What is behind the host Services of kubelets where the Service in front of the proxy has no selector: the same as behind that one."""

from __future__ import annotations

from syncer.kube.types import ENDPOINT_SLICES, NODES, SERVICES, Key, Obj, Ref, Side, is_deleting, key_of, labels_of, uid_of
from syncer.resources.nodes.kubelet import NODES_BY_CLUSTER, is_wanted, our_nodes, when_in_front
from syncer.sync.front import api_service, is_in_front, kept_slice
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, SyncSpec, Wake, Watch
from syncer.sync.view import View
from syncer.translate.endpoints import SERVICE_NAME
from syncer.translate.kubelets import node_of, node_slice, node_slice_patch, selector_of

_BY_SERVICE = "service"


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the EndpointSlice (`pair.host`) of a Node's kubelet (`pair.virtual`) needs now."""
    node, have = pair.virtual, pair.host
    if node is not None and is_deleting(node):
        return []
    want = _wanted(node, view) if node is not None and is_wanted(node, view) else None
    if want is None:
        if have is None or is_deleting(have):
            return []
        why = "the virtual Node is gone" if node is None else "nothing is copied there any more"
        return [_delete(have, why, unexplained=node is None)]
    if have is None:
        return [Create(Side.HOST, ENDPOINT_SLICES, want)]
    if is_deleting(have):
        return [_until_gone(have)]
    if have["addressType"] != want["addressType"]:
        return [_delete(have, "cannot be changed in place, so it is made anew"), _until_gone(have)]
    patch = node_slice_patch(want, have)
    return [Patch(Side.HOST, ENDPOINT_SLICES, key_of(have), uid_of(have), patch)] if patch else []


def _wanted(node: Obj, view: View) -> Obj | None:
    front = view.get(*api_service(view))
    if front is None or selector_of(front):
        return None
    keys = view.find(Side.HOST, ENDPOINT_SLICES, _BY_SERVICE, view.policy.service_name)
    sources = [found for key in keys if (found := view.get(Side.HOST, ENDPOINT_SLICES, key)) is not None]
    return node_slice(view.names, view.policy.owner, node, sources, view.policy.kubelet_port)


def _delete(have: Obj, why: str, *, unexplained: bool = False) -> Delete:
    return Delete(Side.HOST, ENDPOINT_SLICES, key_of(have), uid_of(have), why, unexplained=unexplained)


def _until_gone(have: Obj) -> Wait:
    return Wait(on=(Ref(Side.HOST, ENDPOINT_SLICES, key_of(have)),), reason="the old EndpointSlice has to go before a new one can be made")


def _by_service(obj: Obj) -> list[str]:
    return [name] if (name := labels_of(obj).get(SERVICE_NAME)) else []


def _node_of(host: Obj, view: View) -> Key | None:
    node = node_of(view.names, host)
    return None if node is None else Key("", node)


def endpoints_spec(name: str, part_of: str) -> SyncSpec:
    """The loop of these EndpointSlices, for the Nodes of another loop."""
    return SyncSpec(
        name=name,
        part_of=part_of,
        kind=NODES,
        watches=(
            Watch(side=Side.VIRTUAL, resource=NODES),
            Watch(side=Side.HOST, resource=SERVICES),
            Watch(side=Side.HOST, resource=ENDPOINT_SLICES, slim=kept_slice),
        ),
        decide=decide,
        virtual_ref=lambda key: Ref(Side.VIRTUAL, NODES, key),
        host_ref=lambda names, key: Ref(Side.HOST, ENDPOINT_SLICES, names.node_service(key.name)),
        virtual_key=_node_of,
        wakes=(
            Wake(Side.HOST, SERVICES, when_in_front),
            Wake(Side.HOST, ENDPOINT_SLICES, lambda obj, view: our_nodes(view) if is_in_front(obj, view) else []),
        ),
        indexes={**NODES_BY_CLUSTER, (Side.HOST, ENDPOINT_SLICES): {_BY_SERVICE: _by_service}},
        host_rights=(
            Right(group="", resource="services", verbs=("get", "list", "watch")),
            Right(
                group=ENDPOINT_SLICES.group,
                resource=ENDPOINT_SLICES.plural,
                verbs=("get", "list", "watch", "create", "patch", "delete"),
            ),
        ),
        dispensable=True,
    )

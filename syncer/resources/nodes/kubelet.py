"""Where the kubelet of a virtual Node is: at the proxy, and at a host Service of its own that leads there.

The Service belongs to the Node's name: a Node that is made anew has the address of the one before it. Whatever the Service in front
of the proxy selects, it selects too. What is behind one without a selector, `kubelet_endpoints` copies.
"""

from __future__ import annotations

from collections.abc import Iterable

from syncer.kube.types import NODES, SERVICES, Key, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.front import api_service, cluster_address
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, SyncSpec, Wake, Watch
from syncer.sync.view import Indexes, View
from syncer.translate.kubelets import kubelet_status, node_of, node_service, node_service_patch

_OURS = "managed-by"
_ANEW = 10.0
"""Seconds that the Service of a Node outlives it, so that one that is made anew has the same address."""


def shown_kubelet(node: str, view: View, others: Iterable[Obj] = ()) -> Obj:
    """The fields of a Node's status that tell where its kubelet is; {} where the proxy does not answer for kubelets."""
    if not view.policy.fake_kubelets:
        return {}
    service = view.get(Side.HOST, SERVICES, view.names.node_service(node)) if view.policy.kubelet_port else None
    known = service is not None and node_of(view.names, service) == node and not is_deleting(service)
    return kubelet_status(node, (cluster_address(service) or "") if known else "", others)


def node_at(service: Obj, view: View) -> list[Key]:
    """The Node whose kubelet is at that host Service: at most one."""
    node = node_of(view.names, service)
    return [] if node is None else [Key("", node)]


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the host Service (`pair.host`) for a Node (`pair.virtual`) needs now."""
    node, service = pair.virtual, pair.host
    if node is None and service is not None and pair.waited < _ANEW:
        return [Wait(on=(Ref(Side.VIRTUAL, NODES, pair.key),), reason="the Node that it is for may be made anew", at_most=_ANEW)]
    if node is None or not is_wanted(node, view):
        why = "the virtual Node is gone" if node is None else "nobody is to find a kubelet there"
        return _delete(service, why, unexplained=node is None)
    if is_deleting(node):
        return []
    front = view.get(*api_service(view))
    if front is None:
        return [Wait(on=(api_service(view),), reason="there is no host Service in front of the proxy yet")]
    names, owner, port = view.names, view.policy.owner, view.policy.kubelet_port
    if service is None:
        return [Create(Side.HOST, SERVICES, node_service(names, owner, node, front, port))]
    if is_deleting(service):
        return [Wait(on=(Ref(Side.HOST, SERVICES, key_of(service)),), reason="the old host Service has to go before a new one can be made")]
    patch = node_service_patch(names, owner, node, front, port, service)
    return [Patch(Side.HOST, SERVICES, key_of(service), uid_of(service), patch)] if patch else []


def is_wanted(node: Obj, view: View) -> bool:
    """Whether there is to be an address for the kubelet of a Node."""
    ours = annotations_of(node).get(LABEL_MANAGED_BY) == view.names.suffix
    return ours and view.policy.fake_kubelets and bool(view.policy.kubelet_port)


def _delete(service: Obj | None, why: str, *, unexplained: bool) -> list[Intent]:
    if service is None or is_deleting(service):
        return []
    return [Delete(Side.HOST, SERVICES, key_of(service), uid_of(service), why, unexplained=unexplained)]


def _by_cluster(node: Obj) -> list[str]:
    return [name] if (name := annotations_of(node).get(LABEL_MANAGED_BY)) else []


NODES_BY_CLUSTER: Indexes = {(Side.VIRTUAL, NODES): {_OURS: _by_cluster}}


def our_nodes(view: View) -> list[Key]:
    """Nodes of this virtual cluster that we made, by `NODES_BY_CLUSTER`."""
    return view.find(Side.VIRTUAL, NODES, _OURS, view.names.suffix)


def when_in_front(service: Obj, view: View) -> list[Key]:
    """All of them for the Service in front of the proxy."""
    return our_nodes(view) if key_of(service).name == view.policy.service_name else []


def services_spec(name: str, part_of: str) -> SyncSpec:
    """The loop of these Services, for the Nodes of another loop."""
    return SyncSpec(
        name=name,
        part_of=part_of,
        kind=NODES,
        watches=(Watch(side=Side.VIRTUAL, resource=NODES), Watch(side=Side.HOST, resource=SERVICES)),
        decide=decide,
        virtual_ref=lambda key: Ref(Side.VIRTUAL, NODES, key),
        host_ref=lambda names, key: Ref(Side.HOST, SERVICES, names.node_service(key.name)),
        virtual_key=lambda host, view: next(iter(node_at(host, view)), None),
        wakes=(Wake(Side.HOST, SERVICES, when_in_front),),
        indexes=NODES_BY_CLUSTER,
        host_rights=(Right(group="", resource="services", verbs=("get", "list", "watch", "create", "patch", "delete")),),
        dispensable=True,
    )

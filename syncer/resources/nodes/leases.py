"""Leases by which our Nodes stay alive, where somebody watches that.

A node controller takes a Node for dead whose status and Lease are not renewed for 40 seconds, and then has its pods evicted
after 300 more. A virtual cluster hardly ever runs one, since it has no kubelets; so Leases are written only once it has shown itself, by
marking one of our Nodes: that one is well again at once, and from then on every Node of ours has a Lease. (Nothing tells of it
before. Its service account, node-controller, is the taint eviction controller's as well, and that one does run.)
"""

from __future__ import annotations

from datetime import UTC, datetime

from syncer.kube.types import LEASES, NODES, Key, Lane, Obj, Side, key_of, labels_of, uid_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.intents import Again, Create, Intent, Patch
from syncer.sync.spec import Scope, Watch
from syncer.sync.view import Indexes, View

RENEWAL_SECONDS = 10.0
"""As kubelets do."""

_NAMESPACE = "kube-node-lease"
_DURATION_SECONDS = 40

WATCH = Watch(side=Side.VIRTUAL, resource=LEASES, scope=Scope.MANAGED)


def _by_cluster(lease: Obj) -> list[str]:
    return [name] if (name := labels_of(lease).get(LABEL_MANAGED_BY)) else []


INDEXES: Indexes = {(Side.VIRTUAL, LEASES): {"managed-by": _by_cluster}}


def keep_alive(node: Obj, view: View, *, doubted: bool) -> list[Intent]:
    """What the Lease of a Node of ours needs now; `doubted`: somebody has marked the Node although it is well."""
    key = Key(_NAMESPACE, key_of(node).name)
    lease = view.get(Side.VIRTUAL, LEASES, key)
    body = _lease(node, view)
    if lease is None:
        if not doubted and not view.find(Side.VIRTUAL, LEASES, "managed-by", view.names.suffix):
            return []
        body = {**body, "metadata": {"name": key.name, "namespace": key.namespace, **body["metadata"]}}
        made = Create(Side.VIRTUAL, LEASES, {"apiVersion": LEASES.api_version, "kind": LEASES.kind, **body}, lane=Lane.STATUS)
        return [made, Again(after=RENEWAL_SECONDS)]
    if labels_of(lease).get(LABEL_MANAGED_BY) != view.names.suffix:
        return []
    age = view.now - _renewed(lease)
    if 0 <= age < RENEWAL_SECONDS:
        return [Again(after=RENEWAL_SECONDS - age)]
    return [Patch(Side.VIRTUAL, LEASES, key, uid_of(lease), body, lane=Lane.STATUS), Again(after=RENEWAL_SECONDS)]


def _lease(node: Obj, view: View) -> Obj:
    """Owned by the Node, so that it goes with it."""
    name = key_of(node).name
    owner = {"apiVersion": NODES.api_version, "kind": NODES.kind, "name": name, "uid": uid_of(node)}
    renewed = datetime.fromtimestamp(view.now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "metadata": {"labels": {LABEL_MANAGED_BY: view.names.suffix}, "ownerReferences": [owner]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": _DURATION_SECONDS, "renewTime": renewed},
    }


def _renewed(lease: Obj) -> float:
    time = (lease.get("spec") or {}).get("renewTime")
    return datetime.fromisoformat(time).timestamp() if time else 0.0

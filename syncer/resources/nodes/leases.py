"""Leases by which our Nodes stay alive, where somebody watches that.

A node controller takes a Node for dead whose status and Lease are not renewed for 40 seconds, and then has its pods evicted.
A virtual cluster hardly ever runs one, since it has no kubelets; so Leases are written only where it shows: it has a service
account of its own, or it has just marked one of our Nodes. Once a Node has a Lease it is renewed for as long as it is there.
"""

from __future__ import annotations

from datetime import UTC, datetime

from syncer.kube.types import LEASES, NODES, SERVICE_ACCOUNTS, Key, Lane, Obj, Side, key_of, labels_of, uid_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.intents import Again, Create, Intent, Patch
from syncer.sync.spec import Scope, Watch
from syncer.sync.view import View

RENEWAL_SECONDS = 10.0
"""As kubelets do."""

_NAMESPACE = "kube-node-lease"
_DURATION_SECONDS = 40
_CONTROLLER = Key("kube-system", "node-controller")
"""The service account of node controllers; a controller manager makes it when it starts one."""

WATCHES = (
    Watch(side=Side.VIRTUAL, resource=LEASES, scope=Scope.MANAGED),
    Watch(side=Side.VIRTUAL, resource=SERVICE_ACCOUNTS, metadata_only=True),
)


def keep_alive(node: Obj, view: View, *, doubted: bool) -> list[Intent]:
    """What the Lease of a Node of ours needs now; `doubted`: somebody has marked the Node although it is well."""
    key = Key(_NAMESPACE, key_of(node).name)
    lease = view.get(Side.VIRTUAL, LEASES, key)
    body = _lease(node, view)
    if lease is None:
        if not doubted and view.get(Side.VIRTUAL, SERVICE_ACCOUNTS, _CONTROLLER) is None:
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

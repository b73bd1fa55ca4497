"""Services: spec down, what the host allocates and the load balancer's status up.

A virtual Service's address must be the one that the host allocated, or no pod reaches it. Normally the admission webhook
sees to that before the Service is stored (see translate.services). One that got past it has an address of the virtual
range; and one whose host Service somebody deleted has one that may be taken by now. The host is asked for the same address
first; if it gives another, the virtual Service is readdressed, and the tenant told. That is safe to interrupt anywhere, because
what the Service was is noted on it. It is only done once `default/kubernetes` carries a host address
(resources.kubernetes_service sees to that): the proof that this virtual API server takes such addresses.

Host Services belong to a name, not to a UID: a virtual Service made anew takes its predecessor's over and so keeps
address and load balancer. A Service that is being deleted (it has finalizers) works until it is gone, as anywhere.
A node port that the tenant changed goes down; only ports without one get the host's.
"""

from __future__ import annotations

from syncer.kube.types import SERVICES, Key, Lane, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.sync.intents import Again, Create, Delete, Intent, Pair, Patch, Wait, Warn
from syncer.sync.spec import Right, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate import services
from syncer.translate.metadata import metadata_patch, recorded_uid, virtual_key
from syncer.translate.services import KUBERNETES, LANDING_SECONDS, PENDING, READDRESSING

_GRACE = 1.0
"""Seconds for which a host Service that is not there is waited for. API servers tell of a deletion before they take back the address."""


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a Service's pair needs now."""
    virtual, host = pair.virtual, pair.host
    if pair.key == KUBERNETES or (virtual is not None and services.is_excluded(virtual)):
        return []
    if virtual is None:
        return [] if host is None else _without_virtual(host, view)
    if host is None:
        if is_deleting(virtual):
            return []
        if pair.waited < _GRACE:
            reason = "there is no host Service; one that was made or deleted just now will show, or let go of what it had"
            return [Wait(on=(Ref(Side.HOST, SERVICES, view.names.host_key(pair.key)),), reason=reason, at_most=_GRACE)]
        wanted = services.before_release(virtual) or virtual
        first, *others = services.host_services(view.names, view.policy.owner, wanted)
        return [Create(Side.HOST, SERVICES, first, alternatives=tuple(others))]
    if is_deleting(host):
        return [_until_gone(host)]
    return _with_both(pair.key, virtual, host, view)


def _without_virtual(host: Obj, view: View) -> list[Intent]:
    if is_deleting(host):
        return []
    since = services.pending_since(host)
    if since is not None and (remaining := since + LANDING_SECONDS - view.now) > 0:
        return [Again(after=remaining)]
    why = "the virtual Service is gone" if since is None else "the virtual Service was not created after all"
    return [_delete(host, why, unexplained=bool(recorded_uid(host)))]


def _with_both(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    if remaining := services.changing_for(virtual, host, view.now):
        return [Again(after=remaining)]
    released = services.before_release(virtual)
    wanted = released or virtual
    if services.is_unlike(wanted, host):
        return [_delete(host, "a Service cannot gain or lose its address, so it is made anew"), _until_gone(host)]
    down = _down(wanted, host, view)
    if any("spec" in patch.body for patch in down):
        # The host allocates or gives up addresses and ports as it takes that, so these follow from its answer. It may not take it.
        return [*down, *_status_up(key, virtual, host, view)]
    if released is None and not services.has_foreign_address(virtual, host):
        return [*down, *_up(key, virtual, host, view)]
    return [*down, *_readdressed(key, virtual, host, view)]


def _down(virtual: Obj, host: Obj, view: View) -> list[Patch]:
    patch: Obj = metadata_patch(view.names, view.policy.owner, SERVICES, virtual, host) or {}
    if PENDING in annotations_of(host):  # but the virtual Service is stored
        metadata = patch.setdefault("metadata", {})
        metadata["annotations"] = {**metadata.get("annotations", {}), PENDING: None}
    if changes := services.spec_changes(view.names, virtual, host):
        patch["spec"] = changes
    return [Patch(Side.HOST, SERVICES, key_of(host), uid_of(host), patch)] if patch else []


def _status_up(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    status = services.status_changes(view.names, virtual, host)
    patch = Patch(Side.VIRTUAL, SERVICES, key, uid_of(virtual), {"status": status}, subresource="status", lane=Lane.STATUS)
    return [patch] if status else []


def _up(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    intents = _status_up(key, virtual, host, view)
    patch: Obj = {}
    if spec := services.allocation_changes(virtual, host):
        patch["spec"] = spec
    if READDRESSING in annotations_of(virtual):
        patch["metadata"] = {"annotations": {READDRESSING: None}}
    return [*intents, Patch(Side.VIRTUAL, SERVICES, key, uid_of(virtual), patch)] if patch else intents


def _readdressed(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    """How the virtual Service gets the host's address."""
    if is_deleting(virtual):
        return []
    if not _takes_host_addresses(view):
        kubernetes = Ref(Side.VIRTUAL, SERVICES, KUBERNETES)
        return [Wait(on=(kubernetes,), reason="the virtual API server has not been seen to accept an address of the host yet")]
    before, uid = services.before_release(virtual), uid_of(virtual)
    was = before or virtual
    message = (
        f"This Service has the address {', '.join(services.addresses(host))} now, since the host cluster did not give it "
        f"{', '.join(services.addresses(was))}; its node ports may have changed as well"
    )
    release = [] if before is not None else [Patch(Side.VIRTUAL, SERVICES, key, uid, services.release_patch(virtual))]
    back = Patch(Side.VIRTUAL, SERVICES, key, uid, services.return_patch(was, host))
    return [*release, back, Warn(Ref(Side.VIRTUAL, SERVICES, key), "Readdressed", message)]


def _takes_host_addresses(view: View) -> bool:
    kubernetes = view.get(Side.VIRTUAL, SERVICES, KUBERNETES)
    api = view.get(Side.HOST, SERVICES, Key(view.names.host_namespace, view.policy.service_name))
    return kubernetes is not None and api is not None and kubernetes["spec"].get("clusterIP") == api["spec"].get("clusterIP")


def _delete(host: Obj, why: str, *, unexplained: bool = False) -> Delete:
    return Delete(Side.HOST, SERVICES, key_of(host), uid_of(host), why, unexplained=unexplained)


def _until_gone(host: Obj) -> Wait:
    return Wait(on=(Ref(Side.HOST, SERVICES, key_of(host)),), reason="the old host Service has to go before a new one can be made")


def _virtual_key(host: Obj, view: View) -> Key | None:
    key = virtual_key(view.names, SERVICES, host)
    return None if key == KUBERNETES else key


SPEC = SyncSpec(
    name="services",
    kind=SERVICES,
    watches=(
        Watch(side=Side.VIRTUAL, resource=SERVICES),
        Watch(side=Side.HOST, resource=SERVICES),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, SERVICES, key),
    host_ref=lambda names, key: Ref(Side.HOST, SERVICES, names.host_key(key)),
    virtual_key=_virtual_key,
    host_rights=(Right(group="", resource="services", verbs=("get", "list", "watch", "create", "patch", "delete")),),
)

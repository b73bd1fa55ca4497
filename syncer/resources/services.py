"""Services: spec down, what the host allocates and the load balancer's status up.

A virtual Service's address must be the one that the host allocated, or no pod reaches it. Normally the admission webhook
sees to that before the Service is stored (see translate.services). One that got past it has an address of the virtual
range, and addresses cannot be changed: it is deleted and made anew with the host's. That is safe to interrupt anywhere,
because the new body is noted on the host Service first, and decide(no virtual, host with a note) creates it. It is only
done once `default/kubernetes` carries a host address (resources.kubernetes_service sees to that): the proof that this
virtual API server takes such addresses, without which the Service would be lost. What cannot be kept: hand-made Endpoints of a
Service without selector, which the virtual endpoints controller removes if it looks in between.

Host Services belong to a name, not to a UID: a virtual Service made anew takes its predecessor's over and so keeps
address and load balancer. A Service that is being deleted (it has finalizers) works until it is gone, as anywhere.
A node port that the tenant changed goes down; only ports without one get the host's.
"""

from __future__ import annotations

from syncer.kube.types import NAMESPACES, SERVICES, Key, Lane, Obj, Ref, Side, is_deleting, key_of, uid_of
from syncer.sync.intents import Again, Create, Delete, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate import services
from syncer.translate.metadata import metadata_patch, recorded_uid, virtual_key
from syncer.translate.services import PENDING, RECREATE

KUBERNETES = Key("default", "kubernetes")
"""The virtual API server's own Service; never copied."""
PENDING_SECONDS = 60.0
"""A virtual create that has not landed after that long never will: API servers give up on a request earlier."""


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a Service's pair needs now."""
    virtual, host = pair.virtual, pair.host
    if pair.key == KUBERNETES or (virtual is not None and services.is_excluded(virtual)):
        return []
    if virtual is None:
        return [] if host is None else _without_virtual(pair.key, host, view)
    if host is None:
        if is_deleting(virtual):
            return []
        return [Create(Side.HOST, SERVICES, services.host_service(view.names, view.policy.owner, virtual))]
    if is_deleting(host):
        return [_until_gone(host)]
    return _with_both(pair.key, virtual, host, view)


def _without_virtual(key: Key, host: Obj, view: View) -> list[Intent]:
    if is_deleting(host):
        return []
    noted = services.noted_recreation(host, key)
    namespace = view.get(Side.VIRTUAL, NAMESPACES, Key("", key.namespace))
    if noted is not None and namespace is not None and not is_deleting(namespace):
        return [Create(Side.VIRTUAL, SERVICES, noted[1])]
    since = services.pending_since(host)
    if since is not None and (remaining := since + PENDING_SECONDS - view.now) > 0:
        return [Again(after=remaining)]
    why = "the virtual Service is gone" if since is None else "the virtual Service was not created after all"
    return [_delete(host, why, unexplained=bool(recorded_uid(host)))]


def _with_both(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    noted = services.noted_recreation(host, key)
    if noted is not None and noted[0] == uid_of(virtual) and is_deleting(virtual):
        reason = "the virtual Service has to go before it is made anew with the host's address"
        return [Wait(on=(Ref(Side.VIRTUAL, SERVICES, key),), reason=reason)]
    down = _down(virtual, host, view)
    if any("spec" in patch.body for patch in down):
        return [*down]  # the host allocates or gives up addresses and ports as it takes that; the rest follows from its answer
    if services.is_headless(virtual) != services.is_headless(host):
        return [_delete(host, "a Service cannot gain or lose its address, so it is made anew"), _until_gone(host)]
    recreated = _readdressed(key, virtual, host, view)
    return [*down, *(_up(key, virtual, host) if recreated is None else recreated)]


def _down(virtual: Obj, host: Obj, view: View) -> list[Patch]:
    patch: Obj = metadata_patch(view.names, view.policy.owner, SERVICES, virtual, host) or {}
    marks = _outlived_marks(virtual, host)
    if marks:
        metadata = patch.setdefault("metadata", {})
        metadata["annotations"] = {**metadata.get("annotations", {}), **marks}
    if changes := services.spec_changes(view.names, virtual, host):
        patch["spec"] = changes
    return [Patch(Side.HOST, SERVICES, key_of(host), uid_of(host), patch)] if patch else []


def _outlived_marks(virtual: Obj, host: Obj) -> Obj:
    """The virtual Service is stored, and is not the one that was to be replaced."""
    marks: Obj = {}
    if services.pending_since(host) is not None:
        marks[PENDING] = None
    if RECREATE in (host["metadata"].get("annotations") or {}):
        noted = services.noted_recreation(host, key_of(virtual))
        if noted is None or noted[0] != uid_of(virtual):
            marks[RECREATE] = None
    return marks


def _up(key: Key, virtual: Obj, host: Obj) -> list[Intent]:
    intents: list[Intent] = []
    if status := services.status_changes(virtual, host):
        intents.append(Patch(Side.VIRTUAL, SERVICES, key, uid_of(virtual), {"status": status}, subresource="status", lane=Lane.STATUS))
    if spec := services.allocation_changes(virtual, host):
        intents.append(Patch(Side.VIRTUAL, SERVICES, key, uid_of(virtual), {"spec": spec}))
    return intents


def _readdressed(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent] | None:
    """How the virtual Service gets the host's address; None when it has it."""
    address = host["spec"].get("clusterIP")
    if not address or virtual["spec"].get("clusterIP") == address:
        return None
    if is_deleting(virtual):
        return []
    if not _takes_host_addresses(view):
        kubernetes = Ref(Side.VIRTUAL, SERVICES, KUBERNETES)
        return [Wait(on=(kubernetes,), reason="the virtual API server has not been seen to accept an address of the host yet")]
    body = services.recreation(virtual, host)
    note = services.recreation_note(virtual, body)
    return [
        Patch(Side.HOST, SERVICES, key_of(host), uid_of(host), {"metadata": {"annotations": {RECREATE: note}}}),
        Delete(Side.VIRTUAL, SERVICES, key, uid_of(virtual), "made anew with the address that the host allocated"),
        Create(Side.VIRTUAL, SERVICES, body),
    ]


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
        Watch(side=Side.VIRTUAL, resource=NAMESPACES, metadata_only=True),
        Watch(side=Side.HOST, resource=SERVICES),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, SERVICES, key),
    host_ref=lambda names, key: Ref(Side.HOST, SERVICES, names.host_key(key)),
    virtual_key=_virtual_key,
    host_rights=(Right(group="", resource="services", verbs=("get", "list", "watch", "create", "patch", "delete")),),
)

"""PersistentVolumes: the virtual one of each claim that is bound on the host, under the name of the host's.

With the right to read the host's volumes it shows their facts, phase and all, and stays, Released, as long as the host keeps a
volume that outlives its claim; without, it is made up from the host claim. Its source says nothing (see translate.volumes). Made
by us, known by an annotation, it is removed when nothing stands behind it any more; a PersistentVolume of the tenant's own is
never touched, nor is any on the host. Of the host's volumes only those are kept in memory that are bound for our host namespace, and of
these only those are shown whose claim is provably ours, or that are shown already.
"""

from __future__ import annotations

from collections.abc import Iterable

from syncer.kube.types import (
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    STORAGE_CLASSES,
    Key,
    Lane,
    Obj,
    Ref,
    Side,
    annotations_of,
    is_deleting,
    key_of,
    uid_of,
)
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, Scope, SyncSpec, Wake, Watch
from syncer.sync.view import View
from syncer.translate import volumes
from syncer.translate.merge import owned
from syncer.translate.metadata import recorded_uid, virtual_key


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a virtual PersistentVolume needs now; `pair.host` is the host's, if it may be read and is ours."""
    virtual, host = pair.virtual, pair.host
    if virtual is not None and not volumes.is_our_volume(view.names, virtual):
        return []
    host_claim, claim = _claims(pair.key.name, view)
    if host_claim is None or claim is None:
        return [] if virtual is None else _unclaimed(virtual, host, view, needed=host_claim is not None)
    if host is not None and _reference(host).get("uid") != uid_of(host_claim):
        host = None  # of an earlier claim, and its last change is not seen yet
    if host is None and _are_readable(view):
        ref = Ref(Side.HOST, PERSISTENT_VOLUMES, pair.key)
        return [Wait(on=(ref,), reason=f"the host's PersistentVolume {pair.key.name} has not been seen yet")]
    want = volumes.virtual_volume(view.names, pair.key.name, host, host_claim, claim, _reclaim_policy(host_claim, view))
    if virtual is None:
        return [Create(Side.VIRTUAL, PERSISTENT_VOLUMES, want)]
    changes = volumes.volume_changes(virtual, want)
    patches: list[Intent] = [Patch(Side.VIRTUAL, PERSISTENT_VOLUMES, pair.key, uid_of(virtual), changes)] if changes else []
    return patches + _status_up(virtual, host, key_of(claim), view, released=False)


def _unclaimed(virtual: Obj, host: Obj | None, view: View, *, needed: bool) -> list[Intent]:
    """The virtual claim is gone. The volume stays while the host has it, or, where that cannot be known, its claim."""
    key, uid = key_of(virtual), uid_of(virtual)
    if host is not None or (needed and not _are_readable(view)):
        reference = _reference(virtual)
        claim = Key(reference["namespace"], reference["name"]) if reference else None
        return _status_up(virtual, host, claim, view, released=True)
    if not is_deleting(virtual):
        return [Delete(Side.VIRTUAL, PERSISTENT_VOLUMES, key, uid, "the host has no such volume for this virtual cluster any more")]
    finalizers = volumes.unprotected(virtual)
    return [Patch(Side.VIRTUAL, PERSISTENT_VOLUMES, key, uid, finalizers)] if finalizers else []


def _status_up(virtual: Obj, host: Obj | None, claim: Key | None, view: View, *, released: bool) -> list[Intent]:
    status = owned(virtual.get("status") or {}, volumes.volume_status(view.names, host, claim, released=released))
    if not status:
        return []
    body = {"status": status}
    return [Patch(Side.VIRTUAL, PERSISTENT_VOLUMES, key_of(virtual), uid_of(virtual), body, subresource="status", lane=Lane.STATUS)]


def _claims(volume: str, view: View) -> tuple[Obj | None, Obj | None]:
    """The host claim of ours that is bound to the volume, and its virtual claim."""
    for host_key in view.find(Side.HOST, PERSISTENT_VOLUME_CLAIMS, "volume", volume):
        host = view.get(Side.HOST, PERSISTENT_VOLUME_CLAIMS, host_key)
        if host is not None and (key := virtual_key(view.names, PERSISTENT_VOLUME_CLAIMS, host)) is not None:
            claim = view.get(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, key)
            return host, claim if claim is not None and uid_of(claim) == recorded_uid(host) else None
    return None, None


def _are_readable(view: View) -> bool:
    return str(PERSISTENT_VOLUMES) not in view.policy.lacking


def _reclaim_policy(host_claim: Obj, view: View) -> str:
    """That of the class, if it is the host's; else what classes have unless they say otherwise."""
    found = view.get(Side.VIRTUAL, STORAGE_CLASSES, Key("", (host_claim.get("spec") or {}).get("storageClassName") or ""))
    ours = found is not None and annotations_of(found).get(LABEL_MANAGED_BY) == view.names.suffix
    return str((found or {}).get("reclaimPolicy") or "Delete") if ours else "Delete"


def _reference(volume: Obj) -> Obj:
    reference: Obj = (volume.get("spec") or {}).get("claimRef") or {}
    return reference


def _slim(volume: Obj, view: View) -> Obj | None:
    return volumes.slim_volume(volume) if _reference(volume).get("namespace") == view.names.host_namespace else None


def _virtual_key(host: Obj, view: View) -> Key | None:
    key, reference = key_of(host), _reference(host)
    claim = view.get(Side.HOST, PERSISTENT_VOLUME_CLAIMS, Key(reference.get("namespace") or "", reference.get("name") or ""))
    if claim is not None and uid_of(claim) == reference.get("uid") and virtual_key(view.names, PERSISTENT_VOLUME_CLAIMS, claim) is not None:
        return key
    shown = view.get(Side.VIRTUAL, PERSISTENT_VOLUMES, key)
    return key if shown is not None and _shows(view.names, shown, host) else None


def _shows(names: Names, virtual: Obj, host: Obj) -> bool:
    return volumes.is_our_volume(names, virtual) and annotations_of(virtual).get(volumes.HOST_VOLUME) == uid_of(host)


def _volume_of(claim: Obj) -> Iterable[str]:
    volume = (claim.get("spec") or {}).get("volumeName")
    return [volume] if volume and (claim.get("status") or {}).get("phase") == "Bound" else []


def _keys(claim: Obj, _view: View) -> Iterable[Key]:
    return [Key("", volume) for volume in _volume_of(claim)]


SPEC = SyncSpec(
    name="persistentvolumes",
    part_of="persistentvolumeclaims",
    kind=PERSISTENT_VOLUMES,
    watches=(
        Watch(side=Side.VIRTUAL, resource=PERSISTENT_VOLUMES),
        Watch(side=Side.VIRTUAL, resource=PERSISTENT_VOLUME_CLAIMS),
        Watch(side=Side.VIRTUAL, resource=STORAGE_CLASSES),
        Watch(side=Side.HOST, resource=PERSISTENT_VOLUME_CLAIMS, scope=Scope.MANAGED),
        Watch(side=Side.HOST, resource=PERSISTENT_VOLUMES, slim=_slim, optional=True),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, PERSISTENT_VOLUMES, key),
    host_ref=lambda _names, key: Ref(Side.HOST, PERSISTENT_VOLUMES, key),
    virtual_key=_virtual_key,
    wakes=(Wake(Side.HOST, PERSISTENT_VOLUME_CLAIMS, _keys), Wake(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, _keys)),
    indexes={(Side.HOST, PERSISTENT_VOLUME_CLAIMS): {"volume": _volume_of}},
    host_rights=(
        Right(group="", resource="persistentvolumeclaims", verbs=("get", "list", "watch")),
        Right(group="", resource="persistentvolumes", verbs=("get", "list", "watch"), optional=True, cluster=True),
    ),
    deletes_virtual=True,
)

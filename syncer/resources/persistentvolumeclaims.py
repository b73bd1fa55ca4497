"""PersistentVolumeClaims: what is asked for goes down, binding, provisioning, resizing and status come up from the host.

Data goes with a claim, so three rules are stricter than elsewhere. A host claim is deleted when the virtual one is *gone*, as a
volume is released when its claim is, and only if somebody was seen deleting that; a claim that is merely absent is held by the
deletion guard, even a single one. A virtual claim that has been bound is never given a second, empty volume: when its host claim is
gone, or stands for another volume, it is `Lost`, as Kubernetes calls it, and whoever owns it decides. And a virtual claim made
anew under the name of a deleted one never finds the old data: the old host claim goes first. (A person who wants just that, after
a restore, takes the annotation `vcluster.loft.sh/object-uid` off the host claim: then the virtual one takes it over.)

A virtual claim shows Bound only once its virtual PersistentVolume is there (see resources.persistentvolumes), with everything
that tells so in one patch: where a binder runs in the virtual cluster, it then finds its own work done.
"""

from __future__ import annotations

from syncer.kube.types import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Key, Lane, Obj, Ref, Side, is_deleting, key_of, uid_of
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Refuse, Wait, Warn
from syncer.sync.spec import Right, Scope, SyncSpec, Wake, Watch
from syncer.sync.view import View
from syncer.translate import volumes
from syncer.translate.merge import owned
from syncer.translate.metadata import recorded_uid, virtual_key

_LOST: Obj = {"phase": "Lost", "accessModes": None, "capacity": None}


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a claim's pair needs now."""
    virtual, host = pair.virtual, pair.host
    if virtual is None:
        return [] if host is None or is_deleting(host) else [_delete(host, "the virtual claim is gone")]
    if host is None:
        return _without_host(pair.key, virtual, view)
    if recorded_uid(host) not in ("", uid_of(virtual)):
        return _after_predecessor(pair.key, host)
    return _with_both(pair.key, virtual, host, view)


def _without_host(key: Key, virtual: Obj, view: View) -> list[Intent]:
    if is_deleting(virtual):
        return []
    if volumes.was_bound(virtual):
        return _lost(key, virtual, "its claim on the host cluster is gone, and the data with it; this claim is not given an empty volume")
    if (why := volumes.unsupported_source(virtual)) is not None:
        return [Refuse("UnsupportedDataSource", why)]
    return [Create(Side.HOST, PERSISTENT_VOLUME_CLAIMS, volumes.host_claim(view.names, view.policy.owner, virtual))]


def _after_predecessor(key: Key, host: Obj) -> list[Intent]:
    """The host claim is that of a virtual claim that had the same name, and is gone, since that name is taken anew."""
    gone = Wait(
        on=(Ref(Side.HOST, PERSISTENT_VOLUME_CLAIMS, key_of(host)),), reason="the volume of an earlier claim of that name has to go"
    )
    if is_deleting(host):
        return [gone]
    delete = _delete(host, "it belongs to an earlier virtual claim of the same name")
    if not delete.unexplained:
        return [delete, gone]
    words = "the host cluster still has the volume of an earlier claim of the same name; it has to go first"
    return [Warn(Ref(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, key), "EarlierVolume", words), delete, gone]


def _with_both(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    intents: list[Intent] = []
    if metadata := volumes.claim_metadata_patch(view.names, view.policy.owner, virtual, host):
        intents.append(_patch_host(host, metadata))
    if is_deleting(host) and not is_deleting(virtual):
        words = "its claim is being deleted on the host cluster: once no pod uses it any more, the data is gone"
        intents.append(Warn(Ref(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, key), "DeletedOnHost", words))
    intents += _up(key, virtual, host, view)
    if not is_deleting(host) and not is_deleting(virtual) and (changes := volumes.claim_changes(virtual, host)):
        intents.append(_patch_host(host, {"spec": changes}))  # last, because the host may refuse it
    return intents


def _up(key: Key, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    phase, volume = (host.get("status") or {}).get("phase") or "Pending", (host.get("spec") or {}).get("volumeName") or ""
    have = (virtual.get("spec") or {}).get("volumeName") or ""
    if volumes.was_bound(virtual) and have != volume:
        return _elsewhere(key, virtual, have, view)
    missing = _missing_volume(virtual, volume, view) if phase == "Bound" else None
    shown = phase != "Pending" and missing is None
    intents: list[Intent] = []
    if binding := volumes.binding_patch(virtual, host, volume=shown):
        intents.append(Patch(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, key, uid_of(virtual), binding))
    if missing is not None:
        return [*intents, missing]
    if status := volumes.claim_status_changes(view.names, virtual, host):
        intents.append(_patch_status(key, virtual, status))
    return intents


def _missing_volume(virtual: Obj, volume: str, view: View) -> Intent | None:
    """What is to be said while a claim that is bound on the host has no PersistentVolume yet; None when it has or once had one."""
    if (virtual.get("status") or {}).get("phase") == "Bound":
        return None
    key = Key("", volume)
    have = view.get(Side.VIRTUAL, PERSISTENT_VOLUMES, key)
    if have is not None and volumes.claims_volume(have, virtual):
        return None
    if have is not None and not volumes.is_our_volume(view.names, have):
        words = (
            f"its volume on the host cluster is called {volume}, and so is a PersistentVolume of this virtual cluster that stands for "
            "something else: delete that one"
        )
        return Refuse("VolumeNameTaken", words)
    return Wait(on=(Ref(Side.VIRTUAL, PERSISTENT_VOLUMES, key),), reason=f"the virtual PersistentVolume {volume} is not there yet")


def _elsewhere(key: Key, virtual: Obj, have: str, view: View) -> list[Intent]:
    """The host claim does not stand for the volume that the virtual claim is bound to."""
    volume = view.get(Side.VIRTUAL, PERSISTENT_VOLUMES, Key("", have))
    if volume is not None and not volumes.is_our_volume(view.names, volume) and volumes.claims_volume(volume, virtual):
        words = (
            f"it is bound to PersistentVolume {have}, which was made in this virtual cluster: nothing on the host cluster mounts "
            "that, so pods that use this claim do not get that volume"
        )
        return [Refuse("VolumeNotOnHost", words)]
    words = f"its claim on the host cluster does not stand for volume {have} any more; the data of that volume is not what pods would get"
    return _lost(key, virtual, words)


def _lost(key: Key, virtual: Obj, words: str) -> list[Intent]:
    status = owned(virtual.get("status") or {}, _LOST)
    warning = Warn(Ref(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, key), "ClaimLost", words)
    return [_patch_status(key, virtual, status), warning] if status else [warning]


def _claim_of(volume: Obj, _view: View) -> list[Key]:
    reference = (volume.get("spec") or {}).get("claimRef") or {}
    return [Key(reference["namespace"], reference["name"])] if reference.get("namespace") and reference.get("name") else []


def _patch_host(host: Obj, body: Obj) -> Patch:
    return Patch(Side.HOST, PERSISTENT_VOLUME_CLAIMS, key_of(host), uid_of(host), body)


def _patch_status(key: Key, virtual: Obj, status: Obj) -> Patch:
    body = {"status": status}
    return Patch(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, key, uid_of(virtual), body, subresource="status", lane=Lane.STATUS)


def _delete(host: Obj, why: str) -> Delete:
    explained = volumes.deletion_was_seen(host)
    return Delete(Side.HOST, PERSISTENT_VOLUME_CLAIMS, key_of(host), uid_of(host), why, unexplained=not explained)


SPEC = SyncSpec(
    name="persistentvolumeclaims",
    kind=PERSISTENT_VOLUME_CLAIMS,
    watches=(
        Watch(side=Side.VIRTUAL, resource=PERSISTENT_VOLUME_CLAIMS),
        Watch(side=Side.VIRTUAL, resource=PERSISTENT_VOLUMES),
        Watch(side=Side.HOST, resource=PERSISTENT_VOLUME_CLAIMS, scope=Scope.MANAGED),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, key),
    host_ref=lambda names, key: Ref(Side.HOST, PERSISTENT_VOLUME_CLAIMS, names.host_key(key)),
    virtual_key=lambda host, view: virtual_key(view.names, PERSISTENT_VOLUME_CLAIMS, host),
    wakes=(Wake(Side.VIRTUAL, PERSISTENT_VOLUMES, _claim_of),),
    host_rights=(Right(group="", resource="persistentvolumeclaims", verbs=("get", "list", "watch", "create", "patch", "delete")),),
    irreplaceable=True,
)

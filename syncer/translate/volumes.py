"""Claims and volumes: what a claim asks the host for, what the host's answer looks like to the tenant, and PersistentVolumes.

The host binds, provisions and resizes. So what its controllers write on a claim (annotations, `volumeName`, status) only goes up,
and what the tenant asks for only goes down; a class, a volume and a volume's labels have the same name on both sides.

A virtual PersistentVolume shows the facts of the host's, but for its source: server names, paths, volume ids and Secrets
tell about the host and serve nobody in the virtual cluster, where nothing mounts or deletes volumes. It has a CSI source that says what
kind of volume it is and no more, and never changes, as no source can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from syncer.kube.types import PERSISTENT_VOLUME_CLAIMS, Key, Obj, annotations_of, is_deleting, key_of, labels_of, uid_of
from syncer.naming import DOMAIN, LABEL_MANAGED_BY, Names
from syncer.translate.merge import diff, owned
from syncer.translate.messages import host_names_hidden
from syncer.translate.metadata import host_metadata, metadata_patch, recorded_uid

DELETION_SEEN = DOMAIN + "/deletion-seen"
"""Annotation of a host claim: UID of the virtual claim that was seen being deleted. It explains the deletion after a restart."""
HOST_VOLUME = DOMAIN + "/host-pv"
"""Annotation of a virtual PersistentVolume: UID of the host's, whose facts it shows."""
MADE_UP = DOMAIN + "/fake-pv"
"""Label of virtual PersistentVolumes whose facts are those of the claim, because the host's may not be read; value "true"."""

_BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_BINDERS_ANNOTATIONS = (_BIND_COMPLETED, "pv.kubernetes.io/bound-by-controller")
_HOSTS_ANNOTATIONS = (
    *_BINDERS_ANNOTATIONS,
    "pv.kubernetes.io/migrated-to",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-resizer",
    _SELECTED_NODE,
)
_SHOWN_OF_VOLUMES = ("pv.kubernetes.io/bound-by-controller", "pv.kubernetes.io/provisioned-by")
"""Others name Secrets of the provisioner."""
_VIRTUALS_CONDITIONS = frozenset({"Unused"})
"""Written by the claim protection of each control plane, about its own pods."""
_PROTECTION = "kubernetes.io/pv-protection"

_CLAIM = "PersistentVolumeClaim"
_COPIED_SOURCES = {("", _CLAIM), ("snapshot.storage.k8s.io", "VolumeSnapshot")}

_MULTIPLIERS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{unit + "i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}  # fmt: skip


def quantity(text: str) -> Decimal:
    """The number that a resource.Quantity stands for. Raises decimal.InvalidOperation for what is none."""
    number = text.rstrip("numkMGTPEKi") if not text[-1:].isdigit() else text
    return Decimal(number) * _MULTIPLIERS[text[len(number) :]]


# The claim, down


def unsupported_source(claim: Obj) -> str | None:
    """Why the data that the claim shall begin with cannot be had, in words; None when it can, or none is asked for."""
    spec, namespace = claim.get("spec") or {}, key_of(claim).namespace
    for field in ("dataSource", "dataSourceRef"):
        source = spec.get(field) or {}
        if (source.get("namespace") or namespace) != namespace:
            return (
                f"spec.{field} names {source.get('kind')} {source.get('name')} in namespace {source['namespace']}: data of another "
                "namespace cannot be had in a virtual cluster"
            )
        if source and (source.get("apiGroup") or "", source.get("kind")) not in _COPIED_SOURCES:
            return (
                f"spec.{field} names a {source.get('kind')}, of which nothing is known on the host cluster: "
                f"only a {_CLAIM} or a VolumeSnapshot of the same namespace can be a claim's source"
            )
    return None


def host_claim(names: Names, owner: Obj | None, virtual: Obj) -> Obj:
    """The host claim to create for a virtual one whose source is not unsupported."""
    spec = dict(virtual.get("spec") or {})
    namespace = key_of(virtual).namespace
    for field in ("dataSource", "dataSourceRef"):
        if source := spec.get(field):
            spec[field] = {**{k: v for k, v in source.items() if k != "namespace"}, "name": names.host_name(namespace, source["name"])}
    metadata = host_metadata(names, owner, PERSISTENT_VOLUME_CLAIMS, _tenants_part(virtual))
    return {"apiVersion": "v1", "kind": _CLAIM, "metadata": metadata, "spec": spec}


def claim_metadata_patch(names: Names, owner: Obj | None, virtual: Obj, host: Obj) -> Obj | None:
    """As translate.metadata.metadata_patch; notes on the host claim that the virtual one is being deleted."""
    seen = {DELETION_SEEN: uid_of(virtual)} if is_deleting(virtual) else None
    return metadata_patch(names, owner, PERSISTENT_VOLUME_CLAIMS, _tenants_part(virtual), host, annotations=seen)


def deletion_was_seen(host: Obj) -> bool:
    """Whether the virtual claim that the host claim was made for has been seen being deleted."""
    return bool(recorded_uid(host)) and annotations_of(host).get(DELETION_SEEN) == recorded_uid(host)


def claim_changes(virtual: Obj, host: Obj) -> Obj:
    """What the tenant asks for anew of a claim that is bound: more room, other attributes, or a volume by name while it is not.

    A host claim that somebody on the host has enlarged is left so: there is no way back from that.
    """
    want, have = virtual.get("spec") or {}, host.get("spec") or {}
    if not have.get("volumeName"):
        return {"volumeName": want["volumeName"]} if want.get("volumeName") and not was_bound(virtual) else {}
    if (host.get("status") or {}).get("phase") != "Bound":
        return {}
    changes: Obj = {}
    size, present = _storage(want.get("resources")), _storage(have.get("resources"))
    real = ((host.get("status") or {}).get("capacity") or {}).get("storage")
    if size and present and (quantity(size) > quantity(present) or (real and quantity(present) > quantity(size) > quantity(real))):
        changes["resources"] = {"requests": {"storage": size}}
    attributes = want.get("volumeAttributesClassName")
    if attributes and attributes != have.get("volumeAttributesClassName"):
        changes["volumeAttributesClassName"] = attributes
    return changes


def was_bound(virtual: Obj) -> bool:
    """Whether the virtual claim has stood for a volume, so that there is or was data."""
    spec, status = virtual.get("spec") or {}, virtual.get("status") or {}
    if not spec.get("volumeName"):
        return False
    return _BIND_COMPLETED in annotations_of(virtual) or status.get("phase") in ("Bound", "Lost")


def _tenants_part(virtual: Obj) -> Obj:
    """The virtual claim without annotations that are the host's to write."""
    annotations = {key: value for key, value in annotations_of(virtual).items() if key not in _HOSTS_ANNOTATIONS}
    return {**virtual, "metadata": {**virtual["metadata"], "annotations": annotations}}


def _storage(resources: Mapping[str, Any] | None) -> str | None:
    size: str | None = ((resources or {}).get("requests") or {}).get("storage")
    return size


# The claim, up


def binding_patch(virtual: Obj, host: Obj, *, volume: bool) -> Obj | None:
    """The merge patch of a virtual claim for what the host's controllers wrote into the host claim besides status.

    With `volume` its volume too, in the same patch: a claim with the annotations and without the volume counts as lost.
    """
    have, given = annotations_of(virtual), annotations_of(host)
    shown = [key for key in _HOSTS_ANNOTATIONS if volume or key not in _BINDERS_ANNOTATIONS]
    annotations: Obj = {key: given[key] for key in shown if key in given and have.get(key) != given[key]}
    if _SELECTED_NODE in have and _SELECTED_NODE not in given:
        annotations[_SELECTED_NODE] = None  # given up by the provisioner, which has no room there
    spec, wanted = virtual.get("spec") or {}, host.get("spec") or {}
    changes: Obj = {}
    if spec.get("storageClassName") is None and wanted.get("storageClassName") is not None:
        changes["storageClassName"] = wanted["storageClassName"]
    if volume and not spec.get("volumeName") and wanted.get("volumeName"):
        changes["volumeName"] = wanted["volumeName"]
    patch: Obj = {"metadata": {"annotations": annotations}} if annotations else {}
    return {**patch, "spec": changes} if changes else patch or None


def claim_status_changes(names: Names, virtual: Obj, host: Obj) -> Obj | None:
    """The merge patch of `status` by which the virtual claim shows the host claim's; None when it does."""
    have = virtual.get("status") or {}
    want: Obj = dict(host.get("status") or {})
    hide = _hiding(names, key_of(virtual), host, uid_of(virtual))
    conditions = [
        {**item, "message": hide(item["message"])} if item.get("message") else item
        for item in want.pop("conditions", None) or ()
        if not _is_of_virtual(item)
    ]
    conditions += [item for item in have.get("conditions") or () if _is_of_virtual(item)]
    if conditions:
        want["conditions"] = conditions
    return diff(have, want)


def _is_of_virtual(condition: Obj) -> bool:
    """Whether only somebody in the virtual cluster writes such a condition: its claim protection, its controllers, or this syncer."""
    kind = condition.get("type") or ""
    return kind in _VIRTUALS_CONDITIONS or "/" in kind


def _hiding(names: Names, key: Key, host: Obj, uid: str) -> Callable[[str], str]:
    return lambda text: host_names_hidden(text, names=names, pairs=((names.host_key(key).name, key),), replacements=((uid_of(host), uid),))


# The volume


def slim_volume(volume: Obj) -> Obj:
    """A host PersistentVolume without what is of no use: its source becomes the one that tenants see."""
    metadata, spec = volume["metadata"], volume.get("spec") or {}
    kept = ("name", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")
    annotations = {key: value for key, value in annotations_of(volume).items() if key in _SHOWN_OF_VOLUMES}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {**{key: metadata[key] for key in kept if key in metadata}, "annotations": annotations},
        "spec": {**{key: spec[key] for key in (*_FACTS, "claimRef") if key in spec}, "csi": _opaque_source(metadata["name"], spec)},
        "status": volume.get("status") or {},
    }


_FACTS = (
    "capacity",
    "accessModes",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeMode",
    "mountOptions",
    "nodeAffinity",
    "volumeAttributesClassName",
)
_ONCE = ("csi", "volumeMode", "nodeAffinity")
"""What cannot be changed, though a nodeAffinity can be added."""


def _opaque_source(name: str, spec: Obj) -> Obj:
    csi = spec.get("csi") or {}
    if csi:
        shown = {key: csi[key] for key in ("driver", "fsType", "readOnly") if csi.get(key)}
        return {**shown, "volumeHandle": name}
    kind = next((key for key, value in spec.items() if key not in _FACTS and isinstance(value, dict) and key != "claimRef"), "volume")
    return {"driver": f"{kind.lower()}.{DOMAIN}", "volumeHandle": name}


def virtual_volume(names: Names, name: str, host: Obj | None, host_claim: Obj, claim: Obj, reclaim_policy: str) -> Obj:
    """The virtual PersistentVolume of a bound claim, from the (slim) host volume, or made up from the host claim if that is not to be had.

    `claim` is the virtual claim; `reclaim_policy` that of the claim's class, for a volume that is made up.
    """
    if host is not None:
        spec = {key: (host.get("spec") or {}).get(key) for key in _FACTS}
        source = host["spec"]["csi"]
        marks = {HOST_VOLUME: uid_of(host)}
        labels = {key: value for key, value in labels_of(host).items() if not key.startswith(DOMAIN + "/")}
        annotations = annotations_of(host)
    else:
        asked, status = host_claim.get("spec") or {}, host_claim.get("status") or {}
        spec = dict.fromkeys(_FACTS) | {
            "capacity": status.get("capacity"),
            "accessModes": status.get("accessModes") or asked.get("accessModes"),
            "persistentVolumeReclaimPolicy": reclaim_policy,
            "storageClassName": asked.get("storageClassName"),
            "volumeMode": asked.get("volumeMode"),
            "volumeAttributesClassName": status.get("currentVolumeAttributesClassName"),
        }
        source, marks, labels, annotations = {"driver": f"volume.{DOMAIN}", "volumeHandle": name}, {}, {MADE_UP: "true"}, {}
    key = key_of(claim)
    reference = {"apiVersion": "v1", "kind": _CLAIM, "namespace": key.namespace, "name": key.name, "uid": uid_of(claim)}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {**annotations, **marks, LABEL_MANAGED_BY: names.suffix},
        },
        "spec": {**{key: value for key, value in spec.items() if value is not None}, "csi": source, "claimRef": reference},
    }


def volume_changes(virtual: Obj, want: Obj) -> Obj | None:
    """The merge patch that brings a virtual PersistentVolume of ours to `want`, as far as that may be changed; None when it is there."""
    have = virtual.get("spec") or {}
    wanted: Obj = {key: want["spec"].get(key) for key in (*_FACTS, "claimRef") if key not in _ONCE}
    if not have.get("nodeAffinity"):
        wanted["nodeAffinity"] = want["spec"].get("nodeAffinity")
    if wanted["volumeAttributesClassName"] is None:
        del wanted["volumeAttributesClassName"]
    labels: Obj = {MADE_UP: None, **want["metadata"]["labels"]}
    annotations: Obj = {HOST_VOLUME: None, **want["metadata"]["annotations"]}
    return owned(virtual, {"metadata": {"labels": labels, "annotations": annotations}, "spec": wanted})


def volume_status(names: Names, host: Obj | None, claim: Key | None, *, released: bool) -> Obj:
    """`status` that a virtual PersistentVolume shows; `claim` is what the host volume was bound for, `released` that it is gone."""
    status = (host or {}).get("status") or {}
    phase = status.get("phase") or "Bound"
    if host is None or phase == "Bound":
        phase = "Released" if released else "Bound"
    pairs = ((names.host_key(claim).name, claim),) if claim is not None else ()
    texts = {key: status.get(key) for key in ("message", "reason")}
    return {"phase": phase, **{key: host_names_hidden(text, names=names, pairs=pairs) if text else None for key, text in texts.items()}}


def is_our_volume(names: Names, volume: Obj) -> bool:
    """Whether a virtual PersistentVolume was made by this syncer."""
    return annotations_of(volume).get(LABEL_MANAGED_BY) == names.suffix


def claims_volume(volume: Obj, claim: Obj) -> bool:
    """Whether a virtual PersistentVolume is reserved for exactly this virtual claim."""
    reference = (volume.get("spec") or {}).get("claimRef") or {}
    return bool(reference.get("uid")) and reference.get("uid") == uid_of(claim)


def unprotected(volume: Obj) -> Obj | None:
    """The merge patch that takes the protection finalizer off, and nobody else's; None when it is not there."""
    metadata = volume["metadata"]
    finalizers = metadata.get("finalizers") or []
    if _PROTECTION not in finalizers:
        return None
    left = [item for item in finalizers if item != _PROTECTION]
    return {"metadata": {"finalizers": left or None, "resourceVersion": metadata["resourceVersion"]}}

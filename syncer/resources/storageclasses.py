"""StorageClasses: the host's, shown in the virtual cluster, so that the tenant can choose one and has the host's default.

A class goes by its name on both sides; claims name it. Nobody provisions in the virtual cluster, so of the parameters only those are
shown that a tenant chooses by; the others are addresses, paths and names of Secrets. A class that the tenant made is never
touched, even if the host has one of that name.
"""

from __future__ import annotations

from syncer.kube.types import STORAGE_CLASSES, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch
from syncer.sync.spec import Right, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.merge import owned

_PARAMETERS = ("type", "fsType", "fstype", "csi.storage.k8s.io/fstype")
_ANNOTATIONS = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
_UNCHANGEABLE = ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode")
_CHANGEABLE = ("allowVolumeExpansion", "mountOptions", "allowedTopologies")


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a StorageClass needs in the virtual cluster now."""
    virtual, host = pair.virtual, pair.host
    if virtual is None:
        return [] if host is None else [Create(Side.VIRTUAL, STORAGE_CLASSES, _virtual(host, view))]
    if annotations_of(virtual).get(LABEL_MANAGED_BY) != view.names.suffix or is_deleting(virtual):
        return []
    if host is None:
        why = "the host cluster has no such class any more"
        return [Delete(Side.VIRTUAL, STORAGE_CLASSES, pair.key, uid_of(virtual), why, unexplained=True)]
    want = _virtual(host, view)
    if any(virtual.get(field) != want.get(field) for field in _UNCHANGEABLE):
        why = "it was made anew on the host cluster with what cannot be changed"
        return [
            Delete(Side.VIRTUAL, STORAGE_CLASSES, pair.key, uid_of(virtual), why),
            Create(Side.VIRTUAL, STORAGE_CLASSES, want),
        ]
    annotations = {key: annotations_of(want).get(key) for key in _ANNOTATIONS}
    changes = owned(virtual, {"metadata": {"annotations": annotations}, **{field: want.get(field) for field in _CHANGEABLE}})
    return [Patch(Side.VIRTUAL, STORAGE_CLASSES, pair.key, uid_of(virtual), changes)] if changes else []


def _virtual(host: Obj, view: View) -> Obj:
    shown = _shown(host)
    metadata = shown["metadata"]
    annotations = {**metadata["annotations"], LABEL_MANAGED_BY: view.names.suffix}
    return {**shown, "metadata": {"name": metadata["name"], "annotations": annotations}}


def _shown(host: Obj) -> Obj:
    """The class without what tenants do not see; nothing else is kept in memory either."""
    metadata = {key: host["metadata"][key] for key in ("name", "uid", "resourceVersion", "deletionTimestamp") if key in host["metadata"]}
    annotations = {key: value for key, value in annotations_of(host).items() if key in _ANNOTATIONS}
    fields = {field: host[field] for field in ("apiVersion", "kind", *_UNCHANGEABLE, *_CHANGEABLE) if field in host}
    if parameters := {key: value for key, value in (fields.pop("parameters", None) or {}).items() if key in _PARAMETERS}:
        fields["parameters"] = parameters
    return {**fields, "metadata": {**metadata, "annotations": annotations}}


SPEC = SyncSpec(
    name="hoststorageclasses",
    kind=STORAGE_CLASSES,
    watches=(
        Watch(side=Side.VIRTUAL, resource=STORAGE_CLASSES),
        Watch(side=Side.HOST, resource=STORAGE_CLASSES, slim=lambda host, _view: _shown(host)),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, STORAGE_CLASSES, key),
    host_ref=lambda _names, key: Ref(Side.HOST, STORAGE_CLASSES, key),
    virtual_key=lambda host, _view: key_of(host),
    host_rights=(Right(group="storage.k8s.io", resource="storageclasses", verbs=("get", "list", "watch"), cluster=True),),
    deletes_virtual=True,
    dispensable=True,
)

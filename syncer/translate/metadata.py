"""Metadata of host objects: what is copied, how ours are told from others', and the patch that keeps them current.

A host object is ours when markers *and* name agree: the labels name this virtual cluster and a virtual namespace, the
annotations name a virtual object, and that object's host name is this object's name. A copy that some
controller made of one of our objects, labels and annotations included, has another name or kind and so is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syncer.kube.types import Key, Obj, Resource, annotations_of, key_of, labels_of, uid_of
from syncer.naming import (
    ANNOTATION_KIND,
    ANNOTATION_MANAGED_ANNOTATIONS,
    ANNOTATION_MANAGED_LABELS,
    ANNOTATION_NAME,
    ANNOTATION_NAMESPACE,
    ANNOTATION_UID,
    DOMAIN,
    LABEL_MANAGED_BY,
    LABEL_NAMESPACE,
    Names,
)
from syncer.translate.labels import host_labels
from syncer.translate.merge import owned

TOKEN_EXPIRY = DOMAIN + "/token-expiry"
"""Annotation of a Secret with service account tokens; see sync.intents.MintToken."""

_OWN = DOMAIN + "/"
_MARKER_LABELS = frozenset({LABEL_MANAGED_BY, LABEL_NAMESPACE})
_NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",  # a second copy of the object, with virtual names
        "kubernetes.io/config.mirror",  # would make a kubelet take the pod for the mirror of a static one, and not run it
    }
)


def host_metadata(
    names: Names, owner: Obj | None, resource: Resource, virtual: Obj, *, annotations: Mapping[str, str] | None = None
) -> Obj:
    """`metadata` to create the host object of a namespaced virtual one with.

    `owner` becomes its ownerReference. `annotations` are more of our own, which win over the tenant's. Not copied:
    generateName, uid, resourceVersion, finalizers, ownerReferences, managedFields, and annotations of our domain.
    """
    key = key_of(virtual)
    host_key = names.host_key(key)
    labels = host_labels(names, labels_of(virtual), key.namespace)
    copied = {k: v for k, v in annotations_of(virtual).items() if k not in _NOT_COPIED and not k.startswith(_OWN)}
    wanted = {
        **copied,
        **(annotations or {}),
        ANNOTATION_NAME: key.name,
        ANNOTATION_NAMESPACE: key.namespace,
        ANNOTATION_UID: uid_of(virtual),
        ANNOTATION_KIND: f"{resource.group}/{resource.version}, Kind={resource.kind}",
    }
    for recorded, written in ((ANNOTATION_MANAGED_ANNOTATIONS, copied.keys()), (ANNOTATION_MANAGED_LABELS, labels.keys() - _MARKER_LABELS)):
        if written:
            wanted[recorded] = "\n".join(sorted(written))
    metadata: Obj = {"name": host_key.name, "namespace": host_key.namespace, "labels": labels, "annotations": wanted}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return metadata


def metadata_patch(
    names: Names, owner: Obj | None, resource: Resource, virtual: Obj, host: Obj, *, annotations: Mapping[str, str] | None = None
) -> Obj | None:
    """The merge patch `{"metadata": ...}` that brings labels, annotations and owner to what `host_metadata` gives.

    It removes only what we once wrote, and never touches what others added. None when nothing is to be done.
    """
    want = host_metadata(names, owner, resource, virtual, annotations=annotations)
    have_labels, have_annotations = labels_of(host), annotations_of(host)
    for recorded in (ANNOTATION_MANAGED_LABELS, ANNOTATION_MANAGED_ANNOTATIONS):
        if recorded not in want["annotations"]:
            want["annotations"][recorded] = None
    for part, recorded in (("labels", ANNOTATION_MANAGED_LABELS), ("annotations", ANNOTATION_MANAGED_ANNOTATIONS)):
        for key in have_annotations.get(recorded, "").split("\n"):
            want[part].setdefault(key, None)
    patch: Obj = owned({"labels": have_labels, "annotations": have_annotations}, {k: want[k] for k in ("labels", "annotations")}) or {}
    if owner is not None:
        references = (host.get("metadata") or {}).get("ownerReferences") or []
        if not any(item.get("uid") == owner.get("uid") for item in references):
            others = [item for item in references if (item.get("kind"), item.get("name")) != (owner.get("kind"), owner.get("name"))]
            patch["ownerReferences"] = [*others, owner]
    return {"metadata": patch} if patch else None


def marker_selector(names: Names) -> str:
    """Label selector, as in a URL, of every namespaced host object of this virtual cluster."""
    return f"{LABEL_MANAGED_BY}={names.suffix}"


def virtual_key(names: Names, resource: Resource, host: Obj) -> Key | None:
    """Key of the virtual object that `host` provably is the image of; None if it is not ours, or another type's copy."""
    annotations, labels = annotations_of(host), labels_of(host)
    name, namespace = annotations.get(ANNOTATION_NAME), annotations.get(ANNOTATION_NAMESPACE)
    if not name or not namespace or labels.get(LABEL_MANAGED_BY) != names.suffix or labels.get(LABEL_NAMESPACE) != namespace:
        return None
    kind = annotations.get(ANNOTATION_KIND)
    if kind is not None and _group_and_kind(kind) != (resource.group, resource.kind):
        return None
    key = Key(namespace, name)
    return key if names.host_key(key) == key_of(host) else None


def recorded_uid(host: Mapping[str, Any]) -> str:
    """UID of the virtual object that the host object was last written for; "" when there is none on it."""
    return annotations_of(host).get(ANNOTATION_UID) or ""


def _group_and_kind(text: str) -> tuple[str, str]:
    """Of `group/version, Kind=kind`; the version may differ between writer and reader."""
    api_version, _, kind = text.partition(", Kind=")
    return api_version.partition("/")[0], kind

"""Events: up. What the host's scheduler, kubelets and controllers say of a host object is said of its virtual object.

Host events are cut down and tied to their virtual object as they arrive, so that one that outlives its host object still
finds its way. Kept are only those of objects that are provably ours. The virtual event is named as recorders name them,
`<object>.<suffix>`, with the host event's suffix; host events named otherwise are not mirrored (every client-go recorder names
them so). The virtual side is watched as metadata: an annotation tells which version of the host event was written last, so
a restart writes nothing. Virtual events run out by their own API server's clock, and are not removed before.
"""

from __future__ import annotations

from syncer.kube.types import (
    CONFIGMAPS,
    EVENTS,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICES,
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
from syncer.naming import ANNOTATION_NAME, ANNOTATION_NAMESPACE, ANNOTATION_UID, DOMAIN, LABEL_MANAGED_BY, Names
from syncer.sync.intents import Create, Intent, Pair, Patch
from syncer.sync.spec import Right, Scope, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.messages import host_names_hidden, names_of_pod
from syncer.translate.metadata import recorded_uid, virtual_key

HOST_VERSION = DOMAIN + "/host-version"
"""Annotation of virtual events: `uid/resourceVersion` of the host event as it was last mirrored."""

_MIRRORED = {resource.kind: resource for resource in (PODS, SERVICES, CONFIGMAPS, SECRETS)}
_KEPT = (
    "reason", "message", "source", "type", "count", "firstTimestamp", "lastTimestamp", "eventTime", "series", "action",
    "reportingComponent", "reportingInstance",
)  # fmt: skip


def slim(event: Obj, view: View) -> Obj | None:
    """The host event with what is mirrored of it, tied to its virtual object by annotations; None if it is not to be mirrored."""
    about = event.get("involvedObject") or {}
    resource = _MIRRORED.get(about.get("kind") or "")
    if resource is None or about.get("apiVersion") not in (None, "", resource.api_version):
        return None
    host = view.get(Side.HOST, resource, Key(about.get("namespace") or "", about.get("name") or ""))
    virtual = None if host is None else virtual_key(view.names, resource, host)
    if host is None or virtual is None or about.get("uid") not in (None, "", uid_of(host)) or not _suffix(event):
        return None
    metadata = event["metadata"]
    annotations = {ANNOTATION_NAMESPACE: virtual.namespace, ANNOTATION_NAME: virtual.name, ANNOTATION_UID: recorded_uid(host)}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {**{field: metadata[field] for field in ("name", "namespace", "uid", "resourceVersion")}, "annotations": annotations},
        "involvedObject": {field: about[field] for field in ("kind", "namespace", "name", "uid", "fieldPath") if about.get(field)},
        **{field: event[field] for field in _KEPT if event.get(field) is not None},
    }


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the virtual event needs now; `pair.host` is a host event as `slim` leaves it."""
    if pair.host is None:
        return []
    metadata = pair.host["metadata"]
    version = f"{metadata['uid']}/{metadata['resourceVersion']}"
    if pair.virtual is not None and annotations_of(pair.virtual).get(HOST_VERSION) == version:
        return []
    namespace = view.get(Side.VIRTUAL, NAMESPACES, Key("", pair.key.namespace))
    if namespace is None or is_deleting(namespace):
        return []  # nothing can be created there any more
    marks = {"labels": {LABEL_MANAGED_BY: view.names.suffix}, "annotations": {HOST_VERSION: version}}
    content = _virtual_content(pair.host, view)
    if pair.virtual is None:
        meta = {"name": pair.key.name, "namespace": pair.key.namespace, **marks}
        said = {field: value for field, value in content.items() if value is not None}
        return [Create(Side.VIRTUAL, EVENTS, {"apiVersion": "v1", "kind": "Event", "metadata": meta, **said}, lane=Lane.EVENT)]
    return [Patch(Side.VIRTUAL, EVENTS, pair.key, uid_of(pair.virtual), {"metadata": marks, **content}, lane=Lane.EVENT)]


def _virtual_content(event: Obj, view: View) -> Obj:
    """The fields of the virtual event besides metadata; None for those that it shall not have."""
    about, subject = event["involvedObject"], _subject(event)
    assert subject is not None  # slim has tied it
    resource = _MIRRORED[about["kind"]]
    content: Obj = {field: event.get(field) for field in _KEPT}
    content["involvedObject"] = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "namespace": subject.namespace,
        "name": subject.name,
        "uid": annotations_of(event).get(ANNOTATION_UID) or None,
        "fieldPath": about.get("fieldPath"),
    }
    if content["message"]:
        known = names_of_pod(view.names, subject, view.get(Side.VIRTUAL, PODS, subject)) if resource == PODS else [(about["name"], subject)]
        content["message"] = host_names_hidden(
            content["message"],
            names=view.names,
            pairs=known,
            replacements=((about.get("uid") or "", annotations_of(event).get(ANNOTATION_UID) or ""),),
        )
    return content


def _suffix(event: Obj) -> str:
    """What follows the object's name in the event's name, "" when that is not how it is named."""
    prefix = f"{(event.get('involvedObject') or {}).get('name')}."
    name = key_of(event).name
    suffix = name[len(prefix) :] if name.startswith(prefix) else ""
    return "" if "." in suffix else suffix


def _subject(event: Obj) -> Key | None:
    """The virtual object that a host event, as `slim` leaves it, is about."""
    annotations = annotations_of(event)
    namespace, name = annotations.get(ANNOTATION_NAMESPACE), annotations.get(ANNOTATION_NAME)
    return Key(namespace, name) if namespace and name else None


def _virtual_key(host: Obj, _view: View) -> Key | None:
    subject = _subject(host)
    return None if subject is None else Key(subject.namespace, f"{subject.name}.{_suffix(host)}")


def _host_ref(names: Names, key: Key) -> Ref:
    subject, _, suffix = key.name.rpartition(".")
    host = names.host_key(Key(key.namespace, subject))
    return Ref(Side.HOST, EVENTS, Key(host.namespace, f"{host.name}.{suffix}"))


SPEC = SyncSpec(
    name="events",
    kind=EVENTS,
    watches=(
        Watch(side=Side.VIRTUAL, resource=EVENTS, scope=Scope.MANAGED, metadata_only=True),
        Watch(side=Side.VIRTUAL, resource=NAMESPACES, metadata_only=True),
        Watch(side=Side.VIRTUAL, resource=PODS),
        Watch(side=Side.HOST, resource=EVENTS, slim=slim, after_others=True),
        *(Watch(side=Side.HOST, resource=resource, scope=Scope.MANAGED, metadata_only=True) for resource in _MIRRORED.values()),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, EVENTS, key),
    host_ref=_host_ref,
    virtual_key=_virtual_key,
    host_rights=(Right(group="", resource="events", verbs=("get", "list", "watch")),),
)

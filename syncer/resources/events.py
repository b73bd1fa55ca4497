"""Events: up. What the host's scheduler, kubelets and controllers say of a host object is said of its virtual object.

Host events are translated, cut down and tied to their virtual object as they arrive, so that one that outlives its host
object, or what it speaks of, still finds its way and its words. Kept are only those of objects that are provably ours. The
virtual event is named as recorders name them, `<object>.<suffix>`, with the host event's suffix; host events named otherwise
are not mirrored (every client-go recorder names them so). One that comes before its host object is withheld until that
comes. The virtual side is watched as metadata: an annotation tells which
version of the host event was written last, so a restart writes nothing. Virtual events run out by their own API server's
clock, and are not removed before.

An event that goes on happening is written every few seconds at most, and of an object with very many events only the newest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from syncer.kube.types import (
    CONFIGMAPS,
    ENDPOINTS,
    EVENTS,
    INGRESSES,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SECRETS,
    SERVICES,
    Key,
    Lane,
    Obj,
    Ref,
    Resource,
    Side,
    annotations_of,
    is_deleting,
    key_of,
    uid_of,
)
from syncer.naming import ANNOTATION_NAME, ANNOTATION_NAMESPACE, DOMAIN, LABEL_MANAGED_BY, Names
from syncer.sync.intents import Again, Create, Intent, Pair, Patch
from syncer.sync.spec import Right, Scope, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.messages import host_names_hidden, names_of_pod
from syncer.translate.metadata import recorded_uid, virtual_key

HOST_VERSION = DOMAIN + "/host-version"
"""Annotation of virtual events: `uid/resourceVersion` of the host event as it was last mirrored."""
MIRRORED_AT = DOMAIN + "/mirrored-at"
"""Annotation of virtual events: when that was, in epoch seconds."""
APART = 5.0
"""Seconds between two writes of one event."""
CROWD = 100
"""Of an object with more events than that, only so many are mirrored, once they have been among the newest for a while."""
CALM = 10.0
"""Seconds that an event waits in a crowd."""

_WATCHED = (PODS, SERVICES, CONFIGMAPS, SECRETS, PERSISTENT_VOLUME_CLAIMS, INGRESSES)
_MIRRORED = {resource.kind: resource for resource in (*_WATCHED, ENDPOINTS)}
_ABOUT = "about"
_KEPT = (
    "reason", "message", "source", "type", "count", "firstTimestamp", "lastTimestamp", "eventTime", "series", "action",
    "reportingComponent", "reportingInstance", "related",
)  # fmt: skip
_HOST_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*(?:-x-[-a-z0-9.]*|-[0-9a-f]{10}))")
"""What may be the name of a host object of ours."""
_STRANGER = "(host)"


def slim(event: Obj, view: View) -> Obj | None:
    """The host event with what is mirrored of it, in virtual terms, and tied to its virtual object; None if it is not to be mirrored."""
    about = event.get("involvedObject") or {}
    subject = _virtual(about, view)
    if subject is None or not _suffix(event):
        return None
    related = event.get("related") or {}
    metadata = event["metadata"]
    kept = {field: event[field] for field in _KEPT if event.get(field) is not None}
    kept["related"] = _virtual(related, view) or ({"kind": "Node", "name": related.get("name")} if related.get("kind") == "Node" else None)
    if kept.get("reportingInstance") and kept.get("reportingComponent") != "kubelet":
        kept["reportingInstance"] = kept.get("reportingComponent") or _STRANGER  # the name of some pod or machine of the host
    if kept.get("message"):
        kept["message"] = _message(kept["message"], about, subject, view, related=(related, kept["related"]))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            **{
                field: metadata[field]
                for field in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
                if field in metadata
            },
            "annotations": {ANNOTATION_NAMESPACE: subject["namespace"], ANNOTATION_NAME: subject["name"]},
        },
        "involvedObject": subject,
        **{field: value for field, value in kept.items() if value is not None},
    }


def awaited(event: Obj, view: View) -> Ref | None:
    """The host object of ours that an event which `slim` drops may be about: schedulers can be quicker than the answer to our own write."""
    about = event.get("involvedObject") or {}
    resource = _MIRRORED.get(about.get("kind") or "")
    key = Key(about.get("namespace") or "", about.get("name") or "")
    if resource is None or key.namespace != view.names.host_namespace or not _HOST_NAME.fullmatch(key.name):
        return None
    resource = SERVICES if resource == ENDPOINTS else resource
    return Ref(Side.HOST, resource, key) if view.get(Side.HOST, resource, key) is None else None


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
    marks = {"labels": {LABEL_MANAGED_BY: view.names.suffix}, "annotations": {HOST_VERSION: version, MIRRORED_AT: str(int(view.now))}}
    content = {field: pair.host.get(field) for field in (*_KEPT, "involvedObject")}
    if pair.virtual is None:
        crowded = _in_a_crowd(pair.host, view)
        return [_create(pair.key, marks, content)] if crowded is None else crowded
    written = annotations_of(pair.virtual).get(MIRRORED_AT, "")
    if written.isdecimal() and 0 < (remaining := float(written) + APART - view.now) <= APART:
        return [Again(after=remaining)]
    return [Patch(Side.VIRTUAL, EVENTS, pair.key, uid_of(pair.virtual), {"metadata": marks, **content}, lane=Lane.EVENT)]


def _create(key: Key, marks: Obj, content: Obj) -> Create:
    meta = {"name": key.name, "namespace": key.namespace, **marks}
    said = {field: value for field, value in content.items() if value is not None}
    return Create(Side.VIRTUAL, EVENTS, {"apiVersion": "v1", "kind": "Event", "metadata": meta, **said}, lane=Lane.EVENT, settles=True)


def _in_a_crowd(event: Obj, view: View) -> list[Intent] | None:
    """What is done about one of very many events of an object; None when there are not that many."""
    others = view.find(Side.HOST, EVENTS, _ABOUT, *_about(event))
    if len(others) <= CROWD:
        return None
    if key_of(event) in others[:-CROWD]:  # names end in the time, so the newest are the last
        return []
    born = datetime.fromisoformat(event["metadata"].get("creationTimestamp") or "1970-01-01T00:00:00Z").timestamp()
    remaining = born + CALM - view.now
    return [Again(after=remaining)] if 0 < remaining <= CALM else None


def _virtual(about: Obj, view: View) -> Obj | None:
    """The reference to the virtual object behind a reference to a host object, None when that is not provably ours."""
    resource = _MIRRORED.get(about.get("kind") or "")
    if resource is None or about.get("apiVersion") not in (None, "", resource.api_version):
        return None
    found = _tied(resource, Key(about.get("namespace") or "", about.get("name") or ""), about.get("uid") or "", view)
    if found is None:
        return None
    key, uid = found
    reference = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "namespace": key.namespace,
        "name": key.name,
        "uid": uid,
        "fieldPath": about.get("fieldPath"),
    }
    return {field: value for field, value in reference.items() if value}


def _tied(resource: Resource, host_key: Key, uid: str, view: View) -> tuple[Key, str] | None:
    """Key and UID of the virtual object behind a host object, "" for a UID that is not known."""
    # Endpoints belong to the Service of their name, whoever made them.
    watched = SERVICES if resource == ENDPOINTS else resource
    host = view.get(Side.HOST, watched, host_key)
    key = None if host is None else virtual_key(view.names, watched, host)
    if host is None or key is None:
        return None
    if resource == ENDPOINTS:
        return key, uid_of(view.get(Side.VIRTUAL, ENDPOINTS, key) or {})
    return (key, recorded_uid(host)) if uid in ("", uid_of(host)) else None


def _message(text: str, about: Obj, subject: Obj, view: View, *, related: tuple[Obj, Obj | None]) -> str:
    key = Key(subject["namespace"], subject["name"])
    known = [(str(about["name"]), key)]
    if subject["kind"] == PODS.kind:
        known += names_of_pod(view.names, key, view.get(Side.VIRTUAL, PODS, key))
    uids = [
        (about.get("uid") or "", subject.get("uid") or _STRANGER),
        (related[0].get("uid") or "", (related[1] or {}).get("uid") or _STRANGER),
    ]
    return host_names_hidden(text, names=view.names, pairs=[*known, *_named(text, view)], replacements=uids)


def _named(text: str, view: View) -> Iterator[tuple[str, Key]]:
    """Host names of ours that a text mentions, as far as their objects are still there."""
    for name in dict.fromkeys(found.rstrip("-.") for found in _HOST_NAME.findall(text)):
        for resource in _WATCHED:
            host = view.get(Side.HOST, resource, Key(view.names.host_namespace, name))
            if host is not None and (key := virtual_key(view.names, resource, host)) is not None:
                yield name, key
                break


def _suffix(event: Obj) -> str:
    """What follows the host object's name in the host event's name, "" when that is not how it is named."""
    prefix = f"{(event.get('involvedObject') or {}).get('name')}."
    name = key_of(event).name
    suffix = name[len(prefix) :] if name.startswith(prefix) else ""
    return "" if "." in suffix else suffix


def _subject(event: Obj) -> Key | None:
    """The virtual object that a host event, as `slim` leaves it, is about."""
    annotations = annotations_of(event)
    namespace, name = annotations.get(ANNOTATION_NAMESPACE), annotations.get(ANNOTATION_NAME)
    return Key(namespace, name) if namespace and name else None


def _about(event: Obj) -> list[str]:
    subject = _subject(event)
    return [] if subject is None else [str(subject)]


def _virtual_key(host: Obj, _view: View) -> Key | None:
    subject = _subject(host)
    return None if subject is None else Key(subject.namespace, f"{subject.name}.{key_of(host).name.rpartition('.')[2]}")


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
        Watch(side=Side.VIRTUAL, resource=ENDPOINTS, metadata_only=True),
        Watch(side=Side.HOST, resource=EVENTS, slim=slim, awaits=awaited, after_others=True),
        *(Watch(side=Side.HOST, resource=resource, scope=Scope.MANAGED, metadata_only=True, optional=True) for resource in _WATCHED),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, EVENTS, key),
    host_ref=_host_ref,
    virtual_key=_virtual_key,
    indexes={(Side.HOST, EVENTS): {_ABOUT: _about}},
    host_rights=(
        Right(group="", resource="events", verbs=("get", "list", "watch")),
        *(Right(group=resource.group, resource=resource.plural, verbs=("get", "list", "watch"), optional=True) for resource in _WATCHED),
    ),
)

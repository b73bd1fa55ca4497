"""The loop of a type that reaches the host only while a pod or an Ingress refers to it: ConfigMaps and Secrets differ in little else.

The virtual side is watched as metadata only; the full object is fetched, and kept, while it is needed. The host copy's
contents are wholly ours: keys that the virtual object lacks are removed. What the host cannot change in place (an
immutable object, a Secret's type) is deleted and made anew; a running pod keeps what it has mounted meanwhile. A
virtual object that was deleted and made anew under its name takes its predecessor's host copy over, for the same reason.
Host pods count as well as virtual ones: one that outlives its virtual pod, be it in its grace period or because its deletion
is held, may start a container that needs the copy. So do host Ingresses; virtual ones count while Ingresses are synced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from syncer.kube.types import INGRESSES, PODS, Key, Obj, Ref, Resource, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import DOMAIN
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Wait, Warn
from syncer.sync.spec import IndexWake, Right, Scope, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.ingress import IngressReferences
from syncer.translate.ingress import references as ingress_references
from syncer.translate.merge import diff
from syncer.translate.metadata import host_metadata, metadata_patch, virtual_key
from syncer.translate.references import References, references

FORCE_SYNC = DOMAIN + "/force-sync"
"""Annotation of a virtual object: "true" has it copied although nothing refers to it."""

Names = Callable[[References], Iterable[str]]
"""Of what a pod refers to, the names of objects of the type, all in the pod's namespace."""

Keys = Callable[[IngressReferences], Iterable[Key]]
"""Of what an Ingress refers to, the objects of the type."""

Content = Callable[[Obj], Obj]
"""The fields besides metadata that the host copy shall have; {} or None for one that it shall lack."""


def referenced_spec(
    resource: Resource,
    *,
    names: Names,
    keys: Keys,
    content: Content,
    unchangeable: frozenset[str] = frozenset(),
    taken_over: Callable[[Obj], str] = lambda _host: "",
) -> SyncSpec:
    """The loop for `resource`; it and the indexes of what refers to it are named after the plural.

    `unchangeable` names the fields of `content` that no API server lets anybody change. `taken_over` tells in words who else
    writes a host copy, which is then left to them while it is needed.
    """
    index = resource.plural

    def named_by_pod(pod: Obj) -> list[str]:
        namespace = key_of(pod).namespace
        return [str(Key(namespace, name)) for name in names(_references_once(pod))]

    def named_by_ingress(ingress: Obj) -> list[str]:
        return [str(key) for key in keys(ingress_references(ingress))]

    def copied_key(value: str, view: View) -> Key | None:
        copy = view.get(Side.HOST, resource, Key(*value.split("/")))
        return None if copy is None else virtual_key(view.names, resource, copy)

    def needed(key: Key, view: View) -> bool:
        if resource in view.policy.all_copied:
            return True
        host_key = view.names.host_key(key)
        if view.has(Side.VIRTUAL, PODS, index, str(key)) or view.has(Side.HOST, PODS, index, str(host_key)):
            return True
        if INGRESSES in view.policy.synced and view.has(Side.VIRTUAL, INGRESSES, index, str(key)):
            return True
        if view.has(Side.HOST, INGRESSES, index, str(host_key)):
            return True
        virtual = view.get(Side.VIRTUAL, resource, key)
        return virtual is not None and annotations_of(virtual).get(FORCE_SYNC) == "true"

    def decide(pair: Pair, view: View) -> list[Intent]:
        virtual, host = pair.virtual, pair.host
        if virtual is None or not needed(pair.key, view):
            return _unneeded(resource, virtual, host)
        if host is None:
            made = _host_object(resource, virtual, content(virtual), view)
            return [] if is_deleting(virtual) else [Create(Side.HOST, resource, made, settles=True)]
        if by_whom := taken_over(host):
            return [Warn(Ref(Side.VIRTUAL, resource, pair.key), "TakenOver", by_whom)]
        return _update(resource, virtual, host, content(virtual), unchangeable, view)

    return SyncSpec(
        name=resource.plural,
        kind=resource,
        watches=(
            Watch(side=Side.VIRTUAL, resource=resource, metadata_only=True),
            Watch(side=Side.VIRTUAL, resource=PODS),
            Watch(side=Side.VIRTUAL, resource=INGRESSES),
            Watch(side=Side.HOST, resource=resource, scope=Scope.MANAGED),
            Watch(side=Side.HOST, resource=PODS, scope=Scope.MANAGED),
            Watch(side=Side.HOST, resource=INGRESSES, scope=Scope.MANAGED, optional=True),
        ),
        decide=decide,
        virtual_ref=lambda key: Ref(Side.VIRTUAL, resource, key),
        host_ref=lambda names, key: Ref(Side.HOST, resource, names.host_key(key)),
        virtual_key=lambda host, view: virtual_key(view.names, resource, host),
        index_wakes=tuple(
            IndexWake(side, referrer, index, key)
            for side, key in ((Side.VIRTUAL, lambda value, _view: Key(*value.split("/"))), (Side.HOST, copied_key))
            for referrer in (PODS, INGRESSES)
        ),
        indexes={(side, kind): {index: named} for side in Side for kind, named in ((PODS, named_by_pod), (INGRESSES, named_by_ingress))},
        hydrate=needed,
        host_rights=(
            Right(group=resource.group, resource=resource.plural, verbs=("get", "list", "watch", "create", "patch", "delete")),
            Right(group="", resource="pods", verbs=("get", "list", "watch")),
            Right(group=INGRESSES.group, resource=INGRESSES.plural, verbs=("get", "list", "watch"), optional=True),
        ),
    )


_last: tuple[Obj, References] | None = None


def _references_once(pod: Obj) -> References:
    """References of a pod, walked once although one index after the other asks for them as it enters the store."""
    global _last
    if _last is None or _last[0] is not pod:
        _last = (pod, references(pod))
    return _last[1]


def _unneeded(resource: Resource, virtual: Obj | None, host: Obj | None) -> list[Intent]:
    if host is None or is_deleting(host):
        return []
    why = "the virtual object is gone" if virtual is None else "nothing refers to it any more"
    return [Delete(Side.HOST, resource, key_of(host), uid_of(host), why, unexplained=virtual is None)]


def _host_object(resource: Resource, virtual: Obj, content: Obj, view: View) -> Obj:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": host_metadata(view.names, view.policy.owner, resource, virtual),
        **{field: value for field, value in content.items() if value},
    }


def _update(resource: Resource, virtual: Obj, host: Obj, content: Obj, unchangeable: frozenset[str], view: View) -> list[Intent]:
    key, uid = key_of(host), uid_of(host)
    gone = Wait(on=(Ref(Side.HOST, resource, key),), reason="the old host copy has to go before a new one can be made")
    if is_deleting(host):
        return [gone]
    changes = _changes(host, content)
    if changes and (host.get("immutable") or unchangeable & changes.keys()):
        return [Delete(Side.HOST, resource, key, uid, "cannot be changed in place, so it is made anew"), gone]
    metadata = metadata_patch(view.names, view.policy.owner, resource, virtual, host) or {}
    return [Patch(Side.HOST, resource, key, uid, {**metadata, **changes})] if metadata or changes else []


def _changes(host: Mapping[str, Any], content: Obj) -> Obj:
    changes: Obj = {}
    for field, wanted in content.items():
        present = host.get(field)
        if isinstance(wanted, dict):
            if inner := diff(present or {}, wanted):
                changes[field] = inner
        elif (present or None) != (wanted or None):
            changes[field] = wanted or None
    return changes

"""Ingresses: spec and annotations down, with the names of the host's objects; status and the host's default class up.

The host's controllers serve the copy, and may change it: cert-manager adds a path to a rule for a while, an admission plugin
gives it a class. Such is left alone, because an annotation tells what we last wrote and which generation that made. The
spec is written again only when the virtual one has changed, or when somebody has since taken away what we wrote; so nobody
is fought who changes it in the very request.

A host Ingress belongs to a name, not to a UID: one made anew takes its predecessor's over, and so keeps its load balancer. An
Ingress whose class the tenant has made, and the host does not have, is served by a controller of the tenant's own, and has no copy.
Whether two tenants want the same host name is the host's controllers' business; where they refuse, the tenant is told.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, NamedTuple

from syncer.kube.types import INGRESS_CLASSES, INGRESSES, Key, Lane, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import DOMAIN, LABEL_MANAGED_BY
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Refuse, Wait, Warn
from syncer.sync.spec import Right, Scope, SyncSpec, Wake, Watch
from syncer.sync.view import View
from syncer.translate.ingress import (
    class_of,
    host_rename,
    overlong_key,
    renamed_annotations,
    renamed_spec,
    uncopied_names,
)
from syncer.translate.merge import diff, owned
from syncer.translate.metadata import host_metadata, metadata_patch, virtual_key

APPLIED = DOMAIN + "/applied-spec"
"""Annotation of host Ingresses: a digest of the spec that we last wrote, and the generation that this made."""


def decide(pair: Pair, view: View) -> list[Intent]:
    """What an Ingress's pair needs now."""
    virtual, host = pair.virtual, pair.host
    if virtual is None:
        return [] if host is None or is_deleting(host) else [_delete(host, "the virtual Ingress is gone", unexplained=True)]
    if _is_tenants_own(virtual, view):
        return [] if host is None or is_deleting(host) else [_delete(host, "a controller inside of the virtual cluster serves its class")]
    if host is not None and is_deleting(host):
        return [Wait(on=(Ref(Side.HOST, INGRESSES, key_of(host)),), reason="the old host Ingress has to go before a new one can be made")]
    rename = host_rename(view.names, view.policy.service_name)
    if key := overlong_key(virtual, rename):
        limit = "63 characters, with its namespace and the virtual cluster's name"
        return [Refuse("NameTooLong", f"annotation {key}: the Service's name in it is longer than {limit}, on the host; use a shorter one")]
    wanted = renamed_spec(virtual, rename)
    # With the annotations as the host shall have them the rest of the metadata follows the rule for all types.
    translated = {**virtual, "metadata": {**virtual["metadata"], "annotations": renamed_annotations(virtual, rename)}}
    if host is None:
        return [] if is_deleting(virtual) else [_create(translated, wanted, view), *_told(pair.key, virtual)]
    down = _down(virtual, translated, host, wanted, view)
    return [*down, *(_told(pair.key, virtual) if down and "spec" in down[0].body else ()), *_up(pair.key, virtual, host)]


class _Applied(NamedTuple):
    """What we last wrote, as the annotation `APPLIED` has it."""

    digest: str
    generation: int
    class_name: str

    @classmethod
    def of(cls, wanted: Obj, generation: int) -> _Applied:
        text = json.dumps(wanted, sort_keys=True, separators=(",", ":"))
        return cls(sha256(text.encode()).hexdigest()[:16], generation, wanted.get("ingressClassName") or "-")

    @classmethod
    def read(cls, host: Obj) -> _Applied:
        parts = annotations_of(host).get(APPLIED, "").split(" ")
        return cls(parts[0], int(parts[1]), parts[2]) if len(parts) == 3 and parts[1].isdecimal() else cls("", 0, "-")

    def __str__(self) -> str:
        return f"{self.digest} {self.generation} {self.class_name}"


def _create(translated: Obj, wanted: Obj, view: View) -> Create:
    applied = {APPLIED: str(_Applied.of(wanted, 1))}
    metadata = host_metadata(view.names, view.policy.owner, INGRESSES, translated, annotations=applied)
    return Create(Side.HOST, INGRESSES, {"apiVersion": INGRESSES.api_version, "kind": INGRESSES.kind, "metadata": metadata, "spec": wanted})


def _down(virtual: Obj, translated: Obj, host: Obj, wanted: Obj, view: View) -> list[Patch]:
    spec = host.get("spec") or {}
    generation = host["metadata"].get("generation") or 0
    before, now = _Applied.read(host), _Applied.of(wanted, generation)
    changes = None
    if before.digest != now.digest:
        given = _given_class(virtual, host)
        changes = diff(spec, {**wanted, "ingressClassName": given} if given else wanted)
    elif before != now and not _holds(spec, wanted):
        changes = owned(spec, wanted)
    else:
        now = before
    if changes:
        now = now._replace(generation=generation + 1)
    body: Obj = metadata_patch(view.names, view.policy.owner, INGRESSES, translated, host, annotations={APPLIED: str(now)}) or {}
    if changes:
        body["spec"] = changes
    return [Patch(Side.HOST, INGRESSES, key_of(host), uid_of(host), body)] if body else []


def _given_class(virtual: Obj, host: Obj) -> str | None:
    """The class that the host has given an Ingress that asks for none; not the one that the virtual Ingress had and has no more."""
    given: str | None = (host.get("spec") or {}).get("ingressClassName")
    return given if given and not class_of(virtual) and given != _Applied.read(host).class_name else None


def _up(key: Key, virtual: Obj, host: Obj) -> list[Intent]:
    intents: list[Intent] = []
    status = host.get("status") or {}
    shown = {**status, "loadBalancer": {"ingress": None, **(status.get("loadBalancer") or {})}}
    if changes := owned(virtual.get("status") or {}, shown):
        body = {"status": changes}
        intents.append(Patch(Side.VIRTUAL, INGRESSES, key, uid_of(virtual), body, subresource="status", lane=Lane.STATUS))
    if (given := _given_class(virtual, host)) and not is_deleting(virtual):
        intents.append(Patch(Side.VIRTUAL, INGRESSES, key, uid_of(virtual), {"spec": {"ingressClassName": given}}))
    return intents


def _told(key: Key, virtual: Obj) -> list[Intent]:
    if not (names := uncopied_names(virtual)):
        return []
    message = f"{', '.join(names)}: custom resources are not copied to the host cluster, so these names mean objects that are there already"
    return [Warn(Ref(Side.VIRTUAL, INGRESSES, key), "NotCopied", message)]


def _holds(have: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there still, in its order; others may have added to it."""
    if isinstance(wanted, dict):
        return isinstance(have, dict) and all(_holds(have.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        rest = iter(have or ())
        return all(any(_holds(candidate, item) for candidate in rest) for item in wanted)
    return bool(have == wanted)


def _is_tenants_own(virtual: Obj, view: View) -> bool:
    name = class_of(virtual)
    if not name or str(INGRESS_CLASSES) in view.policy.lacking:
        return False
    own = view.get(Side.VIRTUAL, INGRESS_CLASSES, Key("", name))
    mirrored = own is None or annotations_of(own).get(LABEL_MANAGED_BY) == view.names.suffix
    return not mirrored and view.get(Side.HOST, INGRESS_CLASSES, Key("", name)) is None


def _delete(host: Obj, why: str, *, unexplained: bool = False) -> Delete:
    return Delete(Side.HOST, INGRESSES, key_of(host), uid_of(host), why, unexplained=unexplained)


def _by_class(ingress: Obj) -> list[str]:
    return [name] if (name := class_of(ingress)) else []


def _users(ingress_class: Obj, view: View) -> list[Key]:
    return view.find(Side.VIRTUAL, INGRESSES, "class", key_of(ingress_class).name)


SPEC = SyncSpec(
    name="ingresses",
    kind=INGRESSES,
    watches=(
        Watch(side=Side.VIRTUAL, resource=INGRESSES),
        Watch(side=Side.VIRTUAL, resource=INGRESS_CLASSES),
        Watch(side=Side.HOST, resource=INGRESSES, scope=Scope.MANAGED),
        Watch(side=Side.HOST, resource=INGRESS_CLASSES, optional=True),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, INGRESSES, key),
    host_ref=lambda names, key: Ref(Side.HOST, INGRESSES, names.host_key(key)),
    virtual_key=lambda host, view: virtual_key(view.names, INGRESSES, host),
    wakes=tuple(Wake(side, INGRESS_CLASSES, _users) for side in Side),
    indexes={(Side.VIRTUAL, INGRESSES): {"class": _by_class}},
    host_rights=(
        Right(group=INGRESSES.group, resource="ingresses", verbs=("get", "list", "watch", "create", "patch", "delete")),
        Right(group=INGRESSES.group, resource="ingressclasses", verbs=("get", "list", "watch"), optional=True, cluster=True),
    ),
    dispensable=True,
)

"""The loop of cluster-scoped classes of the host that are shown in the virtual cluster, so that its objects can name them.

A class goes by its name on both sides. Only objects that carry our mark are changed or removed: a class that the tenant made
is never touched, even if the host has one of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from syncer.kube.types import Obj, Ref, Resource, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch
from syncer.sync.spec import Right, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.merge import diff

_METADATA = ("name", "uid", "resourceVersion", "deletionTimestamp")


def mirrored_spec(
    resource: Resource,
    *,
    name: str,
    annotations: Collection[str],
    fields: Callable[[Obj], Obj],
    fixed: Callable[[Obj], Any],
    whole: bool = False,
) -> SyncSpec:
    """The loop for `resource`, known to --sync by `name`.

    Shown are, of a host object, `annotations` and what `fields` gives of the rest. `fixed` is the part of an object that no API
    server lets anybody change; where it differs, the virtual object is made anew. `whole` keeps host objects in memory as they
    are, for another loop that reads them too.
    """

    def shown(host: Obj, _view: View | None = None) -> Obj:
        metadata = {key: host["metadata"][key] for key in _METADATA if key in host["metadata"]}
        kept = {key: value for key, value in annotations_of(host).items() if key in annotations}
        return {"apiVersion": resource.api_version, "kind": resource.kind, **fields(host), "metadata": {**metadata, "annotations": kept}}

    def decide(pair: Pair, view: View) -> list[Intent]:
        virtual, host = pair.virtual, pair.host
        if virtual is None:
            return [] if host is None or is_deleting(host) else [Create(Side.VIRTUAL, resource, _marked(shown(host), view))]
        if is_deleting(virtual) or annotations_of(virtual).get(LABEL_MANAGED_BY) != view.names.suffix:
            return []
        uid = uid_of(virtual)
        if host is None:
            return [Delete(Side.VIRTUAL, resource, pair.key, uid, "the host cluster has no such class any more", unexplained=True)]
        want = shown(host)
        if fixed(virtual) != fixed(want):
            why = "it was made anew on the host cluster with what cannot be changed"
            return [Delete(Side.VIRTUAL, resource, pair.key, uid, why), Create(Side.VIRTUAL, resource, _marked(want, view))]
        have = shown(virtual)
        changes = diff({**have, "metadata": None}, {**want, "metadata": None}) or {}
        if noted := diff(annotations_of(have), annotations_of(want)):
            changes["metadata"] = {"annotations": noted}
        return [Patch(Side.VIRTUAL, resource, pair.key, uid, changes)] if changes else []

    return SyncSpec(
        name=name,
        kind=resource,
        watches=(Watch(side=Side.VIRTUAL, resource=resource), Watch(side=Side.HOST, resource=resource, slim=None if whole else shown)),
        decide=decide,
        virtual_ref=lambda key: Ref(Side.VIRTUAL, resource, key),
        host_ref=lambda _names, key: Ref(Side.HOST, resource, key),
        virtual_key=lambda host, _view: key_of(host),
        host_rights=(Right(group=resource.group, resource=resource.plural, verbs=("get", "list", "watch"), cluster=True),),
        dispensable=True,
        deletes_virtual=True,
    )


def _marked(shown: Obj, view: View) -> Obj:
    """The virtual object to create."""
    metadata = shown["metadata"]
    annotations = {**metadata["annotations"], LABEL_MANAGED_BY: view.names.suffix}
    return {**shown, "metadata": {"name": metadata["name"], "annotations": annotations}}

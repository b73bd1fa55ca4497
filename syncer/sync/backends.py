"""The loop of what is behind a Service: Endpoints and EndpointSlices differ in little else.

Both go down only with their Service, whichever was there first, and go when it goes. The virtual side is watched as metadata
only, since most of what is there is the work of the virtual cluster's own controllers, which those of the host do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from syncer.kube.types import PODS, SERVICES, Key, Obj, Ref, Resource, Side, annotations_of, is_deleting, key_of, labels_of, uid_of
from syncer.naming import ANNOTATION_NAME
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, Scope, SyncSpec, Wake, Watch
from syncer.sync.view import View
from syncer.translate import endpoints
from syncer.translate.metadata import host_metadata, metadata_patch, recorded_uid, virtual_key
from syncer.translate.services import KUBERNETES, is_excluded, is_external_name

Slim = Callable[[Obj, View], Obj | None]


def backends_spec(
    resource: Resource,
    *,
    service_of: Callable[[Obj], str],
    needs: Callable[[Obj], bool],
    keys_of_service: Callable[[Key, View], Iterable[Key]],
    slim_virtual: Slim | None,
    slim_host: Slim,
    hydrate: Callable[[Key, View], bool],
    host_key_of: Callable[[Obj, View], Key | None],
    indexes: dict[str, Callable[[Obj], Iterable[str]]],
    part_of: str = "",
) -> SyncSpec:
    """The loop for `resource`, named after its plural.

    `service_of` an object is the name of its Service, `needs` tells whether a Service takes copies of such objects, and
    `keys_of_service` which there are of one. `host_key_of` is the way back from a host object.
    """

    def decide(pair: Pair, view: View) -> list[Intent]:
        virtual, host = pair.virtual, pair.host
        key = None if virtual is None else Key(pair.key.namespace, service_of(virtual))
        service = None if key is None else view.get(Side.VIRTUAL, SERVICES, key)
        if virtual is None or key is None or key == KUBERNETES or service is None or not _is_served(service) or not needs(service):
            return _unneeded(resource, virtual, host)
        if host is None:
            return [] if is_deleting(virtual) else _create(resource, virtual, key, view)
        if is_deleting(host):
            return [_until_gone(resource, host)]
        return _update(resource, virtual, host, view)

    def of_virtual_service(service: Obj, view: View) -> Iterable[Key]:
        return keys_of_service(key_of(service), view)

    def of_host_service(service: Obj, view: View) -> Iterable[Key]:
        key = virtual_key(view.names, SERVICES, service)
        return () if key is None else keys_of_service(key, view)

    return SyncSpec(
        name=resource.plural,
        part_of=part_of,
        kind=resource,
        watches=(
            Watch(side=Side.VIRTUAL, resource=resource, metadata_only=True, slim=slim_virtual),
            Watch(side=Side.VIRTUAL, resource=SERVICES),
            Watch(side=Side.VIRTUAL, resource=PODS),
            Watch(side=Side.HOST, resource=resource, scope=Scope.MANAGED, slim=slim_host),
            Watch(side=Side.HOST, resource=SERVICES),
            Watch(side=Side.HOST, resource=PODS, scope=Scope.MANAGED),
        ),
        decide=decide,
        virtual_ref=lambda key: Ref(Side.VIRTUAL, resource, key),
        host_ref=lambda names, key: Ref(Side.HOST, resource, names.host_key(key)),
        virtual_key=host_key_of,
        wakes=(Wake(Side.VIRTUAL, SERVICES, of_virtual_service), Wake(Side.HOST, SERVICES, of_host_service)),
        indexes={(Side.VIRTUAL, resource): indexes} if indexes else {},
        hydrate=hydrate,
        host_rights=(
            Right(group=resource.group, resource=resource.plural, verbs=("get", "list", "watch", "create", "patch", "delete")),
            Right(group="", resource="services", verbs=("get", "list", "watch")),
            Right(group="", resource="pods", verbs=("get", "list", "watch")),
        ),
        dispensable=True,
    )


def is_ours(host: Obj) -> bool:
    """Whether we wrote a host object that belongs to a Service of ours; if not, a controller of the host did."""
    return ANNOTATION_NAME in annotations_of(host)


def _is_served(service: Obj) -> bool:
    return not is_excluded(service) and not is_external_name(service)


def _unneeded(resource: Resource, virtual: Obj | None, host: Obj | None) -> list[Intent]:
    if host is None or is_deleting(host) or not is_ours(host):
        return []
    why = "the virtual object is gone" if virtual is None else "its Service is gone, or has a selector"
    return [Delete(Side.HOST, resource, key_of(host), uid_of(host), why, unexplained=virtual is None)]


def _create(resource: Resource, virtual: Obj, service: Key, view: View) -> list[Intent]:
    ref = Ref(Side.HOST, SERVICES, view.names.host_key(service))
    found = view.get(*ref)
    if found is None or virtual_key(view.names, SERVICES, found) != service:
        # What is behind no Service, controllers of the host may remove.
        return [Wait(on=(ref,), reason=f"the Service {service} is not on the host yet")]
    copied = endpoints.as_copied(view.names, virtual)
    content, waits = _content(virtual, view)
    metadata = host_metadata(view.names, view.policy.owner, resource, copied)
    present = {field: value for field, value in content.items() if value}
    return [
        Create(Side.HOST, resource, {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **present}),
        *waits,
    ]


def _update(resource: Resource, virtual: Obj, host: Obj, view: View) -> list[Intent]:
    content, waits = _content(virtual, view)
    changes = {field: wanted or None for field, wanted in content.items() if endpoints.differs(field, host.get(field), wanted)}
    key, uid = key_of(host), uid_of(host)
    if "addressType" in changes:
        return [Delete(Side.HOST, resource, key, uid, "cannot be changed in place, so it is made anew"), _until_gone(resource, host)]
    copied = endpoints.as_copied(view.names, virtual)
    metadata = metadata_patch(view.names, view.policy.owner, resource, copied, host) or {}
    if not is_ours(host) and (marks := {label: None for label in labels_of(host) if label in endpoints.OF_CONTROLLERS}):
        labels = metadata.setdefault("metadata", {}).setdefault("labels", {})
        labels.update(marks)
    patch = [Patch(Side.HOST, resource, key, uid, {**metadata, **changes})] if metadata or changes else []
    return [*patch, *waits]


def _content(virtual: Obj, view: View) -> tuple[Obj, list[Wait]]:
    """The host object's content, and what to wait for until it is complete."""
    uids: dict[Key, str] = {}
    coming: list[Ref] = []
    for key, uid in endpoints.pods_behind(virtual).items():
        ref = Ref(Side.HOST, PODS, view.names.host_key(key))
        host = view.get(*ref)
        if host is not None and virtual_key(view.names, PODS, host) == key:
            if uid in ("", recorded_uid(host)):
                uids[key] = uid_of(host)
        elif (pod := view.get(Side.VIRTUAL, PODS, key)) is not None and uid in ("", uid_of(pod)):
            coming.append(ref)
    waits = [Wait(on=tuple(coming), reason="pods that it refers to are not on the host yet")] if coming else []
    return endpoints.host_content(view.names, virtual, uids), waits


def _until_gone(resource: Resource, host: Obj) -> Wait:
    return Wait(on=(Ref(Side.HOST, resource, key_of(host)),), reason="the old host object has to go before a new one can be made")

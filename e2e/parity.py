"""Whether both sides of a virtual cluster, as they are, say the same: the end state that every run has to come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncer.kube.types import CONFIGMAPS, ENDPOINTS, EVENTS, INGRESSES, NODES, PODS, SECRETS, SERVICES, Resource, key_of
from syncer.naming import LABEL_MANAGED_BY, Names
from tests.agreement import Sides, disagreements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from e2e.lab.api import Api
    from e2e.lab.virtual import VirtualCluster
    from syncer.kube.types import Key, Obj

_HOST = (PODS, SERVICES, CONFIGMAPS, SECRETS, INGRESSES)
_VIRTUAL = (PODS, SERVICES, ENDPOINTS, CONFIGMAPS, SECRETS, INGRESSES, NODES, EVENTS)


def differences(virtual: VirtualCluster, *, without: Iterable[tuple[Resource, Key]] = ()) -> list[str]:
    """What differs between both sides, or is there on one alone, a sentence each."""
    return disagreements(sides(virtual, without=without))


def sides(virtual: VirtualCluster, *, without: Iterable[tuple[Resource, Key]] = ()) -> Sides:
    """All that a syncer looks after, as it is now on both sides; of the host, what carries our label."""
    names = Names(virtual.name, virtual.host_namespace)
    selector = {"labelSelector": f"{LABEL_MANAGED_BY}={virtual.name}"}
    return Sides(
        names,
        {resource: _listed(virtual.api, resource) for resource in _VIRTUAL},
        {resource: _listed(virtual.host.api, resource, virtual.host_namespace, **selector) for resource in _HOST},
        without=without,
    )


def versions(virtual: VirtualCluster) -> dict[str, str]:
    """resourceVersion, by place and name, of everything that a syncer could write: the same again when nobody has written."""
    found = sides(virtual)
    objects = {f"host {resource} {key}": obj for resource in _HOST for key, obj in found.host(resource).items()}
    objects |= {f"virtual {resource} {key}": obj for resource in _VIRTUAL for key, obj in found.virtual(resource).items()}
    return {place: obj["metadata"]["resourceVersion"] for place, obj in objects.items()}


def _listed(api: Api, resource: Resource, namespace: str = "", **params: str) -> list[Obj]:
    items = api.get(resource.path(namespace), **params)["items"]
    listed = [{**item, "apiVersion": resource.api_version, "kind": resource.kind} for item in items]
    return sorted(listed, key=key_of)

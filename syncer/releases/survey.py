"""All objects of a host namespace, of whatever type the host serves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from syncer.errors import ApiError, Forbidden, NotFound
from syncer.kube.types import SECRETS, Key, Resource
from syncer.naming import LABEL_CLUSTER, LABEL_HOME
from syncer.releases.belongings import EVENTS, Item

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncer.kube.client import Client

CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)


_NOT_THERE = (404, 405)


class Survey:
    """Looks into one namespace. What may not be listed is left out, and named in `unseen`."""

    def __init__(self, host: Client, namespace: str) -> None:
        self._host = host
        self._namespace = namespace
        self._types: list[Resource] = []
        self.unseen: set[Resource] = set()

    async def everything(self) -> list[Item]:
        """The objects of all types that can be deleted, but for events."""
        self._types = self._types or await types(self._host)
        return await self.of(self._types)

    async def of(self, resources: Iterable[Resource]) -> list[Item]:
        """The objects of these types."""
        lists = await asyncio.gather(*(self._of(resource) for resource in resources))
        return [item for items in lists for item in items]

    async def _of(self, resource: Resource) -> list[Item]:
        try:
            return [Item(resource, obj) for obj in await self._host.list_all(resource, self._namespace, metadata_only=True)]
        except ApiError as error:
            if error.status not in _NOT_THERE:
                self.unseen.add(resource)
            return []


async def elsewhere(host: Client, name: str, namespace: str) -> list[Item]:
    """What a virtual cluster may have outside of its namespace, as far as it may be read: its cluster-wide rights, more kubeconfigs."""
    found = []
    for resource in (CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS):
        with suppress(NotFound, Forbidden):
            found.append(Item(resource, await host.get(resource, Key("", f"vc-{name}-v-{namespace}"), metadata_only=True)))
    selector = f"{LABEL_CLUSTER}={name},{LABEL_HOME}={namespace}"
    try:
        secrets = await host.list_all(SECRETS, label_selector=selector, metadata_only=True)
    except Forbidden:
        secrets = []
    return found + [Item(SECRETS, secret) for secret in secrets if secret["metadata"].get("namespace") != namespace]


async def types(host: Client, *, namespaced: bool = True) -> list[Resource]:
    """The types with a namespace, or those without, that can be listed and deleted, in the version that the host prefers; no events."""
    groups = (await host.request_json("GET", "/apis")).get("groups") or ()
    versions = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    lists = await asyncio.gather(*(_served(host, path) for path in versions))
    return [resource for listed in lists for resource in listed if resource.namespaced is namespaced]


async def _served(host: Client, path: str) -> list[Resource]:
    try:
        listed: dict[str, Any] = await host.request_json("GET", path)
    except ApiError:
        return []  # an API server of its own that is down
    group, _, version = listed["groupVersion"].rpartition("/")
    return [
        Resource(group, version, item["name"], item["kind"], item["namespaced"])
        for item in listed.get("resources") or ()
        if "/" not in item["name"] and {"list", "delete"} <= set(item.get("verbs") or ())
        if (group, item["name"]) not in EVENTS
    ]

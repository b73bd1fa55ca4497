"""All objects of a host namespace, of whatever type the host serves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from syncer.errors import NETWORK_ERRORS, ApiError, Forbidden, NotFound, SyncerError
from syncer.kube.types import SECRETS, Key, Resource
from syncer.naming import LABEL_CLUSTER, LABEL_HOME
from syncer.releases.belongings import EVENTS, Item

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncer.kube.client import Client

CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)


_NOT_THERE = (404, 405)
_OWN_GROUPS = frozenset(
    {
        "",
        "apps",
        "autoscaling",
        "batch",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "networking.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
    }
)
"""What the host's API server serves itself, which works whenever it does. Others' groups may fail for as long as they like."""


class Survey:
    """Looks into one namespace.

    Raises ApiError when the host fails. What may not be listed, and others' API servers that fail, are left out.
    """

    def __init__(self, host: Client, namespace: str) -> None:
        self._host = host
        self._namespace = namespace
        self._types: list[Resource] = []
        self._untold: set[str] = set()
        self._unlisted: set[str] = set()

    @property
    def unseen(self) -> set[str]:
        """What the last look at everything left out: types, and whole versions of groups."""
        return self._untold | self._unlisted

    async def everything(self) -> list[Item]:
        """The objects of all types that can be deleted, but for events."""
        if not self._types or self._untold:
            found, self._untold = await types(self._host)
            self._types = [resource for resource in found if resource.namespaced]
        self._unlisted.clear()
        return await self.of(self._types)

    async def of(self, resources: Iterable[Resource]) -> list[Item]:
        """The objects of these types."""
        lists = await asyncio.gather(*(self._of(resource) for resource in resources))
        return [item for items in lists for item in items]

    async def _of(self, resource: Resource) -> list[Item]:
        items = await listed(self._host, resource, self._namespace)
        if items is None:
            self._unlisted.add(str(resource))
        return items or []


async def listed(host: Client, resource: Resource, namespace: str, selector: str = "") -> list[Item] | None:
    """The objects of a type. None if they may not be listed, or if it is not the host's own and fails.

    Raises ApiError or a network error when the host's own fail.
    """
    try:
        return [Item(resource, obj) for obj in await host.list_all(resource, namespace, label_selector=selector, metadata_only=True)]
    except (ApiError, *NETWORK_ERRORS) as error:
        if isinstance(error, ApiError) and error.status in _NOT_THERE:
            return []
        if isinstance(error, Forbidden) or resource.group not in _OWN_GROUPS:
            return None
        raise


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


async def types(host: Client) -> tuple[list[Resource], set[str]]:
    """The types that can be listed and deleted, each in one version, which the host prefers to others that have it; no events.

    And the versions of others' groups that do not tell theirs. Raises ApiError when one of the host's own does not.
    """
    groups = (await host.request_json("GET", "/apis")).get("groups") or ()
    # A group's preferred version need not have all of its types.
    listed = (version["groupVersion"] for group in groups for version in (group["preferredVersion"], *group["versions"]))
    versions = ["v1", *dict.fromkeys(listed)]
    lists = await asyncio.gather(*(_served(host, version) for version in versions))
    untold = {version for version, served in zip(versions, lists, strict=True) if served is None}
    found: dict[tuple[str, str], Resource] = {}
    for resource in (one for served in lists for one in served or ()):
        found.setdefault((resource.group, resource.plural), resource)
    return list(found.values()), untold


async def _served(host: Client, group_version: str) -> list[Resource] | None:
    group, _, version = group_version.rpartition("/")
    try:
        answer: dict[str, Any] = await host.request_json("GET", f"/apis/{group_version}" if group else f"/api/{version}")
        return [
            Resource(group, version, item["name"], item["kind"], item["namespaced"])
            for item in answer.get("resources") or ()
            if "/" not in item["name"] and {"list", "delete"} <= set(item.get("verbs") or ())
            if (group, item["name"]) not in EVENTS
        ]
    except NotFound:
        return []  # it went away
    except (SyncerError, *NETWORK_ERRORS, AttributeError, KeyError, TypeError):  # whoever may register an API service may answer anything
        if group in _OWN_GROUPS:
            raise
        return None

"""Looks on a host for orphans (`orphans` says what is one), and removes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from syncer.errors import NETWORK_ERRORS, ApiError, Conflict, Forbidden, NotFound, told
from syncer.kube.types import CONFIGMAPS, LEASES, PODS, SECRETS, Key, Resource, is_deleting, uid_of
from syncer.releases.belongings import Item
from syncer.releases.orphans import (
    DEPLOYMENTS,
    SELECTORS,
    Cluster,
    Orphan,
    claimed,
    keys_of_owners,
    made_on_hosts,
    orphans,
    signs_of_life,
)
from syncer.releases.release import CONTROL_PLANE, SELECTOR, STATEFUL_SETS
from syncer.releases.survey import listed, types
from syncer.runtime.leader import lease_key
from syncer.sync.fence import owner_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from syncer.kube.client import Client

_WHOLE = (STATEFUL_SETS, DEPLOYMENTS)
_RECORDS = "owner=helm"
_DELETED, _GOING, _GONE = "deleted", "is being deleted already", "is gone"
DONE = frozenset({_DELETED, _GOING, _GONE})


class Leftovers:
    """Of the virtual clusters that had their place in one namespace of the host, or in any. `wall` is epoch seconds.

    What could not be looked at, and what that means, is in `remarks`.
    """

    def __init__(self, host: Client, namespace: str, wall: Callable[[], float]) -> None:
        self._host = host
        self._namespace = namespace
        self._wall = wall
        self._unseen: set[str] = set()
        self.remarks: list[str] = []

    async def look(self) -> list[Orphan]:
        """All orphans. Raises ApiError or a network error when nothing at all can be found out."""
        self._unseen.clear()
        self.remarks.clear()
        # First what there is, then what lives: a virtual cluster that is made meanwhile is seen.
        found = [orphan for orphan in claimed(await self._marked()) if self._namespace in ("", orphan.cluster.namespace)]
        living = await self._living({orphan.cluster for orphan in found})
        owners = await self._owners(found)
        if self._unseen:
            self.remarks.append(f"not looked at, as listing them fails or is not allowed: {', '.join(sorted(self._unseen))}")
        return orphans(found, living, owners)

    async def remove(self, found: Sequence[Orphan]) -> list[tuple[Orphan, str]]:
        """Delete what still is an orphan; tells of each what became of it, in words, of which DONE are those that mean that it goes."""
        still = {orphan.item.uid for orphan in await self.look()}
        return [(one, await self._remove(one.item) if one.item.uid in still else "is no orphan any more") for one in found]

    async def _remove(self, item: Item) -> str:
        if is_deleting(item.obj):
            return _GOING
        try:
            await self._host.delete(item.resource, item.key, uid=item.uid)
        except NotFound:
            return _GONE
        except Conflict:
            return "is another one by now, and stays"
        except ApiError as error:
            return f"stays: {error.message}"
        except NETWORK_ERRORS as error:
            return f"stays, or not: {told(error)}"
        return _DELETED

    async def _marked(self) -> list[Item]:
        """Whatever has a mark of any syncer or chart."""
        made = made_on_hosts()
        found, untold = await types(self._host)
        self._unseen |= untold
        wanted = [resource for resource in found if not resource.namespaced or (resource.group, resource.plural) in made]
        asked = [
            self._list(resource, self._namespace if resource.namespaced else "", selector) for resource in wanted for selector in SELECTORS
        ]
        return [item for some in await asyncio.gather(*asked) for item in some]

    async def _list(self, resource: Resource, namespace: str, selector: str) -> list[Item]:
        items = await listed(self._host, resource, namespace, selector)
        if items is None:
            self._unseen.add(str(resource))
        return items or []

    async def _living(self, clusters: Iterable[Cluster]) -> set[Cluster]:
        """Those that show a sign of life, or of which that cannot be told."""
        control_planes = await self._control_planes()
        by_namespace: dict[str, list[Cluster]] = {}
        for cluster in clusters:
            by_namespace.setdefault(cluster.namespace, []).append(cluster)
        living: set[Cluster] = set()
        for namespace, some in by_namespace.items():
            try:
                items = await self._signs(namespace, some)
            except Forbidden as error:
                self.remarks.append(
                    f"whether {', '.join(sorted(one.name for one in some))} in {namespace} still live cannot be told: {error.message}"
                )
                living |= set(some)
                continue
            living |= {cluster for cluster in some if any(signs_of_life(cluster, [*items, *control_planes], self._wall()))}
        return living

    async def _signs(self, namespace: str, clusters: Iterable[Cluster]) -> list[Item]:
        """Raises Forbidden unless all may be seen that can be one."""
        lists = (
            (STATEFUL_SETS, ""),
            (DEPLOYMENTS, CONTROL_PLANE),
            (PODS, CONTROL_PLANE),
            (SECRETS, _RECORDS),
            (CONFIGMAPS, _RECORDS),
        )
        items = []
        for resource, selector in lists:
            found = await self._host.list_all(resource, namespace, label_selector=selector, metadata_only=resource not in _WHOLE)
            items += [Item(resource, obj) for obj in found]
        for cluster in clusters:
            for resource, key in ((CONFIGMAPS, owner_key(*cluster)), (LEASES, lease_key(*cluster))):
                if (obj := await self._find(resource, key)) is not None:
                    items.append(obj)
        return items

    async def _control_planes(self) -> list[Item]:
        """Of all namespaces, as far as one may look there."""
        found = []
        for resource in _WHOLE:
            try:
                found += [Item(resource, obj) for obj in await self._host.list_all(resource, label_selector=SELECTOR)]
            except Forbidden:
                self.remarks.append(
                    f"{resource} of other namespaces may not be listed; make sure that no control plane there syncs into this one"
                )
        return found

    async def _owners(self, found: Iterable[Orphan]) -> set[str]:
        """UIDs of the ConfigMaps that exist among those that are named as owners."""
        items = [await self._find(CONFIGMAPS, Key(*key)) for key in sorted(keys_of_owners(found))]
        return {uid_of(item.obj) for item in items if item is not None}

    async def _find(self, resource: Resource, key: Key) -> Item | None:
        try:
            return Item(resource, await self._host.get(resource, key))
        except NotFound:
            return None

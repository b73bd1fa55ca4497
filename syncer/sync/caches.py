"""The caches of both sides: which informers the loops need between them, and the view that decisions get of their stores."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from syncer.kube.types import Key, Obj, Ref, Resource, Side, key_of
from syncer.kube.watch import Watcher
from syncer.runtime.informer import Informer
from syncer.runtime.store import Store
from syncer.sync.spec import Scope
from syncer.translate.metadata import marker_selector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from syncer.kube.client import Client
    from syncer.naming import Names
    from syncer.runtime.store import Change
    from syncer.sync.spec import SyncSpec, Watch
    from syncer.sync.view import IndexFunction, Policy

Place = tuple[Side, Resource]

_WITHHELD = 256
"""Of how many objects that may never come something is withheld."""
_WITHHELD_EACH = 64
"""How much is withheld for one of them. Somebody else's events would otherwise pile up."""


def merge_watches(specs: Iterable[SyncSpec]) -> dict[Place, Watch]:
    """One watch for each (side, resource) that any loop needs: the wider scope, the fuller form, the one `slim`.

    Raises ValueError when two loops want to slim the same objects differently, or one slims what another needs whole.
    """
    merged: dict[Place, Watch] = {}
    for spec in specs:
        for watch in spec.watches:
            place = (watch.side, watch.resource)
            have = merged.get(place)
            merged[place] = watch if have is None else _widest(have, watch)
    return merged


def _widest(one: Watch, other: Watch) -> Watch:
    if one.slim is not other.slim:
        raise ValueError(f"{one.side} {one.resource} is needed slim by one loop and otherwise by another")
    return type(one)(
        side=one.side,
        resource=one.resource,
        scope=Scope.ALL if Scope.ALL in (one.scope, other.scope) else Scope.MANAGED,
        metadata_only=one.metadata_only and other.metadata_only,
        slim=one.slim,
        awaits=one.awaits,
        after_others=one.after_others and other.after_others,
        optional=one.optional and other.optional,
    )


def merge_indexes(specs: Iterable[SyncSpec]) -> dict[Place, dict[str, IndexFunction]]:
    """All declared indexes by place; an index name means the same to every loop that declares it."""
    merged: dict[Place, dict[str, IndexFunction]] = {}
    for spec in specs:
        for place, functions in spec.indexes.items():
            for name, function in functions.items():
                if merged.setdefault(place, {}).setdefault(name, function) is not function:
                    raise ValueError(f"two loops declare the index {name} of {place[0]} {place[1]} differently")
    return merged


@dataclass(frozen=True, slots=True)
class LiveView:
    """The View of the running daemon."""

    names: Names
    policy: Policy
    now: float
    stores: Mapping[Place, Store]

    def get(self, side: Side, resource: Resource, key: Key) -> Obj | None:
        """As View.get; a type that no loop watches is a programming error and raises KeyError."""
        return self.stores[side, resource].get(key)

    def find(self, side: Side, resource: Resource, index: str, value: str) -> list[Key]:
        """As View.find."""
        return self.stores[side, resource].find(index, value)

    def has(self, side: Side, resource: Resource, index: str, value: str) -> bool:
        """As View.has."""
        return self.stores[side, resource].has(index, value)


class Caches:
    """Stores and informers of everything that `specs` watch. `wall` tells epoch seconds.

    `before_swap` is awaited per side before a relist replaces a cache; when it raises, the old content stays.
    """

    def __init__(
        self,
        specs: Iterable[SyncSpec],
        clients: Mapping[Side, Client],
        *,
        names: Names,
        policy: Policy,
        wall: Callable[[], float],
        before_swap: Mapping[Side, Callable[[], Awaitable[None]]],
    ) -> None:
        self.names = names
        self._policy = policy
        self._wall = wall
        self.watches = merge_watches(specs)
        indexes = merge_indexes(specs)
        self.stores: dict[Place, Store] = {}
        self._withheld: OrderedDict[Ref, OrderedDict[tuple[Place, Key], Obj]] = OrderedDict()
        """What was dropped and may yet be wanted, in its newest form, by what would have had it kept; the oldest first."""
        self.informers: dict[Place, Informer] = {}
        for place, watch in self.watches.items():
            side, resource = place
            store = Store(side, resource, indexes=indexes.get(place, {}))
            watcher = Watcher(
                clients[side],
                resource,
                namespace=names.host_namespace if side is Side.HOST and resource.namespaced else "",
                label_selector=marker_selector(names) if watch.scope is Scope.MANAGED else "",
                metadata_only=watch.metadata_only,
            )
            self.stores[place] = store
            store.listeners.append(partial(self._reconsider, place))
            if watch.optional and str(resource) in policy.lacking:
                continue  # its store stays empty
            self.informers[place] = Informer(
                watcher, store, partial=watch.metadata_only, transform=self._transform(watch), before_swap=before_swap[side]
            )

    def view(self) -> LiveView:
        """What the caches hold now; valid until the caller awaits something."""
        return LiveView(self.names, self._policy, self._wall(), self.stores)

    def keep(self, side: Side, resource: Resource, obj: Obj) -> None:
        """What one of our own writes answered enters the cache at once, in the form in which its watch keeps it."""
        place = (side, resource)
        if (store := self.stores.get(place)) is None:
            return
        watch = self.watches[place]
        if watch.slim is not None:
            slimmed = watch.slim(obj, self.view())
            if slimmed is None:
                return
            obj = slimmed
        if watch.metadata_only:
            obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": obj["metadata"]}
        store.apply(obj, partial=watch.metadata_only)

    def drop(self, side: Side, resource: Resource, key: Key, uid: str) -> None:
        """The API server has told that the object with that UID is gone."""
        if (store := self.stores.get((side, resource))) is not None:
            store.remove(key, uid, gone_for_good=True)

    def synced(self, places: Iterable[Place]) -> bool:
        """Whether all these caches have listed completely; one that nothing may be listed into has."""
        return all(place not in self.informers or self.informers[place].synced.is_set() for place in places)

    async def wait_synced(self, places: Iterable[Place]) -> None:
        """Wait until `synced`."""
        for place in places:
            if place in self.informers:
                await self.informers[place].synced.wait()

    def _transform(self, watch: Watch) -> Callable[[Obj], Obj | None] | None:
        slim, awaits = watch.slim, watch.awaits
        if slim is None:
            return None

        def transform(obj: Obj) -> Obj | None:
            view = self.view()
            kept = slim(obj, view)
            if kept is None and awaits is not None and (ref := awaits(obj, view)) is not None:
                self._withhold(ref, (watch.side, watch.resource), obj)
            return kept

        return transform

    def _withhold(self, ref: Ref, place: Place, obj: Obj) -> None:
        kept = self._withheld.setdefault(ref, OrderedDict())
        kept[place, key_of(obj)] = obj
        kept.move_to_end((place, key_of(obj)))
        if len(kept) > _WITHHELD_EACH:  # of an object that never comes, since it is somebody else's
            kept.popitem(last=False)
        if len(self._withheld) > _WITHHELD:
            self._withheld.popitem(last=False)

    def _reconsider(self, place: Place, change: Change) -> None:
        """Keep what was dropped for want of an object that has come now. What an API server tells of it arrived first."""
        if change.kind != "added" or not self._withheld:
            return
        for ((side, resource), _), obj in self._withheld.pop(Ref(*place, change.key), {}).items():
            watch = self.watches[side, resource]
            assert watch.slim is not None
            if (kept := watch.slim(obj, self.view())) is not None:
                self.stores[side, resource].apply(kept, partial=watch.metadata_only, watched=True)

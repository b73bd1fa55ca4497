"""What etcd and the watch cache are to an API server: objects, one rising revision for all of them, and their history."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from syncer.kube.types import Key, Obj, Resource, key_of
from tests.fakes.statuses import expired

EventType: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Event:
    """One write. `obj` is the state it left (for a deletion the last one), `before` the one it replaced."""

    revision: int
    type: EventType
    resource: Resource
    obj: Obj
    before: Obj | None


class Storage:
    """Objects by resource and key. Stored objects are never modified, only replaced: do not modify what you are given."""

    def __init__(self, revision: int = 0) -> None:
        self.revision = revision
        self.compacted = revision
        self.history: list[Event] = []
        self.listeners: set[asyncio.Event] = set()
        self._objects: dict[Resource, dict[Key, Obj]] = {}

    def get(self, resource: Resource, key: Key) -> Obj | None:
        return self._objects.get(resource, {}).get(key)

    def objects(self, resource: Resource, namespace: str = "") -> list[Obj]:
        """Sorted by namespace and name."""
        return _sorted(self._objects.get(resource, {}).values(), namespace)

    def resources(self) -> Iterable[Resource]:
        return list(self._objects)

    def write(self, resource: Resource, obj: Obj) -> Obj:
        """Store `obj` under the next revision; it belongs to the storage from now on."""
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        objects = self._objects.setdefault(resource, {})
        key = key_of(obj)
        before = objects.get(key)
        objects[key] = obj
        self._record(Event(self.revision, "MODIFIED" if before else "ADDED", resource, obj, before))
        return obj

    def remove(self, resource: Resource, key: Key) -> Obj:
        """Returns the last state, with the revision of the deletion."""
        before = self._objects[resource].pop(key)
        self.revision += 1
        last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.revision)}}
        self._record(Event(self.revision, "DELETED", resource, last, before))
        return last

    def at(self, resource: Resource, revision: int, namespace: str = "") -> list[Obj]:
        """As `objects`, as it was at that revision; Failure 410 when its history is compacted."""
        if revision < self.compacted:
            raise expired("The provided continue parameter is too old to display a consistent list result.")
        objects = dict(self._objects.get(resource, {}))
        for event in reversed(self.history):
            if event.revision <= revision:
                break
            if event.resource == resource:
                if event.before is None:
                    objects.pop(key_of(event.obj), None)
                else:
                    objects[key_of(event.obj)] = event.before
        return _sorted(objects.values(), namespace)

    def since(self, revision: int) -> list[Event]:
        """All later events, in order; Failure 410 when some of them are compacted."""
        if revision < self.compacted:
            raise expired(f"too old resource version: {revision} ({self.compacted})")
        history = self.history
        start = len(history)
        while start and history[start - 1].revision > revision:
            start -= 1
        return history[start:]

    def compact(self) -> None:
        """Forget the history up to now."""
        self.compacted = self.revision
        self.history.clear()

    def _record(self, event: Event) -> None:
        self.history.append(event)
        for listener in self.listeners:
            listener.set()


def _sorted(objects: Iterable[Obj], namespace: str) -> list[Obj]:
    return sorted((obj for obj in objects if not namespace or key_of(obj).namespace == namespace), key=key_of)

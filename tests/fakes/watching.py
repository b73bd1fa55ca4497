"""Watch streams: what is sent when, and how they break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal

from syncer.kube.types import Obj, Resource, key_of
from tests.fakes.selectors import Predicate
from tests.fakes.statuses import Failure, too_large_revision
from tests.fakes.storage import Event, Storage

CATCH_UP = 3.0
"""Seconds that a real server waits for its watch cache to reach a resourceVersion that it has not seen yet."""

LAST_BOOKMARK = 2.0
"""Seconds before its timeout at which a watch gets a last bookmark."""


@dataclass(slots=True, kw_only=True, eq=False)
class Watch:
    """One open watch.

    `revision` is the last one that has been looked at. With `from_state` it starts with what there is (once revision
    `wait_for` is reached), else with what came after `revision`; a revision in the future just stays silent, as the real one does.
    """

    storage: Storage
    resource: Resource
    namespace: str
    matches: Predicate
    revision: int
    from_state: bool = False
    wait_for: int = 0
    initial_bookmark: bool = False
    bookmarks: bool = False
    bookmark_every: float = 60.0
    timeout: float = 1800.0
    held: Callable[[], bool] = lambda: False
    end: Literal["", "clean", "abort"] = ""
    bookmark_now: bool = False
    next_bookmark: float = float("inf")
    raw: list[bytes] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def events(self) -> AsyncGenerator[Obj | bytes, None]:
        """Watch events as they are due, and injected bytes, until the timeout, `end`, or an ERROR event."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        if self.bookmarks:
            self.next_bookmark = min(loop.time() + self.bookmark_every, deadline - LAST_BOOKMARK)
        self.storage.listeners.add(self.wake)
        try:
            await self.wait_while_held()
            await wait_until_fresh(self.storage, self.wait_for)
            for event in self._state():
                yield event
            while not self.end:
                self.wake.clear()
                for line in self._due(loop.time()):
                    yield line
                if loop.time() >= deadline:
                    return
                if not self.wake.is_set():
                    await self._sleep(min(deadline, self.next_bookmark) - loop.time())
                await self.wait_while_held()
        except Failure as failure:
            yield {"type": "ERROR", "object": failure.status()}
        finally:
            self.storage.listeners.discard(self.wake)

    def _state(self) -> list[Obj]:
        """What a watch begins with that does not continue an earlier one."""
        found: list[Obj] = []
        if self.from_state:
            self.revision = self.storage.revision
            objects = self.storage.objects(self.resource, self.namespace)
            found = [{"type": "ADDED", "object": obj} for obj in objects if self.matches(obj)]
        if self.initial_bookmark:
            found.append(self._bookmark({"k8s.io/initial-events-end": "true"}))
        return found

    def _due(self, now: float) -> list[Obj | bytes]:
        found: list[Obj | bytes] = [*self.raw]
        self.raw.clear()
        for event in self.storage.since(self.revision):
            self.revision = max(self.revision, event.revision)
            if seen := self.seen(event):
                found.append(seen)
        if self.bookmark_now or now >= self.next_bookmark:
            self.bookmark_now = False
            self.next_bookmark = now + self.bookmark_every
            if self.storage.revision >= self.revision:  # a watch from the future gets none
                found.append(self._bookmark())
        return found

    def seen(self, event: Event) -> Obj | None:
        """The event as this watch sees it: leaving the selection is a DELETED, entering it an ADDED."""
        if event.resource != self.resource or (self.namespace and key_of(event.obj).namespace != self.namespace):
            return None
        was = event.before is not None and self.matches(event.before)
        now = event.type != "DELETED" and self.matches(event.obj)
        if now:
            return {"type": "MODIFIED" if was else "ADDED", "object": event.obj}
        if was and event.before is not None:
            meta = {**event.before["metadata"], "resourceVersion": str(event.revision)}
            return {"type": "DELETED", "object": {**event.before, "metadata": meta}}
        return None

    def _bookmark(self, annotations: Obj | None = None) -> Obj:
        meta: Obj = {"resourceVersion": str(self.storage.revision)}
        if annotations:
            meta["annotations"] = annotations
        obj: Obj = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": meta}
        if self.resource.plural == "pods":
            obj |= {"spec": {"containers": None}, "status": {}}
        return {"type": "BOOKMARK", "object": obj}

    async def wait_while_held(self) -> None:
        while self.held() and not self.end:
            self.wake.clear()
            await self.wake.wait()

    async def _sleep(self, seconds: float) -> None:
        try:
            # Never less than a tick: rounding may wake us just before the moment, and then again and again.
            async with asyncio.timeout(max(seconds, 0.001)):
                await self.wake.wait()
        except TimeoutError:
            pass


async def wait_until_fresh(storage: Storage, revision: int) -> None:
    """Failure 504 when `revision` is not reached within the time that a real server waits for it."""
    wake = asyncio.Event()
    storage.listeners.add(wake)
    try:
        async with asyncio.timeout(CATCH_UP):
            while storage.revision < revision:
                wake.clear()
                await wake.wait()
    except TimeoutError:
        raise too_large_revision(revision, storage.revision) from None
    finally:
        storage.listeners.discard(wake)

"""Keeps a store like the API server: takes a watcher's events into it, and knows whether it is up to date.

What a watcher tells is applied as it comes, but a list is staged and swapped in as a whole. Before the swap whoever has a
say (`before_swap`: the fence, which knows the virtual cluster by its UID) may refuse it: then everything stays as it was,
and the watcher lists again after its backoff.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

import structlog

from syncer.errors import NETWORK_ERRORS, SyncerError, WatchError
from syncer.kube.types import Obj, key_of, uid_of
from syncer.kube.watch import Apply, Bookmark, Delete, Failed, Init, InitApply, InitDone, State, WatchEvent
from syncer.runtime.store import Store

log = structlog.get_logger("syncer.runtime")


class Source(Protocol):
    """What an informer needs of `kube.watch.Watcher`.

    A WatchError thrown into `events()` (by athrow) has to be treated like one of its own: told as Failed, then after a
    pause the objects are listed anew.
    """

    state: State
    restarts: int
    last_activity: float

    def events(self) -> AsyncGenerator[WatchEvent, None]:
        """What happens to the objects, without end."""
        ...


class Informer:
    """Runs `watcher` into `store`.

    `partial` tells that the watcher delivers metadata only. `transform` cuts an object down to what is worth keeping;
    for None the object is dropped, and with it an older form of it. `before_swap` is awaited before a list is taken in.
    """

    def __init__(
        self,
        watcher: Source,
        store: Store,
        *,
        partial: bool = False,
        transform: Callable[[Obj], Obj | None] | None = None,
        before_swap: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.watcher = watcher
        self.store = store
        self.synced = asyncio.Event()
        """Set once the first list is in the store and all listeners have seen it; never cleared."""
        self.epoch = 0
        """How many lists were taken in."""
        self.error: Exception | None = None
        """Why the store is not being kept up to date at the moment, if it is not."""
        self._partial = partial
        self._transform = transform
        self._before_swap = before_swap
        self._following = False  # no list is under way
        self._fresh = -math.inf

    def stale_for(self) -> float:
        """Seconds since the store was known to be like the server; infinite before the first list.

        A healthy watch is silent for a minute at most, since the server sends bookmarks. The watcher's own signs of life
        count only while it watches and the store has all it told.
        """
        fresh = self._fresh
        if self._following and self.watcher.state is State.WATCHING:
            fresh = max(fresh, self.watcher.last_activity)
        return asyncio.get_running_loop().time() - fresh

    async def run(self) -> None:
        """Until the watcher's client is closed. Raises only what cannot be mended by trying again: see `Store.apply`."""
        refused: WatchError | None = None
        async with aclosing(self.watcher.events()) as events:
            while True:
                try:
                    event = await (anext(events) if refused is None else events.athrow(refused))
                except StopAsyncIteration:
                    return
                refused = await self._take(event)

    async def _take(self, event: WatchEvent) -> WatchError | None:
        """Bring one event into the store; what it returns is to be thrown at the watcher."""
        match event:
            case Apply(obj):
                self._apply(obj)
            case Delete(obj):
                self.store.remove(key_of(obj), uid_of(obj), resource_version=obj["metadata"]["resourceVersion"])
            case Bookmark(resource_version):
                self.store.mark(resource_version)
            case Init():
                self._following = False
                self.store.begin()
                return None
            case InitApply(obj):
                self._stage(obj)
                return None
            case InitDone(resource_version):
                refused = await self._refusal()
                if refused is not None:
                    return refused
                self._commit(resource_version)
            case Failed(error):
                self._note(error)
                return None
        self._fresh = asyncio.get_running_loop().time()
        self._following = True
        self._note(None)
        return None

    def _apply(self, obj: Obj) -> None:
        kept = self._transform(obj) if self._transform else obj
        if kept is not None:
            self.store.apply(kept, partial=self._partial, watched=True)
        else:
            self.store.remove(key_of(obj), uid_of(obj), resource_version=obj["metadata"]["resourceVersion"])

    def _stage(self, obj: Obj) -> None:
        kept = self._transform(obj) if self._transform else obj
        if kept is not None:
            self.store.stage(kept, partial=self._partial)

    async def _refusal(self) -> WatchError | None:
        """Ask `before_swap`; a refused list is thrown away."""
        if self._before_swap is None:
            return None
        try:
            await self._before_swap()
        except (SyncerError, *NETWORK_ERRORS) as error:
            self.store.abort()
            return WatchError(f"a list of {self.store.resource} on the {self.store.side} side was not taken in: {error}")
        return None

    def _commit(self, resource_version: str) -> None:
        self.epoch += 1
        changes = len(self.store.commit(resource_version))
        if not self.synced.is_set():
            self.synced.set()
            log.info("informer.synced", side=str(self.store.side), resource=str(self.store.resource), objects=len(self.store))
        else:
            log.info("informer.listed_again", side=str(self.store.side), resource=str(self.store.resource), changes=changes)

    def _note(self, error: Exception | None) -> None:
        """Remember, and log when it changes, what keeps the store from being up to date."""
        if repr(error) != repr(self.error):
            where = {"side": str(self.store.side), "resource": str(self.store.resource)}
            if error is not None:
                log.warning("informer.failing", **where, error=str(error) or type(error).__name__)
            else:
                log.info("informer.recovered", **where)
        self.error = error

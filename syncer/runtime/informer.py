"""Feeds one store from one watcher, and knows how fresh it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, SyncerError
from syncer.kube.types import Obj, key_of, uid_of
from syncer.kube.watch import Apply, Bookmark, Delete, Failed, Init, InitApply, InitDone, WatchEvent

if TYPE_CHECKING:
    from syncer.kube.watch import Watcher
    from syncer.runtime.store import Store

log = structlog.get_logger("syncer.runtime")

Transform = Callable[[Obj], Obj | None]


class Informer:
    """Runs `watcher` into `store`. `transform` cuts objects down, None drops one. `before_swap` may veto a list by raising."""

    def __init__(
        self,
        watcher: Watcher,
        store: Store,
        *,
        partial: bool = False,
        transform: Transform | None = None,
        before_swap: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.watcher = watcher
        self.store = store
        self.synced = asyncio.Event()
        self.epoch = 0
        self._partial = partial
        self._transform = transform
        self._before_swap = before_swap

    def stale_for(self) -> float:
        """Seconds since the last sign of life; infinite before the first list."""
        if not self.synced.is_set():
            return float("inf")
        return asyncio.get_running_loop().time() - self.watcher.last_activity

    async def run(self) -> None:
        """Consume the watcher until cancelled."""
        while True:
            try:
                async for event in self.watcher.events():
                    await self._take(event)
            except (SyncerError, ApiError, *NETWORK_ERRORS) as error:
                self.store.abort()
                log.warning("list.rejected", side=self.store.side, resource=str(self.store.resource), error=str(error))
                await asyncio.sleep(1.0)

    async def _take(self, event: WatchEvent) -> None:
        match event:
            case Init():
                self.store.begin()
            case InitApply(obj):
                if (kept := self._cut(obj)) is not None:
                    self.store.stage(kept, partial=self._partial)
            case InitDone(version):
                if self._before_swap is not None:
                    await self._before_swap()
                self.store.commit(version)
                self.epoch += 1
                self.synced.set()
            case Apply(obj):
                kept = self._cut(obj)
                if kept is None:
                    self.store.remove(key_of(obj), uid_of(obj))
                else:
                    self.store.apply(kept, partial=self._partial, watched=True)
            case Delete(obj):
                self.store.remove(key_of(obj), uid_of(obj), resource_version=obj["metadata"]["resourceVersion"])
            case Bookmark(version):
                self.store.mark(version)
            case Failed(error):
                log.warning("watch.failed", side=self.store.side, resource=str(self.store.resource), error=str(error))

    def _cut(self, obj: Obj) -> Obj | None:
        return obj if self._transform is None else self._transform(obj)

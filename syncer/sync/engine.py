"""All loops together: which change wakes which pair, the periodic scan, the fence's watch, and health."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, FenceClosed
from syncer.kube.types import Key, Ref, Side
from syncer.runtime.workqueue import Priority
from syncer.sync.ledger import State
from syncer.sync.loop import Loop, Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from syncer.kube.client import Client
    from syncer.runtime.store import Change
    from syncer.sync.caches import Caches, Place
    from syncer.sync.executor import Executor
    from syncer.sync.fence import Fence
    from syncer.sync.guard import Guard
    from syncer.sync.ledger import Ledger
    from syncer.sync.spec import SyncSpec, Wake
    from syncer.sync.view import View

log = structlog.get_logger("syncer.sync")

_FENCE_CALM = 15.0
_FENCE_ALERT = 2.0
"""Seconds between two looks at who both sides are; at the host, where only a person changes things, every second time when calm."""
_FAILING = 20.0
"""Seconds for which a watch may fail before its cache counts as stale."""


class Engine:
    """Runs the informers and the loops of `specs`. Decides nothing itself.

    `scan_interval` seconds between full scans; `clock` is monotonic seconds, `wall` epoch seconds.
    """

    def __init__(
        self,
        specs: Iterable[SyncSpec],
        *,
        caches: Caches,
        clients: Mapping[Side, Client],
        executor: Executor,
        ledger: Ledger,
        guard: Guard,
        fence: Fence,
        observer: Observer,
        scan_interval: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.caches = caches
        self._guard = guard
        self._fence = fence
        self._scan_interval = scan_interval
        self._subscribers: dict[Ref, set[tuple[Loop, Key]]] = {}
        self.loops = [
            Loop(
                spec,
                caches=caches,
                clients=clients,
                executor=executor,
                ledger=ledger,
                observer=observer,
                clock=clock,
                wall=wall,
                subscribe=self._subscribe,
                unsubscribe=self._unsubscribe,
            )
            for spec in specs
        ]
        for place, store in caches.stores.items():
            store.listeners.append(self._router(place))

    async def run(self) -> None:
        """Run until cancelled; an exception that gets out of a task ends everything, and the process restarts."""
        async with asyncio.TaskGroup() as tasks:
            early = [informer for place, informer in self.caches.informers.items() if not self.caches.watches[place].after_others]
            late = [informer for place, informer in self.caches.informers.items() if self.caches.watches[place].after_others]
            for informer in early:
                tasks.create_task(informer.run(), name=f"informer {informer.store.side} {informer.store.resource}")
            for loop in self.loops:
                tasks.create_task(loop.run(), name=f"loop {loop.spec.name}")
            tasks.create_task(self._scan(), name="scan")
            tasks.create_task(self._watch_fence(), name="fence")
            for informer in early:
                await informer.synced.wait()
            for informer in late:
                tasks.create_task(informer.run(), name=f"informer {informer.store.side} {informer.store.resource}")

    async def drain(self, seconds: float) -> None:
        """Take no more keys, and let writes in flight finish, for at most so many seconds."""
        await asyncio.gather(*(loop.workers.drain(seconds) for loop in self.loops))

    def checks(self, *, stale_after: float) -> list[tuple[str, str]]:
        """Every cache and loop by name, with what is wrong with it ("" when nothing is)."""
        found = []
        for (side, resource), informer in self.caches.informers.items():
            if not informer.synced.is_set():
                wrong = "has not listed yet"
            elif (age := informer.stale_for()) > stale_after:
                wrong = f"no sign of life for {age:.0f} s"
            elif informer.error is not None and age > _FAILING:
                wrong = f"not kept up to date for {age:.0f} s: {informer.error}"
            else:
                wrong = ""
            found.append((f"cache {side} {resource}", wrong))
        found += [(f"loop {loop.spec.name}", "" if loop.workers.alive else "a worker is dead") for loop in self.loops]
        return found

    def _subscribe(self, refs: Iterable[Ref], loop: Loop, key: Key) -> None:
        for ref in refs:
            self._subscribers.setdefault(ref, set()).add((loop, key))

    def _unsubscribe(self, refs: Iterable[Ref], loop: Loop, key: Key) -> None:
        for ref in refs:
            if (waiting := self._subscribers.get(ref)) is not None:
                waiting.discard((loop, key))
                if not waiting:
                    del self._subscribers[ref]

    def _router(self, place: Place) -> Callable[[Change], None]:
        side, resource = place
        store = self.caches.stores[place]
        own = [loop for loop in self.loops if side in loop.spec.follows and self._is_subject(loop.spec, place)]
        wakes = [(loop, wake) for loop in self.loops for wake in loop.spec.wakes if (wake.side, wake.resource) == place]
        by_index = [(loop, wake) for loop in self.loops for wake in loop.spec.index_wakes if (wake.side, wake.resource) == place]
        changed_priority = Priority.URGENT if side is Side.HOST else Priority.NORMAL

        def route(change: Change) -> None:
            ref = Ref(side, resource, change.key)
            view = self.caches.view()
            self._note(ref, change)
            priority = changed_priority if self.caches.synced([place]) else Priority.LOW
            for loop, waiting in self._subscribers.pop(ref, ()):
                loop.add(waiting, changed_priority)
            for loop in own:
                key = change.key if side is Side.VIRTUAL else _virtual_key(loop.spec, change, view)
                if key is not None:
                    loop.add(key, priority)
            for loop, wake in wakes:
                _wake(loop, wake, change, priority, view)
            for loop, indexed in by_index:
                for value in store.moved(indexed.index, change):
                    if (woken := indexed.key(value, view)) is not None:
                        loop.add(woken, priority)

        return route

    def _is_subject(self, spec: SyncSpec, place: Place) -> bool:
        """Whether objects of that place are one half of the loop's pairs."""
        nowhere = Key("", "")
        ref = spec.virtual_ref(nowhere) if place[0] is Side.VIRTUAL else spec.host_ref(self.caches.names, nowhere)
        return ref is not None and (ref.side, ref.resource) == place

    def _note(self, ref: Ref, change: Change) -> None:
        """Keep the guard's evidence: an object whose deletion a watch reported is explained, an absent one is not."""
        if change.kind != "gone":
            if change.kind == "added":
                self._guard.forget(ref)
        elif not change.vanished and change.before is not None:
            self._guard.saw_deleted(change.before.uid, ref)

    async def _scan(self) -> None:
        while True:
            await asyncio.sleep(self._scan_interval)
            for loop in self.loops:
                if self.caches.synced(loop.places):
                    loop.scan()
                await asyncio.sleep(0)

    async def _watch_fence(self) -> None:
        """Ask both sides who they are, more often while something is held or wrong."""
        for number in itertools.count():
            alert = self._fence.closed is not None or bool(self._guard.holding())
            await asyncio.sleep(_FENCE_ALERT if alert else _FENCE_CALM)
            try:
                if alert or number % 2:
                    await self._fence.verify_host()
                await self._fence.verify()
            except FenceClosed:
                continue
            except (ApiError, *NETWORK_ERRORS) as error:
                log.debug("fence.not_checked", error=str(error))
                continue
            if self._fence.released_at is not None:
                self._guard.release(self._fence.released_at)
            self._look_again_at_held()

    def _look_again_at_held(self) -> None:
        """The fence is open: what the guard does not hold either may go on, and a burst that is over is over."""
        held = self._guard.held()
        for loop in self.loops:
            name = loop.spec.name
            if name not in held:
                loop.add_held()
            if name in self._guard.holding() and not loop.has(State.HELD, State.RETRYING):
                self._guard.end(name)


def _virtual_key(spec: SyncSpec, change: Change, view: View) -> Key | None:
    key = spec.virtual_key(change.new, view) if change.new is not None else None
    if key is None and change.old is not None:
        key = spec.virtual_key(change.old, view)
    return key


def _wake(loop: Loop, wake: Wake, change: Change, priority: Priority, view: View) -> None:
    keys = set(wake.keys(change.new, view)) if change.new is not None else set()
    if change.kind != "added" and change.old is not None:
        keys.update(wake.keys(change.old, view))
    for key in keys:
        loop.add(key, priority)

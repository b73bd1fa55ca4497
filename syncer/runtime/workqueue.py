"""A work queue of keys: fair, deduplicating, never handing one key to two workers, with per-key backoff.

The rules of one key are those of client-go's util/workqueue, on one event loop and therefore without locks:

- a key added twice before it is taken is taken once;
- a key added while a worker holds it is handed out again after `done`;
- `retry` adds a key again after its own exponential delay; `forget` resets that delay;
- of two delays of one key the shorter wins, and `add` makes any delay moot.

Between keys there are three lanes and, within each, turns:

- URGENT goes before NORMAL, NORMAL before LOW; but of any 4 takes during which NORMAL waits one is NORMAL, and of any 10
  during which LOW waits one is LOW. Takes reserved to a lane (`get(only=…)`) do not count;
- a key is in one lane, the most urgent it was added to; within a lane the groups (namespaces) take turns, so that a key
  waits for at most one key of every other group and for those before it in its own.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Closed(Exception):
    """The queue was closed, and what was in it has been taken."""


class Priority(IntEnum):
    """The lanes."""

    URGENT = 0
    NORMAL = 1
    LOW = 2


NORMAL_EVERY = 4
LOW_EVERY = 10


class _Wish(NamedTuple):
    """That a key be taken: in which lane, and since or from when (loop time)."""

    priority: Priority
    at: float


class _Lane(Generic[K]):
    """Keys in turn by group. Ordered dicts, since a plain one is slow at giving up its first item over and over."""

    def __init__(self, group: Callable[[K], Hashable]) -> None:
        self._group = group
        self._groups: OrderedDict[Hashable, OrderedDict[K, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def push(self, key: K) -> None:
        group = self._group(key)
        if group not in self._groups:
            self._groups[group] = OrderedDict()
        self._groups[group][key] = None

    def pop(self) -> K:
        group, keys = next(iter(self._groups.items()))
        key, _ = keys.popitem(last=False)
        if keys:
            self._groups.move_to_end(group)
        else:
            del self._groups[group]
        return key

    def remove(self, key: K) -> None:
        group = self._group(key)
        keys = self._groups[group]
        del keys[key]
        if not keys:
            del self._groups[group]


class WorkQueue(Generic[K]):
    """See the module. `base`, `cap`: first and longest delay of `retry` in seconds; `jitter`: added to it, at most this share.

    `group` must give the same group for a key at any time. To be used within a running event loop, whose clock counts.
    """

    def __init__(
        self,
        *,
        base: float = 0.05,
        cap: float = 30.0,
        jitter: float = 0.1,
        rng: random.Random | None = None,
        group: Callable[[K], Hashable] = lambda _: None,
    ) -> None:
        self._base, self._cap, self._jitter = base, cap, jitter
        self._rng = rng or random.Random()  # noqa: S311 -- spreads retries, keeps no secret
        self._lanes = {priority: _Lane(group) for priority in Priority}
        # A key is in at most one of _queued and _held; in _wanted only while held; in _due only when in neither _queued nor _wanted.
        self._queued: dict[K, _Wish] = {}
        self._held: dict[K, Priority] = {}  # the lane it was taken from
        self._wanted: dict[K, _Wish] = {}
        self._due: dict[K, _Wish] = {}
        self._heap: list[tuple[float, int, K]] = []  # may hold stale entries; _due is the truth
        self._seq = 0
        self._timer: asyncio.TimerHandle | None = None
        self._failures: dict[K, int] = {}
        self._waiters: dict[Priority | None, deque[asyncio.Future[Priority]]] = {only: deque() for only in (None, *Priority)}
        self._passed_over = {Priority.NORMAL: 0, Priority.LOW: 0}  # takes in a row during which the lane waited
        self._closed = False

    def __len__(self) -> int:
        """Keys ready to be taken."""
        return len(self._queued)

    def add(self, key: K, priority: Priority = Priority.NORMAL) -> None:
        """The key is to be taken now. Nothing happens when the queue is closed."""
        if self._closed:
            return
        due = self._due.pop(key, None)
        if due is not None:
            priority = min(priority, due.priority)
        if (queued := self._queued.get(key)) is not None:
            if priority < queued.priority:
                self._lanes[queued.priority].remove(key)
                self._push(key, _Wish(priority, queued.at))
        elif (wanted := self._wanted.get(key)) is not None:
            self._wanted[key] = _Wish(min(priority, wanted.priority), wanted.at)
        else:
            wish = _Wish(priority, asyncio.get_running_loop().time())
            if key in self._held:
                self._wanted[key] = wish
            else:
                self._push(key, wish)

    def add_after(self, key: K, delay: float, priority: Priority = Priority.NORMAL) -> None:
        """The key is to be taken in `delay` seconds, unless that happens sooner for another reason."""
        if delay <= 0:
            return self.add(key, priority)
        if self._closed or key in self._queued or key in self._wanted:
            return None
        at = asyncio.get_running_loop().time() + delay
        due = self._due.get(key)
        if due is not None:
            priority = min(priority, due.priority)
            if due.at <= at:
                self._due[key] = _Wish(priority, due.at)
                return None
        self._due[key] = _Wish(priority, at)
        self._seq += 1
        heapq.heappush(self._heap, (at, self._seq, key))
        if len(self._heap) > 2 * len(self._due) + 64:  # a key that is woken early again and again leaves one entry each time
            self._heap = [entry for entry in self._heap if self._is_due(entry)]
            heapq.heapify(self._heap)
        self._arm()
        return None

    def retry(self, key: K, *, at_least: float = 0.0) -> float:
        """The key failed once more: it is to be taken again, from the lane it was last taken from, after the seconds returned.

        `at_least` is how long that has to be, whatever the backoff says.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay: float = max(at_least, min(self._cap, self._base * 2.0 ** min(failures, 60)) * (1 + self._jitter * self._rng.random()))
        self.add_after(key, delay, self._held.get(key, Priority.NORMAL))
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next retry starts with the shortest delay."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How many times `retry` was called since the last `forget`."""
        return self._failures.get(key, 0)

    def oldest_age(self) -> float:
        """Seconds for which the longest waiting of the ready keys has been ready; 0.0 when there is none."""
        if not self._queued:
            return 0.0
        return asyncio.get_running_loop().time() - min(wish.at for wish in self._queued.values())

    async def get(self, only: Priority | None = None) -> K:
        """Take the next key, of that lane only if given; waits for one. The caller owes a `done`. Raises Closed."""
        woken: Priority | None = None
        while (priority := self._choose(only)) is None:
            if self._closed:
                raise Closed
            waiter: asyncio.Future[Priority] = asyncio.get_running_loop().create_future()
            self._waiters[only].append(waiter)
            try:
                woken = await waiter
            except asyncio.CancelledError:
                if waiter.cancelled():
                    with suppress(ValueError):  # _wake has passed it over already
                        self._waiters[only].remove(waiter)
                else:
                    self._wake(waiter.result())  # the wake-up was ours; pass it on
                raise
        key = self._lanes[priority].pop()
        del self._queued[key]
        self._held[key] = priority
        if woken not in (None, priority) and self._lanes[woken]:
            self._wake(woken)  # we took what another was woken for, and he may not take what we were
        return key

    def done(self, key: K) -> None:
        """The worker has finished with the key; it is ready again if it was added meanwhile. KeyError if nobody held it."""
        del self._held[key]
        if (wish := self._wanted.pop(key, None)) is not None:
            self._push(key, wish)

    def close(self) -> None:
        """Take in nothing more. What is ready can still be taken; delayed keys are dropped."""
        self._closed = True
        self._due.clear()
        self._heap.clear()
        if self._timer:
            self._timer.cancel()
        for waiters in self._waiters.values():
            while waiters:
                waiters.popleft().set_result(Priority.LOW)

    def _choose(self, only: Priority | None) -> Priority | None:
        if only is not None:
            return only if self._lanes[only] else None
        waiting = [priority for priority, lane in self._lanes.items() if lane]
        if not waiting:
            return None
        passed = self._passed_over
        chosen = waiting[0]
        # LOW is due one take early, because NORMAL goes first when both are due.
        # A lane that was passed over may have been emptied since by one who takes from it alone.
        if passed[Priority.LOW] >= LOW_EVERY - 2 and Priority.LOW in waiting:
            chosen = Priority.LOW
        if passed[Priority.NORMAL] >= NORMAL_EVERY - 1 and Priority.NORMAL in waiting:
            chosen = Priority.NORMAL
        for priority in passed:
            passed[priority] = 0 if priority is chosen or priority not in waiting else passed[priority] + 1
        return chosen

    def _push(self, key: K, wish: _Wish) -> None:
        self._queued[key] = wish
        self._lanes[wish.priority].push(key)
        self._wake(wish.priority)

    def _wake(self, priority: Priority) -> None:
        """Wake one who may take from that lane, first one who may take from no other."""
        for waiters in (self._waiters[priority], self._waiters[None]):
            while waiters:
                waiter = waiters.popleft()
                if not waiter.done():
                    waiter.set_result(priority)
                    return

    def _is_due(self, entry: tuple[float, int, K]) -> bool:
        wish = self._due.get(entry[2])
        return wish is not None and wish.at == entry[0]

    def _arm(self) -> None:
        while self._heap and not self._is_due(self._heap[0]):
            heapq.heappop(self._heap)
        if not self._heap:
            return
        if self._timer:
            if self._timer.when() <= self._heap[0][0]:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now + 1e-9:
            entry = heapq.heappop(self._heap)
            if self._is_due(entry):
                self.add(entry[2], self._due[entry[2]].priority)
        self._arm()

"""How many requests may be under way at one API server, found out from how it answers. There is no fixed rate.

The limit of a lane grows by one per round trip while answers are quick and the limit is what holds requests back; it
halves, at most once per round trip, when the server says it is overloaded or does not answer in time (AIMD, as TCP does).
Requests over the limit wait in the order of their arrival. A Retry-After stops the whole lane for as long as it says.

"Quick" compares with the least latency seen lately for the same kind of request, since a LIST is never as quick as a GET.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

START, FLOOR, CEILING = 16, 1, 256
QUICK_FACTOR = 2.0
"""An answer is quick when it took at most this many times the least latency of its kind..."""
QUICK_SECONDS = 0.010
"""...or less than this: below it, noise is larger than the difference."""
WINDOW_SECONDS = 60.0
"""The least latency is that of this window and the one before it, so that a server which got slower is believed in time."""
LONGEST_PAUSE = 300.0
"""A Retry-After of more seconds than this is taken for this."""


class ConcurrencyLimit:
    """The limit of one lane at one API server.

    `async with limit.slot("get pods") as slot:` waits for its turn and times the answer; an exception that is a
    TimeoutError counts as overload. Cancelling a waiter loses nothing.
    """

    def __init__(self, *, start: int = START, floor: int = FLOOR, ceiling: int = CEILING) -> None:
        self._limit = float(start)
        self._floor = floor
        self._ceiling = ceiling
        self._in_flight = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._decreased_at = float("-inf")
        self._paused_until = float("-inf")
        self._resume: asyncio.TimerHandle | None = None
        self._latencies: dict[str, _Least] = {}

    @property
    def current(self) -> int:
        """Requests that may be under way."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Requests that are under way."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiters)

    @property
    def paused_until(self) -> float:
        """Loop time until which the server wants no requests; in the past when it wants some."""
        return self._paused_until

    def slot(self, kind: str = "") -> Slot:
        """A context manager for one request. `kind` groups requests of like latency; there should be few kinds."""
        return Slot(self, kind)

    async def acquire(self) -> None:
        """Wait for a turn. Every one of them has to be given back by `release`."""
        if self._free() and not self._waiters:
            self._in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # the turn came together with the cancellation
            else:
                with suppress(ValueError):  # already passed over by _admit
                    self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Give a turn back."""
        self._in_flight -= 1
        self._admit()

    def quick(self, kind: str, latency: float) -> None:
        """An answer came after `latency` seconds; the limit may grow by it."""
        now = asyncio.get_running_loop().time()
        least = self._latencies.get(kind)
        if least is None:
            least = self._latencies[kind] = _Least(now)
        least.add(now, latency)
        if latency > max(QUICK_SECONDS, QUICK_FACTOR * least.value):
            return
        if self._waiters or self._in_flight >= self.current:
            self._limit = min(float(self._ceiling), self._limit + 1.0 / self._limit)
            self._admit()

    def overloaded(self, started: float, pause: float | None = None) -> None:
        """The server did not cope with a request begun at loop time `started`; `pause` seconds of quiet, if it asked for that."""
        now = asyncio.get_running_loop().time()
        # What was under way at the last halving says nothing about the limit since then.
        if started > self._decreased_at:
            self._decreased_at = now
            self._limit = max(float(self._floor), self._limit / 2)
        if pause is not None and pause > 0:
            until = now + min(pause, LONGEST_PAUSE)
            if until > self._paused_until:
                self._paused_until = until
                if self._resume is not None:
                    self._resume.cancel()
                self._resume = asyncio.get_running_loop().call_at(until, self._end_pause)

    def _end_pause(self) -> None:
        # Not left to the clock: timers may fire a little early, and nothing else might wake the waiters.
        self._paused_until = float("-inf")
        self._resume = None
        self._admit()

    def _free(self) -> bool:
        return self._in_flight < self.current and asyncio.get_running_loop().time() >= self._paused_until

    def _admit(self) -> None:
        while self._waiters and self._free():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._in_flight += 1
                waiter.set_result(None)


class Slot:
    """One request's turn."""

    __slots__ = ("_kind", "_limit", "_started", "_throttled")

    def __init__(self, limit: ConcurrencyLimit, kind: str) -> None:
        self._limit = limit
        self._kind = kind
        self._started = 0.0
        self._throttled = False

    def throttled(self, retry_after: float | None) -> None:
        """The server answered that it is overloaded: halve; all of the lane pause for `retry_after` seconds, unless None."""
        self._throttled = True
        self._limit.overloaded(self._started, retry_after)

    async def __aenter__(self) -> Self:
        await self._limit.acquire()
        self._started = asyncio.get_running_loop().time()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        limit = self._limit
        if isinstance(error, TimeoutError):
            limit.overloaded(self._started)
        elif error is None and not self._throttled:
            limit.quick(self._kind, asyncio.get_running_loop().time() - self._started)
        limit.release()


class _Least:
    """The least of the values added in this window of time and the one before it."""

    __slots__ = ("_before", "_since", "_this")

    def __init__(self, now: float) -> None:
        self._since = now
        self._this = self._before = float("inf")

    def add(self, now: float, value: float) -> None:
        if now - self._since >= WINDOW_SECONDS:
            self._before = self._this if now - self._since < 2 * WINDOW_SECONDS else float("inf")
            self._this = float("inf")
            self._since = now
        self._this = min(self._this, value)

    @property
    def value(self) -> float:
        return min(self._this, self._before)

"""Ever longer pauses between tries, short again after a time of health."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Pauses of `first` seconds, `factor` times as long each time, up to `cap`.

    `jitter` is the part of a pause that is left to chance (0.5: between half of it and all of it), so that many clients
    of one server that failed do not come back together. A failure that comes `reset_after` seconds or more after the end
    of the last pause starts over.
    """

    def __init__(
        self,
        first: float,
        cap: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.5,
        reset_after: float = 120.0,
        rng: random.Random | None = None,
    ) -> None:
        self._first = first
        self._cap = cap
        self._factor = factor
        self._jitter = jitter
        self._reset_after = reset_after
        self._rng = rng or random.Random()  # noqa: S311 (spreads load, guards nothing)
        self._pause = 0.0
        self._ends = 0.0

    def next(self) -> float:
        """Seconds to wait now, after another failure."""
        now = asyncio.get_running_loop().time()
        if self._pause and now - self._ends >= self._reset_after:
            self._pause = 0.0
        self._pause = min(self._pause * self._factor if self._pause else self._first, self._cap)
        pause = self._pause * (1.0 - self._jitter * self._rng.random())
        self._ends = now + pause
        return pause

    def reset(self) -> None:
        """Start over: what failed works again for certain."""
        self._pause = 0.0

"""Rules by which requests go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from syncer.kube.types import Obj
from tests.fakes.requests import Match, Request
from tests.fakes.statuses import Failure
from tests.fakes.watching import Watch


@dataclass(slots=True, kw_only=True)
class Fault:
    """One rule, as `FakeApiServer.fault` describes it. `hits` counts the requests that it has struck."""

    match: Match
    status: int | None = None
    reason: str = ""
    message: str = ""
    retry_after: float | None = None
    delay: float = 0.0
    drop: bool = False
    hang: bool = False
    after: bool = False
    times: int | None = None
    hits: int = 0
    lifted: bool = False

    def strikes(self, request: Request) -> bool:
        """Whether it applies to this request, which is counted."""
        if self.lifted or (self.times is not None and self.hits >= self.times) or not self.match(request):
            return False
        self.hits += 1
        return True

    def lift(self) -> None:
        """End it. Requests that hang because of it go on hanging until the client gives up."""
        self.lifted = True

    def failure(self) -> Failure:
        """What is answered; only where `status` is set."""
        code = self.status or 500
        reason = self.reason or REASONS.get(code, "")
        details: Obj | None = {"retryAfterSeconds": int(self.retry_after)} if self.retry_after is not None else None
        return Failure(code, reason, self.message or f"made to fail: {reason or code}", details)


REASONS: Mapping[int, str] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
"""The reason that usually goes with a code."""


class Faults:
    """The part of the fake server that makes it fail; tests call these methods on the server itself."""

    def __init__(self) -> None:
        self.unpaused = asyncio.Event()
        self.unpaused.set()
        self._rules: list[Fault] = []
        self._watches: set[Watch] = set()
        self._hanging = False

    def pick(self, request: Request) -> Fault | None:
        """The rule that strikes this request."""
        return next((rule for rule in self._rules if rule.strikes(request)), None)

    @contextmanager
    def following(self, watch: Watch) -> Iterator[None]:
        """Hold that watch open to the faults below."""
        watch.held = lambda: self._hanging or not self.unpaused.is_set()
        self._watches.add(watch)
        try:
            yield
        finally:
            self._watches.discard(watch)

    def fault(
        self,
        match: Match,
        *,
        status: int | None = None,
        reason: str = "",
        message: str = "",
        retry_after: float | None = None,
        delay: float = 0.0,
        drop: bool = False,
        hang: bool = False,
        after: bool = False,
        times: int | None = None,
    ) -> Fault:
        """Make matching requests go wrong: `delay` first, then one of `hang` (no answer ever), `drop` (connection reset) or `status`.

        With `after` the request takes effect before that. The oldest rule that matches counts; `times` None is for ever.
        """
        fault = Fault(
            match=match,
            status=status,
            reason=reason,
            message=message,
            retry_after=retry_after,
            delay=delay,
            drop=drop,
            hang=hang,
            after=after,
            times=times,
        )
        self._rules.append(fault)
        return fault

    def clear_faults(self) -> None:
        """Lift all rules."""
        self._rules.clear()

    def pause(self) -> None:
        """Answer nothing until `resume`: requests wait, watches are silent."""
        self.unpaused.clear()

    def resume(self) -> None:
        """End `pause`."""
        self.unpaused.set()
        self._wake_watches()

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def drop_watches(self, *, clean: bool = False) -> None:
        """End all open watches: connection broken, or a clean end as at a timeout."""
        for watch in self._watches:
            watch.end = "clean" if clean else "abort"
        self._wake_watches()

    def hang_watches(self) -> None:
        """Half-open from now on: watches, also new ones, are accepted and get nothing, not even an end."""
        self._hanging = True

    def resume_watches(self) -> None:
        """End `hang_watches`; what they missed is delivered."""
        self._hanging = False
        self._wake_watches()

    def send_bookmarks(self) -> None:
        """Send a bookmark on all watches that asked for them."""
        for watch in self._watches:
            watch.bookmark_now = watch.bookmarks
        self._wake_watches()

    def inject(self, raw: bytes) -> None:
        """Send bytes on all open watches, as they are: garbage, half a line, an event that was never stored."""
        for watch in self._watches:
            watch.raw.append(raw)
        self._wake_watches()

    def _wake_watches(self) -> None:
        for watch in self._watches:
            watch.wake.set()

"""Rules by which requests go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from syncer.kube.types import Obj
from tests.fakes.requests import Match, Request
from tests.fakes.statuses import Failure


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

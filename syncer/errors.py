"""Everything that this program raises on purpose.

```
SyncerError
├── ConfigError          a flag, file or kubeconfig is wrong: say which and what to write instead; exit code 2
│   └── NoSuchCluster    there is no virtual cluster of that name; exit code 3
├── TooLate              what a command waited for did not come in time; exit code 4
├── ApiError             an API server answered with a Status of failure
│   ├── NotFound         404
│   ├── Conflict         409, reason Conflict: the object moved on; retry from the newest cache, without an event
│   ├── AlreadyExists    409, reason AlreadyExists
│   ├── Expired          410: the resourceVersion or continue token is too old; list again
│   ├── Unauthorized     401: credentials are wrong or have expired
│   ├── Forbidden        403: RBAC, quota, Pod Security or another admission plugin
│   ├── Invalid          422: the object breaks a rule of its type
│   └── Throttled        429, or any answer with Retry-After: wait that long
├── WatchError           a watch broke off in a way that listing again will mend
├── FenceClosed          the virtual control plane is not the one that this host namespace belongs to: write nothing
│   └── NotLeading       another replica may be leading by now: write nothing
├── Stale                a decision was made on a cache that the API server has overtaken: decide again, quietly
├── Refused              what the tenant asked for cannot be had, in words for the tenant
└── Held                 a deletion waits for a person, see sync.guard
```

Network failures are not wrapped: catch `NETWORK_ERRORS`, which names them once.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError)
"""What a request may raise besides ApiError; all are worth a retry with backoff."""


class SyncerError(Exception):
    """Base of all errors of this program; the message says what was tried, on what, on which side, and what to do."""


class ConfigError(SyncerError):
    """Settings or credentials that cannot work; only a person can mend them."""


class NoSuchCluster(ConfigError):
    """There is no virtual cluster of that name where it was looked for; the message tells where that was."""


class TooLate(SyncerError):
    """What a command waited for did not come in time; the message tells what it waited for, and how to look further."""


class WatchError(SyncerError):
    """A watch ended with an error event or an unreadable line; listing again mends it."""


class FenceClosed(SyncerError):
    """The virtual control plane has another identity than the one recorded on the host; nothing may be written."""


class NotLeading(FenceClosed):
    """Leadership is lost, or was not renewed in time; nothing may be written."""


class Stale(SyncerError):
    """The API server has moved on from what the cache said; decide again from the newest, without an event."""


class Refused(SyncerError):
    """The tenant's object cannot be synced as it is. `reason` is one CamelCase word, the message is free of host facts.

    What is refused for the same cause is tried again together: `group` names the cause, `again` is how many seconds may pass
    between tries, None when only a change can help. `internal` is what the operator reads instead of the message.
    """

    def __init__(self, reason: str, message: str, *, group: str = "", again: float | None = 30.0, internal: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.group = group or reason
        self.again = again
        self.internal = internal or message


class Held(SyncerError):
    """The deletion guard does not agree yet; the message tells what to compare and how to release."""


class ApiError(SyncerError):
    """A failure Status from an API server.

    `status` is the HTTP code, `reason` Kubernetes' machine-readable word (may be empty), `message` the server's
    sentence, `details` the Status details (causes, name, kind, retryAfterSeconds), `retry_after` seconds or None.
    """

    def __init__(
        self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409 with reason Conflict: a precondition on uid or resourceVersion failed."""


class AlreadyExists(ApiError):
    """409 with reason AlreadyExists."""


class Expired(ApiError):
    """410: too old a resourceVersion or continue token."""


class Unauthorized(ApiError):
    """401."""


class Forbidden(ApiError):
    """403."""


class Invalid(ApiError):
    """422."""


class Throttled(ApiError):
    """429, or 5xx with a Retry-After."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: Throttled,
}


def api_error(status: int, body: Mapping[str, Any], retry_after: float | None = None) -> ApiError:
    """The right ApiError for an HTTP status and its decoded Status body (`{}` when it had none)."""
    reason = str(body.get("reason") or "")
    message = str(body.get("message") or "no message")
    cls = _BY_STATUS.get(status, ApiError)
    if status == 409 and reason == "AlreadyExists":
        cls = AlreadyExists
    if status in (410, 504) and reason in ("Expired", "Gone"):
        cls = Expired
    if status >= 500 and retry_after is not None:
        cls = Throttled
    return cls(status, reason, message, body.get("details"), retry_after)


def told(error: BaseException) -> str:
    """An error for a person: in the same words each time, without Python's own."""
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return f"cannot connect to {error.host}:{error.port} ({cause.strerror or str(cause) or type(cause).__name__})"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(error) or type(error).__name__

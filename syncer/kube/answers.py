"""What came back from an API server: one whole answer, or the lines of a watch."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from syncer.errors import WatchError
from syncer.kube import codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncer.kube.types import Obj

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of one watch event. An object has at most a few MiB; escaping can multiply that by six."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    async def read(cls, response: aiohttp.ClientResponse) -> Self:
        """Read to the end, so that the connection can be used again; when that fails, it is closed."""
        try:
            return cls(response.status, response.headers, await response.read())
        except BaseException:
            response.close()
            raise

    def json(self) -> Any:
        """The body of a success. Anything but JSON comes from something in between, so it is a network failure."""
        try:
            return codec.loads(self.body)
        except ValueError:
            raise aiohttp.ClientPayloadError(f"an answer of status {self.status} is not JSON: {self._excerpt()}") from None

    def obj(self) -> Obj:
        """As `json`, for a body that has to be an object, with metadata that are one if there are any."""
        body = self.json()
        if not isinstance(body, dict) or not isinstance(body.get("metadata") or {}, dict):
            raise aiohttp.ClientPayloadError(f"an answer of status {self.status} is not an object: {self._excerpt()}")
        return body

    def status_body(self) -> Mapping[str, Any]:
        """The Status of a failure; made up from the text when the answer is not one (a proxy's, or the API server's early ones)."""
        try:
            body = codec.loads(self.body)
        except ValueError:
            return {"message": self._excerpt()} if self.body else {}
        return body if isinstance(body, dict) else {}

    def _excerpt(self) -> str:
        text = " ".join(self.body[:400].decode(errors="replace").split())
        return text[:200]


def retry_after(answer: Answer) -> float | None:
    """Seconds that the server wants to be left alone, by its header or, failing that, by the Status's details."""
    header = answer.headers.get("Retry-After", "").strip()
    if header:
        try:
            return max(0.0, float(header)) if header.isascii() and header.isdigit() else _until(header)
        except (ValueError, OverflowError):
            pass
    if answer.status < 400:
        return None
    seconds = (answer.status_body().get("details") or {}).get("retryAfterSeconds")
    return float(seconds) if isinstance(seconds, int) and seconds > 0 else None


def _until(date: str) -> float:
    """Load balancers may send a date instead of seconds."""
    moment = parsedate_to_datetime(date)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())


class WatchResponse:
    """An open watch: one line is one event."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def readline(self) -> bytes:
        """The next line without loss, whatever its length up to LONGEST_LINE; b"" when the server ended the watch in order.

        A connection that breaks off, also amid a line, is a network error; a line beyond the limit is a WatchError.
        """
        try:
            line = await self._response.content.readline(max_line_length=LONGEST_LINE)
        except LineTooLong:
            raise WatchError(f"a watch event has more than {LONGEST_LINE} bytes") from None
        except RuntimeError as error:  # the stream's way to say that its connection went away between two reads
            raise aiohttp.ClientConnectionError(f"the watch was cut off: {error}") from None
        if line and not line.endswith(b"\n"):
            raise aiohttp.ClientPayloadError("the watch ended amid an event")
        return line

    def cut(self) -> None:
        """Close the connection; a reader wakes up with a network error."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            # A TLS connection is else closed in a dialogue, for which a peer that is gone has half a minute.
            connection.transport.abort()
        self._response.close()

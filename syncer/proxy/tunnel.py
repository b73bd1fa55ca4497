"""Connections that stop being HTTP: SPDY and WebSocket streams of exec, attach and port-forward, passed on byte by byte.

Both transports are taken away from their protocols and joined. No task runs while bytes flow, and what one side does not
take the other is not asked for.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import web
from multidict import CIMultiDict

from syncer.errors import SyncerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multidict import MultiMapping

Rewrite: TypeAlias = "Callable[[bytes], bytes]"

HEAD_BYTES = 65536
"""Longest head of an answer."""
BODY_BYTES = 1 << 20
"""Longest body of an answer that refuses."""
FLUSH_SECONDS = 30.0
"""How long a side that has been closed may take to read what is still on its way to it."""

_DIAL_SECONDS = 10.0
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
"""What no line of a head has, and what would look like the end of one to somebody else."""
_ANSWER_SECONDS = 60.0
"""The host may have to start something first."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Where to connect to, and under which name its certificate is checked; plain TCP without `context`."""

    host: str
    port: int
    context: ssl.SSLContext | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than 101."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


class Tunnels:
    """All tunnels that are open."""

    def __init__(self) -> None:
        self._open: set[_Pipe] = set()

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Close all of them; what has been written to either side still gets there."""
        for pipe in list(self._open):
            pipe.end()

    async def join(
        self,
        request: web.BaseRequest,
        peer: Peer,
        head: bytes,
        *,
        rewriting: Callable[[MultiMapping[str]], Rewrite | None] = lambda _: None,
    ) -> Refusal | None:
        """Send `head` to the peer and, when that switches protocols, join both connections until one ends.

        Returns the answer when it does not, None after the tunnel's life. Raises OSError, TimeoutError or SyncerError when there
        is no proper answer. By the headers of the answer `rewriting` tells what to make of the bytes that the peer sends after it,
        which ends the tunnel by a ValueError.
        """
        asking = _Asking()
        loop = asyncio.get_running_loop()
        tls = peer.context is not None
        async with asyncio.timeout(_DIAL_SECONDS):
            upstream, _ = await loop.create_connection(
                lambda: asking,
                peer.host,
                peer.port,
                ssl=peer.context,
                server_hostname=peer.server_name or peer.host if tls else None,
                ssl_shutdown_timeout=FLUSH_SECONDS if tls else None,
            )
        try:
            upstream.write(head)
            async with asyncio.timeout(_ANSWER_SECONDS):
                status, headers = await asking.answer
                if status != 101:
                    bodiless = request.method == "HEAD" or status in (204, 304)
                    return Refusal(status, headers, b"" if bodiless else await asking.body(headers))
            await self._splice(request, upstream, asking, rewriting(headers))
        finally:
            upstream.close()
        return None

    async def _splice(self, request: web.BaseRequest, upstream: asyncio.Transport, asking: _Asking, rewrite: Rewrite | None) -> None:
        client = request.transport
        if client is None or client.is_closing():
            return
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        protocol = request.protocol

        def lost(error: Exception | None) -> None:
            gone.set_result(None)
            protocol.connection_lost(error)  # aiohttp counts its connections, and cancels the handler of one that is gone

        down, up = _Pipe(client, lost), _Pipe(upstream, rewrite=rewrite)
        down.peer, up.peer = up, down
        client.set_protocol(down)
        upstream.set_protocol(up)
        self._open.add(down)
        try:
            client.resume_reading()  # aiohttp pauses it at a request that may be more than one
            client.write(bytes(asking.received[: asking.head_length]))
            up.data_received(bytes(asking.received[asking.head_length :]))
            if asking.ended:
                client.close()
            await _end_of(gone)
        finally:
            self._open.discard(down)
            client.close()


class Joined(web.StreamResponse):
    """What a handler returns whose connection has become a tunnel: nothing more is written."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """The peer's own head was passed on."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nor is there an end to tell."""


def head_of(method: str, path: str, headers: MultiMapping[str]) -> bytes:
    """The head of an HTTP/1.1 request, as bytes."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header has a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


class _Asking(asyncio.Protocol):
    """The peer until its head is complete. `received` is all it has sent, the head included."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.received = bytearray()
        self.ended = False
        self.answer: asyncio.Future[tuple[int, CIMultiDict[str]]] = loop.create_future()
        self.head_length = 0
        self._changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()
        if self.answer.done():
            return
        if 0 <= (end := self.received.find(b"\r\n\r\n")) <= HEAD_BYTES:
            self.head_length = end + 4
            try:
                self.answer.set_result(_parse_head(bytes(self.received[:end])))
            except ValueError as error:
                self.answer.set_exception(SyncerError(f"an answer that is no HTTP: {error}"))
        elif len(self.received) > HEAD_BYTES:
            self.answer.set_exception(SyncerError(f"an answer whose head is longer than {HEAD_BYTES} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._changed.set()
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("the connection was closed before an answer came"))

    async def body(self, headers: CIMultiDict[str]) -> bytes:
        """The whole body of an answer that is not 101. Raises SyncerError for one beyond BODY_BYTES, and for half of one."""
        chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        try:
            if len(headers.getall("Content-Length", [])) + ("Transfer-Encoding" in headers) > 1:
                raise ValueError("two lengths")
            length = None if chunked or "Content-Length" not in headers else int(headers["Content-Length"])
            while True:
                data = bytes(self.received[self.head_length :])
                if chunked:
                    whole = _dechunked(data)
                elif length is None:
                    whole = data if self.ended else None
                else:
                    whole = data[:length] if 0 <= length <= len(data) else None
                if whole is not None and len(whole) <= BODY_BYTES:
                    return whole
                if self.ended or len(data) > BODY_BYTES or (length is not None and not 0 <= length <= BODY_BYTES):
                    raise SyncerError(f"an answer that breaks off, or is longer than {BODY_BYTES} bytes")
                self._changed.clear()
                await self._changed.wait()
        except ValueError as error:
            raise SyncerError(f"an answer that is no HTTP: {error}") from None


class _Pipe(asyncio.Protocol):
    """One half: what arrives on its transport is written to the peer's."""

    peer: _Pipe

    def __init__(
        self,
        transport: asyncio.Transport,
        lost: Callable[[Exception | None], None] = lambda _: None,
        *,
        rewrite: Rewrite | None = None,
    ) -> None:
        self._transport = transport
        self._lost = lost
        self._rewrite = rewrite

    def end(self) -> None:
        """Close both halves."""
        self._transport.close()
        self.peer._transport.close()  # noqa: SLF001  of the same class

    def data_received(self, data: bytes) -> None:
        if self._rewrite is not None:
            try:
                data = self._rewrite(data)
            except ValueError:
                self.end()
                return
        self.peer._transport.write(data)  # noqa: SLF001

    def pause_writing(self) -> None:
        _unless_closed(self.peer._transport.pause_reading)  # noqa: SLF001

    def resume_writing(self) -> None:
        _unless_closed(self.peer._transport.resume_reading)  # noqa: SLF001

    def eof_received(self) -> bool:
        other = self.peer._transport  # noqa: SLF001
        if not (other.can_write_eof() and self._transport.can_write_eof()):
            return False  # TLS cannot be closed in one direction only
        other.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer._transport.close()  # noqa: SLF001  which sends first what it still has
        self._lost(exc)


async def _end_of(gone: asyncio.Future[None]) -> None:
    """Wait for it, unless somebody wants us to stop for another reason."""
    try:
        await gone
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not gone.done() or task is None:
            raise
        task.uncancel()


def _unless_closed(change: Callable[[], None]) -> None:
    try:
        change()
    except RuntimeError:
        return  # a transport that is closing reads no more, nor is it to


def _parse_head(head: bytes) -> tuple[int, CIMultiDict[str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = int(rest[:3])
    if not version.startswith("HTTP/1.") or not (status == 101 or 200 <= status < 600) or _CONTROLS.search(head):
        raise ValueError(repr(first[:80]))
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise ValueError(repr(line[:80]))
        headers.add(name, value.strip())
    return status, headers


def _dechunked(data: bytes) -> bytes | None:
    """The content of a chunked body, None while it is not complete."""
    found = b""
    while True:
        size, newline, rest = data.partition(b"\r\n")
        if not newline:
            return None
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            return found
        if len(rest) < length + 2:
            return None
        found, data = found + rest[:length], rest[length + 2 :]


def answer_of(refusal: Refusal, dropped: Mapping[str, object]) -> web.Response:
    """The refusal as an answer to the client, without the headers that are about the connection to the peer."""
    headers = CIMultiDict((name, value) for name, value in refusal.headers.items() if name.lower() not in dropped)
    return web.Response(status=refusal.status, body=refusal.body, headers=headers)

"""The proxy's listener: who may hold a connection, and for how long without asking anything."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Self

import structlog

from syncer.errors import ConfigError
from syncer.proxy.tunnel import FLUSH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from syncer.values import Address

log = structlog.get_logger("syncer.proxy")

HEAD_BYTES = 512 * 1024
"""Most that a client may send while it is owed no answer: the head of a request, or what is left of a body that nobody wants."""

_SWEEP_SECONDS = 1.0
_BACKLOG = 1024
_FILES_EACH = 2
"""A client's connection and the one to an API server on its behalf."""
_OTHER_FILES = 1024
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a connection may take."""

    handshake: float = 10.0
    stale: float = 1.0
    """A handshake, where somebody else needs the room: no client that means well takes longer, unless the machine is busy."""
    first: float = 30.0
    """The head of its first request, as for kube-apiserver (ReadHeaderTimeout, 32 s)."""
    idle: float = 90.0
    """Until the head of its next request is there, as for kube-apiserver."""


USUAL = Patience()


class Connections:
    """Listens at `address` with TLS while entered; every connection speaks a protocol that `server` makes.

    At most `limit` connections are held: when there are more, a handshake that makes no progress goes, then the connection that has been
    idle longest, then any handshake, and when there is none the new one. `context` is asked for with each connection. Entering raises
    ConfigError when the address cannot be used.
    """

    def __init__(
        self,
        server: web.Server,
        address: Address,
        context: Callable[[], ssl.SSLContext],
        *,
        limit: int,
        patience: Patience = USUAL,
    ) -> None:
        self._server = server
        self._address = address
        self._context = context
        self._limit = limit
        self._patience = patience
        self._idle: OrderedDict[asyncio.BaseTransport, float] = OrderedDict()
        self._busy: set[asyncio.BaseTransport] = set()
        self._starting: dict[asyncio.Task[None], float] = {}
        """Handshakes and when they began, the oldest first."""
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.turned_away = 0

    @property
    def port(self) -> int:
        """The port that it really listens at."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def count(self) -> int:
        """How many there are, handshakes that are under way included."""
        return len(self._server.connections) + len(self._starting)

    async def __aenter__(self) -> Self:
        _allow_files(_FILES_EACH * self._limit)
        try:
            self._sockets = _listen(self._address)
        except OSError as error:
            raise ConfigError(f"--bind-address, --port: cannot listen at {self._address}: {error.strerror}; give another one") from error
        self._tasks = [asyncio.create_task(self._accept(listening), name="proxy listener") for listening in self._sockets]
        self._tasks.append(asyncio.create_task(self._sweep(), name="proxy idle connections"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await asyncio.gather(*self._tasks, *self._starting, return_exceptions=True)

    def close(self) -> None:
        """Take no more connections, and close those that are idle."""
        for task in (*self._tasks, *self._starting):
            task.cancel()
        for listening in self._sockets:
            listening.close()
        for transport in list(self._idle):
            transport.close()
        self._idle.clear()

    def busy(self, transport: asyncio.BaseTransport | None) -> None:
        """A request has come in there."""
        if transport is not None:
            self._busy.add(transport)
            self._idle.pop(transport, None)
            _expect_head(transport, expected=False)

    def idle(self, transport: asyncio.BaseTransport | None) -> None:
        """The request there has been answered."""
        if transport is None:
            return
        self._busy.discard(transport)
        if not transport.is_closing():
            self._idle[transport] = asyncio.get_running_loop().time() + self._patience.idle
            _expect_head(transport, expected=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # mostly that there are too many open files
                log.warning("proxy.accept_failed", error=str(error))
                await asyncio.sleep(_SWEEP_SECONDS)
                continue
            if not self._has_room():
                self.turned_away += 1
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            task = asyncio.create_task(self._start(connection), name="proxy handshake")
            self._starting[task] = loop.time()
            task.add_done_callback(lambda done: self._starting.pop(done, None))

    def _has_room(self) -> bool:
        if self.count < self._limit:
            return True
        if self._give_up(asyncio.get_running_loop().time() - self._patience.stale):
            return True
        while self._idle:
            transport, _ = self._idle.popitem(last=False)
            if not transport.is_closing():
                _abort(transport)
                return True
        return self._give_up(inf)

    def _give_up(self, before: float) -> bool:
        """Whether there was a handshake that began before then, and now is given up."""
        oldest, began = next(iter(self._starting.items()), (None, inf))
        if oldest is None or began >= before:
            return False
        del self._starting[oldest]
        oldest.cancel()
        return True

    async def _start(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError, TimeoutError):  # of ssl among them: who does not get through the handshake is no client of ours
            transport, _ = await loop.connect_accepted_socket(
                lambda: _Bounded(self._server()),
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=self._patience.handshake,
                ssl_shutdown_timeout=FLUSH_SECONDS,
            )
            if transport not in self._busy:  # its first request may have been quicker
                self._idle.setdefault(transport, loop.time() + self._patience.first)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for transport in [transport for transport, until in self._idle.items() if until <= now or transport.is_closing()]:
                del self._idle[transport]
                _abort(transport)


class _Bounded(asyncio.Protocol):
    """Passes everything on to `handler`, which keeps a head until it is complete, but no more than HEAD_BYTES of one."""

    def __init__(self, handler: asyncio.Protocol) -> None:
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._spare = HEAD_BYTES
        self.waits = True

    def expect_head(self, *, expected: bool) -> None:
        """From now on what comes is a head, or it is not."""
        self.waits = expected
        self._spare = HEAD_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.waits:
            self._spare -= len(data)
            if self._spare < 0:
                self._refuse()
                return
        self._handler.data_received(data)

    def _refuse(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(_TOO_LONG)
            self._transport.close()

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()


def _expect_head(transport: asyncio.BaseTransport, *, expected: bool) -> None:
    if isinstance(transport, asyncio.Transport) and isinstance(protocol := transport.get_protocol(), _Bounded):
        protocol.expect_head(expected=expected)


def _allow_files(more: int) -> None:
    """Have the system let us open so many files beyond what it mostly does, as every Go program has at its start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = more + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        if limit < wanted:
            log.warning("proxy.few_files", allowed=limit, wanted=wanted)


def _listen(address: Address) -> list[socket.socket]:
    """Sockets that listen there; for no host at both IP families."""
    host = address.host or None
    family = socket.AF_INET if host is None and not address.port else socket.AF_UNSPEC  # some free port would be two
    found: list[socket.socket] = []
    try:
        for kind, _, protocol, _, place in socket.getaddrinfo(host, address.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE):
            listening = socket.socket(kind, socket.SOCK_STREAM, protocol)
            found.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(place)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
    except OSError:
        for listening in found:
            listening.close()
        raise
    return found


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
    else:
        transport.close()

"""What `bench.proxy` loads a front door with, and what stands behind it: a raw asyncio client, and a server of tunnels on the loopback.

The client parses nothing that it need not: a request is the same bytes each time, and of an answer it looks for the end. That takes a
fraction of what the front door spends on it, so the client is not what is measured.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import syncer.kube.client  # noqa: F401  sets the size of TLS read buffers, as in the daemon
from syncer.kube.config import Cluster
from syncer.metrics import Metrics
from syncer.proxy.relay import Relay
from syncer.proxy.server import ProxyServer, VirtualServers
from syncer.values import Address

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

_UPGRADE = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
_CHUNK = b"x" * 65536


@dataclass(frozen=True)
class Place:
    """Where to connect to, and as whom."""

    port: int
    context: ssl.SSLContext

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: protocol, "127.0.0.1", self.port, ssl=self.context, server_hostname="localhost"
        )
        return transport

    async def open(self, request: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that has sent that request, behind the head of its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context, server_hostname="localhost", limit=1 << 20)
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 101 ")):
            raise RuntimeError(head.decode())
        return reader, writer


def get(path: str) -> str:
    """A plain request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nUser-Agent: bench\r\n\r\n"


class _Asking(asyncio.Protocol):
    """Asks the same again and again until `until`."""

    def __init__(self, request: bytes, until: float) -> None:
        self._request = request
        self._until = until
        self._received = bytearray()
        self._sent = 0.0
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._received.clear()
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not is_whole(self._received):
            return
        now = time.perf_counter()
        self.seconds.append(now - self._sent)
        if now < self._until:
            self._ask()
        elif not self.done.done():
            self._transport.abort()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed"))


def is_whole(received: bytearray) -> bool:
    """Whether that is all of an answer; of one in chunks its end tells."""
    head = received.find(b"\r\n\r\n")
    if head < 0:
        return False
    if (at := received.find(b"\r\nContent-Length: ", 0, head + 2)) >= 0:
        return len(received) >= head + 4 + int(received[at + 18 : received.index(b"\r", at + 18)])
    return received.endswith(b"\r\n0\r\n\r\n")


async def ask(place: Place, path: str, connections: int, seconds: float) -> list[float]:
    """Seconds of each request when so many connections ask one after the other for so long."""
    until = time.perf_counter() + seconds
    asking = [_Asking(get(path).encode(), until) for _ in range(connections)]
    await asyncio.gather(*(place.connect(protocol) for protocol in asking))
    await asyncio.gather(*(protocol.done for protocol in asking))
    return [value for protocol in asking for value in protocol.seconds]


class Lines(asyncio.Protocol):
    """A watch: when each line came. `enough` is set after so many."""

    def __init__(self, path: str, wanted: int) -> None:
        self._path = path
        self._wanted = wanted
        self.count = 0
        self.times: list[float] = []
        self.enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(get(self._path).encode())

    def data_received(self, data: bytes) -> None:
        if not self.began.done():
            self.began.set_result(None)
        if lines := data.count(b"}\n"):
            self.count += lines
            self.times += [time.perf_counter()] * lines
            if self.count >= self._wanted and not self.enough.done():
                self.enough.set_result(None)


async def download(place: Place, size: int) -> float:
    """MB/s of a tunnel to the client."""
    reader, writer = await place.open(f"POST /down/{size} HTTP/1.1\r\nHost: localhost\r\n{_UPGRADE}Content-Length: 0\r\n\r\n")
    began, left = time.perf_counter(), size
    while left > 0:
        left -= len(await reader.read(1 << 20))
    seconds = time.perf_counter() - began
    writer.transport.abort()
    return size / seconds / 1e6


async def upload(place: Place, size: int) -> float:
    """MB/s of a tunnel from the client."""
    reader, writer = await place.open(f"POST /up/{size} HTTP/1.1\r\nHost: localhost\r\n{_UPGRADE}Content-Length: 0\r\n\r\n")
    began = time.perf_counter()
    for _ in range(size // len(_CHUNK)):
        writer.write(_CHUNK)
        await writer.drain()
    await reader.readexactly(4)
    seconds = time.perf_counter() - began
    writer.transport.abort()
    return size / seconds / 1e6


async def round_trips(place: Place, count: int) -> list[float]:
    """Seconds that 64 bytes take through a tunnel and back."""
    reader, writer = await place.open(f"POST /echo HTTP/1.1\r\nHost: localhost\r\n{_UPGRADE}Content-Length: 0\r\n\r\n")
    found = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(_CHUNK[:64])
        await reader.readexactly(64)
        found.append(time.perf_counter() - began)
    writer.transport.abort()
    return found


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of the server of tunnels."""
    try:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
        what, _, size = path.strip("/").partition("/")
        if what == "down":
            for _ in range(int(size) // len(_CHUNK)):
                writer.write(_CHUNK)
                await writer.drain()
        left = int(size or 0)
        while data := await reader.read(1 << 20):
            if what == "echo":
                writer.write(data)
            elif what == "up" and left > 0:
                left -= len(data)
                if left <= 0:
                    writer.write(b"done")
            await writer.drain()
    except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
        pass
    writer.close()


@dataclass(frozen=True)
class Files:
    """PEM files: the authority of servers, a server's certificate, the authority of clients, a client's certificate."""

    server_ca: Path
    server: tuple[Path, Path]
    client_ca: Path
    client: tuple[Path, Path]
    mode: ssl.VerifyMode = field(default=ssl.CERT_OPTIONAL)

    def serving(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.client_ca))
        context.load_cert_chain(*self.server)
        context.verify_mode = self.mode
        context.set_alpn_protocols(["http/1.1"])
        return context

    def asking(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.server_ca))
        context.load_cert_chain(*self.client)
        return context


def serve_tunnels(files: Files, told: Connection) -> None:
    """A process: the server of tunnels. Tells its port."""

    async def run() -> None:
        server = await asyncio.start_server(_tunnel, "127.0.0.1", 0, ssl=files.serving(), limit=1 << 20)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def serve_door(files: Files, port: int, told: Connection) -> None:
    """A process: a front door, and nothing else, before the server at that port. Tells its own."""

    async def run() -> None:
        cluster = Cluster(f"https://127.0.0.1:{port}", files.asking(), server_name="localhost")
        context = files.serving()
        async with Relay() as relay:
            server = ProxyServer(
                Address("127.0.0.1", 0),
                VirtualServers(cluster, cluster),
                relay,
                [],
                context=lambda: context,
                observer=Metrics(),
                limit=1000,
            )
            async with server:
                told.send(server.connections.port)
                await asyncio.Event().wait()

    asyncio.run(run())

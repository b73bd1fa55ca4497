"""A front door on the wire: the bytes that are sent to it, that come back, and that reach the API server behind it."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from syncer.kube.config import Cluster
from syncer.proxy.connections import Patience

if TYPE_CHECKING:
    from tests.proxy.front import Front

PODS = "/api/v1/namespaces/default/pods"
KEPT = f"GET {PODS} HTTP/1.1\r\nHost: localhost\r\n".encode()
GET = KEPT + b"Connection: close\r\n"
POST = GET.replace(b"GET", b"POST")
NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\nX-Remote-User: root\r\nConnection: close\r\n\r\n"
SPDY = b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdHRlc3R0ZXN0dGVzdA==\r\n"
SWITCHES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
HASTY = Patience(handshake=0.3, first=0.3, idle=0.6)


class Wire:
    """An API server that keeps the bytes of each connection and answers each head with the same bytes, whatever they are."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}") -> None:
        self.answer = answer
        self.connections: list[bytearray] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def cluster(self) -> Cluster:
        return Cluster(f"http://127.0.0.1:{self.port}")

    @property
    def heads(self) -> list[list[bytes]]:
        """The lines of all requests, those of later connections last."""
        return [head.split(b"\r\n") for kept in self.connections for head in bytes(kept).split(b"\r\n\r\n")[:-1]]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept, answered = bytearray(), 0
        self.connections.append(kept)
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                kept += data
                for _ in range(kept.count(b"\r\n\r\n") - answered):
                    writer.write(self.answer)
                    answered += 1
        writer.close()


async def say(door: Front, *parts: bytes, certificate: bytes | None = None) -> bytes:
    """Everything that comes back until the front door closes the connection or has nothing more to say for a moment."""
    reader, writer = await door.connect(certificate)
    for part in parts:
        writer.write(part)
    received = b""
    with suppress(TimeoutError, ConnectionError, ssl.SSLError):
        while data := await asyncio.wait_for(reader.read(65536), 20 if not received else 0.15):
            received += data
    writer.transport.abort()
    return received


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection is closed within any reasonable time, as it has to be."""
    async with asyncio.timeout(20):
        with suppress(ConnectionError, ssl.SSLError):
            while await reader.read(65536):
                pass
    return True

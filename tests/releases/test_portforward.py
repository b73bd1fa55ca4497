"""A listener before a real API server's stand-in: HTTP, WebSocket and SPDY are real, the pod is a TCP server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import pytest
from aiohttp import web

from syncer.errors import ConfigError, SyncerError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import Key, Side
from syncer.releases import spdy
from syncer.releases.portforward import PROTOCOL, PortForward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

POD = Key("ns", "pod-0")
MEBI = 1 << 20


def frame(stream: int, content: bytes, *, last: bool = False) -> bytes:
    return stream.to_bytes(4, "big") + bytes([last]) + len(content).to_bytes(3, "big") + content


class Api:
    """Forwards to `pod`, a handler of asyncio's streams, as containerd does; `errors` is told instead of connecting."""

    def __init__(self, pod: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.pod = pod
        self.protocols: tuple[str, ...] = (PROTOCOL,)
        self.status = 0
        self.words = "Upgrade request required"
        self.errors = b""
        self.breaks_after: int | None = None
        self.asked: list[str] = []
        self.port = 0
        self.pongs = 0

    async def __aenter__(self) -> Self:
        self._pods = await asyncio.start_server(self._run, "127.0.0.1", 0)
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
        self._pods.close()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await self.pod(reader, writer)
                writer.transport.abort()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if "Upgrade" not in request.headers or self.status:
            return web.json_response({"message": self.words, "reason": ""}, status=self.status or 400)
        self.asked.append(request.path)
        tunnel = web.WebSocketResponse(protocols=self.protocols, max_msg_size=0)
        await tunnel.prepare(request)
        assert (await tunnel.receive()).data == spdy.opening(8443)
        await tunnel.send_bytes(bytes.fromhex("8003000600000004 00000002"))
        if self.errors:
            await tunnel.send_bytes(frame(1, self.errors, last=True) + bytes.fromhex("8003000300000008 00000003 00000005"))
            await tunnel.receive()
            return tunnel
        reader, writer = await asyncio.open_connection(*self._pods.sockets[0].getsockname())
        up = asyncio.create_task(self._up(tunnel, writer))
        try:
            sent = 0
            while piece := await reader.read(65536):
                sent += len(piece)
                if self.breaks_after is not None and sent > self.breaks_after:
                    return tunnel
                whole = frame(3, piece)
                await tunnel.send_bytes(whole[:100])
                await tunnel.send_bytes(whole[100:])
            await tunnel.send_bytes(frame(3, b"", last=True))
            await tunnel.send_bytes(frame(1, b"", last=True))
            await up
        finally:
            up.cancel()
            writer.transport.abort()
        return tunnel

    async def _up(self, tunnel: web.WebSocketResponse, writer: asyncio.StreamWriter) -> None:
        frames = spdy.Reader()
        async for message in tunnel:
            for one in frames.feed(message.data):
                if isinstance(one, spdy.Ping):
                    self.pongs += 1
                elif isinstance(one, spdy.Data):
                    writer.write(one.content)
                    await writer.drain()
                    if one.last:
                        writer.write_eof()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers when all has come: needs one direction to end before the other."""
    found = hashlib.sha256()
    while piece := await reader.read(65536):
        found.update(piece)
    writer.write(found.hexdigest().encode())


class Listener:
    """What the user has: the port, and what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.heard = asyncio.Event()
        self.forward: PortForward

    def say(self, text: str) -> None:
        self.said.append(text)
        self.heard.set()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.forward.local_port)

    async def ask(self, content: bytes) -> bytes:
        reader, writer = await self.open()
        sending = asyncio.create_task(self._send(writer, content))
        try:
            return await reader.read(-1)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        writer.write(content)
        await writer.drain()
        writer.write_eof()


async def pod_0() -> Key:
    return POD


@asynccontextmanager
async def listener(api: Api, find_pod: Callable[[], Awaitable[Key]] = pod_0) -> AsyncIterator[Listener]:
    here = Listener()
    async with (
        Client(Cluster(f"http://127.0.0.1:{api.port}"), Side.HOST) as host,
        PortForward(host, find_pod, 8443, say=here.say) as here.forward,
    ):
        yield here


async def test_many_connections_at_once() -> None:
    async with Api(echo) as api, listener(api) as here:
        contents = [os.urandom(1000 + number) for number in range(50)]
        assert await asyncio.gather(*(here.ask(content) for content in contents)) == contents
        assert api.asked == ["/api/v1/namespaces/ns/pods/pod-0/portforward"] * 50
        assert api.pongs == 50
        assert here.said == []


async def test_much_and_each_direction_ends_by_itself() -> None:
    async with Api(echo) as api, listener(api) as here:
        content = os.urandom(16 * MEBI)
        assert hashlib.sha256(await here.ask(content)).digest() == hashlib.sha256(content).digest()
    async with Api(digest) as api, listener(api) as here:
        assert await here.ask(content) == hashlib.sha256(content).hexdigest().encode()


async def test_what_is_not_read_is_not_asked_for() -> None:
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with Api(pour) as api, listener(api) as here:
        reader, writer = await here.open()
        await reader.readexactly(1)
        before = -1
        while sent != before:  # until everything on the way is full
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 64 * MEBI
        writer.transport.abort()


@pytest.mark.parametrize("content", [b"", b"hello"])
async def test_what_the_host_says_went_wrong_is_passed_on(content: bytes) -> None:
    async with Api(echo) as api, listener(api) as here:
        api.errors = b"connection refused"
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await here.ask(content)
        assert here.said == ["the host says: connection refused"]
        api.errors = b""
        assert await here.ask(b"hello") == b"hello"
        assert here.said == ["the host says: connection refused", "forwarding again"]


async def test_half_of_an_answer_is_not_taken_for_all_of_it() -> None:
    async with Api(echo) as api, listener(api) as here:
        api.breaks_after = 100_000
        with pytest.raises(ConnectionResetError):
            await here.ask(bytes(MEBI))


async def test_an_api_server_that_restarts() -> None:
    async with Api(echo) as api, listener(api) as here:
        assert await here.ask(b"before") == b"before"
        reader, writer = await here.open()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await api.stop()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.transport.abort()
        waiting = asyncio.create_task(here.ask(b"after"))
        await here.heard.wait()
        await api.start()
        assert await waiting == b"after"
        assert len(here.said) == 2
        assert here.said[0].endswith("; trying again")
        assert here.said[1] == "forwarding again"


async def test_a_pod_that_is_replaced() -> None:
    answers: list[Key | SyncerError] = [SyncerError("no pod is ready"), SyncerError("no pod is ready"), Key("ns", "pod-1")]

    async def find_pod() -> Key:
        answer = answers.pop(0)
        if isinstance(answer, SyncerError):
            raise answer
        return answer

    async with Api(echo) as api, listener(api, find_pod) as here:
        assert await here.ask(b"hello") == b"hello"
        assert api.asked == ["/api/v1/namespaces/ns/pods/pod-1/portforward"]
        assert here.said == ["no pod is ready; trying again", "forwarding again"]


@pytest.mark.parametrize(("status", "words"), [(403, "pods/portforward"), (400, "since 1.31")])
async def test_what_only_a_person_can_mend_is_told_at_once(status: int, words: str) -> None:
    async with Api(echo) as api, listener(api) as here:
        api.status = status
        with pytest.raises(ConnectionResetError):
            await here.ask(b"hello")
        assert len(here.said) == 1
        assert words in here.said[0]
        assert str(here.forward.refused) == here.said[0]


async def test_a_pod_that_cannot_be_reached_yet() -> None:
    async with Api(echo) as api, listener(api) as here:
        api.status, api.words = 400, "pod-0 does not have a host assigned"
        waiting = asyncio.create_task(here.ask(b"hello"))
        await here.heard.wait()
        api.status = 0
        assert await waiting == b"hello"
        assert here.said == ["ns/pod-0: pod-0 does not have a host assigned; trying again", "forwarding again"]


async def test_a_server_that_speaks_something_else() -> None:
    async with Api(echo) as api, listener(api) as here:
        api.protocols = ("v4.channel.k8s.io",)
        with pytest.raises(ConnectionResetError):
            await here.ask(b"hello")
        assert "since 1.31" in here.said[0]


async def test_a_client_that_leaves_is_forgotten_by_everybody() -> None:
    left = asyncio.Event()

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        left.set()

    async with Api(stay) as api, listener(api) as here:
        reader, writer = await here.open()
        assert await reader.readexactly(1) == b"x"
        writer.transport.abort()
        async with asyncio.timeout(20):
            await left.wait()


async def test_leaving_closes_the_connections() -> None:
    async with Api(echo) as api:
        async with listener(api) as here:
            reader, writer = await here.open()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        writer.transport.abort()
        with pytest.raises(ConnectionRefusedError):
            await here.open()


async def test_a_port_that_is_taken() -> None:
    async with Api(echo) as api, Client(Cluster(f"http://127.0.0.1:{api.port}"), Side.HOST) as host:
        with pytest.raises(ConfigError, match="choose another --local-port"):
            async with PortForward(host, pod_0, 8443, say=lambda _: None, local_port=api.port):
                pass

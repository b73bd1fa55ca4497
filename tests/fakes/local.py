"""The fake API server and its client without sockets between them: a fifth of the time, for tests that come in hundreds.

Everything but aiohttp's own HTTP is the real thing, and breaks as it would: a refused connection, an answer that never comes,
a connection that goes amid a watch. As nothing waits for a socket, virtual time need not poll for one (tests.runtime.virtual_time).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Self, cast
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web
from yarl import URL

from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import Side
from tests.fakes.apiserver import FakeApiServer, line
from tests.fakes.requests import Request


class _Connection:
    """One request's, for both ends; also its own transport."""

    def __init__(self) -> None:
        self.transport = self
        self.broken = False

    def abort(self) -> None:
        self.broken = True

    def is_closing(self) -> bool:
        return self.broken


class _Incoming:
    """What the server takes from an `aiohttp.web` request."""

    def __init__(self, method: str, url: URL, headers: Mapping[str, str], data: bytes) -> None:
        self.method = method
        self.path = url.path
        self.query = dict(parse_qsl(url.raw_query_string, keep_blank_values=True))
        self.headers = headers
        self.content_type = headers.get("Content-Type", "application/octet-stream")
        self.content = self
        self.transport = _Connection()
        self.head: asyncio.Future[_Response] = asyncio.get_running_loop().create_future()
        self.stream: _Response | None = None
        self._data = data

    async def read(self) -> bytes:
        return self._data

    def begin(self) -> _Response:
        """A stream starts."""
        self.stream = _Response(200, {}, b"", self.transport)
        if not self.head.done():
            self.head.set_result(self.stream)
        return self.stream


class _Response:
    """What the client takes from an `aiohttp` response: all of it, or lines as they come."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, connection: _Connection) -> None:
        self.status = status
        self.headers = headers
        self.connection = connection
        self.content = self
        self.idle: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._body = body
        self._arrived = asyncio.Event()
        self._ended = False

    async def read(self) -> bytes:
        return self._body

    def feed(self, data: bytes) -> None:
        self._body += data
        self._arrived.set()

    def end(self) -> None:
        self._ended = True
        self._arrived.set()

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        self.end()

    async def readline(self, *, max_line_length: int) -> bytes:
        while True:
            found, newline, rest = self._body.partition(b"\n")
            if newline:
                self._body = rest
                return found + newline
            if self.connection.broken:
                raise aiohttp.ClientPayloadError("the connection broke amid a watch")
            if self._ended:
                self._body = b""
                return found
            self._arrived.clear()
            async with asyncio.timeout(self.idle):
                await self._arrived.wait()


class LocalApiServer(FakeApiServer):
    """A fake API server that nobody but `LocalClient` reaches."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._listening = False
        self._served: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._listening = True

    async def stop(self) -> None:
        self._listening = False
        for task in list(self._served):
            task.cancel()
        if self._served:
            await asyncio.wait(self._served)

    async def exchange(self, method: str, url: URL, headers: Mapping[str, str], data: bytes, timeouts: aiohttp.ClientTimeout) -> _Response:
        """The whole answer, or the head of a stream."""
        if not self._listening:
            raise aiohttp.ClientConnectionError("connection refused")
        incoming = _Incoming(method, url, headers, data)
        task = asyncio.create_task(self._serve(incoming))
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        try:
            async with asyncio.timeout(timeouts.total):
                response = await incoming.head
        except BaseException:
            task.cancel()
            raise
        if incoming.stream is not None:
            response.idle, response.task = timeouts.sock_read, task
        return response

    async def _serve(self, incoming: _Incoming) -> None:
        try:
            answer = await self._handle(cast(web.BaseRequest, incoming))
        except asyncio.CancelledError:
            incoming.transport.abort()
            raise
        except Exception as error:  # noqa: BLE001  aiohttp would make a 500 of it, and hide a mistake of this server's
            incoming.head.set_exception(error)
            return
        finally:
            if incoming.stream is not None:
                incoming.stream.end()
            elif incoming.transport.broken and not incoming.head.done():
                incoming.head.set_exception(aiohttp.ServerDisconnectedError())
        if not incoming.head.done():
            assert isinstance(answer, web.Response)
            body = answer.body
            assert isinstance(body, bytes)
            incoming.head.set_result(_Response(answer.status, answer.headers, body, incoming.transport))

    async def _stream(self, http: web.BaseRequest, request: Request, partial: bool) -> web.StreamResponse:
        incoming = cast(_Incoming, http)
        watch = await self._handlers.open_watch(request)
        with self.following(watch):
            await watch.wait_while_held()
            stream = incoming.begin()
            async with contextlib.aclosing(watch.events()) as events:
                async for event in events:
                    stream.feed(event if isinstance(event, bytes) else line(event, partial))
            if watch.end == "abort":
                incoming.transport.abort()
        return web.Response()


class _Session:
    """What the client takes from an `aiohttp.ClientSession`."""

    def __init__(self, server: LocalApiServer) -> None:
        self.closed = False
        self._server = server

    async def request(
        self,
        method: str,
        url: URL,
        *,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  the library's
        **_: Any,
    ) -> _Response:
        return await self._server.exchange(method, url, headers, data or b"", timeout)

    async def close(self) -> None:
        self.closed = True


class LocalClient(Client):
    """A client of one local server."""

    def __init__(self, server: LocalApiServer, side: Side) -> None:
        super().__init__(Cluster("http://local"), side)
        self._server = server

    async def __aenter__(self) -> Self:
        self._left.clear()
        self._requests = self._watches = _Session(self._server)  # type: ignore[assignment]  # stands in for aiohttp's
        return self

"""A port of this machine whose connections go to a port of a pod, through the host's API server, for as long as it is wanted.

Each connection has a WebSocket of its own to the pod that is there when it comes, so that a pod that is replaced, and an API server
that restarts, cost no more than the connections that they had. What fails before anything was sent is tried again: the client waits.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from typing import TYPE_CHECKING, Self

import aiohttp
from yarl import URL

from syncer.errors import NETWORK_ERRORS, ApiError, ConfigError, Forbidden, NotFound, SyncerError, told
from syncer.kube.backoff import Backoff
from syncer.kube.client import keepalive_socket
from syncer.kube.types import PODS
from syncer.releases import spdy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from syncer.kube.client import Client
    from syncer.kube.types import Key

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
"""Since Kubernetes 1.31: SPDY in a WebSocket, which passes where SPDY by itself does not (KEP 4006)."""
LOOPBACK = "127.0.0.1"

_TOO_OLD = f"the host's API server does not forward ports by {PROTOCOL}, as Kubernetes does since 1.31; use kubectl port-forward"
_PIECE = 64 * 1024
_OPEN_SECONDS = 30.0
_PATIENCE = 120.0
"""How long a client that has connected is kept waiting for a pod and an API server."""


class PortForward:
    """Enter it to listen; leaving it closes all connections.

    `find_pod` gives the pod for a new connection, and raises SyncerError while there is none. `say` hears once of what does not work, and
    once when it works again.
    """

    def __init__(
        self,
        host: Client,
        find_pod: Callable[[], Awaitable[Key]],
        port: int,
        *,
        say: Callable[[str], None],
        address: str = LOOPBACK,
        local_port: int = 0,
    ) -> None:
        self._host = host
        self._find_pod = find_pod
        self._port = port
        self._say = say
        self._trouble = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._server: asyncio.Server | None = None
        self.refused: ConfigError | None = None
        """Why the last connection could not be, if only a person can mend that."""
        self.address = address
        self.local_port = local_port

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._accept, self.address, self.local_port, limit=_PIECE)
        except OSError as error:
            remedy = (
                "choose another --local-port, or none" if error.errno == errno.EADDRINUSE else "choose another --address or --local-port"
            )
            raise ConfigError(f"cannot listen on {self.address}:{self.local_port} ({error.strerror}); {remedy}") from None
        self.local_port = self._server.sockets[0].getsockname()[1]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=keepalive_socket), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        assert self._session is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._session.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            tunnel = await self._insist(reader)
            if tunnel is not None:
                self.refused = None
                try:
                    await self._join(reader, writer, tunnel)
                finally:
                    await tunnel.close()
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass  # of either end, which tells the other; what is broken is told by the next connection that cannot be made
        except (SyncerError, *NETWORK_ERRORS) as error:
            self.refused = error if isinstance(error, ConfigError) else None
            self._tell(told(error))
        finally:
            _reset(writer)

    async def _insist(self, reader: asyncio.StreamReader) -> aiohttp.ClientWebSocketResponse | None:
        """A WebSocket to the pod; None if the client did not wait for it. Raises what kept it from opening, in the end."""
        backoff = Backoff(0.1, 2.0)
        until = _now() + _PATIENCE
        while True:
            try:
                return await self._open(await self._find_pod())
            except ConfigError:
                raise
            except (SyncerError, *NETWORK_ERRORS) as error:
                if _now() > until:
                    raise
                self._tell(f"{told(error)}; trying again")
                await asyncio.sleep(backoff.next())
                if reader.at_eof() or reader.exception() is not None:
                    return None

    async def _open(self, pod: Key) -> aiohttp.ClientWebSocketResponse:
        cluster, began = self._host.cluster, _now()
        assert self._session is not None
        path = PODS.path(pod.namespace, pod.name, "portforward")
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                tunnel = await self._session.ws_connect(
                    URL(f"{cluster.server}{path}", encoded=True),
                    protocols=(PROTOCOL,),
                    headers={"User-Agent": "syncer", **await cluster.headers()},
                    ssl=cluster.ssl or True,
                    server_hostname=cluster.server_name,
                    proxy=cluster.proxy,
                    timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=1.0),
                    max_msg_size=0,
                )
        except TimeoutError:
            raise SyncerError(f"the host's API server did not answer within {_OPEN_SECONDS:.0f} s") from None
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 401:
                await cluster.refresh(since=began, force=True)
            raise await self._refusal(error.status, pod, path) from None
        if tunnel.protocol != PROTOCOL:
            await tunnel.close()
            raise ConfigError(_TOO_OLD)
        return tunnel

    async def _refusal(self, status: int, pod: Key, path: str) -> SyncerError:
        """What the API server has against it, which it tells to a request that is no WebSocket's."""
        try:
            await self._host.request_json("GET", path)
        except NotFound:
            return SyncerError(f"the pod {pod} is gone")
        except Forbidden as error:
            return ConfigError(f"{error.message}; ask for get and create of pods/portforward in the namespace {pod.namespace}")
        except ApiError as error:
            # That it is no WebSocket is what it has to say; else it is the pod that has no node, or no container.
            if error.status == status and "pgrade" not in error.message:
                return SyncerError(f"{pod}: {error.message}")
        if status in (101, 400):
            return ConfigError(_TOO_OLD)
        return SyncerError(f"the host's API server refuses to forward a port of the pod {pod} ({status})")

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tunnel: aiohttp.ClientWebSocketResponse) -> None:
        """Pass everything on until the pod's end has ended. Raises SyncerError with what the host says went wrong."""
        await tunnel.send_bytes(spdy.opening(self._port))
        sending = asyncio.create_task(_send(reader, tunnel))
        receiving = asyncio.create_task(self._receive(writer, tunnel))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                sending.result()
            await receiving
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _receive(self, writer: asyncio.StreamWriter, tunnel: aiohttp.ClientWebSocketResponse) -> None:
        frames = spdy.Reader()
        wrong, reset = b"", False
        waited_for = {spdy.ERRORS, spdy.DATA}
        async for message in tunnel:
            for frame in frames.feed(message.data) if message.type is aiohttp.WSMsgType.BINARY else ():
                if isinstance(frame, spdy.Ping):
                    await tunnel.send_bytes(frame.frame)
                elif isinstance(frame, spdy.Reset):
                    reset = True
                else:
                    if frame.stream == spdy.DATA:
                        await self._deliver(writer, frame)
                    else:
                        wrong += frame.content
                    if frame.last:
                        waited_for.discard(frame.stream)
            if reset or not waited_for:
                break
        if wrong:
            raise SyncerError(f"the host says: {wrong.decode(errors='replace').strip()}")
        if spdy.DATA in waited_for:
            raise ConnectionResetError("the tunnel through the host's API server broke off")

    async def _deliver(self, writer: asyncio.StreamWriter, piece: spdy.Data) -> None:
        if piece.content:
            if self._trouble:
                self._say("forwarding again")
            self._trouble = ""
            writer.write(piece.content)
            await writer.drain()
        if piece.last:
            writer.write_eof()

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._say(trouble)
        self._trouble = trouble


async def _send(reader: asyncio.StreamReader, tunnel: aiohttp.ClientWebSocketResponse) -> None:
    while piece := await reader.read(_PIECE):
        await tunnel.send_bytes(spdy.data(piece))
    await tunnel.send_bytes(spdy.end_of_data())


def _reset(writer: asyncio.StreamWriter) -> None:
    """Unless it is closed already: so that the client takes nothing for all of it."""
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _now() -> float:
    return asyncio.get_running_loop().time()

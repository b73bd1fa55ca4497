"""The front door: what looks like the API server of a virtual cluster to everybody who talks to it.

Each request is taken apart, its caller told from the connection or the headers, and offered to the routes in turn; what none of
them answers is for the virtual API server. Failures of our own are answered as Kubernetes answers: a Status in JSON.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self
from weakref import WeakKeyDictionary

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from syncer.errors import NETWORK_ERRORS, ApiError
from syncer.kube import codec
from syncer.kube.types import Side
from syncer.proxy.callers import ASSERTED, Caller, Identity, caller_of, identity_of
from syncer.proxy.connections import USUAL, Connections, Patience
from syncer.proxy.relay import HEADER_BYTES, HOP_BY_HOP, is_upgrade
from syncer.proxy.requests import RequestInfo, is_clear, parse

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from syncer.kube.config import Cluster
    from syncer.proxy.relay import Relay
    from syncer.values import Address

log = structlog.get_logger("syncer.proxy")

_DROPPED = HOP_BY_HOP | {"host", "content-length", "expect"}
_NEVER = 365 * 86400.0
_HEADERS = 1000
"""Most headers of a request, each group to impersonate being one; their sum is bounded by `connections.HEAD_BYTES`."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what aiohttp says of malformed requests: the offending line, be it a token's, at any rate that a stranger likes."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_http_log = logging.getLogger("syncer.proxy.http")
_http_log.addFilter(_is_ours)


class _Request(web.BaseRequest):
    """One whose answer does not say what we are made of. What a Service behind the virtual API server says of itself stays."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        if response.headers.get("Server") == SERVER_SOFTWARE:
            del response.headers["Server"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: what it is about and who sends it. `host` is the name that the client calls us by, without the port."""

    request: web.BaseRequest
    info: RequestInfo
    caller: Caller
    host: str

    @property
    def lasts(self) -> bool:
        """Whether the answer has no end of its own: a watch, a log that is followed, a tunnel."""
        query = self.request.query
        return (
            self.info.verb == "watch"
            or is_upgrade(self.request)
            or (self.info.subresource in ("log", "proxy") and query.get("follow", "") in ("true", "1"))
        )


class Route(Protocol):
    """Something that answers some requests itself."""

    async def answer(self, call: Call) -> web.StreamResponse | None:
        """The answer, or None for what is not of this route. Raises ApiError, or a network error for an API server that is not there."""
        ...


class Observer(Protocol):
    """Where the proxy reports; the daemon's metrics."""

    def proxy_request(self, verb: str, resource: str, code: int, seconds: float | None) -> None:
        """A request was answered; without `seconds` it is one whose answer had no end of its own."""
        ...

    def proxy_lasting(self, verb: str, resource: str, change: int) -> None:
        """A request whose answer has no end of its own began (1) or ended (-1)."""
        ...


@dataclass(frozen=True, slots=True)
class VirtualServers:
    """The virtual API server as two kinds of callers reach it: with the front-proxy certificate, which vouches for them, or with none."""

    vouched: Cluster
    bare: Cluster

    def of(self, caller: Caller) -> Cluster:
        """The one to use on behalf of a caller."""
        return self.vouched if caller.asserted else self.bare


class ProxyServer:
    """Serves while entered. `routes` are asked in turn before the virtual API server is; `context` gives the TLS context of the moment.

    At most `limit` connections are held, and waited for as `patience` says. When it is left, requests have `drain` seconds to finish,
    but watches and tunnels end at once. `wall` is epoch seconds.
    """

    def __init__(
        self,
        address: Address,
        servers: VirtualServers,
        relay: Relay,
        routes: Sequence[Route],
        *,
        context: Callable[[], ssl.SSLContext],
        observer: Observer,
        limit: int,
        drain: float = 0.0,
        patience: Patience = USUAL,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers
        self._relay = relay
        self._routes = routes
        self._observer = observer
        self._drain = drain
        self._wall = wall
        self._identities: WeakKeyDictionary[asyncio.BaseTransport, Identity | None] = WeakKeyDictionary()
        server = web.Server(
            self._serve,
            request_factory=partial(_Request, loop=asyncio.get_running_loop()),
            handler_cancellation=True,
            access_log=None,
            logger=_http_log,
            auto_decompress=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=_HEADERS,
            keepalive_timeout=_NEVER,  # `connections` closes what idles
            lingering_time=1.0,
        )
        self._server = server
        self.connections = Connections(server, address, context, limit=limit, patience=patience)

    async def __aenter__(self) -> Self:
        await self.connections.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(self._drain)

    async def stop(self, drain: float) -> None:
        """Take no more requests, end what has no end of its own, and let the others finish for `drain` seconds."""
        self.connections.close()
        self._relay.end()
        self._server.pre_shutdown()
        await self._server.shutdown(drain or 0.001)
        await self.connections.__aexit__()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        transport, loop = request.transport, asyncio.get_running_loop()
        self.connections.busy(transport)
        began, lasts, code = loop.time(), False, 499  # nginx' word for a client that did not wait
        info = parse(request.method, request.raw_path)
        verb, resource = info.verb, info.kind or "path"

        async def answer_it() -> web.StreamResponse:
            nonlocal lasts
            call = self._call(request, info)
            if lasts := call.lasts:
                self._observer.proxy_lasting(verb, resource, 1)
            return await self._answer(call)

        try:
            answer = await answered(answer_it(), info)
            code = answer.status
            return answer
        finally:
            if lasts:
                self._observer.proxy_lasting(verb, resource, -1)
            self._observer.proxy_request(verb, resource, code, None if lasts else loop.time() - began)
            self.connections.idle(transport)

    def _call(self, request: web.BaseRequest, info: RequestInfo) -> Call:
        _check(request)
        caller = caller_of(request.headers, self._identity(request.transport), self._wall())
        host = (request.headers.get("Host") or "").rpartition("]")
        return Call(request, info, caller, host[0] + "]" if host[0] else host[2].partition(":")[0])

    def _identity(self, transport: asyncio.BaseTransport | None) -> Identity | None:
        """Of the client at the other end; one connection has one certificate."""
        if transport is None:
            return None
        if transport not in self._identities:
            tls = transport.get_extra_info("ssl_object")
            certificate = tls.getpeercert() if tls is not None else None
            self._identities[transport] = identity_of(certificate, tls.getpeercert(binary_form=True)) if certificate else None
        return self._identities[transport]

    async def _answer(self, call: Call) -> web.StreamResponse:
        request = call.request
        if is_clear(request.raw_path):
            for route in self._routes:
                if (answer := await route.answer(call)) is not None:
                    return answer
        elif call.info.kind == "nodes/proxy":
            # The virtual API server would ask a kubelet, which is us, as itself: whoever may get could have things run.
            raise ApiError(400, "BadRequest", "the path of a kubelet has to be written in its plain form")
        headers = virtual_headers(call)
        return await self._relay.pass_on(
            request, self._servers.of(call.caller), request.raw_path, headers, Side.VIRTUAL, endless=call.lasts
        )


def _check(request: web.BaseRequest) -> None:
    """Raise for what aiohttp lets pass and kube-apiserver would not, or what could not be passed on as it came."""
    headers = request.headers
    if not request.raw_path.startswith("/") or "#" in request.raw_path:
        raise ApiError(400, "BadRequest", "the request names another server than this one, or no path")
    if request.version not in (HttpVersion10, HttpVersion11):
        raise ApiError(505, "HTTPVersionNotSupported", "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if (coding := headers.get("Transfer-Encoding")) is not None and (coding.lower() != "chunked" or request.version == HttpVersion10):
        raise ApiError(501, "NotImplemented", "the only transfer coding is chunked, in HTTP/1.1")
    if not all(value.isascii() or _is_text(value) for value in headers.values()):
        raise ApiError(400, "BadRequest", "a header has bytes that are not UTF-8")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # aiohttp would leave such bytes out, which makes another user or token of one
        return False
    return True


def virtual_headers(call: Call) -> CIMultiDict[str]:
    """The client's headers as the virtual API server may see them: with no word of who the caller is but ours."""
    request, caller = call.request, call.caller
    headers: CIMultiDict[str] = CIMultiDict(
        (name, value)
        for name, value in request.headers.items()
        if (small := name.lower()) not in _DROPPED and not small.startswith(ASSERTED)
    )
    if caller.asserted:
        headers.popall("Authorization", None)  # the certificate comes first, as with kube-apiserver
        for name, value in caller.credentials.items():
            if name.lower().startswith(ASSERTED):
                headers.add(name, value)
    if request.remote:
        known = headers.popall("X-Forwarded-For", [])
        headers["X-Forwarded-For"] = ", ".join([*known, request.remote])
    return headers


async def answered(answer: Awaitable[web.StreamResponse], info: RequestInfo) -> web.StreamResponse:
    """The answer to a request, or the Status that tells why there is none."""
    try:
        return await answer
    except ApiError as error:
        return _failure(error)
    except NETWORK_ERRORS as error:
        log.warning("proxy.unreachable", verb=info.verb, path=info.path, error=str(error) or type(error).__name__)
        return _failure(ApiError(503, "ServiceUnavailable", "an API server behind this one cannot be reached right now; try again"))
    except Exception as error:  # a bug: the client gets an answer all the same, and the log the traceback
        log.exception("proxy.bug", verb=info.verb, path=info.path, exc_info=error)
        return _failure(ApiError(500, "InternalError", "the proxy made a mistake, which its log tells more about"))


def _failure(error: ApiError) -> web.Response:
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.reason,
        **({"details": {**error.details}} if error.details else {}),
        "code": error.status,
    }
    answer = web.Response(
        status=error.status,
        body=codec.dumps(status) + b"\n",
        content_type="application/json",
        headers={"Cache-Control": "no-cache, private"},
    )
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(int(error.retry_after))
    return answer

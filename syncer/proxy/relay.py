"""Passes requests on to an API server and the answers back, as they come: nothing large is kept, and a slow reader slows the sender."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from syncer.errors import NETWORK_ERRORS, ApiError, SyncerError, api_error
from syncer.kube import codec
from syncer.kube.answers import Answer, retry_after
from syncer.kube.types import Side
from syncer.proxy import errorchannel
from syncer.proxy.tunnel import BODY_BYTES, Joined, Peer, Tunnels, answer_of, head_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from multidict import MultiMapping

    from syncer.kube.config import Cluster
    from syncer.kube.types import Obj
    from syncer.proxy.tunnel import Rewrite

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that are about one connection (RFC 9110, 7.6.1)."""
HEADER_BYTES = 65536
"""Longest line of a head: tokens of identity providers have more than the usual 8 KiB."""

_ABOUT_CONTENT = frozenset({"content-type", "content-length", "content-encoding", "cache-control", "date", "retry-after"})
_OURS = HOP_BY_HOP | {"host", "content-length", "expect"}
_SMALL = 64 * 1024
"""An answer of up to so many bytes is read at once and sent at once, which costs half as much as streaming it; so is one of unknown
length that is already there in full."""
_READ_BYTES = 64 * 1024
_UPGRADE_BODY = 64 * 1024
_CONNECT_SECONDS = 10.0
_ASK_SECONDS = 30.0


class Relay:
    """Connections to API servers on behalf of callers; an async context manager. `hide` takes the host out of texts of its API server.

    A body has to begin within `body_seconds`, and that of a request for an upgrade, which has none to speak of, to end.
    """

    def __init__(self, *, hide: Callable[[str], str] = lambda text: text, body_seconds: float = 30.0) -> None:
        self.tunnels = Tunnels()
        self._body_seconds = body_seconds
        self._hide = hide
        self._session: aiohttp.ClientSession | None = None
        self._endless: set[aiohttp.ClientResponse] = set()
        self._ended: set[aiohttp.ClientResponse] = set()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
            read_bufsize=_READ_BYTES,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
        if self._session is not None:
            await self._session.close()

    def end(self) -> None:
        """End all endless answers and tunnels; their clients see an orderly end."""
        self._ended |= self._endless
        for answer in self._ended:
            answer.close()
        self.tunnels.close()

    async def ask(
        self, cluster: Cluster, path: str, credentials: MultiMapping[str], body: Obj | None = None, *, method: str = "POST"
    ) -> Any:
        """What `cluster` answers to a JSON object, or to nothing, sent with these credentials. Raises ApiError, or a network error."""
        headers = CIMultiDict(credentials)
        headers["Accept"] = "application/json"
        if body is not None:
            headers["Content-Type"] = "application/json"
        await cluster.headers()  # which has it look whether its certificates changed
        async with self._request(
            method, cluster, path, headers, None if body is None else codec.dumps(body), total_seconds=_ASK_SECONDS
        ) as response:
            answer = await Answer.read(response)
        if 200 <= answer.status < 300:
            return answer.json()
        raise api_error(answer.status, answer.status_body(), retry_after(answer))

    def read(self, cluster: Cluster, path: str, headers: MultiMapping[str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """What `cluster` answers to a GET, with a body that is still to be read. Raises a network error."""
        return self._request("GET", cluster, path, headers)

    def _request(
        self,
        method: str,
        cluster: Cluster,
        path: str,
        headers: MultiMapping[str],
        data: bytes | AsyncIterator[bytes] | None = None,
        *,
        total_seconds: float | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        assert self._session is not None
        return self._session.request(
            method,
            URL(cluster.server + path, encoded=True),
            headers=CIMultiDict(headers),
            data=data,
            ssl=cluster.ssl or True,
            server_hostname=cluster.server_name,
            proxy=cluster.proxy,
            timeout=aiohttp.ClientTimeout(total=total_seconds, sock_connect=_CONNECT_SECONDS),
            allow_redirects=False,
        )

    async def pass_on(
        self,
        request: web.BaseRequest,
        cluster: Cluster,
        path: str,
        headers: MultiMapping[str],
        side: Side,
        *,
        endless: bool,
        hide: Callable[[str], str] | None = None,
    ) -> web.StreamResponse:
        """The answer of `cluster` to the request as sent to `path` (encoded, with its query) with these headers and its own body.

        Credentials are the headers' and the cluster's client certificate. An `endless` answer (a watch, a log that is followed) may
        be ended at any chunk by `end`. Raises ApiError (502, 504) when there is no answer. Of the host's answers only the headers about
        their content pass, and of what it refuses only what `hide` leaves; such an answer is whole, and not sent yet.
        """
        try:
            await cluster.headers()  # which has it look whether its certificates changed
            if is_upgrade(request):
                return await self._tunnel(request, cluster, path, headers, side, hide or self._hide)
            return await self._exchange(request, cluster, path, headers, side, hide or self._hide, endless=endless)
        except TimeoutError:
            raise ApiError(504, "Timeout", f"the {side} API server does not answer") from None
        except (SyncerError, *NETWORK_ERRORS) as error:
            if isinstance(error, ApiError):
                raise
            raise ApiError(502, "BadGateway", f"the {side} API server cannot be reached") from error

    async def _tunnel(
        self,
        request: web.BaseRequest,
        cluster: Cluster,
        path: str,
        headers: MultiMapping[str],
        side: Side,
        hide: Callable[[str], str],
    ) -> web.StreamResponse:
        url = URL(cluster.server)
        assert url.host is not None
        assert url.port is not None
        sent = CIMultiDict(headers)
        sent["Host"] = url.authority
        sent["Connection"] = "Upgrade"
        sent["Upgrade"] = request.headers["Upgrade"]
        body = await _whole_body(request, self._body_seconds)
        if body or request.method not in ("GET", "HEAD"):
            sent["Content-Length"] = str(len(body))
        peer = Peer(url.host, url.port, cluster.ssl, cluster.server_name)

        def rewriting(answer: MultiMapping[str]) -> Rewrite | None:
            told = side is Side.HOST and answer.get("Sec-WebSocket-Protocol") in errorchannel.PROTOCOLS
            return errorchannel.ErrorChannel(hide).feed if told else None

        head = head_of(request.method, url.raw_path.rstrip("/") + path, sent)
        refusal = await self.tunnels.join(request, peer, head + body, rewriting=rewriting)
        if refusal is None:
            return Joined()
        if side is Side.HOST:
            return _refused(refusal.status, refusal.headers, refusal.body, hide)
        return answer_of(refusal, dict.fromkeys(_OURS))

    async def _exchange(
        self,
        request: web.BaseRequest,
        cluster: Cluster,
        path: str,
        headers: MultiMapping[str],
        side: Side,
        hide: Callable[[str], str],
        *,
        endless: bool,
    ) -> web.StreamResponse:
        sent = CIMultiDict(headers)
        data = None
        if request.can_read_body:
            if (length := request.headers.get("Content-Length")) is not None:
                sent["Content-Length"] = length
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            data = await _begun(request.content, self._body_seconds)
        async with self._request(request.method, cluster, path, sent, data) as answer:
            if answer.status < 200:
                raise ApiError(502, "BadGateway", f"the {side} API server switches to another protocol without being asked")
            if side is Side.HOST and answer.status >= 300:
                return _refused(answer.status, answer.headers, await _beginning(answer.content), hide)
            if side is Side.HOST:
                passed = _of_content(answer.headers)
            else:
                passed = CIMultiDict((name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP)
            size, begun = answer.content_length, b""
            if request.method != "HEAD" and not endless and (size is None or size <= _SMALL):
                begun = await answer.content.readany() if size is None else await answer.read()
                if size is not None or answer.content.at_eof():
                    passed.pop("Content-Length", None)
                    return web.Response(status=answer.status, reason=answer.reason, headers=passed, body=begun)
            return await self._stream(request, answer, passed, begun, endless=endless)

    async def _stream(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, headers: CIMultiDict[str], begun: bytes, *, endless: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if begun:
            await response.write(begun)
        if endless:
            self._endless.add(answer)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        except aiohttp.ClientError:
            if answer not in self._ended:
                # The answer is not complete. Its end must not look like one.
                if request.transport is not None:
                    request.transport.abort()
                return response
        finally:
            self._endless.discard(answer)
            self._ended.discard(answer)
        await response.write_eof()
        return response


def _of_content(headers: MultiMapping[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() in _ABOUT_CONTENT)


def _refused(status: int, headers: MultiMapping[str], body: bytes, hide: Callable[[str], str]) -> web.Response:
    """The host's refusal, which a redirection is as well, with nothing of it but what may be known."""
    if 300 <= status < 400:
        raise ApiError(502, "BadGateway", "the host API server answers with a redirection")
    passed = _of_content(headers)
    passed.pop("Content-Length", None)
    return web.Response(status=status, headers=passed, body=hide(body.decode(errors="replace")).encode())


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """All of a body that is no longer than refusals are."""
    body = b""
    while len(body) < BODY_BYTES and (chunk := await content.readany()):
        body += chunk
    return body


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the client asks to go on in another protocol. HTTP/2 is none for that: RFC 9113 has TLS clients ask otherwise."""
    headers = request.headers
    return "Upgrade" in headers and "upgrade" in headers.get("Connection", "").lower() and headers["Upgrade"].lower() != "h2c"


async def _begun(content: aiohttp.StreamReader, seconds: float) -> AsyncIterator[bytes]:
    """A body whose first bytes are there: until then nothing is sent, so no API server would ever lose its patience with the client."""
    try:
        async with asyncio.timeout(seconds):
            first = await content.readany()
    except TimeoutError:
        raise ApiError(408, "Timeout", "the body of the request did not come") from None

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for chunk in content.iter_any():
            yield chunk

    return whole()


async def _whole_body(request: web.BaseRequest, seconds: float) -> bytes:
    """The body of a request that asks for an upgrade: they have none, or hardly any."""
    body = b""
    try:
        async with asyncio.timeout(seconds):
            while request.can_read_body and (chunk := await request.content.readany()):
                body += chunk
                if len(body) > _UPGRADE_BODY:
                    raise ApiError(413, "RequestEntityTooLarge", "a request for an upgrade must not have a body of this size")
    except TimeoutError:
        raise ApiError(408, "Timeout", "the body of the request for an upgrade did not come") from None
    return body

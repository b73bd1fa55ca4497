"""Requests to one API server: plain dicts out and in, failures as ApiError, network failures as they are.

What it guarantees:
- Concurrency adapts to the server, per lane (`limits`). Nothing is retried here but a 401, once, with fresh credentials:
  the work queue retries, with backoff and from the newest state. (The transport repeats a GET or DELETE whose kept-alive
  connection turned out to be closed; every DELETE has a uid precondition.)
- Every request ends within `request_timeout`, a watch within its own time limits; a refused connection fails at once.
- Objects come back pruned (`codec.prune`) and always with apiVersion and kind, also from lists and as bare metadata.
- A request that is given up is not sent later: what the system still holds of it is thrown away.
- Watches have connections of their own, so that they cannot use up those of requests.
"""

from __future__ import annotations

import asyncio
import copy
import socket
import struct
from asyncio import constants, sslproto
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from urllib.parse import quote

import aiohttp
from aiohttp.payload import BytesPayload
from yarl import URL

from syncer.errors import api_error
from syncer.kube import codec
from syncer.kube.answers import Answer, WatchResponse, retry_after
from syncer.kube.limits import ConcurrencyLimit
from syncer.kube.types import Key, Lane, Obj, Resource, Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import datetime
    from types import TracebackType

    from aiohttp.abc import AbstractStreamWriter

    from syncer.kube.config import Cluster

Strategy: TypeAlias = Literal["merge", "strategic", "json", "apply"]

_CONTENT_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML
}
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 85.0
"""An API server closes a connection that idled for 90 s; being first avoids sending into the closing."""
IDLE_MARGIN = 10.0
"""A watch is given up when nothing came for this long after the server should have ended it."""
_HEADER_BYTES = 65536

# Each TLS connection has a read buffer of this size; asyncio's 256 KiB would be several MiB for the watches alone, for no speed.
sslproto.SSLProtocol.max_size = 64 * 1024
# A TLS connection that is closed stays open until its peer agrees, 30 s at most by default: what was given up would be sent until then.
constants.SSL_SHUTDOWN_TIMEOUT = 0.2


class Client:
    """One API server. An async context manager; leaving it cuts off all watches and requests at once.

    `observe(side, verb, resource, code, seconds)` is told about every answer; code is an HTTP status, "timeout", "network" or "cancelled".
    """

    def __init__(
        self,
        cluster: Cluster,
        side: Side,
        *,
        request_timeout: float = 30.0,
        observe: Callable[[Side, str, str, str, float], None] = lambda *_: None,
    ) -> None:
        self.cluster = cluster
        self.side = side
        self.limits: Mapping[Lane, ConcurrencyLimit] = MappingProxyType({lane: ConcurrencyLimit() for lane in Lane})
        self._observe = observe
        self._request_timeout = request_timeout
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, sock_connect=min(CONNECT_SECONDS, request_timeout))
        self._requests: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self._open: set[WatchResponse] = set()
        self._left = asyncio.Event()
        self._permit: Callable[[], None] | None = None

    def only_while(self, permit: Callable[[], None]) -> Client:
        """The same client, but for asking `permit` before each write, at the last moment: when that raises, it is not sent.

        It raises the same, or, once the request has begun, a network error.
        """
        twin = copy.copy(self)
        twin._permit = permit  # noqa: SLF001  (of the same class)
        return twin

    async def __aenter__(self) -> Self:
        self._left.clear()
        self._requests, self._watches = _session(), _session()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        requests, watches = self._requests, self._watches
        self._requests = self._watches = None
        self._left.set()
        for response in list(self._open):
            response.cut()
        for session in (watches, requests):
            if session is not None:
                await session.close()

    @property
    def closed(self) -> bool:
        """Whether the client has been left (or not entered yet); every call then fails with a network error."""
        return self._requests is None or self._requests.closed

    async def closes_within(self, seconds: float) -> bool:
        """Wait for so long, or until the client is closed; whether it was."""
        try:
            async with asyncio.timeout(seconds):
                return await self._left.wait()
        except TimeoutError:
            return False

    async def get(
        self, resource: Resource, key: Key, *, subresource: str = "", params: Mapping[str, str] | None = None, metadata_only: bool = False
    ) -> Obj:
        """One object, or a subresource of it."""
        path = _path(resource, key.namespace, key.name, subresource)
        answer = await self._call("get", resource, subresource, "GET", path, params=params, accept=_METADATA if metadata_only else _JSON)
        return _shape(resource, answer.obj(), metadata_only=metadata_only)

    async def list_page(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        continue_: str = "",
        resource_version: str = "",
        metadata_only: bool = False,
    ) -> tuple[list[Obj], str, str]:
        """One page: its objects, the list's resourceVersion, and the token of the next page ("" after the last one)."""
        given = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "limit": str(limit),
            "continue": continue_,
            "resourceVersion": resource_version,
        }
        params = {name: value for name, value in given.items() if value}
        accept = _METADATA_LIST if metadata_only else _JSON
        page = (await self._call("list", resource, "", "GET", _path(resource, namespace), params=params, accept=accept)).obj()
        metadata = page.get("metadata") or {}
        items = [_shape(resource, item, metadata_only=metadata_only) for item in page.get("items") or ()]
        return items, metadata.get("resourceVersion") or "", metadata.get("continue") or ""

    async def list_all(
        self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = "", metadata_only: bool = False
    ) -> list[Obj]:
        """All objects, asked for page by page."""
        found: list[Obj] = []
        more = ""
        while True:
            page, _, more = await self.list_page(
                resource,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                continue_=more,
                metadata_only=metadata_only,
            )
            found += page
            if not more:
                return found

    @asynccontextmanager
    async def watch(
        self, resource: Resource, namespace: str = "", *, params: Mapping[str, str], metadata_only: bool = False
    ) -> AsyncIterator[WatchResponse]:
        """An open watch; `params` have to hold timeoutSeconds, after which (plus a margin) silence is a TimeoutError."""
        idle = float(params["timeoutSeconds"]) + IDLE_MARGIN
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout.sock_connect, sock_read=idle)
        url = self._url(_path(resource, namespace), {"watch": "1", **params})
        accept = _METADATA if metadata_only else _JSON
        for last in (False, True):
            began = _now()
            async with asyncio.timeout(self._request_timeout):  # the server answers at once, long before the first event
                response = await self._begin(self._watches, "GET", url, {"Accept": accept}, None, timeout)
            watch = WatchResponse(response)
            try:
                self._observe(self.side, "watch", str(resource), str(response.status), _now() - began)
                if response.status == 401 and not last:
                    await self.cluster.refresh(since=began, force=True)
                    continue
                if response.status != 200:
                    async with asyncio.timeout(self._request_timeout):
                        answer = await Answer.read(response)
                    raise api_error(answer.status, answer.status_body(), retry_after(answer))
                self._open.add(watch)
                yield watch
            finally:
                self._open.discard(watch)
                watch.cut()
            return

    async def create(
        self,
        resource: Resource,
        namespace: str,
        obj: Obj,
        *,
        name: str = "",
        subresource: str = "",
        lane: Lane = Lane.SPEC,
        dry_run: bool = False,
        warnings: list[str] | None = None,
    ) -> Obj:
        """The object as it was created. With `name` and `subresource`: a POST to these (pods/x/binding, serviceaccounts/x/token).

        What the API server warns of is added to `warnings`.
        """
        path = _path(resource, namespace, name, subresource)
        params = {"dryRun": "All"} if dry_run else None
        created = await self._call("create", resource, subresource, "POST", path, params=params, body=obj, lane=lane)
        _note_warnings(created, warnings)
        return codec.prune(created.obj())

    async def patch(
        self,
        resource: Resource,
        key: Key,
        body: Any,
        *,
        strategy: Strategy = "merge",
        subresource: str = "",
        lane: Lane = Lane.SPEC,
        field_manager: str = "syncer",
        force: bool = False,
        warnings: list[str] | None = None,
    ) -> Obj:
        """The object as it is after the patch. `body` is a list for "json", else the part of an object. `warnings` as for `create`.

        With `force` an "apply" takes fields over from other managers instead of failing with Conflict.
        """
        path = _path(resource, key.namespace, key.name, subresource)
        patched = await self._call(
            "patch",
            resource,
            subresource,
            "PATCH",
            path,
            params={"fieldManager": field_manager, **({"force": "true"} if force else {})},
            body=body,
            content_type=_CONTENT_TYPES[strategy],
            lane=lane,
        )
        _note_warnings(patched, warnings)
        return codec.prune(patched.obj())

    async def delete(
        self, resource: Resource, key: Key, *, uid: str, grace: int | None = None, propagation: str | None = None, lane: Lane = Lane.SPEC
    ) -> Obj:
        """The object as it is being deleted, or a Status when it is gone. Conflict when it is not the one with this uid."""
        if not uid:
            raise ValueError(f"refusing to delete {resource} {key} without its uid: it could be another object by now")
        options: Obj = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if propagation is not None:
            options["propagationPolicy"] = propagation
        deleted = await self._call("delete", resource, "", "DELETE", _path(resource, key.namespace, key.name), body=options, lane=lane)
        return codec.prune(deleted.obj())

    async def request_json(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None, lane: Lane = Lane.SPEC
    ) -> Any:
        """Any other JSON request, answered verbatim; `path` must be encoded already."""
        answer = await self._call(method.lower(), None, "", method, path, params=params, body=body, lane=lane)
        return answer.json()

    async def server_time(self) -> datetime | None:
        """What the server's clock says, to the second; None if it does not tell."""
        answer = await self._call("get", None, "", "GET", "/version")
        try:
            return parsedate_to_datetime(answer.headers.get("Date", "")).astimezone(UTC)
        except (ValueError, OverflowError):
            return None

    async def request_text(self, path: str, *, params: Mapping[str, str] | None = None) -> str:
        """A GET of what is no object, such as a container's log; `path` must be encoded already."""
        answer = await self._call("get", None, "", "GET", path, params=params, accept="*/*")
        return answer.body.decode(errors="replace")

    async def _call(
        self,
        verb: str,
        resource: Resource | None,
        subresource: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        accept: str = _JSON,
        content_type: str = _JSON,
        lane: Lane = Lane.SPEC,
    ) -> Answer:
        """A successful answer; on a 401 once more with fresh credentials."""
        headers = {"Accept": accept}
        data = None
        if body is not None:
            data = codec.dumps(body)
            headers["Content-Type"] = content_type
        what = f"{resource}/{subresource}" if subresource else str(resource or "-")
        url = self._url(path, params)
        began = _now()
        answer = await self._exchange(lane, verb, what, method, url, headers, data)
        if answer.status == 401:
            await self.cluster.refresh(since=began, force=True)
            answer = await self._exchange(lane, verb, what, method, url, headers, data)
        if 200 <= answer.status < 300:
            return answer
        raise api_error(answer.status, answer.status_body(), retry_after(answer))

    async def _exchange(
        self, lane: Lane, verb: str, what: str, method: str, url: URL, headers: dict[str, str], data: bytes | None
    ) -> Answer:
        async with self.limits[lane].slot(f"{verb} {what}") as slot:
            began = _now()
            code = "network"
            try:
                response = await self._begin(self._requests, method, url, headers, data, self._timeout)
                answer = await Answer.read(response)
                code = str(answer.status)
            except TimeoutError:
                code = "timeout"
                raise
            except asyncio.CancelledError:
                code = "cancelled"
                raise
            finally:
                self._observe(self.side, verb, what, code, _now() - began)
            if answer.status in (429, 503):
                slot.throttled(retry_after(answer))
            return answer

    async def _begin(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        url: URL,
        headers: dict[str, str],
        data: bytes | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (these are the library's, not a deadline for this coroutine)
    ) -> aiohttp.ClientResponse:
        """The answer's head; its body has still to be read, or the response closed."""
        cluster = self.cluster
        headers = headers | await cluster.headers()
        if session is None or session.closed:
            raise aiohttp.ClientConnectionError(f"the client of the {self.side} API server is closed")
        body: bytes | _Body | None = data
        if data is not None and self._permit is not None:
            self._permit()
            body = _Body(data, self._permit)
        return await session.request(
            method,
            url,
            data=body,
            headers=headers,
            timeout=timeout,
            ssl=cluster.ssl or True,
            server_hostname=cluster.server_name,
            proxy=cluster.proxy,
            allow_redirects=False,
        )

    def _url(self, path: str, params: Mapping[str, str] | None) -> URL:
        query = "?" + "&".join([f"{name}={_encode(value)}" for name, value in params.items()]) if params else ""
        return URL(f"{self.cluster.server}{path}{query}", encoded=True)


class _Body(BytesPayload):
    """The body of a write. Getting a connection takes time: without permission by then, the server gets a request that it cannot use."""

    def __init__(self, data: bytes, permit: Callable[[], None]) -> None:
        super().__init__(data)
        self._permit = permit

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._permit()
        await super().write_with_length(writer, content_length)


def _session() -> aiohttp.ClientSession:
    # No limit: requests are limited by their lanes, watches by how many informers there are.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS, socket_factory=_socket)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # would cost two thread hops per request; proxies are found out once, in kubeconfig
        auto_decompress=False,
        # identity: an API server compresses what is larger than 128 KiB, which costs both ends more than it saves.
        headers={"User-Agent": "syncer", "Accept-Encoding": "identity"},
        read_bufsize=256 * 1024,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
    )


def keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for `address` (family, kind, protocol first), not connected, that finds out within half a minute that its peer is gone.

    A peer that is there may be silent, and take nothing, for as long as it likes.
    """
    family, kind, protocol = address[:3]
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    _set(made, TCP_KEEPIDLE=15, TCP_KEEPINTVL=5, TCP_KEEPCNT=3)
    return made


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """One that also gives up what the peer does not take for half a minute.

    Closing it throws away what was not sent yet, or a write could arrive long after it was given up, when another one leads.
    """
    made = keepalive_socket(address)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _set(made, TCP_USER_TIMEOUT=30_000)
    return made


def _set(made: socket.socket, **options: int) -> None:
    for option, value in options.items():
        if hasattr(socket, option):  # not everywhere where commands are run
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _path(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    return resource.path(_encode(namespace), _encode(name), subresource)


def _encode(text: str) -> str:
    """For one segment of a path or one value of a query. Names need nothing as a rule, and finding that out has to be quick."""
    return text if text.isascii() and text.replace("-", "").replace(".", "").isalnum() else quote(text, safe="")


def _shape(resource: Resource, obj: Obj, *, metadata_only: bool) -> Obj:
    """With the type that lists leave out and that bare metadata replaces by its own, in the order in which watches tell it.

    The order is for nothing but speed: equal bytes need no closer look when a store is told again of what it has.
    """
    typed = {"kind": resource.kind, "apiVersion": resource.api_version}
    return codec.prune({**typed, "metadata": obj.get("metadata") or {}} if metadata_only else {**typed, **obj})


def _note_warnings(answer: Answer, warnings: list[str] | None) -> None:
    if warnings is not None and "Warning" in answer.headers:
        warnings += [value for name, value in answer.headers.items() if name.lower() == "warning"]


def _now() -> float:
    return asyncio.get_running_loop().time()

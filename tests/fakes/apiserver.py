"""A small real HTTP API server, in-process: `async with FakeApiServer() as api: ...` and then talk to `api.url`.

It answers as kube-apiserver 1.36 does, as far as this project goes: the tests beside it run on both (conftest.py). What
it has not: managedFields, RBAC, admission (plugins, webhooks, quotas), service account volumes, most of validation and
defaulting, the inconsistent continue token of an expired one, protobuf, HTTP/2, controllers (but for emptying namespaces),
kubelets (a pod that is deleted gracefully stays until somebody deletes it with grace 0; `kubelet.Kubelet` does). Nothing
else writes to it, so a bookmark may repeat the revision that a watch began with; a real one leaves such bookmarks out.

Virtual time (`@pytest.mark.looptime`): server, client and sockets share one loop. looptime polls the sockets each round
and moves its clock only after 42 rounds without anything to do; bytes written to a loopback socket are readable at once,
so a request takes no virtual time, and all delays here are timers of the loop. Traps:
- Without any timer pending the loop waits for I/O in real time, for ever if none comes (pytest-timeout ends that).
- Work in threads (looking up a host name) makes the clock follow real time, so `url` holds an address, not a name.
- Fixtures are set up and torn down in real time, see tests/conftest.py.
- aiohttp's client has a total timeout of 300 s by default, which virtual time reaches at once, and repeats a GET or DELETE
  by itself when a kept-alive connection breaks: `drop=True` strikes such a request twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self

import orjson
import trustme
from aiohttp import web

from syncer.kube import types
from syncer.kube.types import NAMESPACES, Key, Obj, Resource, key_of
from tests.fakes.faults import Fault, Faults
from tests.fakes.handlers import Features, Handlers, accepts_partial, as_partial, decode
from tests.fakes.patches import merge
from tests.fakes.registry import Registry
from tests.fakes.requests import Logged, Request, parse
from tests.fakes.statuses import Failure
from tests.fakes.storage import Storage

SERVED = tuple(value for value in vars(types).values() if isinstance(value, Resource))
"""Types that every fake server knows: those of syncer.kube.types."""


class FakeApiServer(Faults):
    """One API server. Starts with the namespaces default, kube-system and kube-public.

    `now` gives seconds since the epoch for its timestamps. `tls` gives it a certificate of its own CA: `ssl` is then a
    client context that trusts it. With `tokens` set, requests need one of them as bearer token.
    `capacity` limits how many requests are worked on at once; the others get 429 with Retry-After 1. Watches do not count.
    Counters: `requests` (answered, in order of their answers), `in_flight` and `peak` (without watches).
    """

    def __init__(
        self,
        *,
        resources: Iterable[Resource] = (),
        now: Callable[[], float] = time.time,
        service_cidr: str = "10.96.0.0/16",
        first_revision: int = 0,
        tls: bool = False,
        tokens: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.registry = Registry(Storage(first_revision), (*SERVED, *resources), now, service_cidr)
        self.features = Features()
        self.tokens = set(tokens)
        self.requests: list[Logged] = []
        self.capacity: int | None = None
        self.in_flight = 0
        self.peak = 0
        self.port = 0
        self.ca = trustme.CA() if tls else None
        self.ssl: ssl.SSLContext | None = None
        self._server_ssl: ssl.SSLContext | None = None
        if self.ca:
            self._server_ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.ca.issue_cert("127.0.0.1", "localhost").configure_cert(self._server_ssl)
            self.ssl = ssl.create_default_context(cadata=self.ca.cert_pem.bytes().decode())
        self._handlers = Handlers(self.registry, self.features)
        self._reserved: socket.socket | None = None
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._make_namespaces()

    # Lifecycle

    @property
    def url(self) -> str:
        """Without a slash at the end; stays the same over stop and start."""
        return f"{'https' if self.ca else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
        if self._reserved:
            self._reserved.close()

    async def start(self) -> None:
        """Listen, on the same port as before."""
        if self._reserved is None:  # bound but not listening: nobody else gets the port while we are stopped
            self._reserved = _bind(0)
            self.port = self._reserved.getsockname()[1]
        self._http = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._listener = await asyncio.get_running_loop().create_server(self._http, sock=_bind(self.port), ssl=self._server_ssl)

    async def stop(self) -> None:
        """As a crash: all connections break, new ones are refused; data stay."""
        if self._listener is None or self._http is None:
            return
        self._listener.close()
        for connection in self._http.connections:
            if connection.transport:
                connection.transport.abort()
        await self._http.shutdown(0.1)
        self._listener = self._http = None

    def wipe(self) -> None:
        """Another, empty cluster at the same address: low revisions, new uids; open watches break."""
        self.registry.storage = Storage()
        self._make_namespaces()
        self.drop_watches()

    def _make_namespaces(self) -> None:
        for name in ("default", "kube-system", "kube-public"):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    # Direct access

    @property
    def revision(self) -> int:
        """The newest resourceVersion."""
        return self.registry.storage.revision

    def create(self, obj: Obj) -> Obj:
        """As a POST would: checked and completed; raises statuses.Failure. Returns a copy of what is stored."""
        return copy.deepcopy(self.registry.create(self.registry.resource_of(obj), key_of(obj).namespace, obj))

    def put(self, obj: Obj) -> Obj:
        """Store as given, whatever it is, over what was there; missing uid, creationTimestamp and namespace are made."""
        obj = copy.deepcopy(obj)
        resource, key = self.registry.resource_of(obj), key_of(obj)
        if resource.namespaced and not self.registry.storage.get(NAMESPACES, Key("", key.namespace)):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": key.namespace}})
        had = self.registry.storage.get(resource, key)
        for field in ("uid", "creationTimestamp"):
            made = had["metadata"][field] if had else {"uid": self.registry.new_uid, "creationTimestamp": self.registry.timestamp}[field]()
            obj["metadata"].setdefault(field, made)
        return copy.deepcopy(self.registry.storage.write(resource, obj))

    def change(self, resource: Resource, key: Key, patch: Obj) -> Obj:
        """Merge-patch what is stored, status and all, without checks: what a controller or kubelet of that cluster does."""
        return self.put(merge(self.registry.get(resource, key), patch))

    def get(self, resource: Resource, key: Key) -> Obj | None:
        """A copy, or None."""
        return copy.deepcopy(self.registry.storage.get(resource, key))

    def objects(self, resource: Resource, namespace: str = "") -> list[Obj]:
        """Copies, sorted by namespace and name."""
        return copy.deepcopy(self.registry.storage.objects(resource, namespace))

    def remove(self, resource: Resource, key: Key) -> None:
        """Gone at once, in spite of finalizers and grace."""
        self.registry.remove(resource, key)

    def collect_garbage(self) -> list[Key]:
        """Delete objects all of whose owners are gone, as the garbage collector does; their keys."""
        return self.registry.collect_garbage()

    def compact(self, *, as_status: bool = False) -> None:
        """Forget the history: a watch from an older revision gets 410, in an ERROR event or as HTTP status."""
        self.registry.storage.compact()
        self.features.gone_as_status = as_status

    def register(self, resource: Resource) -> None:
        """Serve one more type."""
        self.registry.resources[resource.api_version, resource.plural] = resource

    # HTTP

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        code = 0
        try:
            response = await self._respond(http)
            code = 0 if http.transport is None or http.transport.is_closing() else response.status
        except Failure as failure:
            response = _failed(failure)
            code = failure.code
        finally:
            self.requests.append(Logged(http.method, http.path, code))
        return response

    async def _respond(self, http: web.BaseRequest) -> web.StreamResponse:
        body = decode(await http.content.read(), http.content_type)
        request = parse(http.method, http.path, http.query, http.headers, body, self.registry.resources)
        if request.verb == "watch":
            return await self._answer(http, request)
        if self.capacity is not None and self.in_flight >= self.capacity:
            raise Failure(429, "TooManyRequests", "Too many requests, please try again later.", {"retryAfterSeconds": 1})
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            return await self._answer(http, request)
        finally:
            self.in_flight -= 1

    async def _answer(self, http: web.BaseRequest, request: Request) -> web.StreamResponse:
        fault = self.pick(request)
        await self.unpaused.wait()
        if fault and not fault.after and (struck := await _strike(fault, http)):
            return struck
        self._authenticate(request)
        partial = accepts_partial(request.headers.get("Accept", ""))
        if request.verb == "watch":
            return await self._stream(http, request, partial)
        code, answer = await self._handlers.answer(request)
        if fault and fault.after and (struck := await _strike(fault, http)):
            return struck
        if isinstance(answer, str):
            return web.Response(text=answer)
        response = _json(code, as_partial(answer) if partial else answer)
        response.headers["Date"] = formatdate(self.registry.now(), usegmt=True)
        for warning in self._handlers.warnings(request):
            response.headers.add("Warning", warning)
        return response

    def _authenticate(self, request: Request) -> None:
        if self.tokens and request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Failure(401, "Unauthorized", "Unauthorized")

    async def _stream(self, http: web.BaseRequest, request: Request, partial: bool) -> web.StreamResponse:
        watch = await self._handlers.open_watch(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        with self.following(watch), contextlib.suppress(ConnectionResetError):  # the client has gone
            await watch.wait_while_held()
            await response.prepare(http)
            async with contextlib.aclosing(watch.events()) as events:
                async for event in events:
                    await response.write(event if isinstance(event, bytes) else line(event, partial))
            if watch.end == "abort" and http.transport:
                http.transport.abort()
        return response


async def _strike(fault: Fault, http: web.BaseRequest) -> web.Response | None:
    if fault.delay:
        await asyncio.sleep(fault.delay)
    if fault.hang:
        await asyncio.get_running_loop().create_future()
    if fault.drop and http.transport:
        http.transport.abort()
        return web.Response()
    return _failed(fault.failure(), fault.retry_after) if fault.status else None


def line(event: Obj, partial: bool) -> bytes:
    """A watch event as it is sent."""
    return orjson.dumps({**event, "object": as_partial(event["object"])} if partial else event) + b"\n"


def _failed(failure: Failure, retry_after: float | None = None) -> web.Response:
    response = _json(failure.code, failure.status())
    if retry_after is None:
        retry_after = (failure.details or {}).get("retryAfterSeconds")
    if retry_after is not None:
        response.headers["Retry-After"] = f"{retry_after:g}"
    return response


def _json(code: int, body: Any) -> web.Response:
    return web.Response(status=code, body=orjson.dumps(body), content_type="application/json")


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trustme
import yaml
from aiohttp import web

from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import Side

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Tiny:
    """A server with one handler; remembers who asked."""

    handler: Handler
    url: str = ""
    requests: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        await request.read()
        return await self.handler(request)


Serve: TypeAlias = "Callable[..., Awaitable[Tiny]]"
Connect: TypeAlias = "Callable[..., Awaitable[Client]]"


@asynccontextmanager
async def tiny_server(handler: Handler, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Tiny]:
    tiny = Tiny(handler)
    application = web.Application(client_max_size=2**26)
    application.router.add_route("*", "/{path:.*}", tiny.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.01, max_field_size=2**16)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
        await site.start()
        port = runner.addresses[0][1]
        tiny.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield tiny
    finally:
        await runner.cleanup()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Tiny]]]:
    """Starts tiny servers that end with the test."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler, **options: Any) -> Tiny:
            return await stack.enter_async_context(tiny_server(handler, **options))

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Opens clients that are closed with the test."""
    async with AsyncExitStack() as stack:

        async def open_client(server: str | Cluster, **options: Any) -> Client:
            cluster = Cluster(server) if isinstance(server, str) else server
            return await stack.enter_async_context(Client(cluster, Side.HOST, **options))

        yield open_client


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@dataclass
class Files:
    """A kubeconfig in the making."""

    path: Path
    cluster: dict[str, Any] = field(default_factory=lambda: {"server": "https://127.0.0.1:1"})
    user: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=lambda: {"cluster": "there", "user": "me"})

    def document(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "now",
            "clusters": [{"name": "there", "cluster": self.cluster}],
            "contexts": [{"name": "now", "context": self.context}],
            "users": [{"name": "me", "user": self.user}],
        }

    def write(self) -> Path:
        self.path.write_text(yaml.safe_dump(self.document()))
        return self.path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "kubeconfig")

"""A front door on loopback for tests: certificates, an API server that records what reaches it, and clients of both."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, Self

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from syncer.kube.config import Cluster
from syncer.proxy.connections import USUAL
from syncer.proxy.relay import Relay
from syncer.proxy.server import ProxyServer, VirtualServers
from syncer.values import Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from multidict import CIMultiDictProxy

    from syncer.proxy.connections import Patience
    from syncer.proxy.server import Route


class Served(Protocol):
    """An API server of a test."""

    @property
    def cluster(self) -> Cluster: ...


class Authority:
    """A certificate authority in memory."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = self._sign(self._name, self._key.public_key(), (x509.BasicConstraints(ca=True, path_length=None),))

    def issue(self, user: str, groups: Sequence[str] = (), *, server: bool = False) -> bytes:
        """Certificate and key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        sans = [x509.SubjectAlternativeName([x509.DNSName("localhost")])] if server else []
        subject = x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        certificate = self._sign(subject, key.public_key(), (x509.ExtendedKeyUsage([usage]), *sans))
        return certificate + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extensions: Sequence[x509.ExtensionType]) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            self._name, subject, key, x509.random_serial_number(), now - timedelta(minutes=1), now + timedelta(hours=1)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


SERVER_CA, CLIENT_CA, OTHER_CA = Authority("server"), Authority("client"), Authority("of another virtual cluster")


def context_of(purpose: ssl.Purpose, trusted: Authority, certificate: bytes | None = None) -> ssl.SSLContext:
    """A TLS context that trusts `trusted` and shows `certificate`."""
    context = ssl.create_default_context(purpose, cadata=trusted.pem.decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def server_context() -> ssl.SSLContext:
    """What the front door serves with in tests."""
    context = context_of(ssl.Purpose.CLIENT_AUTH, CLIENT_CA, SERVER_CA.issue("kube-apiserver", server=True))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass
class Upstream:
    """An API server that remembers what reached it and answers with `respond`; a tunnel it echoes."""

    respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    seen: list[tuple[str, str, CIMultiDictProxy[str]]] = field(default_factory=list)
    port: int = 0
    open: int = 0

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(
            web.Server(self._serve, handler_cancellation=True, max_line_size=65536, max_field_size=65536), shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def cluster(self) -> Cluster:
        return Cluster(f"http://127.0.0.1:{self.port}")

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, request.headers))
        self.open += 1
        try:
            return await self.respond(request)
        finally:
            self.open -= 1


class Seen:
    """What the front door reports."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []
        self.lasting: dict[tuple[str, str], int] = {}

    def proxy_request(self, verb: str, resource: str, code: int, seconds: float | None) -> None:
        assert seconds is None or seconds >= 0
        self.requests.append((verb, resource, code))

    def proxy_lasting(self, verb: str, resource: str, change: int) -> None:
        self.lasting[verb, resource] = self.lasting.get((verb, resource), 0) + change


@dataclass
class Front:
    """A front door that serves. `vouched` and `bare` tell which way requests went."""

    server: ProxyServer
    relay: Relay
    seen: Seen

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.connections.port}"

    @asynccontextmanager
    async def client(self, certificate: bytes | None = None, **options: object) -> AsyncIterator[aiohttp.ClientSession]:
        context = await asyncio.to_thread(context_of, ssl.Purpose.SERVER_AUTH, SERVER_CA, certificate)
        async with aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(ssl=context), **options) as session:  # type: ignore[arg-type]  # as given
            yield session

    async def connect(self, certificate: bytes | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare TLS connection."""
        context = await asyncio.to_thread(context_of, ssl.Purpose.SERVER_AUTH, SERVER_CA, certificate)
        return await asyncio.open_connection("localhost", self.server.connections.port, ssl=context)


@asynccontextmanager
async def front(
    vouched: Served,
    bare: Served,
    routes: Sequence[Route] = (),
    *,
    limit: int = 100,
    patience: Patience = USUAL,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Front]:
    """A front door before an API server that is reached in two ways."""
    context = await asyncio.to_thread(server_context)
    seen = Seen()
    async with Relay(body_seconds=patience.first) as relay:
        server = ProxyServer(
            Address("127.0.0.1", 0),
            VirtualServers(vouched.cluster, bare.cluster),
            relay,
            routes,
            context=lambda: context,
            observer=seen,
            limit=limit,
            patience=patience,
            wall=wall,
        )
        async with server:
            yield Front(server, relay, seen)

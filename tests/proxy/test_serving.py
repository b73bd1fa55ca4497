"""The serving certificate as clients of a real listener see it."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import PrivateFormat

from syncer.errors import ConfigError, SyncerError
from syncer.proxy import authority
from syncer.proxy.certificates import LIFE, Served, Unusable, issue_served
from syncer.proxy.connections import Connections
from syncer.proxy.serving import ServingCertificate
from syncer.values import Address
from tests.patience import until
from tests.proxy.pki import Files, Pki

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from structlog.typing import EventDict

SERVER, CLIENT, OTHER = Pki.make("server CA"), Pki.make("client CA"), Pki.make("other CA")
NAMES = frozenset({"kubernetes", "localhost", "127.0.0.1", "*.nodes.vcluster.com"})
EVERY = 0.02


class World:
    """The files, names and times that a ServingCertificate lives with."""

    def __init__(self, directory: Path) -> None:
        self.files = Files(directory)
        self.files.write_server(SERVER)
        self.files.write_client(CLIENT)
        self.names = NAMES
        self.life = LIFE
        self.ahead = 0.0
        self.failure: Exception | None = None
        self.issued = 0
        self.attempts = 0
        self.looked = 0
        self.serving = self.make(self.issue)

    def make(self, issue: Any = issue_served) -> ServingCertificate:
        files = self.files
        return ServingCertificate(
            ca_cert=files.ca_cert,
            ca_key=files.ca_key,
            client_ca=files.client_ca,
            names=self.tell_names,
            wall=self.wall,
            life=self.life,
            issue=issue,
            every=EVERY,
        )

    async def tell_names(self) -> frozenset[str]:
        self.looked += 1
        return self.names

    def wall(self) -> float:
        return datetime.now(UTC).timestamp() + self.ahead

    async def issue(self, ca: str, ca_key: str, names: frozenset[str], *, life: float) -> Served:
        """As `issue_served` does it, in this process and at this world's time."""
        self.attempts += 1
        if self.failure is not None:
            raise self.failure
        request = {"ca": ca, "ca_key": ca_key, "names": sorted(names), "life": life}
        try:
            made = authority.issue_front(request, datetime.fromtimestamp(self.wall(), UTC))
        except authority.Unusable as error:
            raise Unusable(error.field, str(error)) from None
        self.issued += 1
        return Served(made["certificate"].encode(), made["key"].encode(), made["issued"], made["expires"], made["last"])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def who(request: web.BaseRequest) -> web.Response:
    """Tells the common name of the caller's certificate, and the port at the other end of the connection."""
    shown = request.get_extra_info("peercert") or {}
    name = next((value for part in shown.get("subject", ()) for _, value in part), "nobody")
    return web.Response(text=name, headers={"X-Port": str(request.get_extra_info("peername")[1])})


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[int]:
    """A listener with that certificate, which is looked after."""
    await world.serving.begin()
    server = web.Server(who)
    async with Connections(server, Address("127.0.0.1", 0), lambda: world.serving.context, limit=20) as connections:
        running = asyncio.create_task(world.serving.run())
        yield connections.port
        assert not running.done()
        running.cancel()
        await server.shutdown(0.1)


def client_context(trusted: Pki = SERVER, shown: str = "", protocols: tuple[str, ...] = ()) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=trusted.pem)
    if protocols:
        context.set_alpn_protocols(protocols)
    if shown:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(shown)
            file.flush()
            context.load_cert_chain(file.name)
    return context


async def served(port: int, *, trusted: Pki = SERVER, name: str = "localhost") -> x509.Certificate:
    """What a new connection is served with, after the client has verified it."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(trusted), server_hostname=name)
    found: Any = writer.get_extra_info("ssl_object")
    writer.close()
    return x509.load_der_x509_certificate(found.getpeercert(binary_form=True))


def names_of(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *(str(address) for address in names.get_values_for_type(x509.IPAddress))}


async def ask(port: int, shown: str = "") -> str:
    """Whom a new connection with that certificate is taken for."""
    async with aiohttp.ClientSession() as client, client.get(f"https://localhost:{port}/", ssl=client_context(shown=shown)) as answer:
        return await answer.text()


class Renewals:
    """Counts the contexts that a world has had."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._had = world.serving.context

    async def next(self) -> None:
        await until(lambda: self._world.serving.context is not self._had)
        self._had = self._world.serving.context


class TestFirst:
    async def test_is_for_all_names(self, world: World) -> None:
        async with listening(world) as port:
            for name in ("localhost", "kubernetes", "127.0.0.1", "node-1.nodes.vcluster.com"):
                found = await served(port, name=name)
                assert names_of(found) == NAMES
            with pytest.raises(ssl.SSLCertVerificationError):
                await served(port, name="elsewhere.example.com")
        assert world.issued == 1, "each connection has the same one"

    async def test_is_issued_by_a_process_of_its_own(self, world: World) -> None:
        world.serving = world.make()
        async with listening(world) as port:
            assert names_of(await served(port)) == NAMES

    @pytest.mark.parametrize(("offered", "chosen"), [(("h2", "http/1.1"), "http/1.1"), (("h2",), None), ((), None)])
    async def test_offers_http_1_only(self, world: World, offered: tuple[str, ...], chosen: str | None) -> None:
        async with listening(world) as port:
            context = client_context(protocols=offered)
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            found: Any = writer.get_extra_info("ssl_object")
            assert found.selected_alpn_protocol() == chosen
            writer.close()

    async def test_knows_clients_by_their_certificates(self, world: World) -> None:
        async with listening(world) as port:
            assert await ask(port) == "nobody"
            assert await ask(port, CLIENT.client("jane")) == "jane"
            for stranger in (OTHER.client("jane"), SERVER.client("jane")):
                with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                    await ask(port, stranger)

    async def test_knows_clients_of_an_authority_whose_own_is_not_there(self, world: World) -> None:
        between = Pki.make("between", above=OTHER)
        world.files.write_client(CLIENT, between)
        async with listening(world) as port:
            assert await ask(port, between.client("joe")) == "joe"
            assert await ask(port, CLIENT.client("jane")) == "jane"
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await ask(port, OTHER.client("joe"))

    async def test_hands_out_no_tickets(self, world: World) -> None:
        async with listening(world) as port:
            context = client_context(shown=CLIENT.client("jane"))
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            found: Any = writer.get_extra_info("ssl_object")
            assert found.version() == "TLSv1.3"
            assert not found.session.has_ticket
            writer.close()


class TestMistakes:
    """`begin` tells them by the flag and the file."""

    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            pytest.param("server-ca.crt", None, r"--server-ca-cert: \S+server-ca.crt cannot be read \(No such file", id="no-ca"),
            pytest.param("server-ca.key", None, r"--server-ca-key: \S+server-ca.key cannot be read \(No such file", id="no-key"),
            pytest.param("client-ca.crt", None, r"--client-ca-cert: \S+client-ca.crt cannot be read \(No such file", id="no-client-ca"),
            pytest.param("server-ca.crt", "", r"--server-ca-cert: \S+ holds no certificate in PEM form", id="empty-ca"),
            pytest.param("server-ca.crt", SERVER.pem[:300], r"--server-ca-cert: \S+ holds no certificate in PEM form", id="cut-ca"),
            pytest.param("server-ca.key", "", r"--server-ca-key: \S+ holds no private key in PEM form", id="empty-key"),
            pytest.param("server-ca.key", SERVER.key_pem()[:100], r"--server-ca-key: \S+ holds no private key in PEM form", id="cut-key"),
            pytest.param("server-ca.key", CLIENT.key_pem(), r"--server-ca-key: \S+ is not the key of that certificate", id="other-key"),
            pytest.param(
                "server-ca.key",
                SERVER.key_pem(PrivateFormat.PKCS8, b"secret"),
                r"--server-ca-key: \S+ is protected by a passphrase",
                id="passphrase",
            ),
            pytest.param("server-ca.crt", CLIENT.client("jane"), r"--server-ca-cert: \S+ is no certificate of an authority", id="leaf"),
            pytest.param("server-ca.crt", Pki.make(key=SERVER.key, days=-1).pem, r"--server-ca-cert: \S+ has expired at 20", id="expired"),
            pytest.param("client-ca.crt", "", r"--client-ca-cert: \S+ holds no certificate in PEM form", id="empty-client-ca"),
            pytest.param("client-ca.crt", "\0x", r"--client-ca-cert: \S+ holds no certificate in PEM form", id="garbled-client-ca"),
        ],
    )
    async def test_in_files(self, world: World, file: str, content: str | None, words: str) -> None:
        path = world.files.directory / file
        before = path.read_text()
        path.unlink() if content is None else path.write_text(content)
        serving = world.make()
        with pytest.raises(ConfigError, match=rf"\A{words}.*; .*\Z"):
            await serving.begin()
        path.write_text(before)
        await serving.begin()
        assert serving.context.verify_mode is ssl.CERT_OPTIONAL

    async def test_comments_around_are_none(self, world: World) -> None:
        for path in (world.files.ca_cert, world.files.ca_key, world.files.client_ca):
            path.write_text(f"# Müller's own\n{path.read_text()}# end\n", encoding="utf-8")
        async with listening(world) as port:
            assert await ask(port, CLIENT.client("jane")) == "jane"


class TestRenewal:
    async def test_when_names_change(self, world: World) -> None:
        async with listening(world) as port:
            renewals = Renewals(world)
            world.names = NAMES | {"10.96.0.7"}
            await renewals.next()
            assert names_of(await served(port)) == world.names
            world.names = NAMES
            await renewals.next()
            assert names_of(await served(port)) == NAMES
        assert world.issued == 3

    async def test_drops_no_connection(self, world: World) -> None:
        connector = aiohttp.TCPConnector(ssl=client_context(shown=CLIENT.client("jane")), limit=1)
        async with listening(world) as port, aiohttp.ClientSession(connector=connector) as client:
            renewals = Renewals(world)
            ports = set()
            for authority_of_clients, name in ((CLIENT, "one"), (OTHER, "two")):
                async with client.get(f"https://localhost:{port}/") as answer:
                    ports.add(answer.headers["X-Port"])
                    assert await answer.text() == "jane"
                world.files.write_client(authority_of_clients)
                world.names = NAMES | {name}
                await renewals.next()
            async with client.get(f"https://localhost:{port}/") as answer:
                assert {answer.headers["X-Port"]} == ports

    async def test_of_clients_authorities(self, world: World) -> None:
        async with listening(world) as port:
            renewals = Renewals(world)
            first = await served(port)
            world.files.write_client(OTHER)
            await renewals.next()
            assert await ask(port, OTHER.client("joe")) == "joe"
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await ask(port, CLIENT.client("jane"))
            assert await served(port) == first, "which has nothing to do with it"
        assert world.issued == 1

    async def test_by_another_authority(self, world: World) -> None:
        async with listening(world) as port:
            renewals = Renewals(world)
            world.files.write_server(OTHER)
            await renewals.next()
            await served(port, trusted=OTHER)
            with pytest.raises(ssl.SSLCertVerificationError):
                await served(port)

    @pytest.mark.parametrize("life", [600.0, LIFE])
    async def test_after_four_fifths_of_a_life(self, world: World, life: float) -> None:
        world.life, world.ahead = life, -0.85 * life
        world.serving = world.make(world.issue)
        async with listening(world) as port:
            first = await served(port)
            assert (first.not_valid_after_utc - datetime.now(UTC)).total_seconds() == pytest.approx(0.15 * life, abs=30)
            renewals = Renewals(world)
            world.ahead = -0.1 * life
            looked = asyncio.get_running_loop().time()
            await until(lambda: asyncio.get_running_loop().time() > looked + 5 * EVERY)
            assert world.issued == 1
            world.ahead = -0.04 * life
            await renewals.next()
            assert (await served(port)).not_valid_after_utc > first.not_valid_after_utc
        assert world.issued == 2

    async def test_is_no_use_when_the_authority_ends(self, tmp_path: Path, logs: list[EventDict]) -> None:
        world = World(tmp_path)
        world.files.write_server(Pki.make("server CA", key=SERVER.key, days=100))
        await world.serving.begin()
        world.ahead = 99 * 86400
        running = asyncio.create_task(world.serving.run())
        looked = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > looked + 5 * EVERY)
        running.cancel()
        assert world.issued == 1
        assert [line["event"] for line in logs] == ["proxy.certificate", "proxy.authority_near_its_end"]

    @pytest.mark.parametrize("failure", [SyncerError("no"), OSError(12, "no memory")])
    async def test_that_fails_is_told_once_and_tried_again(self, world: World, failure: Exception, logs: list[EventDict]) -> None:
        async with listening(world) as port:
            renewals = Renewals(world)
            first = await served(port)
            world.failure, world.names = failure, NAMES | {"later"}
            await until(lambda: world.attempts >= 2)
            looked, attempts = world.looked, world.attempts
            await until(lambda: world.attempts >= attempts + 2)
            assert world.looked - looked >= 5, "not at each look"
            assert await served(port) == first
            world.failure = None
            await renewals.next()
            assert names_of(await served(port)) == world.names
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["proxy.certificate_not_renewed"]

    async def test_waits_for_files_that_are_being_replaced(self, world: World, logs: list[EventDict]) -> None:
        async with listening(world) as port:
            renewals = Renewals(world)
            world.files.ca_cert.write_text(OTHER.pem)
            await until(lambda: world.attempts >= 2)
            await served(port)
            world.files.ca_key.write_text(OTHER.key_pem())
            await renewals.next()
            await served(port, trusted=OTHER)


async def test_keys_are_not_in_the_text_of_the_object() -> None:
    made = await issue_served(SERVER.pem, SERVER.key_pem(), NAMES)
    assert b"PRIVATE KEY" in made.key
    assert "PRIVATE KEY" not in repr(made)

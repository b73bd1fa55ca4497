from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import os
import ssl
import stat
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from syncer.errors import ConfigError
from syncer.kube import config
from syncer.kube.config import CHECK_SECONDS, Cluster, load_cluster, open_cluster
from syncer.kube.kubeconfig import read_kubeconfig, read_service_account
from syncer.kube.plugins import Credential, run_plugin
from syncer.kube.types import PODS, Key

if TYPE_CHECKING:
    from syncer.kube.client import Client
    from tests.kube.conftest import Connect, Files, Serve


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def pem(blobs: list[trustme.Blob]) -> bytes:
    return b"".join(blob.bytes() for blob in blobs)


def certificate_of(authority: trustme.CA, name: str) -> dict[str, bytes]:
    made = authority.issue_cert("127.0.0.1", common_name=name)
    return {"certificate": pem(made.cert_chain_pems), "key": made.private_key_pem.bytes()}


def write_certificate(directory: Path, authority: trustme.CA, name: str) -> None:
    made = certificate_of(authority, name)
    (directory / "cert.pem").write_bytes(made["certificate"])
    (directory / "key.pem").write_bytes(made["key"])


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """For a server that asks for client certificates, without insisting."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "api.test").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def who_am_i(request: web.Request) -> web.Response:
    """Tells the client's common name, its token and its connection."""
    assert request.transport is not None
    peer = request.transport.get_extra_info("peercert") or {}
    names = [value for rdn in peer.get("subject", ()) for key, value in rdn if key == "commonName"]
    port = request.transport.get_extra_info("peername")[1]
    return web.json_response({"names": names, "authorization": request.headers.get("Authorization"), "port": port})


async def ask(client: Client) -> Any:
    return await client.get(PODS, Key("a", "b"))


class TestTls:
    async def test_client_certificate_from_data(
        self, files: Files, authority: trustme.CA, server_tls: ssl.SSLContext, serve: Serve, connect: Connect
    ) -> None:
        made = certificate_of(authority, "admin")
        files.cluster |= {"server": (await serve(who_am_i, tls=server_tls)).url}
        files.cluster |= {"certificate-authority-data": b64(authority.cert_pem.bytes())}
        files.user |= {"client-certificate-data": b64(made["certificate"]), "client-key-data": b64(made["key"])}
        answer = await ask(await connect(await load_cluster(str(files.write()))))
        assert (answer["names"], answer["authorization"]) == (["admin"], None)

    async def test_an_unknown_authority_is_refused(self, files: Files, server_tls: ssl.SSLContext, serve: Serve, connect: Connect) -> None:
        files.cluster |= {"server": (await serve(who_am_i, tls=server_tls)).url}
        files.cluster |= {"certificate-authority-data": b64(trustme.CA().cert_pem.bytes())}
        client = await connect(await load_cluster(str(files.write())))
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(client)

    @pytest.mark.parametrize("change", [{"insecure-skip-tls-verify": True}, {"tls-server-name": "api.test"}])
    async def test_ways_around_the_name(
        self, files: Files, authority: trustme.CA, serve: Serve, connect: Connect, change: dict[str, Any]
    ) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("api.test").configure_cert(context)
        files.cluster |= {"server": (await serve(who_am_i, tls=context)).url}
        files.cluster |= change
        if "tls-server-name" in change:
            files.cluster |= {"certificate-authority-data": b64(authority.cert_pem.bytes())}
        assert await ask(await connect(await load_cluster(str(files.write()))))

    async def test_strict_checks_that_old_authorities_fail_are_off(self, files: Files, authority: trustme.CA) -> None:
        files.cluster |= {"certificate-authority-data": b64(authority.cert_pem.bytes())}
        cluster = await load_cluster(str(files.write()))
        assert cluster.ssl is not None
        assert not cluster.ssl.verify_flags & ssl.VERIFY_X509_STRICT
        assert cluster.ssl.verify_mode == ssl.CERT_REQUIRED
        assert cluster.ssl.check_hostname

    async def test_keys_stay_out_of_the_reach_of_others(self, files: Files, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file that the ssl module reads is private, and gone afterwards."""
        seen: list[tuple[str, int]] = []

        class Watching(ssl.SSLContext):
            def load_cert_chain(self, certfile: Any, *arguments: Any, **options: Any) -> None:
                seen.append((certfile, stat.S_IMODE(os.stat(certfile).st_mode)))
                super().load_cert_chain(certfile, *arguments, **options)

        made = certificate_of(authority, "admin")
        files.user |= {"client-certificate-data": b64(made["certificate"]), "client-key-data": b64(made["key"])}
        monkeypatch.setattr(ssl, "create_default_context", lambda **_: Watching(ssl.PROTOCOL_TLS_CLIENT))
        await load_cluster(str(files.write()))
        ((name, mode),) = seen
        assert mode == 0o600
        assert not await asyncio.to_thread(Path(name).exists)

    async def test_plain_http_has_no_context(self, files: Files) -> None:
        files.cluster |= {"server": "http://127.0.0.1:1"}
        assert (await load_cluster(str(files.write()))).ssl is None

    @pytest.mark.parametrize(
        ("user", "cluster", "message"),
        [
            pytest.param({}, {"certificate-authority-data": b64(b"x")}, "certificate-authority-data: holds no PEM certificate", id="CA"),
            pytest.param(
                {"client-certificate-data": b64(b"x"), "client-key-data": b64(b"y")},
                {},
                "users[me].user.client-certificate-data: is not usable with its key",
                id="client certificate",
            ),
        ],
    )
    async def test_garbage_is_named(self, files: Files, user: dict[str, Any], cluster: dict[str, Any], message: str) -> None:
        files.user |= user
        files.cluster |= cluster
        with pytest.raises(ConfigError) as caught:
            await load_cluster(str(files.write()))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    async def test_keys_of_others_and_encrypted_keys(self, files: Files, authority: trustme.CA) -> None:
        from cryptography.hazmat.primitives import serialization

        made, other = certificate_of(authority, "admin"), certificate_of(authority, "other")
        key = serialization.load_pem_private_key(made["key"], None)
        encrypted = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
        for wrong in (other["key"], encrypted):
            files.user |= {"client-certificate-data": b64(made["certificate"]), "client-key-data": b64(wrong)}
            with pytest.raises(ConfigError, match="belong together and not be encrypted"):
                await load_cluster(str(files.write()))


class TestRotation:
    """Time is the loop's: nothing here waits."""

    @pytest.mark.looptime
    async def test_a_token_file_is_read_again(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("one\n")
        files.user |= {"tokenFile": "token"}
        cluster = await load_cluster(str(files.write()))
        assert await cluster.headers() == {"Authorization": "Bearer one"}
        (tmp_path / "token").write_text("two")
        assert await cluster.headers() == {"Authorization": "Bearer one"}
        await asyncio.sleep(CHECK_SECONDS)
        assert await cluster.headers() == {"Authorization": "Bearer two"}

    @pytest.mark.looptime
    async def test_the_token_of_a_pod_is_read_again(self, tmp_path: Path, authority: trustme.CA) -> None:
        """Kubelet swaps a symbolic link, so neither size nor name of the file need to change."""
        for number in (1, 2):
            directory = tmp_path / f"..data-{number}"
            directory.mkdir()
            (directory / "token").write_text(f"token-{number}")
            (directory / "ca.crt").write_bytes(authority.cert_pem.bytes())
            (directory / "namespace").write_text("team")
        (tmp_path / "now").symlink_to("..data-1")
        environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        cluster = await open_cluster(lambda: read_service_account(tmp_path / "now", environ))
        assert (cluster.server, cluster.namespace, cluster.token) == ("https://10.0.0.1:443", "team", "token-1")
        before = cluster.ssl
        (tmp_path / "next").symlink_to("..data-2")
        (tmp_path / "next").rename(tmp_path / "now")
        await asyncio.sleep(CHECK_SECONDS)
        assert await cluster.headers() == {"Authorization": "Bearer token-2"}
        assert cluster.ssl is before, "the CA is the same, so connections may stay"

    async def test_a_401_reads_at_once(self, files: Files, tmp_path: Path, serve: Serve, connect: Connect) -> None:
        async def guard(request: web.Request) -> web.Response:
            good = request.headers["Authorization"] == "Bearer two"
            return web.json_response({}, status=200 if good else 401)

        tiny = await serve(guard)
        (tmp_path / "token").write_text("one")
        files.cluster |= {"server": tiny.url}
        files.user |= {"tokenFile": "token"}
        client = await connect(await load_cluster(str(files.write())))
        (tmp_path / "token").write_text("two")
        assert (await ask(client))["kind"] == "Pod"
        assert [request.headers["Authorization"] for request in tiny.requests] == ["Bearer one", "Bearer two"]

    @pytest.mark.looptime
    async def test_a_new_client_certificate_means_new_connections(
        self, files: Files, tmp_path: Path, authority: trustme.CA, server_tls: ssl.SSLContext, serve: Serve, connect: Connect
    ) -> None:
        write_certificate(tmp_path, authority, "old")
        (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
        files.cluster |= {"server": (await serve(who_am_i, tls=server_tls)).url, "certificate-authority": "ca.pem"}
        files.user |= {"client-certificate": "cert.pem", "client-key": "key.pem"}
        client = await connect(await load_cluster(str(files.write())))
        first, second = await ask(client), await ask(client)
        assert first["names"] == ["old"]
        assert first["port"] == second["port"]
        write_certificate(tmp_path, authority, "new")
        await asyncio.sleep(CHECK_SECONDS)
        third = await ask(client)
        assert third["names"] == ["new"]
        assert third["port"] != first["port"]

    @pytest.mark.looptime
    async def test_half_a_rotation_changes_nothing(self, files: Files, tmp_path: Path, authority: trustme.CA) -> None:
        """Certificate and key are two files: in between they do not fit."""
        write_certificate(tmp_path, authority, "old")
        files.user |= {"client-certificate": "cert.pem", "client-key": "key.pem"}
        cluster = await load_cluster(str(files.write()))
        before = cluster.ssl
        made = certificate_of(authority, "new")
        (tmp_path / "cert.pem").write_bytes(made["certificate"])
        with capture_logs() as logs:
            for _ in range(3):
                await asyncio.sleep(CHECK_SECONDS)
                await cluster.headers()
        assert cluster.ssl is before
        assert [entry["event"] for entry in logs] == ["credentials.refresh_failed"], "told once, not at every try"
        (tmp_path / "key.pem").write_bytes(made["key"])
        await asyncio.sleep(CHECK_SECONDS)
        await cluster.headers()
        assert cluster.ssl is not before

    @pytest.mark.looptime
    @pytest.mark.parametrize("damage", ["remove", "garble", "move"])
    async def test_damage_after_the_start_is_survived(self, files: Files, damage: str) -> None:
        files.user |= {"token": "one"}
        cluster = await load_cluster(str(files.write()))
        if damage == "remove":
            files.path.unlink()
        elif damage == "garble":
            files.path.write_text("{")
        else:
            files.cluster |= {"server": "https://elsewhere"}
            files.user |= {"token": "for elsewhere"}
            files.write()
        with capture_logs() as logs:
            await asyncio.sleep(CHECK_SECONDS)
            assert await cluster.headers() == {"Authorization": "Bearer one"}
        assert cluster.server == "https://127.0.0.1:1"
        assert "for elsewhere" not in str(logs)
        files.cluster |= {"server": "https://127.0.0.1:1"}
        files.user |= {"token": "two"}
        files.write()
        await asyncio.sleep(CHECK_SECONDS)
        assert await cluster.headers() == {"Authorization": "Bearer two"}

    @pytest.mark.looptime
    async def test_the_context_is_the_one_of_the_start(self, files: Files) -> None:
        files.user |= {"token": "one"}
        cluster = await load_cluster(str(files.write()))
        document = files.document()
        document["current-context"] = "other"
        document["users"][0]["user"]["token"] = "two"
        files.path.write_text(json.dumps(document))
        await asyncio.sleep(CHECK_SECONDS)
        assert await cluster.headers() == {"Authorization": "Bearer two"}

    @pytest.mark.looptime
    async def test_many_401s_at_once_read_once(self, files: Files) -> None:
        files.user |= {"token": "one"}
        path = files.write()
        reads: list[float] = []

        def read() -> Any:
            reads.append(0)
            return read_kubeconfig(path)

        cluster = await open_cluster(read)
        await asyncio.sleep(1)
        since = asyncio.get_running_loop().time()
        await asyncio.gather(*(cluster.refresh(since=since, force=True) for _ in range(20)))
        assert len(reads) == 2

    async def test_a_cluster_made_by_hand_never_refreshes(self) -> None:
        cluster = Cluster("http://127.0.0.1:1", token="t")
        await cluster.refresh(force=True)
        assert await cluster.headers() == {"Authorization": "Bearer t"}


class Plugin:
    """Hands out numbered tokens that live for `life` seconds of the loop."""

    def __init__(self, life: float) -> None:
        self.life = life
        self.asked = 0
        self.broken = False

    async def ask(self) -> Credential:
        self.asked += 1
        if self.broken:
            raise ConfigError("the plugin is broken")
        now = asyncio.get_running_loop().time()
        return Credential(token=f"token-{self.asked}", renew=now + 0.8 * self.life, expires=now + self.life)


@pytest.fixture
def plugin_files(files: Files) -> Files:
    files.user |= {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin"}}
    return files


class TestPluginTimetable:
    @pytest.mark.looptime
    async def test_renewed_at_80_percent_of_its_life(self, plugin_files: Files) -> None:
        plugin, path = Plugin(life=1000), plugin_files.write()
        cluster = await open_cluster(lambda: read_kubeconfig(path), plugin.ask)
        await asyncio.sleep(799)
        assert await cluster.headers() == {"Authorization": "Bearer token-1"}
        await asyncio.sleep(CHECK_SECONDS)
        assert await cluster.headers() == {"Authorization": "Bearer token-2"}
        assert plugin.asked == 2

    @pytest.mark.looptime
    async def test_a_broken_plugin_is_asked_again_in_moderation(self, plugin_files: Files) -> None:
        plugin, path = Plugin(life=100), plugin_files.write()
        cluster = await open_cluster(lambda: read_kubeconfig(path), plugin.ask)
        plugin.broken = True
        for _ in range(300):
            await asyncio.sleep(1)
            assert await cluster.headers() == {"Authorization": "Bearer token-1"}
        assert plugin.asked <= 1 + 300 / CHECK_SECONDS
        plugin.broken = False
        await asyncio.sleep(CHECK_SECONDS)
        assert (await cluster.headers())["Authorization"] == f"Bearer token-{plugin.asked}"

    @pytest.mark.looptime
    async def test_a_401_asks_at_once_but_not_in_a_row(self, plugin_files: Files) -> None:
        plugin, path = Plugin(life=1000), plugin_files.write()
        cluster = await open_cluster(lambda: read_kubeconfig(path), plugin.ask)
        await asyncio.sleep(CHECK_SECONDS)
        await cluster.refresh(force=True)
        assert cluster.token == "token-2"
        await asyncio.sleep(1)
        await cluster.refresh(force=True)
        assert cluster.token == "token-2"

    async def test_a_broken_plugin_at_the_start_is_an_error(self, plugin_files: Files) -> None:
        plugin, path = Plugin(life=100), plugin_files.write()
        plugin.broken = True
        with pytest.raises(ConfigError, match="the plugin is broken"):
            await open_cluster(lambda: read_kubeconfig(path), plugin.ask)

    async def test_its_certificate_is_used(self, plugin_files: Files, authority: trustme.CA) -> None:
        path, made = plugin_files.write(), certificate_of(authority, "from the plugin")

        async def certificate() -> Credential:
            return Credential(certificate=made["certificate"], key=made["key"])

        assert (await open_cluster(lambda: read_kubeconfig(path), certificate)).ssl is not None

        async def garbage() -> Credential:
            return Credential(certificate=b"x", key=b"y")

        with pytest.raises(ConfigError, match="client certificate of the exec plugin: is not usable"):
            await open_cluster(lambda: read_kubeconfig(path), garbage)


class TestPluginProcess:
    """The real process with real plugins (about a second each, most of it imports)."""

    def write_plugin(self, path: Path, script: str) -> None:
        path.write_text(f"#!{sys.executable}\n{textwrap.dedent(script)}")
        path.chmod(0o755)

    async def test_token_with_an_end(self, plugin_files: Files, tmp_path: Path) -> None:
        self.write_plugin(
            tmp_path / "plugin",
            f"""
            import json, os
            assert json.loads(os.environ["KUBERNETES_EXEC_INFO"])["kind"] == "ExecCredential"
            end = {time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))!r}
            status = {{"token": "from-the-plugin", "expirationTimestamp": end}}
            print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}}))
            """,
        )
        cluster = await load_cluster(str(plugin_files.write()))
        assert await cluster.headers() == {"Authorization": "Bearer from-the-plugin"}
        assert "kubernetes_asyncio" not in sys.modules
        now = asyncio.get_running_loop().time()
        assert 0.75 * 3600 < cluster._credential.renew - now <= 0.8 * 3600
        assert 0.95 * 3600 < cluster._credential.expires - now <= 3600

    async def test_a_failing_plugin_is_quoted(self, plugin_files: Files, tmp_path: Path) -> None:
        self.write_plugin(tmp_path / "plugin", "import sys; sys.exit('you are not\\nlogged in')")
        with pytest.raises(ConfigError) as caught:
            await load_cluster(str(plugin_files.write()))
        text = str(caught.value)
        assert text.startswith(f"{plugin_files.path}: user of context now: exec.command: ./plugin: ")
        assert "you are not logged in; run it by hand to see why" in text
        assert "\n" not in text

    async def test_a_missing_plugin_is_named(self, plugin_files: Files) -> None:
        plugin_files.user["exec"]["installHint"] = "get it from example.com"
        with pytest.raises(ConfigError, match=r"exec\.command: there is no program \./plugin; get it from example\.com"):
            await load_cluster(str(plugin_files.write()))

    async def test_a_slow_plugin_is_given_up(self, plugin_files: Files) -> None:
        with pytest.raises(ConfigError, match=r"gave no answer within 0\.001 s"):
            await run_plugin(plugin_files.write(), "now", patience=0.001)

    async def test_giving_up_takes_the_plugin_along(self, plugin_files: Files, tmp_path: Path) -> None:
        self.write_plugin(
            tmp_path / "plugin",
            f"""
            import socket
            connection = socket.socket(socket.AF_UNIX)
            connection.connect({str(tmp_path / "socket")!r})
            connection.recv(1)
            """,
        )
        came, left = asyncio.Event(), asyncio.Event()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.set()
            await reader.read()
            left.set()
            writer.close()

        async with await asyncio.start_unix_server(greet, tmp_path / "socket"):
            running = asyncio.create_task(run_plugin(plugin_files.write(), "now"))
            await came.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await left.wait()

    def oidc_token(self, end: float) -> str:
        """With characters that only the URL form of base64 can tell."""
        payload = base64.urlsafe_b64encode(json.dumps({"exp": end, "who": "a?b>c~"}).encode()).decode().rstrip("=")
        return f"e30.{payload}.sig"

    async def test_oidc_token_that_is_still_good(self, files: Files) -> None:
        token = self.oidc_token(time.time() + 3600)
        files.user["auth-provider"] = {"name": "oidc", "config": {"id-token": token}}
        cluster = await load_cluster(str(files.write()))
        assert await cluster.headers() == {"Authorization": f"Bearer {token}"}
        assert cluster._credential.renew < float("inf")

    async def test_oidc_token_that_cannot_be_renewed(self, files: Files) -> None:
        files.user["auth-provider"] = {"name": "oidc", "config": {"id-token": self.oidc_token(1)}}
        with pytest.raises(ConfigError, match=r"auth-provider: oidc: .*refresh-token; log in again with kubectl"):
            await load_cluster(str(files.write()))

    @pytest.mark.parametrize("trusted", [True, False])
    async def test_oidc_token_is_renewed_by_a_provider_that_proves_itself(
        self, files: Files, authority: trustme.CA, server_tls: ssl.SSLContext, serve: Serve, trusted: bool
    ) -> None:
        """The old refresh token may be void from then on, so the new one is kept."""

        async def provider(request: web.Request) -> web.Response:
            if request.path.endswith("/.well-known/openid-configuration"):
                return web.json_response({"token_endpoint": f"{tiny.url}/token"})
            return web.json_response({"id_token": self.oidc_token(time.time() + 3600), "refresh_token": "second"})

        tiny = await serve(provider, tls=server_tls)
        config = {"client-id": "id", "client-secret": "s", "idp-issuer-url": tiny.url, "refresh-token": "first"}
        config |= {"id-token": self.oidc_token(1)}
        if trusted:
            config |= {"idp-certificate-authority-data": b64(authority.cert_pem.bytes())}
        files.user["auth-provider"] = {"name": "oidc", "config": config}
        if not trusted:
            with pytest.raises(ConfigError, match=r"auth-provider: .*certificate verify failed"):
                await load_cluster(str(files.write()))
            assert tiny.requests == []
            return
        cluster = await load_cluster(str(files.write()))
        assert cluster.token.count(".") == 2
        assert "refresh-token: second" in files.path.read_text()

    async def test_certificate_without_an_end(self, plugin_files: Files, tmp_path: Path, authority: trustme.CA) -> None:
        """Its own end counts then."""
        made = authority.issue_cert("me", not_after=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
        status = {"clientCertificateData": pem(made.cert_chain_pems).decode(), "clientKeyData": made.private_key_pem.bytes().decode()}
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self.write_plugin(tmp_path / "plugin", f"print({json.dumps(answer)!r})")
        cluster = await load_cluster(str(plugin_files.write()))
        assert await cluster.headers() == {}
        assert 0.7 * 3600 < cluster._credential.renew - asyncio.get_running_loop().time() <= 0.8 * 3600


def test_the_daemon_does_not_import_the_large_library() -> None:
    assert config is sys.modules["syncer.kube.config"]
    assert "kubernetes_asyncio" not in sys.modules

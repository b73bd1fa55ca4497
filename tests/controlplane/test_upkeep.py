"""The certificates of a control plane: as replicas that start, restart and wait for one another find them."""

from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from syncer.controlplane.identities import API_SERVER, AUTHORITIES
from syncer.controlplane.upkeep import Upkeep
from syncer.errors import SyncerError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.kubeconfig import read_kubeconfig
from syncer.kube.types import SECRETS, Key, Obj, Side
from syncer.settings import Settings
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import on
from tests.patience import until

if TYPE_CHECKING:
    from structlog.typing import EventDict

YEAR = 365 * 86400.0
CERTS, ETCD = Key("host-ns", "vc-blue-certs"), Key("host-ns", "vc-blue-etcd")
FIRST: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "name": "vc-blue-owner", "uid": "1"}
SECOND: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "name": "vc-blue-keys", "uid": "2"}
LEAVES = {
    "server/tls/serving-kube-apiserver": ("server-ca", "kube-apiserver", []),
    "server/tls/client-kube-apiserver": ("client-ca", "system:apiserver", ["system:masters"]),
    "server/tls/client-controller": ("client-ca", "system:kube-controller-manager", []),
    "server/tls/client-auth-proxy": ("request-header-ca", "system:auth-proxy", []),
    "server/tls/etcd/client": ("etcd-ca", "kube-apiserver", []),
    "k3s-config/client-admin": ("client-ca", "system:admin", ["system:masters"]),
}


class World:
    """Replicas by name, each with a directory of its own, and one host. `ahead` is by how much the clock of deciding is.

    `owners` are the ownerReferences to be had now.
    """

    def __init__(self, host: Client, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.ahead = 0.0
        self.owners = [FIRST]

    def replica(self, name: str, life: float = YEAR) -> Upkeep:
        return Upkeep(
            self.host,
            directory=self.directory / name,
            name="blue",
            namespace="host-ns",
            cluster_domain="example.org",
            life=life,
            owners=self.find_owners,
            wall=lambda: time.time() + self.ahead,
        )

    async def find_owners(self) -> list[Obj]:
        return self.owners

    def files(self, name: str) -> dict[str, str]:
        root = self.directory / name
        return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
async def world(host_api: FakeApiServer, tmp_path: Path) -> AsyncIterator[World]:
    host_api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "host-ns"}})
    async with Client(Cluster(host_api.url), Side.HOST) as host:
        yield World(host, tmp_path)


def data(api: FakeApiServer, key: Key) -> dict[str, str]:
    secret = api.get(SECRETS, key)
    assert secret is not None
    return {name: b64decode(text).decode() for name, text in secret["data"].items()}


def owners(api: FakeApiServer, key: Key) -> list[Obj]:
    secret = api.get(SECRETS, key)
    assert secret is not None
    found: list[Obj] = secret["metadata"].get("ownerReferences", [])
    return found


def certificate(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


def names(found: x509.Certificate, kind: Any) -> list[str]:
    return [str(one.value) for one in found.subject.get_attributes_for_oid(kind)]


def served(found: x509.Certificate) -> list[str]:
    try:
        values = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(one.value) for one in values]


def belong_together(files: dict[str, str], name: str) -> bool:
    key = load_pem_private_key(files[f"{name}.key"].encode(), None)
    return certificate(files[f"{name}.crt"]).public_key() == key.public_key()


async def test_each_part_has_its_certificate(world: World, host_api: FakeApiServer) -> None:
    await world.replica("0").refresh()
    files, shared = world.files("0"), data(host_api, CERTS)
    for name, (authority, common_name, organizations) in LEAVES.items():
        found = certificate(files[f"{name}.crt"])
        found.verify_directly_issued_by(certificate(shared[f"{authority}.crt"]))
        assert names(found, NameOID.COMMON_NAME) == [common_name]
        assert names(found, NameOID.ORGANIZATION_NAME) == organizations
        assert belong_together(files, name)
    assert "BEGIN EC PRIVATE KEY" in files["server/tls/service.key"], "kube-apiserver reads no public key out of another form"
    serving = certificate(files["server/tls/serving-kube-apiserver.crt"])
    assert {"127.0.0.1", "localhost", "kubernetes.default.svc.example.org"} <= set(served(serving))
    assert [*serving.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value] == [ExtendedKeyUsageOID.SERVER_AUTH]


async def test_of_etcd_too(world: World, host_api: FakeApiServer) -> None:
    await world.replica("0").refresh()
    files = data(host_api, ETCD)
    assert sorted(files) == ["ca.crt", "client.crt", "client.key", "server.crt", "server.key"]
    assert files["ca.crt"] == data(host_api, CERTS)["etcd-ca.crt"]
    server, client = certificate(files["server.crt"]), certificate(files["client.crt"])
    assert {"localhost", "blue-etcd", "*.blue-etcd-headless"} <= set(served(server))
    assert served(client) == []
    for name in ("server", "client"):
        certificate(files[f"{name}.crt"]).verify_directly_issued_by(certificate(files["ca.crt"]))
        assert belong_together(files, name)


async def test_the_syncers_defaults_find_their_files(world: World) -> None:
    await world.replica("0").refresh()
    fields = Settings.model_fields
    for field in ("server_ca_cert", "server_ca_key", "client_ca_cert", "request_header_ca_cert", "proxy_client_cert", "proxy_client_key"):
        assert (world.directory / "0" / fields[field].default.relative_to("/data")).exists(), field


@pytest.mark.parametrize(
    ("name", "client"), [("k3s-config/kube-config.yaml", "client-admin"), ("server/cred/controller.kubeconfig", "../tls/client-controller")]
)
async def test_kubeconfigs_lead_to_the_api_server(world: World, name: str, client: str) -> None:
    await world.replica("0").refresh()
    path = world.directory / "0" / name
    access = await asyncio.to_thread(read_kubeconfig, path)
    assert access.server == API_SERVER
    assert access.certificate_authority.value.decode() == world.files("0")["server/tls/server-ca.crt"]
    assert access.certificate.value == (path.parent / f"{client}.crt").read_bytes()
    context = ssl.create_default_context(cadata=access.certificate_authority.value.decode())
    context.load_cert_chain(path.parent / f"{client}.crt", path.parent / f"{client}.key")


async def test_coredns_sees_only_what_it_needs(world: World) -> None:
    await world.replica("0").refresh()
    found = {path for path in world.files("0") if path.startswith("k3s-config/")}
    assert {path.rpartition("/")[2] for path in found} == {"kube-config.yaml", "client-admin.crt", "client-admin.key", "server-ca.crt"}


async def test_nobody_else_may_read_them(world: World) -> None:
    await world.replica("0").refresh()
    assert not [path for path in (world.directory / "0").rglob("*") if path.stat().st_mode & 0o007]


async def test_replicas_agree(world: World, host_api: FakeApiServer) -> None:
    await asyncio.gather(*(world.replica(name).refresh() for name in "012"))
    shared = data(host_api, CERTS)
    files = [world.files(name) for name in "012"]
    for name in ("server/tls/server-ca.crt", "server/tls/client-ca.key", "server/tls/service.key", "server/tls/etcd/server-ca.crt"):
        assert len({one[name] for one in files}) == 1
    assert files[0]["server/tls/service.key"] == shared["service.key"]
    assert len({one["k3s-config/client-admin.key"] for one in files}) == 3
    assert owners(host_api, CERTS) == owners(host_api, ETCD) == [FIRST]
    assert belong_together(data(host_api, ETCD), "server")


async def test_a_second_time_changes_nothing(world: World, host_api: FakeApiServer) -> None:
    await world.replica("0").refresh()
    files, revision = world.files("0"), host_api.revision
    marks = {path: path.stat().st_mtime_ns for path in (world.directory / "0").rglob("*")}
    await world.replica("0").refresh()
    assert (world.files("0"), host_api.revision) == (files, revision)
    assert {path: path.stat().st_mtime_ns for path in (world.directory / "0").rglob("*")} == marks


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "k3s-config/client-admin.crt").unlink(),
        lambda root: (root / "k3s-config/client-admin.key").unlink(),
        lambda root: (root / "k3s-config/client-admin.crt").write_text("-----BEGIN CERTIFICATE-----\nMII"),
        lambda root: (root / "k3s-config/client-admin.key").write_text(""),
        lambda root: (root / "k3s-config/client-admin.crt").write_bytes(b"\xff\xfe"),
        lambda root: (root / "k3s-config/.client-admin.crt.new").write_text("half of it"),
        lambda root: (root / "k3s-config/client-admin.crt").write_text((root / "server/tls/client-controller.crt").read_text()),
        lambda root: (root / "server/tls/server-ca.key").write_text("other"),
        lambda root: (root / "k3s-config/kube-config.yaml").unlink(),
    ],
    ids=lambda damage: damage.__code__.co_consts[1] if len(damage.__code__.co_consts) > 1 else "",
)
async def test_what_was_cut_off_or_damaged_is_mended(world: World, damage: Any) -> None:
    await world.replica("0").refresh()
    before = world.files("0")
    damage(world.directory / "0")
    await world.replica("0").refresh()
    after = world.files("0")
    assert belong_together(after, "k3s-config/client-admin")
    assert names(certificate(after["k3s-config/client-admin.crt"]), NameOID.COMMON_NAME) == ["system:admin"]
    same = {name for name in before if "client-admin" not in name}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


class TestRenewal:
    async def test_under_the_same_key_when_it_is_time(self, world: World, host_api: FakeApiServer) -> None:
        upkeep = world.replica("0", life=600)
        await upkeep.refresh()
        before, etcd = world.files("0"), data(host_api, ETCD)
        world.ahead = 470
        await upkeep.refresh()
        assert (world.files("0"), data(host_api, ETCD)) == (before, etcd)
        world.ahead = 490
        await upkeep.refresh()
        after = world.files("0")
        assert {name for name in before if after[name] != before[name]} == {f"{name}.crt" for name in LEAVES}
        assert all(belong_together(after, name) for name in LEAVES)
        assert {name for name, text in data(host_api, ETCD).items() if text != etcd[name]} == {"server.crt", "client.crt"}

    async def test_by_a_replica_that_has_just_come(self, world: World) -> None:
        await world.replica("0", life=600).refresh()
        before = world.files("0")
        world.ahead = 490
        await world.replica("0", life=600).refresh()
        assert {name for name, text in world.files("0").items() if text != before[name]} == {f"{name}.crt" for name in LEAVES}

    async def test_not_when_it_would_last_no_longer(self, world: World) -> None:
        await world.replica("0", life=20 * YEAR).refresh()
        before = world.files("0")
        world.ahead = 9.9 * YEAR
        await world.replica("0", life=20 * YEAR).refresh()
        assert world.files("0") == before

    async def test_goes_on_by_itself_and_tells_what_is_in_the_way(
        self, world: World, host_api: FakeApiServer, logs: list[EventDict]
    ) -> None:
        upkeep = world.replica("0", life=0.2)
        host_api.fault(on("get", SECRETS), status=403, times=2)
        running = asyncio.create_task(upkeep.run())
        try:
            await until(lambda: "k3s-config/client-admin.crt" in world.files("0") and not upkeep.problem)
        finally:
            running.cancel()
        assert [entry["event"] for entry in logs].count("controlplane.not_renewed") == 1


class TestOwners:
    """Those of Secrets that may be older than them."""

    @pytest.mark.parametrize("before", [[], [FIRST], [SECOND], [FIRST, {**SECOND, "uid": "of one that was made anew"}]])
    async def test_that_have_come_take_the_secrets_on_as_they_are(self, world: World, host_api: FakeApiServer, before: list[Obj]) -> None:
        world.owners = before
        upkeep = world.replica("0")
        await upkeep.refresh()
        was = {key: data(host_api, key) for key in (CERTS, ETCD)}
        world.owners = [FIRST, SECOND]
        await asyncio.gather(upkeep.refresh(), world.replica("1").refresh())
        for key, content in was.items():
            assert owners(host_api, key) == [FIRST, SECOND]
            assert data(host_api, key) == content
        revision = host_api.revision
        await upkeep.refresh()
        assert host_api.revision == revision

    async def test_that_nobody_knows_of_stay(self, world: World, host_api: FakeApiServer) -> None:
        await world.replica("0").refresh()
        world.owners = []
        await world.replica("0").refresh()
        assert owners(host_api, CERTS) == owners(host_api, ETCD) == [FIRST]


class TestTheSharedSecret:
    async def test_that_is_deleted_comes_back_as_it_was(self, world: World, host_api: FakeApiServer) -> None:
        upkeep = world.replica("0")
        await upkeep.refresh()
        before = data(host_api, CERTS)
        host_api.remove(SECRETS, CERTS)
        host_api.remove(SECRETS, ETCD)
        await upkeep.refresh()
        assert data(host_api, CERTS) == before
        assert belong_together(data(host_api, ETCD), "server")

    @pytest.mark.parametrize(
        ("secret", "words"),
        [
            ({"data": {}}, "service.key, server-ca.crt"),
            ({"data": {f"{name}.crt": "YQ==" for name in AUTHORITIES}}, "no PEM text"),
            ({"data": {"service.key": "%%%"}}, "service.key"),
            ({"metadata": {"labels": {}}}, "not the syncer's own"),
        ],
        ids=["empty", "garbled", "no base64", "not ours"],
    )
    async def test_that_cannot_be_used(self, world: World, host_api: FakeApiServer, secret: Obj, words: str) -> None:
        metadata = {"namespace": "host-ns", "name": CERTS.name, "labels": {"vcluster.loft.sh/vcluster-name": "blue"}}
        host_api.create({"apiVersion": "v1", "kind": "Secret", **secret, "metadata": {**metadata, **secret.get("metadata", {})}})
        with pytest.raises(SyncerError, match=words):
            await world.replica("0").refresh()
        assert not world.files("0")

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from syncer.errors import ConfigError, FenceClosed
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.kubeconfig import Access, read_kubeconfig
from syncer.kube.types import SECRETS, Key, Obj, Side
from syncer.proxy.kubeconfigs import KubeconfigSecrets, changes, may_take_over, secret_data, secret_key
from tests.fakes.requests import is_write, on
from tests.patience import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from structlog.typing import EventDict

    from tests.fakes.apiserver import FakeApiServer

NAMESPACE = "host-ns"
SECRET = secret_key(NAMESPACE, "blue")
EXTRA = Key("ops", "blue-kubeconfig")
SERVER = "https://localhost:8443"
OWNER: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "name": "vc-blue-owner", "uid": "1"}
LABELS = {"vcluster.loft.sh/vcluster-name": "blue", "vcluster.loft.sh/vcluster-namespace": NAMESPACE}
EVERY = 0.02


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def kubeconfig(
    path: Path, *, user: Obj | None = None, cluster: Obj | None = None, names: tuple[str, str, str] = ("ctx", "clu", "usr")
) -> Path:
    """A kubeconfig as kubeadm names it; k3s calls everything `default`."""
    context, cluster_name, user_name = names
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "contexts": [{"name": "other", "context": {}}, {"name": context, "context": {"cluster": cluster_name, "user": user_name}}],
        "clusters": [
            {"name": cluster_name, "cluster": cluster or {"server": "https://127.0.0.1:6443", "certificate-authority-data": encoded("CA")}}
        ],
        "users": [{"name": user_name, "user": user or {"client-certificate-data": encoded("CERT"), "client-key-data": encoded("HIDDEN")}}],
    }
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(content))
    return new.replace(path)


def read(path: Path, **given: Any) -> Access:
    return read_kubeconfig(kubeconfig(path / "source", **given))


def config(data: dict[str, bytes]) -> Any:
    return yaml.safe_load(data["config"])


class TestContent:
    def test_is_the_same_but_for_the_server(self, tmp_path: Path) -> None:
        source = read(tmp_path)
        data = secret_data(source, server=SERVER, context="")
        assert [data[name] for name in ("certificate-authority", "client-certificate", "client-key")] == [b"CA", b"CERT", b"HIDDEN"]
        written = tmp_path / "written"
        written.write_bytes(data["config"])
        found = read_kubeconfig(written)
        assert found.server == SERVER
        assert (found.context, found.cluster, found.user) == ("ctx", "clu", "usr")
        assert found.certificate_authority.value == b"CA"
        assert (found.certificate.value, found.key.value, found.token) == (b"CERT", b"HIDDEN", "")
        assert found.files[1:] == (), "nothing is left in files"

    def test_names_by_flag(self, tmp_path: Path) -> None:
        found = config(secret_data(read(tmp_path), server=SERVER, context="my-vcluster"))
        assert found["current-context"] == "my-vcluster"
        assert [found[name][0]["name"] for name in ("clusters", "contexts", "users")] == ["my-vcluster"] * 3
        assert found["contexts"][0]["context"] == {"cluster": "my-vcluster", "user": "my-vcluster"}

    def test_of_files(self, tmp_path: Path) -> None:
        for name in ("ca", "cert", "key"):
            (tmp_path / name).write_text(name)
        source = read(
            tmp_path,
            user={"client-certificate": "cert", "client-key": "key"},
            cluster={"server": "https://127.0.0.1:6443", "certificate-authority": "ca"},
        )
        data = secret_data(source, server=SERVER, context="")
        assert [data[name] for name in ("certificate-authority", "client-certificate", "client-key")] == [b"ca", b"cert", b"key"]
        assert "certificate-authority" not in config(data)["clusters"][0]["cluster"]

    def test_of_a_token(self, tmp_path: Path) -> None:
        data = secret_data(read(tmp_path, user={"token": "t"}), server=SERVER, context="")
        assert config(data)["users"] == [{"name": "usr", "user": {"token": "t"}}]
        assert (data["client-certificate"], data["client-key"]) == (b"", b"")

    def test_of_an_unverified_server(self, tmp_path: Path) -> None:
        source = read(tmp_path, cluster={"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True})
        assert config(secret_data(source, server=SERVER, context=""))["clusters"][0]["cluster"] == {
            "server": SERVER,
            "insecure-skip-tls-verify": True,
        }

    def test_never_of_a_program(self, tmp_path: Path) -> None:
        source = read(tmp_path, user={"exec": {"command": "login"}})
        with pytest.raises(ConfigError, match="credential plugin"):
            secret_data(source, server=SERVER, context="")


def a_secret(data: dict[str, str] | None = None, labels: dict[str, str] | None = None, **metadata: Any) -> Obj:
    content = {"config": "c", "certificate-authority": "CA", "client-certificate": "", "client-key": ""} if data is None else data
    return {
        "metadata": {"uid": "u", "resourceVersion": "7", "labels": labels or {}, **metadata},
        "data": {name: encoded(text) for name, text in content.items()},
    }


DATA = {"config": b"c", "certificate-authority": b"CA", "client-certificate": b"", "client-key": b""}


@pytest.mark.parametrize(
    ("secret", "ours"),
    [
        pytest.param(a_secret(), True, id="vcluster's"),
        pytest.param(a_secret({"config": "old", "certificate-authority": "CA", "token": "t"}), True, id="newer vcluster's"),
        pytest.param(a_secret({"config": "c", "certificate-authority": "other"}), False, id="another virtual cluster's"),
        pytest.param(a_secret({"config": "c"}), False, id="a user's"),
        pytest.param(a_secret({"certificate-authority": "CA"}), False, id="a bundle"),
        pytest.param(a_secret({}), False, id="empty"),
        pytest.param({"metadata": {}}, False, id="without data"),
        pytest.param({"metadata": {}, "data": {"config": "", "certificate-authority": "?"}}, False, id="garbled"),
        pytest.param(a_secret({}, LABELS), True, id="ours"),
        pytest.param(a_secret(None, LABELS | {"vcluster.loft.sh/vcluster-namespace": "other"}), False, id="of our name elsewhere"),
        pytest.param(a_secret(None, {"vcluster.loft.sh/vcluster-name": "red"}), False, id="of another name"),
    ],
)
def test_whose_a_secret_is(secret: Obj, ours: bool) -> None:
    assert may_take_over(secret, DATA, LABELS) is ours


def test_without_an_authority_nothing_is_taken_over() -> None:
    data = DATA | {"certificate-authority": b""}
    assert not may_take_over(a_secret({"config": "c", "certificate-authority": ""}), data, LABELS)


SERVICE: Obj = {"apiVersion": "v1", "kind": "Service", "name": "blue", "uid": "9"}


class TestChanges:
    def test_none(self) -> None:
        secret = a_secret(None, LABELS | {"more": "yes"}, ownerReferences=[SERVICE, OWNER])
        assert changes(secret, DATA, LABELS, OWNER) == {}
        assert changes(secret, DATA, LABELS, None) == {}

    def test_only_what_differs_and_only_of_what_was_seen(self) -> None:
        secret = a_secret(None, LABELS)
        assert changes(secret, DATA | {"client-key": b"k"}, LABELS, None) == {
            "metadata": {"uid": "u", "resourceVersion": "7"},
            "data": {"client-key": encoded("k")},
        }

    def test_a_secret_without_data(self) -> None:
        assert changes({"metadata": {}}, DATA, LABELS, None)["data"] == {"config": encoded("c"), "certificate-authority": encoded("CA")}

    def test_the_owner_joins_others_and_replaces_its_former_self(self) -> None:
        former = OWNER | {"uid": "0"}
        patch = changes(a_secret(None, LABELS, ownerReferences=[former, SERVICE]), DATA, LABELS, OWNER)
        assert patch["metadata"]["ownerReferences"] == [SERVICE, OWNER]


class World:
    """A host, the kubeconfig of a virtual cluster, and whether the fence is open."""

    def __init__(self, api: FakeApiServer, host: Client, source: Path) -> None:
        self.api = api
        self.host = host
        self.source = kubeconfig(source)
        self.closed = False
        self.looked = 0

    def require(self) -> None:
        self.looked += 1
        if self.closed:
            raise FenceClosed("closed")

    def start(self, *, owner: Obj | None = OWNER, extra: Key | None = None) -> asyncio.Task[None]:
        secrets = KubeconfigSecrets(
            self.host,
            kubeconfig=self.source,
            name="blue",
            namespace=NAMESPACE,
            server=SERVER,
            extra=extra,
            owner=owner,
            require=self.require,
            every=EVERY,
        )
        return asyncio.create_task(secrets.run())

    def data(self, key: Key = SECRET) -> dict[str, bytes]:
        found = self.api.get(SECRETS, key)
        return {} if found is None else {name: b64decode(text) for name, text in found["data"].items()}

    def put(self, secret: Obj, key: Key = SECRET) -> None:
        metadata = {**secret["metadata"], "namespace": key.namespace, "name": key.name}
        metadata = {name: value for name, value in metadata.items() if name not in ("uid", "resourceVersion")}
        self.api.put({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", **secret, "metadata": metadata})


@pytest.fixture
async def world(host_api: FakeApiServer, tmp_path: Path) -> AsyncIterator[World]:
    for name in (NAMESPACE, EXTRA.namespace):
        host_api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    async with Client(Cluster(host_api.url), Side.HOST) as host:
        yield World(host_api, host, tmp_path / "admin.kubeconfig")


class TestSecrets:
    async def test_are_written_and_kept(self, world: World) -> None:
        running = world.start(extra=EXTRA)
        await until(lambda: world.data() and world.data(EXTRA))
        first = world.api.get(SECRETS, SECRET)
        assert first is not None
        assert first["type"] == "Opaque"
        assert first["metadata"]["labels"] == LABELS
        assert first["metadata"]["ownerReferences"] == [OWNER]
        extra = world.api.get(SECRETS, EXTRA)
        assert extra is not None
        assert "ownerReferences" not in extra["metadata"], "an owner is of the same namespace"
        assert world.data(EXTRA) == world.data()
        assert yaml.safe_load(world.data()["config"])["clusters"][0]["cluster"]["server"] == SERVER
        world.api.remove(SECRETS, SECRET)
        world.put(a_secret({"config": "spoiled"}, LABELS), EXTRA)
        await until(lambda: world.data() and world.data(EXTRA) == world.data())
        running.cancel()

    async def test_are_left_as_they_are_when_they_are_right(self, world: World) -> None:
        running = world.start()
        await until(world.data)
        first = world.api.get(SECRETS, SECRET)
        looked = world.looked
        await until(lambda: world.looked >= looked + 2)
        running.cancel()
        assert world.api.get(SECRETS, SECRET) == first

    async def test_follow_the_kubeconfig(self, world: World) -> None:
        running = world.start()
        await until(world.data)
        kubeconfig(world.source, user={"token": "rotated"})
        await until(lambda: b"rotated" in world.data()["config"])
        running.cancel()

    async def test_that_vcluster_made_are_taken_over(self, world: World) -> None:
        world.put(a_secret(ownerReferences=[SERVICE]))
        running = world.start()
        await until(lambda: world.data()["client-key"] == b"HIDDEN")
        running.cancel()
        found = world.api.get(SECRETS, SECRET)
        assert found is not None
        assert found["metadata"]["labels"] == LABELS
        assert found["metadata"]["ownerReferences"] == [SERVICE, OWNER]

    async def test_of_others_are_left_alone_and_told(self, world: World, logs: list[EventDict]) -> None:
        world.put(a_secret({"password": "x"}))
        running = world.start(extra=EXTRA)
        await until(lambda: world.data(EXTRA))
        looked = world.looked
        await until(lambda: world.looked >= looked + 4)
        running.cancel()
        assert world.data() == {"password": b"x"}
        told = [line for line in logs if line["event"] == "kubeconfig.not_written"]
        assert [line["key"] for line in told] == [str(SECRET)]
        assert "rename or delete it" in told[0]["error"]

    @pytest.mark.parametrize("verb", ["get", "create"])
    async def test_that_may_not_be_written_are_told_once_and_tried_again(self, world: World, logs: list[EventDict], verb: str) -> None:
        fault = world.api.fault(on(verb, SECRETS, namespace=EXTRA.namespace), status=403, message="not you")
        running = world.start(extra=EXTRA)
        await until(lambda: fault.hits >= 3)
        assert world.data()
        told = [line["error"] for line in logs if line["event"] == "kubeconfig.not_written"]
        assert told == ["not you; grant get, create and patch of Secrets in the namespace ops"]
        fault.lift()
        await until(lambda: world.data(EXTRA))
        running.cancel()

    async def test_wait_for_the_fence(self, world: World, logs: list[EventDict]) -> None:
        world.closed = True
        running = world.start()
        await until(lambda: world.looked >= 3)
        assert world.data() == {}
        world.closed = False
        await until(world.data)
        running.cancel()
        assert [line["event"] for line in logs if line["log_level"] != "debug"] == ["kubeconfig.written"]

    async def test_wait_for_a_kubeconfig_that_can_be_read(self, world: World, logs: list[EventDict]) -> None:
        running = world.start()
        await until(world.data)
        before = world.data()
        world.source.write_text("{")
        await until(lambda: any(line["event"] == "kubeconfig.not_written" for line in logs))
        assert world.data() == before
        kubeconfig(world.source, user={"token": "later"})
        await until(lambda: b"later" in world.data()["config"])
        running.cancel()
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["kubeconfig.not_written"]

    async def test_that_another_replica_writes_at_the_same_time(self, world: World, logs: list[EventDict]) -> None:
        running = [world.start() for _ in range(3)]
        looked = world.looked
        await until(lambda: world.looked >= looked + 9)
        for one in running:
            one.cancel()
        assert world.data()["client-key"] == b"HIDDEN"
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == []

    async def test_are_written_in_few_requests(self, world: World) -> None:
        running = world.start()
        await until(world.data)
        running.cancel()
        assert len([entry for entry in world.api.requests if entry.method != "GET"]) == 1

    async def test_contents_are_never_logged(self, world: World, logs: list[EventDict]) -> None:
        fault = world.api.fault(is_write, status=500, times=2)
        running = world.start()
        await until(world.data)
        running.cancel()
        assert fault.hits == 2
        for secret in ("HIDDEN", encoded("HIDDEN")):
            assert secret not in repr(logs)

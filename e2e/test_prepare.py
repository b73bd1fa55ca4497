"""`syncer prepare` with the rights of the chart's Role, and what real servers make of the certificates that it issues and renews."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from base64 import b64decode
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from e2e.chart import objects
from e2e.kubernetes import binaries
from e2e.lab import process
from e2e.lab.api import Api, wait_until
from e2e.lab.host import HostCluster
from e2e.lab.kubeconfig import write
from e2e.lab.state import HOST_SERVICE_RANGE, Lab
from e2e.lab.teardown import down
from syncer.controlplane.upkeep import Upkeep
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import Side
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from syncer.kube.types import Obj

pytestmark = pytest.mark.apiserver

NAMESPACE = "prepared"
OWNER = "/api/v1/namespaces/prepared/configmaps/vc-blue-owner"
RANGE = "/api/v1/namespaces/prepared/configmaps/vc-blue-service-cidr"


@pytest.fixture(scope="module")
def host(host_cluster: HostCluster) -> HostCluster:
    host_cluster.create_namespace(NAMESPACE)
    metadata = {"name": "vc-blue-owner", "namespace": NAMESPACE}
    host_cluster.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    return host_cluster


def prepare(host: HostCluster, *words: str) -> subprocess.CompletedProcess[str]:
    """With what the Role grants, and nothing else."""
    granted = host.grant(NAMESPACE, "prepare-blue", rules(needed_rights(ALL)), [])
    command = [sys.executable, "-m", "syncer", "prepare", "--name=blue", f"--target-namespace={NAMESPACE}", f"--host-kube-config={granted}"]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=60)


def services(host: HostCluster) -> set[str]:
    return {one["metadata"]["uid"] for one in host.api.get("/api/v1/services")["items"]}


class TestRange:
    def test_is_found_out_and_told(self, host: HostCluster) -> None:
        before = services(host)
        for _ in range(2):
            done = prepare(host, "--service-range")
            assert done.returncode == 0, done.stderr
        told = host.api.get(RANGE)
        assert told["data"] == {"service-cidr": host.service_range}
        assert told["metadata"]["ownerReferences"][0]["uid"] == host.api.get(OWNER)["metadata"]["uid"]
        assert not services(host) - before, "it only asked"

    def test_is_a_riddle_without_the_right(self, host: HostCluster) -> None:
        granted = host.grant(NAMESPACE, "prepare-nothing", [], [])
        done = prepare(host, "--service-range", f"--host-kube-config={granted}")
        assert done.returncode == 2
        assert "serviceCIDR" in done.stderr

    def test_of_both_families(self) -> None:
        lab = Lab(f"test-{os.getpid()}-prepare")
        try:
            both = HostCluster(lab)
            both.up(scheduler=False, service_range=f"{HOST_SERVICE_RANGE},fd96::/112")
            both.create_namespace(NAMESPACE)
            done = prepare(both, "--service-range")
            assert done.returncode == 0, done.stderr
            assert both.api.get(RANGE)["data"] == {"service-cidr": f"{HOST_SERVICE_RANGE},fd96::/112"}
        finally:
            down(lab)


def test_keys_stay_while_one_of_their_owners_is_there(host: HostCluster, tmp_path: Path) -> None:
    """Before the real garbage collector, for a release whose Secrets are older than their second owner."""
    owners = [f"/api/v1/namespaces/{NAMESPACE}/configmaps/vc-kept-{name}" for name in ("owner", "keys")]
    secrets = [f"/api/v1/namespaces/{NAMESPACE}/secrets/vc-kept-{name}" for name in ("certs", "etcd")]

    def make(path: str) -> str:
        metadata = {"name": path.rpartition("/")[2], "namespace": NAMESPACE}
        return str(host.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})["metadata"]["uid"])

    def prepared() -> None:
        done = prepare(host, "--name=kept", f"--control-plane-files={tmp_path}")
        assert done.returncode == 0, done.stderr

    def owned() -> list[list[str]]:
        return [[one["uid"] for one in host.api.get(path)["metadata"]["ownerReferences"]] for path in secrets]

    first = make(owners[0])
    prepared()
    assert owned() == [[first]] * 2
    before = [(secret["metadata"]["uid"], secret["data"]) for secret in map(host.api.get, secrets)]
    second = make(owners[1])
    prepared()
    assert owned() == [[first, second]] * 2
    host.api.delete(owners[0])
    wait_until(lambda: owned() == [[second]] * 2, "the garbage collector has looked at them", 60)
    first = make(owners[0])
    prepared()
    assert owned() == [[first, second]] * 2
    host.api.delete(owners[1])
    wait_until(lambda: owned() == [[first]] * 2, "the garbage collector has looked at them", 60)
    assert [(secret["metadata"]["uid"], secret["data"]) for secret in map(host.api.get, secrets)] == before
    host.api.delete(owners[0])
    wait_until(lambda: not any(map(host.api.find, secrets)), "the garbage collector has taken them", 60)


class Beside:
    """etcd and an API server of the lab as the chart starts them, on the files of an Upkeep."""

    def __init__(self, host: HostCluster, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.etcd = f"https://localhost:{self._port('client')}"
        found = objects({"distro": "k8s"})
        self._args = {
            container["name"]: container["args"]
            for name in ("blue", "blue-etcd")
            for container in found["StatefulSet", name]["spec"]["template"]["spec"]["containers"]
        }

    def _port(self, name: str) -> int:
        return self.host.lab.port(f"prepared/{name}")

    def write_certificates(self) -> None:
        """As the kubelet does it: those of etcd's Secret."""
        (self.directory / "certificates").mkdir(exist_ok=True)
        for name, text in self.host.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/vc-blue-etcd")["data"].items():
            (self.directory / "certificates" / name).write_bytes(b64decode(text))

    def start_etcd(self) -> None:
        peer = f"https://localhost:{self._port('peer')}"
        told = {
            "--name": "blue",
            "--listen-client-urls": f"https://127.0.0.1:{self._port('client')}",
            "--advertise-client-urls": self.etcd,
            "--listen-peer-urls": f"https://127.0.0.1:{self._port('peer')}",
            "--initial-advertise-peer-urls": peer,
            "--initial-cluster": f"blue={peer}",
            "--listen-metrics-urls": f"http://127.0.0.1:{self._port('metrics')}",
        }
        self._spawn("etcd", told)

    def start_apiserver(self) -> None:
        told = {"--etcd-servers": self.etcd, "--secure-port": str(self._port("apiserver"))}
        self._spawn("kube-apiserver", told, "--bind-address=127.0.0.1")
        process.wait_ready(self.directory, "kube-apiserver", self._is_ready)

    def _is_ready(self) -> bool:
        return self.api.ready()

    def stop(self) -> None:
        for name in ("kube-apiserver", "etcd"):
            process.stop(self.directory, name, grace=0)

    @property
    def api(self) -> Api:
        """By the administrator's certificate of the moment."""
        path, mine = self.directory / "kubeconfig", self.directory / "data" / "k3s-config"
        server = f"https://127.0.0.1:{self._port('apiserver')}"
        return Api(write(path, server, mine / "server-ca.crt", mine / "client-admin.crt", mine / "client-admin.key", "beside"))

    def _spawn(self, name: str, told: dict[str, str], *more: str) -> None:
        args = []
        for arg in self._args[name]:
            flag, _, value = arg.partition("=")
            value = told.get(flag, value)
            for place in ("/data", "/certificates"):
                value = value.replace(f"{place}/", f"{self.directory}{place}/") if value.startswith(f"{place}/") else value
            args.append(f"{flag}={value}" if value else flag)
        process.spawn(self.directory, name, [binaries.ensure(name, version=self.host.version)[name], *args, *more])


@pytest.fixture
def beside(host: HostCluster, tmp_path: Path) -> Iterator[Beside]:
    found = Beside(host, tmp_path)
    yield found
    found.stop()


LIFE = 30.0


@pytest.mark.long
async def test_servers_take_renewed_certificates_without_a_restart(host: HostCluster, beside: Beside) -> None:
    """Each connection begins anew after the first certificates have expired: the API server's to etcd, ours to the API server."""
    granted = host.grant(NAMESPACE, "prepare-blue", rules(needed_rights(ALL)), [])
    async with Client(await load_cluster(str(granted)), Side.HOST) as client:
        upkeep = Upkeep(
            client,
            directory=beside.directory / "data",
            name="blue",
            namespace=NAMESPACE,
            cluster_domain="cluster.local",
            life=LIFE,
            owners=find_no_owners,
        )
        await upkeep.refresh()
        keeping = asyncio.create_task(upkeep.run())
        try:
            await asyncio.to_thread(outlive, beside)
        finally:
            keeping.cancel()
        assert not upkeep.problem


async def find_no_owners() -> list[Obj]:
    return []


def outlive(beside: Beside) -> None:
    beside.write_certificates()
    beside.start_etcd()
    beside.start_apiserver()
    pid = process.pid_of(beside.directory, "kube-apiserver")
    beside.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}})
    first = certificates(beside)
    wait_until(lambda: not any(valid(path) for path in first), "the first certificates have expired", 3 * LIFE)
    assert all(valid(path) for path in (beside.directory / "data" / "k3s-config").glob("*.crt"))
    beside.write_certificates()
    process.stop(beside.directory, "etcd", grace=0)
    beside.start_etcd()
    wait_until(lambda: beside.api.ready(), "the API server, which runs since before, answers", 60)
    assert beside.api.get("/api/v1/namespaces/kept")
    assert process.pid_of(beside.directory, "kube-apiserver") == pid


def certificates(beside: Beside) -> list[Path]:
    """Copies of all that expire."""
    found: list[Path] = []
    for path in [*(beside.directory / "data").rglob("*.crt"), *(beside.directory / "certificates").glob("*.crt")]:
        if "ca" not in path.name.removesuffix(".crt").split("-"):
            copy = beside.directory / f"first-{len(found)}.crt"
            copy.write_bytes(path.read_bytes())
            found.append(copy)
    assert len(found) == 8
    return found


def valid(path: Path) -> bool:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc > datetime.now(UTC)

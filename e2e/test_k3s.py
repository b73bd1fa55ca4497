"""The lab's k3s-shaped program as it runs: it keeps its data, ends when told to, and shares authorities over an external datastore."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.kubernetes import binaries
from e2e.kubernetes.catalogue import kubernetes_version
from e2e.lab.api import Api, wait_until
from tests.lab.test_k3s import NEEDED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.state import Lab

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).parents[1]
MAIN = "import sys; from e2e.lab.k3s.server import main; sys.exit(main(sys.argv[1:]))"


class K3s:
    """One server with its data in a directory of the lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.directory = lab.dir / name
        self.log = lab.dir / f"{name}.log"
        ports = lab.port(f"{name}/api"), lab.port(f"{name}/controllers")
        self.words = [
            "server",
            *NEEDED,
            f"--data-dir={self.directory}",
            f"--write-kubeconfig={self.directory}/kubeconfig",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--kube-apiserver-arg=endpoint-reconciler-type=none",
            f"--https-listen-port={ports[0]}",
            f"--kube-controller-manager-arg=secure-port={ports[1]}",
        ]

    def tls(self, name: str) -> bytes:
        return (self.directory / "server" / "tls" / name).read_bytes()

    def start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        found = binaries.ensure("kine", "kube-apiserver", "kube-controller-manager", version=kubernetes_version(side="VIRTUAL"))
        path = ":".join(str(file.parent) for file in found.values())
        environment = {"PATH": f"{path}:{os.environ['PATH']}", **variables}
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", MAIN, *self.words, *words], cwd=ROOT, env=environment, stdout=log, stderr=log)

    @contextmanager
    def running(self, **variables: str) -> Iterator[Api]:
        """Until it is told to end, which it does in seconds."""
        process = self.start(**variables)
        try:
            wait_until(lambda: (self.directory / "kubeconfig").exists(), "the kubeconfig is written", 30)
            api = Api(self.directory / "kubeconfig")
            wait_until(lambda: api.find("/api/v1/namespaces/default/serviceaccounts/default") is not None, f"see {self.log}", 90)
            yield api
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.fixture
def datastore(lab: Lab) -> Iterator[str]:
    """An etcd of their own."""
    client, peer = (f"http://127.0.0.1:{lab.port(f'k3s-etcd/{name}')}" for name in ("client", "peer"))
    argv = [str(binaries.ensure("etcd")["etcd"]), f"--data-dir={lab.dir}/k3s-etcd", "--unsafe-no-fsync", "--log-level=error", "--name=lab"]
    argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"]
    argv += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=lab={peer}"]
    with subprocess.Popen(argv) as process:
        yield client
        process.terminate()


def system(api: Api) -> str:
    uid: str = api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    return uid


def test_data_and_authorities_outlive_it_and_certificates_are_new(lab: Lab) -> None:
    k3s = K3s(lab, "k3s-alone")
    with k3s.running() as api:
        uid, authority, leaf = system(api), k3s.tls("server-ca.crt"), k3s.tls("serving-kube-apiserver.crt")
        assert (k3s.directory / "server" / "db" / "state.db").exists()
    (k3s.directory / "kubeconfig").unlink()
    with k3s.running() as api:
        assert (system(api), k3s.tls("server-ca.crt")) == (uid, authority)
        assert k3s.tls("serving-kube-apiserver.crt") != leaf


def test_two_on_one_datastore_are_one_cluster(lab: Lab, datastore: str) -> None:
    shared = {"K3S_DATASTORE_ENDPOINT": datastore, "K3S_TOKEN": "shared"}
    one, two = K3s(lab, "k3s-one"), K3s(lab, "k3s-two")
    with one.running(**shared) as api, two.running(**shared) as other:
        assert system(api) == system(other)
        for name in ("server-ca.crt", "client-ca.key", "request-header-ca.crt", "service.key"):
            assert one.tls(name) == two.tls(name)
    stranger = K3s(lab, "k3s-stranger").start(**{**shared, "K3S_TOKEN": "another"})
    assert stranger.wait(60) == 1
    assert "encrypted with different token" in (lab.dir / "k3s-stranger.log").read_text()


def test_what_it_cannot_do_it_says(lab: Lab) -> None:
    k3s = K3s(lab, "k3s-wrong")
    assert k3s.start("--enable-magic").wait(30) == 1
    assert k3s.log.read_text() == "Incorrect Usage: flag provided but not defined: -enable-magic\n"

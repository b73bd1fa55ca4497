"""`syncer connect` to a virtual cluster in pods of the real node, through the host's API server and kubelet."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from e2e.commands import Commands
from e2e.guestbook import is_ready
from e2e.lab import provisioner, syncer_image
from e2e.lab.api import wait_until
from syncer.kube.types import PODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.installed import Install, Installed
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(400)]

NAMESPACE = "team-red"
MEBI = 1 << 20
ECHO = """
import hashlib, socket, threading
def serve(connection):
    stream = connection.makefile("rb")
    kind, left, found = stream.read(1), int.from_bytes(stream.read(8), "big"), hashlib.sha256()
    while left and (data := stream.read1(min(left, 65536))):
        left -= len(data)
        found.update(data)
        if kind == b"e":
            connection.sendall(data)
    if kind == b"h":
        connection.sendall(found.hexdigest().encode())
    connection.shutdown(socket.SHUT_WR)
    stream.read()
    connection.close()
listener = socket.create_server(("", 8443), backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
"""Told how much will come, since containerd does not tell a pod that its client has ended its half."""
FORWARD = """
import asyncio, sys
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import Key, Side
from syncer.releases.portforward import PortForward

async def main():
    async def find():
        return Key(*sys.argv[2:4])
    async with Client(await load_cluster(sys.argv[1]), Side.HOST) as host:
        async with PortForward(host, find, 8443, say=lambda text: print(text, file=sys.stderr, flush=True)) as forward:
            print(forward.local_port, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def red(install: Install, prepared_node: HostCluster) -> Iterator[Installed]:
    """On a volume, since its pod is to be replaced."""
    provisioner.start(prepared_node)
    yield install("red", NAMESPACE, {"storage": {"persistence": True, "size": "1Gi"}})
    provisioner.stop(prepared_node)


@pytest.fixture
def syncer(prepared_node: HostCluster, tmp_path: Path) -> Commands:
    """With a kubeconfig of its own."""
    file = tmp_path / "config"
    file.write_bytes(prepared_node.kubeconfig.read_bytes())
    file.chmod(0o600)
    return Commands(file, tmp_path)


class Going:
    """A command that goes on, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        assert process.stderr is not None
        self._reading = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reading.start()

    def _read(self, stream: Iterator[str]) -> None:
        for line in stream:
            self.said.append(line.rstrip("\n"))

    def wait_for(self, words: str, timeout: float = 90) -> None:
        def heard() -> bool:
            assert self.process.poll() is None, self.said
            return any(words in line for line in self.said)

        wait_until(heard, f"{words!r} in {self.said}", timeout)

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@contextmanager
def going(process: subprocess.Popen[str]) -> Iterator[Going]:
    with process:
        try:
            yield Going(process)
        finally:
            process.kill()


def current(file: Path) -> str:
    return str(yaml.safe_load(file.read_text())["current-context"])


def certificate(file: Path) -> str:
    """Of the context that is current."""
    document = yaml.safe_load(file.read_text())
    (user,) = (one["user"] for one in document["users"] if one["name"] == document["current-context"])
    return str(user["client-certificate-data"])


def kubectl(host: HostCluster, file: Path, *words: str, check: bool = True) -> str:
    command = [str(host.binary("kubectl")), f"--kubeconfig={file}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.usefixtures("red")
class TestCommand:
    def test_runs_with_a_kubeconfig_of_its_own(self, syncer: Commands) -> None:
        before = syncer.kubeconfig.read_bytes()
        done = syncer.run("connect", "red", "-n", NAMESPACE, "--", "kubectl", "get", "namespaces", "--output=name").succeeded()
        assert "namespace/kube-system" in done.out.split()
        assert f"namespace/{NAMESPACE}" not in done.out.split()
        assert syncer.kubeconfig.read_bytes() == before

    def test_the_file_is_its_owner_s_and_gone_afterwards(self, syncer: Commands) -> None:
        script = 'echo "$KUBECONFIG"; stat -c %a "$KUBECONFIG"; exit 7'
        done = syncer.run("connect", "red", "--", "sh", "-c", script)
        file, mode = done.out.split()
        assert (done.code, mode) == (7, "600")
        assert not Path(file).exists()

    def test_a_program_that_is_not_there(self, syncer: Commands) -> None:
        done = syncer.run("connect", "red", "--", "no-such-program")
        assert done.code == 2
        assert "cannot run 'no-such-program'" in done.err

    def test_signals_reach_it(self, syncer: Commands) -> None:
        script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
        with syncer.start("connect", "red", "--", "sh", "-c", script) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "got it\n"
            assert process.wait(30) == 5


class TestContext:
    def test_is_current_until_the_end(self, red: Installed, syncer: Commands) -> None:
        former = current(syncer.kubeconfig)
        with going(syncer.start("connect", "red", "-n", NAMESPACE)) as connect:
            connect.wait_for("until Ctrl-C")
            context = current(syncer.kubeconfig)
            assert context == f"vcluster_red_{NAMESPACE}_{former}"
            assert stat.S_IMODE(syncer.kubeconfig.stat().st_mode) == 0o600
            assert kubectl(red.host, syncer.kubeconfig, "config", "current-context").strip() == context
            assert "namespace/kube-system" in kubectl(red.host, syncer.kubeconfig, "get", "namespaces", "--output=name")
            assert kubectl(red.host, syncer.kubeconfig, "--context", former, "get", "pod", "-n", NAMESPACE, "red-0", "--output=name")
            assert connect.end() == 0
        assert current(syncer.kubeconfig) == former
        assert context not in syncer.kubeconfig.read_text()

    def test_printed_or_in_a_file_it_leaves_the_kubeconfig_alone(self, red: Installed, syncer: Commands, tmp_path: Path) -> None:
        before = syncer.kubeconfig.read_bytes()
        own = tmp_path / "own"
        with going(syncer.start("connect", "red", f"--kube-config={own}")) as connect:
            connect.wait_for("until Ctrl-C")
            assert "namespace/default" in kubectl(red.host, own, "get", "namespaces", "--output=name")
            assert connect.end() == 0
        with going(syncer.start("connect", "red", "--print")) as connect:
            connect.wait_for("until Ctrl-C")
            assert connect.end() == 0
            assert connect.process.stdout is not None
            assert yaml.safe_load(connect.process.stdout.read())["current-context"].startswith("vcluster_red_")
        assert syncer.kubeconfig.read_bytes() == before


@pytest.mark.usefixtures("red")
def test_limited_access(syncer: Commands) -> None:
    flags = ("--service-account=default/robot", "--token-expiration=1200")
    script = "kubectl auth whoami -o yaml; kubectl get nodes; kubectl get pods; kubectl auth can-i delete pods"
    done = syncer.run("connect", "red", *flags, "--cluster-role=view", "--", "sh", "-c", script)
    assert "username: system:serviceaccount:default:robot" in done.out
    assert done.out.splitlines()[-1] == "no"
    assert "No resources found in default namespace." in done.err
    done = syncer.run("connect", "red", *flags, "--", "sh", "-c", 'grep -c client-key "$KUBECONFIG"')
    assert done.out == "0\n"


def fetch(port: int, kind: bytes, content: bytes) -> bytes:
    """What the pod answers to the content."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        sending = threading.Thread(target=connection.sendall, args=(kind + len(content).to_bytes(8, "big") + content,))
        sending.start()
        found = bytearray()
        while data := connection.recv(65536):
            found += data
        sending.join()
        return bytes(found)


def make_echo(host: HostCluster) -> None:
    container: Obj = {"name": "main", "image": syncer_image.SYNCER, "imagePullPolicy": "Never", "command": ["python3", "-u", "-c", ECHO]}
    container["readinessProbe"] = {"tcpSocket": {"port": 8443}, "periodSeconds": 1}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    host.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "echo", "namespace": "default"}, "spec": spec})
    wait_until(lambda: is_ready(host.api.get(PODS.path("default", "echo"))), "the echo is ready", 120)


class TestPortForward:
    @pytest.fixture
    def port(self, prepared_node: HostCluster) -> Iterator[int]:
        make_echo(prepared_node)
        command = [sys.executable, "-c", FORWARD, str(prepared_node.kubeconfig), "default", "echo"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
            try:
                assert process.stdout is not None
                yield int(process.stdout.readline())
            finally:
                process.kill()
        prepared_node.api.delete(PODS.path("default", "echo"))

    def test_fifty_connections_at_once_and_much_in_one(self, port: int) -> None:
        contents = [os.urandom(10_000 + number) for number in range(50)]
        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(lambda content: fetch(port, b"e", content), contents)) == contents
        content = os.urandom(64 * MEBI)
        assert fetch(port, b"h", content) == hashlib.sha256(content).hexdigest().encode()
        assert hashlib.sha256(fetch(port, b"e", content)).digest() == hashlib.sha256(content).digest()


def test_the_pod_is_replaced_and_the_host_s_api_server_restarts(red: Installed, syncer: Commands) -> None:
    host = red.host
    with going(syncer.start("connect", "red", "-n", NAMESPACE)) as connect:
        connect.wait_for("until Ctrl-C")
        assert kubectl(host, syncer.kubeconfig, "get", "namespaces")

        host.stop_apiserver()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(kubectl, host, syncer.kubeconfig, "get", "namespaces", "--output=name", check=False)
            connect.wait_for("trying again")
            host.start_apiserver()
            assert "namespace/default" in asking.result()
        connect.wait_for("forwarding again")

        former = certificate(syncer.kubeconfig)
        (before,) = red.pods()
        red.host.api.delete(f"{red.path}/pods/red-0")
        wait_until(lambda: [pod["metadata"]["uid"] for pod in red.pods()] != [before["metadata"]["uid"]], "another pod", 90)

        def answers() -> bool:
            return "namespace/default" in kubectl(host, syncer.kubeconfig, "get", "namespaces", "--output=name", check=False)

        wait_until(answers, "the new pod answers through the old listener", 120)
        wait_until(lambda: certificate(syncer.kubeconfig) != former, "the context has the certificate that was renewed with the pod", 60)
        assert connect.end() == 0

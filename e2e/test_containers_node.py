"""kubectl with containers that run: logs, exec, attach, port-forward, cp and debug through the front door."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import select
import signal
import socket
import ssl
import struct
import subprocess
import termios
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from e2e import guestbook
from e2e.lab import kubeconfig
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX
from syncer.kube.types import PODS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.daemon import Daemon
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("real_node")]

SERVE = (
    'mkdir /w; hostname >/w/index.html; httpd -p 8080 -h /w; echo started; echo oops >&2; while read l; do echo "got:$l"; done; sleep 1d'
)
TALK = "while :; do echo now; sleep 1; done"
TERMINAL = """tty
until [ "$(stty size 2>&1)" = "31 87" ]; do sleep .1; done; stty size
read x
until [ "$(stty size 2>&1)" = "40 100" ]; do sleep .1; done; stty size
exit 3"""
"""The size of a terminal goes another way than what is typed, and than the command itself."""
PROTOCOLS = {"websocket": "true", "spdy": "false"}
MEBI = 2**20


class Kubectl:
    """kubectl at the front door, as an administrator of the virtual cluster."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, virtual = daemon, daemon.virtual
        server = f"https://127.0.0.1:{daemon.proxy_port}"
        admin = virtual.tls / "client-admin.crt", virtual.tls / "client-admin.key"
        file = kubeconfig.write(virtual.dir / "front.kubeconfig", server, virtual.tls / "server-ca.crt", *admin, "front")
        self._start = [str(virtual.binary("kubectl")), f"--kubeconfig={file}"]

    def command(self, *words: str) -> list[str]:
        return [*self._start, *words]

    def environment(self, protocol: str) -> dict[str, str]:
        """kubectl falls back to SPDY if a WebSocket is refused, so each is asked for by itself."""
        chosen = PROTOCOLS[protocol]
        return {**os.environ, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": chosen, "KUBECTL_PORT_FORWARD_WEBSOCKETS": chosen}

    def run(self, *words: str, stdin: bytes = b"", protocol: str = "websocket", timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*words), input=stdin, capture_output=True, check=False, env=self.environment(protocol), timeout=timeout
        )

    def __call__(self, *words: str, stdin: bytes = b"", protocol: str = "websocket") -> str:
        """What it printed; the test fails unless it succeeds."""
        done = self.run(*words, stdin=stdin, protocol=protocol)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.returncode}: {done.stdout[-500:]!r} {done.stderr.decode()}"
        return done.stdout.decode()

    @contextmanager
    def going(self, *words: str, protocol: str = "websocket") -> Iterator[subprocess.Popen[str]]:
        """While it runs; then it is killed."""
        pipe = subprocess.PIPE
        environment = self.environment(protocol)
        with subprocess.Popen(self.command(*words), stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def kubectl(tenant: StartTenant) -> Kubectl:
    """With the pods `web`, which serves its name and echoes its input, and `two`, of two containers."""
    daemon = tenant("shells")
    web = {"name": "web", "image": BUSYBOX, "stdin": True, "command": ["sh", "-c", SERVE]}
    script = ["sh", "-c", "echo $WHO; sleep 1d"]
    two = [{"name": name, "image": BUSYBOX, "command": script, "env": [{"name": "WHO", "value": name}]} for name in ("a", "b")]
    first = {"name": "first", "image": BUSYBOX, "command": ["sh", "-c", "echo first"]}
    for name, spec in (("web", {"containers": [web]}), ("two", {"containers": two, "initContainers": [first]})):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}}
        daemon.virtual.api.apply({**pod, "spec": {**spec, "terminationGracePeriodSeconds": 0}})

    def ready() -> bool:
        return all(guestbook.is_ready(daemon.virtual.api.get(PODS.path("default", name))) for name in ("web", "two"))

    wait_until(ready, "both pods are ready", 120)
    return Kubectl(daemon)


both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


class TestLogs:
    def test_are_what_the_host_has(self, kubectl: Kubectl) -> None:
        virtual = kubectl.daemon.virtual
        host_pod = guestbook.host_pod_name(virtual, "web", "default")
        for options in ((), ("--timestamps",), ("--tail=1",), ("--limit-bytes=4",), ("--since=1h",)):
            directly = guestbook.kubectl(virtual.host, f"--namespace={virtual.host_namespace}", "logs", host_pod, *options)
            assert kubectl("logs", "web", *options) == directly
        assert sorted(kubectl("logs", "web").split()) == ["oops", "started"]

    def test_of_each_container(self, kubectl: Kubectl) -> None:
        assert [kubectl("logs", "two", "-c", name) for name in ("first", "a", "b")] == ["first\n", "a\n", "b\n"]
        assert sorted(kubectl("logs", "two", "--all-containers").split()) == ["a", "b", "first"]
        done = kubectl.run("logs", "two", "-c", "c")
        assert done.returncode == 1
        assert done.stderr.startswith(b"error: container c is not valid for pod two")

    def test_previous_ones_that_are_not_there(self, kubectl: Kubectl) -> None:
        done = kubectl.run("logs", "web", "--previous")
        assert done.returncode == 1
        assert b'previous terminated container "web" in pod "web" not found' in done.stderr


class TestAttach:
    @both_protocols
    def test_what_is_said_is_in_the_log_that_is_followed(self, kubectl: Kubectl, protocol: str) -> None:
        with kubectl.going("logs", "--follow", "web") as follow, kubectl.going("attach", "-i", "web", protocol=protocol) as attach:
            assert attach.stdin is not None
            assert attach.stdout is not None
            assert follow.stdout is not None
            attach.stdin.write(f"{protocol}\n")
            attach.stdin.flush()
            assert any(line == f"got:{protocol}\n" for line in attach.stdout)
            assert any(line == f"got:{protocol}\n" for line in follow.stdout)


class TestExec:
    @both_protocols
    @pytest.mark.parametrize("code", [0, 7])
    def test_exit_codes_and_both_outputs(self, kubectl: Kubectl, protocol: str, code: int) -> None:
        done = kubectl.run("exec", "web", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}", protocol=protocol)
        assert (done.returncode, done.stdout) == (code, b"out\n")
        assert done.stderr.startswith(b"err\n")

    @both_protocols
    def test_neither_protocol_is_fallen_back_to(self, kubectl: Kubectl, protocol: str) -> None:
        verb = {"websocket": "get", "spdy": "create"}[protocol]

        def tunnelled() -> dict[str, float]:
            lines = [line for line in kubectl.daemon.get("/metrics")[1].splitlines() if line.startswith("syncer_proxy_requests_total{")]
            of_exec = [line for line in lines if 'resource="pods/exec"' in line and 'code="101"' in line]
            return {one: sum(float(line.split()[-1]) for line in of_exec if f'verb="{one}"' in line) for one in ("get", "create")}

        before = tunnelled()
        kubectl("exec", "web", "--", "true", protocol=protocol)
        wait_until(lambda: tunnelled() == before | {verb: before[verb] + 1}, f"one more {verb} than {before}")

    def test_the_first_container_unless_another_is_named(self, kubectl: Kubectl) -> None:
        assert kubectl("exec", "two", "--", "sh", "-c", "echo $WHO") == "a\n"
        assert kubectl("exec", "two", "-c", "b", "--", "sh", "-c", "echo $WHO") == "b\n"

    @both_protocols
    def test_a_command_that_is_not_there(self, kubectl: Kubectl, protocol: str) -> None:
        done = kubectl.run("exec", "web", "--", "/missing", protocol=protocol)
        assert done.returncode != 0
        assert b"no such file or directory" in done.stderr
        assert b"-x-default-x-" not in done.stderr
        assert b"vcluster-shells" not in done.stderr

    @both_protocols
    def test_sixty_four_mebibytes_both_ways(self, kubectl: Kubectl, protocol: str) -> None:
        self._carry(kubectl, protocol)

    @pytest.mark.long
    @pytest.mark.timeout(1200)
    @both_protocols
    def test_sixty_four_mebibytes_twenty_times(self, kubectl: Kubectl, protocol: str) -> None:
        for _ in range(20):
            self._carry(kubectl, protocol)

    def _carry(self, kubectl: Kubectl, protocol: str) -> None:
        data = os.urandom(64 * MEBI)
        done = kubectl.run("exec", "-i", "web", "--", "cat", stdin=data, protocol=protocol)
        assert (done.returncode, len(done.stdout)) == (0, len(data)), done.stderr
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()

    @both_protocols
    def test_a_terminal_and_its_size(self, kubectl: Kubectl, protocol: str) -> None:
        ours, theirs = pty.openpty()
        resize(theirs, 31, 87)
        command = kubectl.command("exec", "-it", "web", "--", "sh", "-c", TERMINAL)
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=kubectl.environment(protocol)) as process:
            os.close(theirs)
            try:
                screen = read_until(ours, "31 87")
                assert "/dev/pts/" in screen
                resize(ours, 40, 100)
                process.send_signal(signal.SIGWINCH)
                os.write(ours, b"\n")
                read_until(ours, "40 100")
                assert process.wait(60) == 3
            finally:
                process.kill()
                os.close(ours)

    def test_a_client_that_is_killed_is_forgotten(self, kubectl: Kubectl) -> None:
        def tunnels() -> float:
            return kubectl.daemon.metrics_sum("syncer_proxy_lasting_requests{")

        wait_until(lambda: tunnels() == 0, "nobody is connected")
        with kubectl.going("exec", "-i", "web", "--", "sh", "-c", "echo in; cat") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            assert tunnels() == 1
        wait_until(lambda: tunnels() == 0, "the tunnel is gone", 30)


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"])
def test_a_container_that_has_ended(kubectl: Kubectl, protocol: str) -> None:
    """A host before 1.36 learns of it after the upgrade, and tells it through the WebSocket; kubectl itself looks first."""
    virtual = kubectl.daemon.virtual
    container = {"name": "web", "image": BUSYBOX, "command": ["true"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ended", "namespace": "default"}}
    virtual.api.apply({**pod, "spec": {"restartPolicy": "Never", "containers": [container]}})
    path = PODS.path("default", "ended")
    wait_until(lambda: virtual.api.get(path).get("status", {}).get("phase") == "Succeeded", "it has ended", 120)
    context = ssl.create_default_context(cafile=str(virtual.tls / "server-ca.crt"))
    context.load_cert_chain(virtual.tls / "client-admin.crt", virtual.tls / "client-admin.key")
    what = "portforward?ports=80" if "port" in protocol else "attach?stdout=1"
    head = f"GET {path}/{what} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = f"Sec-WebSocket-Key: dGVzdHRlc3R0ZXN0dGVzdA==\r\nSec-WebSocket-Protocol: {protocol}\r\nOrigin: https://localhost\r\n\r\n"
    said = b""
    with (
        socket.create_connection(("127.0.0.1", kubectl.daemon.proxy_port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall((head + key).encode())
        while b"ended_default" not in said and (data := connection.recv(65536)):
            said += data
    assert b"ended_default" in said
    assert b"-x-default-x-" not in said
    assert virtual.host_namespace.encode() not in said


def resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_until(terminal: int, text: str) -> str:
    """What was shown on a terminal, up to and with `text`."""
    shown, deadline = "", time.monotonic() + 60
    while text not in shown:
        readable, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"no {text!r} in {shown!r}"
        shown += os.read(terminal, 4096).decode()
    return shown


class TestPortForward:
    @both_protocols
    def test_fifty_connections_at_once(self, kubectl: Kubectl, protocol: str) -> None:
        with kubectl.going("port-forward", "pod/web", ":8080", protocol=protocol) as forward:
            assert forward.stdout is not None
            port = int(forward.stdout.readline().split("127.0.0.1:")[1].split()[0])

            def fetch(_number: int) -> str:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                    return str(answer.read().decode())

            with ThreadPoolExecutor(50) as pool:
                assert list(pool.map(fetch, range(50))) == ["web\n"] * 50


class TestFiles:
    def test_are_copied_both_ways(self, kubectl: Kubectl, tmp_path: Path) -> None:
        there, back = tmp_path / "there", tmp_path / "back"
        there.write_bytes(os.urandom(8 * MEBI))
        kubectl("cp", str(there), "web:/tmp/file")
        kubectl("cp", "web:/tmp/file", str(back))
        assert back.read_bytes() == there.read_bytes()


class TestDebug:
    def test_an_ephemeral_container(self, kubectl: Kubectl) -> None:
        script = "echo here; while read l; do echo heard:$l; done; sleep 1d"
        kubectl("debug", "web", f"--image={BUSYBOX}", "--profile=general", "-c", "debug", "-i", "--attach=false", "--", "sh", "-c", script)
        kubectl("wait", "pod/web", "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running.startedAt}", "--timeout=60s")
        assert kubectl("logs", "web", "-c", "debug") == "here\n"
        assert kubectl("exec", "web", "-c", "debug", "--", "echo", "in it") == "in it\n"
        with kubectl.going("attach", "-i", "web", "-c", "debug") as attach:
            assert attach.stdin is not None
            assert attach.stdout is not None
            attach.stdin.write("hello\n")
            attach.stdin.flush()
            assert any(line == "heard:hello\n" for line in attach.stdout)

    def test_one_that_is_attached_to_at_once(self, kubectl: Kubectl) -> None:
        with kubectl.going("debug", "two", f"--image={BUSYBOX}", "--profile=general", "-i", "--", "sh", "-c", TALK) as debug:
            assert debug.stdout is not None
            assert any(line == "now\n" for line in debug.stdout)

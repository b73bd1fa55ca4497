"""A syncer of a virtual cluster of the lab, as a process of its own. On the host it has a Role and, if so asked, a ClusterRole."""

from __future__ import annotations

import functools
import json
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.errors import LabError
from e2e.lab import process
from e2e.lab.api import wait_until
from syncer.proxy.usage import features
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.lab.virtual import VirtualCluster

ROOT = Path(__file__).parents[1]
_FILES = {
    "server-ca-cert": "server-ca.crt",
    "server-ca-key": "server-ca.key",
    "client-ca-cert": "client-ca.crt",
    "request-header-ca-cert": "request-header-ca.crt",
    "proxy-client-cert": "client-auth-proxy.crt",
    "proxy-client-key": "client-auth-proxy.key",
}


class Daemon:
    """`syncer start` for one virtual cluster. `start()` waits until it is ready unless told otherwise."""

    def __init__(
        self,
        virtual: VirtualCluster,
        *flags: str,
        name: str = "syncer",
        python: Path = Path(sys.executable),
        cluster_rights: bool = False,
    ) -> None:
        self.virtual = virtual
        self.name = name
        self._python = python
        self._flags = flags
        self._cluster_rights = cluster_rights
        self._health = virtual.lab.port(f"{name}/{virtual.name}/health")
        self._webhook = virtual.lab.port(f"{name}/{virtual.name}/webhook")
        self._metrics = virtual.lab.port(f"{name}/{virtual.name}/metrics")
        self.proxy_port = virtual.front_port if name == "syncer" else virtual.lab.port(f"{name}/{virtual.name}/proxy")

    @functools.cached_property
    def host_kubeconfig(self) -> Path:
        """What it may do on the host. Granted once, so that it can be started while the host is down."""
        virtual = self.virtual
        needed = needed_rights(ALL, election=True, features=features(metrics="--proxy-metrics-server" in self._flags))
        cluster_rules = rules(needed, cluster=True) if self._cluster_rights else []
        return virtual.host.grant(virtual.host_namespace, f"syncer-{virtual.name}", rules(needed), cluster_rules)

    def command(self) -> list[str]:
        """The command line, as one would type it."""
        virtual = self.virtual
        return [
            str(self._python),
            "-m",
            "syncer",
            "start",
            f"--name={virtual.name}",
            f"--target-namespace={virtual.host_namespace}",
            f"--kube-config={virtual.kubeconfig}",
            f"--host-kube-config={self.host_kubeconfig}",
            f"--health-bind-address=127.0.0.1:{self._health}",
            f"--webhook-port={self._webhook}",
            f"--metrics-server-port={self._metrics}",
            "--bind-address=127.0.0.1",
            f"--port={self.proxy_port}",
            *(f"--{flag}={virtual.tls / file}" for flag, file in _FILES.items()),
            *self._flags,
        ]

    def start(self, *, ready: bool = True, extra: Sequence[str] = ()) -> None:
        """Start it unless it runs."""
        process.spawn(self.virtual.dir, self.name, [*self.command(), *extra], env={"PYTHONUNBUFFERED": "1"}, cwd=ROOT)
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Until /readyz is green; a LabError with the end of its log when it dies or does not get there."""
        process.wait_ready(self.virtual.dir, self.name, lambda: self.get("/readyz")[0] == 200)

    def stop(self, grace: float = 5.0) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        process.stop(self.virtual.dir, self.name, grace)

    def kill(self) -> None:
        """SIGKILL."""
        process.stop(self.virtual.dir, self.name, 0)

    def send(self, number: signal.Signals) -> None:
        """Any signal."""
        process.send(self.virtual.dir, self.name, number)

    @property
    def alive(self) -> bool:
        return process.alive(self.virtual.dir, self.name)

    @property
    def pid(self) -> int:
        pid = process.pid_of(self.virtual.dir, self.name)
        if pid is None:
            raise LabError(f"the syncer of {self.virtual.name} is not running")
        return pid

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its own HTTP server; status 0 when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, series: str) -> float:
        """The value of one series as /metrics has it, e.g. 'syncer_fence_closed'; 0 when it is not there."""
        for line in self.get("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == series:
                return float(value)
        return 0.0

    def metrics_sum(self, prefix: str) -> float:
        """The sum over all series whose text begins with `prefix`."""
        return sum(float(line.rpartition(" ")[2]) for line in self.get("/metrics")[1].splitlines() if line.startswith(prefix))

    def log(self) -> list[dict[str, Any]]:
        """Its log so far, a dict a line; lines that are no JSON (tracebacks) are left out."""
        file = self.virtual.dir / "logs" / f"{self.name}.log"
        found = []
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def wait_log(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first log line of that event with those fields."""

        def look() -> dict[str, Any] | None:
            return next((line for line in self.log() if line.get("event") == event and fields.items() <= line.items()), None)

        wait_until(lambda: look() is not None, f"log line {event} {fields or ''} of the syncer of {self.virtual.name}")
        line = look()
        assert line is not None
        return line

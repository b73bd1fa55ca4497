"""Something is wrong or missing at the start: what may come by itself is waited for, what a person has to mend ends it."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import pytest

from e2e.daemon import ROOT, Daemon
from e2e.lab.api import wait_until
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.fixtures import StartVirtual
    from e2e.lab.virtual import VirtualCluster
    from syncer.sync.spec import Right

pytestmark = pytest.mark.apiserver


class MakeDaemon(Protocol):
    """A syncer with those flags, not started yet. One with another name has a log of its own."""

    def __call__(self, name: str, *flags: str) -> Daemon: ...


@pytest.fixture(scope="module")
def virtual(virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    virtual = virtual_cluster("start")
    yield virtual
    virtual.remove(wait=False)


@pytest.fixture
def make(virtual: VirtualCluster) -> Iterator[MakeDaemon]:
    made: list[Daemon] = []

    def make(name: str, *flags: str) -> Daemon:
        made.append(Daemon(virtual, *flags, name=f"syncer-{name}"))
        return made[-1]

    yield make
    for daemon in made:
        daemon.stop()


def complaint(daemon: Daemon) -> str:
    """Run it until it ends, which is to be with code 2; what it says besides its log."""
    done = subprocess.run(daemon.command(), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("{"))


def told(daemon: Daemon, event: str) -> list[dict[str, object]]:
    return [line for line in daemon.log() if line["event"] == event]


def wait_asked(daemon: Daemon, prefix: str, times: int) -> None:
    """Until so many requests ended whose series begins with that prefix."""
    wait_until(lambda: daemon.metrics_sum(f"syncer_api_requests_total{{{prefix}") >= times, f"{times} requests {prefix}")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--lease-duration=soon", "syncer: --lease-duration: 'soon' is not a duration; write 15s, 1m30s or a number of seconds"),
        ("--sync=podz", "syncer: --sync: there is no resource 'podz'; it knows configmaps, endpoints, events, fake-nodes"),
    ],
)
def test_a_wrong_flag_ends_it(make: MakeDaemon, flag: str, words: str) -> None:
    line = complaint(make("flag", flag))
    assert line.startswith(words)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("flag", "content"), [("host-kube-config", "{]: what is this"), ("host-kube-config", None), ("kube-config", "kind: Config\n")]
)
def test_a_kubeconfig_that_cannot_be_read_ends_it(make: MakeDaemon, tmp_path: Path, flag: str, content: str | None) -> None:
    file = tmp_path / "kubeconfig"
    if content is None:
        file.mkdir()
    else:
        file.write_text(content)
        os.utime(file, (0, 0))
    line = complaint(make("kubeconfig", f"--{flag}={file}"))
    assert line.startswith("syncer: ")
    assert str(file) in line
    assert "\n" not in line


def test_an_api_server_that_is_down_is_waited_for(virtual: VirtualCluster, make: MakeDaemon) -> None:
    daemon = make("early")
    daemon.command()  # so that its rights are granted
    virtual.host.stop_apiserver()
    try:
        daemon.start(ready=False)
        line = daemon.wait_log("start.waiting")
        assert line["on"] == f"the host API server at {virtual.host.server}"
        assert "Connect call failed" in line["error"]
        wait_asked(daemon, 'code="network"', 2)
        assert told(daemon, "start.waiting") == [line], "one line however often it tries"
        status, body = daemon.get("/readyz")
        assert (status, f"[-]started failed: {line['on']}: {line['error']}" in body) == (503, True)
        assert daemon.get("/healthz")[0] == 200, "a restart would not help"
    finally:
        virtual.host.start_apiserver()
    daemon.wait_ready()
    causes = [(line["on"], line["error"]) for line in told(daemon, "start.waiting")]
    assert causes == [cause for cause, _ in groupby(causes)], "a line for each cause"
    assert "Traceback" not in (virtual.dir / "logs" / f"{daemon.name}.log").read_text()


def test_missing_rights_are_told_and_waited_for(virtual: VirtualCluster, make: MakeDaemon) -> None:
    def grant(*granted: Right) -> Path:
        return virtual.host.grant(virtual.host_namespace, "newcomer", rules(granted))

    necessary = needed_rights([spec for spec in ALL if not spec.dispensable], optional=False)
    others = [right for right in necessary if right.resource not in ("secrets", "pods")]
    (pods,) = [right for right in necessary if right.resource == "pods"]
    daemon = make("newcomer", f"--host-kube-config={grant(*others, replace(pods, verbs=('get', 'list', 'watch')))}")
    daemon.start(ready=False)
    line = daemon.wait_log("extent.insufficient", level="error")
    assert "pods: Role lacks create, delete, patch of pods" in line["missing"]
    assert "tokens: Role lacks create, delete, get, list, patch, watch of secrets" in line["missing"]

    status, body = daemon.get("/readyz")
    assert status == 503
    assert f"[-]started failed: the host does not allow enough: {'; '.join(line['missing'])}" in body
    asked = daemon.metrics_sum("syncer_api_requests_total")
    wait_until(lambda: daemon.metrics_sum("syncer_api_requests_total") > asked, "it asks again")
    assert told(daemon, "extent.insufficient") == [line], "one line however often it asks"

    grant(*necessary)
    daemon.wait_ready()
    rows = {line["loop"]: line for line in told(daemon, "extent.row")}
    assert rows["pods"]["on"] is True
    assert "without pods/ephemeralcontainers: Role lacks patch" in str(rows["pods"]["why"])
    dispensable = {spec.name: (False, "warning") for spec in ALL if spec.dispensable and spec.default and not spec.part_of}
    others_off = {"nodes": (False, "info"), "fake-node-endpoints": (False, "warning")}
    assert {name: (line["on"], line["level"]) for name, line in rows.items() if not line["on"]} == {**dispensable, **others_off}


def test_the_kubeconfig_of_the_virtual_cluster_may_come_later(virtual: VirtualCluster, make: MakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    daemon = make("impatient", f"--kube-config={file}")
    daemon.start(ready=False)
    line = daemon.wait_log("start.waiting")
    assert line["on"] == f"the kubeconfig {file} of the virtual cluster"
    status, body = daemon.get("/readyz")
    assert (status, f"[-]started failed: {line['on']}: no such file yet" in body) == (503, True)
    written = virtual.kubeconfig.read_bytes()
    file.write_bytes(written[: len(written) // 2])
    wait_until(lambda: len(told(daemon, "start.waiting")) == 2, "what is half written is waited for too")
    file.write_bytes(written)
    daemon.wait_ready()
    assert len(told(daemon, "start.waiting")) == 2


def test_one_that_waits_ends_at_once_when_told_to(make: MakeDaemon, tmp_path: Path) -> None:
    daemon = make("stopped", f"--kube-config={tmp_path / 'never'}")
    daemon.start(ready=False)
    daemon.wait_log("start.waiting")
    pid = daemon.pid
    daemon.send(signal.SIGTERM)
    wait_until(lambda: not daemon.alive, "it ends", 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert daemon.log()[-1]["event"] == "stopped"

"""API servers that die, hang and come back: the syncer catches up by itself."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.cluster import ControlPlane
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("outages")


def pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "lab.local/none:1"}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def host_path(daemon: Daemon, name: str) -> str:
    return f"/api/v1/namespaces/{daemon.virtual.host_namespace}/pods/{name}-x-default-x-{daemon.virtual.name}"


def on_host(daemon: Daemon, name: str) -> bool:
    return daemon.virtual.host.api.find(host_path(daemon, name)) is not None


def create(daemon: Daemon, *names: str) -> None:
    for name in names:
        daemon.virtual.api.apply(pod(name))


def delete(daemon: Daemon, name: str) -> None:
    daemon.virtual.api.delete(f"/api/v1/namespaces/default/pods/{name}")


def uid(daemon: Daemon, name: str) -> str:
    found: str = daemon.virtual.host.api.get(host_path(daemon, name))["metadata"]["uid"]
    return found


def test_the_host_dies_and_comes_back(daemon: Daemon) -> None:
    create(daemon, "kept", "dropped")
    wait_until(lambda: on_host(daemon, "kept") and on_host(daemon, "dropped"), "both on the host")
    before = uid(daemon, "kept")
    daemon.virtual.host.stop_apiserver()
    create(daemon, "new")
    delete(daemon, "dropped")
    daemon.virtual.host.start_apiserver()
    wait_until(lambda: on_host(daemon, "new") and not on_host(daemon, "dropped"), "caught up after the host's restart", 30)
    assert uid(daemon, "kept") == before
    daemon.wait_ready()


def test_the_virtual_one_dies_and_comes_back(daemon: Daemon) -> None:
    create(daemon, "stays")
    wait_until(lambda: on_host(daemon, "stays"), "on the host")
    before = uid(daemon, "stays")
    daemon.virtual.stop_apiserver()
    time.sleep(1)  # long enough for the watches to break and be tried again
    assert uid(daemon, "stays") == before
    daemon.virtual.start_apiserver()
    create(daemon, "after")
    wait_until(lambda: on_host(daemon, "after"), "caught up after the virtual one's restart", 30)
    assert uid(daemon, "stays") == before
    daemon.wait_ready()


@pytest.mark.parametrize("side", ["host", "virtual"])
def test_one_hangs_and_goes_on(daemon: Daemon, side: str) -> None:
    cluster: ControlPlane = daemon.virtual.host if side == "host" else daemon.virtual
    name = f"hang-{side}"
    if side == "host":
        cluster.pause()
        create(daemon, name)
        time.sleep(3)
        cluster.resume()
    else:
        cluster.pause()
        time.sleep(3)
        cluster.resume()
        create(daemon, name)
    wait_until(lambda: on_host(daemon, name), f"caught up after the {side} API server hung", 60)
    daemon.wait_ready()


def test_what_was_deleted_on_the_host_while_the_syncer_was_down_is_told_up(daemon: Daemon) -> None:
    create(daemon, "vanishes")
    path = "/api/v1/namespaces/default/pods/vanishes"
    wait_until(lambda: bool(daemon.virtual.api.get(path)["status"].get("startTime")), "running, as the virtual cluster shows it")
    daemon.stop()
    daemon.virtual.host.api.delete(host_path(daemon, "vanishes"))
    daemon.start()
    wait_until(lambda: daemon.virtual.api.find(path) is None, "a pod is never started a second time: the virtual one goes")


def test_a_frozen_syncer_catches_up(daemon: Daemon) -> None:
    daemon.send(signal.SIGSTOP)
    create(daemon, "meanwhile")
    daemon.virtual.api.request(
        "PATCH",
        "/api/v1/namespaces/default/pods/meanwhile",
        {"metadata": {"labels": {"a": "b"}}},
        content_type="application/merge-patch+json",
    )
    daemon.send(signal.SIGCONT)
    wait_until(lambda: on_host(daemon, "meanwhile"), "caught up")
    assert daemon.virtual.host.api.get(host_path(daemon, "meanwhile"))["metadata"]["labels"]["a"] == "b"


def test_sigterm_ends_it_cleanly_within_five_seconds(daemon: Daemon) -> None:
    create(daemon, *(f"last-{number}" for number in range(10)))
    pid = daemon.pid
    began = time.monotonic()
    daemon.send(signal.SIGTERM)
    wait_until(lambda: not daemon.alive, "it ends", 10)
    took = time.monotonic() - began
    assert took < 5, f"took {took:.1f} s (pid {pid})"
    assert daemon.log()[-1]["event"] == "stopped"
    daemon.start()
    wait_until(lambda: all(on_host(daemon, f"last-{number}") for number in range(10)), "nothing is lost")

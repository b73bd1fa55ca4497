"""The host Services in front of a virtual cluster and of its DNS, deleted by mistake: both come back, at the same addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.lab.api import wait_until
from syncer.kube.types import CONFIGMAPS
from syncer.sync.mainstays import OF_RELEASE

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("standing")


def path(daemon: Daemon, name: str) -> str:
    return f"/api/v1/namespaces/{daemon.virtual.host_namespace}/services/{name}"


@pytest.mark.parametrize("end", ["", "-dns"])
def test_one_that_is_deleted_comes_back_with_its_address(daemon: Daemon, end: str) -> None:
    host, name = daemon.virtual.host.api, f"{daemon.virtual.name}{end}"
    before = host.get(path(daemon, name))
    host.delete(path(daemon, name))
    wait_until(lambda: host.find(path(daemon, name)) is not None, f"Service {name} is back")
    after = host.get(path(daemon, name))
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert (after["spec"], after["metadata"]["labels"]) == (before["spec"], before["metadata"]["labels"])
    daemon.wait_log("service.lost", key=f"{daemon.virtual.host_namespace}/{name}")


def test_where_its_address_is_taken_it_gets_another_and_the_api_is_found_there(daemon: Daemon) -> None:
    host, name = daemon.virtual.host.api, daemon.virtual.name
    before = host.get(path(daemon, name))["spec"]
    thief = {"clusterIP": before["clusterIP"], "ports": [{"port": 80}]}
    host.delete(path(daemon, name))
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "thief", "namespace": daemon.virtual.host_namespace}, "spec": thief}

    def stolen() -> bool:
        host.apply(made)  # as soon as the API server has taken the address back
        return True

    wait_until(stolen, "the address is taken", 4)
    wait_until(lambda: host.find(path(daemon, name)) is not None, f"Service {name} is back")
    address = host.get(path(daemon, name))["spec"]["clusterIP"]
    assert address != before["clusterIP"]
    kubernetes = "/api/v1/namespaces/default/services/kubernetes"
    wait_until(lambda: daemon.virtual.api.get(kubernetes)["spec"].get("clusterIP") == address, "default/kubernetes has that address")


def test_one_that_an_upgrade_leaves_out_stays_gone(daemon: Daemon) -> None:
    """As Helm does it: first it writes the owner, with the Services that stay, and then it deletes what is left out."""
    host, name = daemon.virtual.host.api, daemon.virtual.name
    owner = CONFIGMAPS.path(daemon.virtual.host_namespace, f"vc-{name}-owner")
    told = {"metadata": {"annotations": {OF_RELEASE: name}}}
    host.request("PATCH", owner, told, content_type="application/merge-patch+json")
    host.delete(path(daemon, f"{name}-dns"))
    host.delete(path(daemon, name))
    wait_until(lambda: host.find(path(daemon, name)) is not None, f"Service {name} is back")
    assert host.find(path(daemon, f"{name}-dns")) is None

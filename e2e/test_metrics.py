"""--proxy-metrics-server where the host has no metrics server, or one that does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.guestbook import kubectl
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
SERVICE = "/api/v1/namespaces/kube-system/services/metrics-service"


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("unmeasured", "--proxy-metrics-server")


@pytest.fixture
def silent(host_cluster: HostCluster) -> Iterator[None]:
    """A metrics server on the host that is registered, and is not there."""
    service = {"namespace": "kube-system", "name": "missing"}
    spec = {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100, "service": service}
    metadata = {"name": "v1beta1.metrics.k8s.io"}
    registered = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": metadata}
    host_cluster.api.apply({**registered, "spec": {**spec, "insecureSkipTLSVerify": True}})
    yield
    host_cluster.api.delete(API_SERVICE)


def check_that_namespaces_go(daemon: Daemon) -> None:
    """They do not where an API is registered that does not answer."""
    api = daemon.virtual.api
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "goes"}})
    api.delete("/api/v1/namespaces/goes")
    wait_until(lambda: api.find("/api/v1/namespaces/goes") is None, "the namespace is gone")


def test_nothing_is_registered_that_would_not_answer(daemon: Daemon) -> None:
    daemon.wait_log("metrics_api.not_served")
    api = daemon.virtual.api
    assert api.find(API_SERVICE) is None
    assert api.find(SERVICE) is None
    assert "Metrics API not available" in kubectl(daemon.virtual, "top", "pods", check=False)
    assert "[+]metrics.k8s.io" in daemon.get("/readyz?verbose")[1]
    assert "install a metrics server" in daemon.get("/readyz?verbose")[1]
    check_that_namespaces_go(daemon)


@pytest.mark.usefixtures("silent")
def test_a_silent_one_takes_only_the_metrics_away(daemon: Daemon) -> None:
    daemon.stop()
    daemon.start()
    api = daemon.virtual.api

    def is_available() -> bool:
        conditions = (api.find(API_SERVICE) or {}).get("status", {}).get("conditions", [])
        return any(it["type"] == "Available" and it["status"] == "True" for it in conditions)

    wait_until(is_available, "the virtual API server reaches it")
    words = "the host cluster's metrics server does not answer as it should right now; try again"
    assert words in kubectl(daemon.virtual, "top", "pods", "-A", check=False)
    assert "PodMetrics" in kubectl(daemon.virtual, "api-resources")
    check_that_namespaces_go(daemon)
    path = f"/api/v1/namespaces/{daemon.virtual.host_namespace}/services"
    assert "metrics-service" not in str(daemon.virtual.host.api.get(path)), "it is none for the host"

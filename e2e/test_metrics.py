"""--proxy-metrics-server where the host has no metrics server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.guestbook import kubectl
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"


def test_nothing_is_registered_that_would_not_answer(tenant: StartTenant) -> None:
    """An API that is registered but not there keeps namespaces from going, and has kubectl warn at every turn."""
    daemon = tenant("unmeasured", "--proxy-metrics-server")
    daemon.wait_log("metrics_api.not_served")
    api = daemon.virtual.api
    assert api.find(API_SERVICE) is None
    assert api.find("/api/v1/namespaces/kube-system/services/metrics-service") is None
    assert "Metrics API not available" in kubectl(daemon.virtual, "top", "pods", check=False)
    assert "[+]metrics.k8s.io" in daemon.get("/readyz?verbose")[1]
    assert "install a metrics server" in daemon.get("/readyz?verbose")[1]
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "goes"}})
    api.delete("/api/v1/namespaces/goes")
    wait_until(lambda: api.find("/api/v1/namespaces/goes") is None, "the namespace is gone")

"""A virtual control plane that lost its data must not take the host's objects with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

REPLICAS = 6


def deployment() -> dict[str, Any]:
    labels = {"app": "precious"}
    container = {"name": "main", "image": "lab.local/none:1", "envFrom": [{"configMapRef": {"name": "settings"}}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "precious"}, "spec": spec}


def objects(daemon: Daemon) -> dict[str, str]:
    """UID by kind and name of everything on the host that belongs to the tenant, but for Services of nodes: they come and go with pods."""
    api, namespace = daemon.virtual.host.api, daemon.virtual.host_namespace
    selector = f"vcluster.loft.sh/managed-by={daemon.virtual.name},vcluster.loft.sh/namespace"
    return {
        f"{plural}/{item['metadata']['name']}": item["metadata"]["uid"]
        for plural in ("pods", "services", "configmaps", "secrets")
        for item in api.get(f"/api/v1/namespaces/{namespace}/{plural}", labelSelector=selector)["items"]
        if not item["metadata"].get("deletionTimestamp")
    }


def fill(daemon: Daemon) -> dict[str, str]:
    """Apply the application; what is on the host once all is there."""
    api = daemon.virtual.api
    api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"A": "1"}})
    service = {"selector": {"app": "precious"}, "ports": [{"port": 80}]}
    api.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "precious"}, "spec": service})
    api.apply(deployment())
    # pods and their token Secrets; the two ConfigMaps and the Service
    wait_until(lambda: len(objects(daemon)) == 2 * REPLICAS + 3, "all host objects")
    return objects(daemon)


def assert_fenced(daemon: Daemon) -> None:
    """The reason is visible in log, metric, event and /readyz."""
    daemon.wait_log("fence.closed")
    wait_until(lambda: daemon.metric("syncer_fence_closed") == 1, "the metric")
    status, body = daemon.get("/readyz")
    assert status == 503
    assert "lost its data or is another cluster" in body
    events = f"/api/v1/namespaces/{daemon.virtual.host_namespace}/events"
    wait_until(lambda: any(e["reason"] == "FenceClosed" for e in daemon.virtual.host.api.get(events)["items"]), "the event on the owner")


def stays(daemon: Daemon, before: dict[str, str]) -> None:
    """Long enough for a relist, a scan and the retries of a hundred keys, nothing is deleted or made."""
    scans = daemon.metrics_sum("syncer_api_requests_total")
    wait_until(lambda: daemon.metrics_sum("syncer_api_requests_total") > scans + 6, "the syncer to have looked several times")
    assert objects(daemon) == before


def test_wiped_under_a_running_syncer_and_then_under_a_restarted_one(tenant: StartTenant) -> None:
    daemon = tenant("wiped", "--scan-interval=1s")
    before = fill(daemon)
    daemon.virtual.wipe()
    assert_fenced(daemon)
    stays(daemon, before)

    daemon.stop()
    (daemon.virtual.dir / "logs" / "syncer.log").unlink()
    daemon.start(ready=False)
    assert_fenced(daemon)
    stays(daemon, before)


def test_starting_afresh_on_purpose_takes_one_command(tenant: StartTenant) -> None:
    daemon = tenant("afresh")
    fill(daemon)
    daemon.stop()
    daemon.virtual.wipe()
    daemon.virtual.host.api.delete(f"/api/v1/namespaces/{daemon.virtual.host_namespace}/configmaps/vc-afresh-owner")
    wait_until(lambda: not objects(daemon), "the host objects go with their owner")
    daemon.start()
    assert len(fill(daemon)) == 2 * REPLICAS + 3

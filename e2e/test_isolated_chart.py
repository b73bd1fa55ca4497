"""`isolation.enabled` on real API servers: what the chart makes of it lets its own control plane and ordinary tenants work, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.chart import NAMESPACE, objects
from e2e.lab.api import ApiFailure, wait_until

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Api
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAME = "confined"
PODS, FIT = 20, 16
"""How many the quota counts at most, the control plane's among them; and how many of the tenant fit that name no limits."""
NOT_HERE = {"Service", "Role", "RoleBinding"}
"""Kinds that a lab's tenant has already, of the same names."""
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/web"


def place(host: HostCluster, namespace: str, given: dict[str, Any], without: set[str]) -> None:
    """Apply what the chart has for those values, its quota and limits first, as a cluster that was installed long ago would have them."""
    found = [obj for (kind, name), obj in objects(given, release=NAME).items() if kind not in without and name != f"vc-{NAME}-owner"]
    found = [obj for obj in found if "helm.sh/hook" not in obj["metadata"].get("annotations", {})]
    for obj in sorted(found, key=lambda obj: obj["kind"] not in ("ResourceQuota", "LimitRange")):
        obj["metadata"]["namespace"] = namespace
        host.api.apply(obj)
        if obj["kind"] == "ResourceQuota":
            path = host.api.path_of(obj)
            wait_until(lambda path=path: bool(host.api.get(path)["status"].get("used")), "the quota is in force")  # type: ignore[misc]  # lambda


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    """A tenant in whose host namespace the chart's isolation is, and its control plane."""
    daemon = tenant(NAME)
    virtual = daemon.virtual
    place(virtual.host, virtual.host_namespace, {"isolation": {"enabled": True}}, NOT_HERE)
    return daemon


def used(daemon: Daemon) -> dict[str, str]:
    path = f"/api/v1/namespaces/{daemon.virtual.host_namespace}/resourcequotas/{NAME}-quota"
    found: dict[str, str] = daemon.virtual.host.api.get(path)["status"]["used"]
    return found


def deploy(virtual: Api, replicas: int) -> None:
    labels = {"app": "web"}
    spec = {"containers": [{"name": "main", "image": "lab.local/none:1"}], "terminationGracePeriodSeconds": 0}
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}
    virtual.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": body})


def ready(virtual: Api) -> int:
    return int(virtual.get(DEPLOYMENT)["status"].get("readyReplicas") or 0)


def test_the_control_plane_fits_into_its_own_quota(daemon: Daemon) -> None:
    virtual = daemon.virtual
    path = f"/apis/apps/v1/namespaces/{virtual.host_namespace}/statefulsets/{NAME}"

    def is_made() -> bool:
        return bool(virtual.host.api.get(path)["status"].get("replicas") == 1)

    wait_until(is_made, "a pod of the control plane")
    counted = used(daemon)
    assert (counted["count/pods"], counted["requests.storage"]) == ("1", "5Gi")
    pod = virtual.host.api.get(f"/api/v1/namespaces/{virtual.host_namespace}/pods/{NAME}-0")
    assert all({"cpu", "memory", "ephemeral-storage"} <= one["resources"]["limits"].keys() for one in pod["spec"]["containers"])


def test_a_tenant_works_and_is_told_what_is_too_much(daemon: Daemon) -> None:
    api, host, namespace = daemon.virtual.api, daemon.virtual.host.api, daemon.virtual.host_namespace
    deploy(api, 3)
    wait_until(lambda: ready(api) == 3, "a Deployment that names no limits runs")
    copies = host.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"vcluster.loft.sh/managed-by={NAME}")["items"]
    assert [pod["spec"]["containers"][0]["resources"]["limits"]["memory"] for pod in copies] == ["512Mi"] * 3

    deploy(api, PODS)

    def refused() -> list[dict[str, Any]]:
        found = [
            condition
            for pod in api.get("/api/v1/namespaces/default/pods")["items"]
            for condition in pod["status"].get("conditions") or ()
            if condition["type"] == "PodScheduled" and condition["status"] == "False"
        ]
        return [condition for condition in found if condition.get("reason") == "ExceededQuota"]

    wait_until(lambda: bool(refused()) and ready(api) + len(refused()) == PODS, "the pods too many are told so")
    assert ready(api) >= FIT
    assert "asks for limits.cpu=1" in refused()[0]["message"]
    assert namespace not in refused()[0]["message"]
    deploy(api, 3)
    wait_until(lambda: ready(api) == 3 and not refused(), "with less all is well")


OTHERS: dict[str, dict[str, Any]] = {
    "node-port": {"service": {"type": "NodePort"}},
    "load-balancer": {"service": {"type": "LoadBalancer"}},
    "k8s": {"distro": "k8s"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_control_planes_fit_too(host_cluster: HostCluster, other: str) -> None:
    namespace = f"{NAMESPACE}-{other}"
    host_cluster.create_namespace(namespace)
    try:
        place(host_cluster, namespace, {"isolation": {"enabled": True}, **OTHERS[other]}, set())
        pod = f"/api/v1/namespaces/{namespace}/pods/{NAME}-0"
        wait_until(lambda: host_cluster.api.find(pod) is not None, "a pod of the control plane")
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "more"},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]},
        }
        with pytest.raises(ApiFailure, match=r"exceeded quota.*services\.nodeports"):
            host_cluster.api.request("POST", f"/api/v1/namespaces/{namespace}/services", service)
    finally:
        host_cluster.api.delete(f"/api/v1/namespaces/{namespace}")

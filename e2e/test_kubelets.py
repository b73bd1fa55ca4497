"""Virtual nodes have kubelets: where they are, who may ask them, and what they do not tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.daemon import Daemon
from e2e.guestbook import is_ready, kubectl
from e2e.kubelets import Kubelet
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.virtual import VirtualCluster

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

RBAC = "rbac.authorization.k8s.io"


@pytest.fixture(scope="module")
def virtual(virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    virtual = virtual_cluster("kubelets")
    container = {"name": "main", "image": "lab.local/none:1"}
    virtual.api.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]},
        }
    )
    yield virtual
    virtual.remove()


@pytest.fixture(scope="module")
def daemon(virtual: VirtualCluster) -> Iterator[Daemon]:
    daemon = Daemon(virtual)
    daemon.start()
    yield daemon
    daemon.stop()


def pod(virtual: VirtualCluster) -> dict[str, Any]:
    found: dict[str, Any] = virtual.api.get("/api/v1/namespaces/default/pods/web")
    return found


def node_of(daemon: Daemon) -> str:
    wait_until(lambda: is_ready(pod(daemon.virtual)) and bool(pod(daemon.virtual)["spec"].get("nodeName")), "the pod runs")
    name: str = pod(daemon.virtual)["spec"]["nodeName"]
    return name


def addresses(virtual: VirtualCluster, node: str) -> dict[str, str]:
    return {item["type"]: item["address"] for item in virtual.api.get(f"/api/v1/nodes/{node}")["status"]["addresses"]}


def services(virtual: VirtualCluster) -> list[dict[str, Any]]:
    """Host Services that lead to kubelets."""
    path = f"/api/v1/namespaces/{virtual.host_namespace}/services"
    found: list[dict[str, Any]] = virtual.host.api.get(path, labelSelector=f"vcluster.loft.sh/belongs-to={virtual.name}")["items"]
    return found


def token(virtual: VirtualCluster, account: str, *subresources: str) -> str:
    """Of a service account that may read these of nodes."""
    rules = [{"apiGroups": [""], "resources": [f"nodes/{name}" for name in subresources], "verbs": ["get"]}]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "default"}
    virtual.api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": "default"}})
    virtual.api.apply({"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": account}, "rules": rules})
    virtual.api.apply(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": account},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": account},
            "subjects": [subject],
        }
    )
    answer = virtual.api.request("POST", f"/api/v1/namespaces/default/serviceaccounts/{account}/token", {"spec": {}})
    found: str = answer["status"]["token"]
    return found


def test_each_node_has_an_address_of_its_own(daemon: Daemon) -> None:
    virtual, node = daemon.virtual, node_of(daemon)
    wait_until(lambda: "InternalIP" in addresses(virtual, node), "the node has an address", 30)
    (service,) = services(virtual)
    assert addresses(virtual, node) == {"Hostname": f"{node}.nodes.vcluster.com", "InternalIP": service["spec"]["clusterIP"]}
    assert virtual.api.get(f"/api/v1/nodes/{node}")["status"]["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert service["metadata"]["name"] == f"{virtual.name}-node-{node}"
    assert [owner["name"] for owner in service["metadata"]["ownerReferences"]] == [f"vc-{virtual.name}-owner"]
    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(10250, daemon.proxy_port)]

    kubectl(virtual, "delete", "node", node)
    wait_until(lambda: addresses(virtual, node).get("InternalIP") == service["spec"]["clusterIP"], "made anew, it has the same", 30)
    virtual.host.api.delete(f"/api/v1/namespaces/{virtual.host_namespace}/services/{service['metadata']['name']}")
    wait_until(lambda: [item["metadata"]["uid"] for item in services(virtual)] not in ([], [service["metadata"]["uid"]]), "made again", 30)
    wait_until(
        lambda: addresses(virtual, node).get("InternalIP") == services(virtual)[0]["spec"]["clusterIP"], "the node has the new one", 30
    )


def test_it_is_asked_at_its_address(daemon: Daemon) -> None:
    node = node_of(daemon)
    wait_until(lambda: "InternalIP" in addresses(daemon.virtual, node), "the node has an address", 30)
    called = Kubelet(daemon, node, called=addresses(daemon.virtual, node)["InternalIP"])
    wait_until(lambda: called.get("/pods")[0] == 200, "the certificate is for the address as well")
    assert [item["metadata"]["name"] for item in called.json("/pods")["items"]] == ["web"]


def test_pods_are_told_to_whoever_may_ask(daemon: Daemon) -> None:
    virtual, node = daemon.virtual, node_of(daemon)
    agent = Kubelet(daemon, node, token(virtual, "agent", "pods"))
    assert [item["metadata"]["name"] for item in agent.json("/pods")["items"]] == ["web"]
    assert agent.json("/runningpods/")["items"][0]["metadata"]["uid"] == pod(virtual)["metadata"]["uid"]
    for path in ("/metrics", "/stats/summary", "/healthz", "/logs/", "/containerLogs/default/web/main"):
        status, message = agent.get(path)
        assert status == 403, message
        assert 'User "system:serviceaccount:default:agent" cannot get resource "nodes/' in message
    assert Kubelet(daemon, node, "forged").get("/pods")[0] == 401
    assert Kubelet(daemon, "other").get("/pods") == (404, 'nodes "other" not found')


def test_a_missing_right_on_the_host_is_named(daemon: Daemon) -> None:
    virtual, node = daemon.virtual, node_of(daemon)
    monitor = Kubelet(daemon, node, token(virtual, "monitor", "metrics", "stats"))
    for path in ("/metrics/cadvisor", "/stats/summary"):
        status, message = monitor.get(path)
        assert (status, "no right to nodes/proxy in its host cluster" in message) == (403, True)
        assert virtual.host_namespace not in message


@pytest.mark.parametrize("path", ["/logs/", "/configz", "/run/default/web/main", "/debug/pprof/heap", "/spec/", "/api/v1/secrets", "/"])
def test_nothing_else_is_served(daemon: Daemon, path: str) -> None:
    status, message = Kubelet(daemon, node_of(daemon)).get(path)
    assert (status, "does not answer" in message) == (403, True), message


def test_without_kubelets(virtual: VirtualCluster, daemon: Daemon) -> None:
    node = node_of(daemon)
    daemon.stop()
    other = Daemon(virtual, "--disable-fake-kubelets")
    other.start()
    try:
        wait_until(lambda: addresses(virtual, node) == {"Hostname": node}, "the node's own name", 30)
        wait_until(lambda: services(virtual) == [], "no Services", 30)
    finally:
        other.stop()
        daemon.start()
    wait_until(lambda: "InternalIP" in addresses(virtual, node), "as before", 30)
    virtual.api.delete("/api/v1/namespaces/default/pods/web")
    wait_until(lambda: services(virtual) == [], "the Service goes with the Node", 30)

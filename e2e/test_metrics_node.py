"""kubectl top and autoscalers of two tenants on one node, with a real metrics-server on the host."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab import kubeconfig, metrics_server, node, pki
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.node

API = "/apis/metrics.k8s.io/v1beta1"
API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"
BURN = "while :; do :; done"
FLAG = "--proxy-metrics-server"


class Tenant:
    """A virtual cluster, used through its front door."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.virtual = daemon, daemon.virtual
        self.api = daemon.virtual.api

    def kubectl(self, *words: str, user: str = "system:admin", group: str = "system:masters") -> tuple[int, str]:
        """Exit code, and what it prints."""
        virtual = self.virtual
        client = pki.Authority(virtual.tls, "client-ca").issue(f"user-{user}", user, [group] if group else [])
        file = virtual.dir / f"{user}.kubeconfig"
        server = f"https://127.0.0.1:{self.daemon.proxy_port}"
        kubeconfig.write(file, server, virtual.tls / "server-ca.crt", client.cert, client.key, "front")
        command = [str(virtual.binary("kubectl")), f"--kubeconfig={file}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def top(self, *words: str) -> list[list[str]]:
        """The rows of `kubectl top`, without their header, as words."""
        code, text = self.kubectl("top", *words, "--no-headers")
        assert code == 0, text
        return [line.split() for line in text.splitlines()]

    def run(self, namespace: str, name: str, *containers: str, **labels: str) -> None:
        """A pod with containers of these names."""
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        spec = {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": container, "image": BUSYBOX, "command": ["sleep", "1d"]} for container in containers],
        }
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        self.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def measured(self) -> list[str]:
        """Its pods of which the metrics are known."""
        found: Any = self.api.find(f"{API}/pods") or {"items": []}
        return [f"{it['metadata']['namespace']}/{it['metadata']['name']}" for it in found["items"]]


@pytest.fixture(scope="module")
def tenants(real_node: HostCluster, tenant: StartTenant) -> Iterator[tuple[Tenant, Tenant]]:
    """Two in one host namespace, with pods of the same name that are all measured by now; the second may not ask for nodes."""
    metrics_server.start(real_node)
    mine = Tenant(tenant("gauge", FLAG, namespace="meters", cluster_rights=True))
    theirs = Tenant(tenant("dial", FLAG, namespace="meters"))
    mine.run("default", "web", "a", "b", app="web", release="one")
    mine.run("shop", "db", "main", app="db")
    theirs.run("default", "web", "main", app="web")
    wait_until(lambda: mine.measured() == ["default/web", "shop/db"], "metrics of both pods", 120)
    wait_until(lambda: theirs.measured() == ["default/web"], "metrics of the other tenant's pod", 60)
    yield mine, theirs
    metrics_server.stop(real_node)


class TestTop:
    def test_pods(self, tenants: tuple[Tenant, Tenant]) -> None:
        mine, theirs = tenants
        assert [row[0] for row in mine.top("pods")] == ["web"]
        assert [row[:2] for row in mine.top("pods", "-A")] == [["default", "web"], ["shop", "db"]]
        assert [row[:2] for row in theirs.top("pods", "-A")] == [["default", "web"]]

    def test_containers(self, tenants: tuple[Tenant, Tenant]) -> None:
        mine, theirs = tenants
        rows = sorted(row[:3] for row in mine.top("pods", "--containers", "-A"))
        assert rows == [["default", "web", "a"], ["default", "web", "b"], ["shop", "db", "main"]]
        assert [row[:3] for row in theirs.top("pods", "--containers", "-A")] == [["default", "web", "main"]]

    def test_selectors(self, tenants: tuple[Tenant, Tenant]) -> None:
        mine, _ = tenants
        assert [row[1] for row in mine.top("pods", "-A", "-l", "app in (db)")] == ["db"]
        assert [row[0] for row in mine.top("pods", "-l", "release=one")] == ["web"]
        assert [row[1] for row in mine.top("pods", "-A", "--field-selector=metadata.namespace=shop")] == ["db"]
        assert mine.kubectl("top", "pods", "-A", "-l", "vcluster.loft.sh/managed-by=dial")[1].startswith("No resources found")

    def test_nodes(self, tenants: tuple[Tenant, Tenant]) -> None:
        """The whole node's, as the host has it; without a right there they are refused in words."""
        mine, theirs = tenants
        ((name, cores, _, memory, _),) = mine.top("nodes")
        assert name == node.NAME
        assert (cores.endswith("m"), memory.endswith("Mi")) == (True, True)
        code, text = theirs.kubectl("top", "nodes")
        assert code == 1
        assert "this virtual cluster has no right to them in its host cluster" in text
        assert "meters" not in text

    def test_figures_are_the_hosts(self, tenants: tuple[Tenant, Tenant]) -> None:
        mine, _ = tenants
        host = mine.virtual.host.api
        path = f"{API}/namespaces/meters/pods/web-x-default-x-gauge"

        def same() -> bool:
            shown, real = mine.api.get(f"{API}/namespaces/default/pods/web"), host.get(path)
            assert shown["metadata"]["labels"] == {"app": "web", "release": "one"}
            assert "gauge" not in str(shown)
            fields = ("timestamp", "window", "containers")
            return [shown[field] for field in fields] == [real[field] for field in fields]

        wait_until(same, "the same figures, unless there are new ones between two looks")


class TestAsAnyAggregatedApi:
    def test_it_is_discovered(self, tenants: tuple[Tenant, Tenant]) -> None:
        mine, _ = tenants
        conditions = mine.api.get(API_SERVICE)["status"]["conditions"]
        assert [(it["type"], it["status"]) for it in conditions] == [("Available", "True")]
        code, text = mine.kubectl("api-resources", "--api-group=metrics.k8s.io", "--no-headers")
        assert code == 0
        assert [line.split() for line in text.splitlines()] == [
            ["nodes", "metrics.k8s.io/v1beta1", "false", "NodeMetrics"],
            ["pods", "metrics.k8s.io/v1beta1", "true", "PodMetrics"],
        ]

    def test_tables(self, tenants: tuple[Tenant, Tenant]) -> None:
        mine, _ = tenants
        code, text = mine.kubectl("get", "pods.metrics.k8s.io", "-A")
        header, *rows = [line.split() for line in text.splitlines()]
        assert (code, header) == (0, ["NAMESPACE", "NAME", "CPU", "MEMORY", "WINDOW"])
        assert [row[:2] for row in rows] == [["default", "web"], ["shop", "db"]]
        assert mine.kubectl("get", "nodes.metrics.k8s.io")[1].splitlines()[1].split()[0] == node.NAME

    def test_rbac_is_the_virtual_clusters(self, tenants: tuple[Tenant, Tenant]) -> None:
        mine, _ = tenants
        assert "cannot list resource" in mine.kubectl("top", "pods", user="jane", group="")[1]
        binding = mine.kubectl("create", "rolebinding", "jane", "--clusterrole=view", "--user=jane", "-n", "shop")
        assert binding[0] == 0, binding[1]

        def sees() -> bool:
            return mine.kubectl("top", "pods", "-n", "shop", "--no-headers", user="jane", group="")[1].startswith("db ")

        wait_until(sees, "whoever may view pods sees their metrics", 60)
        assert "cannot list resource" in mine.kubectl("top", "pods", "-A", user="jane", group="")[1]
        assert "cannot list resource" in mine.kubectl("top", "nodes", user="jane", group="")[1]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_an_autoscaler_scales_up(tenants: tuple[Tenant, Tenant]) -> None:
    """The controller asks the virtual API server, past the front door, in protobuf if it could have it."""
    mine, _ = tenants
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", BURN], "resources": {"requests": {"cpu": "20m"}}}
    template = {"metadata": {"labels": {"app": "busy"}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "busy"}}, "template": template}
    mine.api.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "busy", "namespace": "default"}, "spec": spec})
    made = mine.kubectl("autoscale", "deployment", "busy", "--cpu=50%", "--min=1", "--max=2")
    assert made[0] == 0, made[1]
    path = "/apis/apps/v1/namespaces/default/deployments/busy"
    wait_until(lambda: mine.api.get(path)["spec"]["replicas"] == 2, "a second replica", 300)


def test_it_goes_with_the_flag(tenants: tuple[Tenant, Tenant]) -> None:
    """The last one here."""
    _, theirs = tenants
    theirs.daemon.stop()
    theirs.daemon.start(extra=[f"{FLAG}=false"])
    wait_until(lambda: theirs.api.find(API_SERVICE) is None, "the APIService is gone", 60)
    wait_until(lambda: theirs.api.find("/api/v1/namespaces/kube-system/services/metrics-service") is None, "the Service is gone", 60)
    wait_until(lambda: "Metrics API not available" in theirs.kubectl("top", "pods")[1], "kubectl knows", 60)

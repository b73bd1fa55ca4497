"""Two tenants on one node, and what its kubelet tells each of them."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from e2e.guestbook import host_pod_name, in_pod, is_ready
from e2e.kubelets import Kubelet
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("real_node")]

PODS = "/api/v1/namespaces/{}/pods/{}"
METRICS = ("/metrics", "/metrics/cadvisor", "/metrics/probes", "/metrics/resource")
COUNT = "i=0; while sleep 0.2; do i=$((i+1)); echo line-$i; done"


def run(daemon: Daemon, namespace: str, name: str, command: str, **spec: Any) -> None:
    api = daemon.virtual.api
    if namespace != "default":
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    container = {"name": f"main-{name}", "image": BUSYBOX, "command": ["sh", "-c", command], "readinessProbe": probe}
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
        }
    )


@pytest.fixture(scope="module")
def tenants(tenant: StartTenant) -> tuple[Daemon, Daemon]:
    """Mine with the pods default/mine and shop/mine, theirs with default/theirs; all in one host namespace."""
    mine = tenant("mine", namespace="crowd", cluster_rights=True)
    theirs = tenant("theirs", namespace="crowd", cluster_rights=True)
    run(mine, "default", "mine", COUNT)
    run(mine, "shop", "mine", "sleep 1d")
    run(theirs, "default", "theirs", "sleep 1d")
    for daemon in (mine, theirs):
        wait_until(partial(all_run, daemon), f"all pods of {daemon.virtual.name} run", 120)
    return mine, theirs


def all_run(daemon: Daemon) -> bool:
    return all(is_ready(pod) and pod["spec"].get("nodeName") for pod in daemon.virtual.api.get("/api/v1/pods")["items"])


def kubelet(daemon: Daemon) -> Kubelet:
    (node,) = daemon.virtual.api.get("/api/v1/nodes")["items"]
    return Kubelet(daemon, node["metadata"]["name"])


def own(daemon: Daemon) -> set[tuple[str, str]]:
    return {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in daemon.virtual.api.get("/api/v1/pods")["items"]}


def forbidden(host: HostCluster, daemon: Daemon) -> set[str]:
    """Names and UIDs of everything on the host that is none of the tenant's, and of what it calls his own."""
    words = {daemon.virtual.host_namespace}
    mine = own(daemon)
    for item in host.api.get("/api/v1/pods")["items"]:
        metadata = item["metadata"]
        words |= {metadata["name"], metadata["uid"], metadata["uid"].replace("-", "_")}
        words |= {status["containerID"].rpartition("/")[2] for status in item["status"].get("containerStatuses") or ()} - {
            status["containerID"].rpartition("/")[2]
            for namespace, name in mine
            for status in daemon.virtual.api.get(PODS.format(namespace, name))["status"].get("containerStatuses") or ()
        }
    return words


@pytest.mark.parametrize("path", METRICS)
def test_metrics_name_only_ones_own_pods(real_node: HostCluster, tenants: tuple[Daemon, Daemon], path: str) -> None:
    directly = real_node.api.get(f"/api/v1/nodes/{real_node.api.get('/api/v1/nodes')['items'][0]['metadata']['name']}/proxy{path}")
    for daemon in tenants:

        def all_told(daemon: Daemon = daemon) -> bool:
            """A kubelet looks at its containers every few seconds."""
            status, text = kubelet(daemon).get(path)
            assert status == 200, text
            labels = re.findall(r'namespace="([^"]+)",.*?pod="([^"]+)"', text)
            assert set(labels) <= own(daemon)
            for word in forbidden(real_node, daemon):
                assert word not in text, word
            return path == "/metrics" or set(labels) == own(daemon)

        wait_until(all_told, f"{path} tells of all pods of {daemon.virtual.name}", 60)
    assert "crowd" in directly or path == "/metrics", "the kubelet itself tells of all of them"


def test_metrics_have_a_node_and_are_whole_series(tenants: tuple[Daemon, Daemon]) -> None:
    mine, _ = tenants
    _, text = kubelet(mine).get("/metrics/resource")
    assert re.search(r"^node_cpu_usage_seconds_total \d", text, re.MULTILINE)
    assert re.search(r'^container_cpu_usage_seconds_total\{container="main-mine",namespace="shop",pod="mine"\} \d', text, re.MULTILINE)
    _, text = kubelet(mine).get("/metrics/cadvisor")
    images = set(re.findall(r'container="main-mine".*?image="([^"]*)"', text))
    assert images == {BUSYBOX}
    uids = {mine.virtual.api.get(PODS.format(namespace, "mine"))["metadata"]["uid"] for namespace in ("default", "shop")}
    assert set(re.findall(r'id="/kubepods/pod([0-9a-f-]{36})', text)) == uids
    assert "# TYPE container_cpu_usage_seconds_total counter" in text
    assert "rest_client" not in kubelet(mine).get("/metrics")[1]


def test_statistics_are_of_ones_own_pods(real_node: HostCluster, tenants: tuple[Daemon, Daemon]) -> None:
    for daemon in tenants:

        def told(daemon: Daemon = daemon) -> bool:
            summary = kubelet(daemon).json("/stats/summary")
            refs = {(pod["podRef"]["namespace"], pod["podRef"]["name"]): pod["podRef"]["uid"] for pod in summary["pods"]}
            assert set(refs) <= own(daemon)
            for (namespace, name), uid in refs.items():
                assert uid == daemon.virtual.api.get(PODS.format(namespace, name))["metadata"]["uid"]
            for word in forbidden(real_node, daemon):
                assert word not in str(summary), word
            assert summary["node"]["cpu"]["usageCoreNanoSeconds"] > 0
            assert not {"systemContainers", "network", "runtime"} & summary["node"].keys()
            return set(refs) == own(daemon) and all(pod["containers"] and pod["memory"] for pod in summary["pods"])

        wait_until(told, f"statistics of all pods of {daemon.virtual.name}", 60)


def test_pods_and_health(tenants: tuple[Daemon, Daemon]) -> None:
    for daemon in tenants:
        told = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in kubelet(daemon).json("/pods")["items"]}
        assert told == own(daemon)
        assert kubelet(daemon).get("/healthz") == (200, "ok")


def test_through_the_api_it_is_the_same(tenants: tuple[Daemon, Daemon]) -> None:
    mine, _ = tenants
    (node,) = mine.virtual.api.get("/api/v1/nodes")["items"]
    api = Kubelet(mine, node["metadata"]["name"], called="localhost")
    path = f"/api/v1/nodes/{node['metadata']['name']}/proxy"
    assert {pod["podRef"]["name"] for pod in api.json(f"{path}/stats/summary")["pods"]} == {"mine"}
    status, text = api.get(f"{path}/containerLogs/default/mine/main-mine?tailLines=1")
    assert (status, text.startswith("line-")) == (200, True)
    for refused in ("/logs/", "/run/default/mine/main-mine", "/configz", "/containerLogs/default/theirs/main-theirs", "/metrics/other"):
        assert api.get(f"{path}{refused}")[0] in (403, 404)
    assert api.get(path.replace("/proxy", ":10255/proxy/pods"))[0] == 403


def test_pods_reach_it_at_its_address(real_node: HostCluster, tenants: tuple[Daemon, Daemon]) -> None:
    for daemon, name in zip(tenants, ("mine", "theirs"), strict=True):
        (node,) = daemon.virtual.api.get("/api/v1/nodes")["items"]
        (address,) = (item["address"] for item in node["status"]["addresses"] if item["type"] == "InternalIP")
        pod = host_pod_name(daemon.virtual, name, "default")
        knock = ("sh", "-c", f"nc -w 5 {address} 10250 </dev/null && echo open")
        assert in_pod(real_node, "crowd", pod, *knock) == "open\n"


def test_logs_come_as_they_are_written(tenants: tuple[Daemon, Daemon]) -> None:
    mine, theirs = tenants
    with kubelet(mine).asked("/containerLogs/default/mine/main-mine?follow=true&tailLines=1") as answer:
        assert answer.status == 200
        numbers = [int(answer.readline().decode().rpartition("-")[2]) for _ in range(10)]
    assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert kubelet(theirs).get("/containerLogs/default/mine/main-mine")[0] == 404
    assert kubelet(mine).get("/containerLogs/default/mine-x-default-x-mine/main-mine")[0] == 404
    assert kubelet(mine).get("/containerLogs/crowd/theirs-x-default-x-theirs/main-theirs")[0] == 404

"""The real node as a virtual cluster sees it: what its kubelet says, and nothing of what others run there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.daemon import Daemon
from e2e.guestbook import is_ready, kubectl
from e2e.lab.api import wait_until
from e2e.lab.images import AGNHOST, BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Api
    from e2e.lab.host import HostCluster
    from e2e.lab.virtual import VirtualCluster

pytestmark = pytest.mark.node


def run(api: Api, namespace: str, image: str, *command: str) -> None:
    """A pod named `runs`, until it is Ready."""
    container = {"name": "main", "image": image, "command": [*command]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
    api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runs", "namespace": namespace}, "spec": spec})
    wait_until(lambda: is_ready(api.get(f"/api/v1/namespaces/{namespace}/pods/runs")), f"a pod of {image} runs")


def images(api: Api, node: str) -> set[str]:
    """By tag."""
    return {name for image in api.get(node)["status"].get("images") or () for name in image["names"] if "@" not in name}


@pytest.fixture(scope="module")
def virtual(virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    virtual = virtual_cluster("sees")
    yield virtual
    virtual.remove()


def test_the_real_node_is_shown_with_the_images_of_ones_own_pods(real_node: HostCluster, virtual: VirtualCluster) -> None:
    daemon = Daemon(virtual, "--sync=nodes", "--sync-all-nodes", cluster_rights=True)
    daemon.start()
    api, host = virtual.api, real_node.api
    (real,) = host.get("/api/v1/nodes")["items"]
    path = f"/api/v1/nodes/{real['metadata']['name']}"
    wait_until(lambda: api.find(path) is not None, "the node is shown", 10)
    shown = api.get(path)
    for part in ("capacity", "allocatable", "nodeInfo"):
        assert shown["status"][part] == real["status"][part]
    hidden = {item["address"] for item in real["status"]["addresses"] if item["type"] == "InternalIP"}
    wait_until(lambda: {item["type"] for item in api.get(path)["status"]["addresses"]} == {"Hostname", "InternalIP"}, "it has a kubelet")
    assert not hidden & {item["address"] for item in api.get(path)["status"]["addresses"]}
    assert shown["metadata"]["labels"] == real["metadata"]["labels"]
    assert shown["spec"]["podCIDR"] == real["spec"]["podCIDR"]

    run(api, "default", BUSYBOX, "sleep", "1d")
    run(host, virtual.host_namespace, AGNHOST, "/agnhost", "pause")
    wait_until(lambda: BUSYBOX in images(api, path), "the image of the pod is shown")
    assert all("busybox" in name for name in images(api, path))
    assert AGNHOST in images(host, path)

    kubectl(real_node, "cordon", real["metadata"]["name"])
    try:
        wait_until(lambda: api.get(path)["spec"].get("unschedulable") is True, "the cordon shows", 5)
        wait_until(lambda: api.get(path)["spec"].get("taints") == host.get(path)["spec"].get("taints"), "so does its taint", 10)
    finally:
        kubectl(real_node, "uncordon", real["metadata"]["name"])
    kubectl(virtual, "drain", real["metadata"]["name"], "--force", "--timeout=60s")
    assert api.find("/api/v1/namespaces/default/pods/runs") is None
    wait_until(lambda: not api.get(path)["spec"].get("unschedulable"), "the tenant's cordon is undone: the host schedules", 5)
    daemon.stop()


def test_a_pod_that_names_a_node_outside_of_the_selection_is_turned_away(real_node: HostCluster, virtual: VirtualCluster) -> None:
    """Sync and enforce NodeSelector: a pod with a nodeName passes the host's scheduler by, but not its kubelet."""
    daemon = Daemon(virtual, "--node-selector=pool=elsewhere")
    daemon.start()
    (real,) = real_node.api.get("/api/v1/nodes")["items"]
    container = {"name": "main", "image": BUSYBOX, "command": ["sleep", "1d"]}
    spec = {"containers": [container], "nodeName": real["metadata"]["name"], "automountServiceAccountToken": False}
    virtual.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "astray"}, "spec": spec})
    path = "/api/v1/namespaces/default/pods/astray"
    wait_until(lambda: virtual.api.get(path)["status"]["phase"] == "Failed", "the kubelet turns it away")
    assert virtual.api.get(path)["status"]["reason"] == "NodeAffinity"
    daemon.stop()

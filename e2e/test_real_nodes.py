"""The real node as a virtual cluster sees it: what its kubelet says, and nothing of what others run there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.guestbook import is_ready, kubectl
from e2e.lab.api import wait_until
from e2e.lab.images import AGNHOST, BUSYBOX

if TYPE_CHECKING:
    from e2e.lab.api import Api
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

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


def test_the_real_node_is_shown_with_the_images_of_ones_own_pods(real_node: HostCluster, tenant: StartTenant) -> None:
    daemon = tenant("sees", "--sync=nodes", "--sync-all-nodes", cluster_rights=True)
    api, host = daemon.virtual.api, real_node.api
    (real,) = host.get("/api/v1/nodes")["items"]
    path = f"/api/v1/nodes/{real['metadata']['name']}"
    wait_until(lambda: api.find(path) is not None, "the node is shown", 10)
    shown = api.get(path)
    for part in ("capacity", "allocatable", "addresses", "nodeInfo", "daemonEndpoints"):
        assert shown["status"][part] == real["status"][part]
    assert shown["metadata"]["labels"] == real["metadata"]["labels"]
    assert shown["spec"]["podCIDR"] == real["spec"]["podCIDR"]

    run(api, "default", BUSYBOX, "sleep", "1d")
    run(host, daemon.virtual.host_namespace, AGNHOST, "/agnhost", "pause")
    wait_until(lambda: BUSYBOX in images(api, path), "the image of the pod is shown")
    assert all("busybox" in name for name in images(api, path))
    assert AGNHOST in images(host, path)

    kubectl(real_node, "cordon", real["metadata"]["name"])
    try:
        wait_until(lambda: api.get(path)["spec"].get("unschedulable") is True, "the cordon shows", 5)
        wait_until(lambda: api.get(path)["spec"].get("taints") == host.get(path)["spec"].get("taints"), "so does its taint", 10)
    finally:
        kubectl(real_node, "uncordon", real["metadata"]["name"])
    kubectl(daemon.virtual, "drain", real["metadata"]["name"], "--force", "--timeout=60s")
    assert api.find("/api/v1/namespaces/default/pods/runs") is None
    wait_until(lambda: not api.get(path)["spec"].get("unschedulable"), "the tenant's cordon is undone: the host schedules", 5)

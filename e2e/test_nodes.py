"""Nodes of a virtual cluster on real API servers: made up, and shown as the host has them."""

from __future__ import annotations

import itertools
import os
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.daemon import Daemon
from e2e.guestbook import is_ready, kubectl
from e2e.lab import controller_manager, kwok, process
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Api
    from e2e.lab.host import HostCluster
    from e2e.lab.virtual import VirtualCluster

pytestmark = pytest.mark.apiserver

Obj = dict[str, Any]
MERGE = "application/merge-patch+json"
NODES = "/api/v1/nodes"
A, B = "simulated-1", "simulated-2"
REAL = ("--sync=nodes", "--sync=-fake-nodes")
SECONDS = 5
"""Within which everything has to happen that happens at once; a busy machine is given some."""


@pytest.fixture(scope="module", autouse=True)
def host(host_cluster: HostCluster) -> Iterator[Api]:
    """The host, with two nodes: `A` in pool a, and `B` in pool b."""
    kwok.start(host_cluster, 2)
    for name, pool in ((A, "a"), (B, "b")):
        patch(host_cluster.api, name, {"metadata": {"labels": {"pool": pool}}})
    yield host_cluster.api
    for name in (A, B):
        patch(host_cluster.api, name, {"metadata": {"labels": {"pool": None}}})


@pytest.fixture(scope="module")
def virtual(virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    virtual = virtual_cluster("nodal")
    yield virtual
    virtual.remove(wait=False)


@contextmanager
def running(virtual: VirtualCluster, *flags: str) -> Iterator[Daemon]:
    daemon = Daemon(virtual, *flags, cluster_rights=True)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def api(virtual: VirtualCluster) -> Iterator[Api]:
    """The virtual API server. After each test neither pods nor Nodes are left, on whatever side; nobody syncs then."""
    yield virtual.api
    kubectl(virtual, "delete", "daemonsets,deployments", "--all", "--cascade=foreground")
    kubectl(virtual, "delete", "pods,nodes", "--all", "--force", "--grace-period=0")
    kubectl(virtual.host, "delete", "pods", "--all", "--force", "--grace-period=0", f"--namespace={virtual.host_namespace}")


def patch(api: Api, node: str, body: Obj, subresource: str = "") -> None:
    api.request("PATCH", f"{NODES}/{node}{subresource}", body, content_type=MERGE)


def names(api: Api) -> set[str]:
    return {item["metadata"]["name"] for item in api.get(NODES)["items"]}


def node(api: Api, name: str) -> Obj:
    found: Obj = api.get(f"{NODES}/{name}")
    return found


def taints(api: Api, name: str) -> set[str]:
    return {taint["key"] for taint in node(api, name)["spec"].get("taints") or ()}


def ready(found: Obj) -> str:
    return next((item["status"] for item in found["status"].get("conditions") or () if item["type"] == "Ready"), "")


def pod(name: str, **spec: Any) -> Obj:
    base = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "lab.local/none:1"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": {**base, **spec}}


def set_of(kind: str, name: str, replicas: int = 0) -> Obj:
    """A Deployment or DaemonSet."""
    template = pod(name)
    labels = template["metadata"]["labels"]
    spec: Obj = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": template["spec"]}}
    if replicas:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def pods(api: Api, app: str) -> list[Obj]:
    found: list[Obj] = api.get("/api/v1/namespaces/default/pods", labelSelector=f"app={app}")["items"]
    return found


def wait_running(api: Api, app: str, count: int = 1) -> list[Obj]:
    wait_until(lambda: len(pods(api, app)) == count == sum(map(is_ready, pods(api, app))), f"{count} pods of {app} run")
    return pods(api, app)


def host_pod(virtual: VirtualCluster, name: str) -> str:
    return f"/api/v1/namespaces/{virtual.host_namespace}/pods/{name}-x-default-x-{virtual.name}"


def test_a_made_up_node_is_there_while_pods_need_it(virtual: VirtualCluster, api: Api) -> None:
    theirs = api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "theirs", "labels": {"own": "1"}}})
    with running(virtual):
        api.apply(pod("web"))
        (web,) = wait_running(api, "web")
        name = web["spec"]["nodeName"]
        made = node(api, name)
        assert ready(made) == "True"
        assert made["metadata"]["labels"]["kubernetes.io/hostname"] == name
        assert "type" not in made["metadata"]["labels"], "nothing is known of the host's node"
        wait_until(lambda: not taints(api, name), "the API server's taint goes", SECONDS)

        kubectl(virtual, "label", "node", name, "own=1")
        kubectl(virtual, "taint", "node", name, "own=1:NoSchedule")
        kubectl(virtual, "cordon", name)
        kubectl(virtual, "uncordon", name)
        kubectl(virtual, "cordon", name)
        # A DaemonSet tolerates the cordon, but not the taint.
        kubectl(virtual, "taint", "node", name, "own-")
        api.apply(set_of("DaemonSet", "agent"))
        wait_until(lambda: any(map(is_ready, pods(api, "agent"))), "the DaemonSet's pod runs", 30)
        kept = node(api, name)
        assert kept["metadata"]["uid"] == made["metadata"]["uid"]
        assert kept["metadata"]["labels"]["own"] == "1"
        assert kept["spec"]["unschedulable"] is True

        api.delete("/api/v1/namespaces/default/pods/web")
        wait_until(lambda: name not in names(api), "the Node goes although a DaemonSet's pod is on it", SECONDS)
        assert node(api, "theirs")["metadata"]["uid"] == theirs["metadata"]["uid"]
        managers = {entry["manager"] for entry in node(api, "theirs")["metadata"]["managedFields"]}
        assert not any("syncer" in manager or "python" in manager.lower() for manager in managers)


def test_a_made_up_node_becomes_a_real_one_and_back_under_a_running_pod(virtual: VirtualCluster, api: Api) -> None:
    with running(virtual):
        api.apply(pod("web"))
        (web,) = wait_running(api, "web")
        name = web["spec"]["nodeName"]
        made = node(api, name)
    with running(virtual, *REAL):
        wait_until(lambda: node(api, name)["metadata"]["labels"].get("type") == "kwok", "the host's labels show", SECONDS)
        wait_until(lambda: node(api, name)["status"]["capacity"]["cpu"] == "32", "so does what it has", SECONDS)
        real = node(api, name)
        assert real["metadata"]["uid"] == made["metadata"]["uid"]
        assert "vcluster.loft.sh/fake-node" not in real["metadata"]["labels"]
        assert {item["type"] for item in real["status"]["conditions"]} == {
            item["type"] for item in node(virtual.host.api, name)["status"]["conditions"]
        }
    with running(virtual):
        wait_until(lambda: node(api, name)["metadata"]["labels"].get("vcluster.loft.sh/fake-node") == "true", "made up", SECONDS)
        assert node(api, name)["status"]["capacity"]["cpu"] == "16"
        assert "type" not in node(api, name)["metadata"]["labels"]
        wait_until(lambda: not taints(api, name), "the API server's taint goes", SECONDS)
    assert [item["metadata"]["uid"] for item in pods(api, "web")] == [web["metadata"]["uid"]]


def test_all_nodes_are_shown_and_followed(virtual: VirtualCluster, host: Api, api: Api) -> None:
    """e2e_node: sync all nodes."""
    conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "m"}]
    own = {"name": "plain", "labels": {"rack": "7"}, "annotations": {"team.io/x": "1", "csi.volume.kubernetes.io/nodeid": "i-123"}}
    host.apply({"apiVersion": "v1", "kind": "Node", "metadata": own, "spec": {"unschedulable": True}})
    patch(host, "plain", {"status": {"conditions": conditions, "volumesInUse": ["kubernetes.io/csi/x^other-tenants"]}}, "/status")
    try:
        with running(virtual, *REAL, "--sync-all-nodes"):
            wait_until(lambda: names(api) == names(host), "all nodes are shown", SECONDS)
            shown, real = node(api, "plain"), node(host, "plain")
            assert shown["metadata"]["labels"] == real["metadata"]["labels"]
            assert "other-tenants" not in str(shown)
            assert "i-123" not in str(shown)
            assert shown["metadata"]["annotations"]["team.io/x"] == "1"
            wait_until(lambda: taints(api, "plain") == taints(host, "plain"), "its taints are the host's", SECONDS)

            kubectl(virtual, "label", "node", "plain", "own=1")
            kubectl(virtual, "annotate", "node", "plain", "own=1")
            kubectl(virtual, "taint", "node", "plain", "own=1:NoSchedule")
            patch(host, "plain", {"metadata": {"labels": {"rack": None}, "annotations": {"team.io/x": None}}})
            wait_until(lambda: "rack" not in node(api, "plain")["metadata"]["labels"], "a label goes as on the host", SECONDS)
            kept = node(api, "plain")["metadata"]
            assert (kept["labels"]["own"], kept["annotations"]["own"]) == ("1", "1")
            assert "team.io/x" not in kept["annotations"]

            began = time.monotonic()
            patch(host, "plain", {"spec": {"unschedulable": None}})
            wait_until(lambda: not node(api, "plain")["spec"].get("unschedulable"), "uncordoned", SECONDS)
            assert time.monotonic() - began < 1
            wait_until(lambda: taints(host, "plain") == set() and taints(api, "plain") == {"own"}, "only the tenant's taint is left", 10)

            down = [{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "m"}]
            patch(host, "plain", {"status": {"conditions": down}}, "/status")
            wait_until(lambda: ready(node(api, "plain")) == "False", "NotReady shows", SECONDS)
            wait_until(lambda: "node.kubernetes.io/not-ready" in taints(api, "plain"), "so does its taint", 10)
            host.delete(f"{NODES}/plain")
            wait_until(lambda: "plain" not in names(api), "it is gone as on the host", SECONDS)
            kubectl(virtual, "delete", "node", A)
            wait_until(lambda: A in names(api), "one that the tenant deletes comes back", SECONDS)
    finally:
        host.delete(f"{NODES}/plain")


def test_only_selected_nodes_are_shown_and_used(virtual: VirtualCluster, host: Api, api: Api) -> None:
    """node: sync nodes using label selector."""
    dedicated = {"key": "dedicated", "value": "x", "effect": "NoSchedule"}
    patch(host, A, {"spec": {"taints": [dedicated]}})
    try:
        with running(virtual, *REAL, "--node-selector=pool in (a,c)", "--enforce-toleration=dedicated"):
            wait_until(lambda: names(api) == {A}, "only the selected node is shown", SECONDS)
            assert taints(api, A) <= {"node.kubernetes.io/not-ready"}, "every pod tolerates what the host's taint keeps away"
            api.apply(set_of("Deployment", "web", 4))
            assert {item["spec"]["nodeName"] for item in wait_running(api, "web", 4)} == {A}

            # The host's scheduler would not bring a pod elsewhere; somebody else may.
            api.apply(pod("astray", schedulerName="nobody"))
            path = host_pod(virtual, "astray")
            wait_until(lambda: host.find(path) is not None, "the host pod")
            target = {"apiVersion": "v1", "kind": "Node", "name": B}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": path.rpartition("/")[2]}, "target": target}
            host.request("POST", f"{path}/binding", binding)
            wait_until(lambda: is_ready(pods(api, "astray")[0]), "its status shows although its node does not", 15)
            assert pods(api, "astray")[0]["status"]["podIP"]
            assert names(api) == {A}

            patch(host, A, {"metadata": {"labels": {"pool": "other"}}})
            wait_until(lambda: node(api, A)["metadata"]["labels"]["pool"] == "other", "the label shows", SECONDS)
            assert len(wait_running(api, "web", 4)) == 4, "a node that pods run on stays"
            kubectl(virtual, "delete", "deployment", "web", "--wait=false")
            wait_until(lambda: A not in names(api), "the Node goes with the last pod", 15)
            patch(host, A, {"metadata": {"labels": {"pool": "c"}}})
            wait_until(lambda: A in names(api), "selected again", SECONDS)
    finally:
        patch(host, A, {"spec": {"taints": None}, "metadata": {"labels": {"pool": "a"}}})


def test_used_nodes_are_shown_beside_the_selected_ones_where_nothing_is_enforced(virtual: VirtualCluster, host: Api, api: Api) -> None:
    assert A in names(host)
    with running(virtual, *REAL, "--node-selector=pool=a", "--enforce-node-selector=false"):
        wait_until(lambda: names(api) == {A}, "the selected one", SECONDS)
        api.apply(pod("web", nodeSelector={"pool": "b"}))
        assert wait_running(api, "web")[0]["spec"]["nodeName"] == B
        assert names(api) == {A, B}
        api.delete("/api/v1/namespaces/default/pods/web")
        wait_until(lambda: names(api) == {A}, "not used any more", SECONDS)


def test_used_nodes_show_the_images_of_ones_own_pods_alone(virtual: VirtualCluster, host: Api, api: Api) -> None:
    own, others = "lab.local/none:1", "registry.example/other-tenants:1"
    had = node(host, A)["status"].get("images")
    patch(host, A, {"status": {"images": [{"names": [own]}, {"names": [others]}]}}, "/status")

    def images() -> list[str]:
        return [name for image in node(api, A)["status"].get("images") or () for name in image["names"]]

    try:
        with running(virtual, *REAL):
            api.apply(pod("web", nodeSelector={"pool": "a"}))
            wait_running(api, "web")
            assert names(api) == {A}
            wait_until(lambda: images() == [own], "the image of the pod that runs", SECONDS)
        with running(virtual, *REAL, "--node-clear-image-status"):
            wait_until(lambda: images() == [], "cleared", SECONDS)
    finally:
        patch(host, A, {"status": {"images": had}}, "/status")


@pytest.mark.long
def test_nodes_stay_alive_where_a_node_controller_runs(virtual: VirtualCluster, api: Api) -> None:
    """It shows only by what it does: the first Node that it takes for dead is well again at once, and no other ever is."""
    grace = 15
    flags = ("--node-monitor-period=1s", f"--node-monitor-grace-period={grace}s", "--node-startup-grace-period=3s")
    controllers = "*,-nodeipam,-persistentvolume-binder,-attachdetach,-persistentvolume-expander,-cloud-node-lifecycle,-ttl"
    process.stop(virtual.dir, controller_manager.NAME, grace=0)
    controller_manager.start(virtual, controllers=controllers, extra=flags)
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

    def well(name: str) -> bool:
        found = node(api, name)
        return ready(found) == "True" and "node.kubernetes.io/unreachable" not in taints(api, name)

    try:
        with running(virtual, "--sync=fake-nodes"):
            api.apply(pod("web", nodeSelector={"pool": "a"}))
            (web,) = wait_running(api, "web")
            wait_until(lambda: api.find(f"{leases}/{A}") is not None, "the node controller has shown itself")
            wait_until(lambda: well(A), "the Node is well again", 2)
            api.apply(pod("other", nodeSelector={"pool": "b"}))
            wait_running(api, "other")
            until = time.monotonic() + grace + 5
            while time.monotonic() < until:
                assert well(A)
                assert well(B)
                time.sleep(0.1)
            assert api.get(f"{leases}/{B}")["metadata"]["labels"]["vcluster.loft.sh/managed-by"] == virtual.name
            assert [item["metadata"]["uid"] for item in wait_running(api, "web")] == [web["metadata"]["uid"]]
            api.delete("/api/v1/namespaces/default/pods/web")
            wait_until(lambda: A not in names(api), "the Node goes", SECONDS)
            wait_until(lambda: api.find(f"{leases}/{A}") is None, "and its Lease with it")
    finally:
        process.stop(virtual.dir, controller_manager.NAME, grace=0)
        virtual.start_controllers()


@pytest.mark.long
def test_heartbeats_of_a_hundred_nodes_cost_next_to_nothing(virtual: VirtualCluster, host: Api, api: Api) -> None:
    """Each tells every ten seconds that nothing is new."""
    crowd = [f"crowd-{number}" for number in range(100)]
    status = node(host, A)["status"]
    images = [{"names": [f"registry.example/image-{number}:1"], "sizeBytes": 1} for number in range(50)]
    stop = threading.Event()

    def beat() -> None:
        for name in itertools.cycle(crowd):
            if stop.wait(0.1):
                return
            patch(host, name, {"status": {"conditions": beating(status["conditions"])}}, "/status")

    def writes() -> float:
        line = 'syncer_api_requests_total{code="200",resource="%s",side="virtual",verb="%s"}'
        return sum(daemon.metric(line % (resource, verb)) for resource in ("nodes", "leases") for verb in ("create", "patch", "delete"))

    for name in crowd:
        host.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        patch(host, name, {"status": {**status, "images": images, "conditions": beating(status["conditions"])}}, "/status")
    beats = threading.Thread(target=beat)
    try:
        with running(virtual, *REAL, "--sync-all-nodes") as daemon:
            wait_until(lambda: names(api) == names(host), "all nodes are shown")
            beats.start()
            time.sleep(10)
            began, before, spent = time.monotonic(), writes(), cpu_seconds(daemon.pid)
            time.sleep(60)
            seconds, used = time.monotonic() - began, cpu_seconds(daemon.pid) - spent
            print(f"{writes() - before:.0f} writes and {used:.2f} s CPU in {seconds:.0f} s, {memory(daemon.pid):.0f} MiB")
            assert writes() - before <= 2
            assert used / seconds < 0.05
    finally:
        stop.set()
        beats.join()
        kubectl(virtual.host, "delete", "nodes", *crowd)


def beating(conditions: list[Obj]) -> list[Obj]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [{**item, "lastHeartbeatTime": now} for item in conditions]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

"""What a tenant has after a pause: the syncer finds its pods without host pods, and starts them again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e.commands import Commands
from e2e.lab.api import wait_until
from e2e.podpairs import PodPairs, container, pod
from syncer.kube.types import PODS, Side
from syncer.releases.release import STATEFUL_SETS

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAME = "slept"
HOLD = {"metadata": {"finalizers": ["example.com/hold"]}}
FREE = {"metadata": {"finalizers": None}}


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant(NAME)


@pytest.fixture(scope="module")
def pairs(daemon: Daemon) -> PodPairs:
    return PodPairs(daemon)


@pytest.fixture(scope="module")
def syncer(host_cluster: HostCluster, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(host_cluster.kubeconfig, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def stateful_set(daemon: Daemon) -> str:
    """The path of one that stands for the control plane, whose syncer is a process of the test."""
    namespace = daemon.virtual.host_namespace
    labels = {"app": "vcluster", "release": NAME, "chart": "syncer-0"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container()], "terminationGracePeriodSeconds": 0}}
    spec = {"serviceName": NAME, "replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": NAME, "namespace": namespace, "labels": labels}
    daemon.virtual.host.api.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec})
    return STATEFUL_SETS.path(namespace, NAME)


def controlled(kind: str, version: str, name: str, template: Obj, **spec: Any) -> Obj:
    labels = {"app": name}
    body = {"template": {"metadata": {"labels": labels}, "spec": template["spec"]}, **spec}
    if kind != "Job":
        body["selector"] = {"matchLabels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": body}


def shown(pairs: PodPairs) -> dict[str, tuple[str, str]]:
    """UID and phase of every virtual pod, by name."""
    pods = pairs.api(Side.VIRTUAL).get(PODS.path("default"))["items"]
    return {one["metadata"]["name"]: (one["metadata"]["uid"], one["status"]["phase"]) for one in pods}


def host_pods(pairs: PodPairs) -> list[str]:
    pods = pairs.api(Side.HOST).get(PODS.path(pairs.names.host_namespace), labelSelector="vcluster.loft.sh/managed-by")["items"]
    return sorted(one["metadata"]["annotations"]["vcluster.loft.sh/object-name"] for one in pods)


def test_the_same_pods_are_back(daemon: Daemon, pairs: PodPairs, syncer: Commands, stateful_set: str) -> None:
    api, host = pairs.api(Side.VIRTUAL), daemon.virtual.host.api
    never = pod("x", restartPolicy="Never")
    api.apply(controlled("Deployment", "apps/v1", "web", pod("x"), replicas=2))
    api.apply(controlled("StatefulSet", "apps/v1", "db", pod("x"), replicas=1, serviceName="db"))
    api.apply(controlled("Job", "batch/v1", "work", never, backoffLimit=0))
    for name in ("bare", "done"):
        pairs.run(pod(name, restartPolicy="Never", initContainers=[container("before")]))
    wait_until(lambda: sorted(phase for _, phase in shown(pairs).values()) == ["Running"] * 6, "all run")
    host.request(
        "PATCH", pairs.path(Side.HOST, "done", "status"), {"status": {"phase": "Succeeded"}}, content_type="application/merge-patch+json"
    )
    # What a kubelet shows of a pod that runs: containers that have ended, which must not seem to run again before it is taken back.
    ended = [{"name": "before", "image": "x", "imageID": "", "ready": True, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]
    path, merge = pairs.path(Side.HOST, "bare", "status"), "application/merge-patch+json"
    host.request("PATCH", path, {"status": {"initContainerStatuses": ended}}, content_type=merge)
    wait_until(lambda: shown(pairs)["done"][1] == "Succeeded", "one has finished")
    wait_until(lambda: "terminated" in pairs.get(Side.VIRTUAL, "bare")["status"]["initContainerStatuses"][0]["state"], "one has ended")
    before = shown(pairs)
    daemon.stop()

    assert "is paused, 5 pods of the tenant stopped" in syncer.run("pause", NAME).succeeded().err
    assert host_pods(pairs) == ["done"], "which has finished, and whose log may be wanted"
    annotations = host.get(stateful_set)["metadata"]["annotations"]
    assert (annotations["loft.sh/paused"], annotations["loft.sh/paused-replicas"]) == ("true", "2")
    assert annotations["loft.sh/paused-date"].endswith("Z")
    assert host.get(stateful_set)["spec"]["replicas"] == 0
    (row,) = json.loads(syncer.run("list", f"--namespace={pairs.names.host_namespace}", "-ojson").succeeded().out)
    assert (row["status"], row["pods"], row["requests"]) == ("Paused", 0, {"cpu": "0m", "memory": "0Mi"})
    assert "0 pods of the tenant stopped" in syncer.run("pause", NAME).succeeded().err

    syncer.run("resume", NAME).succeeded()
    assert host.get(stateful_set)["spec"]["replicas"] == 2
    assert "loft.sh/paused" not in host.get(stateful_set)["metadata"].get("annotations", {})
    daemon.start()
    wait_until(lambda: len(host_pods(pairs)) == 6, "all have host pods again")
    wait_until(lambda: shown(pairs) == before, "all are as they were")
    job = api.get("/apis/batch/v1/namespaces/default/jobs/work")["status"]
    assert (job.get("active"), job.get("failed")) == (1, None)
    assert "not paused" in syncer.run("resume", NAME).succeeded().err


def test_a_pod_that_is_lost_later_is_lost(daemon: Daemon, pairs: PodPairs) -> None:
    """The pause counts for what was started before it."""
    uid = pairs.run(pod("late"))["metadata"]["uid"]
    daemon.stop()
    pairs.delete(Side.HOST, "late", gracePeriodSeconds=0)
    daemon.start()
    pairs.wait_gone("late", Side.VIRTUAL)
    assert uid not in {one for one, _ in shown(pairs).values()}


@pytest.mark.usefixtures("stateful_set")
def test_what_does_not_end_holds_pause_and_resume_up(daemon: Daemon, pairs: PodPairs, syncer: Commands) -> None:
    held = pairs.run(pod("held"))["metadata"]["uid"]
    pairs.patch(Side.HOST, "held", HOLD)
    daemon.stop()
    late = syncer.run("pause", NAME, "--timeout=6s")
    assert late.code == 4
    assert "the tenant's pods are still ending: held-x-default-x-slept" in late.err
    late = syncer.run("resume", NAME, "--timeout=2s")
    assert late.code == 4
    assert "pods of before the pause are still ending: held-x-default-x-slept; they have to end first" in late.err
    with syncer.start("resume", NAME) as process:
        pairs.patch(Side.HOST, "held", FREE)
        process.communicate(timeout=60)
    assert process.returncode == 0
    daemon.start()
    wait_until(lambda: shown(pairs)["held"] == (held, "Running"), "it runs again")

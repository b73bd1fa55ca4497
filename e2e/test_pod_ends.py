"""How pods end, on real API servers: evicted, preempted, deleted on either side, with grace and without, and made anew under their name."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab import kwok
from e2e.lab.api import wait_until
from e2e.podpairs import NAMESPACE, PodPairs, container, pod
from syncer.kube.types import PODS, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

VIRTUAL, HOST = Side.VIRTUAL, Side.HOST
SILENT = "silent-node"
"""A node without a kubelet, so that nobody confirms that a pod has ended."""
SMALL = "small-node"
"""A simulated node with room for little, which only those pods use that ask for it."""
REPLICA_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets"


@pytest.fixture(scope="module")
def nodes(host_cluster: HostCluster) -> Iterator[list[str]]:
    api = host_cluster.api
    made = kwok.start(host_cluster, 2)
    small = kwok.node(SMALL, {"cpu": "2", "memory": "1Gi", "pods": "10"})
    small["metadata"]["labels"]["lab.local/small"] = "true"
    small["spec"] = {"taints": [{"key": "lab.local/small", "effect": "NoSchedule"}]}
    for body in (small, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": SILENT}}):
        api.apply(body)
    yield made
    for name in (SMALL, SILENT):
        api.delete(f"/api/v1/nodes/{name}")


@pytest.fixture(scope="module")
def pairs(nodes: list[str], tenant: StartTenant) -> Iterator[PodPairs]:
    assert nodes
    pairs = PodPairs(tenant("ends"))
    yield pairs
    api = pairs.api(HOST)
    for left in api.get(PODS.path(pairs.names.host_namespace))["items"]:  # nobody would confirm that those of the silent node have ended
        api.request("DELETE", PODS.path(pairs.names.host_namespace, left["metadata"]["name"]), {"gracePeriodSeconds": 0})


@contextmanager
def replicated(pairs: PodPairs, name: str, **spec: Any) -> Iterator[Obj]:
    """A ReplicaSet of one pod, and that pod when it runs."""
    template = pod(name, labels={"set": name}, **spec)
    body = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"set": name}},
            "template": {"metadata": {"labels": {"set": name}}, "spec": template["spec"]},
        },
    }
    api = pairs.api(VIRTUAL)
    api.apply(body)
    try:
        yield running(pairs, name)
    finally:
        api.request("DELETE", f"{REPLICA_SETS}/{name}", {"propagationPolicy": "Foreground"})


def of_set(pairs: PodPairs, name: str) -> list[Obj]:
    found: list[Obj] = pairs.api(VIRTUAL).get(PODS.path(NAMESPACE), labelSelector=f"set={name}")["items"]
    return found


def running(pairs: PodPairs, name: str, *besides: str) -> Obj:
    """The pod of the set that runs and has none of those names."""

    def candidates() -> list[Obj]:
        return [
            item
            for item in of_set(pairs, name)
            if item["status"].get("phase") == "Running"
            and item["metadata"]["name"] not in besides
            and not item["metadata"].get("deletionTimestamp")
        ]

    wait_until(lambda: bool(candidates()), f"a pod of {name} runs", 30)
    return candidates()[0]


class TestDisruptions:
    def test_evicted_through_the_hosts_api(self, pairs: PodPairs) -> None:
        with replicated(pairs, "drained") as first:
            name = first["metadata"]["name"]
            host = pairs.get(HOST, name)["metadata"]
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": host["name"], "namespace": host["namespace"]}}
            pairs.api(HOST).request("POST", pairs.path(HOST, name, "eviction"), body)
            running(pairs, "drained", name)
            pairs.wait_gone(name)

    def test_evicted_through_the_virtual_api(self, pairs: PodPairs) -> None:
        with replicated(pairs, "drained-here") as first:
            name = first["metadata"]["name"]
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
            pairs.api(VIRTUAL).request("POST", pairs.path(VIRTUAL, name, "eviction"), body)
            running(pairs, "drained-here", name)
            pairs.wait_gone(name)

    def test_evicted_by_the_kubelet(self, pairs: PodPairs) -> None:
        with replicated(pairs, "pressed") as first:
            name = first["metadata"]["name"]
            host = pairs.get(HOST, name)["metadata"]
            message = f"The node was low on resource: memory. Pod {host['namespace']}/{host['name']} was using 1Gi."
            status = {"phase": "Failed", "reason": "Evicted", "message": message}
            disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message}
            pairs.patch(HOST, name, {"status": {**status, "conditions": [disrupted]}}, "status")
            running(pairs, "pressed", name)
            shown = pairs.get(VIRTUAL, name)["status"]
            assert (shown["phase"], shown["reason"]) == ("Failed", "Evicted")
            assert shown["message"] == f"The node was low on resource: memory. Pod default/{name} was using 1Gi."
            assert any(item["type"] == "DisruptionTarget" and item["message"] == shown["message"] for item in shown["conditions"])
            assert pairs.find(HOST, name) is not None, "kept, as on any cluster, until somebody deletes it"

    def test_preempted_by_a_pod_of_the_host(self, pairs: PodPairs) -> None:
        api = pairs.api(HOST)
        api.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "lab-preempting"}, "value": 1000})
        tolerations = [{"key": "lab.local/small", "operator": "Exists"}]
        wanting: dict[str, Any] = {
            "nodeSelector": {"lab.local/small": "true"},
            "tolerations": tolerations,
            "containers": [container(resources={"requests": {"cpu": "1500m"}})],
        }
        preemptor = pod("preemptor", priorityClassName="lab-preempting", **wanting)
        preemptor["metadata"]["namespace"] = "default"
        try:
            pairs.make(
                pod("preempted", **wanting) | {"metadata": {"name": "preempted", "namespace": NAMESPACE, "finalizers": ["lab.local/kept"]}}
            )
            pairs.wait(VIRTUAL, "preempted", lambda found: found["status"].get("phase") == "Running", "it runs", 20)
            api.apply(preemptor)
            pairs.wait_gone("preempted", HOST)
            pairs.wait(VIRTUAL, "preempted", lambda found: found["status"]["phase"] == "Failed", "it is over", 20)
            assert pairs.get(VIRTUAL, "preempted")["metadata"]["deletionTimestamp"]
            pairs.patch(VIRTUAL, "preempted", {"metadata": {"finalizers": None}})
            pairs.wait_gone("preempted")
        finally:
            api.delete(api.path_of(preemptor))
            api.delete("/apis/scheduling.k8s.io/v1/priorityclasses/lab-preempting")

    def test_evicted_by_a_taint(self, pairs: PodPairs) -> None:
        """What the host's node lifecycle does to the pods of a dead node, as soon as their tolerations have run out."""
        small = f"/api/v1/nodes/{SMALL}"
        here = {"nodeSelector": {"lab.local/small": "true"}}
        mine = {"key": "lab.local/small", "operator": "Exists"}
        pairs.run(pod("patient", **here, tolerations=[mine, {"key": "lab.local/dead", "operator": "Exists"}]))
        with replicated(
            pairs,
            "tainted",
            **here,
            tolerations=[mine, {"key": "lab.local/dead", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
        ) as first:
            taints = [{"key": "lab.local/small", "effect": "NoSchedule"}, {"key": "lab.local/dead", "effect": "NoExecute"}]
            merge = "application/merge-patch+json"
            pairs.api(HOST).request("PATCH", small, {"spec": {"taints": taints}}, content_type=merge)
            try:
                pairs.wait_gone(first["metadata"]["name"])
            finally:
                pairs.api(HOST).request("PATCH", small, {"spec": {"taints": taints[:1]}}, content_type=merge)
            assert pairs.get(VIRTUAL, "patient")["status"]["phase"] == "Running"

    @pytest.mark.long  # the garbage collector of pods leaves those of a node that vanished alone for 40 s
    def test_its_node_is_gone(self, pairs: PodPairs, host_cluster: HostCluster) -> None:
        gone = kwok.node("short-lived", {"cpu": "4", "memory": "4Gi", "pods": "10"})
        gone["metadata"]["labels"]["lab.local/short-lived"] = "true"
        host_cluster.api.apply(gone)
        node = "/api/v1/nodes/short-lived"
        wait_until(lambda: "taints" not in host_cluster.api.get(node)["spec"], "the node is ready", 30)
        preference = {"weight": 100, "preference": {"matchExpressions": [{"key": "lab.local/short-lived", "operator": "Exists"}]}}
        affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}
        with replicated(pairs, "homeless", affinity=affinity) as first:
            name = first["metadata"]["name"]
            assert first["spec"]["nodeName"] == "short-lived"
            host_cluster.api.delete(node)
            pairs.wait_gone(name, timeout=120)
            assert running(pairs, "homeless", name)["spec"]["nodeName"] != "short-lived"


class TestDeletions:
    """On a node that confirms nothing, so that each step can be seen."""

    def make(self, pairs: PodPairs, name: str, **spec: Any) -> None:
        pairs.make(pod(name, nodeName=SILENT, **{"terminationGracePeriodSeconds": 25, **spec}))
        pairs.wait(HOST, name, lambda _found: True, "the host pod", 10)
        pairs.patch(HOST, name, {"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}}, "status")
        pairs.wait(VIRTUAL, name, lambda found: found["status"]["phase"] == "Running", f"{name} runs", 10)

    def wait_grace(self, pairs: PodPairs, side: Side, name: str, seconds: int) -> None:
        pairs.wait(side, name, lambda found: found["metadata"].get("deletionGracePeriodSeconds") == seconds, f"{seconds} s of grace", 10)

    def end(self, pairs: PodPairs, name: str) -> None:
        """What a kubelet does once all containers have ended."""
        pairs.delete(HOST, name, gracePeriodSeconds=0)

    @pytest.mark.parametrize(("asked", "seconds"), [({}, 25), ({"gracePeriodSeconds": 20}, 20)], ids=["the pod's own", "asked for"])
    @pytest.mark.parametrize("side", Side)
    def test_the_grace_period_is_passed_on_and_shortened(self, pairs: PodPairs, side: Side, asked: Obj, seconds: int) -> None:
        name, other = f"graceful-{side}-{seconds}", HOST if side is VIRTUAL else VIRTUAL
        self.make(pairs, name)
        pairs.delete(side, name, **asked)
        self.wait_grace(pairs, other, name, seconds)
        pairs.delete(side, name, gracePeriodSeconds=3)
        self.wait_grace(pairs, other, name, 3)
        ended = {"phase": "Failed", "reason": "Ended"}
        pairs.patch(HOST, name, {"status": ended}, "status")
        pairs.wait(VIRTUAL, name, lambda found: found["status"].get("reason") == "Ended", "its status goes on being shown", 10)
        self.end(pairs, name)
        pairs.wait_gone(name)

    def test_force_on_the_host(self, pairs: PodPairs) -> None:
        self.make(pairs, "forced-there")
        self.end(pairs, "forced-there")
        pairs.wait_gone("forced-there")

    def test_force_here_and_a_successor_of_the_same_name(self, pairs: PodPairs) -> None:
        self.make(pairs, "anew")
        old = pairs.get(HOST, "anew")["metadata"]["uid"]
        pairs.delete(VIRTUAL, "anew", gracePeriodSeconds=0)
        pairs.make(pod("anew", nodeName=SILENT))
        pairs.wait(HOST, "anew", lambda found: "deletionTimestamp" in found["metadata"], "the old one is ending")
        assert pairs.get(HOST, "anew")["metadata"]["uid"] == old
        self.end(pairs, "anew")
        pairs.wait(HOST, "anew", lambda found: found["metadata"]["uid"] != old, "the new one", 10)
        assert not pairs.get(HOST, "anew")["metadata"].get("deletionTimestamp")

    @pytest.mark.long  # for as long as a node may take to confirm
    def test_force_here_while_the_node_says_nothing(self, pairs: PodPairs) -> None:
        self.make(pairs, "lost", terminationGracePeriodSeconds=2)
        pairs.delete(VIRTUAL, "lost", gracePeriodSeconds=0)
        pairs.wait_gone("lost", timeout=60)

    def test_a_finalizer_on_the_host(self, pairs: PodPairs) -> None:
        self.make(pairs, "kept-there")
        pairs.patch(HOST, "kept-there", {"metadata": {"finalizers": ["lab.local/kept"]}})
        pairs.delete(VIRTUAL, "kept-there")
        self.wait_grace(pairs, HOST, "kept-there", 25)
        self.end(pairs, "kept-there")
        pairs.wait_gone("kept-there", VIRTUAL)
        assert pairs.find(HOST, "kept-there") is not None
        pairs.make(pod("kept-there", nodeName=SILENT))
        pairs.patch(HOST, "kept-there", {"metadata": {"finalizers": None}})
        pairs.wait(HOST, "kept-there", lambda found: not found["metadata"].get("deletionTimestamp"), "the next one", 10)

    def test_a_finalizer_here(self, pairs: PodPairs) -> None:
        self.make(pairs, "kept-here")
        pairs.patch(VIRTUAL, "kept-here", {"metadata": {"finalizers": ["lab.local/kept"]}})
        pairs.delete(VIRTUAL, "kept-here", gracePeriodSeconds=0)
        self.wait_grace(pairs, HOST, "kept-here", 1)
        self.end(pairs, "kept-here")
        pairs.wait(VIRTUAL, "kept-here", lambda found: found["status"]["phase"] == "Failed", "it is marked failed", 10)
        pairs.patch(VIRTUAL, "kept-here", {"metadata": {"finalizers": None}})
        pairs.wait_gone("kept-here")


def test_the_mirror_of_a_static_pod_is_refused(pairs: PodPairs) -> None:
    pairs.make(pod("mirror", nodeName=SILENT, annotations={"kubernetes.io/config.mirror": "x"}))
    assert "static pod" in pairs.wait_event("mirror", "StaticPod")
    assert pairs.find(HOST, "mirror") is None

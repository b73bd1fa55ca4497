"""Whole lives of what makes pods: Deployments, Jobs, CronJobs, DaemonSets, StatefulSets, on real API servers and simulated nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab import kwok
from e2e.lab.api import wait_until
from e2e.podpairs import IMAGE, NAMESPACE, PodPairs, pod
from syncer.kube.types import NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, Side, is_deleting, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.lab.api import Api, Obj
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

VIRTUAL, HOST = Side.VIRTUAL, Side.HOST
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def pairs(host_cluster: HostCluster, tenant: StartTenant) -> PodPairs:
    kwok.start(host_cluster, 2)
    return PodPairs(tenant("workloads"))


class Workload:
    """A set of pods in the virtual cluster, labelled `app=<name>`."""

    def __init__(self, pairs: PodPairs, api_version: str, kind: str, name: str, **spec: Any) -> None:
        self.pairs, self.name = pairs, name
        self.api: Api = pairs.api(VIRTUAL)
        metadata = {"name": name, "namespace": NAMESPACE}
        self.path = self.api.path_of({"apiVersion": api_version, "kind": kind, "metadata": metadata})
        self.api.apply({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})

    def get(self) -> Any:
        return self.api.get(self.path)

    def patch(self, **spec: Any) -> None:
        self.api.request("PATCH", self.path, {"spec": spec}, content_type=MERGE)

    def pods(self) -> list[Obj]:
        """Those that are not being deleted, by name."""
        found = self.api.get(PODS.path(NAMESPACE), labelSelector=f"app={self.name}")["items"]
        return sorted((item for item in found if not is_deleting(item)), key=lambda item: str(item["metadata"]["name"]))

    def host_pods(self) -> list[Obj]:
        selector = f"app={self.name},vcluster.loft.sh/managed-by={self.pairs.names.suffix}"
        found: list[Obj] = self.pairs.api(HOST).get(PODS.path(self.pairs.names.host_namespace), labelSelector=selector)["items"]
        return found

    def wait(self, condition: Callable[[Any], bool], what: str, timeout: float = 30.0) -> None:
        """Until the object fulfils the condition."""
        wait_until(lambda: condition(self.get()), f"{self.name}: {what}", timeout)

    def wait_running(self, count: int) -> None:
        """Until exactly so many pods run, and no more than those are left on the host."""

        def met() -> bool:
            running = [item for item in self.pods() if item["status"].get("phase") == "Running"]
            return len(running) == len(self.pods()) == len(self.host_pods()) == count

        wait_until(met, f"{count} pods of {self.name} run", 40)

    def finish(self, phase: str, name: str) -> None:
        """The containers of the pod end, as the kubelet of the host tells it."""
        code = 0 if phase == "Succeeded" else 1
        ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "startedAt": NOW, "finishedAt": NOW}
        (status,) = self.pairs.get(HOST, name)["status"]["containerStatuses"]
        over = {"phase": phase, "containerStatuses": [{**status, "ready": False, "state": {"terminated": ended}}]}
        self.pairs.patch(HOST, name, {"status": over}, "status")

    def delete(self) -> None:
        self.api.request("DELETE", self.path, {"propagationPolicy": "Background"})
        wait_until(lambda: not self.pods() and not self.host_pods(), f"{self.name} is gone", 30)


NOW = "2026-01-01T00:00:00Z"


def template(name: str, image: str = IMAGE, **spec: Any) -> Obj:
    made = pod(name, containers=[{"name": "main", "image": image}], **spec)
    return {"metadata": {"labels": {"app": name}}, "spec": made["spec"]}


def selector(name: str) -> Obj:
    return {"matchLabels": {"app": name}}


def test_a_deployment_from_rollout_to_rollback(pairs: PodPairs) -> None:
    shop = Workload(pairs, "apps/v1", "Deployment", "shop", replicas=3, selector=selector("shop"), template=template("shop"))
    shop.wait(lambda found: found["status"].get("availableReplicas") == 3, "3 available")
    first = {item["metadata"]["uid"] for item in shop.pods()}
    shop.patch(template={"spec": {"containers": [{"name": "main", "image": "lab.local/none:2"}]}})
    shop.wait(lambda found: rolled_out(found, 3), "the rollout is over")
    shop.wait_running(3)
    assert not first & {item["metadata"]["uid"] for item in shop.pods()}
    assert {item["spec"]["containers"][0]["image"] for item in shop.host_pods()} == {"lab.local/none:2"}
    for replicas in (5, 1):
        shop.patch(replicas=replicas)
        shop.wait_running(replicas)
    shop.patch(template={"spec": {"containers": [{"name": "main", "image": IMAGE}]}})
    shop.wait(lambda found: rolled_out(found, 1), "the rollback is over")
    shop.wait_running(1)
    assert {item["spec"]["containers"][0]["image"] for item in shop.host_pods()} == {IMAGE}
    shop.delete()


def rolled_out(found: Any, replicas: int) -> bool:
    status = found["status"]
    newest = status.get("observedGeneration") == found["metadata"]["generation"]
    return bool(newest and status.get("updatedReplicas") == status.get("availableReplicas") == status.get("replicas") == replicas)


class TestJobs:
    def test_completion_one_after_another(self, pairs: PodPairs) -> None:
        job = self.job(pairs, "sums", completions=2, parallelism=1)
        first = self.running(job)
        job.finish("Succeeded", first)
        job.finish("Succeeded", self.running(job, first))
        job.wait(lambda found: found["status"].get("succeeded") == 2 and complete(found), "complete")
        assert [item["metadata"].get("finalizers") for item in job.pods()] == [None, None], "their tracking is over"
        job.delete()

    def test_backoff(self, pairs: PodPairs) -> None:
        job = self.job(pairs, "fails", backoffLimit=0)
        job.finish("Failed", self.running(job))
        job.wait(lambda found: any(item["type"] == "Failed" for item in found["status"].get("conditions") or ()), "failed")
        job.delete()

    def test_a_pod_that_vanished_on_the_host_counts_as_failed(self, pairs: PodPairs) -> None:
        job = self.job(pairs, "robbed", backoffLimit=5)
        name = self.running(job)
        pairs.delete(HOST, name, gracePeriodSeconds=0)
        job.wait(lambda found: found["status"].get("failed") == 1, "one failed")
        pairs.wait_gone(name)
        job.delete()

    def test_suspended_and_resumed(self, pairs: PodPairs) -> None:
        job = self.job(pairs, "pauses")
        self.running(job)
        job.patch(suspend=True)
        wait_until(lambda: not job.pods() and not job.host_pods(), "its pod is gone", 20)
        job.patch(suspend=False)
        job.finish("Succeeded", self.running(job))
        job.wait(complete, "complete")
        job.delete()

    def test_its_time_to_live(self, pairs: PodPairs) -> None:
        job = self.job(pairs, "fades", ttlSecondsAfterFinished=0)
        name = self.running(job)
        job.finish("Succeeded", name)
        wait_until(lambda: job.api.find(job.path) is None, "the Job is gone", 20)
        pairs.wait_gone(name)

    def job(self, pairs: PodPairs, name: str, **spec: Any) -> Workload:
        return Workload(pairs, "batch/v1", "Job", name, template=template(name, restartPolicy="Never"), **spec)

    def running(self, job: Workload, *besides: str) -> str:
        """Name of its pod that runs, not counting those."""

        def names() -> list[str]:
            found = (item["metadata"]["name"] for item in job.pods() if item["status"].get("phase") == "Running")
            return [name for name in found if name not in besides]

        wait_until(lambda: len(names()) == 1, f"a pod of {job.name} runs", 30)
        (name,) = names()
        return name


def complete(found: Any) -> bool:
    return any(item["type"] == "Complete" and item["status"] == "True" for item in found["status"].get("conditions") or ())


@pytest.mark.long  # until the minute is full
def test_a_cron_job(pairs: PodPairs) -> None:
    made = {"spec": {"template": template("ticks", restartPolicy="Never")}}
    cron = Workload(pairs, "batch/v1", "CronJob", "ticks", schedule="* * * * *", successfulJobsHistoryLimit=1, jobTemplate=made)
    wait_until(lambda: any(item["status"].get("phase") == "Running" for item in cron.pods()), "a pod runs", 90)
    (running,) = cron.pods()
    cron.finish("Succeeded", running["metadata"]["name"])
    cron.wait(lambda found: "lastSuccessfulTime" in found["status"], "it was successful")
    cron.delete()


class TestDaemonSet:
    @pytest.fixture
    def agents(self, pairs: PodPairs) -> Iterator[Workload]:
        agents = Workload(pairs, "apps/v1", "DaemonSet", "agents", selector=selector("agents"), template=template("agents"))
        yield agents
        agents.delete()

    def test_it_follows_the_nodes_that_other_pods_use(self, pairs: PodPairs, agents: Workload) -> None:
        nodes = self.used(pairs, agents)
        for node in nodes:
            pairs.delete(VIRTUAL, f"on-{node}")
            path = NODES.path(name=node)
            wait_until(lambda path=path: pairs.api(VIRTUAL).find(path) is None, f"{node}, which nobody uses, is gone", 10)  # type: ignore[misc]

    @pytest.mark.long  # the garbage collector of pods leaves those of a node that is gone alone for 40 s
    def test_its_pods_of_nodes_that_nobody_uses_any_more_go(self, pairs: PodPairs, agents: Workload) -> None:
        first, second = self.used(pairs, agents)
        pairs.delete(VIRTUAL, f"on-{first}")
        agents.wait(lambda found: found["status"].get("desiredNumberScheduled") == 1, "one is enough", 120)
        agents.wait_running(1)
        pairs.delete(VIRTUAL, f"on-{second}")

    def used(self, pairs: PodPairs, agents: Workload) -> list[str]:
        """Two nodes that ordinary pods use now, each with its pod of the DaemonSet."""
        nodes = [f"simulated-{number}" for number in (1, 2)]
        for count, node in enumerate(nodes, start=1):
            pairs.make(pod(f"on-{node}", nodeName=node))
            agents.wait(lambda found, count=count: found["status"].get("numberReady") == count, f"{count} ready")  # type: ignore[misc]
            assert sorted(item["spec"]["nodeName"] for item in agents.pods()) == nodes[:count]
        return nodes


class TestStatefulSet:
    def test_ordered_and_with_stable_names(self, pairs: PodPairs) -> None:
        db = Workload(pairs, "apps/v1", "StatefulSet", "db", replicas=3, serviceName="db", selector=selector("db"), template=template("db"))
        db.wait(lambda found: found["status"].get("availableReplicas") == 3, "3 available")
        assert [item["metadata"]["name"] for item in db.pods()] == ["db-0", "db-1", "db-2"]
        created = [item["metadata"]["creationTimestamp"] for item in db.pods()]
        assert created == sorted(created)
        assert {item["spec"]["hostname"] for item in db.host_pods()} == {"db-0", "db-1", "db-2"}
        before = {item["metadata"]["name"]: item["metadata"]["uid"] for item in db.pods()}
        pairs.delete(HOST, "db-1", gracePeriodSeconds=0)
        wait_until(
            lambda: (found := pairs.find(VIRTUAL, "db-1")) is not None and found["metadata"]["uid"] != before["db-1"], "db-1 anew", 20
        )
        db.wait_running(3)
        assert {item["metadata"]["name"]: item["metadata"]["uid"] for item in db.pods()}.items() >= {
            "db-0": before["db-0"],
            "db-2": before["db-2"],
        }.items()
        db.patch(template={"spec": {"containers": [{"name": "main", "image": "lab.local/none:2"}]}})
        db.wait(
            lambda found: (
                found["status"].get("updatedReplicas") == 3 and found["status"].get("currentRevision") == found["status"]["updateRevision"]
            ),
            "updated",
        )
        db.wait_running(3)
        db.patch(replicas=1)
        db.wait_running(1)
        assert [item["metadata"]["name"] for item in db.pods()] == ["db-0"]
        db.delete()


class TestVolumes:
    """The virtual control plane makes the claims; their host pods start once the claims are on the host, too."""

    CLASS = "lab-workloads"

    @pytest.fixture(autouse=True)
    def volumes(self, pairs: PodPairs) -> Iterator[None]:
        host = pairs.api(HOST)
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": self.CLASS}
        made = [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"lab-workloads-{number}"},
                "spec": {**spec, "hostPath": {"path": "/nowhere"}, "persistentVolumeReclaimPolicy": "Retain"},
            }
            for number in range(3)
        ]
        for volume in made:
            host.apply(volume)
        yield
        for volume in made:
            host.delete(PERSISTENT_VOLUMES.path(name=key_of(volume).name))

    def claim(self) -> Obj:
        return {"accessModes": ["ReadWriteOnce"], "storageClassName": self.CLASS, "resources": {"requests": {"storage": "1Gi"}}}

    def claims(self, pairs: PodPairs, side: Side) -> list[str]:
        namespace = NAMESPACE if side is VIRTUAL else pairs.names.host_namespace
        return sorted(key_of(item).name for item in pairs.api(side).get(PERSISTENT_VOLUME_CLAIMS.path(namespace))["items"])

    def test_an_ephemeral_volume_comes_and_goes_with_its_pod(self, pairs: PodPairs) -> None:
        pairs.run(pod("scratching", volumes=[{"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"spec": self.claim()}}}]))
        assert self.claims(pairs, VIRTUAL) == ["scratching-tmp"]
        (volume,) = pairs.get(HOST, "scratching")["spec"]["volumes"]
        assert [volume["persistentVolumeClaim"]["claimName"]] == self.claims(pairs, HOST)
        pairs.delete(VIRTUAL, "scratching")
        wait_until(lambda: self.claims(pairs, VIRTUAL) == self.claims(pairs, HOST) == [], "its claim is gone", 40)

    def test_a_stateful_set_keeps_its_claims(self, pairs: PodPairs) -> None:
        templates = [{"metadata": {"name": "data"}, "spec": self.claim()}]
        parts = {"serviceName": "kept", "selector": selector("kept"), "template": template("kept"), "volumeClaimTemplates": templates}
        kept = Workload(pairs, "apps/v1", "StatefulSet", "kept", replicas=2, **parts)
        kept.wait_running(2)
        before = self.claims(pairs, HOST)
        assert self.claims(pairs, VIRTUAL) == ["data-kept-0", "data-kept-1"]
        pairs.delete(VIRTUAL, "kept-0")
        kept.wait_running(2)
        assert self.claims(pairs, HOST) == before
        kept.delete()
        assert self.claims(pairs, HOST) == before, "claims outlive their set"
        for name in self.claims(pairs, VIRTUAL):
            pairs.api(VIRTUAL).delete(PERSISTENT_VOLUME_CLAIMS.path(NAMESPACE, name))

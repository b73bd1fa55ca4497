from __future__ import annotations

from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.releases.waiting import Progress, Scene, ended_containers, is_ready, why_not_ready

SET: Obj = {"metadata": {"name": "demo", "generation": 2}, "spec": {"replicas": 1}, "status": {"observedGeneration": 2}}
PULL = "the node has no image rancher/k3s:v9 for container vcluster: "


def pod(*statuses: Obj, name: str = "demo-0", scheduled: bool = True, **fields: Any) -> Obj:
    status = {"conditions": [{"type": "PodScheduled", "status": str(scheduled)}], "containerStatuses": list(statuses), **fields}
    return {"metadata": {"name": name}, "status": status}


def container(name: str = "vcluster", **fields: Any) -> Obj:
    return {"name": name, "image": "rancher/k3s:v9", "ready": False, "state": {}, **fields}


def waits(reason: str, message: str = "") -> Obj:
    return {"waiting": {"reason": reason, "message": message}}


def event(name: str, reason: str, message: str, at: str = "2026-11-22T00:00:01Z") -> Obj:
    return {"involvedObject": {"name": name}, "reason": reason, "message": message, "lastTimestamp": at}


def unscheduled(message: str) -> Obj:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])


CLAIM: Obj = {"metadata": {"name": "data-demo-0"}, "spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}}
ENDED = {"terminated": {"exitCode": 1, "message": "from the status"}}
CAUSES: list[tuple[str, Scene, str]] = [
    ("no StatefulSet", Scene(None), "its StatefulSet is not there"),
    ("no pod yet", Scene(SET), "the host's controllers have not made its pod yet"),
    (
        "quota",
        Scene(
            SET, events=[event("demo", "FailedCreate", 'create Pod demo-0 in StatefulSet demo failed error: pods "demo-0" is forbidden')]
        ),
        'the host refuses its pod: pods "demo-0" is forbidden',
    ),
    ("not looked at", Scene(SET, [pod(scheduled=False)]), "the host's scheduler has not looked at pod demo-0 yet"),
    ("no room", Scene(SET, [unscheduled("0/2 nodes: no cpu")]), "no node takes pod demo-0: 0/2 nodes: no cpu"),
    (
        "claim pending",
        Scene(SET, [unscheduled("pod has unbound immediate PersistentVolumeClaims")], [CLAIM]),
        "claim data-demo-0 (of storage class fast) is pending: nothing has given it a volume yet; see the values",
    ),
    (
        "claim pending, and told why",
        Scene(SET, [unscheduled("unbound PersistentVolumeClaims")], [CLAIM], [event("data-demo-0", "ProvisioningFailed", "no such class")]),
        "claim data-demo-0 (of storage class fast) is pending: no such class; see the values",
    ),
    ("no such image", Scene(SET, [pod(container(state=waits("ImagePullBackOff", "back-off")))]), PULL + "back-off"),
    ("no such image, and no words", Scene(SET, [pod(container(state=waits("ErrImageNeverPull")))]), PULL + "ErrImageNeverPull"),
    (
        "crash-looping, with its log",
        Scene(SET, [pod(container(state=waits("CrashLoopBackOff"), lastState=ENDED))], logs={("demo-0", "vcluster"): "a\nb\nc\nd\n"}),
        "container vcluster ended with exit code 1, and is started again; it said: b / c / d",
    ),
    (
        "crash-looping, its log may not be read",
        Scene(SET, [pod(container(state=waits("CrashLoopBackOff"), lastState=ENDED))]),
        "container vcluster ended with exit code 1, and is started again; it said: from the status",
    ),
    (
        "several in trouble: the API server's is the cause",
        Scene(
            SET, [pod(*(container(name, state=waits("CrashLoopBackOff"), lastState=ENDED) for name in ("coredns", "syncer", "vcluster")))]
        ),
        "container vcluster ended with exit code 1, and is started again; it said: from the status",
    ),
    (
        "CoreDNS ends for want of it, and so does the syncer",
        Scene(SET, [pod(*(container(name, state=waits("CrashLoopBackOff"), lastState=ENDED) for name in ("coredns", "syncer")))]),
        "container syncer ended with exit code 1, and is started again; it said: from the status",
    ),
    (
        "an image that is missing is before all",
        Scene(SET, [pod(container(state=waits("CrashLoopBackOff"), lastState=ENDED), container("coredns", state=waits("ErrImagePull")))]),
        "the node has no image rancher/k3s:v9 for container coredns: ErrImagePull",
    ),
    (
        "killed",
        Scene(SET, [pod(container(state=waits("CrashLoopBackOff"), lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))]),
        "container vcluster ended with exit code 137 for want of memory, and is started again; it said nothing",
    ),
    (
        "started again, and not ready",
        Scene(SET, [pod(container(state={"running": {}}, lastState=ENDED))]),
        "container vcluster ended with exit code 1, and is started again; it said: from the status",
    ),
    (
        "started again long ago, and ready; another is not",
        Scene(SET, [pod(container(state={"running": {}}, ready=True, lastState=ENDED), container("syncer", state={"running": {}}))]),
        "pod demo-0 runs, and is not ready yet: syncer",
    ),
    (
        "an init container",
        Scene(SET, [pod(initContainerStatuses=[container("prepare", state={"terminated": {"exitCode": 2, "message": "no"}})])]),
        "container prepare ended with exit code 2, and is started again; it said: no",
    ),
    (
        "cannot be made",
        Scene(SET, [pod(container(state=waits("CreateContainerConfigError", "runAsNonRoot")))]),
        "container vcluster: CreateContainerConfigError: runAsNonRoot",
    ),
    (
        "pulls",
        Scene(
            SET,
            [pod(container(state=waits("ContainerCreating")))],
            events=[
                event("demo-0", "Scheduled", "x", "2026-11-22T00:00:00Z"),
                event("demo-0", "Pulling", 'Pulling image "rancher/k3s:v9"'),
            ],
        ),
        'pod demo-0: pulling image "rancher/k3s:v9"',
    ),
    (
        "mount fails",
        Scene(SET, [pod(container(state=waits("ContainerCreating")))], events=[event("demo-0", "FailedMount", "MountVolume failed")]),
        "pod demo-0: MountVolume failed",
    ),
    (
        "being made",
        Scene(SET, [pod(container(state=waits("ContainerCreating")))]),
        "pod demo-0: the node has not started vcluster yet",
    ),
    (
        "probe",
        Scene(SET, [pod(container("syncer", state={"running": {}}))], events=[event("demo-0", "Unhealthy", "Readiness probe failed: 503")]),
        "pod demo-0 runs, and is not ready yet: syncer (Readiness probe failed: 503)",
    ),
    (
        "evicted",
        Scene(SET, [pod(phase="Failed", reason="Evicted", message="low on disk")]),
        "pod demo-0 failed: Evicted low on disk",
    ),
    (
        "a predecessor",
        Scene(SET, [{"metadata": {"name": "demo-0", "deletionTimestamp": "2026-11-22T00:00:00Z"}}]),
        "an earlier pod demo-0 is still ending",
    ),
    (
        "the second of two",
        Scene(
            {**SET, "spec": {"replicas": 2}},
            [pod(conditions=[{"type": "Ready", "status": "True"}]), pod(container(state={"running": {}}), name="demo-1")],
        ),
        "pod demo-1 runs, and is not ready yet: vcluster",
    ),
    (
        "all pods are ready, and the StatefulSet does not know yet",
        Scene(SET, [pod(conditions=[{"type": "Ready", "status": "True"}])]),
        "the host has not told yet that it is ready",
    ),
]


@pytest.mark.parametrize(("scene", "expected"), [cause[1:] for cause in CAUSES], ids=[cause[0] for cause in CAUSES])
def test_why(scene: Scene, expected: str) -> None:
    found = why_not_ready(scene)
    assert found.startswith(expected) if expected.endswith("see the values") else found == expected


READY = {"observedGeneration": 2, "readyReplicas": 1, "updateRevision": "a", "currentRevision": "a"}
READINESS: list[tuple[Obj, Obj, bool]] = [
    ({}, {}, True),
    ({}, {"readyReplicas": 0}, False),
    ({}, {"readyReplicas": None}, False),
    ({}, {"observedGeneration": 1}, False),
    ({}, {"currentRevision": "b"}, False),
    ({}, {"currentRevision": "b", "updatedReplicas": 1}, True),
    ({"replicas": 2}, {}, False),
    ({"replicas": 0}, {"readyReplicas": 0}, True),
]


@pytest.mark.parametrize(("spec", "status", "expected"), READINESS)
def test_is_ready(spec: Obj, status: Obj, expected: bool) -> None:
    assert is_ready({**SET, "spec": {**SET["spec"], **spec}, "status": {**READY, **status}}) is expected


def test_whose_last_words_count() -> None:
    pods = [
        pod(
            container("never"),
            container("loops", state=waits("CrashLoopBackOff"), lastState=ENDED),
            container("again", state={"running": {}}, lastState=ENDED),
            container("fine", ready=True, state={"running": {}}, lastState=ENDED),
            container("done", state={"terminated": {"exitCode": 0}}),
            container("failed", state=ENDED),
        )
    ]
    assert list(ended_containers(pods)) == [("demo-0", "loops", False), ("demo-0", "again", True), ("demo-0", "failed", False)]


def test_progress_is_silent_at_first_and_then_tells_what_changes() -> None:
    now, said = [0.0], list[str]()
    progress = Progress("waiting for demo", said.append, lambda: now[0], 60)
    for at, reason in ((0, "a"), (4, "b"), (5, "b"), (6, "b"), (7, "c"), (21, "c"), (22, "c"), (23, "d")):
        now[0] = at
        progress.waits(reason)
    assert said == [f"waiting for demo, {at} s: {reason}" for at, reason in ((5, "b"), (7, "c"), (22, "c"), (23, "d"))]
    assert (progress.elapsed, progress.reason) == (23, "d")

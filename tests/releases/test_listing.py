from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from syncer.kube.types import PODS, Obj
from syncer.naming import Names
from syncer.releases.demand import cores, mebibytes, requested, total
from syncer.releases.listing import documents, lines, rows
from syncer.releases.release import releases
from syncer.translate.metadata import host_metadata


def container(cpu: str | None = None, **fields: Any) -> Obj:
    return {"resources": {"requests": {"cpu": cpu}} if cpu else {}, **fields}


SIDECAR = {"restartPolicy": "Always"}
DEMANDS: list[tuple[str, Obj, str]] = [
    ("nothing", {}, "0"),
    ("containers together", {"containers": [container("1"), container("500m"), container()]}, "1.5"),
    ("a large init container", {"containers": [container("1")], "initContainers": [container("3"), container("2")]}, "3"),
    ("a small one", {"containers": [container("1")], "initContainers": [container("100m")]}, "1"),
    ("a sidecar", {"containers": [container("1")], "initContainers": [container("200m", **SIDECAR)]}, "1.2"),
    (
        "an init container beside the sidecar before it, not the one after",
        {"containers": [container("1")], "initContainers": [container("1", **SIDECAR), container("3"), container("1", **SIDECAR)]},
        "4",
    ),
    ("overhead", {"containers": [container("1")], "overhead": {"cpu": "250m"}}, "1.25"),
    ("of the whole pod", {"containers": [container("1")], "resources": {"requests": {"cpu": "2"}}}, "2"),
    ("nonsense", {"containers": [container("lots"), container("1x")]}, "0"),
]


@pytest.mark.parametrize(("spec", "expected"), [case[1:] for case in DEMANDS], ids=[case[0] for case in DEMANDS])
def test_what_a_pod_asks_for(spec: Obj, expected: str) -> None:
    assert requested(spec, "cpu") == Decimal(expected)


def test_what_has_finished_asks_for_nothing() -> None:
    spec = {"containers": [container("1")]}
    pods = [{"spec": spec, "status": {"phase": phase}} for phase in ("Running", "Pending", "Succeeded", "Failed")]
    assert total([*pods, {"spec": spec}], "cpu") == 3


def test_written_as_kubectl_writes_it() -> None:
    assert (cores(Decimal("1.25")), mebibytes(Decimal(64 * 2**20))) == ("1250m", "64Mi")


def tenant_pod(cluster: str, name: str, phase: str = "Running", **labels: str) -> Obj:
    virtual = {"metadata": {"name": name, "namespace": "default", "uid": name}}
    metadata = host_metadata(Names(cluster, "team"), None, PODS, virtual)
    metadata["labels"] |= labels
    return {"metadata": metadata, "spec": {"containers": [container("1")]}, "status": {"phase": phase}}


def stateful_set(name: str, image: str, *, release: str = "", **annotations: str) -> Obj:
    labels = {"app": "vcluster", "release": release or name}
    template = {"spec": {"containers": [{"image": "syncer:0.1.0"}, {"image": image}]}}
    metadata = {
        "name": name,
        "namespace": "team",
        "labels": labels,
        "annotations": annotations,
        "creationTimestamp": "2026-11-22T00:00:00Z",
    }
    return {"metadata": metadata, "spec": {"template": template}, "status": {"readyReplicas": 1}}


def test_a_row_each() -> None:
    sets = [
        stateful_set("two", "registry.k8s.io/kube-apiserver:v1.35.1", **{"loft.sh/paused": "true"}),
        stateful_set("one", "registry:5000/rancher/k3s:v1.36.3-k3s1"),
        stateful_set("one-etcd", "etcd", release="one"),
        stateful_set("three", "k3s@sha256:0123"),
    ]
    own = {"metadata": {"name": "one-0", "namespace": "team", "labels": {"release": "one"}}, "spec": {"containers": [container("500m")]}}
    forged = tenant_pod("one", "forged")
    forged["metadata"]["name"] = "another"
    pods = [tenant_pod("one", "a"), tenant_pod("one", "b", "Succeeded"), tenant_pod("two", "c"), tenant_pod("elsewhere", "d"), forged]
    found = rows(releases(sets, [own]), pods)
    assert [(row["name"], row["status"], row["version"], row["pods"], row["requests"]["cpu"]) for row in documents(found)] == [
        ("one", "Running", "v1.36.3", 1, "1500m"),
        ("three", "Running", "", 0, "0m"),
        ("two", "Paused", "v1.35.1", 1, "1000m"),
    ]
    table = lines(found, 1795305600.0 + 90)
    assert table[0].split() == ["NAME", "NAMESPACE", "STATUS", "VERSION", "AGE", "PODS", "CPU", "MEMORY"]
    assert table[2].split() == ["three", "team", "Running", "unknown", "90s", "0", "0m", "0Mi"]

"""Create, pause, resume and delete by command on the real node: what comes back, what is left, and how long it takes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.commands import Commands
from e2e.controlplanes import k8s_values
from e2e.installed import Installed, merged
from e2e.inventory import Where, differences, inventory
from e2e.lab import installation, k8s_images, node, provisioner
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1; done"


@pytest.fixture(scope="module")
def host(prepared_node: HostCluster) -> Iterator[HostCluster]:
    """With a provisioner of volumes."""
    provisioner.start(prepared_node)
    yield prepared_node
    provisioner.stop(prepared_node)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the chart has to be told here; with a volume."""
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    path.write_text(yaml.safe_dump(merged(installation.values(), {"storage": {"persistence": True, "size": "100Mi"}})))
    return path


@pytest.fixture(scope="module")
def syncer(host: HostCluster, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(host.kubeconfig, tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def cleared(host: HostCluster, syncer: Commands) -> Iterator[None]:
    """Whatever a test leaves goes."""
    yield
    for row in json.loads(syncer.run("list", "-ojson").out or "[]"):
        syncer.run("delete", row["name"], f"--namespace={row['namespace']}")
    wait_for_volumes_to_go(host)


def connected(host: HostCluster, name: str) -> Installed:
    """What was created, as its tenant reaches it; its API has answered."""
    found = Installed(host, name, f"vcluster-{name}")
    found.wait_ready()
    assert found.kubectl("get", "namespaces", "--output=name").count("namespace/") >= 4
    return found


def workload(name: str, kind: str, version: str, script: str, *, claim: bool = False, **spec: Any) -> Obj:
    container: Obj = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script]}
    pod: Obj = {"containers": [container], "terminationGracePeriodSeconds": 5}
    if claim:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    metadata = {"name": name, "namespace": "default", "labels": {"app": name}}
    if kind == "Pod":
        return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {**pod, **spec}}
    if kind == "Job":
        pod["restartPolicy"] = "Never"
    else:
        spec["selector"] = {"matchLabels": {"app": name}}
    spec["template"] = {"metadata": {"labels": {"app": name}}, "spec": pod}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def everything(demo: Installed) -> None:
    """A bare pod, a StatefulSet that writes into its claim, a Deployment, a Job that ends and one that does not, and Services."""
    claims = [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}}]
    objects = [
        workload("bare", "Pod", "v1", FOREVER),
        workload(
            "db",
            "StatefulSet",
            "apps/v1",
            f"echo started >> /data/log; {FOREVER}",
            claim=True,
            serviceName="db",
            volumeClaimTemplates=claims,
        ),
        workload("web", "Deployment", "apps/v1", FOREVER, replicas=2),
        workload("ended", "Job", "batch/v1", "echo all done; sleep 1"),  # the last words of a container can be lost on a busy node
        workload("working", "Job", "batch/v1", FOREVER, backoffLimit=0),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "outside"},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80}]},
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "b"}},
    ]
    for obj in objects:
        demo.api.apply(obj)
    wait_until(lambda: sorted(phases(demo).values()) == ["Running"] * 5 + ["Succeeded"], "all run", 120)
    assert demo.kubectl("logs", "job/ended") == "all done\n"


def pods(demo: Installed) -> list[Obj]:
    found: list[Obj] = demo.api.get("/api/v1/namespaces/default/pods")["items"]
    return found


def phases(demo: Installed) -> dict[str, str]:
    """By the pods' UIDs."""
    return {f"{pod['metadata']['name']} {pod['metadata']['uid']}": pod["status"]["phase"] for pod in pods(demo)}


def addresses(demo: Installed) -> dict[str, Any]:
    services = demo.api.get("/api/v1/namespaces/default/services")["items"]
    return {
        one["metadata"]["name"]: (one["spec"]["clusterIP"], [port.get("nodePort") for port in one["spec"]["ports"]]) for one in services
    }


def claimed(demo: Installed) -> dict[str, str]:
    """The host's claims, and their UIDs."""
    found = demo.host.api.get(f"{demo.path}/persistentvolumeclaims")["items"]
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}


def left(host: HostCluster, before: dict[Where, str]) -> list[str]:
    """What is there that was not, and what is not there that was; but for the pods of the provisioner."""
    found = differences(before, inventory(host.api))
    return [line for line in found if not line.startswith("~ ") and " local-path-storage " not in line]


def wait_for_volumes_to_go(host: HostCluster) -> None:
    """All but those that are to be kept."""

    def gone() -> bool:
        found = host.api.get("/api/v1/persistentvolumes")["items"]
        return all(one["spec"]["persistentVolumeReclaimPolicy"] == "Retain" for one in found)

    wait_until(gone, "the provisioner has removed the volumes", 90)


def running(host: HostCluster, namespace: str) -> list[str]:
    found = host.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return sorted(one["metadata"]["name"] for one in found if one["status"].get("phase") not in ("Succeeded", "Failed"))


@pytest.mark.long
def test_so_does_a_pause_of_upstream_images(host: HostCluster, syncer: Commands, values: Path, tmp_path: Path) -> None:
    """Their data is in an etcd with a StatefulSet of its own."""
    node.import_images(host.lab, *k8s_images.build())
    more = tmp_path / "k8s.yaml"
    more.write_text(yaml.safe_dump(k8s_values()))
    a_pause_brings_the_same_state_back(host, syncer, f"--values={values}", f"--values={more}", "--set=storage.persistence=true")


def test_a_pause_brings_the_same_state_back(host: HostCluster, syncer: Commands, values: Path) -> None:
    a_pause_brings_the_same_state_back(host, syncer, f"--values={values}")


def a_pause_brings_the_same_state_back(host: HostCluster, syncer: Commands, *chosen: str) -> None:
    syncer.run("create", "slept", *chosen).succeeded()
    demo = connected(host, "slept")
    everything(demo)
    before, services, claims = phases(demo), addresses(demo), claimed(demo)
    began = time.monotonic()
    syncer.run("pause", "slept").succeeded()
    paused = time.monotonic()
    assert running(host, "vcluster-slept") == []
    syncer.run("pause", "slept").succeeded()
    again = time.monotonic()
    syncer.run("resume", "slept").succeeded()
    resumed = time.monotonic()
    demo.wait_ready()
    wait_until(lambda: len(demo.tenant_pods()) == len(before), "all have host pods", 120)
    wait_until(lambda: phases(demo) == before, "they are the same pods as before", 120)
    print(f"pause {paused - began:.1f} s, resume {resumed - again:.1f} s, all pods {time.monotonic() - again:.1f} s")
    assert (addresses(demo), claimed(demo)) == (services, claims)
    wait_until(
        lambda: demo.kubectl("exec", "db-0", "--", "cat", "/data/log", check=False) == "started\nstarted\n", "its claim has its data", 60
    )
    assert "all done" in demo.kubectl("logs", "job/ended")
    jobs = {one["metadata"]["name"]: one["status"] for one in demo.api.get("/apis/batch/v1/namespaces/default/jobs")["items"]}
    assert (jobs["ended"].get("succeeded"), jobs["working"].get("active"), jobs["working"].get("failed")) == (1, 1, None)
    assert demo.api.get("/api/v1/namespaces/default/configmaps/kept")["data"] == {"a": "b"}
    assert demo.kubectl("exec", "bare", "--", "echo", "here").strip() == "here"
    endpoints = demo.api.get("/api/v1/namespaces/default/endpoints/web")["subsets"][0]["addresses"]
    assert len(endpoints) == 2


def test_nothing_is_left(host: HostCluster, syncer: Commands, values: Path) -> None:
    before = inventory(host.api)
    began = time.monotonic()
    listing = ("kubectl", "get", "namespaces", "--output=name")
    answer = syncer.run("create", "brief", f"--values={values}", "--connect", "--", *listing).succeeded()
    answered = time.monotonic()
    assert "namespace/kube-system" in answer.out.splitlines()
    everything(connected(host, "brief"))
    deleting = time.monotonic()
    deleted = syncer.run("delete", "brief").succeeded()
    print(f"create to first answer {answered - began:.1f} s, delete {time.monotonic() - deleting:.1f} s\n{deleted.out}")
    assert "PersistentVolumeClaim data-brief-0" in deleted.out
    assert "Namespace vcluster-brief deleted" in deleted.out
    wait_for_volumes_to_go(host)
    assert left(host, before) == []


@pytest.mark.long
def test_a_paused_one_goes_too(host: HostCluster, syncer: Commands, values: Path) -> None:
    before = inventory(host.api)
    syncer.run("create", "halted", f"--values={values}").succeeded()
    everything(connected(host, "halted"))
    syncer.run("pause", "halted").succeeded()
    syncer.run("delete", "halted").succeeded()
    wait_for_volumes_to_go(host)
    assert left(host, before) == []


@pytest.mark.long
def test_it_says_which_image_is_missing(host: HostCluster, syncer: Commands, values: Path) -> None:
    late = syncer.run("create", "blind", f"--values={values}", "--set=vcluster.image=lab.local/none:1", "--timeout=15s")
    assert late.code == 4
    assert "the node has no image lab.local/none:1 for container vcluster" in late.err, late.err
    late = syncer.run(
        "create", "blind", "--upgrade", "--set=vcluster.image=lab.local/syncer:0,vcluster.command={/bin/false}", "--timeout=25s"
    )
    assert late.code == 4
    assert "container vcluster ended with exit code 1" in late.err, late.err
    assert host.running()

"""The host namespace of a virtual cluster is deleted by mistake, and applied again from what was saved of it."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e.guestbook import is_ready, kubectl
from e2e.lab import provisioner
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.installed import Install, Installed
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.long, pytest.mark.timeout(400)]

NAMESPACE = "team-kept"
MERGE = "application/merge-patch+json"
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}, "storageClassName": provisioner.IMMEDIATE}
MAIN = {
    "name": "main",
    "image": BUSYBOX,
    "command": ["sh", "-c", "echo $WORD >>/data/words; sleep 1d"],
    "envFrom": [{"configMapRef": {"name": "app"}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}
SPEC = {
    "containers": [MAIN],
    "terminationGracePeriodSeconds": 0,
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "app"}}],
}
APP: list[Obj] = [
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app"}, "data": {"WORD": "precious"}},
    {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "app"}, "spec": CLAIM},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "app"}, "spec": {"selector": {"app": "app"}, "ports": [{"port": 80}]}},
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app"},
        "spec": {
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": "app"}},
            "template": {"metadata": {"labels": {"app": "app"}}, "spec": SPEC},
        },
    },
]


@pytest.fixture(scope="module")
def host(prepared_node: HostCluster) -> Iterator[HostCluster]:
    """With a provisioner whose volumes are kept when their claims go."""
    provisioner.start(prepared_node)
    yield prepared_node
    provisioner.stop(prepared_node)
    for volume in prepared_node.api.get("/api/v1/persistentvolumes")["items"]:
        prepared_node.api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")


def save(host: HostCluster, namespace: str) -> str:
    """Everything in a namespace, as `kubectl get -o json` shows it, without what is of those very objects.

    Owners are told by UID: what they own would be collected at once, claims and all.
    """
    kinds = kubectl(host, "api-resources", "--namespaced", "--verbs=list,create", "--output=name").split()
    kept = [kind for kind in kinds if kind.partition(".")[0] != "events"]
    found = json.loads(kubectl(host, "get", ",".join(kept), f"--namespace={namespace}", "--output=json"))
    for item in found["items"]:
        for field in ("ownerReferences", "resourceVersion", "uid"):
            item["metadata"].pop(field, None)
    return json.dumps(found)


def pod(blue: Installed) -> Obj | None:
    """The tenant's one pod that is ready."""
    found: list[Any] = [one for one in blue.api.get("/api/v1/namespaces/default/pods")["items"] if is_ready(one)]
    return found[0] if len(found) == 1 else None


def words(blue: Installed) -> list[str]:
    wait_until(lambda: pod(blue) is not None, "the tenant's pod is ready", 120)
    return blue.kubectl("exec", "deployment/app", "--", "cat", "/data/words").split()


def test_with_the_volume_kept_all_comes_back(host: HostCluster, install: Install) -> None:
    blue = install("kept", NAMESPACE, {"storage": {"persistence": True, "size": "1Gi", "className": provisioner.IMMEDIATE}})
    for obj in APP:
        obj["metadata"]["namespace"] = "default"
        blue.api.apply(obj)
    assert words(blue) == ["precious"]
    system = blue.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    address = blue.address
    saved = save(host, NAMESPACE)
    volumes = [one["spec"]["volumeName"] for one in host.api.get(f"{blue.path}/persistentvolumeclaims")["items"]]
    assert len(volumes) == 2

    host.api.delete(blue.path)
    wait_until(lambda: host.api.find(blue.path) is None, "the namespace is gone", 120)
    for volume in volumes:
        wait_until(functools.partial(is_released, host, volume), f"{volume} is released", 60)
        host.api.request("PATCH", f"/api/v1/persistentvolumes/{volume}", {"spec": {"claimRef": None}}, content_type=MERGE)
    host.create_namespace(NAMESPACE)
    file = blue.directory / "saved.json"
    file.write_text(saved)
    for _ in range(2):  # at first there are pods whose service account comes later in the file
        kubectl(host, "apply", f"--filename={file}", check=False)

    blue.wait_ready()
    assert blue.address == address
    assert blue.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"] == system
    assert set(words(blue)) == {"precious"}
    claim = blue.api.get("/api/v1/namespaces/default/persistentvolumeclaims/app")
    assert claim["status"]["phase"] == "Bound"
    for obj in APP:
        assert blue.api.find(blue.api.path_of(obj)) is not None


def test_with_the_data_lost_nothing_is_touched_and_it_is_told(host: HostCluster, install: Install) -> None:
    """An emptyDir is gone for good: what starts is another cluster, and what runs on the host belongs to the old one."""
    blue = install("lost", "team-lost")
    spec = {"containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "1d"]}], "terminationGracePeriodSeconds": 0}
    metadata = {"name": "app", "namespace": "default"}
    blue.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    wait_until(lambda: pod(blue) is not None, "the tenant's pod is ready", 60)
    file = blue.directory / "saved.json"
    file.write_text(save(host, "team-lost"))
    host.api.delete(blue.path)
    wait_until(lambda: host.api.find(blue.path) is None, "the namespace is gone", 120)
    host.create_namespace("team-lost")
    for _ in range(2):
        kubectl(host, "apply", f"--filename={file}", check=False)
    wait_until(lambda: any(is_ready(one) for one in blue.tenant_pods()), "the restored pod of the tenant runs", 90)

    def told() -> bool:
        events = host.api.get(f"{blue.path}/events")["items"]
        return any(one["reason"] == "FenceClosed" and one["involvedObject"]["name"] == "vc-lost-owner" for one in events)

    wait_until(told, "it is told", 90)
    before = {one["metadata"]["uid"] for one in blue.tenant_pods()}
    wait_until(lambda: "lost its data" in blue.logs(), "the log says so", 30)
    assert {one["metadata"]["uid"] for one in blue.tenant_pods() if is_ready(one)} == before


def is_released(host: HostCluster, volume: str) -> bool:
    return bool(host.api.get(f"/api/v1/persistentvolumes/{volume}")["status"]["phase"] == "Released")

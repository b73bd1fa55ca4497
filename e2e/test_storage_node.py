"""Storage on the real node: volumes that a provisioner makes, files that outlive their pods, and volumes that go with their claims."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e import guestbook
from e2e.lab import node, provisioner
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX
from syncer.naming import Names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.lab.virtual import VirtualCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.node

MANIFESTS = """
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: db
        image: BUSYBOX
        command: [sh, -c, "hostname >>/data/starts; sleep 1d"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: scratch}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, "echo scratched >/scratch/file; sleep 1d"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
  - name: scratch
    ephemeral:
      volumeClaimTemplate:
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {storageClassName: local-path-immediate, accessModes: [ReadWriteMany], resources: {requests: {storage: 8Mi}}}
"""
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(scope="module")
def storage(real_node: HostCluster) -> Iterator[HostCluster]:
    """The host cluster with a provisioner."""
    provisioner.start(real_node)
    yield real_node
    provisioner.stop(real_node)


@pytest.fixture(scope="module")
def daemon(storage: HostCluster, tenant: StartTenant) -> Iterator[Daemon]:
    """A tenant with a StatefulSet, a pod with an ephemeral volume, and a claim without a pod; the pods are ready."""
    started = tenant("storage", cluster_rights=True)
    virtual = started.virtual
    wait_until(lambda: virtual.api.find(f"/apis/storage.k8s.io/v1/storageclasses/{provisioner.CLASS}") is not None, "classes are shown", 20)
    for obj in yaml.safe_load_all(MANIFESTS.replace("BUSYBOX", BUSYBOX)):
        virtual.api.apply(obj)
    for pod in ("db-0", "db-1", "scratch"):
        wait_until(functools.partial(is_ready, virtual, pod), f"pod {pod} is ready", 90)
    yield started
    for volume in storage.api.get(VOLUMES)["items"]:
        if volume["spec"]["claimRef"]["namespace"] == virtual.host_namespace:
            storage.api.delete(f"{VOLUMES}/{volume['metadata']['name']}")


def is_ready(virtual: VirtualCluster, pod: str) -> bool:
    found = virtual.api.find(f"{PODS}/{pod}")
    conditions = found["status"].get("conditions", []) if found else []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def claim(virtual: VirtualCluster, name: str) -> Obj:
    found: Obj = virtual.api.get(f"{CLAIMS}/{name}")
    return found


def in_pod(daemon: Daemon, pod: str, *command: str) -> str:
    virtual = daemon.virtual
    return guestbook.in_pod(
        virtual.host, virtual.host_namespace, Names(virtual.name, virtual.host_namespace).host_name("default", pod), *command
    )


def columns(daemon: Daemon, kind: str) -> dict[str, list[str]]:
    """What `kubectl get` shows of each object of a kind."""
    lines = guestbook.kubectl(daemon.virtual, "get", kind, "--no-headers").splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def directory_of(daemon: Daemon, volume: str) -> str:
    """Where the host has a volume, on the node."""
    source: Any = daemon.virtual.host.api.get(f"{VOLUMES}/{volume}")["spec"]
    path: str = (source.get("hostPath") or source["local"])["path"]
    return path


def exists(daemon: Daemon, path: str) -> bool:
    return "yes" in node.run(daemon.virtual.lab, "sh", "-c", f"if [ -e '{path}' ]; then echo yes; fi")


def test_claims_of_a_statefulset_are_provisioned_by_the_host(daemon: Daemon) -> None:
    for name in ("data-db-0", "data-db-1", "scratch-scratch"):
        found = claim(daemon.virtual, name)
        assert found["status"]["phase"] == "Bound"
        assert found["spec"]["storageClassName"] == provisioner.CLASS
        assert found["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == node.NAME
    assert in_pod(daemon, "scratch", "cat", "/scratch/file").strip() == "scratched"


def test_kubectl_shows_the_hosts_facts(daemon: Daemon) -> None:
    volume = claim(daemon.virtual, "data-db-0")["spec"]["volumeName"]
    assert columns(daemon, "pvc")["data-db-0"][:5] == ["Bound", volume, "8Mi", "RWO", provisioner.CLASS]
    assert columns(daemon, "pv")[volume][:6] == ["8Mi", "RWO", "Delete", "Bound", "default/data-db-0", provisioner.CLASS]
    assert columns(daemon, "sc")[provisioner.CLASS][:4] == ["(default)", "rancher.io/local-path", "Delete", "WaitForFirstConsumer"]
    kept = claim(daemon.virtual, "kept")["spec"]["volumeName"]
    assert columns(daemon, "pv")[kept][:6] == ["8Mi", "RWX", "Retain", "Bound", "default/kept", provisioner.IMMEDIATE]
    shown = guestbook.kubectl(daemon.virtual, "get", "pv,pvc,sc", "-o", "yaml")
    assert daemon.virtual.host_namespace not in shown
    assert provisioner.DIRECTORY not in shown


def test_a_file_outlives_its_pod(daemon: Daemon) -> None:
    virtual = daemon.virtual
    in_pod(daemon, "db-0", "sh", "-c", "echo precious >/data/file")
    uid = virtual.api.get(f"{PODS}/db-0")["metadata"]["uid"]
    virtual.api.delete(f"{PODS}/db-0")
    wait_until(lambda: (virtual.api.find(f"{PODS}/db-0") or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, "a new pod", 30)
    wait_until(lambda: is_ready(virtual, "db-0"), "it is ready", 60)
    assert in_pod(daemon, "db-0", "cat", "/data/file", "/data/starts").split() == ["precious", "db-0", "db-0"]
    assert in_pod(daemon, "db-1", "cat", "/data/starts").split() == ["db-1"]


def test_an_ephemeral_volume_goes_with_its_pod(daemon: Daemon) -> None:
    virtual = daemon.virtual
    volume = claim(virtual, "scratch-scratch")["spec"]["volumeName"]
    directory = directory_of(daemon, volume)
    assert exists(daemon, directory)
    virtual.api.delete(f"{PODS}/scratch")
    for path in (f"{CLAIMS}/scratch-scratch", f"{VOLUMES}/{volume}"):
        wait_until(functools.partial(is_gone, virtual, path), f"{path} is gone", 60)
    wait_until(lambda: not exists(daemon, directory), "the directory is gone", 60)


def test_a_claim_that_is_deleted_takes_the_hosts_volume_with_it(daemon: Daemon) -> None:
    virtual = daemon.virtual
    volume = claim(virtual, "data-db-1")["spec"]["volumeName"]
    directory = directory_of(daemon, volume)
    virtual.api.delete(f"{CLAIMS}/data-db-1")
    assert claim(virtual, "data-db-1")["metadata"]["deletionTimestamp"]
    assert in_pod(daemon, "db-1", "cat", "/data/starts").split() == ["db-1"]  # in use: it stays until the pod is gone
    scale = {"spec": {"replicas": 1}}
    path = "/apis/apps/v1/namespaces/default/statefulsets/db"
    virtual.api.request("PATCH", path, scale, content_type="application/merge-patch+json")
    for gone in (f"{CLAIMS}/data-db-1", f"{VOLUMES}/{volume}"):
        wait_until(functools.partial(is_gone, virtual, gone), f"{gone} is gone", 60)
    wait_until(lambda: virtual.host.api.find(f"{VOLUMES}/{volume}") is None, "the host's volume is gone", 60)
    assert not exists(daemon, directory)


def test_a_retained_volume_stays_and_is_shown_released(daemon: Daemon) -> None:
    virtual = daemon.virtual
    volume = claim(virtual, "kept")["spec"]["volumeName"]
    directory = directory_of(daemon, volume)
    virtual.api.delete(f"{CLAIMS}/kept")
    wait_until(lambda: virtual.api.get(f"{VOLUMES}/{volume}")["status"]["phase"] == "Released", "shown as released", 30)
    wait_until(lambda: virtual.host.api.get(f"{VOLUMES}/{volume}")["status"]["phase"] == "Released", "and is", 30)
    assert virtual.api.get(f"{VOLUMES}/{volume}")["status"]["phase"] == "Released"
    assert exists(daemon, directory)


def is_gone(virtual: VirtualCluster, path: str) -> bool:
    return virtual.api.find(path) is None

"""Claims, volumes and classes of a tenant on both sides, for tests; the provisioner's part is played by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e2e.lab.api import wait_until
from syncer.naming import Names

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Api, Obj

CLASSES, VOLUMES = "/apis/storage.k8s.io/v1/storageclasses", "/api/v1/persistentvolumes"
DEFAULT = "storageclass.kubernetes.io/is-default-class"
MERGE = "application/merge-patch+json"
PROVISIONER = "volumes.e2e/by-hand"


def storage_class(name: str, *, default: bool = False, **fields: Any) -> Obj:
    metadata = {"name": name, "annotations": {DEFAULT: "true"} if default else {}}
    base = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata, "provisioner": PROVISIONER}
    return {**base, "volumeBindingMode": "Immediate", "reclaimPolicy": "Delete", **fields}


class Side:
    """Claims of one namespace, and volumes, on one side."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{name}"

    def claim(self, name: str) -> Obj | None:
        return self.api.find(self.path(name))

    def phase(self, name: str) -> str | None:
        found = self.claim(name)
        return found["status"].get("phase") if found else None

    def volume(self, name: str) -> Obj | None:
        return self.api.find(f"{VOLUMES}/{name}")

    def patch(self, path: str, body: Obj) -> Any:
        return self.api.request("PATCH", path, body, content_type=MERGE)


class Tenant:
    """A tenant's claims on both sides."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        virtual = daemon.virtual
        self.names = Names(virtual.name, virtual.host_namespace)
        self.virtual, self.host = Side(virtual.api, "default"), Side(virtual.host.api, virtual.host_namespace)

    def host_name(self, name: str) -> str:
        return self.names.host_name("default", name)

    def ask(self, name: str, *, copied: bool = True, annotations: dict[str, str] | None = None, **spec: Any) -> Obj:
        """Make a virtual claim; the host claim, once there is one."""
        asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
        metadata = {"name": name, "annotations": annotations or {}}
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": asked}
        self.virtual.api.request("POST", self.virtual.path("").rstrip("/"), body)
        if not copied:
            return {}
        wait_until(lambda: self.host.claim(self.host_name(name)) is not None, f"host claim of {name}", 20)
        found = self.host.claim(self.host_name(name))
        assert found is not None
        return found

    def provision(self, name: str, volume: str, *, policy: str = "Delete", size: str = "1Gi", **spec: Any) -> Obj:
        """What a provisioner does for the host claim, and then wait until the host's binder has bound it; the host volume."""
        claim = self.host.claim(self.host_name(name))
        assert claim is not None
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": self.host.namespace,
            "name": claim["metadata"]["name"],
        }
        made: Obj = self.host.api.request("POST", VOLUMES, {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": volume,
                "labels": {"topology.kubernetes.io/zone": "z1"},
                "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER, "volumes.e2e/secret": "hidden"},
            },
            "spec": {
                "capacity": {"storage": size},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": policy,
                "storageClassName": claim["spec"].get("storageClassName"),
                "csi": {
                    "driver": "disks.example.com",
                    "volumeHandle": "10.1.2.3/hidden",
                    "volumeAttributes": {"server": "10.1.2.3"},
                    "nodeStageSecretRef": {"name": "hidden", "namespace": "kube-system"},
                },
                "claimRef": {**reference, "uid": claim["metadata"]["uid"]},
                **spec,
            },
        })  # fmt: skip
        wait_until(lambda: self.host.phase(self.host_name(name)) == "Bound", f"host claim of {name} is bound", 20)
        return made

    def wait_phase(self, name: str, phase: str) -> Obj:
        wait_until(lambda: self.virtual.phase(name) == phase, f"virtual claim {name} is {phase}", 20)
        found = self.virtual.claim(name)
        assert found is not None
        return found

    def events(self, name: str) -> dict[str, str]:
        """Message by reason of the warnings on a virtual claim."""
        found = self.virtual.api.get("/api/v1/namespaces/default/events", fieldSelector=f"involvedObject.name={name},type=Warning")
        return {event["reason"]: event["message"] for event in found["items"]}

    def wait_event(self, name: str, reason: str) -> str:
        wait_until(lambda: reason in self.events(name), f"event {reason} on {name}", 30)
        return self.events(name)[reason]

    def delete(self, name: str) -> None:
        """Delete a virtual claim, and wait until both are gone."""
        self.virtual.api.delete(self.virtual.path(name))
        wait_until(lambda: self.virtual.claim(name) is None, f"virtual claim {name} is gone", 20)
        wait_until(lambda: self.host.claim(self.host_name(name)) is None, f"host claim of {name} is gone", 20)

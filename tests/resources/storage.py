"""A World that knows what API servers do to claims, volumes and classes: protection, what is immutable, phases at creation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from syncer.kube.types import NAMESPACES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES, Key, Obj, Resource, Side
from syncer.resources import persistentvolumeclaims, persistentvolumes, storageclasses
from syncer.sync.intents import Intent, Patch
from syncer.translate.merge import apply
from tests.resources.apply import POLICY, Rejected, World
from tests.resources.objects import HOST, host_marks, named

CLAIM = Key("default", "data")
HOST_CLAIM = Key(HOST, "data-x-default-x-vc")
VOLUME = Key("", "pvc-1")
BOUND_ANNOTATIONS = {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}
BOUND: Obj = {"metadata": {"annotations": BOUND_ANNOTATIONS}, "spec": {"volumeName": "pvc-1"}, "status": {"phase": "Bound"}}
BOUND["status"] |= {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}
"""What the host's binder does to a claim."""


def claim(changes: Obj | None = None) -> Obj:
    """An ordinary virtual claim, not bound yet."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"}
    base = named(CLAIM.name, spec=spec | {"storageClassName": "fast"}, status={"phase": "Pending"})
    base["metadata"] |= {"uid": "uid-data", "finalizers": ["kubernetes.io/pvc-protection"]}
    changed: Obj = apply(base, changes or {})
    return changed


def host_claim(changes: Obj | None = None) -> Obj:
    """The host claim that is made for `claim()`."""
    changed: Obj = apply({**claim(), "metadata": host_marks("PersistentVolumeClaim", CLAIM.name) | {"uid": "host-uid-data"}}, changes or {})
    changed["metadata"]["ownerReferences"] = [POLICY.owner]
    return changed


def host_volume(changes: Obj | None = None) -> Obj:
    """The host's volume for `host_claim(BOUND)`."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Delete",
        "storageClassName": "fast",
        "volumeMode": "Filesystem",
        "csi": {
            "driver": "disks.example.com",
            "volumeHandle": "10.1.2.3/vol-7",
            "fsType": "ext4",
            "volumeAttributes": {"server": "10.1.2.3"},
            "nodeStageSecretRef": {"name": "secret", "namespace": "storage"},
        },
        "claimRef": {"kind": "PersistentVolumeClaim", "namespace": HOST, "name": HOST_CLAIM.name, "uid": "host-uid-data"},
    }
    base = {"metadata": {"name": VOLUME.name, "uid": "uid-pv"}, "spec": spec, "status": {"phase": "Bound"}}
    changed: Obj = apply(base, changes or {})
    return changed


def virtual_volume(changes: Obj | None = None) -> Obj:
    """The virtual volume of `claim(BOUND)` that is made from `host_volume()`."""
    world = StorageWorld()
    world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, claim())
    world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, host_claim(BOUND))
    world.put(Side.HOST, PERSISTENT_VOLUMES, host_volume())
    world.settle(persistentvolumes.SPEC, VOLUME)
    made = world.get(Side.VIRTUAL, PERSISTENT_VOLUMES, VOLUME)
    assert made is not None
    changed: Obj = apply(made, changes or {})
    return changed


class StorageWorld(World):
    """Both sides. What is `slim`med by its watch enters so. `readable`: host volumes may be read."""

    def __init__(self, *, readable: bool = True) -> None:
        lacking = frozenset() if readable else frozenset({"persistentvolumes"})
        policy = replace(POLICY, lacking=lacking)
        self.specs = (persistentvolumeclaims.SPEC, persistentvolumes.SPEC, storageclasses.SPEC)
        super().__init__(*self.specs, policy=policy)
        self.put(Side.VIRTUAL, NAMESPACES, {"metadata": {"name": "default"}})

    def put(self, side: Side, resource: Resource, obj: Obj) -> Obj:
        slims = [w.slim for spec in self.specs for w in spec.watches if (w.side, w.resource) == (side, resource) and w.slim]
        stored = super().put(side, resource, obj)
        key = Key(stored["metadata"].get("namespace", ""), stored["metadata"]["name"])
        for slim in slims:
            kept = slim(stored, self.view())
            if kept is None:
                del self.objects[side, resource][key]
            else:
                self.objects[side, resource][key] = stored = kept
        return stored

    def settle_all(self) -> list[Intent]:
        """All loops over the claim and the volume, until none of them writes."""
        waits: list[Intent] = []
        for _ in range(8):
            before = len(self.log)
            waits = self.settle(persistentvolumeclaims.SPEC, CLAIM) + self.settle(persistentvolumes.SPEC, VOLUME)
            if len(self.log) == before:
                return waits
        raise AssertionError("never settled")

    def _create(self, side: Side, resource: Resource, obj: Obj) -> None:
        super()._create(side, resource, obj)
        stored = self.objects[side, resource][Key(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])]
        if resource == PERSISTENT_VOLUMES:
            stored["metadata"]["finalizers"] = ["kubernetes.io/pv-protection"]
            stored["status"] = {"phase": "Pending"}
        elif resource == PERSISTENT_VOLUME_CLAIMS:
            stored["metadata"]["finalizers"] = ["kubernetes.io/pvc-protection"]
            stored["status"] = {"phase": "Pending"}

    def _patch(self, intent: Patch) -> None:
        super()._patch(intent)
        metadata = self.objects[intent.side, intent.resource][intent.key]["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            del self.objects[intent.side, intent.resource][intent.key]

    def _check(self, intent: Patch, have: Obj, new: Obj) -> None:
        super()._check(intent, have, new)
        if intent.resource == PERSISTENT_VOLUME_CLAIMS:
            old, now = _immutable_of_claim(have, new)
            if old != now:
                raise Rejected(f"spec of a claim: {old} {now}")
        elif intent.resource == PERSISTENT_VOLUMES:
            for field in ("csi", "volumeMode"):
                if have["spec"].get(field) != new["spec"].get(field):
                    raise Rejected(f"{field} of a volume")
            if have["spec"].get("nodeAffinity") and have["spec"]["nodeAffinity"] != new["spec"].get("nodeAffinity"):
                raise Rejected("nodeAffinity of a volume")
        elif intent.resource == STORAGE_CLASSES:
            for field in ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"):
                if have.get(field) != new.get(field):
                    raise Rejected(f"{field} of a class")


def _immutable_of_claim(have: Obj, new: Obj) -> tuple[Any, Any]:
    """core/validation, ValidatePersistentVolumeClaimUpdate."""
    old, now = dict(have["spec"]), dict(new["spec"])
    if not old.get("volumeName"):
        now.pop("volumeName", None)
        old.pop("volumeName", None)
    if old.get("storageClassName") is None:
        now.pop("storageClassName", None)
    if (new.get("status") or {}).get("phase") == "Bound":
        for spec in (old, now):
            spec.pop("resources", None)
            spec.pop("volumeAttributesClassName", None)
    return old, now

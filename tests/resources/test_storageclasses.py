from __future__ import annotations

import pytest

from syncer.kube.types import STORAGE_CLASSES, Key, Obj, Side
from syncer.naming import LABEL_MANAGED_BY
from syncer.resources import storageclasses
from syncer.sync.intents import Create
from syncer.translate.merge import apply
from tests.resources.apply import told
from tests.resources.objects import deleting
from tests.resources.storage import StorageWorld

SPEC = storageclasses.SPEC
FAST = Key("", "fast")
DEFAULT = "storageclass.kubernetes.io/is-default-class"
CLASS: Obj = {
    "metadata": {"name": "fast"},
    "provisioner": "disks.example.com",
    "parameters": {"type": "gp3", "csi.storage.k8s.io/provisioner-secret-name": "root-password", "server": "10.1.2.3"},
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "WaitForFirstConsumer",
}
SHOWN = apply(CLASS, {"metadata": {"annotations": {LABEL_MANAGED_BY: "vc"}}}) | {"parameters": {"type": "gp3"}}
V = f"virtual storageclasses {FAST}"
LARGER = {"allowVolumeExpansion": True, "mountOptions": ["noatime"]}
TENANTS = {"metadata": {"annotations": {LABEL_MANAGED_BY: None}}}


def state(virtual: Obj | None, host: Obj | None) -> StorageWorld:
    world = StorageWorld()
    if virtual is not None:
        world.put(Side.VIRTUAL, STORAGE_CLASSES, apply(SHOWN, virtual))
    if host is not None:
        world.put(Side.HOST, STORAGE_CLASSES, apply(CLASS, host))
    return world


RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("Sync Up: create", None, {}, [f"create {V}"]),
    ("settled", {}, {}, []),
    ("Sync Down: gone from the host", {}, None, [f"delete {V} unexplained"]),
    ("Sync: what can be changed", {}, LARGER, [f"patch {V} allowVolumeExpansion+mountOptions"]),
    ("no longer", {"allowVolumeExpansion": True}, {}, [f"patch {V} allowVolumeExpansion"]),
    ("becomes the default", {}, {"metadata": {"annotations": {DEFAULT: "true"}}}, [f"patch {V} metadata"]),
    ("is the default no longer", {"metadata": {"annotations": {DEFAULT: "true"}}}, {}, [f"patch {V} metadata"]),
    ("made anew with another provisioner", {}, {"provisioner": "x"}, [f"delete {V}", f"create {V}"]),
    ("a parameter that nobody sees", {}, {"parameters": {"server": "10.9.9.9"}}, []),
    ("the tenant's own", TENANTS, None, []),
    ("the tenant's own under the name of one of the host", TENANTS, {"reclaimPolicy": "Retain"}, []),
    ("already being deleted", deleting(None), None, []),
    ("nothing on either side", None, None, []),
]  # fmt: skip


@pytest.mark.parametrize(("virtual", "host", "expected"), [pytest.param(*rule[1:], id=rule[0]) for rule in RULES])
def test_rules(virtual: Obj | None, host: Obj | None, expected: list[str]) -> None:
    world = state(virtual, host)
    assert told(world.decide(SPEC, FAST)) == expected
    assert world.settle(SPEC, FAST) == []
    assert not [line for line in told(world.log) if "host" in line.split()]


def test_parameters_do_not_tell_about_the_host() -> None:
    (create,) = state(None, {}).decide(SPEC, FAST)
    assert isinstance(create, Create)
    assert create.obj["parameters"] == {"type": "gp3"}


def test_nor_are_they_kept_in_memory() -> None:
    kept = state(None, {}).get(Side.HOST, STORAGE_CLASSES, FAST)
    assert "root-password" not in str(kept)
    assert "10.1.2.3" not in str(kept)

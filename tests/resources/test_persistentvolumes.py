from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES, Obj, Side, annotations_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.resources import persistentvolumes
from syncer.sync.intents import Create, Delete
from syncer.translate.merge import apply
from syncer.translate.volumes import HOST_VOLUME, MADE_UP, slim_volume
from tests.resources.apply import told
from tests.resources.objects import deleting
from tests.resources.storage import BOUND, HOST_CLAIM, VOLUME, StorageWorld, claim, host_claim, host_volume, virtual_volume

SPEC = persistentvolumes.SPEC


def state(
    volume: Obj | None, host: Obj | None, virtual_claim: Obj | None, claim_on_host: Obj | None, *, readable: bool = True
) -> StorageWorld:
    """Changes to a bound claim, its host claim, the host volume, and the virtual one."""
    world = StorageWorld(readable=readable)
    if virtual_claim is not None:
        world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, apply(claim(BOUND), virtual_claim))
    if claim_on_host is not None:
        world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, apply(host_claim(BOUND), claim_on_host))
    if host is not None:
        world.put(Side.HOST, PERSISTENT_VOLUMES, host_volume(host))
    if volume is not None:
        world.put(Side.VIRTUAL, PERSISTENT_VOLUMES, virtual_volume(volume))
    return world


def affinity(zone: str) -> Obj:
    expression = {"key": "zone", "operator": "In", "values": [zone]}
    return {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}}


V, H = f"virtual persistentvolumes {VOLUME}", f"host persistentvolumes {VOLUME}"
CREATE, DELETE, STATUS, SPEC_PATCH = f"create {V}", f"delete {V}", f"patch {V} status", f"patch {V} spec"
RELEASED = {"status": {"phase": "Released"}}
RETAIN = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
BIGGER = {"spec": {"capacity": {"storage": "2Gi"}}}
EARLIER = {"spec": {"claimRef": {"uid": "earlier"}}}
OURS_NOT = {"metadata": {"annotations": {LABEL_MANAGED_BY: None}}}
STRANGER = {"metadata": {"labels": {LABEL_MANAGED_BY: "other"}}}
GOING = apply(deleting(None), {"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}})

RULES: list[tuple[str, Obj | None, Obj | None, Obj | None, Obj | None, list[str]]] = [
    ("Create Backward", None, {}, {}, {}, [CREATE]),
    ("fake: not needed", {}, {}, {}, {}, []),
    ("the host claim is not bound yet", None, None, {}, {"status": {"phase": "Pending"}}, []),
    ("the host's volume is not seen yet", None, None, {}, {}, [f"wait {H}"]),
    ("wrong namespace", None, {"spec": {"claimRef": {"namespace": "elsewhere"}}}, {}, {}, [f"wait {H}"]),
    ("of an earlier host claim", None, EARLIER, {}, {}, [f"wait {H}"]),
    ("no virtual pvc", None, {}, None, {}, []),
    ("the host claim of another virtual cluster", None, {}, {}, STRANGER, []),
    ("another virtual claim of that name", None, {}, {"metadata": {"uid": "new"}}, {}, []),
    ("Update Backward", {}, RETAIN, {}, {}, [SPEC_PATCH]),
    ("Sync PV Size", {}, BIGGER, {}, {}, [SPEC_PATCH]),
    ("the status is behind", {"status": {"phase": "Pending"}}, {}, {}, {}, [STATUS]),
    ("the host says why", {}, {"status": {"message": f"failed: {HOST_CLAIM.name}", "reason": "x"}}, {}, {}, [STATUS]),
    ("bound anew, and the volume's change is not seen yet", {}, EARLIER, {}, {}, [f"wait {H}"]),
    ("another volume of that name, of an earlier claim", {}, apply(EARLIER, {"metadata": {"uid": "pv-2"}}), None, {}, [DELETE]),
    ("placed", {}, affinity("a"), {}, {}, [SPEC_PATCH]),
    ("placed elsewhere, which cannot be shown", affinity("a"), affinity("b"), {}, {}, []),
    ("Delete Backward", {}, None, None, None, [DELETE]),
    ("fake: Delete, the protection comes off", GOING, None, None, None, [f"patch {V} metadata"]),
    ("somebody else's finalizer stays", apply(GOING, {"metadata": {"finalizers": ["x/y"]}}), None, None, None, []),
    ("Retain & update status", {}, apply(RETAIN, RELEASED), None, None, [STATUS]),
    ("Retain, and told", apply(RETAIN, RELEASED), apply(RETAIN, RELEASED), None, None, []),
    ("Delete PV on reclaim Delete", RELEASED, None, None, None, [DELETE]),
    ("the virtual claim is gone, the host's lingers", {}, {}, None, {}, [STATUS]),
    ("the virtual claim is lost, the volume is kept", {}, RELEASED, {"status": {"phase": "Lost"}}, None, [STATUS]),
    ("Wait for VPV deletion: the tenant deleted it in use", GOING, {}, {}, {}, []),
    ("Delete PPV without PVC: never, the host's is not ours", None, {}, None, None, []),
    ("the tenant's own, without anything of ours", OURS_NOT, None, None, None, []),
    ("the tenant's own under the name of a claim's", OURS_NOT, {}, {}, {}, []),
    ("a volume that others released", None, RELEASED, None, None, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("volume", "host", "virtual_claim", "claim_on_host", "expected"), [pytest.param(*rule[1:], id=rule[0]) for rule in RULES]
)
def test_rules(volume: Obj | None, host: Obj | None, virtual_claim: Obj | None, claim_on_host: Obj | None, expected: list[str]) -> None:
    world = state(volume, host, virtual_claim, claim_on_host)
    assert told(world.decide(SPEC, VOLUME)) == expected
    world.settle(SPEC, VOLUME)
    assert not [line for line in told(world.log) if H in line]


MADE_UP_RULES: list[tuple[str, bool, Obj | None, Obj | None, list[str]]] = [
    ("fake: Create", False, {}, {}, [CREATE]),
    ("fake: missing claim", False, None, {}, []),
    ("fake: not needed", True, {}, {}, []),
    ("grown", True, {}, {"status": {"capacity": {"storage": "2Gi"}}}, [SPEC_PATCH]),
    ("the virtual claim is gone, the host's lingers", True, None, {}, [STATUS]),
    ("fake: Delete", True, None, None, [DELETE]),
]


@pytest.mark.parametrize(
    ("there", "virtual_claim", "claim_on_host", "expected"), [pytest.param(*rule[1:], id=rule[0]) for rule in MADE_UP_RULES]
)
def test_made_up(there: bool, virtual_claim: Obj | None, claim_on_host: Obj | None, expected: list[str]) -> None:
    world = state(None, None, {}, {}, readable=False)
    if there:
        world.settle(SPEC, VOLUME)
    made = state(None, None, virtual_claim, claim_on_host, readable=False)
    for volume in world.objects[Side.VIRTUAL, PERSISTENT_VOLUMES].values():
        made.put(Side.VIRTUAL, PERSISTENT_VOLUMES, volume)
    assert told(made.decide(SPEC, VOLUME)) == expected
    made.settle(SPEC, VOLUME)


def test_it_shows_the_hosts_facts_and_none_of_its_secrets() -> None:
    (create,) = state(None, {}, {}, {}).decide(SPEC, VOLUME)
    assert isinstance(create, Create)
    assert create.obj["spec"] == {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Delete",
        "storageClassName": "fast",
        "volumeMode": "Filesystem",
        "csi": {"driver": "disks.example.com", "volumeHandle": "pvc-1", "fsType": "ext4"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "data", "uid": "uid-data"},
    }
    assert annotations_of(create.obj) == {HOST_VOLUME: "uid-pv", LABEL_MANAGED_BY: "vc"}


def test_made_up_it_has_the_claims_facts_and_the_classs_policy() -> None:
    world = state(None, None, {}, {}, readable=False)
    mark = {"annotations": {LABEL_MANAGED_BY: "vc"}}
    world.put(Side.VIRTUAL, STORAGE_CLASSES, {"metadata": {"name": "fast", **mark}, "provisioner": "x", "reclaimPolicy": "Retain"})
    (create,) = world.decide(SPEC, VOLUME)
    assert isinstance(create, Create)
    assert create.obj["metadata"]["labels"] == {MADE_UP: "true"}
    assert create.obj["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert create.obj["spec"]["capacity"] == {"storage": "1Gi"}


def test_a_class_of_the_tenants_says_nothing_about_the_hosts() -> None:
    world = state(None, None, {}, {}, readable=False)
    world.put(Side.VIRTUAL, STORAGE_CLASSES, {"metadata": {"name": "fast"}, "provisioner": "x", "reclaimPolicy": "Retain"})
    (create,) = world.decide(SPEC, VOLUME)
    assert isinstance(create, Create)
    assert create.obj["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


def test_a_made_up_one_becomes_real_when_the_right_comes() -> None:
    made_up = state(None, None, {}, {}, readable=False)
    made_up.settle(SPEC, VOLUME)
    volume = made_up.get(Side.VIRTUAL, PERSISTENT_VOLUMES, VOLUME)
    assert volume is not None
    world = state(None, {"metadata": {"labels": {"zone": "a"}}, **RETAIN}, {}, {})
    world.put(Side.VIRTUAL, PERSISTENT_VOLUMES, volume)
    assert world.settle(SPEC, VOLUME) == []
    real = world.get(Side.VIRTUAL, PERSISTENT_VOLUMES, VOLUME)
    assert real is not None
    assert real["metadata"]["labels"] == {"zone": "a"}
    assert real["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ({"hostPath": {"path": "/srv/x"}}, "hostpath.vcluster.loft.sh"),
        ({"local": {"path": "/mnt/x"}, "nodeAffinity": {"required": {}}}, "local.vcluster.loft.sh"),
        ({"nfs": {"server": "10.0.0.1", "path": "/x"}}, "nfs.vcluster.loft.sh"),
        ({"csi": {"driver": "d.io", "volumeHandle": "secret", "controllerPublishSecretRef": {"name": "s"}}}, "d.io"),
    ],
)
def test_of_a_source_only_its_kind_is_kept(source: Obj, shown: str) -> None:
    volume = host_volume({"spec": {"csi": None}})
    slim = slim_volume({**volume, "spec": {**volume["spec"], **source}})
    assert slim["spec"]["csi"] == {"driver": shown, "volumeHandle": VOLUME.name}
    assert {"hostPath", "local", "nfs"}.isdisjoint(slim["spec"])
    assert slim_volume(slim) == slim


@pytest.mark.parametrize("reference", [None, {"namespace": "elsewhere"}])
def test_other_volumes_of_the_host_are_not_kept(reference: Obj | None) -> None:
    world = state(None, {"spec": {"claimRef": reference}}, {}, {})
    assert world.get(Side.HOST, PERSISTENT_VOLUMES, VOLUME) is None


@given(
    volume=st.sampled_from([None, {}, GOING, RELEASED, OURS_NOT, {"spec": {"claimRef": {"uid": "other"}}}]),
    host=st.sampled_from([None, {}, RELEASED, BIGGER, {"spec": {"claimRef": {"uid": "other"}}}, {"metadata": {"uid": "pv-2"}}]),
    virtual_claim=st.sampled_from([None, {}, {"metadata": {"uid": "new"}}, deleting(None)]),
    claim_on_host=st.sampled_from([None, {}, STRANGER, {"status": {"phase": "Lost"}}, deleting(None)]),
    readable=st.booleans(),
)
def test_it_comes_to_rest_and_touches_only_its_own(
    volume: Obj | None, host: Obj | None, virtual_claim: Obj | None, claim_on_host: Obj | None, readable: bool
) -> None:
    world = state(volume, host if readable else None, virtual_claim, claim_on_host, readable=readable)
    world.settle(SPEC, VOLUME)
    if volume is OURS_NOT:
        assert world.log == []
    assert not [intent for intent in world.log if isinstance(intent, Create | Delete) and intent.side is Side.HOST]

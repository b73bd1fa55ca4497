from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Obj, Side, annotations_of
from syncer.naming import ANNOTATION_UID
from syncer.resources import persistentvolumeclaims
from syncer.sync.intents import Create, Delete, Patch, Refuse, Warn
from syncer.translate.merge import apply
from syncer.translate.volumes import DELETION_SEEN, quantity
from tests.resources.apply import told
from tests.resources.objects import deleting
from tests.resources.storage import (
    BOUND,
    BOUND_ANNOTATIONS,
    CLAIM,
    HOST_CLAIM,
    VOLUME,
    StorageWorld,
    claim,
    host_claim,
    host_volume,
    virtual_volume,
)

SPEC = persistentvolumeclaims.SPEC


def state(virtual: Obj | None, host: Obj | None, *, volume: Obj | None = None) -> StorageWorld:
    """Changes to an ordinary claim that is not bound, to its host claim, and to the virtual volume."""
    world = StorageWorld()
    if virtual is not None:
        world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, claim(virtual))
    if host is not None:
        world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, host_claim(host))
    if volume is not None:
        world.put(Side.VIRTUAL, PERSISTENT_VOLUMES, virtual_volume(volume))
    return world


def annotated(**annotations: str | None) -> Obj:
    return {"metadata": {"annotations": {f"vcluster.loft.sh/{key.replace('_', '-')}": value for key, value in annotations.items()}}}


def spec(**fields: Any) -> Obj:
    return {"spec": fields}


def status(**fields: Any) -> Obj:
    return {"status": fields}


def size(storage: str) -> Obj:
    return {"resources": {"requests": {"storage": storage}}}


def both(*changes: Obj) -> Obj:
    result: Obj = {}
    for change in changes:
        result = apply(result, change)
    return result


V, H = f"virtual persistentvolumeclaims {CLAIM}", f"host persistentvolumeclaims {HOST_CLAIM}"
CREATE, DELETE, GONE = f"create {H}", f"delete {H}", f"delete {H} unexplained"
STATUS, LOST = f"patch {V} status", [f"patch {V} status", "warn ClaimLost"]
GOING = deleting(None)
BIGGER = size("2Gi")
LARGE = status(capacity={"storage": "2Gi"})
NODE = {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}}
BOOK = spec(dataSourceRef={"apiGroup": "x.io", "kind": "Book", "name": "b"})
SHOPS = spec(dataSourceRef={"kind": "PersistentVolumeClaim", "name": "b", "namespace": "shop"})
OTHERS = {"spec": {"claimRef": {"uid": "other"}}}
TENANTS = {"metadata": {"annotations": {"vcluster.loft.sh/managed-by": None}}}
SEEN = annotated(deletion_seen="uid-data")
RESIZING = status(conditions=[{"type": "Resizing", "status": "True"}], allocatedResources={"storage": "2Gi"})

RULES: list[tuple[str, Obj | None, Obj | None, Obj | None, list[str]]] = [
    ("Create forward", {}, None, None, [CREATE]),
    ("nothing on either side", None, None, None, []),
    ("Update forward, not needed", {}, {}, None, []),
    ("settled and bound", BOUND, BOUND, {}, []),
    # deletion
    ("Delete forward: being deleted, still protected", GOING, {}, None, [f"patch {H} metadata"]),
    ("being deleted, and that is noted", GOING, SEEN, None, []),
    ("being deleted, bound, and that is noted", both(BOUND, GOING), both(BOUND, SEEN), {}, []),
    ("Delete forward: gone, and that was seen", None, SEEN, None, [DELETE]),
    ("gone, bound, and that was seen", None, both(BOUND, SEEN), {}, [DELETE]),
    ("merely absent", None, BOUND, {}, [GONE]),
    ("an older claim's deletion explains nothing", None, both(BOUND, annotated(deletion_seen="older")), {}, [GONE]),
    ("gone, the host claim lingers", None, both(BOUND, GOING), {}, []),
    ("being deleted without a host claim", GOING, None, None, []),
    ("being deleted and bound, without a host claim", both(BOUND, GOING), None, None, []),
    ("deleted on the host, but in use there", BOUND, both(BOUND, GOING), {}, ["warn DeletedOnHost"]),
    ("deleted on both sides, in use", both(BOUND, GOING), both(BOUND, GOING, SEEN), {}, []),
    ("deleted on the host before it was bound", {}, None, None, [CREATE]),
    ("deleted on the host for good", BOUND, None, {}, LOST),
    ("lost, and told", both(BOUND, status(phase="Lost", capacity=None, accessModes=None)), None, None, ["warn ClaimLost"]),
    ("a claim restored as bound, without anything behind it", both(BOUND, status(phase="Pending")), None, None, LOST),
    # another claim of that name
    ("made anew", {"metadata": {"uid": "new"}}, BOUND, {}, ["warn EarlierVolume", GONE, f"wait {H}"]),
    ("made anew, the deletion was seen", {"metadata": {"uid": "new"}}, both(BOUND, SEEN), {}, [DELETE, f"wait {H}"]),
    ("made anew, the old one lingers", {"metadata": {"uid": "new"}}, both(BOUND, GOING), {}, [f"wait {H}"]),
    ("handed over by a person", {}, annotated(object_uid=None), None, [f"patch {H} metadata"]),
    # binding
    ("backwards annotations", {}, NODE, None, [f"patch {V} metadata"]),
    ("bound, but the volume is not there", {}, BOUND, None, [f"wait virtual persistentvolumes {VOLUME}"]),
    ("bound, and the volume is another claim's", {}, BOUND, OTHERS, [f"wait virtual persistentvolumes {VOLUME}"]),
    ("bound, and the tenant has a volume of that name", {}, BOUND, {**TENANTS, **OTHERS}, ["refuse VolumeNameTaken"]),
    ("backwards status: bound", {}, BOUND, {}, [f"patch {V} metadata+spec", STATUS]),
    ("bound to the volume that was asked for", spec(volumeName="pvc-1"), BOUND, {}, [f"patch {V} metadata", STATUS]),
    ("asked for by name, not bound", spec(volumeName="pvc-1"), spec(volumeName="pvc-1"), {}, []),
    ("named later", spec(volumeName="pvc-1"), {}, None, [f"patch {H} spec"]),
    ("the volume was deleted by the tenant", BOUND, BOUND, None, []),
    ("Recreate if volume name differs", BOUND, both(BOUND, spec(volumeName="pvc-2")), {}, LOST),
    ("the host claim was made anew by somebody", BOUND, {}, {}, LOST),
    ("bound in the virtual cluster to a volume made there", BOUND, {}, TENANTS, ["refuse VolumeNotOnHost"]),
    ("lost on the host", BOUND, both(BOUND, status(phase="Lost")), {}, [STATUS]),
    ("lost on the host before it was shown", {}, both(BOUND, status(phase="Lost")), None, [f"patch {V} metadata+spec", STATUS]),
    ("found again", both(BOUND, status(phase="Lost")), BOUND, {}, [STATUS]),
    # class
    ("the host's default class", spec(storageClassName=None), {}, None, [f"patch {V} spec"]),
    ("no class on either side", spec(storageClassName=None), spec(storageClassName=None), None, []),
    ("none asked for", spec(storageClassName=""), spec(storageClassName=""), None, []),
    # expansion
    ("bigger", both(BOUND, spec(**BIGGER)), BOUND, {}, [f"patch {H} spec"]),
    ("bigger, resizing", both(BOUND, spec(**BIGGER)), both(BOUND, spec(**BIGGER), RESIZING), {}, [STATUS]),
    ("written otherwise", BOUND, both(BOUND, spec(**size("1024Mi"))), {}, []),
    ("smaller again, after it failed", both(BOUND, spec(**size("1500Mi"))), both(BOUND, spec(**BIGGER)), {}, [f"patch {H} spec"]),
    ("enlarged on the host", both(BOUND, LARGE), both(BOUND, LARGE, spec(**BIGGER)), {}, []),
    ("other attributes", both(BOUND, spec(volumeAttributesClassName="gold")), BOUND, {}, [f"patch {H} spec"]),
    ("other attributes by the host", BOUND, both(BOUND, spec(volumeAttributesClassName="gold")), {}, []),
    ("host only conditions of use", BOUND, both(BOUND, status(conditions=[{"type": "Unused", "status": "True"}])), {}, []),
    ("virtual conditions of use", both(BOUND, status(conditions=[{"type": "Unused", "status": "True"}])), BOUND, {}, []),
    ("conditions of the tenant's and ours", both(BOUND, status(conditions=[{"type": "x.io/Kept", "status": "True"}])), BOUND, {}, []),
    ("resized", both(BOUND, RESIZING), BOUND, {}, [STATUS]),
    # sources
    ("of an unknown kind", BOOK, None, None, ["refuse UnsupportedDataSource"]),
    ("of another namespace", SHOPS, None, None, ["refuse UnsupportedDataSource"]),
]  # fmt: skip


@pytest.mark.parametrize(("virtual", "host", "volume", "expected"), [pytest.param(*rule[1:], id=rule[0]) for rule in RULES])
def test_rules(virtual: Obj | None, host: Obj | None, volume: Obj | None, expected: list[str]) -> None:
    world = state(virtual, host, volume=volume)
    assert told(world.decide(SPEC, CLAIM)) == expected
    world.settle(SPEC, CLAIM)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        pytest.param({"volumeName": "pv-7", "selector": {"matchLabels": {"disk": "a"}}}, {}, id="a volume by name or label is the host's"),
        pytest.param(
            {"dataSource": {"kind": "PersistentVolumeClaim", "name": "old"}},
            {"dataSource": {"kind": "PersistentVolumeClaim", "name": "old-x-default-x-vc"}},
            id="a clone",
        ),
        pytest.param(
            {"dataSourceRef": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s", "namespace": "default"}},
            {"dataSourceRef": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s-x-default-x-vc"}},
            id="a snapshot of the same namespace, said or not",
        ),
        pytest.param({"volumeAttributesClassName": "gold", "volumeMode": "Block", "new": 1}, {}, id="everything else, known or not"),
        pytest.param({"storageClassName": ""}, {}, id="no class"),
        pytest.param({"storageClassName": None}, {}, id="the default class"),
    ],
)
def test_what_is_asked_for_goes_down(asked: Obj, made: Obj) -> None:
    world = state(spec(**asked), None)
    (create,) = world.decide(SPEC, CLAIM)
    assert isinstance(create, Create)
    assert create.obj["spec"] == {**claim(spec(**asked))["spec"], **made}


def test_annotations_of_the_binder_never_go_down() -> None:
    binders = {
        **BOUND_ANNOTATIONS,
        "volume.kubernetes.io/selected-node": "n9",
        "volume.kubernetes.io/storage-provisioner": "evil",
        "x": "y",
    }
    world = state({"metadata": {"annotations": binders}}, None)
    (create,) = world.decide(SPEC, CLAIM)
    assert isinstance(create, Create)
    assert not binders.keys() - {"x"} & annotations_of(create.obj).keys()
    assert annotations_of(create.obj)["x"] == "y"


def test_what_says_that_it_is_bound_comes_in_one_patch() -> None:
    world = state({}, BOUND, volume={})
    patch = world.decide(SPEC, CLAIM)[0]
    assert isinstance(patch, Patch)
    assert patch.body == {"metadata": {"annotations": BOUND_ANNOTATIONS}, "spec": {"volumeName": "pvc-1"}}
    assert world.settle(SPEC, CLAIM) == []
    virtual = world.get(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, CLAIM)
    assert virtual is not None
    assert virtual["status"] == BOUND["status"]


def test_the_whole_life() -> None:
    world = state({}, None)
    assert world.settle_all() == []
    host = world.get(Side.HOST, PERSISTENT_VOLUME_CLAIMS, HOST_CLAIM)
    assert host is not None
    world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, apply(host, both(BOUND, {"metadata": {"uid": "host-uid-data"}})))
    world.settle_all()
    world.put(Side.HOST, PERSISTENT_VOLUMES, host_volume())
    assert world.settle_all() == []
    virtual, volume = world.get(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, CLAIM), world.get(Side.VIRTUAL, PERSISTENT_VOLUMES, VOLUME)
    assert virtual is not None
    assert volume is not None
    assert (virtual["status"]["phase"], volume["status"]["phase"]) == ("Bound", "Bound")
    world.delete(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, CLAIM, "uid-data")
    assert world.settle_all() == []
    assert world.get(Side.HOST, PERSISTENT_VOLUME_CLAIMS, HOST_CLAIM) is not None
    del world.objects[Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS][CLAIM]
    world.settle_all()
    del world.objects[Side.HOST, PERSISTENT_VOLUME_CLAIMS][HOST_CLAIM]
    del world.objects[Side.HOST, PERSISTENT_VOLUMES][VOLUME]
    world.settle_all()
    assert world.objects[Side.VIRTUAL, PERSISTENT_VOLUMES] == {}


def test_texts_of_conditions_have_no_host_names() -> None:
    message = f"cannot resize {HOST_CLAIM.namespace}/{HOST_CLAIM.name} (host-uid-data)"
    world = state(
        BOUND, both(BOUND, status(conditions=[{"type": "ControllerResizeError", "status": "True", "message": message}])), volume={}
    )
    world.settle(SPEC, CLAIM)
    virtual = world.get(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, CLAIM)
    assert virtual is not None
    assert virtual["status"]["conditions"][0]["message"] == "cannot resize default/data (uid-data)"


def test_the_new_owner_of_a_host_claim_is_recorded() -> None:
    world = state(
        {"metadata": {"uid": "restored"}}, both(BOUND, annotated(object_uid=None)), volume={"spec": {"claimRef": {"uid": "restored"}}}
    )
    assert world.settle(SPEC, CLAIM) == []
    host = world.get(Side.HOST, PERSISTENT_VOLUME_CLAIMS, HOST_CLAIM)
    assert host is not None
    assert annotations_of(host)[ANNOTATION_UID] == "restored"


def test_a_deletion_that_was_noted_explains_only_that_claim() -> None:
    world = state(GOING, {}, volume=None)
    world.settle(SPEC, CLAIM)
    host = world.get(Side.HOST, PERSISTENT_VOLUME_CLAIMS, HOST_CLAIM)
    assert host is not None
    assert annotations_of(host)[DELETION_SEEN] == "uid-data"
    del world.objects[Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS][CLAIM]
    (delete,) = world.decide(SPEC, CLAIM)
    assert isinstance(delete, Delete)
    assert not delete.unexplained


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1Gi", 2**30),
        ("1024Mi", 2**30),
        ("1G", 10**9),
        ("1", 1),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2E", 2 * 10**18),
        ("1500m", 1.5),
        ("5k", 5000),
    ],
)
def test_quantities(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


CHANGES = st.sampled_from([
    {}, BOUND, GOING, SEEN, RESIZING, spec(**BIGGER), spec(storageClassName=None), spec(volumeName="pvc-2"), status(phase="Lost"),
    {"metadata": {"uid": "new"}}, spec(dataSource={"kind": "Other", "name": "x"}), status(phase="Pending"),
    {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}},
])  # fmt: skip


@given(
    st.none() | st.lists(CHANGES, max_size=3).map(lambda items: both(*items)),
    st.none() | st.lists(CHANGES, max_size=3).map(lambda items: both(*items, {"metadata": {"uid": "host-uid-data"}})),
    st.sampled_from([None, {}, TENANTS, OTHERS]),
)
def test_every_pair_comes_to_rest_and_keeps_its_data(virtual: Obj | None, host: Obj | None, volume: Obj | None) -> None:
    world = state(virtual, host, volume=volume)
    intents = world.decide(SPEC, CLAIM)
    made = [intent for intent in intents if isinstance(intent, Create)]
    before = world.get(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, CLAIM)
    world.settle(SPEC, CLAIM)
    after = world.get(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, CLAIM)
    if before is not None and before["spec"].get("volumeName") and before["status"]["phase"] in ("Bound", "Lost"):
        assert not made or host is not None  # never a second, empty volume
    assert (after is None) == (before is None)
    assert not [i for i in intents if isinstance(i, Delete) and i.side is Side.VIRTUAL]
    if any(isinstance(i, Refuse | Warn) for i in intents):
        assert all("hostns" not in i.message for i in intents if isinstance(i, Refuse | Warn))

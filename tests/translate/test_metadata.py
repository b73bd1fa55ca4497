from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import CONFIGMAPS, PODS, SECRETS, Key, Obj, Resource
from syncer.naming import (
    ANNOTATION_KIND,
    ANNOTATION_MANAGED_ANNOTATIONS,
    ANNOTATION_MANAGED_LABELS,
    ANNOTATION_NAME,
    ANNOTATION_NAMESPACE,
    ANNOTATION_UID,
    LABEL_MANAGED_BY,
    LABEL_NAMESPACE,
    Names,
)
from syncer.translate.labels import host_label_key
from syncer.translate.merge import apply
from syncer.translate.metadata import host_metadata, marker_selector, metadata_patch, recorded_uid, virtual_key

NAMES = Names("vc", "host")
OWNER: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "name": "vc-vc-owner", "uid": "owner-1"}
MARKERS = {
    ANNOTATION_NAME: "web",
    ANNOTATION_NAMESPACE: "default",
    ANNOTATION_UID: "u1",
    ANNOTATION_KIND: "/v1, Kind=Pod",
}


def virtual(**metadata: Any) -> Obj:
    return {"metadata": {"name": "web", "namespace": "default", "uid": "u1", **metadata}}


def host(owner: Obj | None = OWNER, resource: Resource = PODS, **metadata: Any) -> Obj:
    return {"metadata": {**host_metadata(NAMES, owner, resource, virtual(**metadata)), "uid": "h1"}}


def test_host_metadata() -> None:
    obj = virtual(
        labels={"app": "web", "release": "r1"},
        annotations={
            "note": "n",
            "vcluster.loft.sh/object-uid": "forged",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "kubernetes.io/config.mirror": "x",
        },
        generateName="web-",
        resourceVersion="7",
        finalizers=["example.com/f"],
        ownerReferences=[{"kind": "ReplicaSet", "name": "web", "uid": "r"}],
        managedFields=[{}],
        deletionTimestamp="2026-01-01T00:00:00Z",
    )
    before = copy.deepcopy(obj)
    released = host_label_key(NAMES, "release")
    assert host_metadata(NAMES, OWNER, PODS, obj, annotations={"ours": "1"}) == {
        "name": "web-x-default-x-vc",
        "namespace": "host",
        "labels": {"app": "web", released: "r1", LABEL_MANAGED_BY: "vc", LABEL_NAMESPACE: "default"},
        "annotations": {
            "note": "n",
            "ours": "1",
            **MARKERS,
            ANNOTATION_MANAGED_ANNOTATIONS: "note",
            ANNOTATION_MANAGED_LABELS: f"app\n{released}",
        },
        "ownerReferences": [OWNER],
    }
    assert obj == before


def test_bare_object_without_owner() -> None:
    assert host_metadata(NAMES, None, PODS, virtual()) == {
        "name": "web-x-default-x-vc",
        "namespace": "host",
        "labels": {LABEL_MANAGED_BY: "vc", LABEL_NAMESPACE: "default"},
        "annotations": MARKERS,
    }


def test_marker_selector() -> None:
    assert marker_selector(NAMES) == "vcluster.loft.sh/managed-by=vc"


NOT_OURS: dict[str, Callable[[Obj], Obj]] = {
    "no labels": lambda obj: apply(obj, {"metadata": {"labels": None}}),
    "no annotations": lambda obj: apply(obj, {"metadata": {"annotations": None}}),
    "other cluster": lambda obj: apply(obj, {"metadata": {"labels": {LABEL_MANAGED_BY: "vc2"}}}),
    "label and annotation disagree": lambda obj: apply(obj, {"metadata": {"labels": {LABEL_NAMESPACE: "other"}}}),
    "other name": lambda obj: apply(obj, {"metadata": {"name": "copy-of-web"}}),
    "annotated with another's name": lambda obj: apply(obj, {"metadata": {"annotations": {ANNOTATION_NAME: "api"}}}),
    "other host namespace": lambda obj: apply(obj, {"metadata": {"namespace": "elsewhere"}}),
    "other kind": lambda obj: apply(obj, {"metadata": {"annotations": {ANNOTATION_KIND: "/v1, Kind=Secret"}}}),
    "other group": lambda obj: apply(obj, {"metadata": {"annotations": {ANNOTATION_KIND: "example.com/v1, Kind=Pod"}}}),
    "no object": lambda obj: {},
}


@pytest.mark.parametrize("why", NOT_OURS)
def test_not_provably_ours(why: str) -> None:
    assert virtual_key(NAMES, PODS, NOT_OURS[why](host())) is None


def test_ours() -> None:
    assert virtual_key(NAMES, PODS, host()) == Key("default", "web")
    assert virtual_key(NAMES, SECRETS, host()) is None
    assert virtual_key(NAMES, SECRETS, host(resource=SECRETS)) == Key("default", "web")
    assert recorded_uid(host()) == "u1"
    assert recorded_uid({}) == ""


@pytest.mark.parametrize("kind", [None, "/v2, Kind=Pod"])
def test_objects_without_kind_or_of_another_version_stay_ours(kind: str | None) -> None:
    assert virtual_key(NAMES, PODS, apply(host(), {"metadata": {"annotations": {ANNOTATION_KIND: kind}}})) == Key("default", "web")


def test_two_objects_that_meet_in_one_classic_name_are_told_apart() -> None:
    first = host_metadata(NAMES, None, CONFIGMAPS, {"metadata": {"name": "a", "namespace": "b-x-c"}})
    second = host_metadata(NAMES, None, CONFIGMAPS, {"metadata": {"name": "a-x-b", "namespace": "c"}})
    assert first["name"] != second["name"]
    assert virtual_key(NAMES, CONFIGMAPS, {"metadata": first}) == Key("b-x-c", "a")
    assert virtual_key(NAMES, CONFIGMAPS, {"metadata": {**second, "name": first["name"]}}) is None


@pytest.mark.parametrize(
    ("then", "now", "patch"),
    [
        ({}, {}, None),
        ({"labels": {"app": "a"}}, {"labels": {"app": "a"}}, None),
        ({"labels": {"app": "a"}}, {"labels": {"app": "b"}}, {"labels": {"app": "b"}}),
        ({"labels": {"app": "a"}}, {}, {"labels": {"app": None}, "annotations": {ANNOTATION_MANAGED_LABELS: None}}),
        ({}, {"annotations": {"n": "1"}}, {"annotations": {"n": "1", ANNOTATION_MANAGED_ANNOTATIONS: "n"}}),
        (
            {"annotations": {"n": "1", "m": "1"}},
            {"annotations": {"m": "1"}},
            {"annotations": {"n": None, ANNOTATION_MANAGED_ANNOTATIONS: "m"}},
        ),
        ({}, {"uid": "u2"}, {"annotations": {ANNOTATION_UID: "u2"}}),
    ],
)
def test_metadata_patch(then: Obj, now: Obj, patch: Obj | None) -> None:
    wanted = {"metadata": patch} if patch else None
    assert metadata_patch(NAMES, OWNER, PODS, virtual(**now), host(**then)) == wanted


def test_what_others_added_is_left_alone() -> None:
    obj = apply(host(labels={"app": "a"}), {"metadata": {"labels": {"team": "x"}, "annotations": {"cni": "1.2.3.4"}, "finalizers": ["f"]}})
    assert metadata_patch(NAMES, OWNER, PODS, virtual(labels={"app": "a"}), obj) is None
    assert metadata_patch(NAMES, OWNER, PODS, virtual(), obj) == {
        "metadata": {"labels": {"app": None}, "annotations": {ANNOTATION_MANAGED_LABELS: None}}
    }


def test_lost_markers_come_back() -> None:
    obj = apply(host(), {"metadata": {"labels": {LABEL_NAMESPACE: None}, "annotations": {ANNOTATION_KIND: None}}})
    assert metadata_patch(NAMES, OWNER, PODS, virtual(), obj) == {
        "metadata": {"labels": {LABEL_NAMESPACE: "default"}, "annotations": {ANNOTATION_KIND: "/v1, Kind=Pod"}}
    }


@pytest.mark.parametrize(
    ("owner", "present", "wanted"),
    [
        (OWNER, [OWNER], None),
        (None, [{"kind": "Service", "name": "s", "uid": "s"}], None),
        (OWNER, [], [OWNER]),
        (OWNER, [{"kind": "Service", "name": "s", "uid": "s"}], [{"kind": "Service", "name": "s", "uid": "s"}, OWNER]),
        (OWNER, [{**OWNER, "uid": "former"}], [OWNER]),
    ],
)
def test_owner(owner: Obj | None, present: list[Obj], wanted: list[Obj] | None) -> None:
    obj = apply(host(None), {"metadata": {"ownerReferences": present}})
    patch = metadata_patch(NAMES, owner, PODS, virtual(), obj)
    assert patch == ({"metadata": {"ownerReferences": wanted}} if wanted else None)


MAPS = st.dictionaries(st.sampled_from(["a", "b", "release", "vcluster.loft.sh/x"]), st.sampled_from(["1", "2"]), max_size=3)


@given(then=st.tuples(MAPS, MAPS), now=st.tuples(MAPS, MAPS), foreign=st.dictionaries(st.sampled_from(["f", "g"]), st.just("theirs")))
def test_a_patched_object_equals_a_new_one_plus_what_others_added(
    then: tuple[Obj, Obj], now: tuple[Obj, Obj], foreign: dict[str, str]
) -> None:
    old = apply(host(labels=then[0], annotations=then[1]), {"metadata": {"labels": foreign, "annotations": foreign}})
    wanted = host(labels=now[0], annotations=now[1])
    current = virtual(labels=now[0], annotations=now[1])
    result = apply(old, metadata_patch(NAMES, OWNER, PODS, current, old) or {})
    assert result == apply(wanted, {"metadata": {"labels": foreign, "annotations": foreign}})
    assert metadata_patch(NAMES, OWNER, PODS, current, result) is None

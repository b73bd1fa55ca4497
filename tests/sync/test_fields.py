"""Which fields an API server did not keep, told from what was asked and what was answered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import Obj
from syncer.sync.fields import Path, dropped, holds, leaves, same_besides, text_of, unknown_fields, value_at, without
from syncer.translate.merge import apply


def pod(**spec: Any) -> Obj:
    return {"metadata": {"name": "a", "generateName": "b"}, "spec": spec}


APP = {"name": "app", "image": "a"}
SIDECAR = {"name": "sidecar"}
DEFAULTED = {**APP, "imagePullPolicy": "Always"}
MOUNTS = [{"name": "v", "mountPath": "/a", "subPath": "a"}, {"name": "v", "mountPath": "/b"}]
TWICE = [{"name": "A", "value": "1"}, {"name": "A", "valueFrom": {}}]


@pytest.mark.parametrize(
    ("asked", "answered", "lost"),
    [
        pytest.param(pod(x=1), pod(x=1, y=2), set(), id="defaulted"),
        pytest.param(pod(x=1), pod(), {"spec.x"}, id="dropped"),
        pytest.param(pod(x=1), {}, {"spec"}, id="all of it"),
        pytest.param(pod(x="1000m"), pod(x="1"), set(), id="normalised"),
        pytest.param(pod(a=False, b=0, c="", d=[], e={}, f=None), pod(), set(), id="as good as absent"),
        pytest.param(pod(hostUsers=False), pod(), {"spec.hostUsers"}, id="false is stricter than nothing"),
        pytest.param(pod(containers=[{**APP, "x": 1}]), pod(containers=[DEFAULTED]), {"spec.containers[].x"}, id="in a list"),
        pytest.param(pod(containers=[{**APP, "x": 1}]), pod(containers=[SIDECAR, {**DEFAULTED, "x": 1}]), set(), id="a sidecar"),
        pytest.param(pod(ports=[{"port": 1, "x": 1}]), pod(ports=[{"port": 1}]), {"spec.ports[].x"}, id="by place"),
        pytest.param(pod(volumes=[{"name": "a"}, {"name": "b", "x": 1}]), pod(volumes=[{"name": "a"}]), {"spec.volumes[]"}, id="an item"),
        pytest.param(pod(mounts=MOUNTS), pod(mounts=[{"name": "token", "mountPath": "/t"}, *MOUNTS]), set(), id="one volume mounted twice"),
        pytest.param(pod(mounts=MOUNTS), pod(mounts=[MOUNTS[1]]), {"spec.mounts[]"}, id="one of its mounts"),
        pytest.param(pod(env=TWICE), pod(env=TWICE), set(), id="a variable that is set twice"),
        pytest.param(pod(rules=[{"x": 1}]), pod(rules=[{"y": 1}, {"z": 1}]), set(), id="nobody knows which"),
        pytest.param({"stringData": {"a": "b"}, "status": {"x": 1}}, {"data": {"a": "Yg=="}}, set(), id="never kept as they are"),
    ],
)  # fmt: skip
def test_dropped(asked: Obj, answered: Obj, lost: set[str]) -> None:
    assert {text_of(path) for path in dropped(asked, answered)} == lost


def test_warnings() -> None:
    warnings = [
        '299 - "unknown field \\"spec.containers[0].x\\""',
        '299 - "unknown field \\"status.y\\", unknown field \\"spec.z\\""',
        '299 - "spec.w: deprecated since v1.2"',
    ]
    assert {text_of(path) for path in unknown_fields(warnings)} == {"spec.containers[].x", "status.y", "spec.z"}


BODY: Obj = {"metadata": {"uid": "1", "labels": {"a": "b", "c": None}}, "spec": {"x": {"y": 1}, "l": [{"n": 1, "x": 2}]}, "data": None}


def test_leaves() -> None:
    assert set(leaves(BODY)) == {
        ("metadata", "labels", "a"), ("metadata", "labels", "c"), ("spec", "x"), ("spec", "l"), ("data",)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "left"),
    [
        ([("spec", "x")], {**BODY, "spec": {"l": [{"n": 1, "x": 2}]}}),
        ([("spec", "l", "[]", "x")], {**BODY, "spec": {"x": {"y": 1}, "l": [{"n": 1}]}}),
        ([("spec", "x"), ("spec", "l"), ("data",)], {"metadata": BODY["metadata"]}),
        ([("spec", "absent", "x"), ("spec", "x", "y", "z")], BODY),
        ([("metadata",), ("spec",), ("data",)], {}),
    ],
)
def test_without(paths: list[Path], left: Obj) -> None:
    before = repr(BODY)
    assert without(BODY, paths) == left
    assert repr(BODY) == before


NAMES = st.sampled_from("abc")
VALUES = st.recursive(
    st.integers(0, 2) | st.text("xy", max_size=1),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
BODIES = st.dictionaries(NAMES, VALUES, max_size=3)


@given(have=BODIES, asked=BODIES)
def test_what_a_patch_brought_about_is_held_and_nothing_of_it_was_dropped(have: Obj, asked: Obj) -> None:
    answer = apply(have, asked)
    assert holds(answer, asked)
    assert dropped(asked, answer) == set()
    if holds(have, asked):
        assert holds(have, without(asked, leaves(asked)))


@given(asked=BODIES)
def test_a_leaf_that_is_left_out_is_asked_for_no_more(asked: Obj) -> None:
    for path in leaves(asked):
        left = without(asked, [path])
        assert path not in leaves(left)
        assert {other: value_at(left, other) for other in leaves(asked) if other != path} == {
            other: value_at(asked, other) for other in leaves(asked) if other != path
        }
    assert without(asked, leaves(asked)) == {field: value for field, value in asked.items() if value == {}}


CONDITIONS = [{"type": "Ready", "status": "False"}, {"type": "Gate", "status": "True"}]


@pytest.mark.parametrize(
    ("after", "body", "same"),
    [
        pytest.param({"spec": {"a": 1}}, {}, True, id="nothing at all"),
        pytest.param({"spec": {"a": 1}, "status": {"phase": "Running"}}, {"status": {"phase": "Running"}}, True, id="what was asked for"),
        pytest.param({"spec": {"a": 2}, "status": {"phase": "Running"}}, {"status": {"phase": "Running"}}, False, id="and the spec"),
        pytest.param({"spec": {"a": 1}, "metadata": {"labels": {"x": "y"}}}, {"status": {"phase": "Running"}}, False, id="a label"),
        pytest.param({"spec": {"a": 1}, "metadata": {"resourceVersion": "8"}}, {"metadata": {"uid": "u"}}, True, id="only the version"),
        pytest.param(
            {"spec": {"a": 1}, "status": {"conditions": [{"type": "Ready", "status": "True"}, CONDITIONS[1]]}},
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            True,
            id="one condition of two",
        ),
        pytest.param(
            {"spec": {"a": 1}, "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Gate", "status": "False"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            False,
            id="another condition too",
        ),
        pytest.param(
            {"spec": {"a": 1}, "status": {"conditions": [CONDITIONS[1]]}},
            {"status": {"conditions": [{"$patch": "delete", "type": "Ready"}]}},
            True,
            id="a condition taken away",
        ),
        pytest.param({"spec": {"a": 1}}, {"status": None}, True, id="the whole of it"),
    ],
)
def test_what_else_changed(after: dict[str, Any], body: dict[str, Any], same: bool) -> None:
    before: dict[str, Any] = {
        "metadata": {"resourceVersion": "7"},
        "spec": {"a": 1},
        "status": {"phase": "Pending", "conditions": CONDITIONS},
    }
    after = {"metadata": before["metadata"], **after}
    if "status" in after:
        after["status"] = {**before["status"], **after["status"]}
    elif body.get("status", 0) is not None:
        after["status"] = before["status"]
    assert same_besides(before, after, body) is same

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube import codec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_round_trip_keeps_everything(document: Any) -> None:
    assert codec.loads(codec.dumps(document)) == document
    assert codec.loads(memoryview(codec.pack(document))) == document


@pytest.mark.parametrize("garbage", [b"", b"{", b'{"a": NaN}', b"\xff", b"<html>"])
def test_garbage_is_a_value_error(garbage: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.loads(garbage)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {}, id="empty"),
        pytest.param({"metadata": None}, {"metadata": None}, id="null metadata"),
        pytest.param(
            {"metadata": {"annotations": None, "name": "a"}}, {"metadata": {"annotations": None, "name": "a"}}, id="null annotations"
        ),
        pytest.param({"metadata": {"managedFields": [{}], "name": "a"}}, {"metadata": {"name": "a"}}, id="managed fields"),
        pytest.param({"metadata": {"annotations": {codec.LAST_APPLIED: "{}"}}}, {"metadata": {}}, id="only annotation"),
        pytest.param(
            {"metadata": {"annotations": {codec.LAST_APPLIED: "{}", "b": "c"}}, "spec": {"managedFields": 1}},
            {"metadata": {"annotations": {"b": "c"}}, "spec": {"managedFields": 1}},
            id="other annotations and other fields stay",
        ),
        pytest.param({"metadata": {"annotations": {}}}, {"metadata": {"annotations": {}}}, id="annotations that were empty stay"),
    ],
)
def test_prune(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert codec.prune(before) is before
    assert before == after


def test_packed_bytes_hold_no_spare_memory() -> None:
    document = {"data": {f"key-{number}": "x" * 40 for number in range(100)}}
    packed = codec.pack(document)
    assert sys.getsizeof(packed) == len(packed) + sys.getsizeof(b"")

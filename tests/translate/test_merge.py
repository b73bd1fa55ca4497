from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import Obj
from syncer.translate.merge import apply, diff, owned

KEYS = st.sampled_from(["a", "b", "c", "d"])
SCALARS = st.one_of(st.integers(0, 3), st.sampled_from(["", "x"]))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=8)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
WISHES = st.dictionaries(KEYS, st.one_of(VALUES, st.none()), max_size=4)


@pytest.mark.parametrize(
    ("have", "want", "patch"),
    [
        ({}, {}, None),
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({}, {"a": {}}, {"a": {}}),
    ],
)
def test_diff(have: Obj, want: Obj, patch: Obj | None) -> None:
    assert diff(have, want) == patch


@pytest.mark.parametrize(
    ("have", "want", "patch"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, None),
        ({"a": 1, "b": 2}, {"a": 3}, {"a": 3}),
        ({"a": {"theirs": 1}}, {"a": {"ours": 1}}, {"a": {"ours": 1}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({}, {"a": None, "b": {}, "c": [], "d": {"e": None}}, None),
        ({}, {"a": {"b": 1, "c": {}}}, {"a": {"b": 1, "c": {}}}),
        ({"a": [1]}, {"a": []}, {"a": []}),
        ({}, {"a": 0, "b": ""}, {"a": 0, "b": ""}),
    ],
)
def test_owned(have: Obj, want: Obj, patch: Obj | None) -> None:
    assert owned(have, want) == patch


@given(have=DOCUMENTS, want=DOCUMENTS)
def test_applying_the_difference_gives_what_was_wanted(have: Obj, want: Obj) -> None:
    before = copy.deepcopy((have, want))
    patch = diff(have, want)
    assert apply(have, patch or {}) == want
    assert (patch is None) == (have == want)
    assert (have, want) == before


@given(have=DOCUMENTS, want=WISHES)
def test_owned_is_idempotent_and_leaves_the_rest_alone(have: Obj, want: Obj) -> None:
    before = copy.deepcopy((have, want))
    result = apply(have, owned(have, want) or {})
    assert owned(result, want) is None
    for key in have.keys() - want.keys():
        assert result[key] == have[key]
    for key in have.keys() & want.keys():
        if isinstance(have[key], dict) and isinstance(want[key], dict):
            for inner in have[key].keys() - want[key].keys():
                assert result[key][inner] == have[key][inner]
    assert (have, want) == before


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the examples of RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_apply(target: Any, patch: Any, result: Any) -> None:
    assert apply(target, patch) == result

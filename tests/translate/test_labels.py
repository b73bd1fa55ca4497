from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.kube.types import Obj
from syncer.naming import LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.translate.labels import host_label_key, host_label_keys, host_label_selector, host_labels, host_selector

NAMES = Names("vc", "host")
OTHER = Names("vc2", "host")

KEYS = st.sampled_from(["app", "tier", "release", LABEL_MANAGED_BY, LABEL_NAMESPACE, "vcluster.loft.sh/x", "vcluster.loft.sh.evil/x"])
VALUES = st.sampled_from(["a", "b", "vc", "vc2", "ns1", "ns2"])
LABELS = st.dictionaries(KEYS, VALUES, max_size=4)
NAMESPACES = st.sampled_from(["ns1", "ns2", "ns3"])
REQUIREMENTS = st.one_of(
    st.fixed_dictionaries(
        {"key": KEYS, "operator": st.sampled_from(["In", "NotIn"]), "values": st.lists(VALUES, min_size=1, max_size=2, unique=True)}
    ),
    st.fixed_dictionaries({"key": KEYS, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
)
SELECTORS = st.fixed_dictionaries({}, optional={"matchLabels": LABELS, "matchExpressions": st.lists(REQUIREMENTS, max_size=3)})
VIRTUAL_PODS = st.lists(st.tuples(st.sampled_from([NAMES, OTHER]), NAMESPACES, LABELS), max_size=8)
FOREIGN_PODS = st.lists(st.dictionaries(st.sampled_from(["app", "tier", "release", "team"]), VALUES, max_size=3), max_size=3)


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Kubernetes' LabelSelector."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for item in selector.get("matchExpressions") or ():
        key, values = item["key"], item.get("values", ())
        ok = {
            "In": key in labels and labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[item["operator"]]
        if not ok:
            return False
    return True


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("app", "app"),
        ("app.kubernetes.io/name", "app.kubernetes.io/name"),
        ("vcluster.loft.sh.example/x", "vcluster.loft.sh.example/x"),
        ("release", "vcluster.loft.sh/label-vc-x-a4d451ec23"),
        (LABEL_MANAGED_BY, "vcluster.loft.sh/label-vc-x-e5f1b28ab2"),
    ],
)
def test_only_reserved_keys_are_renamed(key: str, host: str) -> None:
    assert host_label_key(NAMES, key) == host


def test_a_renamed_key_stays_valid_for_a_long_suffix() -> None:
    names = Names("s" * 63, "host")
    keys = {host_label_key(names, key) for key in ("release", LABEL_MANAGED_BY, "vcluster.loft.sh/label-vc-x-1")}
    assert len(keys) == 3
    assert all(len(key.partition("/")[2]) <= 63 for key in keys)


def test_nested_keys_do_not_meet() -> None:
    renamed = host_label_key(NAMES, "release")
    assert host_label_key(NAMES, renamed) != renamed


def test_empty_selector_selects_all_of_the_virtual_namespace() -> None:
    assert host_selector(NAMES, {}, "ns1") == {LABEL_MANAGED_BY: "vc", LABEL_NAMESPACE: "ns1"}


@pytest.mark.parametrize(
    ("selector", "namespaces", "host"),
    [
        ({}, None, {"matchLabels": {LABEL_MANAGED_BY: "vc"}}),
        ({"matchLabels": {"app": "a"}}, ["ns1"], {"matchLabels": {"app": "a", LABEL_MANAGED_BY: "vc", LABEL_NAMESPACE: "ns1"}}),
        (
            {"matchExpressions": [{"key": "release", "operator": "Exists", "future": 1}], "future": 2},
            ["ns2", "ns1", "ns2"],
            {
                "future": 2,
                "matchLabels": {LABEL_MANAGED_BY: "vc"},
                "matchExpressions": [
                    {"key": "vcluster.loft.sh/label-vc-x-a4d451ec23", "operator": "Exists", "future": 1},
                    {"key": LABEL_NAMESPACE, "operator": "In", "values": ["ns1", "ns2"]},
                ],
            },
        ),
    ],
)
def test_label_selector(selector: Obj, namespaces: list[str] | None, host: Obj) -> None:
    assert host_label_selector(NAMES, selector, namespaces) == host


@given(
    pods=VIRTUAL_PODS,
    foreign=FOREIGN_PODS,
    selector=SELECTORS,
    namespaces=st.one_of(st.none(), st.lists(NAMESPACES, max_size=3)),
)
@example(pods=[(NAMES, "ns1", {})], foreign=[{}], selector={}, namespaces=[])
@example(pods=[(OTHER, "ns1", {LABEL_MANAGED_BY: "vc"})], foreign=[], selector={"matchLabels": {LABEL_MANAGED_BY: "vc"}}, namespaces=None)
@example(pods=[(NAMES, "ns2", {})], foreign=[], selector={"matchLabels": {LABEL_NAMESPACE: "ns1"}}, namespaces=["ns1"])
def test_a_host_selector_matches_exactly_the_images_of_what_the_virtual_one_matches(
    pods: list[tuple[Names, str, dict[str, str]]], foreign: list[dict[str, str]], selector: Obj, namespaces: list[str] | None
) -> None:
    host = host_label_selector(NAMES, selector, namespaces)
    for names, namespace, labels in pods:
        expected = names == NAMES and (namespaces is None or namespace in namespaces) and matches(selector, labels)
        assert matches(host, host_labels(names, labels, namespace)) == expected
    assert not any(matches(host, labels) for labels in foreign)


@given(pods=VIRTUAL_PODS, foreign=FOREIGN_PODS, selector=LABELS, namespace=NAMESPACES)
def test_a_host_map_selector_too(
    pods: list[tuple[Names, str, dict[str, str]]], foreign: list[dict[str, str]], selector: dict[str, str], namespace: str
) -> None:
    host = {"matchLabels": host_selector(NAMES, selector, namespace)}
    for names, pod_namespace, labels in pods:
        expected = names == NAMES and pod_namespace == namespace and matches({"matchLabels": selector}, labels)
        assert matches(host, host_labels(names, labels, pod_namespace)) == expected
    assert not any(matches(host, labels) for labels in foreign)


def test_keys_that_the_virtual_api_server_has_merged_are_not_asked_for_again() -> None:
    selector = {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "pod-template-hash", "operator": "In", "values": ["1"]}]}
    assert host_label_keys(NAMES, ["pod-template-hash", "app", "tier"], selector) == ["tier"]
    assert host_label_keys(NAMES, ["release"], {}) == [host_label_key(NAMES, "release")]

from __future__ import annotations

import copy
from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.naming import LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.translate.labels import host_label_key
from syncer.translate.scheduling import host_affinity, host_spread, host_tolerations, narrowed_to_nodes
from syncer.translate.selectors import parse_selector

OURS = {LABEL_MANAGED_BY: "vc"}
HERE = {**OURS, LABEL_NAMESPACE: "default"}
APP = {"matchLabels": {"app": "web"}}


def in_namespaces(*namespaces: str) -> Obj:
    return {"key": LABEL_NAMESPACE, "operator": "In", "values": list(namespaces)}


@pytest.mark.parametrize(
    ("scope", "labels", "expressions"),
    [
        ({}, HERE, []),
        ({"namespaces": []}, HERE, []),
        ({"namespaces": None, "namespaceSelector": None}, HERE, []),
        ({"namespaces": ["b"]}, {**OURS, LABEL_NAMESPACE: "b"}, []),
        ({"namespaces": ["b", "a"]}, OURS, [in_namespaces("a", "b")]),
        ({"namespaceSelector": {}}, OURS, []),
        ({"namespaces": ["b"], "namespaceSelector": {}}, OURS, []),
        ({"namespaceSelector": {"matchLabels": {"team": "x"}}}, OURS, [in_namespaces("x1", "x2")]),
        ({"namespaces": ["b"], "namespaceSelector": {"matchLabels": {"team": "x"}}}, OURS, [in_namespaces("b", "x1", "x2")]),
        (
            {"namespaceSelector": {"matchExpressions": [{"key": "none", "operator": "Exists"}]}},
            OURS,
            [{"key": LABEL_NAMESPACE, "operator": "Exists"}, {"key": LABEL_NAMESPACE, "operator": "DoesNotExist"}],
        ),
    ],
)
def test_namespaces_of_a_term(names: Names, scope: Obj, labels: Obj, expressions: list[Obj]) -> None:
    def matching(selector: Obj) -> list[str]:
        return ["x2", "x1"] if selector.get("matchLabels") else []

    term = {"topologyKey": "zone", "labelSelector": APP, "future": 1, **scope}
    selector: Obj = {"matchLabels": {"app": "web", **labels}}
    if expressions:
        selector["matchExpressions"] = expressions
    expected = {"topologyKey": "zone", "labelSelector": selector, "future": 1}
    affinity: Obj = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term], "future": 2},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "podAffinityTerm": term}]},
        "future": 3,
    }
    before = copy.deepcopy(affinity)
    assert host_affinity(names, "default", affinity, matching) == {
        "nodeAffinity": affinity["nodeAffinity"],
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [expected], "future": 2},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "podAffinityTerm": expected}]},
        "future": 3,
    }
    assert affinity == before


def unasked(_selector: Obj) -> list[str]:
    pytest.fail("asked for namespaces")


def test_a_term_without_selector_matches_nothing_and_stays_so(names: Names) -> None:
    term = {"topologyKey": "zone", "namespaces": ["b"]}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    result = host_affinity(names, "default", affinity, unasked)
    assert result["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == [{"topologyKey": "zone"}]


@pytest.mark.parametrize(
    ("selector", "keys", "left"),
    [
        (APP, {"matchLabelKeys": ["tier", "release"]}, {"matchLabelKeys": ["tier", "{release}"]}),
        (APP, {"mismatchLabelKeys": ["tier"]}, {"mismatchLabelKeys": ["tier"]}),
        # as an API server stores it, with the keys merged into the selector: the host would reject both
        (
            {**APP, "matchExpressions": [{"key": "pod-template-hash", "operator": "In", "values": ["1"]}]},
            {"matchLabelKeys": ["pod-template-hash"]},
            {},
        ),
        (
            {**APP, "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]},
            {"mismatchLabelKeys": ["a", "b"]},
            {"mismatchLabelKeys": ["b"]},
        ),
    ],
)
def test_label_keys(names: Names, selector: Obj, keys: Obj, left: Obj) -> None:
    left = {field: [host_label_key(names, "release") if key == "{release}" else key for key in value] for field, value in left.items()}
    result: dict[str, Any] = host_spread(names, "default", {"maxSkew": 1, "topologyKey": "zone", "labelSelector": selector, **keys})
    assert {field: value for field, value in result.items() if field.endswith("LabelKeys")} == left
    assert result["labelSelector"]["matchLabels"] == {"app": "web", **HERE}
    assert result["maxSkew"] == 1


def test_a_spread_without_selector_is_left_as_it_is(names: Names) -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    assert host_spread(names, "default", constraint) == constraint


TOLERATIONS: list[tuple[list[Obj], list[Obj], list[Obj]]] = [
    ([], [], []),
    ([{"key": "a"}], [{"key": "b"}], [{"key": "a"}, {"key": "b"}]),
    ([{"key": "a"}], [{"key": "a"}], [{"key": "a"}]),
    ([{"key": "a", "tolerationSeconds": 5}], [{"key": "a"}], [{"key": "a", "tolerationSeconds": 5}]),
    ([{"key": "a", "effect": "NoSchedule"}], [{"key": "a"}], [{"key": "a", "effect": "NoSchedule"}, {"key": "a"}]),
    ([], [{"operator": "Exists"}], [{"operator": "Exists"}]),
]


@pytest.mark.parametrize(("own", "enforced", "expected"), TOLERATIONS)
def test_enforced_tolerations(own: list[Obj], enforced: list[Obj], expected: list[Obj]) -> None:
    assert host_tolerations(own, enforced) == expected
    assert host_tolerations(expected, enforced) == expected


ZONE = {"key": "zone", "operator": "In", "values": ["a"]}
NAME = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
POOL = {"key": "pool", "operator": "NotIn", "values": ["red"]}


def required(*terms: Obj) -> Obj:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*terms]}}}


NODES: list[tuple[str, str, Obj, Obj]] = [
    ("equal labels", "pool=blue,disk=ssd", {}, {"nodeSelector": {"pool": "blue", "disk": "ssd"}}),
    ("beside the pod's", "pool=blue", {"nodeSelector": {"disk": "ssd"}}, {"nodeSelector": {"disk": "ssd", "pool": "blue"}}),
    ("over the pod's", "pool=blue", {"nodeSelector": {"pool": "red"}}, {"nodeSelector": {"pool": "blue"}}),
    ("any other", "pool!=red", {}, {"affinity": required({"matchExpressions": [POOL]})}),
    (
        "any other, pod wants no nodes",
        "pool!=red",
        {"affinity": {"podAffinity": {}}},
        {"affinity": {"podAffinity": {}, **required({"matchExpressions": [POOL]})}},
    ),
    (
        "any other, in each of the pod's alternatives, but not in one that selects nothing",
        "pool!=red",
        {"affinity": required({"matchExpressions": [ZONE]}, {"matchFields": [NAME]}, {"matchFields": []}, {})},
        {
            "affinity": required(
                {"matchExpressions": [ZONE, POOL]}, {"matchFields": [NAME], "matchExpressions": [POOL]}, {"matchFields": []}, {}
            )
        },
    ),
]


@pytest.mark.parametrize(("text", "spec", "expected"), [case[1:] for case in NODES], ids=[case[0] for case in NODES])
def test_enforced_nodes(text: str, spec: Obj, expected: Obj) -> None:
    before = copy.deepcopy(spec)
    assert narrowed_to_nodes(spec, parse_selector(text)) == expected
    assert spec == before

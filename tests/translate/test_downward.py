from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.naming import Names
from syncer.translate.downward import APPLIED, facts, host_items, host_variable, pod_annotations
from syncer.translate.labels import host_label_key

Pod = Callable[..., Obj]


def field(path: str) -> Obj:
    return {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}


@pytest.mark.parametrize(
    ("path", "value"),
    [("metadata.name", "web-0"), ("metadata.namespace", "default"), ("metadata.uid", "u-1"), ("spec.serviceAccountName", "builder")],
)
def test_a_variable_with_a_lasting_fact_becomes_a_literal(names: Names, pod: Pod, path: str, value: str) -> None:
    variable = {"name": "A", "valueFrom": field(path), "future": 1}
    assert host_variable(names, facts(pod()), variable) == {"name": "A", "value": value, "future": 1}


@pytest.mark.parametrize(
    ("path", "host_path"),
    [
        ("metadata.labels['app']", "metadata.labels['app']"),
        ("metadata.labels['release']", "metadata.labels['{release}']"),
        ("metadata.annotations['note']", "metadata.annotations['note']"),
        ("status.podIP", "status.podIP"),
        ("status.hostIP", "status.hostIP"),
        ("spec.nodeName", "spec.nodeName"),
    ],
)
def test_other_variables_stay_references(names: Names, pod: Pod, path: str, host_path: str) -> None:
    expected = field(host_path.format(release=host_label_key(names, "release")))
    assert host_variable(names, facts(pod()), {"name": "A", "valueFrom": field(path)}) == {"name": "A", "valueFrom": expected}


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "A", "value": "metadata.name"},
        {"name": "A"},
        {"name": "A", "valueFrom": None},
        {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}},
    ],
)
def test_variables_without_field_are_not_touched(names: Names, variable: Obj) -> None:
    assert host_variable(names, {}, variable) is variable


@pytest.mark.parametrize(
    ("path", "host_path"),
    [
        ("metadata.name", "metadata.annotations['vcluster.loft.sh/name']"),
        ("metadata.namespace", "metadata.annotations['vcluster.loft.sh/namespace']"),
        ("metadata.uid", "metadata.annotations['vcluster.loft.sh/uid']"),
        ("spec.serviceAccountName", "metadata.annotations['vcluster.loft.sh/service-account-name']"),
        ("metadata.labels", "metadata.annotations['vcluster.loft.sh/labels']"),
        ("metadata.annotations", "metadata.annotations['vcluster.loft.sh/annotations']"),
        ("metadata.labels['app']", "metadata.labels['app']"),
        ("metadata.labels['vcluster.loft.sh/namespace']", "metadata.labels['{namespace}']"),
        ("metadata.annotations['note']", "metadata.annotations['note']"),
        ("metadata.labels['unclosed", "metadata.labels['unclosed"),
    ],
)
def test_items_of_a_volume(names: Names, path: str, host_path: str) -> None:
    host_path = host_path.format(namespace=host_label_key(names, "vcluster.loft.sh/namespace"))
    others = [{"path": "r", "resourceFieldRef": {"containerName": "app", "resource": "limits.cpu"}}]
    holder = {"defaultMode": 420, "items": [{"path": "f", "mode": 256, **field(path)}, *others]}
    assert host_items(names, holder) == {"defaultMode": 420, "items": [{"path": "f", "mode": 256, **field(host_path)}, *others]}


def test_every_volume_item_finds_the_annotation_it_is_pointed_to(names: Names, pod: Pod) -> None:
    paths = ["metadata.name", "metadata.namespace", "metadata.uid", "spec.serviceAccountName", "metadata.labels", "metadata.annotations"]
    items = [{"path": path, **field(path)} for path in paths]
    for volume in ({"downwardAPI": {"items": items}}, {"projected": {"sources": [{}, {"downwardAPI": {"items": items}}]}}):
        annotations = pod_annotations(pod(volumes=[{"name": "v", **volume}]))
        for item in host_items(names, {"items": items})["items"]:
            assert item["fieldRef"]["fieldPath"][len("metadata.annotations['") : -len("']")] in annotations


def test_pod_annotations(pod: Pod) -> None:
    obj = pod()
    obj["metadata"]["labels"] = {"b": "2", "a": "1", "vcluster.loft.sh/x": "3"}
    obj["metadata"]["annotations"] = {"note": "n", "vcluster.loft.sh/name": "forged"}
    assert pod_annotations(obj) == {
        "vcluster.loft.sh/name": "web-0",
        "vcluster.loft.sh/namespace": "default",
        "vcluster.loft.sh/uid": "u-1",
        "vcluster.loft.sh/service-account-name": "builder",
        "vcluster.loft.sh/labels": 'a="1"\nb="2"\nvcluster.loft.sh/x="3"',
    }


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain text", "plain text"),
        ('say "hi"', 'say \\"hi\\"'),
        ("a\\b", "a\\\\b"),
        ("line\nnext\ttab\r\a\b\f\v", "line\\nnext\\ttab\\r\\a\\b\\f\\v"),
        ("café ☺ 日本", "café ☺ 日本"),
        ("\x01\x7f", "\\x01\\x7f"),
        ("\u00a0\u200b\ufeff", "\\u00a0\\u200b\\ufeff"),  # no ASCII space, no printable
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_annotations_are_quoted_as_a_kubelet_does(pod: Pod, value: str, quoted: str) -> None:
    obj = pod(volumes=[{"name": "v", "downwardAPI": {"items": [{"path": "a", **field("metadata.annotations")}]}}])
    obj["metadata"]["annotations"] = {"k": value}
    assert pod_annotations(obj)["vcluster.loft.sh/annotations"] == f'k="{quoted}"'


def test_a_nested_virtual_cluster_keeps_the_annotations_that_its_pods_refer_to(pod: Pod) -> None:
    env = [{"name": "N", "valueFrom": field("metadata.annotations['vcluster.loft.sh/name']")}]
    items: list[Any] = [
        {"path": "token", **field("metadata.annotations['vcluster.loft.sh/token-abcd']")},
        {"path": "gone", **field("metadata.annotations['vcluster.loft.sh/absent']")},
        {"path": "ours", **field(f"metadata.annotations['{APPLIED}']")},
    ]
    obj = pod(containers=[{"name": "c", "env": env}], volumes=[{"name": "v", "downwardAPI": {"items": items}}])
    obj["metadata"]["annotations"] = {
        "vcluster.loft.sh/name": "inner",
        "vcluster.loft.sh/uid": "not referred to",
        "vcluster.loft.sh/token-abcd": "t",
        APPLIED: "forged",
    }
    annotations = pod_annotations(obj)
    assert annotations["vcluster.loft.sh/name"] == "inner"
    assert annotations["vcluster.loft.sh/uid"] == "u-1"
    assert annotations["vcluster.loft.sh/token-abcd"] == "t"
    assert APPLIED not in annotations
    assert "vcluster.loft.sh/absent" not in annotations

"""What of the host's metrics is shown, and in which form."""

from __future__ import annotations

from typing import Any

import pytest

from syncer.errors import ApiError
from syncer.kube.types import PODS, Obj
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.proxy.residents import proven_pairs
from syncer.proxy.tables import table, table_version, total
from syncer.proxy.usage import check_fields, host_query, shown_nodes, shown_pods
from syncer.translate.labels import host_label_key
from syncer.translate.metadata import host_metadata

NAMES = Names("blue", "team-17")
WEB: Obj = {
    "metadata": {"name": "web", "namespace": "default", "uid": "virtual-uid", "labels": {"app": "web", "release": "one"}},
    "spec": {"containers": [{"name": "main"}, {"name": "side"}], "initContainers": [{"name": "proxy", "restartPolicy": "Always"}]},
}
IMAGE: Obj = {"metadata": {**host_metadata(NAMES, None, PODS, WEB), "uid": "host-uid"}}


def usage(cpu: str, memory: str) -> dict[str, str]:
    return {"cpu": cpu, "memory": memory}


def measured(name: str, namespace: str = "team-17", **more: Any) -> Obj:
    return {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "then", "labels": IMAGE["metadata"]["labels"]},
        "timestamp": "now",
        "window": "10.5s",
        "containers": [{"name": name, "usage": usage("1m", "1Mi")} for name in ("main", "side", "proxy", "injected")],
        **more,
    }


class TestPods:
    def test_in_virtual_terms(self) -> None:
        """What was put into the host pod besides is not shown, nor are the host's labels."""
        (shown,) = shown_pods([(WEB, IMAGE)], [measured("web-x-default-x-blue")])
        labels = {"app": "web", "release": "one"}
        assert shown == {
            "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "then", "labels": labels},
            "timestamp": "now",
            "window": "10.5s",
            "containers": [{"name": name, "usage": usage("1m", "1Mi")} for name in ("main", "side", "proxy")],
        }

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param(measured("etcd"), id="the host's own"),
            pytest.param(measured("web-x-default-x-red"), id="another tenant's"),
            pytest.param(measured("web-x-default-x-blue", "team-18"), id="of another namespace"),
        ],
    )
    def test_others_are_not_shown(self, other: Obj) -> None:
        assert shown_pods([(WEB, IMAGE)], [other]) == []

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"uid": ""}, id="no object"),
            pytest.param({"name": "web-x-default-x-red"}, id="a copy"),
            pytest.param({"annotations": {}}, id="labels alone"),
            pytest.param({"labels": {**IMAGE["metadata"]["labels"], LABEL_MANAGED_BY: "red"}}, id="another tenant's"),
            pytest.param(
                {"annotations": {**IMAGE["metadata"]["annotations"], "vcluster.loft.sh/object-uid": "older"}}, id="of a predecessor"
            ),
        ],
    )
    def test_what_is_not_proven_is_no_pair(self, change: Obj) -> None:
        assert [*proven_pairs(NAMES, [WEB], [IMAGE])] == [(WEB, IMAGE)]
        assert [*proven_pairs(NAMES, [WEB], [{"metadata": {**IMAGE["metadata"], **change}}])] == []

    def test_by_namespace_and_name(self) -> None:
        keys = [("b", "a"), ("a", "z"), ("a", "b")]
        pods = [{**WEB, "metadata": {"name": name, "namespace": namespace, "uid": "u"}} for namespace, name in keys]
        pairs = [(pod, {"metadata": {**host_metadata(NAMES, None, PODS, pod), "uid": "h"}}) for pod in pods]
        shown = shown_pods(pairs, [measured(NAMES.host_name(namespace, name)) for namespace, name in keys])
        assert [(it["metadata"]["namespace"], it["metadata"]["name"]) for it in shown] == sorted(keys)


def test_nodes_are_those_that_stand_for_the_hosts() -> None:
    """A tenant may make Nodes of any name."""
    ours = {"metadata": {"name": "n1", "annotations": {LABEL_MANAGED_BY: "blue"}, "labels": {"zone": "virtual"}}}
    made = {"metadata": {"name": "n2"}}
    theirs = {"metadata": {"name": "n3", "annotations": {LABEL_MANAGED_BY: "red"}}}
    metrics = [
        {"metadata": {"name": name, "labels": {"zone": "host"}}, "timestamp": "now", "window": "9s", "usage": usage("1", "2Gi")}
        for name in ("n1", "n2", "n3", "n4")
    ]
    (shown,) = shown_nodes(NAMES, [ours, made, theirs], metrics)
    assert shown["metadata"] == {"name": "n1", "creationTimestamp": None, "labels": {"zone": "virtual"}}
    assert (shown["usage"], shown["window"]) == (usage("1", "2Gi"), "9s")


@pytest.mark.parametrize(
    ("namespace", "selector", "query"),
    [
        ("", "", "vcluster.loft.sh/managed-by=blue"),
        ("default", "", "vcluster.loft.sh/managed-by=blue,vcluster.loft.sh/namespace=default"),
        (
            "default",
            "app=web,tier notin (a,b),!x",
            "vcluster.loft.sh/managed-by=blue,vcluster.loft.sh/namespace=default,app in (web),tier notin (a,b),!x",
        ),
        ("", "release", f"vcluster.loft.sh/managed-by=blue,{host_label_key(NAMES, 'release')}"),
        ("", "a>1", "vcluster.loft.sh/managed-by=blue"),
        ("", f"{LABEL_MANAGED_BY}=red", f"vcluster.loft.sh/managed-by=blue,{host_label_key(NAMES, LABEL_MANAGED_BY)} in (red)"),
    ],
)
def test_what_the_host_is_asked_for(namespace: str, selector: str, query: str) -> None:
    assert host_query(NAMES, namespace, selector) == query


@pytest.mark.parametrize("text", ["", "metadata.name=web", "metadata.name!=web,metadata.namespace==default"])
def test_fields(text: str) -> None:
    check_fields(text)


@pytest.mark.parametrize("text", ["spec.nodeName=n1", "metadata.name=a,status.phase!=Running", "x"])
def test_fields_that_metrics_do_not_have(text: str) -> None:
    with pytest.raises(ApiError, match='is not a known field selector: only "metadata'):
        check_fields(text)


KUBECTL = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"


class TestForm:
    @pytest.mark.parametrize(
        ("accept", "version"),
        [
            ("", None),
            ("application/json", None),
            ("application/json, */*", None),
            ("application/vnd.kubernetes.protobuf,application/json", None),
            ("application/vnd.kubernetes.protobuf, */*", None),
            (KUBECTL, "meta.k8s.io/v1"),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", "meta.k8s.io/v1beta1"),
            ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", None),
            ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json", None),
        ],
    )
    def test_accepted(self, accept: str, version: str | None) -> None:
        assert table_version(accept) == version

    @pytest.mark.parametrize("accept", ["application/vnd.kubernetes.protobuf", "text/html", "application/json;as=Table;v=v2;g=meta.k8s.io"])
    def test_not_acceptable(self, accept: str) -> None:
        with pytest.raises(ApiError, match="only the following media types"):
            table_version(accept)

    def test_a_table(self) -> None:
        shown = shown_pods([(WEB, IMAGE)], [measured("web-x-default-x-blue")])
        made = table("meta.k8s.io/v1", shown, "metrics.k8s.io/v1beta1", "PodMetrics", "")
        assert [column["name"] for column in made["columnDefinitions"]] == ["Name", "cpu", "memory", "Window"]
        (row,) = made["rows"]
        assert row["cells"] == ["web", "3m", "3Mi", "10.5s"]
        assert row["object"] == {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": shown[0]["metadata"]}

    @pytest.mark.parametrize(("included", "kind"), [("None", None), ("Metadata", "PartialObjectMetadata"), ("Object", "NodeMetrics")])
    def test_what_comes_with_a_row(self, included: str, kind: str | None) -> None:
        node = {"metadata": {"name": "n1"}, "usage": usage("1", "2Gi"), "window": "9s"}
        (row,) = table("meta.k8s.io/v1", [node], "metrics.k8s.io/v1beta1", "NodeMetrics", included)["rows"]
        assert row["cells"] == ["n1", "1", "2Gi", "9s"]
        assert row.get("object", {}).get("kind") == kind

    def test_of_nothing(self) -> None:
        made = table("meta.k8s.io/v1", [], "metrics.k8s.io/v1beta1", "PodMetrics", "")
        assert (made["columnDefinitions"], made["rows"]) == ([], [])

    def test_an_unheard_word(self) -> None:
        with pytest.raises(ApiError, match="unrecognized includeObject value"):
            table("meta.k8s.io/v1", [], "metrics.k8s.io/v1beta1", "PodMetrics", "All")


@pytest.mark.parametrize(
    ("quantities", "written"),
    [
        (["123456n"], "123456n"),
        (["0", "0"], "0"),
        ([], "0"),
        (["1500000n", "500000n"], "2m"),
        (["250m", "750m"], "1"),
        (["999", "1"], "1k"),
        (["1023Ki", "1Ki"], "1Mi"),
        (["512Ki", "1Mi"], "1536Ki"),
        (["12345Ki", "1"], "12641281"),
        (["1Gi", "garbled"], "<unknown>"),
    ],
)
def test_sums(quantities: list[str], written: str) -> None:
    """As resource.Quantity writes them."""
    assert total(quantities) == written

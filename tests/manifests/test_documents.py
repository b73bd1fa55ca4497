"""What files of manifests hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.manifests.documents import parse

ONE = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, namespace: a}\n"


def titles(**files: str) -> list[str]:
    found, problems = parse({f"{name}.yaml": text for name, text in files.items()})
    assert problems == []
    return [document.title for document in found]


def test_documents_of_all_files_in_order() -> None:
    assert titles(b=f"---\n# nothing\n---\n{ONE}---\n", a=ONE.replace("one", "two")) == [
        "ConfigMap a/two of a.yaml",
        "ConfigMap a/one of b.yaml",
    ]


def test_what_others_need_comes_first() -> None:
    crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\n"
    namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"
    assert [title.split()[0] for title in titles(a=ONE, b=f"{crd}---\n{namespace}")] == [
        "Namespace",
        "CustomResourceDefinition",
        "ConfigMap",
    ]


def test_lists_are_taken_apart() -> None:
    indented = ONE.replace("\n", "\n    ").rstrip()
    assert titles(a=f"apiVersion: v1\nkind: List\nitems:\n  - {indented}\n  -\n    {indented}\n") == ["ConfigMap a/one of a.yaml"] * 2
    assert titles(a="apiVersion: v1\nkind: List\nitems:\n") == []


def test_json_is_yaml() -> None:
    assert titles(a='{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}') == ["Namespace x of a.yaml"]


def test_text_stays_text() -> None:
    found, problems = parse({"a.yaml": ONE + "data: {1: a, on: b, date: 2026-01-01, <<: {c: d}}\n"})
    assert problems == []
    assert found[0].obj["data"] == {"1": "a", "on": "b", "date": "2026-01-01", "c": "d"}


def test_what_the_server_sets_is_left_out() -> None:
    text = "{apiVersion: v1, kind: Namespace, metadata: {name: x, uid: y, resourceVersion: '5', managedFields: [], labels: {a: b}}}"
    (document,), _ = parse({"a.yaml": text})
    assert document.obj["metadata"] == {"name": "x", "labels": {"a": "b"}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "a.yaml is not YAML: "),
        ("a: {b\n", "a.yaml is not YAML: "),
        ("a: \x00", "a.yaml is not YAML: "),
        ("!!python/object/apply:os.system [ls]", "a.yaml is not YAML: "),
        ("a: !!timestamp now", "a.yaml is not YAML: "),
        ("a: !!bool perhaps", "a.yaml is not YAML: "),
        ("a: !!int ''", "a.yaml is not YAML: "),
        ("apiVersion: v1\nkind: List\nitems: &x [{apiVersion: v1, kind: List, items: *x}]\n", "a.yaml is not YAML: "),
        ("[" * 5000, "a.yaml is not YAML: "),
        ("apiVersion: v1\nkind: List\nitems: 5\n", "a.yaml, document 1: it is no object of Kubernetes"),
        ("apiVersion: v1\nkind: List\nitems: [5]\n", "a.yaml, document 1: it is no object of Kubernetes"),
        (ONE.replace("namespace: a", "namespace: 5"), "a.yaml, document 1: its metadata.namespace is no text"),
        ("just words", "a.yaml, document 1: it is no object of Kubernetes"),
        (ONE + "---\n[]\n", "a.yaml, document 2: it is no object of Kubernetes"),
        ("metadata: {name: x}\nkind: Pod\n", "a.yaml, document 1: it has no apiVersion"),
        ("apiVersion: v1\nkind: 5\nmetadata: {name: x}\n", "a.yaml, document 1: it has no kind"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x}\n", "a.yaml, document 1: it has no metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: x\n", "a.yaml, document 1: it is no object of Kubernetes"),
        (ONE + "data: {a: !!binary aGVsbG8=}\n", "a.yaml, document 1: it holds what JSON cannot express"),
        (ONE + "data: &x {a: *x}\n", "a.yaml, document 1: it holds what JSON cannot express"),
    ],
)
def test_what_is_none(text: str, problem: str) -> None:
    _, problems = parse({"a.yaml": text})
    assert len(problems) == 1
    assert problems[0].startswith(problem)
    assert "\n" not in problems[0]


def test_a_broken_file_does_not_keep_the_others() -> None:
    found, problems = parse({"a.yaml": "{", "b.yaml": ONE})
    assert (len(found), len(problems)) == (1, 1)


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    found, problems = parse({"a.yaml": text})
    assert isinstance(found, list)
    assert all(isinstance(problem, str) for problem in problems)

"""Label and field selectors, as the API server parses them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from syncer.kube.types import Obj, Resource, labels_of
from tests.fakes.statuses import bad_request

Predicate: TypeAlias = Callable[[Obj], bool]

_SET = re.compile(r"^(\S+)\s+(in|notin)\s*\(([^()]*)\)$")
_EQUAL = re.compile(r"^([^\s=!]+)\s*(==|=|!=)\s*(\S*)$")

FIELDS: Mapping[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"),
}
"""What each type can be selected by, besides metadata.name and metadata.namespace."""


def label_predicate(selector: str) -> Predicate:
    """Failure 400 when it cannot be parsed."""
    tests = [_label_test(part) for part in _split(selector)]
    return lambda obj: all(test(labels_of(obj)) for test in tests)


def field_predicate(resource: Resource, selector: str) -> Predicate:
    """Failure 400 for a field that this type cannot be selected by."""
    known = ("metadata.name", "metadata.namespace", *FIELDS.get(resource.plural, ()))
    tests: list[Predicate] = []
    for part in _split(selector):
        match = _EQUAL.match(part)
        if not match:
            raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        field, operator, value = match.groups()
        if field not in known:
            names = ", ".join(f'"{name}"' for name in known)
            raise bad_request(f'"{field}" is not a known field selector: only {names}')
        tests.append(_field_test(field.split("."), operator, value))
    return lambda obj: all(test(obj) for test in tests)


def _split(selector: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^()]*\))", selector) if part.strip()]


def _label_test(part: str) -> Callable[[Mapping[str, str]], bool]:
    if match := _SET.match(part):
        key, operator, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: key not in labels or labels[key] not in values
    if match := _EQUAL.match(part):
        key, operator, value = match.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: key in labels and labels[key] == value
    if re.fullmatch(r"![^\s=!]+", part):
        return lambda labels: part[1:] not in labels
    if re.fullmatch(r"[^\s=!]+", part):
        return lambda labels: part in labels
    raise bad_request(f"unable to parse requirement: {part!r}")


def _field_test(path: list[str], operator: str, value: str) -> Predicate:
    def test(obj: Obj) -> bool:
        found: object = obj
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, dict):  # events: "source" stands for source.component
            found = found.get("component")
        text = str(found).lower() if isinstance(found, bool) else str(found or "")
        return (text == value) != (operator == "!=")

    return test

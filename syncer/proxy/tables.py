"""Answers about metrics in the form that a client asks for: JSON, or the table that `kubectl get` prints.

Tables are as the metrics server (sigs.k8s.io/metrics-server, pkg/api/table.go) makes them.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from syncer.errors import ApiError
from syncer.translate.volumes import quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syncer.kube.types import Obj

_JSON = frozenset({"application/json", "application/*", "*/*"})
_TABLES = ("meta.k8s.io/v1", "meta.k8s.io/v1beta1")
_INCLUDED = ("None", "Metadata", "Object")
_DECIMAL = [("E", 18), ("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3), ("", 0), ("m", -3), ("u", -6), ("n", -9)]
_BINARY = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)]


def table_version(accept: str) -> str | None:
    """The apiVersion of the Table that an Accept header asks for, None when it is plain JSON. Raises ApiError if it is neither."""
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        media, *parameters = (word.strip() for word in part.split(";"))
        values = dict(word.partition("=")[::2] for word in parameters)
        if media not in _JSON:
            continue
        if "as" not in values:
            return None
        version = f"{values.get('g')}/{values.get('v')}"
        if values["as"] == "Table" and version in _TABLES:
            return version
    raise ApiError(406, "NotAcceptable", "only the following media types are accepted: application/json, also as=Table of meta.k8s.io/v1")


def table(version: str, objects: Sequence[Obj], api_version: str, kind: str, included: str) -> Obj:
    """A Table of PodMetrics or NodeMetrics; `included` is the query's includeObject. Raises ApiError for a word that is none."""
    if included not in ("", *_INCLUDED):
        raise ApiError(400, "BadRequest", f"unrecognized includeObject value: {included!r}")
    shown: Obj = {"kind": "Table", "apiVersion": version, "metadata": {}, "columnDefinitions": [], "rows": []}
    columns = sorted(_usage(objects[0])) if objects else []
    if objects:
        formats = [("Name", "name", "Name of the resource"), *((name, "quantity", "") for name in columns), ("Window", "duration", "")]
        shown["columnDefinitions"] = [
            {"name": name, "type": "string", "format": form, "description": words, "priority": 0} for name, form, words in formats
        ]
    for obj in objects:
        usage = _usage(obj)
        row: Obj = {"cells": [obj["metadata"]["name"], *(total(usage.get(name, ())) for name in columns), obj.get("window")]}
        if included == "Object":
            row["object"] = {"kind": kind, "apiVersion": api_version, **obj}
        elif included != "None":
            row["object"] = {"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": obj["metadata"]}
        shown["rows"].append(row)
    return shown


def total(quantities: Iterable[str]) -> str:
    """The sum of quantities as Kubernetes writes it: in the largest unit that it is a whole multiple of."""
    texts = [*quantities]
    try:
        number = sum((quantity(text) for text in texts), Decimal(0))
    except (InvalidOperation, KeyError):
        return "<unknown>"
    if not number:
        return "0"
    if texts[0].endswith("i") and abs(number) >= 1024:
        units = [(unit, Decimal(2) ** power) for unit, power in _BINARY] + [("", Decimal(1))]
    else:
        units = [(unit, Decimal(10) ** power) for unit, power in _DECIMAL]
    for unit, size in units:
        if number % size == 0:
            return f"{int(number // size)}{unit}"
    return f"{number:f}"


def _usage(obj: Obj) -> dict[str, list[str]]:
    """Quantities by resource name: of all containers of a pod."""
    parts: list[Any] = obj.get("containers", [obj])
    found: dict[str, list[str]] = {}
    for part in parts:
        for name, value in part["usage"].items():
            found.setdefault(name, []).append(value)
    return found

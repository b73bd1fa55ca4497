"""Label selectors that we evaluate ourselves, where no API server does it for us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from syncer.kube.types import Obj

_REQUIREMENT = re.compile(
    r"\s*(?P<key>[\w./-]+)\s*(?:(?P<equal>==|=|!=)\s*(?P<value>[\w.-]*)|(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*"
)
_ABSENT = re.compile(r"\s*!\s*(?P<key>[\w./-]+)\s*")


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches these labels. An empty one matches all; an operator that does not exist, nothing."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_meets(expression, labels) for expression in selector.get("matchExpressions") or ())


def parse_selector(text: str) -> Obj:
    """The LabelSelector that `kubectl --selector` would take for `text`. Raises ValueError in words."""
    expressions: list[Obj] = []
    for item in filter(None, _split(text)):
        if absent := _ABSENT.fullmatch(item):
            expressions.append({"key": absent["key"], "operator": "DoesNotExist"})
        elif found := _REQUIREMENT.fullmatch(item):
            expressions.append(_expression(found))
        else:
            raise ValueError(f"{item.strip()!r} is not a label requirement; write key=value, key!=value, key in (a,b), key or !key")
    return {"matchExpressions": expressions} if expressions else {}


def selector_text(selector: Mapping[str, Any]) -> str:
    """The text of a LabelSelector, as a URL has it: `parse_selector` takes it for one that matches the same."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    return ",".join([*terms, *(_term(expression) for expression in selector.get("matchExpressions") or ())])


def equalities(selector: Mapping[str, Any]) -> dict[str, str] | None:
    """The labels that a LabelSelector asks for when it asks for nothing but equal ones; None when it asks for more than that."""
    found = dict(selector.get("matchLabels") or {})
    for expression in selector.get("matchExpressions") or ():
        values: list[str] = expression.get("values") or []
        if expression.get("operator") != "In" or len(values) != 1 or found.get(expression["key"], values[0]) != values[0]:
            return None
        found[expression["key"]] = values[0]
    return found


def _term(expression: Mapping[str, Any]) -> str:
    key = expression["key"]
    match expression["operator"]:
        case "Exists":
            return str(key)
        case "DoesNotExist":
            return f"!{key}"
        case operator:
            return f"{key} {operator.lower()} ({','.join(expression['values'])})"


def _split(text: str) -> list[str]:
    """At the commas that are not inside of parentheses."""
    return re.split(r",(?![^()]*\))", text)


def _expression(found: re.Match[str]) -> Obj:
    key = found["key"]
    if found["equal"]:
        return {"key": key, "operator": "NotIn" if found["equal"] == "!=" else "In", "values": [found["value"]]}
    if found["set"]:
        values = [value.strip() for value in found["values"].split(",")]
        return {"key": key, "operator": "In" if found["set"] == "in" else "NotIn", "values": values}
    return {"key": key, "operator": "Exists"}


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key"), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return labels.get(str(key)) in values
        case "NotIn":
            return labels.get(str(key)) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False

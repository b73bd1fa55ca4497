"""Which fields of what was written an API server did not keep. Pure.

A path names map keys; "[]" stands for every element of a list. API servers tell of fields that their version does not have by
a `Warning` header (fieldValidation=Warn, the default since 1.27, see
https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation); those behind a switched-off feature gate they drop
without a word, and a webhook may remove anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from syncer.kube import codec

Path: TypeAlias = tuple[str, ...]

ELEMENT = "[]"
_UNKNOWN = re.compile(r'unknown field \\?"([^"\\]+)\\?"')
_FALSE_MATTERS = frozenset({"hostUsers"})
"""Fields of which false is stricter than nothing, and which some supported version lacks; elsewhere API servers leave false out."""
_NOT_COMPARED = frozenset({"metadata", "status", "stringData"})
_IDENTITIES = ("mountPath", "devicePath", "name", "type")
"""What tells the elements of a list apart; one volume may be mounted twice."""


def text_of(path: Path) -> str:
    """As kubectl explain has it, so `spec.containers[].image`."""
    return ".".join(path).replace("." + ELEMENT, ELEMENT)


def unknown_fields(warnings: Iterable[str]) -> set[Path]:
    """The paths that these Warning headers call unknown."""
    return {tuple(re.sub(r"\[\d*\]", "." + ELEMENT, name).split(".")) for warning in warnings for name in _UNKNOWN.findall(warning)}


def dropped(asked: Mapping[str, Any], answered: Mapping[str, Any]) -> set[Path]:
    """The fields of a new object that the API server's answer lacks, but for metadata, status and what is as good as absent."""
    found: set[Path] = set()
    for field, value in asked.items():
        if field not in _NOT_COMPARED:
            _collect(field, value, answered, (), found)
    return found


def dropped_at(path: Path, asked: Any, answered: Any) -> set[Path]:
    """What the API server's answer to a patch lacks of the value that it asked for at `path`."""
    found: set[Path] = set()
    *above, field = path
    _collect(field, asked, {} if answered is None else {field: answered}, tuple(above), found)
    return found


def _collect(field: str, asked: Any, holder: Mapping[str, Any], above: Path, found: set[Path]) -> None:
    path = (*above, field)
    if field not in holder:
        if asked or (asked is False and field in _FALSE_MATTERS):
            found.add(path)
        return
    _compare(asked, holder[field], path, found)


def _compare(asked: Any, answered: Any, path: Path, found: set[Path]) -> None:
    if asked == answered:
        return
    if isinstance(asked, Mapping) and isinstance(answered, Mapping):
        for field, value in asked.items():
            _collect(field, value, answered, path, found)
    elif isinstance(asked, list) and isinstance(answered, list):
        for one, other in _matched(asked, answered):
            if isinstance(one, Mapping) and "$patch" in one:
                continue
            if other is None:
                found.add((*path, ELEMENT))
            else:
                _compare(one, other, (*path, ELEMENT), found)


def _matched(asked: list[Any], answered: list[Any]) -> Iterable[tuple[Any, Any]]:
    """Each element that was asked for, and the one that belongs to it, None if it is gone: by what tells them apart (webhooks put
    theirs in between), else by place; nothing when nobody knows."""
    for name in _IDENTITIES:
        if all(isinstance(item, Mapping) and name in item for item in (*asked, *answered)):
            known = {item[name]: item for item in answered}
            if len(known) == len(answered):
                return [(item, known.get(item[name])) for item in asked]
    return zip(asked, answered, strict=True) if len(asked) == len(answered) else ()


def leaves(body: Mapping[str, Any]) -> dict[Path, int]:
    """What a patch asks for, as a hash by path: two levels deep, labels and annotations three. Its UID is no wish."""
    found: dict[Path, int] = {}
    for top, value in body.items():
        if not isinstance(value, Mapping):
            found[(top,)] = _digest(value)
            continue
        for field, inner in value.items():
            if top == "metadata" and field in ("labels", "annotations") and isinstance(inner, Mapping):
                found.update({(top, field, name): _digest(item) for name, item in inner.items()})
            elif (top, field) != ("metadata", "uid"):
                found[top, field] = _digest(inner)
    return found


def _digest(value: Any) -> int:
    return hash(value if isinstance(value, str) else codec.dumps(value))


def without(body: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """The body without these fields; maps that this leaves empty go too."""
    result: Any = body
    for path in paths:
        result = _without(result, path)
    return result or {}


def _without(value: Any, path: Path) -> Any:
    head, rest = path[0], path[1:]
    if head == ELEMENT:
        return [_without(item, rest) for item in value] if isinstance(value, list) and rest else value
    if not isinstance(value, Mapping) or head not in value:
        return value
    result = {field: inner for field, inner in value.items() if field != head}
    if rest:
        inner = _without(value[head], rest)
        if inner or not value[head]:
            result = {**value, head: inner}
    return result


def value_at(obj: Any, path: Path) -> Any:
    """What is there, None for nothing; `path` must not lead through a list."""
    for name in path:
        if not isinstance(obj, Mapping):
            return None
        obj = obj.get(name)
    return obj


def holds(have: Any, asked: Any) -> bool:
    """Whether a patch that asks for this would change nothing there: maps by key, lists by element, null is absent."""
    if have == asked:
        return True
    if isinstance(asked, Mapping):
        if asked.get("$patch"):
            return False
        fields = have if isinstance(have, Mapping) else {}
        return all(holds(fields.get(field), value) for field, value in asked.items())
    if isinstance(asked, list):
        elements = have if isinstance(have, list) else []
        return len(elements) == len(asked) and all(map(holds, elements, asked))
    return False


def unmet(have: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """What of a patch would change something there, leaf by leaf."""
    return without(body, [path for path in leaves(body) if holds(value_at(have, path), value_at(body, path))])


def same_besides(before: Mapping[str, Any], after: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether two forms of an object differ only in what a patch `body` names: map keys, and elements of lists by type or name.

    Their resourceVersion differs always, the UID in the body is no change.
    """
    for field in before.keys() | after.keys():
        one, other, asked = before.get(field), after.get(field), body.get(field)
        if one == other or field == "resourceVersion":
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping) and (asked is None or isinstance(asked, Mapping)):
            if not same_besides(one, other, asked or {}):
                return False
        elif isinstance(one, list) and isinstance(other, list) and isinstance(asked, list):
            named = {_identity(item) for item in asked}
            if [item for item in one if _identity(item) not in named] != [item for item in other if _identity(item) not in named]:
                return False
        elif field not in body:
            return False
    return True


def _identity(item: Any) -> Any:
    return item.get("type") or item.get("name") if isinstance(item, Mapping) else None

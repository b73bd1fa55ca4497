"""The four patch types. Pure: a new object comes out, what went in is left as it was.

Strategic merge knows the merge keys that this project meets, not the whole table of the Go types. Apply keeps no
field ownership: it merges lists as strategic does and overwrites, but never removes what an earlier apply set.
"""

from __future__ import annotations

import copy
from typing import Any

from syncer.kube.types import Obj

MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "conditions": ("type",),
    "addresses": ("type",),
    "podIPs": ("ip",),
    "hostIPs": ("ip",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "secrets": ("name",),
    "topologySpreadConstraints": ("topologyKey",),
    "taints": ("key",),
    "resourceClaims": ("name",),
}
"""Lists of objects that strategic merge patches element by element; all others are replaced whole. Of two keys the first present counts."""

MERGED_PRIMITIVES = ("finalizers",)
"""Lists of words that strategic merge unites."""


class PatchError(Exception):
    """The patch cannot be applied to that object."""


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(target: Any, patch: Any) -> Any:
    """Kubernetes' strategic merge, with `$patch: delete`, `$patch: replace` and `$deleteFromPrimitiveList`."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            result[field] = [word for word in result.get(field) or [] if word not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _strategic_list(key, result.get(key) or [], value)
        else:
            result[key] = strategic(result.get(key), value)
    return result


def _strategic_list(field: str, target: list[Any], patch: list[Any]) -> list[Any]:
    if field in MERGED_PRIMITIVES:
        return [*target, *(word for word in patch if word not in target)]
    if field not in MERGE_KEYS or not all(isinstance(item, dict) for item in patch):
        return copy.deepcopy(patch)
    if any(item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    result = list(target)
    for item in patch:
        key = next((key for key in MERGE_KEYS[field] if key in item), None)
        if key is None:
            raise PatchError(f"map: {item} does not contain declared merge key: {MERGE_KEYS[field][0]}")
        place = next((i for i, have in enumerate(result) if have.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(strategic({}, item))
        else:
            result[place] = strategic(result[place], item)
    return result


def json_patch(target: Obj, operations: list[Obj]) -> Obj:
    """RFC 6902."""
    document: Any = copy.deepcopy(target)
    for operation in operations:
        kind, path = operation.get("op"), _pointer(str(operation.get("path", "")))
        if kind in ("move", "copy"):
            value = copy.deepcopy(_find(document, _pointer(str(operation.get("from", "")))))
            if kind == "move":
                document = _edit(document, _pointer(operation["from"]), "remove", None)
            document = _edit(document, path, "add", value)
        elif kind == "test":
            if _find(document, path) != operation.get("value"):
                raise PatchError(f"testing value {operation.get('path')} failed")
        elif kind in ("add", "remove", "replace"):
            document = _edit(document, path, kind, copy.deepcopy(operation.get("value")))
        else:
            raise PatchError(f"unexpected kind: {kind}")
    if not isinstance(document, dict):
        raise PatchError("the result is no object")
    return document


def _pointer(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _find(document: Any, path: list[str]) -> Any:
    for step in path:
        try:
            document = document[int(step)] if isinstance(document, list) else document[step]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise PatchError(f"missing path: /{'/'.join(path)}") from error
    return document


def _edit(document: Any, path: list[str], kind: str, value: Any) -> Any:
    if not path:
        return value
    parent, last = _find(document, path[:-1]), path[-1]
    if kind != "add":
        _find(parent, [last])
    if isinstance(parent, list):
        try:
            place = len(parent) if last == "-" else int(last)
        except ValueError as error:
            raise PatchError(f"invalid index: {last}") from error
        if place > len(parent):
            raise PatchError(f"index out of bounds: {last}")
        if kind == "add":
            parent.insert(place, value)
        elif kind == "remove":
            del parent[place]
        else:
            parent[place] = value
    elif isinstance(parent, dict):
        if kind == "remove":
            del parent[last]
        else:
            parent[last] = value
    else:
        raise PatchError(f"no parent for /{'/'.join(path)}")
    return document

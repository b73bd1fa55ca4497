"""Differences between JSON documents, as RFC 7386 merge patches.

A merge patch replaces lists whole and removes what it maps to null; so a document with null inside a map cannot be its
result. Functions here never change their arguments; a result may share parts with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from syncer.kube.types import Obj


def diff(have: Mapping[str, Any], want: Mapping[str, Any]) -> Obj | None:
    """The patch that turns `have` into exactly `want`, None when they are equal. No map in `want` may contain null."""
    patch: Obj = {key: None for key in have if key not in want}
    for key, wanted in want.items():
        if key not in have:
            patch[key] = wanted
        else:
            _compare(patch, key, have[key], wanted, diff)
    return patch or None


def owned(have: Mapping[str, Any], want: Mapping[str, Any]) -> Obj | None:
    """The patch that brings only the keys of `want` about and leaves all others alone; None when nothing is to be done.

    Maps are compared key by key, everything else as a whole. Null in `want` asks for the key to be absent. An absent key
    is as good as an empty map, empty list or null, since API servers do not store those and would be asked for ever.
    """
    patch: Obj = {}
    for key, wanted in want.items():
        if key not in have:
            if owned({}, wanted) if isinstance(wanted, dict) else wanted not in ([], None):
                patch[key] = wanted
        else:
            _compare(patch, key, have[key], wanted, owned)
    return patch or None


def _compare(patch: Obj, key: str, present: Any, wanted: Any, maps: Callable[[Obj, Obj], Obj | None]) -> None:
    """Put into `patch` what a key that both sides have is missing: of two maps what `maps` says, of anything else the whole."""
    if present == wanted:
        return
    if isinstance(present, dict) and isinstance(wanted, dict):
        if inner := maps(present, wanted):
            patch[key] = inner
    else:
        patch[key] = wanted


def apply(target: Any, patch: Any) -> Any:
    """The result of a merge patch, as an API server would compute it."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(result.get(key), value)
    return result

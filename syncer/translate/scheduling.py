"""Pod (anti)affinity and topology spread on the host: the same pods count as in the virtual cluster, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from syncer.kube.types import Obj
from syncer.naming import Names
from syncer.translate.labels import host_label_keys, host_label_selector

NamespacesMatching: TypeAlias = Callable[[Obj], Iterable[str]]
"""Names of the virtual namespaces that a (non-empty) LabelSelector matches."""

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def host_affinity(names: Names, namespace: str, affinity: Obj, namespaces_matching: NamespacesMatching) -> Obj:
    """`spec.affinity` of a pod in `namespace`; the node affinity stays, since nodes have the same names and labels on both sides."""
    result = dict(affinity)
    for field in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(field)
        if not rules:
            continue
        changed = result[field] = dict(rules)
        if rules.get(_REQUIRED):
            changed[_REQUIRED] = [_term(names, namespace, term, namespaces_matching) for term in rules[_REQUIRED]]
        if rules.get(_PREFERRED):
            changed[_PREFERRED] = [
                {**item, "podAffinityTerm": _term(names, namespace, item.get("podAffinityTerm") or {}, namespaces_matching)}
                for item in rules[_PREFERRED]
            ]
    return result


def host_spread(names: Names, namespace: str, constraint: Obj) -> Obj:
    """One of `spec.topologySpreadConstraints`; it always speaks of the pod's own namespace."""
    return _narrowed(names, constraint, (namespace,))


def _term(names: Names, namespace: str, term: Obj, namespaces_matching: NamespacesMatching) -> Obj:
    namespaces: Iterable[str] | None
    listed, selector = term.get("namespaces") or (), term.get("namespaceSelector")
    if selector is None:
        namespaces = listed or (namespace,)
    elif selector.get("matchLabels") or selector.get("matchExpressions"):
        namespaces = {*listed, *namespaces_matching(selector)}
    else:
        namespaces = None
    # On the host all of them live in the pod's own namespace, which is what a term without namespaces means.
    here = {key: value for key, value in term.items() if key not in ("namespaces", "namespaceSelector")}
    return _narrowed(names, here, namespaces)


def _narrowed(names: Names, holder: Obj, namespaces: Iterable[str] | None) -> Obj:
    selector = holder.get("labelSelector")
    if selector is None:
        return holder  # matches nothing, here as there
    result = {**holder, "labelSelector": host_label_selector(names, selector, namespaces)}
    for field in ("matchLabelKeys", "mismatchLabelKeys"):
        if holder.get(field):
            keys = host_label_keys(names, holder[field], selector)
            if keys:
                result[field] = keys
            else:
                del result[field]
    return result

"""Where a pod may run on the host.

Pod (anti)affinity and topology spread count the same pods as in the virtual cluster, and no others. Nodes have the same names and labels on
both sides, so what the tenant asks of nodes stays; the host's operator may narrow the nodes by a selector, and add tolerations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from syncer.kube.types import Obj
from syncer.naming import Names
from syncer.translate.labels import host_label_keys, host_label_selector
from syncer.translate.selectors import equalities

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


def host_tolerations(own: Iterable[Obj], enforced: Iterable[Obj]) -> list[Obj]:
    """The pod's own tolerations, and those of `enforced` that it has not got; its own word on how long it bears a taint stands."""
    result = list(own)
    present = {toleration_identity(toleration) for toleration in result}
    return result + [toleration for toleration in enforced if toleration_identity(toleration) not in present]


def toleration_identity(toleration: Obj) -> tuple[str, ...]:
    """What an API server tells two tolerations of a pod apart by."""
    return tuple(toleration.get(field) or "" for field in ("key", "operator", "value", "effect"))


def narrowed_to_nodes(spec: Obj, selector: Obj) -> Obj:
    """The fields of `spec` by which the pod runs only on nodes that the (non-empty) LabelSelector `selector` selects, too.

    Of a key that pod and selector both ask for, the selector's value counts, so that such a pod need not wait for ever.
    """
    labels = equalities(selector)
    if labels is not None:
        return {"nodeSelector": {**(spec.get("nodeSelector") or {}), **labels}}
    affinity: Obj = spec.get("affinity") or {}
    nodes: Obj = affinity.get("nodeAffinity") or {}
    more = [{"key": key, "operator": "In", "values": [value]} for key, value in (selector.get("matchLabels") or {}).items()]
    more += selector.get("matchExpressions") or ()
    terms = (nodes.get(_REQUIRED) or {}).get("nodeSelectorTerms")
    required = {"nodeSelectorTerms": [_with_nodes(term, more) for term in terms] if terms else [{"matchExpressions": more}]}
    return {"affinity": {**affinity, "nodeAffinity": {**nodes, _REQUIRED: {**(nodes.get(_REQUIRED) or {}), **required}}}}


def _with_nodes(term: Obj, more: list[Obj]) -> Obj:
    """Terms are alternatives. One without requirements selects nothing, and has to go on doing so."""
    if not term.get("matchExpressions") and not term.get("matchFields"):
        return term
    return {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), *more]}


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

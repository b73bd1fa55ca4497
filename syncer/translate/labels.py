"""Labels and selectors on the host.

The tenant's labels stay as they are, so that host monitoring and policies can use them. Renamed are only *reserved* keys: our own
domain, by which we tell objects apart, and `release`, by which the host Service of a virtual cluster selects its
syncer pods. Every host object also carries two markers, virtual cluster and virtual namespace, and every selector
that the tenant writes is narrowed by them, because on the host all virtual namespaces (and other virtual clusters, and
the host's own pods) share one namespace. A host selector matches exactly the images of what the virtual one matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from syncer.kube.types import Obj
from syncer.naming import DOMAIN, LABEL_MANAGED_BY, LABEL_NAMESPACE, Names, shorten

_OWN = DOMAIN + "/"
_SELECTED_BY_HOST = frozenset({"release"})


def host_label_key(names: Names, key: str) -> str:
    """The key under which a tenant's label is found on the host: itself, or for a reserved key a hashed one."""
    if key not in _SELECTED_BY_HOST and not key.startswith(_OWN):
        return key
    return shorten(f"{_OWN}label-{names.suffix}-x-{sha256(key.encode()).hexdigest()[:10]}")


def host_labels(names: Names, labels: Mapping[str, str], namespace: str) -> dict[str, str]:
    """Labels of the host object for a virtual object with `labels` in `namespace`, markers included."""
    result = {host_label_key(names, key): value for key, value in labels.items()}
    result[LABEL_MANAGED_BY] = names.suffix
    result[LABEL_NAMESPACE] = namespace
    return result


def host_selector(names: Names, match_labels: Mapping[str, str], namespace: str) -> dict[str, str]:
    """A map selector (a Service's, a controller's) narrowed to one virtual namespace. An empty one selects all of that namespace."""
    return host_labels(names, match_labels, namespace)


def host_label_selector(names: Names, selector: Mapping[str, Any], namespaces: Iterable[str] | None) -> Obj:
    """A LabelSelector narrowed to these virtual namespaces; None: to any of this virtual cluster; none at all: to nothing.

    For an absent (null) selector, which matches nothing, do not call this: leave it absent.
    """
    match_labels = {host_label_key(names, key): value for key, value in (selector.get("matchLabels") or {}).items()}
    expressions = [{**item, "key": host_label_key(names, item.get("key") or "")} for item in selector.get("matchExpressions") or ()]
    match_labels[LABEL_MANAGED_BY] = names.suffix
    if namespaces is not None:
        wanted = sorted(set(namespaces))
        if len(wanted) == 1:
            match_labels[LABEL_NAMESPACE] = wanted[0]
        elif wanted:
            expressions.append({"key": LABEL_NAMESPACE, "operator": "In", "values": wanted})
        else:  # "In" must not be empty; two requirements that exclude each other match nothing whatsoever
            expressions += [{"key": LABEL_NAMESPACE, "operator": "Exists"}, {"key": LABEL_NAMESPACE, "operator": "DoesNotExist"}]
    result = {**selector, "matchLabels": match_labels}
    if expressions:
        result["matchExpressions"] = expressions
    return result


def host_label_keys(names: Names, keys: Iterable[str], selector: Mapping[str, Any]) -> list[str]:
    """`matchLabelKeys` or `mismatchLabelKeys` that may stand beside the (virtual) `selector` on the host.

    API servers merge such keys into the selector when a pod is created (pod affinity since 1.31, topology spread since 1.34)
    and reject a pod that has the key in both. The virtual one has merged them already, so only those that its
    selector does not mention are left for the host to merge.
    """
    merged = set(selector.get("matchLabels") or ()) | {item.get("key") for item in selector.get("matchExpressions") or ()}
    return [host_label_key(names, key) for key in keys if key not in merged]

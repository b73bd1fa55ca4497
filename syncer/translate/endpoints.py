"""Endpoints and EndpointSlices on the host: the same addresses, with references to pods that are found there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from syncer.kube.types import Key, Obj, annotations_of, key_of, labels_of
from syncer.naming import DOMAIN, Names

SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the Service that it belongs to."""
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "syncer." + DOMAIN
"""Our name in that label, on slices that say nothing of who manages them."""
OF_CONTROLLERS = frozenset({"endpoints.kubernetes.io/managed-by", "service.kubernetes.io/headless"})
"""Labels by which the endpoints controller marks what it makes."""

_KUBERNETES_OWN = frozenset({"endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"})
_NOT_COPIED = frozenset(
    {
        "control-plane.alpha.kubernetes.io/leader",  # changes every few seconds, and would keep the host from mirroring
        "endpoints.kubernetes.io/last-change-trigger-time",
        "endpoints.kubernetes.io/over-capacity",
    }
)


def is_hand_made(endpoint_slice: Mapping[str, Any]) -> bool:
    """Whether an EndpointSlice is anybody's but the two controllers' that every cluster has; on the host these make their own."""
    return labels_of(endpoint_slice).get(MANAGED_BY) not in _KUBERNETES_OWN


def as_copied(names: Names, obj: Obj) -> Obj:
    """The virtual object with the labels and annotations that its host object shall have, as far as they differ in kind."""
    annotations = {key: value for key, value in annotations_of(obj).items() if key not in _NOT_COPIED}
    labels = {key: value for key, value in labels_of(obj).items() if key not in OF_CONTROLLERS}
    if service := labels.get(SERVICE_NAME):
        labels[SERVICE_NAME] = names.host_name(key_of(obj).namespace, service)
        labels.setdefault(MANAGED_BY, MANAGER)
    return {**obj, "metadata": {**obj["metadata"], "labels": labels, "annotations": annotations}}


def pods_behind(obj: Obj) -> dict[Key, str]:
    """The virtual pods that it refers to, with the UID that each is said to have ("" for any)."""
    namespace = key_of(obj).namespace
    targets = (address.get("targetRef") or {} for address in _all_addresses(obj))
    return {
        Key(target.get("namespace") or namespace, target["name"]): target.get("uid") or ""
        for target in targets
        if target.get("kind") == "Pod" and target.get("name")
    }


def host_content(names: Names, obj: Obj, uids: Mapping[Key, str]) -> Obj:
    """The fields besides metadata of the host object. `uids`: of the virtual pods that are on the host, their UIDs there.

    References to anything else lead nowhere on the host, or to a stranger, and are left out.
    """
    namespace = key_of(obj).namespace

    def translated(addresses: Iterable[Obj]) -> list[Obj]:
        return [_with_target(names, address, namespace, uids) for address in addresses]

    if "addressType" in obj:
        return {
            "addressType": obj["addressType"],
            "endpoints": translated(obj.get("endpoints") or ()),
            "ports": obj.get("ports") or [],
        }
    subsets = []
    for subset in obj.get("subsets") or ():
        lists = {field: translated(subset[field]) for field in ("addresses", "notReadyAddresses") if subset.get(field)}
        subsets.append({**subset, **lists})
    return {"subsets": subsets}


def differs(field: str, present: Any, wanted: Any) -> bool:
    """Whether a field of the content says something else; in which order and grouping subsets say it, API servers decide."""
    if field == "subsets":
        return _facts(present) != _facts(wanted)
    return (present or None) != (wanted or None)


def _facts(subsets: Iterable[Obj] | None) -> set[tuple[bool, str, str]]:
    no_port: list[Obj] = [{}]
    return {
        (ready, _text(address), _text(port))
        for subset in subsets or ()
        for ready, field in ((True, "addresses"), (False, "notReadyAddresses"))
        for address in subset.get(field) or ()
        for port in subset.get("ports") or no_port
    }


def _text(value: Obj) -> str:
    return repr(sorted((key, _text(part) if isinstance(part, dict) else part) for key, part in value.items()))


def _all_addresses(obj: Obj) -> Iterator[Obj]:
    yield from obj.get("endpoints") or ()
    for subset in obj.get("subsets") or ():
        for field in ("addresses", "notReadyAddresses"):
            yield from subset.get(field) or ()


def _with_target(names: Names, address: Obj, namespace: str, uids: Mapping[Key, str]) -> Obj:
    target = address.get("targetRef")
    if not target:
        return address
    rest = {field: value for field, value in address.items() if field != "targetRef"}
    key = Key(target.get("namespace") or namespace, target.get("name") or "")
    if target.get("kind") != "Pod" or key not in uids:
        return rest
    host = names.host_key(key)
    return {**rest, "targetRef": {"kind": "Pod", "namespace": host.namespace, "name": host.name, "uid": uids[key]}}

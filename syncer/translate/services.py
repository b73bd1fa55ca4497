"""Services on the way down and up: what is asked of the host, what the host allocates, and how the virtual one gets to know.

The host allocates cluster addresses, node ports and health check ports. A Service normally gets them while it is being
created: the admission webhook makes a *pending* host Service first (`pending_service`) and answers with its addresses
(`admission_patch`), and the loop adopts it once the virtual one is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from syncer.kube.types import SERVICES, Key, Obj, annotations_of, key_of, labels_of, uid_of
from syncer.naming import DOMAIN, Names
from syncer.translate.labels import host_selector
from syncer.translate.merge import diff
from syncer.translate.metadata import host_metadata

PENDING = DOMAIN + "/pending"
"""Annotation of a host Service made for a virtual one that is not stored yet. Value: epoch seconds of when that was."""
RECREATE = DOMAIN + "/recreate"
"""Annotation of a host Service while its virtual one is deleted and made anew. Value: that one as JSON, see `recreation`."""

_ADDRESSES = ("clusterIP", "clusterIPs")
_FAMILIES = ("ipFamilies", "ipFamilyPolicy")
_DUAL_STACK = frozenset({"PreferDualStack", "RequireDualStack"})
_WITH_NODE_PORTS = frozenset({"NodePort", "LoadBalancer"})

_REMOVABLE = (
    "externalName", "externalIPs", "loadBalancerIP", "loadBalancerSourceRanges", "publishNotReadyAddresses", "sessionAffinityConfig",
    "trafficDistribution",
)  # fmt: skip
"""Absent on the virtual side means: to be absent on the host. API servers default none of these (or to false)."""
_DEFAULTED = ("type", "sessionAffinity", "externalTrafficPolicy", "internalTrafficPolicy", "allocateLoadBalancerNodePorts")
"""Absent on the virtual side means: this version or type has no such field, and the host's default stands."""


def is_headless(service: Mapping[str, Any]) -> bool:
    """Whether it has no cluster address on purpose."""
    return bool(_spec(service).get("clusterIP") == "None")


def is_external_name(service: Mapping[str, Any]) -> bool:
    """Whether it is nothing but a name in DNS, without an address."""
    return bool(_spec(service).get("type") == "ExternalName")


def host_service(names: Names, owner: Obj | None, virtual: Obj, *, stored: bool = True) -> Obj:
    """The host Service to create for a virtual one.

    Addresses are left to the host. Of a `stored` virtual Service also the address families are, unless it is dual-stack:
    its API server has filled in defaults of its own, which then say nothing of what was asked for.
    """
    spec = {field: value for field, value in _spec(virtual).items() if field not in _ADDRESSES + _FAMILIES}
    if is_headless(virtual):
        spec["clusterIP"] = "None"
    spec.pop("selector", None)
    if selector := _wanted_selector(names, virtual):
        spec["selector"] = selector
    if not stored:
        spec.update({field: _spec(virtual)[field] for field in _FAMILIES if field in _spec(virtual)})
    elif _spec(virtual).get("ipFamilyPolicy") in _DUAL_STACK:
        spec["ipFamilyPolicy"] = _spec(virtual)["ipFamilyPolicy"]
    return {"apiVersion": "v1", "kind": "Service", "metadata": host_metadata(names, owner, SERVICES, virtual), "spec": spec}


def pending_service(names: Names, owner: Obj | None, virtual: Obj, now: float) -> Obj:
    """The host Service for a virtual one that is just being created (as admission sees it: without a UID). `now` is epoch seconds."""
    host = host_service(names, owner, virtual, stored=False)
    host["metadata"]["annotations"][PENDING] = str(int(now))
    return host


def pending_since(host: Obj) -> float | None:
    """When a pending host Service was made, in epoch seconds (0.0 if its mark is unreadable); None if it is not pending."""
    text = annotations_of(host).get(PENDING)
    if text is None:
        return None
    return float(text) if text.isdecimal() else 0.0


def admission_patch(virtual: Obj, host: Obj) -> list[Obj]:
    """JSON Patch (RFC 6902) that gives the virtual Service, on its way to be stored, what the host allocated."""
    spec = _spec(virtual)
    wanted = with_allocations(virtual, host)
    operations: list[Obj] = [
        {"op": "add", "path": f"/spec/{field}", "value": wanted[field]}
        for field in (*_ADDRESSES, *_FAMILIES, "healthCheckNodePort")
        if field in wanted and wanted[field] != spec.get(field)
    ]
    for number, (port, wanted_port) in enumerate(zip(spec.get("ports") or (), wanted.get("ports") or (), strict=True)):
        if wanted_port.get("nodePort") != port.get("nodePort"):
            operations.append({"op": "add", "path": f"/spec/ports/{number}/nodePort", "value": wanted_port["nodePort"]})
    return operations


def with_allocations(virtual: Obj, host: Obj) -> Obj:
    """The virtual Service's spec with the host's addresses, health check port, and node ports where it has none of its own."""
    spec, given = dict(_spec(virtual)), _spec(host)
    if not is_external_name(host):
        spec.update({field: given[field] for field in _ADDRESSES + _FAMILIES if field in given})
    if given.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = given["healthCheckNodePort"]
    if "ports" in spec:
        spec["ports"] = wanted_ports(virtual, host)
    return spec


def wanted_ports(virtual: Obj, host: Obj) -> list[Obj]:
    """The virtual Service's ports; those without a node port get the one that the host allocated, if their type has any."""
    ports: list[Obj] = _spec(virtual).get("ports") or []
    if _spec(virtual).get("type") not in _WITH_NODE_PORTS:
        return ports
    allocated = {_identity(port): port.get("nodePort") for port in _spec(host).get("ports") or ()}
    return [
        port if port.get("nodePort") or not allocated.get(_identity(port)) else {**port, "nodePort": allocated[_identity(port)]}
        for port in ports
    ]


def spec_changes(names: Names, virtual: Obj, host: Obj) -> Obj:
    """The merge patch of the host's spec that brings it to what the virtual Service says; {} when it does."""
    wanted, present = _spec(virtual), _spec(host)
    changes: Obj = {field: wanted[field] for field in _DEFAULTED if field in wanted and wanted[field] != present.get(field)}
    for field in _REMOVABLE:
        if (wanted.get(field) or None) != (present.get(field) or None):
            changes[field] = wanted.get(field) or None
    if selector := diff(present.get("selector") or {}, _wanted_selector(names, virtual)):
        changes["selector"] = selector
    ports = wanted_ports(virtual, host)
    if not _same_ports(ports, present.get("ports") or []):
        changes["ports"] = ports
    if wanted.get("healthCheckNodePort") and not present.get("healthCheckNodePort"):
        changes["healthCheckNodePort"] = wanted["healthCheckNodePort"]
    if is_external_name(host) and is_headless(virtual):
        changes["clusterIP"] = "None"
    if wanted.get("loadBalancerClass") and changes.get("type") == "LoadBalancer":
        changes["loadBalancerClass"] = wanted["loadBalancerClass"]  # only ever settable when the type becomes LoadBalancer
    return changes


def allocation_changes(virtual: Obj, host: Obj) -> Obj:
    """The merge patch of the virtual spec that fills in ports which only the host knows; {} when there are none."""
    changes: Obj = {}
    ports = wanted_ports(virtual, host)
    if ports != (_spec(virtual).get("ports") or []):
        changes["ports"] = ports
    if (port := _spec(host).get("healthCheckNodePort")) and not _spec(virtual).get("healthCheckNodePort"):
        changes["healthCheckNodePort"] = port
    return changes


def status_changes(virtual: Obj, host: Obj) -> Obj:
    """The merge patch of the virtual status that makes it the host's. Only load balancers have any: API servers drop others'."""
    if _spec(virtual).get("type") != "LoadBalancer":
        return {}
    present, wanted = virtual.get("status") or {}, host.get("status") or {}
    changes: Obj = {}
    if load_balancer := diff(present.get("loadBalancer") or {}, wanted.get("loadBalancer") or {}):
        changes["loadBalancer"] = load_balancer
    if (present.get("conditions") or []) != (wanted.get("conditions") or []):
        changes["conditions"] = wanted.get("conditions") or None
    return changes


def recreation(virtual: Obj, host: Obj) -> Obj:
    """The virtual Service to create in place of `virtual`, with the host's addresses; without a UID, version or status."""
    metadata = virtual["metadata"]
    kept = {field: metadata[field] for field in ("labels", "annotations", "ownerReferences", "finalizers") if metadata.get(field)}
    key = key_of(virtual)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": key.name, "namespace": key.namespace, **kept},
        "spec": with_allocations(virtual, host),
    }


def recreation_note(virtual: Obj, body: Obj) -> str:
    """Value of the RECREATE annotation: everything needed to create `body` after `virtual` has been deleted."""
    return json.dumps({"uid": uid_of(virtual), "object": body}, sort_keys=True, separators=(",", ":"))


def noted_recreation(host: Obj, key: Key) -> tuple[str, Obj] | None:
    """UID of the virtual Service that is being replaced, and the body that replaces it; None when there is none noted for `key`."""
    text = annotations_of(host).get(RECREATE)
    try:
        note = json.loads(text or "null")
        uid, body = str(note["uid"]), note["object"]
        return (uid, body) if key_of(body) == key and body["spec"] else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def is_excluded(service: Obj) -> bool:
    """Whether another controller of the vcluster family says that it looks after this Service itself."""
    mark = DOMAIN + "/controlled-by"
    return mark in labels_of(service) or mark in annotations_of(service)


def _spec(service: Mapping[str, Any]) -> Obj:
    return service.get("spec") or {}


def _wanted_selector(names: Names, virtual: Obj) -> Obj:
    """Unlike other selectors, a Service's empty one selects nothing: its endpoints are somebody else's business."""
    selector = _spec(virtual).get("selector")
    return dict(host_selector(names, selector, key_of(virtual).namespace)) if selector else {}


def _identity(port: Mapping[str, Any]) -> tuple[Any, str]:
    return port.get("port"), port.get("protocol") or "TCP"


def _same_ports(wanted: list[Obj], present: list[Obj]) -> bool:
    if len(wanted) != len(present):
        return False
    optional = ("name", "appProtocol")
    return all(
        all(have.get(field) == want[field] for field in want) and all(bool(have.get(field)) == bool(want.get(field)) for field in optional)
        for want, have in zip(wanted, present, strict=True)
    )

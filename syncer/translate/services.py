"""Services on the way down and up: what is asked of the host, what the host allocates, and how the virtual one gets to know.

The host allocates cluster addresses, node ports and health check ports. A Service normally gets them while it is being
created: the admission webhook makes a *pending* host Service first (`pending_service`) and answers with its addresses
(`admission_patch`), and the loop adopts it once the virtual one is stored. An update that needs more of them goes the same
way: the host Service is changed first, and marked (`CHANGING`) so that the loop does not change it back meanwhile.

A virtual Service whose address is not the host's is *readdressed*: turned into an ExternalName, which gives its address
up, and back with the right one. It stays the same object, so its Endpoints, finalizers and UID do too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from syncer.kube.types import SERVICES, Key, Obj, annotations_of, key_of, labels_of
from syncer.naming import DOMAIN, Names
from syncer.translate.labels import host_selector
from syncer.translate.merge import diff
from syncer.translate.messages import host_names_hidden
from syncer.translate.metadata import host_metadata

PENDING = DOMAIN + "/pending"
"""Annotation of a host Service made for a virtual one that is not stored yet. Value: epoch seconds of when that was."""
CHANGING = DOMAIN + "/changing"
"""Annotation of a host Service changed ahead of an update of the virtual one. Value: epoch seconds and, after a slash, the
resourceVersion that the update started from. It says nothing once either has passed, and stays."""
READDRESSING = DOMAIN + "/readdressing"
"""Annotation of a virtual Service on its way to another address. Value: its spec as JSON."""
KUBERNETES = Key("default", "kubernetes")
"""The virtual API server's own Service, and its Endpoints; never copied."""
LANDING_SECONDS = 60.0
"""A create or an update that has not landed after that long never will: API servers give up on a request earlier."""
ON_ITS_WAY = "readdressing.invalid"
"""`externalName` of a Service that is being readdressed; a name that no resolver ever finds (RFC 6761)."""

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


def is_unlike(service: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one is headless and the other has an address: no Service can become the other kind but by way of an ExternalName."""
    return not is_external_name(service) and not is_external_name(other) and is_headless(service) != is_headless(other)


def has_own_endpoints(service: Mapping[str, Any] | None) -> bool:
    """Whether what is behind it is somebody else's business than a controller's: it has no selector."""
    return service is not None and not is_external_name(service) and not _spec(service).get("selector")


def addresses(service: Mapping[str, Any]) -> list[str]:
    """Its cluster addresses, the primary one first; `["None"]` for a headless one, none for an ExternalName."""
    if is_external_name(service):
        return []
    spec = _spec(service)
    return list(spec.get("clusterIPs") or filter(None, [spec.get("clusterIP")]))


def has_foreign_address(virtual: Mapping[str, Any], host: Mapping[str, Any]) -> bool:
    """Whether a virtual Service has an address that is not its host Service's. It may well lack one of the host's."""
    mine, given = addresses(virtual), addresses(host)
    return bool(given) and not set(mine) <= set(given)


def host_services(names: Names, owner: Obj | None, virtual: Obj) -> tuple[Obj, ...]:
    """Host Services for a stored virtual one, the best first: with its address and node ports, with its node ports, with new ones.

    The first fits where somebody deleted the host Service; whether all that is still free, only the host can tell.
    """
    plain = host_service(names, owner, virtual)
    spec = plain["spec"]
    if is_external_name(virtual) or is_headless(virtual):
        return (plain,)
    kept = {field: _spec(virtual)[field] for field in _ADDRESSES + _FAMILIES if field in _spec(virtual)}
    with_address = {**plain, "spec": {**spec, **kept}}
    if not any(port.get("nodePort") for port in spec.get("ports") or ()):
        return with_address, plain
    ports = [{field: value for field, value in port.items() if field != "nodePort"} for port in spec["ports"]]
    anew = {**{field: value for field, value in spec.items() if field != "healthCheckNodePort"}, "ports": ports}
    return with_address, plain, {**plain, "spec": anew}


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


def changing_mark(virtual: Obj, now: float) -> dict[str, str]:
    """The CHANGING annotation for an update that starts from `virtual`. `now` is epoch seconds."""
    return {CHANGING: f"{int(now)}/{virtual['metadata'].get('resourceVersion') or 0}"}


def changing_for(virtual: Obj, host: Obj, now: float) -> float:
    """For how many seconds more the host Service is ahead of its virtual one, on purpose; 0.0 if it is not."""
    since, _, version = annotations_of(host).get(CHANGING, "").partition("/")
    if not since.isdecimal() or not version.isdecimal() or int(virtual["metadata"]["resourceVersion"]) > int(version):
        return 0.0
    return max(0.0, float(since) + LANDING_SECONDS - now)


def admission_patch(virtual: Obj, host: Obj, families: frozenset[str] | None = None) -> list[Obj]:
    """JSON Patch (RFC 6902) that gives the virtual Service, on its way to be stored, what the host allocated. `families` as below."""
    spec = _spec(virtual)
    wanted = with_allocations(virtual, host, families)
    operations: list[Obj] = [
        {"op": "add", "path": f"/spec/{field}", "value": wanted[field]}
        for field in (*_ADDRESSES, *_FAMILIES, "healthCheckNodePort")
        if field in wanted and wanted[field] != spec.get(field)
    ]
    for number, (port, wanted_port) in enumerate(zip(spec.get("ports") or (), wanted.get("ports") or (), strict=True)):
        if (node_port := wanted_port.get("nodePort")) and node_port != port.get("nodePort"):
            operations.append({"op": "add", "path": f"/spec/ports/{number}/nodePort", "value": node_port})
    return operations


def with_allocations(virtual: Obj, host: Obj, families: frozenset[str] | None = None) -> Obj:
    """The virtual Service's spec with the host's addresses, health check port, and node ports where it has none of its own.

    `families` are those that the virtual API server knows (None: as many as the host). It refuses an address of another, and
    where it knows two it adds an address of its own to a Service that prefers two and brings one.
    """
    spec, given = dict(_spec(virtual)), _spec(host)
    if not is_external_name(host):
        spec.update({field: given[field] for field in _ADDRESSES + _FAMILIES if field in given})
        if families is not None and spec.get("ipFamilyPolicy") in _DUAL_STACK and not (is_headless(host) and has_own_endpoints(virtual)):
            spec["ipFamilies"] = [family for family in spec.get("ipFamilies") or () if family in families]
            known = [address for address in addresses(host) if address == "None" or family_of(address) in families]
            if known:
                spec["clusterIP"], spec["clusterIPs"] = known[0], known
            if len(spec["ipFamilies"]) < len(families):
                spec["ipFamilyPolicy"] = "SingleStack"
    if given.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = given["healthCheckNodePort"]
    if "ports" in spec:
        spec["ports"] = wanted_ports(virtual, host)
    return spec


def wants_two_families(service: Mapping[str, Any]) -> bool:
    """Whether it asks for addresses of both IP families."""
    return _spec(service).get("ipFamilyPolicy") in _DUAL_STACK


def family_of(address: str) -> str:
    """The IP family of an address, as Services name it."""
    return "IPv6" if ":" in address else "IPv4"


def wanted_ports(virtual: Obj, host: Obj) -> list[Obj]:
    """The virtual Service's ports; those without a node port get the one that the host allocated, if their type has any.

    Where the address is not the host's, the node ports are not either, and the host's are taken.
    """
    ports: list[Obj] = _spec(virtual).get("ports") or []
    if _spec(virtual).get("type") not in _WITH_NODE_PORTS:
        return [{field: value for field, value in port.items() if field != "nodePort"} for port in ports]
    foreign = has_foreign_address(virtual, host)
    allocated = {_identity(port): port.get("nodePort") for port in _spec(host).get("ports") or ()}
    return [
        port
        if (port.get("nodePort") and not foreign) or not allocated.get(_identity(port))
        else {**port, "nodePort": allocated[_identity(port)]}
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
    policy, had = wanted.get("ipFamilyPolicy"), present.get("ipFamilyPolicy")
    if policy and had and policy != had:
        changes["ipFamilyPolicy"] = policy
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


def status_changes(names: Names, virtual: Obj, host: Obj) -> Obj:
    """The merge patch of the virtual status that makes it the host's, but for what the syncer itself says of the virtual Service.

    Only load balancers have any: API servers drop others'.
    """
    if _spec(virtual).get("type") != "LoadBalancer":
        return {}
    present, wanted = virtual.get("status") or {}, host.get("status") or {}
    changes: Obj = {}
    if load_balancer := diff(present.get("loadBalancer") or {}, wanted.get("loadBalancer") or {}):
        changes["loadBalancer"] = load_balancer
    known = ((key_of(host).name, key_of(virtual)),)
    conditions = [
        {**condition, "message": host_names_hidden(condition["message"], names=names, pairs=known)}
        if condition.get("message")
        else condition
        for condition in wanted.get("conditions") or ()
    ]
    shown = {condition.get("type") for condition in conditions}
    had = present.get("conditions") or []
    conditions += [condition for condition in had if condition.get("type", "").startswith(f"{DOMAIN}/") and condition["type"] not in shown]
    if had != conditions:
        changes["conditions"] = conditions or None
    return changes


def release_patch(virtual: Obj) -> Obj:
    """The merge patch by which a virtual Service gives its address up, remembering what it was."""
    note = json.dumps(_spec(virtual), sort_keys=True, separators=(",", ":"))
    spec = {"type": "ExternalName", "externalName": ON_ITS_WAY, "loadBalancerSourceRanges": None}
    return {"metadata": {"annotations": {READDRESSING: note}}, "spec": spec}


def return_patch(virtual: Obj, host: Obj) -> Obj:
    """The merge patch that brings a Service back which gave its address up; `virtual` as it was, with the host's allocations now."""
    spec = _spec(virtual)
    families = frozenset(spec.get("ipFamilies") or ()) if wants_two_families(virtual) else None
    return {"metadata": {"annotations": {READDRESSING: None}}, "spec": {**with_allocations(virtual, host, families), "externalName": None}}


def before_release(virtual: Obj) -> Obj | None:
    """A virtual Service as it was before it gave its address up; None if it did not."""
    if not is_external_name(virtual) or _spec(virtual).get("externalName") != ON_ITS_WAY:
        return None
    try:
        spec = json.loads(annotations_of(virtual).get(READDRESSING) or "null")
    except ValueError:
        return None
    return {**virtual, "spec": spec} if isinstance(spec, dict) else None


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

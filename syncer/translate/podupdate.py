"""What may change in the spec of a pod that runs, as strategic merge patches for the host pod.

Kubernetes lets few fields change (core/validation, ValidatePodUpdate), and some of them may differ on the host for good reason:
a registry mirror's webhook replaced the image, a queueing system added a scheduling gate, an autoscaler resized a container. So
the host pod carries, as annotations `APPLIED` and `RESIZED`, what was last written for these, and only a change of the virtual pod
against that is passed on: the tenant's word counts when it is younger, and only where it speaks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from syncer.kube.types import Obj, annotations_of
from syncer.naming import Names
from syncer.translate.downward import APPLIED, RESIZED, pod_annotations
from syncer.translate.environment import DataKeys
from syncer.translate.merge import owned
from syncer.translate.podspec import PodPolicy, host_ephemeral_containers, host_image, required_nodes
from syncer.translate.scheduling import host_tolerations, toleration_identity

_IMAGE_FIELDS = ("containers", "initContainers")
_SIZES = ("requests", "limits")
_OF_POD = ""
"""Stands for the pod as a whole where containers are told apart by name."""


def created_annotations(pod: Obj) -> dict[str, str]:
    """Annotations of ours to create the host pod with: `pod_annotations`, and the records that later changes are compared with."""
    sizes = _sizes(pod)
    return {**pod_annotations(pod), APPLIED: _record(pod), **({RESIZED: _json(sizes)} if sizes else {})}


def host_pod_update(policy: PodPolicy, virtual: Obj, host: Obj) -> Obj | None:
    """The strategic merge patch that passes on what changed in the virtual pod's spec; None when nothing did.

    Images (containers that only the host has stay as they are), activeDeadlineSeconds (it can only be set or fall), tolerations
    (only added, or given another time), removed scheduling gates, and for a gated pod node selector and node affinity. Nothing else
    can change: terminationGracePeriodSeconds is immutable. Resources change by another subresource, see `host_resize`.
    """
    have, want = host.get("spec") or {}, virtual.get("spec") or {}
    applied = _applied(host)
    spec: Obj = {}
    for field in _IMAGE_FIELDS:
        images = _images(policy, want.get(field) or (), have.get(field) or (), applied)
        if images:
            spec[field] = images
    deadline = want.get("activeDeadlineSeconds")
    if deadline is not None and (have.get("activeDeadlineSeconds") is None or deadline < have["activeDeadlineSeconds"]):
        spec["activeDeadlineSeconds"] = deadline
    wanted = host_tolerations(want.get("tolerations") or (), policy.enforced_tolerations)
    tolerations = _tolerations(wanted, have.get("tolerations") or [])
    if tolerations:
        spec["tolerations"] = tolerations
    if have.get("schedulingGates"):
        spec |= _gated({**want, **required_nodes(policy, want)}, have, applied)
    if not spec:
        return None
    patch: Obj = {"spec": spec}
    record = _record(virtual)
    if annotations_of(host).get(APPLIED) != record:
        patch["metadata"] = {"annotations": {APPLIED: record}}
    return patch


def host_ephemeral_update(
    names: Names,
    policy: PodPolicy,
    virtual: Obj,
    host: Obj,
    *,
    api_address: str,
    services: Iterable[Obj],
    data_keys: DataKeys = lambda _kind, _name: (),
) -> Obj | None:
    """The strategic merge patch for the `ephemeralcontainers` subresource that adds those the host pod lacks; they never change."""
    present = {container.get("name") for container in (host.get("spec") or {}).get("ephemeralContainers") or ()}
    missing = [
        container
        for container in host_ephemeral_containers(names, policy, virtual, api_address=api_address, services=services, data_keys=data_keys)
        if container.get("name") not in present
    ]
    return {"spec": {"ephemeralContainers": missing}} if missing else None


def host_resize(virtual: Obj, host: Obj) -> Obj | None:
    """The strategic merge patch for the `resize` subresource that passes on what the tenant changed; None when nothing is to be done.

    Only requests and limits that the virtual pod has changed since they were last passed on: what the host set itself (defaults of a
    LimitRange, an autoscaler's) stays until the tenant speaks of the same.
    """
    now, before = _sizes(virtual), _resized(host)
    spec: Obj = {}
    for field in _IMAGE_FIELDS:
        changed = []
        for container in (host.get("spec") or {}).get(field) or ():
            name = container.get("name") or ""
            if patch := _changed_sizes(now.get(name), before.get(name), _sizes_of(container)):
                changed.append({"name": name, "resources": patch})
        if changed:
            spec[field] = changed
    if patch := _changed_sizes(now.get(_OF_POD), before.get(_OF_POD), _sizes_of(host.get("spec") or {})):
        spec["resources"] = patch
    return {"spec": spec} if spec else None


def resize_record(virtual: Obj, host: Obj) -> Obj | None:
    """The merge patch that records what `host_resize` has passed on; None when that is on record. Never to be written before that."""
    now = _sizes(virtual)
    return None if now == _resized(host) else {"metadata": {"annotations": {RESIZED: _json(now)}}}


def _sizes(pod: Obj) -> Obj:
    """Requests and limits by container; those without are left out, which is most in most clusters."""
    spec = pod.get("spec") or {}
    holders = {_OF_POD: spec, **{c.get("name") or "": c for field in _IMAGE_FIELDS for c in spec.get(field) or ()}}
    found = {name: _sizes_of(holder) for name, holder in holders.items()}
    return {name: sizes for name, sizes in found.items() if sizes}


def _sizes_of(holder: Obj) -> Obj:
    resources = holder.get("resources") or {}
    return {part: resources[part] for part in _SIZES if resources.get(part)}


def _changed_sizes(now: Obj | None, before: Obj | None, have: Obj) -> Obj:
    """Null where the tenant took a request or limit away."""
    result: Obj = {}
    for part in _SIZES:
        wanted, recorded, present = ((sizes or {}).get(part) or {} for sizes in (now, before, have))
        changed = {
            key: wanted.get(key)
            for key in sorted({*wanted, *recorded})
            if wanted.get(key) != recorded.get(key) and wanted.get(key) != present.get(key)
        }
        if changed:
            result[part] = changed
    return result


def _resized(host: Obj) -> Obj:
    return _read(host, RESIZED) or {}


def _record(pod: Obj) -> str:
    spec = pod.get("spec") or {}
    record: Obj = {"images": {c.get("name"): c.get("image") for field in _IMAGE_FIELDS for c in spec.get(field) or ()}}
    gates = [gate.get("name") for gate in spec.get("schedulingGates") or ()]
    if gates:
        record["gates"] = gates
    return _json(record)


def _applied(host: Obj) -> Obj | None:
    """None for a host pod without a (readable) record; then the host pod itself has to serve as one."""
    return _read(host, APPLIED)


def _json(record: Obj) -> str:
    return json.dumps(record, separators=(",", ":"), sort_keys=True)


def _read(host: Obj, annotation: str) -> Obj | None:
    try:
        record = json.loads(annotations_of(host).get(annotation) or "null")
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _images(policy: PodPolicy, want: Iterable[Obj], have: Iterable[Obj], applied: Obj | None) -> list[Obj]:
    present = {container.get("name"): container.get("image") for container in have}
    recorded: Mapping[Any, Any] = (applied or {}).get("images") or {}
    result = []
    for container in want:
        name, image = container.get("name"), container.get("image")
        if name not in present or not image or recorded.get(name) == image:
            continue
        on_host = host_image(policy, image)
        if on_host != present[name] or name in recorded:
            result.append({"name": name, "image": on_host})
    return result


def _tolerations(want: Iterable[Obj], have: list[Obj]) -> list[Obj]:
    """All tolerations that the host pod should have (the list is replaced as a whole), empty when it has them."""
    result, changed = list(have), False
    places = {toleration_identity(toleration): number for number, toleration in enumerate(have)}
    for toleration in want:
        number = places.get(toleration_identity(toleration))
        if number is None:
            result.append(toleration)
        elif result[number].get("tolerationSeconds") != toleration.get("tolerationSeconds"):
            result[number] = toleration
        else:
            continue
        changed = True
    return result if changed else []


def _gated(want: Obj, have: Obj, applied: Obj | None) -> Obj:
    result: Obj = {}
    wanted = {gate.get("name") for gate in want.get("schedulingGates") or ()}
    present = [gate.get("name") for gate in have["schedulingGates"]]
    ours = present if applied is None else applied.get("gates") or ()
    removed = [name for name in present if name in ours and name not in wanted]
    if removed:
        result["schedulingGates"] = [{"$patch": "delete", "name": name} for name in removed]
    selector = owned(have.get("nodeSelector") or {}, want.get("nodeSelector") or {})
    if selector:
        result["nodeSelector"] = selector
    node_affinity = (want.get("affinity") or {}).get("nodeAffinity")
    if node_affinity and owned((have.get("affinity") or {}).get("nodeAffinity") or {}, node_affinity):
        result["affinity"] = {"nodeAffinity": node_affinity}
    return result

"""What may change in the spec of a pod that runs, as strategic merge patches for the host pod.

Kubernetes lets few fields change (core/validation, ValidatePodUpdate), and some of them may differ on the host for good reason:
a registry mirror's webhook replaced the image, a queueing system added a scheduling gate. So the host pod carries, as annotation
`APPLIED`, what was last written for these, and only a change of the virtual pod against that is passed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from syncer.kube.types import Obj, annotations_of
from syncer.naming import Names
from syncer.translate.downward import APPLIED, pod_annotations
from syncer.translate.environment import DataKeys
from syncer.translate.merge import owned
from syncer.translate.podspec import PodPolicy, host_ephemeral_containers, host_image

_IMAGE_FIELDS = ("containers", "initContainers")


def created_annotations(pod: Obj) -> dict[str, str]:
    """Annotations of ours to create the host pod with: `pod_annotations`, and the record that `host_pod_update` compares with."""
    return {**pod_annotations(pod), APPLIED: _record(pod)}


def host_pod_update(policy: PodPolicy, virtual: Obj, host: Obj) -> Obj | None:
    """The strategic merge patch that passes on what changed in the virtual pod's spec; None when nothing did.

    Images (containers that only the host has stay as they are), activeDeadlineSeconds (it can only be set or fall), tolerations
    (only added, or given another time), removed scheduling gates, and for a gated pod node selector and node affinity. Nothing else
    can change: terminationGracePeriodSeconds is immutable. Resources change by another subresource.
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
    tolerations = _tolerations(want.get("tolerations") or (), have.get("tolerations") or [])
    if tolerations:
        spec["tolerations"] = tolerations
    if have.get("schedulingGates"):
        spec |= _gated(want, have, applied)
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


def _record(pod: Obj) -> str:
    spec = pod.get("spec") or {}
    record: Obj = {"images": {c.get("name"): c.get("image") for field in _IMAGE_FIELDS for c in spec.get(field) or ()}}
    gates = [gate.get("name") for gate in spec.get("schedulingGates") or ()]
    if gates:
        record["gates"] = gates
    return json.dumps(record, separators=(",", ":"), sort_keys=True)


def _applied(host: Obj) -> Obj | None:
    """None for a host pod without a (readable) record; then the host pod itself has to serve as one."""
    try:
        record = json.loads(annotations_of(host).get(APPLIED) or "null")
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
    places = {_identity(toleration): number for number, toleration in enumerate(have)}
    for toleration in want:
        number = places.get(_identity(toleration))
        if number is None:
            result.append(toleration)
        elif result[number].get("tolerationSeconds") != toleration.get("tolerationSeconds"):
            result[number] = toleration
        else:
            continue
        changed = True
    return result if changed else []


def _identity(toleration: Obj) -> tuple[str, ...]:
    return tuple(toleration.get(field) or "" for field in ("key", "operator", "value", "effect"))


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

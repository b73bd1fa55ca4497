"""The status that a virtual pod shows: its host pod's, without what only the host put there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syncer.kube.types import Key, Obj, key_of, uid_of
from syncer.naming import Names
from syncer.translate.merge import owned
from syncer.translate.messages import host_names_hidden, names_of_pod

_STATUSES_OF = {
    "containerStatuses": "containers",
    "initContainerStatuses": "initContainers",
    "ephemeralContainerStatuses": "ephemeralContainers",
}
_HOST_ONLY = ("resourceClaimStatuses", "extendedResourceClaimStatus", "nodeAllocatableResourceClaimStatuses")
"""They name ResourceClaims of the host."""
_DISRUPTION = "DisruptionTarget"
"""Written by either control plane, the one that evicts; a Job's failure policy looks for it."""
_TRANSIENT = ("message", "reason", "nominatedNodeName", "resize")
"""They come and go."""
_FINISHED = frozenset({"Succeeded", "Failed"})
_OWN_WORDS = frozenset({"Completed", "Error", "OOMKilled"})
"""Reasons with which a container's termination message is what the container wrote, and must not be altered."""


def is_finished(pod: Obj) -> bool:
    """Whether the pod's containers have all ended for good."""
    return (pod.get("status") or {}).get("phase") in _FINISHED


def virtual_pod_status(names: Names, virtual: Obj, host: Obj, *, spec_applied: bool = True) -> Obj:
    """The wanted status of the virtual pod: only keys that the host's status has, and null for what it no longer has.

    Compare with `status_patch` (or merge.owned), which leave other keys alone: an older host need not know them.

    - Containers that only the host pod has (injected sidecars) are left out.
    - Conditions are the host's. For the virtual pod's readiness gates, which either side may write, the younger one counts.
      Conditions of the tenant's own (with a domain in their type, or a readiness gate) and DisruptionTarget stay when the host has none.
    - `observedGeneration` is put in terms of the virtual pod, once the host has seen its newest spec (`spec_applied` tells whether
      the virtual spec has reached the host pod); left out when the virtual API server does not keep it.
    - qosClass never changes once set; the two API servers may have computed it from different specs.
    - Host names and UIDs in messages become virtual ones.
    """
    have = virtual.get("status") or {}
    status: Obj = {key: value for key, value in (host.get("status") or {}).items() if key not in _HOST_ONLY}
    generation = _observed(virtual, host, spec_applied=spec_applied)
    hide = _hiding(names, virtual, host)

    if "observedGeneration" in status:
        _set(status, "observedGeneration", generation(status["observedGeneration"], have.get("observedGeneration")))
    if "qosClass" in status and have.get("qosClass"):
        status["qosClass"] = have["qosClass"]
    if status.get("message"):
        status["message"] = hide(status["message"])
    for field, containers in _STATUSES_OF.items():
        if field in status:
            known = {container.get("name") for container in (virtual.get("spec") or {}).get(containers) or ()}
            status[field] = [_container_status(item, hide) for item in status[field] or () if item.get("name") in known]
    if "conditions" in status:
        status["conditions"] = _conditions(virtual, host, generation, hide)
    for field in _TRANSIENT:
        if field in have and field not in status:
            status[field] = None
    return status


def status_patch(virtual: Obj, status: Obj) -> Obj | None:
    """The strategic merge patch `{"status": ...}` from the virtual pod as it is to `status`; None when nothing is to be done.

    Conditions go one by one, so that those which the tenant's controllers write at the same moment are not lost.
    """
    have = virtual.get("status") or {}
    patch = owned(have, status) or {}
    if "conditions" in patch:
        present, wanted = _by_type(virtual), {item["type"]: item for item in status["conditions"]}
        conditions: list[Obj] = [{"$patch": "delete", "type": kind} for kind in present if kind not in wanted]
        for kind, condition in wanted.items():
            before, after = _without_null(present.get(kind, {})), _without_null(condition)
            if before != after:
                conditions.append({**{key: None for key in before if key not in after}, **after})
        _set(patch, "conditions", conditions or None)
    for field in ("podIPs", "hostIPs"):
        if field in patch and have.get(field):
            patch[field] = [{"$patch": "replace"}, *patch[field]]  # else an address that changed would be added
    return {"status": patch} if patch else None


def host_gate_conditions(virtual: Obj, host: Obj) -> Obj | None:
    """The strategic merge patch for the host pod's status that passes on the tenant's readiness gates; None when it has them.

    A kubelet reckons a pod's readiness from its own API server's conditions, so without this such a pod never gets ready.
    """
    mine, have = _by_type(virtual), _by_type(host)
    conditions = []
    for kind in sorted(_gates(virtual) & _gates(host)):
        condition, present = mine.get(kind), have.get(kind)
        if condition and _younger(condition, present) is condition:
            wanted = {key: value for key, value in condition.items() if key != "observedGeneration"}  # speaks of the virtual pod
            if owned(present or {}, wanted):
                conditions.append(wanted)
    return {"status": {"conditions": conditions}} if conditions else None


_Generation = Callable[[int, int | None], int | None]
_Hide = Callable[[str], str]


def _observed(virtual: Obj, host: Obj, *, spec_applied: bool) -> _Generation:
    """Maps a generation that the host observed, and what the virtual object says now, to what it should say; None: nothing."""
    mine = virtual.get("metadata", {}).get("generation")
    theirs = host.get("metadata", {}).get("generation") or 0
    have = virtual.get("status") or {}
    # An API server of 1.33 has generations for pods but drops what was observed. Once it has a start time from us, it shows.
    kept = bool(mine) and ("observedGeneration" in have or not have.get("startTime"))
    return lambda observed, now: (mine if spec_applied and observed >= theirs else now) if kept else None


def _conditions(virtual: Obj, host: Obj, generation: _Generation, hide: _Hide) -> list[Obj]:
    mine, gates, host_gates = _by_type(virtual), _gates(virtual), _gates(host)
    result = []
    for kind, condition in _by_type(host).items():
        present = mine.pop(kind, None)
        if present and kind in gates and _younger(present, condition) is present:
            result.append(present)
            continue
        condition = dict(condition)
        if "observedGeneration" in condition:
            shown = generation(condition["observedGeneration"], (present or {}).get("observedGeneration"))
            _set(condition, "observedGeneration", shown)
        elif present and "observedGeneration" in present:
            condition["observedGeneration"] = present["observedGeneration"]  # API servers never let one go (Binding sets none)
        if condition.get("message"):
            condition["message"] = hide(condition["message"])
        result.append(condition)
    result += [
        condition for kind, condition in mine.items() if kind in gates or kind == _DISRUPTION or ("/" in kind and kind not in host_gates)
    ]
    return result


def _younger(condition: Obj, other: Obj | None) -> Obj:
    if other is None or (condition.get("lastTransitionTime") or "") >= (other.get("lastTransitionTime") or ""):
        return condition
    return other


def _by_type(pod: Obj) -> dict[str, Obj]:
    return {item.get("type") or "": item for item in (pod.get("status") or {}).get("conditions") or ()}


def _gates(pod: Obj) -> set[str]:
    return {gate.get("conditionType") or "" for gate in (pod.get("spec") or {}).get("readinessGates") or ()}


def _without_null(condition: Obj) -> Obj:
    """API servers write lastProbeTime as null where there was none."""
    return {key: value for key, value in condition.items() if value is not None}


def _container_status(item: Obj, hide: _Hide) -> Obj:
    for field in ("state", "lastState"):
        for phase, details in (item.get(field) or {}).items():
            message = (details or {}).get("message")
            if message and details.get("reason") not in _OWN_WORDS:
                hidden = hide(message)
                if hidden != message:
                    item = {**item, field: {**item[field], phase: {**details, "message": hidden}}}
    return item


def _hiding(names: Names, virtual: Obj, host: Obj) -> _Hide:
    """Collects what the texts may name only when there is a text."""
    collected: list[tuple[str, Key]] = []

    def hide(text: str) -> str:
        if not collected:
            collected.extend(names_of_pod(names, key_of(virtual), virtual))
        return host_names_hidden(text, names=names, pairs=collected, replacements=((uid_of(host), uid_of(virtual)),))

    return hide


def _set(holder: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        holder.pop(key, None)
    else:
        holder[key] = value

"""What pods ask for, as the scheduler counts it."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from syncer.translate.volumes import quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncer.kube.types import Obj

_NONE = Decimal(0)
_MIB = 1024 * 1024


def total(pods: Iterable[Obj], resource: str) -> Decimal:
    """The sum over the pods that have not finished; `resource` is cpu or memory."""
    running = (pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"))
    return sum((requested(pod.get("spec") or {}, resource) for pod in running), _NONE)


def requested(spec: Mapping[str, Any], resource: str) -> Decimal:
    """Of one pod: its containers together, or more if an init container needs that beside the sidecars that run by then."""
    overhead = _amount(spec.get("overhead"), resource)
    if resource in (whole := ((spec.get("resources") or {}).get("requests") or {})):
        return _amount(whole, resource) + overhead
    sidecars = most = _NONE
    for container in spec.get("initContainers") or ():
        asked = _of_container(container, resource)
        if container.get("restartPolicy") == "Always":
            sidecars += asked
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + asked)
    together = sidecars + sum((_of_container(container, resource) for container in spec.get("containers") or ()), _NONE)
    return max(most, together) + overhead


def cores(amount: Decimal) -> str:
    """As kubectl top writes it: `250m`."""
    return f"{round(amount * 1000)}m"


def mebibytes(amount: Decimal) -> str:
    """As kubectl top writes it: `128Mi`."""
    return f"{round(amount / _MIB)}Mi"


def _of_container(container: Mapping[str, Any], resource: str) -> Decimal:
    return _amount((container.get("resources") or {}).get("requests"), resource)


def _amount(amounts: Mapping[str, Any] | None, resource: str) -> Decimal:
    try:
        return quantity(str((amounts or {}).get(resource) or "0"))
    except (InvalidOperation, KeyError):
        return _NONE

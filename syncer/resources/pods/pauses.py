"""Pods whose host pod a pause took away: those start again as they are, since nobody but the pause wanted them gone.

`syncer pause` stops the syncer, writes down up to when host pods had been started, and deletes them. A virtual pod that had been started
by then and has no host pod gets a new one, on its node: a pod without a controller would else be lost, and a Job's count as failed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from syncer.kube.types import PODS, Lane, Obj, Side, key_of, uid_of
from syncer.sync.intents import Patch

_KEPT = ("phase", "qosClass")
"""Of a status: what every pod has, from the moment when it is created."""


def was_paused(virtual: Obj, paused_at: float) -> bool:
    """Whether a pod that had a host pod had it before the pause; `paused_at` in epoch seconds, 0.0 for no pause."""
    status = virtual.get("status") or {}
    scheduled = (item.get("lastTransitionTime") for item in status.get("conditions") or () if item.get("type") == "PodScheduled")
    started: str | None = status.get("startTime") or next(scheduled, None)
    return started is not None and datetime.fromisoformat(started).timestamp() <= paused_at


def as_new(virtual: Obj) -> Patch:
    """Its status as that of a pod that was never started: a container that had ended could not be shown as running again otherwise.

    The conditions of its readiness gates stay: they are somebody else's to take back.
    """
    status = virtual.get("status") or {}
    gates = {gate.get("conditionType") for gate in (virtual.get("spec") or {}).get("readinessGates") or ()}
    conditions = [item for item in status.get("conditions") or () if item.get("type") in gates]
    body: dict[str, Any] = {field: None for field in status if field not in _KEPT}
    body |= {"phase": "Pending", "conditions": conditions or None}
    return Patch(Side.VIRTUAL, PODS, key_of(virtual), uid_of(virtual), {"status": body}, subresource="status", lane=Lane.STATUS)

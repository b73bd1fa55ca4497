"""What the host pod tells of the virtual pod's controller, since its own owner is only the virtual cluster."""

from __future__ import annotations

import json
from typing import Any

from syncer.kube.types import Obj, annotations_of
from syncer.naming import DOMAIN

OWNER_SET_KIND = DOMAIN + "/owner-set-kind"
OWNER_REFERENCES = DOMAIN + "/owner-references"

_SETS = frozenset({"DaemonSet", "Job", "ReplicaSet", "StatefulSet"})
_AUTOSCALER = "cluster-autoscaler.kubernetes.io/"


def owner_annotations(pod: Obj) -> dict[str, str]:
    """Annotations of the host pod: kind of the controller, ownerReferences as JSON, and what the host's cluster autoscaler needs.

    The autoscaler would take a pod without a controller for one that nobody makes again, and never remove its node. What
    the tenant says to the autoscaler stands.
    """
    references: list[dict[str, Any]] = pod["metadata"].get("ownerReferences") or []
    if not references:
        return {}
    result = {OWNER_REFERENCES: json.dumps(references, sort_keys=True, separators=(",", ":"))}
    kind = controller_kind(pod)
    if kind in _SETS:
        result[OWNER_SET_KIND] = kind
    said = annotations_of(pod)
    if kind and _AUTOSCALER + "safe-to-evict" not in said:
        result[_AUTOSCALER + "safe-to-evict"] = "true"
    if kind == "DaemonSet" and _AUTOSCALER + "daemonset-pod" not in said:
        result[_AUTOSCALER + "daemonset-pod"] = "true"
    return result


def controller_kind(pod: Obj) -> str:
    """Kind of the pod's controller, "" for none."""
    references = pod["metadata"].get("ownerReferences") or ()
    return next((reference.get("kind") or "" for reference in references if reference.get("controller")), "")

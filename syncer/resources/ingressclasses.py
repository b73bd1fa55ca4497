"""IngressClasses: the host's, shown in the virtual cluster. See sync.mirrored for the rules.

Shown are the controller, whether it is the default, and parameters if they are cluster-scoped; others would tell of the host's
namespaces.
"""

from __future__ import annotations

from syncer.kube.types import INGRESS_CLASSES, Obj
from syncer.sync.mirrored import mirrored_spec


def fields(host: Obj) -> Obj:
    """What tenants see besides metadata."""
    spec = dict(host.get("spec") or {})
    if (spec.get("parameters") or {}).get("scope") == "Namespace":
        del spec["parameters"]
    return {"spec": spec}


SPEC = mirrored_spec(
    INGRESS_CLASSES,
    name="ingressclasses",
    annotations=("ingressclass.kubernetes.io/is-default-class",),
    fields=fields,
    fixed=lambda obj: (obj.get("spec") or {}).get("controller"),
    whole=True,
)

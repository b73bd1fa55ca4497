"""ConfigMaps: down, while a pod or an Ingress refers to them. See sync.referenced for the rules."""

from __future__ import annotations

from syncer.kube.types import CONFIGMAPS, Obj
from syncer.sync.referenced import referenced_spec


def content(virtual: Obj) -> Obj:
    """What the host copy holds besides metadata."""
    return {
        "data": virtual.get("data") or {},
        "binaryData": virtual.get("binaryData") or {},
        "immutable": virtual.get("immutable"),
    }


SPEC = referenced_spec(CONFIGMAPS, names=lambda found: found.configmaps, keys=lambda found: found.configmaps, content=content)

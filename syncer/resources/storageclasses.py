"""StorageClasses: the host's, shown in the virtual cluster, whose default the tenant then has. See sync.mirrored for the rules.

Nobody provisions in the virtual cluster, so of the parameters only those are shown that a tenant chooses by; the others are
addresses, paths and names of Secrets.
"""

from __future__ import annotations

from syncer.kube.types import STORAGE_CLASSES, Obj
from syncer.sync.mirrored import mirrored_spec

_PARAMETERS = ("type", "fsType", "fstype", "csi.storage.k8s.io/fstype")
_FIXED = ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode")
_CHANGEABLE = ("allowVolumeExpansion", "mountOptions", "allowedTopologies")


def fields(host: Obj) -> Obj:
    """What tenants see besides metadata."""
    found = {field: host[field] for field in (*_FIXED, *_CHANGEABLE) if field in host}
    if parameters := {key: value for key, value in (found.pop("parameters", None) or {}).items() if key in _PARAMETERS}:
        found["parameters"] = parameters
    return found


SPEC = mirrored_spec(
    STORAGE_CLASSES,
    name="hoststorageclasses",
    annotations=("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"),
    fields=fields,
    fixed=lambda obj: [obj.get(field) for field in _FIXED],
)

"""Pods: spec down, status and node up, deletion both ways.

The states of a pair, and what follows:

- virtual only, never seen on the host: created there once the API server's and DNS's addresses are known, the host has the RuntimeClass
  that it asks for, and the ConfigMaps, Secrets and claims that it refers to are copied (see `creation`).
- virtual only, but it had a host pod (it has a start time, or we bound it): that one vanished, and a pod is never started a second
  time. It is deleted, and its controller makes another, unless it had finished: then it is left alone, exit codes, owner
  and all, as a finished pod of any cluster whose node is gone; who made it cleans it up. A pod with finalizers (a Job's) is
  marked failed before, since no kubelet will ever report its end.
- virtual only, and its host pod went in a pause of the virtual cluster: a new host pod is made for it, see `pauses`.
- both: status up; bound to its node as soon as the virtual Node is there; metadata and what may change of the spec down. Where the host
  does not let us do that (resize, ephemeral containers, readiness gates), the tenant is told.
- either deleting: the other is deleted with the same grace period, and status goes on being copied until the end.
- host only: the host pod is deleted. One that outlives its grace period by `STUCK_SECONDS` sits on a node that does not answer; as
  its virtual pod can only be gone by force, it is removed by force, too.
- a host pod of another virtual UID belongs to a pod that had the same name: it has to go first.

Mirror pods of static pods are refused: only a kubelet can run them.
"""

from __future__ import annotations

from syncer.kube.types import (
    CONFIGMAPS,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICES,
    Obj,
    Ref,
    Side,
    key_of,
)
from syncer.resources.pods.decision import decide
from syncer.sync.spec import Right, Scope, SyncSpec, Watch
from syncer.translate.metadata import virtual_key


def _namespace(service: Obj) -> list[str]:
    return [key_of(service).namespace]


def _everything(_namespace_object: Obj) -> list[str]:
    return ["all"]


SPEC = SyncSpec(
    name="pods",
    kind=PODS,
    watches=(
        Watch(side=Side.VIRTUAL, resource=PODS),
        Watch(side=Side.VIRTUAL, resource=NODES),
        Watch(side=Side.VIRTUAL, resource=NAMESPACES, metadata_only=True),
        Watch(side=Side.VIRTUAL, resource=SERVICES),
        Watch(side=Side.VIRTUAL, resource=CONFIGMAPS, metadata_only=True),
        Watch(side=Side.VIRTUAL, resource=SECRETS, metadata_only=True),
        Watch(side=Side.VIRTUAL, resource=PERSISTENT_VOLUME_CLAIMS, metadata_only=True),
        Watch(side=Side.HOST, resource=PODS, scope=Scope.MANAGED),
        Watch(side=Side.HOST, resource=SERVICES),
        Watch(side=Side.HOST, resource=CONFIGMAPS, scope=Scope.MANAGED, metadata_only=True),
        Watch(side=Side.HOST, resource=SECRETS, scope=Scope.MANAGED, metadata_only=True),
        Watch(side=Side.HOST, resource=PERSISTENT_VOLUME_CLAIMS, scope=Scope.MANAGED, metadata_only=True, optional=True),
        Watch(side=Side.HOST, resource=PRIORITY_CLASSES, metadata_only=True, optional=True),
        Watch(side=Side.HOST, resource=RUNTIME_CLASSES, metadata_only=True, optional=True),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, PODS, key),
    host_ref=lambda names, key: Ref(Side.HOST, PODS, names.host_key(key)),
    virtual_key=lambda host, view: virtual_key(view.names, PODS, host),
    indexes={(Side.VIRTUAL, SERVICES): {"namespace": _namespace}, (Side.VIRTUAL, NAMESPACES): {"everything": _everything}},
    host_rights=(
        Right(group="", resource="pods", verbs=("get", "list", "watch", "create", "patch", "delete")),
        Right(group="", resource="pods/ephemeralcontainers", verbs=("patch",), optional=True),
        Right(group="", resource="pods/resize", verbs=("patch",), optional=True),
        Right(group="", resource="pods/status", verbs=("patch",), optional=True),
        Right(group="", resource="pods/log", verbs=("get",), optional=True),
        *(Right(group="", resource=f"pods/{name}", verbs=("create", "get"), optional=True) for name in ("exec", "attach", "portforward")),
        Right(group="", resource="services", verbs=("get", "list", "watch")),
        Right(group="", resource="configmaps", verbs=("get", "list", "watch")),
        Right(group="", resource="secrets", verbs=("get", "list", "watch")),
        Right(group="", resource="persistentvolumeclaims", verbs=("get", "list", "watch"), optional=True),
        Right(group="scheduling.k8s.io", resource="priorityclasses", verbs=("get", "list", "watch"), optional=True, cluster=True),
        Right(group="node.k8s.io", resource="runtimeclasses", verbs=("get", "list", "watch"), optional=True, cluster=True),
    ),
    deletes_virtual=True,
)

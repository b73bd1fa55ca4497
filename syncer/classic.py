"""The flags of the vcluster syncer (v0.1 to v0.20) that this one does not have, and what becomes of them.

None is ignored. A flag is accepted where what it asks for is what happens anyway, and a warning says that it can be
dropped; otherwise it is an error that says why. The same goes for its environment variable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from syncer.naming import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESOURCES = frozenset(
    {
        "services", "configmaps", "secrets", "endpoints", "pods", "events", "fake-nodes", "nodes", "fake-persistentvolumes",
        "persistentvolumes", "persistentvolumeclaims", "storageclasses", "hoststorageclasses", "volumesnapshots", "csinodes",
        "csidrivers", "csistoragecapacities", "ingresses", "ingressclasses", "networkpolicies", "priorityclasses",
        "poddisruptionbudgets", "serviceaccounts", "namespaces",
    }
)  # fmt: skip
"""What --sync could name there. Switching one of them off that is never on here is no mistake."""

COVERED = {"fake-persistentvolumes": "persistentvolumeclaims"}
"""Words that are on by default there, and here a part of another."""


class Given(NamedTuple):
    """Where a flag's value comes from (`--flag` or `VARIABLE`, for messages), and every value given, none of them empty."""

    source: str
    parts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Classic:
    """`fact` is what this version does instead; `fulfilled` tells whether it amounts to what was asked for."""

    fact: str
    fulfilled: Callable[[Sequence[str]], bool] = lambda _: False


def _says(*texts: str) -> Callable[[Sequence[str]], bool]:
    return lambda parts: parts[-1].lower() in texts


def _keys_copied(parts: Sequence[str]) -> bool:
    """Whether none of the label keys or prefixes is one that the host side selects by."""
    keys = [key.strip() for part in parts for key in part.split(",")]
    return not any(key == "release" or key.startswith(f"{DOMAIN}/") for key in keys)


_TRUE = _says("true", "t", "1")
_FALSE = _says("false", "f", "0")

_NODES = "virtual nodes are made up unless --sync=nodes shows the host's"
_NO_NODE_CHANGES = "what a tenant changes on a virtual node never reaches the host's"
_NO_SCHEDULER = "the host's scheduler places all pods"
_KUBELETS = "virtual nodes have kubelets, which the proxy answers for, unless --disable-fake-kubelets is given"
_VOLUMES = "volumes of claims are shown as the host has them where it lets us read them, and are made up from the claims elsewhere"
_PRIORITIES = "a pod's priority class counts on the host if there is one of that name which may be read; a tenant's own stay virtual"
_NO_HOST_PATHS = "host paths are passed on as they are"
_NO_SERVICE_MAPS = "services are not mapped between the clusters yet"
_NO_PSS = "label the host namespace pod-security.kubernetes.io/enforce instead, and the host refuses such pods"
_NO_MULTI = "all of a virtual cluster is synced into one host namespace"
_NO_PLUGINS = "there are no plugins"
_NO_CONTROL_PLANE = "the syncer starts no control plane and deploys nothing into it"
_METRICS = "the metrics of both sides are at /metrics of --health-bind-address"
_NO_OVERRIDE = "no init container rewrites /etc/hosts; pods are found by the virtual cluster's DNS"
_NEVER = "it belongs to a commercial edition, and to no version of this"
_OWNER = "the ConfigMap vc-NAME-owner owns all host objects; see --set-owner"
_CONFIG_FILE = "settings are flags and SYNCER_* variables; see --help"

FLAGS: Mapping[str, Classic] = {
    "suffix": Classic("it is the old word for --name"),
    "sync-labels": Classic("labels are copied as they are, but for `release` and those of vcluster.loft.sh", _keys_copied),
    "default-image-registry": Classic("the syncer starts no images of its own"),
    "service-account-token-secrets": Classic("tokens of pods are always kept in a host Secret, never in an annotation", _TRUE),
    "override-hosts": Classic(_NO_OVERRIDE, _FALSE),
    "override-hosts-container-image": Classic(_NO_OVERRIDE),
    "enforce-pod-security-standard": Classic(_NO_PSS),
    "sync-node-changes": Classic(_NO_NODE_CHANGES, _FALSE),
    "enable-scheduler": Classic(_NO_SCHEDULER, _FALSE),
    "reserved-resource-cpu": Classic(_NO_SCHEDULER),
    "reserved-resource-memory": Classic(_NO_SCHEDULER),
    "reserved-resource-ephemeral-storage": Classic(_NO_SCHEDULER),
    "fake-kubelets": Classic(_KUBELETS, _TRUE),
    "map-host-service": Classic(_NO_SERVICE_MAPS),
    "map-virtual-service": Classic(_NO_SERVICE_MAPS),
    "host-metrics-bind-address": Classic(_METRICS, _says("0")),
    "virtual-metrics-bind-address": Classic(_METRICS, _says("0")),
    "mount-physical-host-paths": Classic(_NO_HOST_PATHS, _FALSE),
    "rewrite-host-paths": Classic(_NO_HOST_PATHS, _FALSE),
    "multi-namespace-mode": Classic(_NO_MULTI, _FALSE),
    "namespace-labels": Classic(_NO_MULTI),
    "plugins": Classic(_NO_PLUGINS),
    "plugin-address": Classic(_NO_PLUGINS),
    "plugin-listen-address": Classic(_NO_PLUGINS),
    "disable-plugins": Classic(_NO_PLUGINS, _TRUE),
    "fake-nodes": Classic(_NODES, _TRUE),
    "fake-persistent-volumes": Classic(_VOLUMES, lambda _: True),
    "enable-storage-classes": Classic("a tenant's storage classes stay virtual; the host's are shown where it lets us read them", _FALSE),
    "enable-priority-classes": Classic(_PRIORITIES, _FALSE),
    "owning-statefulset": Classic(_OWNER),
    "service-account-key": Classic("the virtual API server signs and checks its tokens itself"),
    "service-namespace": Classic("--service-name is looked for in --target-namespace"),
    "remote-kube-config": Classic("write --host-kube-config"),
    "remote-namespace": Classic("write --target-namespace"),
    "remote-service-name": Classic("write --service-name"),
    "pro-license-secret": Classic(_NEVER),
    "integrated-coredns": Classic(_NO_CONTROL_PLANE, _FALSE),
    "use-coredns-plugin": Classic(_NO_CONTROL_PLANE, _FALSE),
    "noop-syncer": Classic("syncing is what it does; leave resources out with --sync=-RESOURCE", _FALSE),
    "sync-k8s-service": Classic("the Service default/kubernetes always has the address of --service-name", _TRUE),
    "etcd-embedded": Classic(_NO_CONTROL_PLANE, _FALSE),
    "etcd-replicas": Classic(_NO_CONTROL_PLANE),
    "migrate-from": Classic(_NO_CONTROL_PLANE),
    "enforce-validating-hook": Classic(_NEVER),
    "enforce-mutating-hook": Classic(_NEVER),
    "config": Classic(_CONFIG_FILE),
    "set": Classic(_CONFIG_FILE),
}


def judge(texts: Mapping[str, Given], environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Errors and warnings about the classic flags among `texts` (by flag name), and about classic environment variables."""
    errors: list[str] = []
    warnings: list[str] = []
    for name, rule in FLAGS.items():
        if name not in texts:
            continue
        source, parts = texts[name]
        if name == "suffix" and parts[-1] == texts["name"].parts[-1]:
            warnings.append(f"{source}: write --name, {rule.fact}")
        elif name == "suffix":
            errors.append(f"{source}: says something else than {texts['name'].source}, and {rule.fact}; drop it")
        elif rule.fulfilled(parts):
            warnings.append(f"{source}: can be dropped, {rule.fact}")
        else:
            errors.append(f"{source}: not supported by this version with the value {','.join(parts)!r}; {rule.fact}")
    if environ.get("VCLUSTER_COMMAND"):
        errors.append(f"VCLUSTER_COMMAND: not supported by this version; {_NO_CONTROL_PLANE}")
    if "v1beta1" in environ.get("CONFIG", ""):
        errors.append("CONFIG: not supported by this version; there is no generic sync of other resources yet")
    return errors, warnings

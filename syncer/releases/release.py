"""A virtual cluster on its host, as found by the labels that the chart gives it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from syncer.errors import ConfigError, Forbidden, NoSuchCluster
from syncer.kube.types import PODS, Obj, Resource, annotations_of, is_deleting, key_of, labels_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncer.kube.client import Client

STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
SELECTOR = "app=vcluster"
"""Finds the control planes of all virtual clusters, the Go original's too; `release` tells which one."""
DATASTORE = "app=vcluster-etcd"
"""Finds the etcd of all virtual clusters that have one of their own."""
CONTROL_PLANE = "app in (vcluster,vcluster-etcd)"
"""Finds both."""
PAUSED = "loft.sh/paused"
"""Annotation of the StatefulSet of a virtual cluster that is paused; the Go original's."""


_VERSION = re.compile(r":(v\d+\.\d+\.\d+)[^/]*$")


class Status(StrEnum):
    """What `list` says of a virtual cluster."""

    RUNNING = "Running"
    STARTING = "Starting"
    PAUSED = "Paused"
    DELETING = "Deleting"


@dataclass(frozen=True)
class Release:
    """The StatefulSet of a control plane, and its pods."""

    name: str
    namespace: str
    stateful_set: Obj = field(repr=False)
    pods: tuple[Obj, ...] = field(default=(), repr=False)

    @property
    def status(self) -> Status:
        """Running as long as one replica is ready."""
        if is_deleting(self.stateful_set):
            return Status.DELETING
        if PAUSED in annotations_of(self.stateful_set):
            return Status.PAUSED
        ready = (self.stateful_set.get("status") or {}).get("readyReplicas") or 0
        return Status.RUNNING if ready else Status.STARTING

    def require_ours(self) -> None:
        """Raise ConfigError if another program's chart made it."""
        require_ours(self.stateful_set, self.name)

    @property
    def version(self) -> str:
        """The virtual cluster's Kubernetes version, as far as the tag of an image tells it; else ""."""
        spec = self.stateful_set["spec"]["template"]["spec"]
        images = [container.get("image") or "" for part in ("containers", "initContainers") for container in spec.get(part) or ()]
        found = (_VERSION.search(image) for image in images if "k3s" in image or "kube-apiserver" in image)
        return next((match[1] for match in found if match), "")

    @property
    def created(self) -> str:
        """RFC 3339."""
        created: str = self.stateful_set["metadata"].get("creationTimestamp") or ""
        return created


def require_ours(workload: Obj, name: str) -> None:
    """Raise ConfigError if another program's chart made that control plane of `name`: it has the same labels, but other rules."""
    chart = labels_of(workload).get("chart", "")
    if chart.rpartition("-")[0] != "syncer":
        made = f"by the chart {chart}" if chart else "without our chart"
        raise ConfigError(f"{name} in namespace {key_of(workload).namespace} was made {made}; manage it with the program that made it")


def releases(stateful_sets: Iterable[Obj], pods: Iterable[Obj]) -> list[Release]:
    """Whose `release` labels agree; a StatefulSet of another name than its release's (a datastore) is part of one, and none itself."""
    by_release: dict[tuple[str, str], list[Obj]] = {}
    for pod in pods:
        by_release.setdefault((key_of(pod).namespace, labels_of(pod).get("release", "")), []).append(pod)
    found = []
    for stateful_set in stateful_sets:
        namespace, name = key_of(stateful_set)
        if labels_of(stateful_set).get("release") == name:
            found.append(Release(name, namespace, stateful_set, tuple(by_release.get((namespace, name), ()))))
    return sorted(found, key=lambda release: (release.namespace, release.name))


async def find_releases(host: Client, namespace: str = "", name: str = "") -> list[Release]:
    """All releases, of one namespace or name, or of all. Raises ConfigError where it may not look."""
    selector = f"{SELECTOR},release={name}" if name else SELECTOR
    try:
        stateful_sets = await host.list_all(STATEFUL_SETS, namespace, label_selector=selector)
        pods = await host.list_all(PODS, namespace, label_selector=selector)
    except Forbidden as error:
        where = f"namespace {namespace}" if namespace else "all namespaces"
        raise ConfigError(f"looking into {where} is not allowed ({error.message}); name one of your own with --namespace") from None
    return releases(stateful_sets, pods)


async def find_release(host: Client, name: str, namespace: str = "") -> Release:
    """The one release of that name. Raises NoSuchCluster, or ConfigError if several namespaces have one."""
    found = await find_releases(host, namespace, name)
    if not found:
        where = f"in namespace {namespace}" if namespace else "in any namespace of this host"
        raise NoSuchCluster(f"there is no virtual cluster {name!r} {where}; `syncer list` shows those that there are")
    if len(found) > 1:
        raise ConfigError(
            f"there are virtual clusters {name!r} in {', '.join(release.namespace for release in found)}; choose one with --namespace"
        )
    return found[0]

"""What `list` tells of each virtual cluster."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncer.kube.types import PODS, key_of, labels_of
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.releases.belongings import tenant_pods
from syncer.releases.demand import cores, mebibytes, total
from syncer.releases.forms import age, table
from syncer.releases.release import DATASTORE, find_releases
from syncer.translate.status import is_finished

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from syncer.kube.client import Client
    from syncer.kube.types import Obj
    from syncer.releases.release import Release

_HEADING = ("NAME", "NAMESPACE", "STATUS", "VERSION", "AGE", "PODS", "CPU", "MEMORY")


@dataclass(frozen=True)
class Row:
    """A virtual cluster; `cpu` in cores and `memory` in bytes are what its unfinished pods and its control plane ask for."""

    release: Release
    pods: int
    cpu: Decimal
    memory: Decimal


async def listed(host: Client, namespace: str = "") -> list[Row]:
    """The virtual clusters of a namespace, or of all. Raises ConfigError in words when it may not look into all."""
    releases = await find_releases(host, namespace)
    places = sorted({release.namespace for release in releases})
    selectors = (LABEL_MANAGED_BY, DATASTORE)
    lists = await asyncio.gather(*(host.list_all(PODS, place, label_selector=selector) for place in places for selector in selectors))
    return rows(releases, (pod for pods in lists for pod in pods))


def rows(releases: Iterable[Release], pods: Iterable[Obj]) -> list[Row]:
    """`pods` are host pods of tenants and of datastores, of any virtual cluster."""
    by_cluster: dict[tuple[str, str], list[Obj]] = defaultdict(list)
    datastores: dict[tuple[str, str], list[Obj]] = defaultdict(list)
    for pod in pods:
        labels, namespace = labels_of(pod), key_of(pod).namespace
        if LABEL_MANAGED_BY in labels:
            by_cluster[namespace, labels[LABEL_MANAGED_BY]].append(pod)
        else:
            datastores[namespace, labels.get("release", "")].append(pod)
    found = []
    for release in releases:
        own = tenant_pods(by_cluster[release.namespace, release.name], Names(release.name, release.namespace))
        running = [pod for pod in own if not is_finished(pod)]
        together = [*running, *release.pods, *datastores[release.namespace, release.name]]
        found.append(Row(release, len(running), total(together, "cpu"), total(together, "memory")))
    return found


def lines(found: Iterable[Row], now: float) -> list[str]:
    """For a person."""
    return table(
        _HEADING,
        (
            (
                row.release.name,
                row.release.namespace,
                row.release.status,
                row.release.version or "unknown",
                age(row.release.created, now),
                str(row.pods),
                cores(row.cpu),
                mebibytes(row.memory),
            )
            for row in found
        ),
    )


def documents(found: Iterable[Row]) -> list[dict[str, Any]]:
    """For a program; quantities as Kubernetes writes them."""
    return [
        {
            "name": row.release.name,
            "namespace": row.release.namespace,
            "status": row.release.status.value,
            "version": row.release.version,
            "created": row.release.created,
            "pods": row.pods,
            "requests": {"cpu": cores(row.cpu), "memory": mebibytes(row.memory)},
        }
        for row in found
    ]

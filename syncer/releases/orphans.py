"""Whose an object of the host was, and whether that virtual cluster still lives: what is proven and whose does not is an orphan.

Both have to be beyond doubt. An object is counted as a virtual cluster's only by what `belongings` takes for proof, or by the marks of the
Go original on what has no namespace. And a virtual cluster lives as long as there is any sign of it: a control plane, even without
replicas, one of its pods, Helm's record of a release, the ConfigMap that owns what is on the host, a Lease that is being renewed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from syncer.kube.types import CONFIGMAPS, LEASES, PODS, SECRETS, Obj, Resource, annotations_of, is_deleting, key_of, labels_of, uid_of
from syncer.naming import ANNOTATION_NAME, ANNOTATION_NAMESPACE, LABEL_CLUSTER, LABEL_HOME, LABEL_MANAGED_BY, Names
from syncer.releases.belongings import EVENTS, Item, is_copy, is_of_chart, is_of_syncer, is_volume_of_control_plane
from syncer.releases.forms import age, table
from syncer.releases.release import CONTROL_PLANE, STATEFUL_SETS
from syncer.resources import ALL
from syncer.runtime.leader import lease_key
from syncer.sync.fence import owner_key
from syncer.sync.rights import ELECTION_RIGHTS, OWN_RIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
"""The Go original's control planes, where they keep no data of their own."""
SELECTORS = (LABEL_MANAGED_BY, LABEL_CLUSTER, f"{CONTROL_PLANE},release")
"""Label selectors that find whatever may be a virtual cluster's."""

_SEPARATOR = re.compile("(?=-x-)")
_CLOCKS_APART = 60.0


class Cluster(NamedTuple):
    """A virtual cluster, existing or not, by the host namespace that it syncs into."""

    namespace: str
    name: str


@dataclass(frozen=True)
class Orphan:
    """An object whose virtual cluster is no more."""

    item: Item
    cluster: Cluster

    @property
    def virtual(self) -> str:
        """The virtual object that it was made for, as its annotations tell; "" for what the syncer or the chart had for itself."""
        annotations = annotations_of(self.item.obj)
        name, namespace = annotations.get(ANNOTATION_NAME, ""), annotations.get(ANNOTATION_NAMESPACE, "")
        return f"{namespace}/{name}" if namespace else name

    def document(self) -> dict[str, object]:
        """For a program."""
        resource, metadata = self.item.resource, self.item.obj["metadata"]
        return {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "namespace": self.item.key.namespace,
            "name": self.item.key.name,
            "uid": self.item.uid,
            "cluster": {"namespace": self.cluster.namespace, "name": self.cluster.name},
            "virtual": self.virtual,
            "created": metadata.get("creationTimestamp") or "",
            "deleting": is_deleting(self.item.obj),
        }


def made_on_hosts() -> frozenset[tuple[str, str]]:
    """Group and plural of all that any syncer may create on a host; Events have no marks, and go by themselves."""
    rights = [*OWN_RIGHTS, *ELECTION_RIGHTS, *(right for spec in ALL for right in spec.host_rights)]
    return frozenset((right.group, right.resource) for right in rights if "create" in right.verbs and "/" not in right.resource) - EVENTS


def whose(item: Item) -> Cluster | None:
    """The virtual cluster that an object provably is, or was, of. None for all else, and for owner ConfigMaps: they are signs of life."""
    labels, namespace = labels_of(item.obj), item.key.namespace
    if not item.resource.namespaced:
        return _of_cluster_scope(item)
    if (name := labels.get(LABEL_MANAGED_BY)) is not None:
        return Cluster(namespace, name) if name and is_copy(item, Names(name, namespace)) else None
    if ANNOTATION_NAME in annotations_of(item.obj):
        return None  # a copy that has lost its label
    if name := labels.get(LABEL_CLUSTER):
        return _own(item, name)
    if (name := labels.get("release")) and is_volume_of_control_plane(item, name):
        return Cluster(namespace, name)
    return None


def _own(item: Item, name: str) -> Cluster | None:
    """What a syncer keeps for itself: named after it, or a kubeconfig somewhere else, whose labels tell its home."""
    home = labels_of(item.obj).get(LABEL_HOME) or item.key.namespace
    cluster = Cluster(home, name)
    if item.resource == CONFIGMAPS and item.key == owner_key(*cluster):
        return None
    if item.resource == LEASES:
        return cluster if item.key == lease_key(*cluster) else None
    named = item.key.name == f"vc-{name}" or item.key.name.startswith(f"vc-{name}-")
    elsewhere = item.resource == SECRETS and home != item.key.namespace
    return cluster if item.resource in (SECRETS, CONFIGMAPS) and (named or elsewhere) and is_of_syncer(item, name, home) else None


def _of_cluster_scope(item: Item) -> Cluster | None:
    labels, name = labels_of(item.obj), item.key.name
    if (marker := labels.get(LABEL_MANAGED_BY)) is not None:
        return _of_marker(marker, annotations_of(item.obj).get(ANNOTATION_NAME, ""), name)
    release = labels.get("release", "")
    prefix = f"vc-{release}-v-"
    namespace = name.removeprefix(prefix)
    if release and namespace and name.startswith(prefix) and is_of_chart(item.obj, release, namespace):
        return Cluster(namespace, release)
    return None


def _of_marker(marker: str, virtual: str, name: str) -> Cluster | None:
    """By the Go original's label `<host namespace>-x-<cluster>`, where virtual name and marker recompute to the object's own name."""
    splits = (Cluster(marker[: match.start()], marker[match.start() + 3 :]) for match in _SEPARATOR.finditer(marker))
    found = [
        cluster for cluster in splits if virtual and all(cluster) and Names(cluster.name, cluster.namespace).cluster_name(virtual) == name
    ]
    return found.pop() if len(found) == 1 else None


def signs_of_life(cluster: Cluster, items: Iterable[Item], now: float) -> Iterator[str]:
    """What shows that a virtual cluster is still there, in words; nothing if it is not.

    `items` are what may show it, of any namespace, with control planes and Leases whole; `now` is epoch seconds.
    """
    for item in items:
        if item.resource in (STATEFUL_SETS, DEPLOYMENTS):
            if _is_control_plane(item, cluster):
                yield f"{item} in {item.key.namespace}"
        elif item.key.namespace == cluster.namespace and _is_sign(item, cluster, now):
            yield f"{item} in {item.key.namespace}"


def _is_control_plane(item: Item, cluster: Cluster) -> bool:
    """Whether it is called so, or called by that name in its arguments; one of another namespace has to be told to sync into this one."""
    pod = ((item.obj.get("spec") or {}).get("template") or {}).get("spec") or {}
    words = [
        word for container in pod.get("containers") or () for word in (*(container.get("command") or ()), *(container.get("args") or ()))
    ]
    named = cluster.name in (item.key.name, labels_of(item.obj).get("release"))
    called = any(word == cluster.name or word.endswith(f"={cluster.name}") for word in words)
    here = item.key.namespace == cluster.namespace
    there = any("target-namespace" in word for word in words) and any(cluster.namespace in word for word in words)
    return (named or called) and (here or there)


def _is_sign(item: Item, cluster: Cluster, now: float) -> bool:
    labels = labels_of(item.obj)
    if item.resource == PODS:
        return labels.get("release") == cluster.name and LABEL_MANAGED_BY not in labels
    if item.resource == LEASES:
        return item.key == lease_key(*cluster) and _is_renewed(item.obj, now)
    # Of what Helm keeps, what `helm uninstall --keep-history` leaves is history.
    is_record = (labels.get("owner"), labels.get("name")) == ("helm", cluster.name) and labels.get("status") != "uninstalled"
    return is_record or (item.resource, item.key) == (CONFIGMAPS, owner_key(*cluster))


def _is_renewed(lease: Obj, now: float) -> bool:
    """Whether it may be somebody's; one that cannot be read is."""
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return False
    try:
        renewed = datetime.fromisoformat(spec["renewTime"]).timestamp()
    except ValueError:
        return True
    return now < renewed + float(spec.get("leaseDurationSeconds") or 0) + _CLOCKS_APART


def orphans(claimed: Iterable[Orphan], living: Iterable[Cluster], owners: Iterable[str]) -> list[Orphan]:
    """Those of `claimed` that nobody has any more: their virtual cluster is not `living`, and no object of `owners` (UIDs) owns them.

    Pods come first and claims last, so that an interrupted deletion loses no data before it has to.
    """
    alive, existing = frozenset(living), frozenset(owners)
    found = [orphan for orphan in claimed if orphan.cluster not in alive and not owner_uids(orphan.item.obj) & existing]
    return sorted(found, key=lambda one: (one.cluster, _order(one.item), str(one.item.resource), one.item.key))


def _order(item: Item) -> int:
    return 0 if item.resource == PODS else 2 if item.resource.plural in ("persistentvolumeclaims", "persistentvolumes") else 1


def owner_uids(obj: Obj) -> frozenset[str]:
    """UIDs that its ownerReferences name."""
    return frozenset(str(reference.get("uid")) for reference in obj["metadata"].get("ownerReferences") or ())


def claimed(items: Iterable[Item]) -> list[Orphan]:
    """The objects that provably are of some virtual cluster, each once."""
    found = {item.uid: Orphan(item, cluster) for item in items if (cluster := whose(item)) is not None and uid_of(item.obj)}
    return list(found.values())


def keys_of_owners(found: Iterable[Orphan]) -> frozenset[tuple[str, str]]:
    """Namespace and name of the ConfigMaps that are named as owners."""
    return frozenset(
        (key_of(orphan.item.obj).namespace, str(reference["name"]))
        for orphan in found
        for reference in orphan.item.obj["metadata"].get("ownerReferences") or ()
        if reference.get("kind") == CONFIGMAPS.kind
    )


def lines(found: Iterable[Orphan], now: float) -> list[str]:
    """For a person."""
    heading = ("KIND", "NAMESPACE", "NAME", "CLUSTER", "VIRTUAL OBJECT", "AGE")
    rows = []
    for orphan in found:
        item, created = orphan.item, str(orphan.document()["created"])
        state = " (being deleted)" if is_deleting(item.obj) else ""
        whose = str(orphan.cluster.name) if item.key.namespace == orphan.cluster.namespace else "/".join(orphan.cluster)
        rows.append((item.resource.kind, item.key.namespace, item.key.name, whose, orphan.virtual, f"{age(created, now)}{state}"))
    return table(heading, rows)

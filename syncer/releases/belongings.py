"""Which objects of the host belong to a virtual cluster, and which do not: the rules by which `pause` and `delete` keep off others' things.

An object is its own if it has the proof that the syncer's own copies have (labels and annotations that recompute to its name), if its
owner is the ConfigMap made for that or something else that is its own, or if it is of the chart: by the chart's labels, and by Helm's
annotations where it has any. A label alone, which anybody can write, is no proof.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.kube.types import (
    CONFIGMAPS,
    ENDPOINTS,
    LEASES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Key,
    Resource,
    annotations_of,
    key_of,
    labels_of,
    uid_of,
)
from syncer.naming import DOMAIN, LABEL_CLUSTER, LABEL_HOME, Names
from syncer.runtime.leader import lease_key
from syncer.sync.fence import owner_key
from syncer.translate.kubelets import node_of
from syncer.translate.metadata import virtual_key
from syncer.translate.token_secret import token_pod

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncer.kube.types import Obj

CREATED = f"{DOMAIN}/created"
"""Annotation of a namespace that `create` made: the Go original's."""
EVENTS = frozenset({("", "events"), ("events.k8s.io", "events")})
"""What nobody misses, and what goes by itself within the hour."""

_APPS = ("vcluster", "vcluster-etcd")
_CHART = re.compile(r"syncer-\d")
_RELEASE_NAME, _RELEASE_NAMESPACE = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
_EVERYWHERE = {(CONFIGMAPS, "kube-root-ca.crt"), (CONFIGMAPS, "openshift-service-ca.crt"), (SERVICE_ACCOUNTS, "default")}
"""Made in every namespace by the host's controllers."""


@dataclass(frozen=True)
class Item:
    """An object of the host: its type, and its metadata at least."""

    resource: Resource
    obj: Obj = field(repr=False)

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return key_of(self.obj)

    @property
    def uid(self) -> str:
        """`metadata.uid`."""
        return uid_of(self.obj)

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.key.name}"


def is_labelled(labels: Mapping[str, str], name: str) -> bool:
    """Whether it has the labels of a control plane of that name: the Go original's chart, too, gives them to its own."""
    return labels.get("app") in _APPS and labels.get("release") == name


def is_of_chart(obj: Obj, name: str, namespace: str) -> bool:
    """Whether the chart made it for the release of that name in that namespace; for cluster-scoped objects too."""
    labels, annotations = labels_of(obj), annotations_of(obj)
    if not is_labelled(labels, name) or not _CHART.match(labels.get("chart", "")):
        return False
    if _RELEASE_NAME in annotations:
        return (annotations[_RELEASE_NAME], annotations.get(_RELEASE_NAMESPACE)) == (name, namespace)
    return key_of(obj).namespace == namespace or key_of(obj).name == f"vc-{name}-v-{namespace}"


def is_copy(item: Item, names: Names) -> bool:
    """Whether the syncer made it for an object of the virtual cluster, by the proof that is on it."""
    by_proof = (virtual_key(names, item.resource, item.obj), token_pod(names, item.obj), node_of(names, item.obj))
    return any(found is not None for found in by_proof)


def is_of_syncer(item: Item, name: str, namespace: str) -> bool:
    """Whether the syncer made it for itself: Secrets with its label (of kubeconfigs in other namespaces, too), and its Lease."""
    labels = labels_of(item.obj)
    if item.resource in (SECRETS, CONFIGMAPS) and labels.get(LABEL_CLUSTER) == name:
        return labels.get(LABEL_HOME, item.key.namespace) == namespace
    return item.resource == LEASES and item.key == lease_key(namespace, name)


def is_volume_of_control_plane(item: Item, name: str) -> bool:
    """Whether it is a claim that a StatefulSet of the control plane made: those have the labels of its selector and no owner."""
    labels = labels_of(item.obj)
    return (
        item.resource == PERSISTENT_VOLUME_CLAIMS
        and is_labelled(labels, name)
        and re.fullmatch(rf"[a-z0-9-]+-{re.escape(name)}(-[a-z0-9-]+)?-\d+", item.key.name) is not None
    )


def belongings(items: Iterable[Item], name: str, namespace: str) -> list[Item]:
    """Those of the namespace's objects (and of cluster-scoped ones) that belong to the virtual cluster, in the order given."""
    items, names = list(items), Names(name, namespace)
    owner = owner_key(namespace, name)
    owners = {item.uid for item in items if item.resource == CONFIGMAPS and item.key == owner}
    found = {
        item.uid
        for item in items
        if item.uid in owners
        or is_of_chart(item.obj, name, namespace)
        or is_copy(item, names)
        or is_of_syncer(item, name, namespace)
        or is_volume_of_control_plane(item, name)
    } | owners
    while more := {item.uid for item in items if item.uid not in found and _owners(item.obj) & found}:
        found |= more
    services = {item.key for item in items if item.resource == SERVICES and item.uid in found}
    # The host's controllers make them, without an owner.
    found |= {item.uid for item in items if item.resource == ENDPOINTS and item.key in services}
    return [item for item in items if item.uid in found]


def is_record(item: Item, name: str) -> bool:
    """Whether Helm keeps a revision of a release of that name in it, of whatever chart."""
    labels = labels_of(item.obj)
    return item.resource in (SECRETS, CONFIGMAPS) and (labels.get("owner"), labels.get("name")) == ("helm", name)


def is_claim(item: Item) -> bool:
    """Whether data goes with it."""
    return item.resource == PERSISTENT_VOLUME_CLAIMS


def tenant_pods(pods: Iterable[Obj], names: Names) -> list[Obj]:
    """The host pods of a virtual cluster, by proof."""
    return [pod for pod in pods if virtual_key(names, PODS, pod) is not None]


def foreign(items: Iterable[Item]) -> list[Item]:
    """What of a namespace is not there in any namespace."""
    return [
        item
        for item in items
        if (item.resource, item.key.name) not in _EVERYWHERE
        and annotations_of(item.obj).get("kubernetes.io/service-account.name") != "default"
    ]


def others(items: Iterable[Item]) -> list[str]:
    """Names of the virtual clusters, also the Go original's, that have a control plane or an owner ConfigMap among them."""
    found = set()
    for item in items:
        labels, name = labels_of(item.obj), item.key.name
        if item.resource.plural == "statefulsets" and (labels.get("app"), labels.get("release")) == ("vcluster", name):
            found.add(name)
        elif item.resource == CONFIGMAPS and name == owner_key("", labels.get(LABEL_CLUSTER) or "").name and labels.get(LABEL_CLUSTER):
            found.add(labels[LABEL_CLUSTER])
    return sorted(found)


def _owners(obj: Obj) -> set[str]:
    return {item.get("uid", "") for item in (obj.get("metadata") or {}).get("ownerReferences") or ()}

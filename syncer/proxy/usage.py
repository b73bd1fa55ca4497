"""metrics.k8s.io in virtual terms: what the host's metrics server says of pods and nodes, as a virtual cluster may see it.

What a metrics server tells of a pod has the pod's name and labels, but neither its UID nor its annotations, by which ours
are told from others'. So it counts only where the host pod of that name is proven to be the image of a virtual pod. All but the
usage is then taken from the virtual objects.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from syncer.errors import ApiError
from syncer.kube.types import Resource, key_of, labels_of
from syncer.naming import LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.proxy.residents import container_names
from syncer.sync.spec import Feature, Right
from syncer.translate.labels import host_label_selector
from syncer.translate.metadata import marker_selector
from syncer.translate.selectors import parse_selector, selector_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncer.kube.types import Obj

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
POD_METRICS = Resource(GROUP, VERSION, "pods", "PodMetrics")
NODE_METRICS = Resource(GROUP, VERSION, "nodes", "NodeMetrics", namespaced=False)

FEATURE = Feature(
    GROUP,
    (
        Right(group=GROUP, resource="pods", verbs=("get", "list"), optional=True),
        Right(group=GROUP, resource="nodes", verbs=("get", "list"), optional=True, cluster=True),
    ),
)
"""What it needs on the host. Without the second there are no metrics of nodes."""

RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
    "resources": [
        {"name": it.plural, "singularName": "", "namespaced": it.namespaced, "kind": it.kind, "verbs": ["get", "list"]}
        for it in (NODE_METRICS, POD_METRICS)
    ],
}
"""What is served, as an API server tells it."""


def features(*, metrics: bool) -> tuple[Feature, ...]:
    """What settings ask for beside the loops."""
    return (FEATURE,) if metrics else ()


_FIELDS = ("metadata.name", "metadata.namespace")


def shown_pods(pods: Iterable[tuple[Obj, Obj]], metrics: Iterable[Obj]) -> list[Obj]:
    """PodMetrics of virtual pods, by namespace and name. `pods` are proven pairs of a virtual pod and its host pod's metadata."""
    owners = {key_of(image): pod for pod, image in pods}
    shown = [_of_pod(owners[key], item) for item in metrics if (key := key_of(item)) in owners]
    return sorted(shown, key=key_of)


def shown_nodes(names: Names, nodes: Iterable[Obj], metrics: Iterable[Obj]) -> list[Obj]:
    """NodeMetrics of those of the virtual `nodes` that stand for the host's. The figures are the whole node's."""
    ours = {key_of(node): node for node in nodes if (node["metadata"].get("annotations") or {}).get(LABEL_MANAGED_BY) == names.suffix}
    shown = [_shown(ours[key], item, {"usage": _usage(item)}) for item in metrics if (key := key_of(item)) in ours]
    return sorted(shown, key=key_of)


def host_query(names: Names, namespace: str, label_selector: str) -> str:
    """The label selector by which the host has the pods of a virtual namespace ("": of all) that a tenant's selector asks for.

    It may choose more than that, as it saves work and decides nothing: a host pod may also be behind with its labels.
    """
    markers = [marker_selector(names), *([f"{LABEL_NAMESPACE}={namespace}"] if namespace else [])]
    try:
        selector = parse_selector(label_selector)
    except ValueError:  # whether it is none at all is for the virtual API server to say
        return ",".join(markers)
    return selector_text(host_label_selector(names, selector, [namespace] if namespace else None))


def check_fields(field_selector: str) -> None:
    """Raise ApiError for a field selector that metrics cannot be chosen by, in an API server's words."""
    for term in filter(None, field_selector.split(",")):
        field = re.split(r"!?=", term, maxsplit=1)[0]
        if field not in _FIELDS:
            known = ", ".join(f'"{name}"' for name in _FIELDS)
            raise ApiError(400, "BadRequest", f'"{field}" is not a known field selector: only {known}')


def _of_pod(pod: Obj, item: Mapping[str, Any]) -> Obj:
    known = container_names(pod)
    containers = [{"name": it["name"], "usage": _usage(it)} for it in item.get("containers") or () if it.get("name") in known]
    return _shown(pod, item, {"containers": containers})


def _shown(virtual: Obj, item: Mapping[str, Any], figures: Obj) -> Obj:
    key, meta = key_of(virtual), item.get("metadata") or {}
    metadata: Obj = {"name": key.name, **({"namespace": key.namespace} if key.namespace else {})}
    metadata["creationTimestamp"] = meta.get("creationTimestamp")
    if labels := labels_of(virtual):
        metadata["labels"] = labels
    return {"metadata": metadata, "timestamp": item.get("timestamp"), "window": item.get("window"), **figures}


def _usage(item: Mapping[str, Any]) -> Obj:
    return {name: value for name, value in (item.get("usage") or {}).items() if isinstance(value, str)}

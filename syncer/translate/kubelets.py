"""What a virtual Node says of its kubelet, and the host Service that leads there.

There is no kubelet: the proxy answers in its place. It knows which Node is meant by the name that it is called by,
`<node>.nodes.vcluster.com`, or by the address, which is that of a host Service made for this Node alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from syncer.kube.types import ENDPOINT_SLICES, NODES, SERVICES, Obj, annotations_of, key_of, labels_of, uid_of
from syncer.naming import (
    ANNOTATION_KIND,
    ANNOTATION_NAME,
    ANNOTATION_UID,
    DOMAIN,
    LABEL_MANAGED_BY,
    Names,
    shorten,
)
from syncer.translate.endpoints import MANAGED_BY, MANAGER, SERVICE_NAME
from syncer.translate.merge import owned

PORT = 10250
"""Where kubelets are looked for."""
HOST_DOMAIN = "nodes.vcluster.com"
BELONGS_TO = DOMAIN + "/belongs-to"
"""Label of these Services: the virtual cluster."""
NODE = DOMAIN + "/node"
"""Label of these Services: the Node, shortened where it is too long for a label."""

_KIND = f"/{NODES.version}, Kind={NODES.kind}"
_PORT_NAME = "kubelet"
_EXTERNAL = ("ExternalIP", "ExternalDNS")


def host_name(node: str) -> str:
    """The name by which the kubelet of a Node is called."""
    return f"{node.replace('.', '-')}.{HOST_DOMAIN}"


def kubelet_status(node: str, address: str, others: Iterable[Obj] = ()) -> Obj:
    """The fields of a Node's status that tell where its kubelet is; `address` may be "". Of `others`, external addresses stay."""
    own = [{"type": "InternalIP", "address": address}] if address else []
    external = [item for item in others if item.get("type") in _EXTERNAL]
    addresses = [{"type": "Hostname", "address": host_name(node)}, *own, *external]
    return {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}}}


def node_of(names: Names, host: Obj) -> str | None:
    """The Node whose kubelet a host Service, or its EndpointSlice, provably leads to; None if it is none of this virtual cluster's."""
    annotations, labels = annotations_of(host), labels_of(host)
    node = annotations.get(ANNOTATION_NAME)
    if not node or annotations.get(ANNOTATION_KIND) != _KIND:
        return None
    if labels.get(LABEL_MANAGED_BY) != names.suffix or labels.get(BELONGS_TO) != names.suffix:
        return None
    return node if names.node_service(node) == key_of(host) else None


def node_service(names: Names, owner: Obj | None, node: Obj, front: Obj, port: int) -> Obj:
    """The host Service for a virtual Node: `front` is the Service of the proxy, `port` the proxy's own."""
    ports = [{"name": _PORT_NAME, "port": PORT, "protocol": "TCP", "targetPort": port}]
    spec: Obj = {"type": "ClusterIP", "ports": ports, **({"selector": selector} if (selector := selector_of(front)) else {})}
    return {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": _metadata(names, owner, node), "spec": spec}


def node_service_patch(names: Names, owner: Obj | None, node: Obj, front: Obj, port: int, host: Obj) -> Obj | None:
    """The merge patch that brings the host Service to that; None when nothing is to be done."""
    want = node_service(names, owner, node, front, port)
    want["spec"]["selector"] = {**dict.fromkeys(selector_of(host)), **selector_of(front)}
    return _patch(want, host)


def node_slice(names: Names, owner: Obj | None, node: Obj, sources: Iterable[Obj], port: int) -> Obj | None:
    """The EndpointSlice of that Service where the Service of the proxy has no selector: with what is in its own, `sources`.

    Of several families of addresses the first one's. None when there is nothing in them.
    """
    found = [source for source in sources if source.get("endpoints")]
    if not found:
        return None
    family = min(source["addressType"] for source in found)
    endpoints = [
        {field: endpoint[field] for field in ("addresses", "conditions") if endpoint.get(field)}
        for source in found
        if source["addressType"] == family
        for endpoint in source["endpoints"]
    ]
    metadata = _metadata(names, owner, node)
    metadata["labels"] |= {SERVICE_NAME: metadata["name"], MANAGED_BY: MANAGER}
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": metadata,
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": _PORT_NAME, "port": port, "protocol": "TCP"}],
    }


def node_slice_patch(want: Obj, host: Obj) -> Obj | None:
    """The merge patch that brings the EndpointSlice to what `node_slice` gives; None when nothing is to be done."""
    return _patch(want, host)


def selector_of(service: Mapping[str, Any]) -> dict[str, str]:
    """What a Service selects; {} where somebody else says what is behind it."""
    return (service.get("spec") or {}).get("selector") or {}


def _patch(want: Obj, host: Obj) -> Obj | None:
    metadata = owned(host["metadata"], {field: want["metadata"][field] for field in ("labels", "annotations")}) or {}
    owners = want["metadata"].get("ownerReferences") or []
    had = {item.get("uid") for item in host["metadata"].get("ownerReferences") or ()}
    if any(owner["uid"] not in had for owner in owners):
        metadata["ownerReferences"] = owners
    rest = owned(host, {field: value for field, value in want.items() if field not in ("apiVersion", "kind", "metadata")}) or {}
    return {**({"metadata": metadata} if metadata else {}), **rest} or None


def _metadata(names: Names, owner: Obj | None, node: Obj) -> Obj:
    name = key_of(node).name
    key = names.node_service(name)
    metadata: Obj = {
        "name": key.name,
        "namespace": key.namespace,
        "labels": {LABEL_MANAGED_BY: names.suffix, BELONGS_TO: names.suffix, NODE: shorten(name)},
        "annotations": {ANNOTATION_NAME: name, ANNOTATION_UID: uid_of(node), ANNOTATION_KIND: _KIND},
    }
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return metadata

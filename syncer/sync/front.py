"""The host Service in front of the virtual API server, whose address pods and `default/kubernetes` are given, and what is behind it."""

from __future__ import annotations

from syncer.kube.types import ENDPOINT_SLICES, SERVICES, Key, Obj, Ref, Side, labels_of
from syncer.sync.intents import Wait
from syncer.sync.view import View
from syncer.translate.endpoints import SERVICE_NAME
from syncer.translate.kubelets import node_of
from syncer.translate.metadata import virtual_key


def api_service(view: View) -> Ref:
    """That Service."""
    return Ref(Side.HOST, SERVICES, Key(view.names.host_namespace, view.policy.service_name))


def cluster_address(service: Obj | None) -> str | None:
    """A Service's address inside the cluster, None when it has none."""
    address = ((service or {}).get("spec") or {}).get("clusterIP")
    return None if not address or address == "None" else str(address)


def api_address(view: View) -> str | Wait:
    """The address of that Service, or what to wait for while it has none."""
    ref = api_service(view)
    reason = f"the host Service {ref.key.name} in front of the virtual API server has no cluster address yet"
    return cluster_address(view.get(*ref)) or Wait(on=(ref,), reason=reason)


def is_in_front(endpoint_slice: Obj, view: View) -> bool:
    """Whether an EndpointSlice of the host is of that Service."""
    return labels_of(endpoint_slice).get(SERVICE_NAME) == view.policy.service_name


def kept_slice(endpoint_slice: Obj, view: View) -> Obj | None:
    """Of EndpointSlices of the host those that we made and those of that Service; controllers make the others, which nobody looks at."""
    ours = virtual_key(view.names, ENDPOINT_SLICES, endpoint_slice) is not None or node_of(view.names, endpoint_slice) is not None
    return endpoint_slice if ours or is_in_front(endpoint_slice, view) else None

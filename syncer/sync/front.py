"""The host Service in front of the virtual API server, whose address pods and `default/kubernetes` are given."""

from __future__ import annotations

from syncer.kube.types import SERVICES, Key, Obj, Ref, Side
from syncer.sync.intents import Wait
from syncer.sync.view import View


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

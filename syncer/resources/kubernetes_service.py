"""`default/kubernetes`, the virtual API server's own Service: its address must be one that pods on the host can reach.

The virtual API server gives it the first address of its own range, which on the host is nobody's or somebody else's. It
gets the address of the host Service in front of the virtual API server instead. An address cannot be changed, so
the Service is deleted and made anew; the API server accepts any existing one, and would make it again itself if we were
interrupted. Deleting it takes its Endpoints along; API servers that maintain them write them again within seconds. Where none does
(`--endpoint-reconciler-type=none`) we make them, which point to the same address, and the EndpointSlice is
mirrored from them by the virtual cluster. Endpoints that no longer say what we wrote are somebody else's, and left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syncer.kube.types import ENDPOINTS, SERVICES, Key, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import DOMAIN
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, SyncSpec, Wake, Watch
from syncer.sync.view import View

KUBERNETES = Key("default", "kubernetes")
WRITTEN_ADDRESS = DOMAIN + "/address"
"""Annotation of the Endpoints that we made: the address that we last wrote into them."""

_LABELS = {"component": "apiserver", "provider": "kubernetes"}
_PORTS: list[Obj] = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 443}]


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the Service and its Endpoints need now. `pair.virtual` is the Service; there is no host object of its own."""
    if pair.key != KUBERNETES:
        return []
    host_key = Key(view.names.host_namespace, view.policy.service_name)
    host = view.get(Side.HOST, SERVICES, host_key)
    address = ((host or {}).get("spec") or {}).get("clusterIP") or "None"
    if address == "None":
        reason = f"the host Service {host_key.name} in front of the virtual API server has no cluster address yet"
        return [Wait(on=(Ref(Side.HOST, SERVICES, host_key),), reason=reason)]
    return _service(pair.virtual, address) + _endpoints(view.get(Side.VIRTUAL, ENDPOINTS, KUBERNETES), address)


def _service(service: Obj | None, address: str) -> list[Intent]:
    if service is None:
        return [Create(Side.VIRTUAL, SERVICES, _body({}, address))]
    if is_deleting(service):
        return [Wait(on=(Ref(Side.VIRTUAL, SERVICES, KUBERNETES),), reason="the old Service default/kubernetes has to go first")]
    if service["spec"].get("clusterIP") == address:
        return []
    why = "made anew with the address of the host Service in front of the virtual API server"
    return [Delete(Side.VIRTUAL, SERVICES, KUBERNETES, uid_of(service), why), Create(Side.VIRTUAL, SERVICES, _body(service, address))]


def _body(service: Mapping[str, Any], address: str) -> Obj:
    """The Service with that address, and with the ports that the API server gave it (it insists on them)."""
    ports = (service.get("spec") or {}).get("ports") or _PORTS
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": KUBERNETES.name, "namespace": KUBERNETES.namespace, "labels": _LABELS},
        "spec": {"type": "ClusterIP", "clusterIP": address, "ports": ports, "sessionAffinity": "None"},
    }


def _endpoints(endpoints: Obj | None, address: str) -> list[Intent]:
    annotations, subsets = {WRITTEN_ADDRESS: address}, _subsets(address)
    if endpoints is None:
        metadata = {"name": KUBERNETES.name, "namespace": KUBERNETES.namespace, "annotations": annotations}
        return [Create(Side.VIRTUAL, ENDPOINTS, {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets})]
    before = annotations_of(endpoints).get(WRITTEN_ADDRESS)
    if is_deleting(endpoints) or before in (None, address) or endpoints.get("subsets") != _subsets(str(before)):
        return []
    body = {"metadata": {"annotations": annotations}, "subsets": subsets}
    return [Patch(Side.VIRTUAL, ENDPOINTS, KUBERNETES, uid_of(endpoints), body)]


def _subsets(address: str) -> list[Obj]:
    return [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}]


def _only_kubernetes(endpoints: Obj, _view: View) -> Obj | None:
    return endpoints if key_of(endpoints) == KUBERNETES else None


def _when_in_front(host: Obj, view: View) -> list[Key]:
    return [KUBERNETES] if key_of(host).name == view.policy.service_name else []


SPEC = SyncSpec(
    name="kubernetes-service",
    part_of="services",
    kind=SERVICES,
    watches=(
        Watch(side=Side.VIRTUAL, resource=SERVICES),
        Watch(side=Side.VIRTUAL, resource=ENDPOINTS, slim=_only_kubernetes),
        Watch(side=Side.HOST, resource=SERVICES),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, SERVICES, key),
    host_ref=lambda _names, _key: None,
    virtual_key=lambda _host, _view: None,
    wakes=(Wake(Side.HOST, SERVICES, _when_in_front), Wake(Side.VIRTUAL, ENDPOINTS, lambda endpoints, _view: [key_of(endpoints)])),
    host_rights=(Right(group="", resource="services", verbs=("get", "list", "watch")),),
)

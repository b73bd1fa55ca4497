"""`default/kubernetes`, the virtual API server's own Service: its address must be one that pods on the host can reach.

The virtual API server gives it the first address of its own range, which on the host is nobody's or somebody else's. It
gets the address of the host Service in front of the virtual API server instead, as any Service is readdressed (see
translate.services); the API server accepts that, and would mend it itself if we were interrupted. Before Kubernetes 1.33 an
API server takes addresses only of the range that it was started with. Whether the host's is in there, --service-cidr
tells; without it the Service is left as it is, since it could not be put right, and would be broken by trying.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from syncer.kube.types import SERVICES, Key, Obj, Ref, Side, is_deleting, key_of, uid_of
from syncer.sync.front import api_address
from syncer.sync.intents import Create, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, SyncSpec, Wake, Watch
from syncer.sync.view import Policy, View
from syncer.translate.services import KUBERNETES, ON_ITS_WAY, is_external_name

_LABELS = {"component": "apiserver", "provider": "kubernetes"}
_PORTS: list[Obj] = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 443}]
_WITH_SERVICE_CIDRS = (1, 33)


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the Service needs now; there is no host object of its own."""
    if pair.key != KUBERNETES:
        return []
    address = api_address(view)
    if isinstance(address, Wait):
        return [address]
    service = pair.virtual
    if service is not None and service["spec"].get("clusterIP") == address:
        return []
    if not _accepts(view.policy, address):
        reason = (
            "this Kubernetes takes addresses only of the range that it was started with; start it with the host's range as "
            "--service-cluster-ip-range, and give that to the syncer as --service-cidr"
        )
        return [Wait(on=(), reason=reason)]
    if service is None:
        return [Create(Side.VIRTUAL, SERVICES, _body(address))]
    if is_deleting(service):
        return [Wait(on=(Ref(Side.VIRTUAL, SERVICES, KUBERNETES),), reason="the old Service default/kubernetes has to go first")]
    release = Patch(Side.VIRTUAL, SERVICES, KUBERNETES, uid_of(service), {"spec": {"type": "ExternalName", "externalName": ON_ITS_WAY}})
    back = Patch(Side.VIRTUAL, SERVICES, KUBERNETES, uid_of(service), {"spec": {**_addressed(address), "externalName": None}})
    return [back] if is_external_name(service) else [release, back]


def _accepts(policy: Policy, address: str) -> bool:
    """Whether the virtual API server can be expected to take that address; the syncer gives newer ones a ServiceCIDR at start."""
    version = re.match(r"v(\d+)\.(\d+)", policy.virtual_version)
    if version is None or (int(version[1]), int(version[2])) >= _WITH_SERVICE_CIDRS:
        return True
    return any(ip_address(address) in ip_network(cidr, strict=False) for cidr in policy.service_cidr)


def _body(address: str) -> Obj:
    metadata = {"name": KUBERNETES.name, "namespace": KUBERNETES.namespace, "labels": _LABELS}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {**_addressed(address), "ports": _PORTS}}


def _addressed(address: str) -> Mapping[str, Any]:
    return {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]}


def _when_in_front(host: Obj, view: View) -> list[Key]:
    return [KUBERNETES] if key_of(host).name == view.policy.service_name else []


SPEC = SyncSpec(
    name="kubernetes-service",
    part_of="services",
    kind=SERVICES,
    watches=(
        Watch(side=Side.VIRTUAL, resource=SERVICES),
        Watch(side=Side.HOST, resource=SERVICES),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, SERVICES, key),
    host_ref=lambda _names, _key: None,
    virtual_key=lambda _host, _view: None,
    wakes=(Wake(Side.HOST, SERVICES, _when_in_front),),
    host_rights=(Right(group="", resource="services", verbs=("get", "list", "watch")),),
)

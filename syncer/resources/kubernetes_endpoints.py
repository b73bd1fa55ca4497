"""The Endpoints of `default/kubernetes`: they point to where pods on the host reach the virtual API server.

API servers that maintain them are left alone. Where none does (`--endpoint-reconciler-type=none`) we make them, with the
address of the host Service in front of the virtual API server, and the EndpointSlice is mirrored from them by the virtual
cluster. Endpoints that no longer say what we wrote are somebody else's, and left alone too.
"""

from __future__ import annotations

from syncer.kube.types import ENDPOINTS, SERVICES, Key, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import DOMAIN
from syncer.sync.front import api_address
from syncer.sync.intents import Create, Intent, Pair, Patch, Wait
from syncer.sync.spec import Right, SyncSpec, Wake, Watch
from syncer.sync.view import View
from syncer.translate.services import KUBERNETES, has_own_endpoints

WRITTEN_ADDRESS = DOMAIN + "/address"
"""Annotation of the Endpoints that we made: the address that we last wrote into them."""


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the Endpoints need now; there is no host object of their own."""
    if pair.key != KUBERNETES:
        return []
    address = api_address(view)
    if isinstance(address, Wait):
        return [address]
    endpoints = pair.virtual
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


def _needed(key: Key, view: View) -> bool:
    """Of Endpoints in full, as the loop of all others has it too: what one fetches, the other must not let go."""
    return key == KUBERNETES or has_own_endpoints(view.get(Side.VIRTUAL, SERVICES, key))


def _when_in_front(host: Obj, view: View) -> list[Key]:
    return [KUBERNETES] if key_of(host).name == view.policy.service_name else []


SPEC = SyncSpec(
    name="kubernetes-endpoints",
    part_of="services",
    kind=ENDPOINTS,
    watches=(
        Watch(side=Side.VIRTUAL, resource=ENDPOINTS, metadata_only=True),
        Watch(side=Side.VIRTUAL, resource=SERVICES),
        Watch(side=Side.HOST, resource=SERVICES),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, ENDPOINTS, key),
    host_ref=lambda _names, _key: None,
    virtual_key=lambda _host, _view: None,
    follows=frozenset(),
    wakes=(
        Wake(Side.HOST, SERVICES, _when_in_front),
        Wake(Side.VIRTUAL, ENDPOINTS, lambda endpoints, _view: [KUBERNETES] if key_of(endpoints) == KUBERNETES else []),
    ),
    hydrate=_needed,
    host_rights=(Right(group="", resource="services", verbs=("get", "list", "watch")),),
)

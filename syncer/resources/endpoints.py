"""Endpoints of Services without selector: down. The host's own controllers make EndpointSlices of them.

Endpoints of Services with a selector are the work of either side's own controllers. Host Endpoints belong to the host
Service of their name: those that the host's endpoints controller left when the selector went are taken over.
"""

from __future__ import annotations

from syncer.kube.types import ENDPOINTS, SERVICES, Key, Obj, Side, key_of
from syncer.sync.backends import backends_spec, is_ours
from syncer.sync.view import View
from syncer.translate.metadata import virtual_key
from syncer.translate.services import KUBERNETES, has_own_endpoints


def _slim_host(obj: Obj, _view: View) -> Obj:
    """Of what the host's controller made, which is never compared, little is kept."""
    if is_ours(obj):
        return obj
    kept = {field: value for field, value in obj["metadata"].items() if field not in ("annotations", "ownerReferences")}
    return {"apiVersion": ENDPOINTS.api_version, "kind": ENDPOINTS.kind, "metadata": kept}


def _virtual_key(host: Obj, view: View) -> Key | None:
    service = view.get(Side.HOST, SERVICES, key_of(host))
    found = virtual_key(view.names, ENDPOINTS, host) or (None if service is None else virtual_key(view.names, SERVICES, service))
    return None if found == KUBERNETES else found


def _needed(key: Key, view: View) -> bool:
    """Of Endpoints in full, as the loop of `default/kubernetes` has it too: what one fetches, the other must not let go."""
    return key == KUBERNETES or has_own_endpoints(view.get(Side.VIRTUAL, SERVICES, key))


SPEC = backends_spec(
    ENDPOINTS,
    service_of=lambda endpoints: key_of(endpoints).name,
    needs=has_own_endpoints,
    keys_of_service=lambda service, _view: [service],
    slim_virtual=None,
    slim_host=_slim_host,
    hydrate=_needed,
    host_key_of=_virtual_key,
    indexes={},
)

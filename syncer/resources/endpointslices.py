"""EndpointSlices that somebody made by hand, or by a controller of his own: down, for Services with or without selector.

Those that Kubernetes' own controllers made, from a selector or from Endpoints, are left out: the host's do the same.
"""

from __future__ import annotations

from syncer.kube.types import ENDPOINT_SLICES, Key, Obj, Side, key_of, labels_of
from syncer.sync.backends import backends_spec
from syncer.sync.front import kept_slice
from syncer.sync.view import View
from syncer.translate.endpoints import SERVICE_NAME, is_hand_made
from syncer.translate.metadata import virtual_key

_BY_SERVICE = "service"


def _slim_virtual(obj: Obj, _view: View) -> Obj | None:
    return obj if is_hand_made(obj) else None


def _virtual_key(host: Obj, view: View) -> Key | None:
    return virtual_key(view.names, ENDPOINT_SLICES, host)


def _service(obj: Obj) -> str:
    return labels_of(obj).get(SERVICE_NAME) or ""


SPEC = backends_spec(
    ENDPOINT_SLICES,
    part_of="endpoints",
    service_of=_service,
    needs=lambda _service: True,
    keys_of_service=lambda service, view: view.find(Side.VIRTUAL, ENDPOINT_SLICES, _BY_SERVICE, str(service)),
    slim_virtual=_slim_virtual,
    slim_host=kept_slice,
    hydrate=lambda _key, _view: True,
    host_key_of=_virtual_key,
    indexes={_BY_SERVICE: lambda obj: [str(Key(key_of(obj).namespace, name))] if (name := _service(obj)) else []},
)

"""Gives a Service that is being created or changed in the virtual cluster the addresses and ports that the host allocates for it.

Called by the admission webhook, so before the virtual Service is stored: the host Service is made first, marked as
pending, and the loop adopts it once the virtual one exists, or deletes it when it never comes (resources.services). For an
update that needs other addresses or ports the host Service is changed first, and marked so that the loop leaves it until the
update is stored, or does not come. What the host refuses, such as a node port that is taken, is refused to the tenant.
Safe to call twice for one request, and beside another replica: the second call finds what the first one made.
"""

from __future__ import annotations

import secrets
import string
from typing import TYPE_CHECKING

import structlog

from syncer.errors import AlreadyExists, ApiError, Conflict, NotFound, Refused, Stale
from syncer.kube.types import SERVICES, Key, Obj, Side, is_deleting, key_of, uid_of
from syncer.sync.refusals import refusal_of
from syncer.translate.messages import host_names_hidden
from syncer.translate.metadata import recorded_uid, virtual_key
from syncer.translate.services import (
    KUBERNETES,
    admission_patch,
    changing_mark,
    is_excluded,
    is_external_name,
    is_unlike,
    pending_service,
    pending_since,
    spec_changes,
    wants_two_families,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from syncer.kube.client import Client
    from syncer.naming import Names
    from syncer.sync.fence import Fence

log = structlog.get_logger("syncer.proxy")

_RANDOM = string.ascii_lowercase + string.digits
_RANDOM_LENGTH = 5
_NAME_LIMIT = 63


class HostAllocator:
    """Allocates on the host, in any replica: it goes by what the API servers answer, not by caches.

    `wall` tells epoch seconds; `owner` is the ownerReference of host objects, if they have one; `keep` is given the host
    Services, for the caches of the replica that has some.
    """

    def __init__(
        self,
        clients: Mapping[Side, Client],
        fence: Fence,
        *,
        names: Names,
        owner: Obj | None,
        wall: Callable[[], float],
        keep: Callable[[Obj], None] = lambda _: None,
    ) -> None:
        self._host = clients[Side.HOST]
        self._virtual = clients[Side.VIRTUAL]
        self._fence = fence
        self._names = names
        self._owner = owner
        self._wall = wall
        self._keep = keep
        self._families: frozenset[str] | None = None

    async def allocate(self, review: Obj) -> list[Obj] | None:
        """The JSON Patch for the Service in an AdmissionReview's request, None when nothing has to be said.

        Raises Refused or ApiError with a message for the tenant, FenceClosed, or a network error.
        """
        request = review["request"]
        service: Obj = request["object"]
        if is_external_name(service) or is_excluded(service):
            return None
        await self._fence.verify()  # asked, since where nobody leads nobody watches it
        self._fence.require_open()
        operations: list[Obj] = []
        metadata = {**service["metadata"], "namespace": request["namespace"]}
        if not metadata.get("name"):
            # The API server would choose a name after admission; the host Service needs it now.
            suffix = "".join(secrets.choice(_RANDOM) for _ in range(_RANDOM_LENGTH))
            metadata["name"] = metadata.get("generateName", "")[: _NAME_LIMIT - _RANDOM_LENGTH] + suffix
            operations.append({"op": "add", "path": "/metadata/name", "value": metadata["name"]})
        service = {**service, "metadata": metadata}
        try:
            host = await (self._change(service, request["oldObject"]) if request["operation"] == "UPDATE" else self._make(service))
        except ApiError as error:
            raise self._cleaned(error, key_of(service)) from error
        if host is None:
            return operations or None
        self._keep(host)
        families = await self._known_families() if wants_two_families(service) else None
        return operations + admission_patch(service, host, families)

    async def _make(self, service: Obj) -> Obj | None:
        body = pending_service(self._names, self._owner, service, self._wall())
        try:
            return await self._host.create(SERVICES, self._names.host_namespace, body)
        except AlreadyExists:
            return await self._take_over(service, body)

    async def _take_over(self, service: Obj, body: Obj) -> Obj | None:
        """The host Service of that name is left from an earlier attempt, or from a predecessor whose deletion is under way."""
        key, host_key = key_of(service), key_of(body)
        try:
            found = await self._host.get(SERVICES, host_key)
        except NotFound as error:
            raise Stale(f"the previous Service {key} is just being removed on the host; try again") from error
        if virtual_key(self._names, SERVICES, found) != key:
            raise Refused(
                "NameTaken",
                f"the name that the Service {key} needs on the host cluster is taken by one that does not belong to this "
                "virtual cluster; choose another name",
            )
        if recorded_uid(found) and pending_since(found) is None and await self._is_stored(key):
            return None  # this create is about to fail, and must not change what the existing Service has
        if is_deleting(found):
            raise Stale(f"the previous Service {key} is just being removed on the host; try again")
        if is_unlike(service, found):
            await self._host.delete(SERVICES, host_key, uid=uid_of(found))
            raise Stale(f"the previous Service {key} is just being removed on the host; try again")
        patch: Obj = {"metadata": {"uid": uid_of(found), "annotations": body["metadata"]["annotations"]}}
        if changes := spec_changes(self._names, service, found):
            patch["spec"] = changes
        return await self._host.patch(SERVICES, host_key, patch)

    async def _change(self, service: Obj, old: Obj) -> Obj | None:
        """Change the host Service ahead of an update of the virtual one."""
        host_key = self._names.host_key(key_of(service))
        try:
            found = await self._host.get(SERVICES, host_key)
        except NotFound:
            # Somebody deleted it, which the loop mends. But a Service without an address has to get one now.
            return await self._make(service) if is_external_name(old) else None
        if virtual_key(self._names, SERVICES, found) != key_of(service):
            return None
        changes = spec_changes(self._names, service, found)
        if not changes:
            return found
        if is_deleting(found):
            raise Stale(f"the Service {key_of(service)} is just being removed on the host; try again")
        metadata = {"uid": uid_of(found), "annotations": changing_mark(old, self._wall())}
        return await self._host.patch(SERVICES, host_key, {"metadata": metadata, "spec": changes})

    async def _known_families(self) -> frozenset[str] | None:
        """The IP families that the virtual API server gives to Services; None when it cannot be asked."""
        if self._families is None:
            body: Obj = {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"generateName": "syncer-asks-", "namespace": KUBERNETES.namespace},
                "spec": {"ports": [{"port": 443}], "ipFamilyPolicy": "PreferDualStack"},
            }
            try:
                made = await self._virtual.create(SERVICES, KUBERNETES.namespace, body, dry_run=True)
            except ApiError as error:
                log.info("admission.families_unknown", error=error.message)
                return None
            self._families = frozenset(made["spec"].get("ipFamilies") or ())
        return self._families

    async def _is_stored(self, key: Key) -> bool:
        try:
            await self._virtual.get(SERVICES, key)
        except NotFound:
            return False
        return True

    def _cleaned(self, error: ApiError, key: Key) -> ApiError | Stale:
        if isinstance(error, Conflict):
            return Stale(f"the Service {key} is changing on the host; try again")

        def hide(text: str) -> str:
            return host_names_hidden(text, names=self._names, pairs=((self._names.host_key(key).name, key),))

        refusal = refusal_of(error, Side.HOST, hide) if error.status == 403 else None  # an admission plugin's text tells of others' use
        message = hide(error.message) if refusal is None else str(refusal)
        return type(error)(error.status, error.reason, message, retry_after=error.retry_after)

"""The host Services that the virtual cluster stands on, and that no loop makes: the one in front of its API, and that of its DNS.

Pods have their addresses in their environment and in /etc/resolv.conf. Whoever deletes one by mistake would cut them off for
good, as the same Service made anew has another address. So it is made again as it was, address included, while that is free.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from syncer.errors import NETWORK_ERRORS, AlreadyExists, Forbidden, Invalid, NotFound, SyncerError
from syncer.kube.types import CONFIGMAPS, SERVICES, Key, Obj, annotations_of, is_deleting, uid_of
from syncer.naming import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncer.kube.client import Client
    from syncer.runtime.store import Change, Store
    from syncer.sync.fence import Fence

log = structlog.get_logger("syncer.sync")

PAUSE = 5.0
"""Seconds between a deletion and what is done about it. Until then it shows whether the whole release is being removed, or changed."""
OF_RELEASE = f"{DOMAIN}/services"
"""Annotation of the owner ConfigMap: which of these Services the release has, by name, with commas between."""
_KEPT = ("name", "namespace", "labels", "annotations")
_ALLOCATED = ("clusterIP", "clusterIPs", "healthCheckNodePort")


def remakes(service: Obj, owner: Obj | None) -> list[Obj]:
    """A Service that is gone, to be made again: as it was and, for when that is taken, with whatever the host allocates.

    It goes with `owner`, as nobody else counts on it being there.
    """
    metadata = {field: value for field, value in service["metadata"].items() if field in _KEPT}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    spec: dict[str, Any] = service.get("spec") or {}
    fresh = {field: value for field, value in spec.items() if field not in _ALLOCATED or value in ("None", ["None"])}
    if "ports" in spec:
        fresh["ports"] = [{field: value for field, value in port.items() if field != "nodePort"} for port in spec["ports"]]
    made = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata}
    return [{**made, "spec": spec}, *([{**made, "spec": fresh}] if fresh != spec else [])]


def is_of_release(name: str, owner: Obj) -> bool:
    """Whether the release is to have that Service, as far as its owner ConfigMap tells: that of an older chart does not.

    Helm writes it before it deletes what an upgrade leaves out.
    """
    names = annotations_of(owner).get(OF_RELEASE)
    return names is None or name in {text.strip() for text in names.split(",")}


class Mainstays:
    """Has the host Services of these names made again when they are deleted, while `run` runs; only in the replica that leads.

    `services` is the cache of the host's. The owner is asked before: where it is gone, all is meant to go, and an upgrade may leave
    one out.
    """

    def __init__(self, host: Client, services: Store, fence: Fence, names: Iterable[str], owner: Obj | None, pause: float = PAUSE) -> None:
        self._host = host
        self._fence = fence
        self._keys = frozenset(Key(fence.owner.namespace, name) for name in names)
        self._owner = owner
        self._pause = pause
        self._lost: dict[Key, Obj] = {}
        self._woken = asyncio.Event()
        services.listeners.append(self._note)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(self._pause)
            self._woken.clear()
            for key, service in list(self._lost.items()):
                try:
                    await self._restore(key, service)
                except (SyncerError, *NETWORK_ERRORS) as error:
                    log.warning("service.not_restored", key=str(key), error=str(error) or type(error).__name__)
                    self._woken.set()
                else:
                    self._lost.pop(key, None)

    def _note(self, change: Change) -> None:
        if change.key not in self._keys:
            return
        if change.new is not None:
            self._lost.pop(change.key, None)
        elif change.old is not None:
            self._lost[change.key] = change.old
            self._woken.set()

    async def _restore(self, key: Key, service: Obj) -> None:
        """Raises what may be over later."""
        if not await self._is_wanted(key.name):
            return
        self._fence.require_open()
        for body in remakes(service, self._owner):
            try:
                made = await self._host.create(SERVICES, key.namespace, body)
            except AlreadyExists:
                return
            except Forbidden as error:
                self._tell(key, f"The Service {key.name} was deleted, and may not be made again: {error.message}")
                return
            except Invalid as error:
                log.info("service.differs", key=str(key), error=error.message)
            else:
                self._tell(key, _words(key, service, made))
                return
        self._tell(key, f"The Service {key.name} was deleted, and the host finds what it was invalid; make it again, e.g. by helm upgrade")

    async def _is_wanted(self, name: str) -> bool:
        try:
            owner = await self._host.get(CONFIGMAPS, self._fence.owner)
        except NotFound:
            return False
        return not is_deleting(owner) and uid_of(owner) == self._fence.owner_uid and is_of_release(name, owner)

    def _tell(self, key: Key, message: str) -> None:
        log.warning("service.lost", key=str(key), message=message)
        self._fence.warn("ServiceLost", message)


def _words(key: Key, before: Obj, after: Obj) -> str:
    was, now = before["spec"].get("clusterIP"), after["spec"].get("clusterIP")
    made = f"The Service {key.name} was deleted; it has been made again"
    return f"{made}, with the same address" if was == now else f"{made} at {now}, as {was} was taken: restart pods that are older"

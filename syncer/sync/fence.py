"""Ties one virtual control plane to its host namespace, by UIDs, so that no other one can ever write there.

The host keeps a ConfigMap, the *owner*: it names the UID of the virtual kube-system namespace, and every host object
has it as its owner, so deleting it (and nothing else by accident) removes all of them. A virtual control plane whose
kube-system has another UID, for example a fresh and empty one after its data was lost, closes the fence: nothing is
written on either side, and the reason is in the log, in a metric, in an event on the owner and in /readyz.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from syncer.errors import AlreadyExists, FenceClosed, NotFound
from syncer.kube.types import CONFIGMAPS, NAMESPACES, Key, Obj, Side, annotations_of, uid_of
from syncer.naming import DOMAIN, LABEL_CLUSTER
from syncer.sync.recorder import Notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncer.kube.client import Client
    from syncer.sync.recorder import Warner

log = structlog.get_logger("syncer.sync")

VIRTUAL_UID = "virtual-uid"
"""Data key of the owner ConfigMap."""
RELEASE_DELETIONS = f"{DOMAIN}/release-deletions"
"""Annotation of the owner ConfigMap: the RFC 3339 time up to which held deletions are released."""
PAUSED_AT = f"{DOMAIN}/paused-at"
"""Annotation of the owner ConfigMap: the RFC 3339 time up to which host pods had been started that a pause deleted."""

_KUBE_SYSTEM = Key("", "kube-system")
_FRESH = 1.0
"""Seconds for which a successful check of the virtual side is good enough; a wiped server needs longer to come up."""


def owner_key(namespace: str, name: str) -> Key:
    """Where the owner ConfigMap of the virtual cluster `name` is."""
    return Key(namespace, f"vc-{name}-owner")


def reference_to(owner: Key, uid: str) -> Obj:
    """The ownerReference that names the owner ConfigMap of that UID."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": uid}


class Fence:
    """Open only while both sides are the ones that belong together.

    `clock` is monotonic seconds.
    """

    def __init__(self, *, virtual: Client, host: Client, recorder: Warner, namespace: str, name: str, clock: Callable[[], float]) -> None:
        self._virtual = virtual
        self._host = host
        self._name = name
        self._clock = clock
        self._recorder = recorder
        self._asking = asyncio.Lock()
        self._checked_at = float("-inf")
        self.owner = owner_key(namespace, name)
        self.owner_uid = ""
        self.virtual_uid = ""
        self.released_at: float | None = None
        """Up to when a person released held deletions (epoch seconds), as last read from the owner."""
        self.paused_at = 0.0
        """Up to when host pods had been started that a pause deleted (epoch seconds), as read at the start; 0.0 for none."""
        self._closed: dict[Side, str] = {Side.VIRTUAL: "not checked yet"}

    @property
    def closed(self) -> str | None:
        """Why nothing may be written, None while the fence is open."""
        return next(iter(self._closed.values()), None)

    def warn(self, reason: str, message: str) -> None:
        """Put a Warning event on the owner ConfigMap, where the platform engineer looks."""
        self._recorder.warn(Notice(Side.HOST, self._owner_object(), reason, message))

    def owner_reference(self) -> Obj:
        """The ownerReference for host objects; only valid once `open` has returned."""
        return reference_to(self.owner, self.owner_uid)

    def require_open(self) -> None:
        """Raise FenceClosed unless writes are allowed."""
        if (reason := self.closed) is not None:
            raise FenceClosed(reason)

    async def open(self) -> None:
        """Check both sides, recording this virtual control plane on the host if none was recorded before.

        Raises FenceClosed when another one is recorded, ApiError or a network error when a side does not answer.
        """
        uid = uid_of(await self._virtual.get(NAMESPACES, _KUBE_SYSTEM))
        try:
            owner = await self._host.get(CONFIGMAPS, self.owner)
        except NotFound:
            owner = await self._record(uid)
        self.owner_uid = uid_of(owner)
        self.virtual_uid = str((owner.get("data") or {}).get(VIRTUAL_UID) or "")
        if not self.virtual_uid:
            owner = await self._host.patch(CONFIGMAPS, self.owner, {"metadata": {"uid": self.owner_uid}, "data": {VIRTUAL_UID: uid}})
            self.virtual_uid = uid
        self._closed.pop(Side.HOST, None)
        self._read_release(owner)
        self.paused_at = _time(owner, PAUSED_AT) or 0.0
        self._judge(uid)

    async def verify(self) -> None:
        """Make sure, by asking it, that the virtual side is still the recorded one; raises as `open`."""
        async with self._asking:  # one answer is good for all who ask at the same time
            if self.closed is None and self._clock() - self._checked_at < _FRESH:
                return
            try:
                uid = uid_of(await self._virtual.get(NAMESPACES, _KUBE_SYSTEM))
            except NotFound:
                uid = ""
            self._judge(uid)

    async def verify_host(self) -> None:
        """Make sure that the owner ConfigMap is still the one that was opened, and read what a person wrote on it."""
        try:
            owner = await self._host.get(CONFIGMAPS, self.owner)
        except NotFound:
            owner = {}
        if uid_of(owner) != self.owner_uid:
            gone = "is gone" if not owner else "was made anew"
            self._close(Side.HOST, f"the ConfigMap {self.owner} that owns all host objects {gone}; restart the syncer if that was meant")
            self.require_open()
        self._closed.pop(Side.HOST, None)
        self._read_release(owner)

    def _read_release(self, owner: Obj) -> None:
        if (at := _time(owner, RELEASE_DELETIONS)) is not None:
            self.released_at = at

    async def _record(self, uid: str) -> Obj:
        body: Obj = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.owner.name, "namespace": self.owner.namespace, "labels": {LABEL_CLUSTER: self._name}},
            "data": {VIRTUAL_UID: uid},
        }
        try:
            owner = await self._host.create(CONFIGMAPS, self.owner.namespace, body)
        except AlreadyExists:
            return await self._host.get(CONFIGMAPS, self.owner)
        log.info("fence.recorded", virtual_uid=uid, owner=str(self.owner))
        return owner

    def _judge(self, uid: str) -> None:
        if uid == self.virtual_uid:
            self._checked_at = self._clock()
            if self._closed.pop(Side.VIRTUAL, None) is not None:
                log.info("fence.open", virtual_uid=uid)
            return
        found = f"has kube-system {uid}" if uid else "has no kube-system namespace"
        self._close(
            Side.VIRTUAL,
            f"the virtual control plane {found}, but this host namespace belongs to one with kube-system {self.virtual_uid}: "
            "it has lost its data or is another cluster. Nothing is written. Restore its data, or, to start afresh and "
            f"drop everything on the host, delete the ConfigMap {self.owner} and restart the syncer",
        )
        self.require_open()

    def _close(self, side: Side, reason: str) -> None:
        known = self._closed.get(side) == reason
        self._closed[side] = reason
        if not known:
            log.error("fence.closed", reason=reason)
            self.warn("FenceClosed", reason)

    def _owner_object(self) -> Obj:
        metadata = {"namespace": self.owner.namespace, "name": self.owner.name, "uid": self.owner_uid}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def _time(owner: Obj, annotation: str) -> float | None:
    """Epoch seconds; None where there is no such time."""
    text = annotations_of(owner).get(annotation, "")
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        log.warning("owner.unreadable", annotation=annotation, text=text, remedy="write an RFC 3339 time")
        return None

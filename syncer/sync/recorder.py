"""Events that the syncer itself writes, on either side. They collapse, and they never delay or fail other work."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from syncer.errors import NETWORK_ERRORS, AlreadyExists, NotFound, SyncerError
from syncer.kube.types import EVENTS, Key, Lane, Obj, Side, key_of, uid_of
from syncer.sync.controllers import Controllers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from syncer.kube.client import Client

log = structlog.get_logger("syncer.sync")

_BACKLOG = 5000
"""Events waiting to be written; more are dropped, since events are a courtesy."""
_REPEAT_AFTER = 300.0
"""Seconds before the same event is written again (its count goes up)."""
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Notice:
    """One event to write: on which object, in which machine-readable and human words."""

    side: Side
    regarding: Obj
    reason: str
    message: str
    type: Literal["Warning", "Normal"] = "Warning"
    topic: str = ""
    """What makes two notices the same, where the message holds numbers that change; else the message does."""
    for_controller: str = ""
    """Message of the event that the object's outermost controller gets besides; "" for none."""

    @property
    def name(self) -> str:
        """The same notice always has the same Event name, so that repeating it raises a count."""
        digest = sha256(f"{uid_of(self.regarding)}\0{self.reason}\0{self.topic or self.message}".encode()).hexdigest()
        return f"{key_of(self.regarding).name[:200]}.{digest[:16]}"

    def body(self, timestamp: str) -> Obj:
        """The Event object. Cluster-scoped objects have theirs in the namespace default, as kubelet does."""
        key = key_of(self.regarding)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": key.namespace or "default"},
            "involvedObject": {
                "apiVersion": self.regarding.get("apiVersion"),
                "kind": self.regarding.get("kind"),
                "namespace": key.namespace,
                "name": key.name,
                "uid": uid_of(self.regarding),
            },
            "type": self.type,
            "reason": self.reason,
            "message": self.message[:1024],
            "source": {"component": "syncer"},
            "firstTimestamp": timestamp,
            "lastTimestamp": timestamp,
            "count": 1,
        }


class Warner(Protocol):
    """Where notices go."""

    def warn(self, notice: Notice) -> None:
        """Have an event written soon."""
        ...


class Recorder:
    """Writes notices one after another, in the event lane. `clock` is monotonic seconds, `timestamp` RFC 3339 text."""

    def __init__(self, clients: Mapping[Side, Client], *, clock: Callable[[], float], timestamp: Callable[[], str]) -> None:
        self._clients = clients
        self._clock = clock
        self._timestamp = timestamp
        self._controllers = {side: Controllers(client) for side, client in clients.items()}
        self._queue: asyncio.Queue[Notice] = asyncio.Queue(_BACKLOG)
        self._written: OrderedDict[tuple[Side, str], float] = OrderedDict()

    def warn(self, notice: Notice) -> None:
        """Have an event written soon; the same one not more often than each five minutes. Drops it when too many wait."""
        if not self._is_new(notice):
            return
        try:
            self._queue.put_nowait(notice)
        except asyncio.QueueFull:
            self._written.pop((notice.side, notice.name), None)
            log.warning("event.dropped", reason=notice.reason)

    def _is_new(self, notice: Notice) -> bool:
        """Whether it was not written lately; from now on it was."""
        known = (notice.side, notice.name)
        now = self._clock()
        if now - self._written.get(known, float("-inf")) < _REPEAT_AFTER:
            return False
        self._written[known] = now
        self._written.move_to_end(known)
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return True

    async def run(self) -> None:
        """Write what is queued until cancelled. A failure is logged and the event forgotten."""
        while True:
            notice = await self._queue.get()
            try:
                await self._write(notice)
                await self._tell_controller(notice)
            except (SyncerError, *NETWORK_ERRORS) as error:
                self._written.pop((notice.side, notice.name), None)
                log.warning("event.not_written", side=notice.side, reason=notice.reason, error=str(error))
            except Exception:  # a tenant's own API service may answer anything when it is asked for a controller
                log.exception("event.bug", side=notice.side, reason=notice.reason)

    async def _write(self, notice: Notice) -> None:
        client = self._clients[notice.side]
        body = notice.body(self._timestamp())
        key = key_of(body)
        try:
            await client.create(EVENTS, key.namespace, body, lane=Lane.EVENT)
        except AlreadyExists:
            old = await client.get(EVENTS, Key(key.namespace, key.name))
            again = {"count": int(old.get("count") or 1) + 1, "lastTimestamp": body["lastTimestamp"], "message": body["message"]}
            await client.patch(EVENTS, key, again, lane=Lane.EVENT)
        except NotFound:
            log.debug("event.namespace_gone", namespace=key.namespace)

    async def _tell_controller(self, notice: Notice) -> None:
        if not notice.for_controller:
            return
        controller = await self._controllers[notice.side].outermost(notice.regarding)
        if controller is None:
            return
        theirs = replace(notice, regarding=controller, message=notice.for_controller, for_controller="")
        if self._is_new(theirs):
            await self._write(theirs)

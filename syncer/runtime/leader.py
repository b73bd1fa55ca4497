"""Leader election on a Lease: at most one process leads at any time.

The rules are client-go's (https://pkg.go.dev/k8s.io/client-go/tools/leaderelection). A lease is not judged by the times
written in it, which come from other machines' clocks: a candidate takes over when it has itself seen the lease unchanged for
the duration that its holder promised. The holder counts from before it sent its last successful renewal, and stops after
`renew_deadline`, which is shorter. So it has stopped before anybody else can start, however long an answer takes or fails to
come, unless its clock is slower than the candidate's by the ratio of the two:

    holder      │◀─ renewal sent                    lead is cancelled ─▶│
                │────────────────── renew_deadline ───────────────────▶│    time to stop    │
    candidate      │◀─ sees the renewal                                         takes over ─▶│
                   │───────────────────────── lease_duration ────────────────────────────────▶│

Where client-go is laxer: a lease that is deleted is not free before it would have run out; a holder that finds it in other
hands, even if they let go of it again, has lost; and the clock counts the time for which the machine sleeps.

What this cannot prevent: a request that was sent while leading may take effect later. Writes have preconditions for that.
A process that was stopped in its tracks may be about to send one when it wakes up: `require_lead`, asked at the very last
moment (`kube.client.Client.only_while`), is for that.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol
from uuid import uuid4

import structlog

from syncer.errors import NETWORK_ERRORS, AlreadyExists, ApiError, ConfigError, Conflict, NotFound, NotLeading, SyncerError
from syncer.kube.types import LEASES, Key, Obj, Resource

log = structlog.get_logger("syncer.runtime")

JITTER = 0.2
"""Share by which the pauses of candidates differ, so that they do not all ask at once."""

TICK = 0.001
"""Timers may fire a little early; waiting no less than this for the rest keeps the loop from spinning."""


LOOK = 1.5
"""Longest pause of a candidate, in seconds: the sooner it sees the last renewal, the sooner it may take over."""


def lease_key(namespace: str, name: str) -> Key:
    """Where the Lease of the replicas of the virtual cluster `name` is; the Go original's name."""
    return Key(namespace, f"vcluster-{name}-controller")


def seconds_since_boot() -> float:
    """The clock of an election. Unlike `time.monotonic` it goes on while the machine is suspended, as those of the others do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseClient(Protocol):
    """What an elector needs of `kube.client.Client`. It should be one of its own, whose lanes nobody else fills."""

    async def get(self, resource: Resource, key: Key) -> Obj:
        """The object; raises NotFound."""
        ...

    async def create(self, resource: Resource, namespace: str, obj: Obj) -> Obj:
        """The object as created; raises AlreadyExists."""
        ...

    async def patch(self, resource: Resource, key: Key, body: Mapping[str, Any]) -> Obj:
        """The object after a merge patch; raises Conflict when metadata.resourceVersion of the body is not the present one."""
        ...


class Elector:
    """Takes part in the election for the Lease `key`, which gets `labels` and `owner` when it is made. All times are in seconds.

    `identity` is made unique for this process, since a restarted one must not take its predecessor's lease for its own.
    Raises ConfigError unless lease_duration > renew_deadline > retry_period (with jitter).
    """

    def __init__(
        self,
        client: LeaseClient,
        key: Key,
        *,
        identity: str,
        labels: Mapping[str, str] = MappingProxyType({}),
        owner: Obj | None = None,
        lease_duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
        clock: Callable[[], float] = seconds_since_boot,
        rng: random.Random | None = None,
    ) -> None:
        if not lease_duration > renew_deadline > retry_period * (1 + JITTER) > 0:
            raise ConfigError(
                f"leader election cannot work with a lease duration of {lease_duration:g} s, a renew deadline of {renew_deadline:g} s and "
                f"a retry period of {retry_period:g} s: the duration has to be longer than the deadline, and that longer than "
                f"{1 + JITTER:g} retry periods (usual are 15, 10 and 2)"
            )
        self.identity = f"{identity}_{uuid4()}"
        self.transitions = 0
        """How often the lease has changed hands, as far as known."""
        self._client = client
        self._key = key
        self._metadata: Obj = {"namespace": key.namespace, "name": key.name, "labels": dict(labels)}
        if owner is not None:
            self._metadata["ownerReferences"] = [owner]
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._attempt = max(retry_period, renew_deadline / 3)  # one try of getting or renewing may take this long
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 -- spreads requests, keeps no secret
        self._lease: Obj | None = None  # the newest known form; None when it has to be read again before writing
        self._spec: Obj | None = None  # as last seen, and since when:
        self._seen_at = -math.inf
        self._renewed_at = -math.inf  # when our last successful renewal was sent
        self._leading = False
        self._noted = ""

    @property
    def is_leader(self) -> bool:
        """Whether writing is allowed now. Goes by the clock: it is False in time even if this process was frozen."""
        return self._leading and self._clock() < self._renewed_at + self._renew_deadline

    def require_lead(self) -> None:
        """Raise NotLeading unless writing is allowed now."""
        if not self.is_leader:
            raise NotLeading("this replica does not lead any more, so it writes nothing")

    @property
    def other(self) -> str:
        """Who else held the lease when it was last looked at; "" for nobody."""
        holder = str((self._spec or {}).get("holderIdentity") or "")
        return "" if holder == self.identity else holder

    @property
    def leader(self) -> str:
        """Who leads, as far as is known; "" for nobody.

        That is so too when the lease as last seen ran out long enough ago to have been looked at again and taken: then it cannot be seen.
        """
        if self.is_leader:
            return self.identity
        return self.other if self._left() > -(self._attempt + LOOK) else ""

    @property
    def since(self) -> str:
        """When whoever holds the lease got it, as RFC 3339 by the holder's clock; "" for nobody or unknown. For people only."""
        spec = self._spec or {}
        return str(spec.get("acquireTime") or "") if spec.get("holderIdentity") else ""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead()` whenever this process is the leader; returns, or raises, when `lead` does.

        When leadership is lost `lead` is cancelled, and called again once it is regained. When this is cancelled, `lead`
        is cancelled and may take its time: the lease is renewed until it has ended, then released. SyncerError when `lead`
        has not ended by the time that another may start: then only the end of the process helps.
        """
        while True:
            await self._acquire()
            if await self._hold(lead):
                return

    async def _acquire(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._attempt):
                    held = await self._try()
            except (ApiError, *NETWORK_ERRORS) as error:
                self._note("leader.cannot_ask", error=str(error) or type(error).__name__)
            else:
                if held:
                    self._leading = True
                    return self._note("leader.acquired", transitions=self.transitions)
                self._note("leader.waiting", holder=self.other)
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        pause = min(self._retry_period, LOOK) * (1 + JITTER * self._rng.random())
        left = self._left() if self.other else 0.0
        return min(pause, max(left, TICK)) if left > 0 else pause

    def _left(self) -> float:
        """For how long the lease is valid still, as last seen."""
        promised = (self._spec or {}).get("leaseDurationSeconds") or self._lease_duration
        return self._seen_at + float(promised) - self._clock()

    async def _hold(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Lead until that ends by itself (True) or leadership is lost (False)."""
        work = asyncio.create_task(_as_coroutine(lead))
        renewal = asyncio.create_task(self._renew())
        try:
            while self.is_leader and not work.done() and not renewal.done():
                left = self._renewed_at + self._renew_deadline - self._clock()
                await asyncio.wait({work, renewal}, timeout=max(left, TICK), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end(work, renewal)
            if not work.cancelled() and work.exception():
                log.warning("leader.stopped_badly", lease=str(self._key), exc_info=work.exception())
            raise
        ended = work.done()
        if not ended:
            self._leading = False
            renewal.cancel()
            self._note("leader.lost", silent_for=round(self._clock() - self._renewed_at, 3))
        ending = asyncio.create_task(self._end(work, renewal))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending  # soon: nothing is renewed any more
            raise
        if not renewal.cancelled():
            renewal.result()
        if not work.cancelled():
            work.result()
        elif ended:
            raise RuntimeError("what leads was cancelled from inside")
        return ended

    async def _end(self, work: asyncio.Task[None], renewal: asyncio.Task[None]) -> None:
        """Stop leading; if that is in good order, give the lease up."""
        try:
            await self._stop(work)
        finally:
            renewal.cancel()
            await asyncio.wait({renewal})
            orderly = self._leading and work.done()
            self._leading = False
            if orderly:
                await self._release()

    async def _stop(self, work: asyncio.Task[None]) -> None:
        """Cancel it and wait for its end, at most until the lease runs out (which goes on being renewed in an orderly end).

        One that ran out while this process was stopped gets its time too: it can end its work, but not write.
        """
        work.cancel()
        at_least = self._clock() + self._lease_duration - self._renew_deadline
        while not work.done():
            left = max(self._renewed_at + self._lease_duration, at_least) - self._clock()
            if left <= 0:
                raise SyncerError(
                    f"lost the lease {self._key}, and what leads did not stop when told to; another process may be leading now, "
                    "so this one has to end at once"
                )
            await asyncio.wait({work}, timeout=max(left, TICK))

    async def _renew(self) -> None:
        """Until somebody else is seen to hold the lease, or it was not renewed in time."""
        began = self._renewed_at
        while True:
            await asyncio.sleep(max(0.0, began + self._retry_period - self._clock()))
            began = self._clock()
            if began >= self._renewed_at + self._renew_deadline:
                return  # it slept for too long
            try:
                async with asyncio.timeout(min(self._attempt, self._renewed_at + self._renew_deadline - began)):
                    if not await self._try():
                        return
                self._note("leader.renewed")
            except (ApiError, *NETWORK_ERRORS) as error:
                self._note("leader.cannot_renew", error=str(error) or type(error).__name__)

    async def _try(self) -> bool:
        """Get, keep or renew the lease, if it is free or ours. Whether it is ours now."""
        sent = self._clock()
        try:
            return await self._take(sent)
        except (AlreadyExists, Conflict, NotFound):
            return await self._take(sent)  # somebody was quicker, or only wrote a label on it: look again at once

    async def _take(self, sent: float) -> bool:
        lease, self._lease = self._lease, None  # whatever goes wrong below, it is to be read again
        if lease is None:
            try:
                lease = await self._client.get(LEASES, self._key)
            except NotFound:
                return await self._make(sent)
            self._see(lease)
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") != self.identity and (self._leading or (self.other and self._left() > 0)):
            return False
        body = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": self._claim(spec)}
        return self._won(await self._client.patch(LEASES, self._key, body), sent)

    async def _make(self, sent: float) -> bool:
        if self.other and self._left() > 0:
            return False  # it was deleted under its holder, who may not have noticed yet
        lease = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": self._metadata,
            "spec": self._claim(self._spec or {}),
        }
        return self._won(await self._client.create(LEASES, self._key.namespace, lease), sent)

    def _claim(self, spec: Obj) -> Obj:
        """The spec by which this process holds the lease."""
        now = _timestamp()
        ours = spec.get("holderIdentity") == self.identity
        transitions = spec.get("leaseTransitions") or 0
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._lease_duration),
            "acquireTime": spec.get("acquireTime") or now if ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if ours or not spec else transitions + 1,
        }

    def _won(self, lease: Obj, sent: float) -> bool:
        self._lease = lease
        self._renewed_at = sent
        self._see(lease)
        return True

    def _see(self, lease: Obj) -> None:
        spec = lease.get("spec") or {}
        if spec != self._spec:
            self._spec, self._seen_at = spec, self._clock()
        self.transitions = spec.get("leaseTransitions") or 0

    async def _release(self) -> None:
        """Give the lease up, so that nobody has to wait for it to run out."""
        try:
            async with asyncio.timeout(self._attempt):
                try:
                    await self._clear(self._lease or await self._client.get(LEASES, self._key))
                except Conflict:
                    await self._clear(await self._client.get(LEASES, self._key))
        except (ApiError, *NETWORK_ERRORS) as error:
            self._note("leader.not_released", error=str(error) or type(error).__name__)
        finally:
            self._lease = None

    async def _clear(self, lease: Obj) -> None:
        if (lease.get("spec") or {}).get("holderIdentity") != self.identity:
            return
        # No holder is null: newer API servers refuse "".
        spec = {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": _timestamp()}
        await self._client.patch(LEASES, self._key, {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec})
        self._note("leader.released")

    def _note(self, event: str, **values: object) -> None:
        """Log what changed; heartbeats and repetitions are no news."""
        said = f"{event} {values}"
        if said != self._noted and not (event == "leader.renewed" and not self._noted.startswith("leader.cannot_renew")):
            failing = event in ("leader.cannot_ask", "leader.cannot_renew", "leader.lost", "leader.not_released")
            (log.warning if failing else log.info)(event, lease=str(self._key), **values)
        self._noted = said


async def _as_coroutine(function: Callable[[], Awaitable[None]]) -> None:
    await function()


def _timestamp() -> str:
    """As metav1.MicroTime. For people only: nobody may compare it with a clock of another machine."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

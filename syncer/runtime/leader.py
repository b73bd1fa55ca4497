"""Leader election on a Lease: at most one process leads at any time.

The rules are client-go's. A lease is not judged by the times written in it, which come from other machines' clocks: a
candidate takes over when it has itself seen the lease unchanged for the duration that its holder promised. The holder
counts from before it sent its last successful renewal, and stops after `renew_deadline`, which is shorter. So it has
stopped before anybody else can start, whatever the clocks say, and however long an answer takes or fails to come:

    holder      │◀─ renewal sent                    lead is cancelled ─▶│
                │────────────────── renew_deadline ───────────────────▶│    time to stop    │
    candidate      │◀─ sees the renewal                                         takes over ─▶│
                   │───────────────────────── lease_duration ────────────────────────────────▶│

What this cannot prevent: a request that was sent while leading may take effect later. Writes have preconditions for that.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, ConfigError, NotFound, SyncerError
from syncer.kube.types import LEASES, Key, Obj, Resource

log = structlog.get_logger("syncer.runtime")

JITTER = 0.2
"""Share by which the pauses of candidates differ, so that they do not all ask at once."""

TICK = 0.001
"""Timers may fire a little early; waiting no less than this for the rest keeps the loop from spinning."""


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
    """Takes part in the election for the Lease `namespace`/`name`. All times are in seconds.

    `identity` is made unique for this process, since a restarted one must not take its predecessor's lease for its own.
    Raises ConfigError unless lease_duration > renew_deadline > retry_period (with jitter).
    """

    def __init__(
        self,
        client: LeaseClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
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
        self._key = Key(namespace, name)
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._attempt = max(retry_period, renew_deadline / 3)  # one try of getting or renewing may take this long
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
        return self._leading and _now() < self._renewed_at + self._renew_deadline

    @property
    def other(self) -> str:
        """Who else held the lease when it was last looked at; "" for nobody."""
        holder = str((self._spec or {}).get("holderIdentity") or "")
        return "" if holder == self.identity else holder

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
                self._note("leader.waiting", holder=(self._spec or {}).get("holderIdentity"))
            await asyncio.sleep(self._retry_period * (1 + JITTER * self._rng.random()))

    async def _hold(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Lead until that ends by itself (True) or leadership is lost (False)."""
        work = asyncio.create_task(_as_coroutine(lead))
        renewal = asyncio.create_task(self._renew())
        try:
            while self.is_leader and not work.done() and not renewal.done():
                left = self._renewed_at + self._renew_deadline - _now()
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
            self._note("leader.lost", silent_for=round(_now() - self._renewed_at, 3))
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
        """Cancel it and wait for its end, at most until the lease runs out (which goes on being renewed in an orderly end)."""
        work.cancel()
        while not work.done():
            left = self._renewed_at + self._lease_duration - _now()
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
            await asyncio.sleep(max(0.0, began + self._retry_period - _now()))
            began = _now()
            try:
                async with asyncio.timeout_at(min(began + self._attempt, self._renewed_at + self._renew_deadline)):
                    if not await self._try():
                        return
                self._note("leader.renewed")
            except (ApiError, *NETWORK_ERRORS) as error:
                self._note("leader.cannot_renew", error=str(error) or type(error).__name__)
            if _now() >= self._renewed_at + self._renew_deadline:
                return

    async def _try(self) -> bool:
        """Get, keep or renew the lease, if it is free or ours. Whether it is ours now."""
        sent = _now()
        lease, self._lease = self._lease, None  # whatever goes wrong below, it is to be read again
        if lease is None:
            try:
                lease = await self._client.get(LEASES, self._key)
            except NotFound:
                fresh = {
                    "apiVersion": LEASES.api_version,
                    "kind": LEASES.kind,
                    "metadata": {"namespace": self._key.namespace, "name": self._key.name},
                    "spec": self._claim({}),
                }
                return self._won(await self._client.create(LEASES, self._key.namespace, fresh), sent)
            self._see(lease)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        promised = spec.get("leaseDurationSeconds") or self._lease_duration
        if holder and holder != self.identity and _now() < self._seen_at + promised:
            return False
        body = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": self._claim(spec)}
        return self._won(await self._client.patch(LEASES, self._key, body), sent)

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
            self._spec, self._seen_at = spec, _now()
        self.transitions = spec.get("leaseTransitions") or 0

    async def _release(self) -> None:
        """Give the lease up, so that nobody has to wait for it to run out."""
        try:
            async with asyncio.timeout(self._attempt):
                lease = self._lease or await self._client.get(LEASES, self._key)
                if (lease.get("spec") or {}).get("holderIdentity") != self.identity:
                    return
                # No holder is null: newer API servers refuse "".
                spec = {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": _timestamp()}
                await self._client.patch(
                    LEASES, self._key, {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
                )
        except (ApiError, *NETWORK_ERRORS) as error:
            self._note("leader.not_released", error=str(error) or type(error).__name__)
        else:
            self._note("leader.released")
        finally:
            self._lease = None

    def _note(self, event: str, **values: object) -> None:
        """Log what changed; heartbeats and repetitions are no news."""
        said = f"{event} {values}"
        if said != self._noted and not (event == "leader.renewed" and not self._noted.startswith("leader.cannot_renew")):
            failing = event in ("leader.cannot_ask", "leader.cannot_renew", "leader.lost", "leader.not_released")
            (log.warning if failing else log.info)(event, lease=str(self._key), **values)
        self._noted = said


async def _as_coroutine(function: Callable[[], Awaitable[None]]) -> None:
    await function()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _timestamp() -> str:
    """As metav1.MicroTime. For people only: nobody may compare it with a clock of another machine."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

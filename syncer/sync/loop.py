"""One loop over the pairs of one resource: queue, decide, execute, remember how it went."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, FenceClosed, Held, NotFound, Refused, Stale, Throttled
from syncer.kube.limits import LONGEST_PAUSE
from syncer.kube.types import Key, Ref, Side, uid_of
from syncer.runtime.workers import Workers
from syncer.runtime.workqueue import Priority, WorkQueue
from syncer.sync.complaints import Complaints
from syncer.sync.executor import Subject
from syncer.sync.guard import Orphans
from syncer.sync.intents import Delete, Pair, Wait
from syncer.sync.ledger import Ledger, State, Write
from syncer.translate.metadata import recorded_uid

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping

    from syncer.kube.client import Client
    from syncer.sync.caches import Caches
    from syncer.sync.executor import Executor
    from syncer.sync.spec import SyncSpec
    from syncer.sync.view import View

log = structlog.get_logger("syncer.sync")

_LOOK_AGAIN = 60.0
"""Seconds after which a pair that is held is decided again if nobody wakes it (`Loop.add_held`): there may be thousands."""
_NORMAL_WORKERS = 4
"""Workers for what the tenant does, so that it goes on while all others wait for a status to be taken."""
_STALE_QUIET_TRIES = 5
"""After how many tries a cache that is merely behind, which is ordinary, becomes a row: it is not catching up."""
_SHORTEST_WAIT = 0.001
"""Seconds; else a wait that is over but for a rounding of the clock would be decided again at the same instant, for ever."""
_ORPHAN_COUNT_FRESH = 5.0


class Observer(Protocol):
    """Where a loop reports; the daemon's metrics, in tests whatever is of interest."""

    def reconciled(self, resource: str, outcome: str, seconds: float) -> None:
        """One reconcile ended so, after that time."""
        ...

    def synced_after(self, resource: str, seconds: float) -> None:
        """A pair is in sync that long after a change to it was first seen."""
        ...


class Loop:
    """Brings every pair of `spec` in sync, again and again.

    `clock` is monotonic seconds, `wall` epoch seconds. `subscribe(refs, loop, key)` has a key decided at the next change of any of
    these, `unsubscribe` no longer.
    """

    def __init__(
        self,
        spec: SyncSpec,
        *,
        caches: Caches,
        clients: Mapping[Side, Client],
        executor: Executor,
        ledger: Ledger,
        observer: Observer,
        clock: Callable[[], float],
        wall: Callable[[], float],
        subscribe: Callable[[Iterable[Ref], Loop, Key], None],
        unsubscribe: Callable[[Iterable[Ref], Loop, Key], None],
    ) -> None:
        self.spec = spec
        self.places = [(watch.side, watch.resource) for watch in spec.watches]
        self.queue: WorkQueue[Key] = WorkQueue(group=lambda key: key.namespace)
        self.workers = Workers(self.queue, self._reconcile, normal=_NORMAL_WORKERS, on_error=self._bug)
        self._caches = caches
        self._clients = clients
        self._executor = executor
        self._ledger = ledger
        self._observer = observer
        self._clock = clock
        self._wall = wall
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._complaints = Complaints(spec, caches, executor, visit=self.queue.add_after, quiet=self._quieten, clock=clock, wall=wall)
        self._changed_at: dict[Key, float] = {}
        self._waiting: dict[Key, tuple[float, frozenset[Ref]]] = {}
        self._quiet: Key | None = None
        self._counting = asyncio.Lock()
        self._orphans: dict[Side, tuple[float, Orphans]] = {}

    def add(self, key: Key, priority: Priority) -> None:
        """Have a pair decided; a change to it was seen now."""
        if key == self._quiet:
            return
        self._complaints.changed(key)
        if priority is not Priority.LOW:
            self._changed_at.setdefault(key, self._clock())
        self.queue.add(key, priority)

    def scan(self) -> None:
        """Queue every pair of both caches, behind everything else."""
        for key in self._all_keys():
            self.queue.add(key, Priority.LOW)

    def has(self, *states: State) -> bool:
        """Whether a pair stands there."""
        return any(self._ledger.keys(self.spec.name, state) for state in states)

    def behind(self) -> float:
        """Seconds since the first change that has not got through, though nobody waits for, refuses or holds it; 0.0 if there is none."""
        stands = (State.WAITING, State.REFUSED, State.HELD)
        excused = {key for state in stands for key in self._ledger.keys(self.spec.name, state)}
        first = min((at for key, at in self._changed_at.items() if key not in excused), default=None)
        return 0.0 if first is None else self._clock() - first

    def refusals(self) -> Counter[str]:
        """How many pairs are refused, by cause."""
        return self._complaints.causes()

    def add_held(self) -> None:
        """Have what is held decided again: a person, or time, has changed what holds it."""
        for key in self._ledger.keys(self.spec.name, State.HELD):
            self.queue.add(key, Priority.LOW)

    async def run(self) -> None:
        """Work once all caches of the loop have listed completely, until cancelled."""
        await self._caches.wait_synced(self.places)
        await self.workers.run()

    def pair(self, key: Key, view: View) -> Pair:
        """The pair as the caches have it; a host object that is not provably ours is none."""
        virtual = host = None
        if (ref := self.spec.virtual_ref(key)) is not None:
            virtual = view.get(*ref)
        if (ref := self.spec.host_ref(view.names, key)) is not None:
            host = view.get(*ref)
            if host is not None and self.spec.virtual_key(host, view) != key:
                host = None
        waiting = self._waiting.get(key)
        return Pair(key, virtual, host, 0.0 if waiting is None else self._clock() - waiting[0])

    def _pair_now(self, key: Key) -> Pair:
        return self.pair(key, self._caches.view())

    def _quieten(self, key: Key, on: bool) -> None:
        self._quiet = key if on else None

    async def _reconcile(self, key: Key) -> None:
        started = self._clock()
        outcome = await self._sorted_round(key)
        self._observer.reconciled(self.spec.name, outcome, self._clock() - started)
        if outcome == "synced" and (changed := self._changed_at.pop(key, None)) is not None:
            self._observer.synced_after(self.spec.name, self._clock() - changed)

    async def _sorted_round(self, key: Key) -> str:
        """One round; every expected failure ends in the queue and the ledger. Returns the outcome's name."""
        try:
            if await self._complaints.is_pending(key, partial(self._pair_now, key)):
                return "pending"
            return await self._round(key)
        except Stale as error:
            tries = self.queue.failures(key)
            delay = self.queue.retry(key)
            log.debug("pair.stale", resource=self.spec.name, key=str(key), reason=str(error))
            if tries >= _STALE_QUIET_TRIES:
                self._put(key, State.RETRYING, str(error), delay)
            return "stale"
        except Refused as error:
            self.queue.forget(key)
            again = await self._complaints.refused(key, error, partial(self._pair_now, key))
            self._put(key, State.REFUSED, error.internal, again, cause=error.reason)
            return "refused"
        except Held as error:
            self._put(key, State.HELD, str(error), _LOOK_AGAIN)
            self.queue.add_after(key, _LOOK_AGAIN)
            return "held"
        except FenceClosed as error:
            self._put(key, State.HELD, str(error), _LOOK_AGAIN)
            self.queue.add_after(key, _LOOK_AGAIN)
            return "fenced"
        except Throttled as error:
            delay = self.queue.retry(key, at_least=min(error.retry_after or 0.0, LONGEST_PAUSE))
            self._put(key, State.RETRYING, str(error), delay)
            return "throttled"
        except (ApiError, *NETWORK_ERRORS) as error:
            delay = self.queue.retry(key)
            if self._put(key, State.RETRYING, str(error) or type(error).__name__, delay):
                log.warning("pair.retrying", resource=self.spec.name, key=str(key), error=str(error), again_in=round(delay, 1))
            return "retried"

    async def _round(self, key: Key) -> str:
        await self._hydrate(key)
        view = self._caches.view()
        pair = self.pair(key, view)
        intents = self.spec.decide(pair, view)
        subject = Subject(
            self.spec, key, self._count_orphans, partial(self._quieten, key), partial(self._ledger.drifted, self.spec.name, key)
        )
        outcome = await self._executor.carry_out(subject, intents)
        self.queue.forget(key)
        if outcome.waits:
            self._wait(key, outcome.waits)  # before anything else is awaited, or what it waits for could come unheard
        await self._complaints.accepted(key, pair, written=bool(outcome.writes), settled=not outcome.waits)
        if outcome.again is not None:
            self.queue.add_after(key, outcome.again)
        if outcome.waits:
            return "waiting"
        self._wait_no_more(key)
        row = self._ledger.clear(self.spec.name, key)
        if row is not None and row.state is not State.WAITING:
            log.info("pair.recovered", resource=self.spec.name, key=str(key), state=row.state, after=round(self._wall() - row.since, 1))
        if outcome.writes:
            now, seen = self._clock(), self._changed_at.get(key)
            self._ledger.wrote(self.spec.name, key, Write(self._wall(), None if seen is None else now - seen))
        if pair.virtual is None:
            self._ledger.forget(self.spec.name, key)
        if outcome.writes:
            log.debug("pair.synced", resource=self.spec.name, key=str(key), writes=outcome.writes)
        return "synced"

    async def _hydrate(self, key: Key) -> None:
        """Fetch, or let go of, the full form of a virtual object of which only metadata is watched."""
        if self.spec.hydrate is None or (ref := self.spec.virtual_ref(key)) is None:
            return
        store = self._caches.stores[ref.side, ref.resource]
        if (record := store.record(ref.key)) is None:
            return
        if not self.spec.hydrate(key, self._caches.view()):
            if not record.partial:
                store.demote(ref.key)
            return
        if record.partial:
            try:
                full = await self._clients[ref.side].get(ref.resource, ref.key)
            except NotFound as error:
                raise Stale(str(error)) from None
            store.apply(full)
            if (now := store.record(ref.key)) is None or now.partial:
                # A change overtook the answer. Deciding on bare metadata would take the object for an empty one.
                raise Stale(f"{ref.side} {ref.resource} {ref.key} changed while it was fetched")

    def _wait(self, key: Key, waits: list[Wait]) -> None:
        now = self._clock()
        since, before = self._waiting.get(key, (now, frozenset()))
        refs = frozenset(ref for wait in waits for ref in wait.on)
        self._unsubscribe(before - refs, self, key)
        self._waiting[key] = since, refs
        limits = [wait.at_most for wait in waits if wait.at_most is not None]
        again = max(_SHORTEST_WAIT, min(limits) - (now - since)) if limits else None
        if again is not None:
            self.queue.add_after(key, again)
        self._subscribe(refs, self, key)
        self._put(key, State.WAITING, "; ".join(wait.reason for wait in waits), again)

    def _wait_no_more(self, key: Key) -> None:
        if (waiting := self._waiting.pop(key, None)) is not None:
            self._unsubscribe(waiting[1], self, key)

    def _put(self, key: Key, state: State, reason: str, delay: float | None, *, cause: str = "") -> bool:
        now = self._wall()
        return self._ledger.put(self.spec.name, key, state, reason, cause=cause, now=now, next_try=None if delay is None else now + delay)

    def _bug(self, key: Key, error: BaseException) -> None:
        """What no rule expects is a bug: say all about it, and keep the other pairs going."""
        delay = self.queue.retry(key)
        log.error("pair.bug", resource=self.spec.name, key=str(key), exc_info=error, again_in=round(delay, 1))
        self._put(key, State.RETRYING, f"internal error: {type(error).__name__}: {error}", delay)
        self._observer.reconciled(self.spec.name, "error", 0.0)

    def _all_keys(self) -> set[Key]:
        keys: set[Key] = set()
        view = self._caches.view()
        if (ref := self.spec.virtual_ref(Key("", ""))) is not None:
            keys.update(self._caches.stores[ref.side, ref.resource].keys())
        if (ref := self.spec.host_ref(view.names, Key("", ""))) is not None:
            for host_key in self._caches.stores[ref.side, ref.resource].keys():  # noqa: SIM118  a Store is no dict
                if (host := view.get(ref.side, ref.resource, host_key)) and (key := self.spec.virtual_key(host, view)):
                    keys.add(key)
        return keys

    async def _count_orphans(self, side: Side) -> Orphans:
        """How many pairs would lose their object on `side` only because the other one is absent, of all that have one there."""
        async with self._counting:  # a burst of deletions asks all at once, and one count answers them all
            counted = self._orphans.get(side)
            if counted is None or self._clock() - counted[0] >= _ORPHAN_COUNT_FRESH:
                counted = self._orphans[side] = (self._clock(), await self._count(side))
        return counted[1]

    async def _count(self, side: Side) -> Orphans:
        count = total = 0
        for number, key in enumerate(self._all_keys()):
            if number % 100 == 99:
                await asyncio.sleep(0)
            view = self._caches.view()
            pair = self.pair(key, view)
            if (pair.host if side is Side.HOST else pair.virtual) is None:
                continue
            total += 1
            if pair.virtual is not None and pair.host is not None and recorded_uid(pair.host) == uid_of(pair.virtual):
                continue  # both are there, and belong together
            if any(isinstance(intent, Delete) and intent.unexplained and intent.side is side for intent in self.spec.decide(pair, view)):
                count += 1
        return Orphans(count, total)

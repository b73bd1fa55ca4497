"""What the tenant hears of refusals: a condition, one event on the object and one on its controller, and a last one when all is well.

Nothing is told of a refusal that passes within `TELL_AFTER`: plugins of a starting cluster refuse for moments, and a quota has
room again a moment after a pod went. Once a cause has lasted that long, whatever it strikes next is told at once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, FenceClosed, Refused, Stale
from syncer.kube.types import Obj, is_deleting, uid_of
from syncer.sync.probes import Probes
from syncer.sync.refusals import condition_patch, is_marked, missing_right

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from syncer.kube.types import Key
    from syncer.sync.caches import Caches
    from syncer.sync.executor import Executor
    from syncer.sync.intents import Pair
    from syncer.sync.probes import Parked
    from syncer.sync.spec import SyncSpec

log = structlog.get_logger("syncer.sync")

TELL_AFTER = 1.0
"""Seconds for which a cause has to last before anybody is told."""


class Complaints:
    """The refused pairs of one loop, when they are tried again, and what is told of them.

    `visit(key, delay)` has the loop take a key up in so many seconds, `quiet(key, on)` has it ignore changes of that key for a moment;
    `clock` is monotonic seconds, `wall` epoch seconds.
    """

    def __init__(
        self,
        spec: SyncSpec,
        caches: Caches,
        executor: Executor,
        *,
        visit: Callable[[Key, float], None],
        quiet: Callable[[Key, bool], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._caches = caches
        self._executor = executor
        self._visit = visit
        self._quiet = quiet
        self._wall = wall
        self._marks = spec.name == spec.kind.plural
        """Whether the condition is this loop's: others may look after one aspect of the same type."""
        self._probes = Probes(visit, clock)

    def changed(self, key: Key) -> None:
        """Something about the pair changed, and that may be what helps."""
        self._probes.wake(key)

    def causes(self) -> Counter[str]:
        """How many pairs are refused, by cause."""
        return self._probes.causes()

    async def is_pending(self, key: Key, pair: Callable[[], Pair]) -> bool:
        """Whether this visit is no try, since the pair is refused and it is not its turn; then whoever has to be told is told."""
        parked = self._probes.get(key)
        if parked is None or parked.due or parked.refused.again is None:
            return False
        await self._tell(key, parked, pair)
        return True

    async def refused(self, key: Key, error: Refused, pair: Callable[[], Pair]) -> float | None:
        """A try was refused. Returns the seconds within which there is another, None for after a change."""
        parked = self._probes.refuse(key, error)
        await self._tell(key, parked, pair)
        return self._probes.expected(key)

    async def accepted(self, key: Key, pair: Pair, *, written: bool, settled: bool) -> None:
        """A round went through, with or without writes, and the pair is in sync (`settled`) or waits for something."""
        virtual = pair.virtual
        parked = self._probes.accept(key, written=written)
        if virtual is None or is_deleting(virtual):
            return
        told = parked is not None and parked.told is not None and parked.told[0] == uid_of(virtual)
        if self._marks and is_marked(virtual, pair.host):
            told = True
            await self._mark(key, self._virtual(key), pair.host, wanted=None)
        if told and settled and (ref := self._spec.virtual_ref(key)) is not None:
            self._executor.tell(ref, "Synced", "it is in sync now")

    async def _tell(self, key: Key, parked: Parked, pair: Callable[[], Pair]) -> None:
        ref, error = self._spec.virtual_ref(key), parked.refused
        now = pair()
        if ref is None or now.virtual is None:
            return
        what = (uid_of(now.virtual), error.reason)
        if parked.told == what:
            return
        if (rest := TELL_AFTER - self._probes.lasts(key)) > 0:
            self._visit(key, rest)
            return
        seconds = self._probes.expected(key)
        when = "when it changes" if seconds is None else f"within {max(seconds, 1.0):.0f} s, and when it changes"
        message = f"{error}; tried again {when}"
        if not await self._mark(key, now.virtual, now.host, wanted=Refused(error.reason, message)):
            return  # nor would the event get there; the next visit tells
        parked.told = what
        self._log(key, error)
        kind, name = ref.resource.kind, ref.key.name
        self._executor.warn(ref, error.reason, message, topic=error.reason, for_controller=f"{kind} {name}: {message}")

    async def _mark(self, key: Key, virtual: Obj | None, host: Obj | None, *, wanted: Refused | None) -> bool:
        """Whether the condition is as wanted, or never will be; False when the API server could not be asked just now."""
        if virtual is None or not self._marks:
            return True
        timestamp = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        patch = condition_patch(self._spec.kind, virtual, host, wanted, timestamp)
        if patch is None:
            return True
        try:
            await self._executor.mark(patch, lambda on: self._quiet(key, on))
        except (ApiError, FenceClosed, Stale, *NETWORK_ERRORS) as error:
            log.debug("condition.not_written", resource=self._spec.name, key=str(key), error=str(error))
            return isinstance(error, ApiError) and error.status < 500 and error.status not in (409, 429)
        return True

    def _virtual(self, key: Key) -> Obj | None:
        ref = self._spec.virtual_ref(key)
        return None if ref is None else self._caches.view().get(*ref)

    def _log(self, key: Key, error: Refused) -> None:
        """The operator reads of each cause once, in full."""
        if not self._probes.is_news(key):
            log.debug("host.refused", resource=self._spec.name, key=str(key), reason=error.reason, message=error.internal)
            return
        log.warning("host.refused", resource=self._spec.name, key=str(key), reason=error.reason, message=error.internal)
        if (right := missing_right(error.internal)) is not None:
            log.error(
                "right.missing", verb=right[0], resource=right[1], remedy="grant it in the Role of the syncer's service account, or restart"
            )

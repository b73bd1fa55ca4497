"""Holds bursts of deletions that nothing explains, until a person releases them.

A deletion is *explained* when somebody was seen to ask for it: the counterpart carries a deletionTimestamp, or a watch
reported it DELETED. It is *unexplained* when the counterpart is merely absent, as after a restart or a relist. A few
of those are ordinary (something was deleted while nobody looked); many at once look like a control plane that lost
its data, or like a cache that lies, and then not one of them is carried out. Of what is irreplaceable even one is held:
a control plane restored from yesterday's backup lacks the few objects of today.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

log = structlog.get_logger("syncer.sync")

_REMEMBERED = 50_000
"""How many seen deletions are kept, oldest dropped first: forgetting one only makes a deletion unexplained, which is the safe side."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """How many objects of a loop lack their counterpart, of how many managed ones in all."""

    count: int
    total: int


class Guard:
    """Agrees to deletions or holds them.

    `limit_count` and `limit_fraction`: a burst is held when it is larger than both `limit_count` objects and
    `limit_fraction` of the managed ones. `verify` is awaited before any unexplained deletion and raises when the
    virtual control plane is not the one it should be. `wall` tells epoch seconds; `announce(reason, message)` puts an
    event where the platform engineer sees it. `told` is the release that was written before, for holds that are not ours.
    """

    def __init__(
        self,
        *,
        limit_count: int,
        limit_fraction: float,
        verify: Callable[[], Awaitable[None]],
        wall: Callable[[], float],
        announce: Callable[[str, str], None],
        told: float | None,
    ) -> None:
        self._limit_count = limit_count
        self._limit_fraction = limit_fraction
        self._verify = verify
        self._wall = wall
        self._announce = announce
        self._seen: OrderedDict[object, None] = OrderedDict()
        self._told = told
        self._released_at = 0.0
        self._held_since: dict[str, float] = {}
        self._held_count: dict[str, int] = {}

    def saw_deleted(self, *facts: object) -> None:
        """A watch reported an object deleted; `facts` are what it may be asked for by later: its UID, its Ref."""
        for fact in facts:
            self._seen[fact] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)

    def forget(self, fact: object) -> None:
        """An object of that Ref exists again."""
        self._seen.pop(fact, None)

    def release(self, at: float) -> None:
        """A person let every hold go that began before `at` (epoch seconds); repeating the last release does nothing.

        Whoever wrote it has another clock: should that be ahead, the release ends now, as nobody has agreed to what is held later.
        """
        if at == self._told:
            return
        self._told = at
        waiting = self.held()
        self._released_at = max(self._released_at, min(at, self._wall()))
        still = self.held()
        for resource, count in waiting.items():
            if resource not in still:
                log.warning("deletions.released", resource=resource, count=count)
            else:
                remedy = "run `syncer release-deletions`; if that was done, its time comes from a clock that is behind"
                log.warning(
                    "deletions.not_released", resource=resource, count=count, released=at, held=self.held_since(resource), remedy=remedy
                )

    async def permit(
        self, resource: str, counterpart: Iterable[object], orphans: Callable[[], Awaitable[Orphans]], *, irreplaceable: bool = False
    ) -> str | None:
        """None when an unexplained deletion may go ahead, else the reason why it is held.

        `counterpart` is what is known of the missing one (see `saw_deleted`); `orphans` counts, and is only called when needed.
        Of an `irreplaceable` resource no number is small enough.
        Raises what `verify` raises (FenceClosed, or a network error): then the deletion must not happen either.
        """
        if any(fact in self._seen for fact in counterpart):
            return None
        await self._verify()
        found = await orphans()
        if not irreplaceable and found.count <= max(self._limit_count, self._limit_fraction * found.total):
            self.end(resource)
            return None
        since = self._held_since.get(resource)
        if since is not None and self._released_at >= since:
            return None
        count = max(found.count, 1)  # it may have been counted before this one was missing
        message = (
            f"{count} of {found.total} {resource} would be deleted because their counterparts are missing, "
            "and nobody was seen deleting those; compare both sides, and run `syncer release-deletions` if that is right"
        )
        if since is None:
            self._held_since[resource] = self._wall()
            log.error("deletions.held", resource=resource, count=count, total=found.total, message=message)
            self._announce("DeletionsHeld", message)
        self._held_count[resource] = count
        return message

    def holding(self) -> list[str]:
        """Names of the resources of which a burst is held or, released, under way."""
        return list(self._held_since)

    def held(self) -> dict[str, int]:
        """How many deletions are held now, by resource name."""
        return {name: count for name, count in self._held_count.items() if self._held_since[name] > self._released_at}

    def held_since(self, resource: str) -> float:
        """When the hold of one that `held` names began, in epoch seconds."""
        return self._held_since[resource]

    def end(self, resource: str) -> None:
        """No deletion of that resource waits any longer: the next burst is one of its own, and needs a release of its own."""
        if self._held_since.pop(resource, None) is not None:
            self._held_count.pop(resource, None)
            log.info("deletions.hold_ended", resource=resource)

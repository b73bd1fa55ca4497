"""When refused pairs are tried again: together by cause, so that hundreds of them cost no more than a few.

Of each group of pairs that were refused for the same cause one at a time is the *prober*, tried after a delay that grows to the
group's pace; then it is the next one's turn. When one gets through, two more are tried at once, and two more for each of these
that gets through: room for hundreds is found within a few round trips, at no more than two wasted tries each. A pair
that changed is tried at once, whatever its group does.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncer.errors import Refused
    from syncer.kube.types import Key

_QUICKEST = 0.05
"""Seconds before the first try after a group's first refusal: admission plugins of a starting cluster refuse for moments."""
_ESTABLISHED = 4
"""To how many failures a success takes a group back, so that it is not probed as quickly as a new one (`_QUICKEST`, doubled each time)."""
_EVERYBODY_WITHIN = 300.0
"""Seconds within which every member has had its turn, however many there are."""
_APART = 0.1
"""Seconds between two probes of all groups together."""
_WOKEN = 2


@dataclass(slots=True)
class Parked:
    """One refused pair. `due` tells that its next visit is a try, `told` of which UID the tenant was told which reason."""

    refused: Refused
    due: bool = False
    told: tuple[str, str] | None = None


@dataclass(slots=True)
class _Group:
    members: OrderedDict[Key, None] = field(default_factory=OrderedDict)
    prober: Key | None = None
    failures: int = 0
    again: float | None = None
    since: float = 0.0
    announced: bool = False


class Probes:
    """The refused pairs of one loop. `visit(key, delay)` has the loop take up a key in so many seconds; `clock` is monotonic."""

    def __init__(self, visit: Callable[[Key, float], None], clock: Callable[[], float]) -> None:
        self._visit = visit
        self._clock = clock
        self._parked: dict[Key, Parked] = {}
        self._groups: dict[str, _Group] = {}

    def get(self, key: Key) -> Parked | None:
        """The pair if it is refused."""
        return self._parked.get(key)

    def wake(self, key: Key) -> None:
        """Something about the pair changed: its next visit is a try."""
        if (parked := self._parked.get(key)) is not None:
            parked.due = True

    def refuse(self, key: Key, refused: Refused) -> Parked:
        """The pair was tried and refused."""
        parked = self._parked.get(key)
        if parked is None:
            parked = self._parked[key] = Parked(refused)
        elif parked.refused.group != refused.group:
            self._leave(key, parked.refused.group)
        parked.refused, parked.due = refused, False
        group = self._groups.setdefault(refused.group, _Group(since=self._clock()))
        group.again = refused.again
        group.members[key] = None
        group.members.move_to_end(key)
        if group.prober in (None, key):
            group.prober = None
            group.failures += 1
            self._probe(group)
        return parked

    def accept(self, key: Key, *, written: bool) -> Parked | None:
        """The pair is refused no longer; `written` tells that it got through. Returns it as it was, None when it was not refused."""
        parked = self._parked.pop(key, None)
        if parked is None:
            return None
        name = parked.refused.group
        self._leave(key, name)
        if written and (group := self._groups.get(name)) is not None:
            group.failures = min(group.failures, _ESTABLISHED)
            self._wake_some(group)
        return parked

    def expected(self, key: Key) -> float | None:
        """Seconds within which the pair is tried again, None when only a change has it tried."""
        group = self._groups[self._parked[key].refused.group]
        pace = self._pace(group)
        return None if pace is None else pace * len(group.members)

    def lasts(self, key: Key) -> float:
        """For how many seconds somebody has been refused for the pair's cause."""
        return self._clock() - self._groups[self._parked[key].refused.group].since

    def is_news(self, key: Key) -> bool:
        """Whether nobody has asked this yet since the pair's cause came up."""
        group = self._groups[self._parked[key].refused.group]
        announced, group.announced = group.announced, True
        return not announced

    def causes(self) -> Counter[str]:
        """How many pairs are refused, by cause."""
        return Counter(parked.refused.reason for parked in self._parked.values())

    def _leave(self, key: Key, name: str) -> None:
        group = self._groups[name]
        del group.members[key]
        if not group.members:
            del self._groups[name]
        elif group.prober == key:
            group.prober = None
            self._probe(group)

    def _probe(self, group: _Group) -> None:
        """Choose the next prober, for after the group's delay."""
        pace = self._pace(group)
        if pace is None:
            return
        group.prober = next(iter(group.members))
        group.members.move_to_end(group.prober)
        self._parked[group.prober].due = True
        self._visit(group.prober, min(pace, _QUICKEST * 2.0 ** min(group.failures - 1, 60)))

    def _wake_some(self, group: _Group) -> None:
        if group.prober is not None:
            self._visit(group.prober, 0.0)
        for _ in range(min(_WOKEN, len(group.members))):
            key = next(iter(group.members))
            group.members.move_to_end(key)  # so those in front have waited longest, and are not about to be tried anyway
            self._parked[key].due = True
            self._visit(key, 0.0)

    def _pace(self, group: _Group) -> float | None:
        """Seconds between two probes of the group; None when trying cannot help."""
        if group.again is None:
            return None
        return max(min(group.again, _EVERYBODY_WITHIN / len(group.members)), _APART * len(self._groups))

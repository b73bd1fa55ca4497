"""What the syncer knows of every pair that is not simply in sync. Commands, metrics, events and the status page read this one ledger."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncer.kube.types import Key
    from syncer.sync.contests import Drift

_WRITES_REMEMBERED = 10_000


class State(StrEnum):
    """Where a pair stands. A pair without a row is in sync."""

    WAITING = "waiting"
    """Something that it depends on is not there yet; it goes on by itself."""
    RETRYING = "retrying"
    """The last attempt failed in a way that passes: network, conflict, overload."""
    REFUSED = "refused"
    """An API server, or the decision itself, said no; somebody has to change something."""
    HELD = "held"
    """A deletion that the virtual side does not explain waits for a person."""


@dataclass(slots=True)
class Row:
    """One pair that is not in sync. `since` and `next_try` are epoch seconds; `next_try` None means: when something changes.

    `cause` is the one word for why it was refused. `reason` is for operators: it may name what the tenant is not told.
    """

    state: State
    reason: str
    since: float
    next_try: float | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """The last write to a pair: when (epoch seconds), and how long after its cause was seen; `lag` is None where nobody was waiting."""

    at: float
    lag: float | None


class Ledger:
    """Rows by resource name and virtual key. Of pairs in sync it knows the last write, if that is among the latest, and what drifts."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Key], Row] = {}
        self._writes: OrderedDict[tuple[str, Key], Write] = OrderedDict()
        self._latest: dict[str, Write] = {}
        self._drifts: dict[tuple[str, Key], frozenset[Drift]] = {}

    def put(
        self, resource: str, key: Key, state: State, reason: str, *, now: float, next_try: float | None = None, cause: str = ""
    ) -> bool:
        """Record where a pair stands; True when the state or its reason is new. `since` is kept while the state stays the same."""
        row = self._rows.get((resource, key))
        if row is None or row.state != state:
            self._rows[resource, key] = Row(state, reason, now, next_try, cause)
            return True
        fresh = row.reason != reason
        row.reason, row.next_try, row.cause = reason, next_try, cause
        return fresh

    def clear(self, resource: str, key: Key) -> Row | None:
        """The pair is in sync; returns the row it had."""
        return self._rows.pop((resource, key), None)

    def keys(self, resource: str, state: State) -> list[Key]:
        """The pairs of a resource that stand there."""
        return [key for (name, key), row in self._rows.items() if name == resource and row.state is state]

    def rows(self) -> Iterator[tuple[str, Key, Row]]:
        """Every row."""
        for (resource, key), row in self._rows.items():
            yield resource, key, row

    def counts(self) -> Counter[tuple[str, State]]:
        """How many pairs stand where, by resource name and state."""
        return Counter((resource, row.state) for (resource, _), row in self._rows.items())

    def wrote(self, resource: str, key: Key, write: Write) -> None:
        """Something of the pair was written; the oldest such notes are dropped."""
        self._latest[resource] = self._writes[resource, key] = write
        self._writes.move_to_end((resource, key))
        if len(self._writes) > _WRITES_REMEMBERED:
            self._writes.popitem(last=False)

    def last_write(self, resource: str, key: Key) -> Write | None:
        """The last write to the pair, None when that is long ago."""
        return self._writes.get((resource, key))

    def latest(self, resource: str) -> Write | None:
        """The last write to any pair of the resource, also to one that is gone since."""
        return self._latest.get(resource)

    def drifted(self, resource: str, key: Key, drift: Drift) -> None:
        """A field of the pair is not kept as it was written."""
        self._drifts[resource, key] = self.drifts(resource, key) | {drift}

    def drifts(self, resource: str, key: Key) -> frozenset[Drift]:
        """The fields of the pair that are not what they should be."""
        return self._drifts.get((resource, key), frozenset())

    def drifting(self) -> Iterator[tuple[str, Key, frozenset[Drift]]]:
        """Every pair with a field that is not what it should be."""
        for (resource, key), drifts in self._drifts.items():
            yield resource, key, drifts

    def drift_counts(self) -> Counter[tuple[str, str, str]]:
        """How many pairs have a field that is not kept, by resource name, side and why."""
        kinds = (
            (resource, kind) for (resource, _), drifts in self._drifts.items() for kind in {(drift.side, drift.why) for drift in drifts}
        )
        return Counter((resource, side, why) for resource, (side, why) in kinds)

    def forget(self, resource: str, key: Key) -> None:
        """The pair is gone."""
        self._writes.pop((resource, key), None)
        self._drifts.pop((resource, key), None)

"""Wishes that come to nothing: fields that one side does not have, or that somebody else there keeps changing back.

Every decision asks for what differs, so without this such a field would be asked for over and over. It is noticed, told of, and
left alone: for the whole type where the API server itself says that it has no such field, else for the one object, until another value
is wanted or an hour has passed. What keeps tenants apart is never left alone, only asked for less often.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from syncer.naming import DOMAIN
from syncer.sync.fields import Path, dropped_at, holds, leaves, text_of, unknown_fields, value_at, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from syncer.kube.types import Resource, Side

log = structlog.get_logger("syncer.sync")

FUTILE = 4
"""How often the same is asked for in vain before it is left alone."""
QUICK = 30.0
"""Seconds within which having to ask again means that somebody fights."""
REST = 3600.0
"""Seconds for which it is left alone; API servers are upgraded, and webhooks removed."""
_REST_OF_PROTECTED = 30.0
_REMEMBERED = 2000
"""Objects whose last wishes are kept. More only means that one forgotten is asked for a few more times."""
_TOLD = 1000


class Why(StrEnum):
    """Why a field is not what it should be."""

    NOT_KEPT = "not_kept"
    """The API server does not have it, or has it switched off."""
    CONTESTED = "contested"
    """Somebody else there keeps changing it."""


class Drift(NamedTuple):
    """One field of one object, or of a whole type, that is not kept as it was written."""

    side: Side
    path: str
    why: Why


@dataclass(slots=True)
class _Wish:
    digest: int
    at: float
    count: int = 1


class Contests:
    """What was asked for of late. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wishes: OrderedDict[tuple[Side, str], dict[Path, _Wish]] = OrderedDict()
        self._lacking: dict[tuple[Side, Resource], dict[Path, float]] = {}
        self._told: set[tuple[Side, Resource, str, Why]] = set()

    def worth_asking(self, side: Side, resource: Resource, uid: str, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], float | None]:
        """What of a patch is not known to come to nothing, and the seconds after which what was left out is to be asked for again
        (None: whenever)."""
        lacking = self.lacking(side, resource)
        if lacking:
            body = without(body, lacking)
        wishes = self._wishes.get((side, uid))
        if wishes is None or not any(wish.count >= FUTILE for wish in wishes.values()):
            return body, None
        now, again = self._clock(), None
        for path, digest in leaves(body).items():
            wish = wishes.get(path)
            if wish is not None and wish.count >= FUTILE and wish.digest == digest and (rest := wish.at + _rest(path) - now) > 0:
                body = without(body, [path])
                if is_protected(path):
                    again = min(rest, again or rest)
        return body, again

    def lacking(self, side: Side, resource: Resource) -> list[Path]:
        """The fields that the API server of that side said not to have."""
        found = self._lacking.get((side, resource))
        if not found:
            return []
        now = self._clock()
        for path in [path for path, at in found.items() if now - at > REST]:
            del found[path]
        return list(found)

    def warned(self, side: Side, resource: Resource, warnings: Iterable[str]) -> list[Drift]:
        """Note what an API server says not to have; returns it."""
        unknown = unknown_fields(warnings)
        for path in unknown:
            self._lacking.setdefault((side, resource), {})[path] = self._clock()
        return [self.tell(side, resource, path, Why.NOT_KEPT) for path in sorted(unknown)]

    def answered(self, side: Side, resource: Resource, uid: str, body: Mapping[str, Any], answer: Mapping[str, Any]) -> list[Drift]:
        """Note what a patch asked for and what came of it; returns what is left alone from now on."""
        now = self._clock()
        wishes = self._wishes.setdefault((side, uid), {})
        self._wishes.move_to_end((side, uid))
        if len(self._wishes) > _REMEMBERED:
            self._wishes.popitem(last=False)
        drifts = []
        asked_for = leaves(body)
        for path in [path for path, wish in wishes.items() if wish.count < FUTILE and path not in asked_for]:
            if value_at(answer, path) is None:  # went with what was asked for now, as fields do that depend on a Service's type
                del wishes[path]
        for path, digest in asked_for.items():
            wish = wishes.get(path)
            if wish is None or wish.digest != digest:
                wishes[path] = _Wish(digest, now)
                continue
            asked, got = value_at(body, path), value_at(answer, path)
            if not holds(got, asked):
                wish.count = FUTILE  # twice, and already the answers say no
            else:
                fights = QUICK + (_rest(path) if wish.count >= FUTILE else 0)
                wish.count = wish.count + 1 if now - wish.at < fights else 1
            wish.at = now
            if wish.count >= FUTILE:
                lost = [self.tell(side, resource, each, Why.NOT_KEPT) for each in sorted(dropped_at(path, asked, got))]
                drifts += lost or [self.tell(side, resource, path, Why.CONTESTED)]
        return drifts

    def tell(self, side: Side, resource: Resource, path: Path, why: Why) -> Drift:
        """Tell the operator, once for each field of a type."""
        drift = Drift(side, text_of(path), why)
        known = (side, resource, drift.path, why)
        if known not in self._told:
            if len(self._told) >= _TOLD:
                self._told.clear()
            self._told.add(known)
            event = "field.not_kept" if why is Why.NOT_KEPT else "field.contested"
            log.warning(event, side=side, resource=str(resource), path=drift.path)
        return drift


def is_protected(path: Path) -> bool:
    """Whether tenants are kept apart by it: our marks, and selectors."""
    return any("selector" in name.lower() or name.startswith(DOMAIN + "/") or name == "ownerReferences" for name in path)


def _rest(path: Path) -> float:
    return _REST_OF_PROTECTED if is_protected(path) else REST

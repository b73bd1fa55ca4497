"""How much of what is wanted the host allows: which loops run, what they go without, and why.

A loop that is `dispensable` is off where something that it needs is missing, an optional
right switches one feature of a loop off, and for all else the syncer waits, saying what for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncer.kube.types import Resource, Side
from syncer.sync.rights import ELECTION_RIGHTS, OWN_RIGHTS, ask_lacking, ask_unserved, needed_rights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syncer.kube.client import Client
    from syncer.sync.spec import Feature, Right, SyncSpec


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a loop or a feature, whether it runs, and why not, or what it goes without."""

    name: str
    on: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Extent:
    """What runs. While `waits` names anything, nothing may."""

    specs: tuple[SyncSpec, ...]
    rows: tuple[Row, ...]
    lacking: frozenset[str]
    """As sync.view.Policy has it."""
    waits: tuple[str, ...]


def extent_of(
    specs: Iterable[SyncSpec],
    *,
    own: Iterable[Right] = (),
    lacking: Sequence[Right] = (),
    unserved: frozenset[Resource] = frozenset(),
    named: frozenset[str] = frozenset(),
    unwanted: Iterable[str] = (),
    features: Iterable[Feature] = (),
) -> Extent:
    """What of `specs` can run when the host does not grant `lacking` and does not serve `unserved`.

    `own` is what the syncer itself cannot do without. Loops that are `named` were asked for by name, and are waited for even
    if they are dispensable. The `unwanted` only have a row, and so do `features`.
    """
    missing = {(right.group, right.resource): frozenset(right.verbs) for right in lacking}
    running: list[SyncSpec] = []
    rows = {name: Row(name, on=False, why="not asked for (see --sync)") for name in unwanted}
    waits = [f"the syncer itself: {_not_granted(right, missing)}" for right in own if _lacks(right, missing)]
    for spec in sorted(specs, key=lambda spec: bool(spec.part_of)):
        needs = _needs(spec, missing, unserved)
        whole = spec.part_of or spec.name
        if spec.part_of and not rows[spec.part_of].on:
            continue
        if needs and spec.dispensable and whole not in named:
            rows[spec.name] = Row(spec.name, on=False, why="; ".join(needs))
            continue
        waits += [f"{spec.name}: {need}" for need in needs]
        running.append(spec)
        rows.setdefault(whole, Row(whole, on=True))
        if without := _without(spec, missing, unserved):
            rows[whole] = Row(whole, on=True, why="; ".join(filter(None, (rows[whole].why, *without))))
    for feature in features:
        gone = [f"without {_named(right)}: {_lacked(right, missing)}" for right in feature.rights if _lacks(right, missing)]
        rows[feature.name] = Row(feature.name, on=len(gone) < len(feature.rights), why="; ".join(gone))
    names = {_name(group, resource) for group, resource in missing} | {str(resource) for resource in unserved}
    return Extent(tuple(running), tuple(rows[name] for name in sorted(rows)), frozenset(names), tuple(dict.fromkeys(waits)))


async def ask_extent(
    host: Client,
    namespace: str,
    specs: Sequence[SyncSpec],
    *,
    election: bool = False,
    named: frozenset[str] = frozenset(),
    unwanted: Iterable[str] = (),
    features: Sequence[Feature] = (),
) -> Extent:
    """`extent_of` with the host's own answers. Raises ApiError or a network error."""
    return extent_of(
        specs,
        own=[*OWN_RIGHTS, *(ELECTION_RIGHTS if election else ())],
        lacking=await ask_lacking(host, namespace, needed_rights(specs, election=election, features=features)),
        unserved=await ask_unserved(host, host_resources(specs)),
        named=named,
        unwanted=unwanted,
        features=features,
    )


def host_resources(specs: Iterable[SyncSpec]) -> frozenset[Resource]:
    """The types that the loops watch on the host."""
    return frozenset(watch.resource for spec in specs for watch in spec.watches if watch.side is Side.HOST)


def _needs(spec: SyncSpec, missing: dict[tuple[str, str], frozenset[str]], unserved: frozenset[Resource]) -> list[str]:
    """What keeps the loop from running."""
    watched = {watch.resource for watch in spec.watches if watch.side is Side.HOST and not watch.optional}
    return [
        *(f"the host does not serve {resource}" for resource in sorted(watched & unserved, key=str)),
        *(_not_granted(right, missing) for right in spec.host_rights if not right.optional and _lacks(right, missing)),
    ]


def _without(spec: SyncSpec, missing: dict[tuple[str, str], frozenset[str]], unserved: frozenset[Resource]) -> list[str]:
    """What the loop goes without."""
    watched = {watch.resource for watch in spec.watches if watch.side is Side.HOST and watch.optional}
    gone = sorted(watched & unserved, key=str)
    ungranted = [right for right in spec.host_rights if right.optional and _lacks(right, missing)]
    return [
        *(f"without {resource}: the host does not serve it" for resource in gone),
        *(f"without {_named(right)}: {_lacked(right, missing)}" for right in ungranted),
    ]


def _lacks(right: Right, missing: dict[tuple[str, str], frozenset[str]]) -> frozenset[str]:
    return frozenset(right.verbs) & missing.get((right.group, right.resource), frozenset())


def _not_granted(right: Right, missing: dict[tuple[str, str], frozenset[str]]) -> str:
    return f"{_lacked(right, missing)} of {_named(right)}"


def _lacked(right: Right, missing: dict[tuple[str, str], frozenset[str]]) -> str:
    return f"{'ClusterRole' if right.cluster else 'Role'} lacks {', '.join(sorted(_lacks(right, missing)))}"


def _named(right: Right) -> str:
    return _name(right.group, right.resource)


def _name(group: str, resource: str) -> str:
    return f"{resource}.{group}" if group else resource

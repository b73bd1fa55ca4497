"""The status page: everything that one replica knows of how it is doing, as one document. Pure; `/status` of `health` serves it.

The document (JSON; `syncer status` shows it). Within one `apiVersion` fields are only ever added. Times are RFC 3339, "" when there is
none; lists are cut to LISTED, oldest first, and texts to WORDS characters; nothing in it is a secret, but names and reasons are the
platform engineer's, not the tenant's.

```
apiVersion: syncer/v1     kind: Status
name, namespace, version, time
healthy                   whether `problems` is empty
problems                  [what somebody should look at, in words]
starting                  what is waited for before anything can be synced, "" once that is over
leader                    {elects, leads, identity, since}: whether replicas take turns, whether this one leads, who does, since when
fence                     {open, reason, owner}
servers                   [{side, server, version, reachable, reason}]
certificates              [{name, ends, reason}]: of one whose end is unknown the reason tells why
loops                     [{name, on, why, kind, alive, pairs: {waiting, retrying, refused, held}, drifting, queue: {depth, oldestSeconds},
                           behindSeconds, lastWrite}]: `on` is what flags and rights come to; a standby runs none, and has no numbers
refused, held, retrying, waiting
                          {count, items: [{loop, kind, namespace, name, cause, reason, since, nextTry, lastWrite}]}, by virtual object
holds                     [{loop, count, since}]: bursts of deletions that wait for a person
drift                     {count, items: [{loop, kind, namespace, name, side, path, why}]}: fields that are not kept as written (ADR 9)
checks                    [{name, ok, reason}]: the lines of /readyz
```
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from syncer.sync.ledger import Ledger, Row, State
from syncer.sync.refusals import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from syncer.kube.types import Key, Obj, Side
    from syncer.kube.validity import Validity
    from syncer.proxy.health import Check
    from syncer.sync import extent

API_VERSION = "syncer/v1"
KIND = "Status"
LISTED = 100
"""Items of a list that are shown; its count tells how many there are."""
WORDS = 500
"""Characters of a reason that are shown: API servers quote whole objects."""
BEHIND = 60.0
"""Seconds after which a change that is not synced yet is a problem."""
LAST_OF_LIFE = 0.1
"""Part of a certificate's life in which it should have been replaced: control planes do it at 75 or 80 %."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """An API server, and why it does not answer, "" if it does."""

    side: Side
    address: str = ""
    version: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """`validity` is None when `problem` tells why it is not known."""

    name: str
    validity: Validity | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Working:
    """A loop that runs; `oldest` and `behind` are seconds."""

    name: str
    kind: str
    alive: bool = True
    depth: int = 0
    oldest: float = 0.0
    behind: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Deletions of one loop that wait for a person, `since` epoch seconds."""

    loop: str
    count: int
    since: float


@dataclass(frozen=True, kw_only=True)
class Leadership:
    """Whether replicas take turns, whether this one leads, who does ("" for nobody), and since when (RFC 3339)."""

    elects: bool = False
    leads: bool = False
    identity: str = ""
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the page is made of. `now` is epoch seconds; `fence` is why it is closed, None while open."""

    name: str
    namespace: str
    version: str
    now: float
    starting: str = ""
    leadership: Leadership = field(default_factory=Leadership)
    fence: str | None = None
    owner: str = ""
    servers: Sequence[Server] = ()
    certificates: Sequence[Certificate] = ()
    rows: Sequence[extent.Row] = ()
    working: Sequence[Working] = ()
    ledger: Ledger = field(default_factory=Ledger)
    holds: Sequence[Hold] = ()
    checks: Sequence[Check] = ()


def status_page(facts: Facts) -> Obj:
    """The document."""
    problems = [_cut(problem) for problem in islice(dict.fromkeys(_problems(facts)), LISTED)]
    kinds = {loop.name: loop.kind for loop in facts.working}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": facts.name,
        "namespace": facts.namespace,
        "version": facts.version,
        "time": _time(facts.now),
        "healthy": not problems,
        "problems": problems,
        "starting": _cut(facts.starting),
        "leader": {
            "elects": facts.leadership.elects,
            "leads": facts.leadership.leads,
            "identity": facts.leadership.identity,
            "since": facts.leadership.since,
        },
        "fence": {"open": facts.fence is None, "reason": _cut(facts.fence or ""), "owner": facts.owner},
        "servers": [
            {
                "side": str(server.side),
                "server": server.address,
                "version": server.version,
                "reachable": not server.problem,
                "reason": _cut(server.problem),
            }
            for server in facts.servers
        ],
        "certificates": [
            {"name": one.name, "ends": _time(one.validity.ends if one.validity else None), "reason": _cut(one.problem)}
            for one in facts.certificates
        ],
        "loops": list(_loops(facts)),
        **{str(state): _rows(facts.ledger, state, kinds) for state in (State.REFUSED, State.HELD, State.RETRYING, State.WAITING)},
        "holds": [{"loop": hold.loop, "count": hold.count, "since": _time(hold.since)} for hold in facts.holds],
        "drift": _drift(facts.ledger, kinds),
        "checks": [{"name": check.name, "ok": check.ok, "reason": _cut(check.reason)} for check in facts.checks],
    }


def _problems(facts: Facts) -> Iterator[str]:
    """What a tenant alone brings about (a quota that is used up, a field that is contested) is none."""
    for check in facts.checks:
        if not check.ok:
            yield f"{check.name}: {check.reason or 'failed'}"
    for server in facts.servers:
        if server.problem:
            yield f"the {server.side} API server does not answer: {server.problem}"
    for hold in facts.holds:
        yield f"{hold.loop}: {hold.count} deletions are held until `syncer release-deletions`"
    for loop in facts.working:
        if loop.behind > BEHIND:
            yield f"{loop.name}: the oldest change that is not synced yet is {loop.behind:.0f} s old"
    without_right = {name for name, _, row in facts.ledger.rows() if row.state is State.REFUSED and row.cause == Cause.RIGHTS}
    for name in sorted(without_right):
        yield f"{name}: the host does not grant what it takes; `syncer rights` tells"
    for one in facts.certificates:
        if one.problem:
            yield f"the certificate {one.name}: {one.problem}"
        elif one.validity is not None and (words := _nears_its_end(one.validity, facts.now)):
            yield f"the certificate {one.name} {words} {_time(one.validity.ends)}"


def _nears_its_end(validity: Validity, now: float) -> str:
    if now >= validity.ends:
        return "has ended at"
    return "has not been replaced and ends at" if validity.ends - now < LAST_OF_LIFE * (validity.ends - validity.begins) else ""


def _loops(facts: Facts) -> Iterator[Obj]:
    """All words of --sync and all features, each loop that is part of another one after it."""
    counts, drifting = facts.ledger.counts(), Counter(name for name, _, _ in facts.ledger.drifting())
    working = {loop.name: loop for loop in facts.working}
    told = [(row.name, row.on, row.why) for row in facts.rows]
    told += [(name, True, "") for name in working if name not in {row.name for row in facts.rows}]
    for name, on, why in sorted(told):
        loop = working.get(name)
        yield {"name": name, "on": on, "why": _cut(why)} | ({} if loop is None else _numbers(loop, counts, drifting, facts.ledger))


def _numbers(loop: Working, counts: Mapping[tuple[str, State], int], drifting: Mapping[str, int], ledger: Ledger) -> Obj:
    last = ledger.latest(loop.name)
    return {
        "kind": loop.kind,
        "alive": loop.alive,
        "pairs": {str(state): counts[loop.name, state] for state in State},
        "drifting": drifting[loop.name],
        "queue": {"depth": loop.depth, "oldestSeconds": round(loop.oldest, 3)},
        "behindSeconds": round(loop.behind, 3),
        "lastWrite": _time(None if last is None else last.at),
    }


def _rows(ledger: Ledger, state: State, kinds: Mapping[str, str]) -> Obj:
    found = [(loop, key, row) for loop, key, row in ledger.rows() if row.state is state]
    return {"count": len(found), "items": [_row(ledger, *one, kinds) for one in nsmallest(LISTED, found, key=lambda one: one[2].since)]}


def _row(ledger: Ledger, loop: str, key: Key, row: Row, kinds: Mapping[str, str]) -> Obj:
    last = ledger.last_write(loop, key)
    return {
        **_subject(loop, key, kinds),
        "cause": row.cause,
        "reason": _cut(row.reason),
        "since": _time(row.since),
        "nextTry": _time(row.next_try),
        "lastWrite": _time(None if last is None else last.at),
    }


def _drift(ledger: Ledger, kinds: Mapping[str, str]) -> Obj:
    found = [(loop, key, drift) for loop, key, drifts in ledger.drifting() for drift in sorted(drifts)]
    items: Iterable[Obj] = (
        {**_subject(loop, key, kinds), "side": str(drift.side), "path": _cut(drift.path), "why": str(drift.why)}
        for loop, key, drift in found[:LISTED]
    )
    return {"count": len(found), "items": list(items)}


def _subject(loop: str, key: Key, kinds: Mapping[str, str]) -> Obj:
    return {"loop": loop, "kind": kinds.get(loop, ""), "namespace": key.namespace, "name": key.name}


def _cut(text: str) -> str:
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"


def _time(epoch: float | None) -> str:
    return "" if epoch is None else datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube import codec
from syncer.kube.types import Key, Side
from syncer.kube.validity import Validity
from syncer.proxy.health import Check
from syncer.proxy.statuspage import LISTED, WORDS, Certificate, Facts, Hold, Leadership, Server, Working, status_page
from syncer.sync.contests import Drift, Why
from syncer.sync.extent import Row
from syncer.sync.ledger import Ledger, State, Write

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""
WELL = Facts(
    name="demo",
    namespace="team",
    version="0.1.0",
    now=NOW,
    leadership=Leadership(elects=True, leads=True, identity="demo-0", since="2027-01-15T07:00:00.000000Z"),
    owner="team/vc-demo-owner",
    servers=(Server(side=Side.HOST, address="https://host", version="v1.36.1"), Server(side=Side.VIRTUAL, address="https://virtual")),
    certificates=(Certificate(name="front door", validity=Validity(NOW - 100, NOW + 900)),),
    rows=(Row("pods", on=True, why="without pods/resize: Role lacks patch"), Row("nodes", on=False, why="not asked for (see --sync)")),
    working=(Working(name="pods", kind="Pod", depth=2, oldest=1.5), Working(name="tokens", kind="Pod")),
    checks=(Check("fence", True), Check("caches", True, "slow")),
)


def refused(ledger: Ledger, name: str, since: float, cause: str = "ExceededQuota", words: str = "quota compute is used up") -> None:
    ledger.put("pods", Key("default", name), State.REFUSED, words, now=since, next_try=since + 2, cause=cause)


def test_what_it_tells() -> None:
    ledger = Ledger()
    refused(ledger, "b", NOW - 5)
    refused(ledger, "a", NOW - 60)
    ledger.put("tokens", Key("default", "c"), State.WAITING, "the old tokens have to go first", now=NOW - 1)
    ledger.wrote("pods", Key("default", "a"), Write(NOW - 70, 0.1))
    ledger.wrote("pods", Key("default", "gone"), Write(NOW - 30, None))
    ledger.forget("pods", Key("default", "gone"))
    ledger.drifted("pods", Key("default", "d"), Drift(Side.HOST, "metadata.labels.team", Why.CONTESTED))
    page = status_page(replace(WELL, ledger=ledger, holds=()))
    assert (page["apiVersion"], page["kind"], page["name"], page["time"]) == ("syncer/v1", "Status", "demo", "2027-01-15T08:00:00Z")
    assert (page["healthy"], page["problems"]) == (True, [])
    assert page["leader"] == {"elects": True, "leads": True, "identity": "demo-0", "since": "2027-01-15T07:00:00.000000Z"}
    assert page["fence"] == {"open": True, "reason": "", "owner": "team/vc-demo-owner"}
    assert page["servers"][0] == {"side": "host", "server": "https://host", "version": "v1.36.1", "reachable": True, "reason": ""}
    assert page["certificates"] == [{"name": "front door", "ends": "2027-01-15T08:15:00Z", "reason": ""}]
    nodes, pods, tokens = page["loops"]
    assert nodes == {"name": "nodes", "on": False, "why": "not asked for (see --sync)"}
    assert pods == {
        "name": "pods",
        "on": True,
        "why": "without pods/resize: Role lacks patch",
        "kind": "Pod",
        "alive": True,
        "pairs": {"waiting": 0, "retrying": 0, "refused": 2, "held": 0},
        "drifting": 1,
        "queue": {"depth": 2, "oldestSeconds": 1.5},
        "behindSeconds": 0.0,
        "lastWrite": "2027-01-15T07:59:30Z",
    }
    assert (tokens["name"], tokens["on"], tokens["lastWrite"]) == ("tokens", True, "")
    assert page["refused"]["count"] == 2
    assert [item["name"] for item in page["refused"]["items"]] == ["a", "b"], "oldest first"
    assert page["refused"]["items"][0] == {
        "loop": "pods",
        "kind": "Pod",
        "namespace": "default",
        "name": "a",
        "cause": "ExceededQuota",
        "reason": "quota compute is used up",
        "since": "2027-01-15T07:59:00Z",
        "nextTry": "2027-01-15T07:59:02Z",
        "lastWrite": "2027-01-15T07:58:50Z",
    }
    assert page["waiting"]["items"][0]["nextTry"] == ""
    assert page["held"] == page["retrying"] == {"count": 0, "items": []}
    drift = {"loop": "pods", "kind": "Pod", "namespace": "default", "name": "d", "side": "host", "path": "metadata.labels.team"}
    assert page["drift"] == {"count": 1, "items": [{**drift, "why": "contested"}]}
    assert page["checks"][1] == {"name": "caches", "ok": True, "reason": "slow"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"checks": [Check("fence", False, "another control plane")]}, "fence: another control plane"),
        ({"checks": [Check("fence", False)]}, "fence: failed"),
        (
            {"servers": [Server(side=Side.VIRTUAL, problem="no answer within 3 s")]},
            "the virtual API server does not answer: no answer within 3 s",
        ),
        ({"holds": [Hold(loop="pods", count=30, since=NOW)]}, "pods: 30 deletions are held until `syncer release-deletions`"),
        ({"working": [Working(name="pods", kind="Pod", behind=75.4)]}, "pods: the oldest change that is not synced yet is 75 s old"),
        ({"certificates": [Certificate(name="x", problem="/f cannot be read")]}, "the certificate x: /f cannot be read"),
        (
            {"certificates": [Certificate(name="x", validity=Validity(NOW - 600, NOW))]},
            "the certificate x has ended at 2027-01-15T08:00:00Z",
        ),
        (
            {"certificates": [Certificate(name="x", validity=Validity(NOW - 600, NOW + 60))]},
            "the certificate x has not been replaced and ends at 2027-01-15T08:01:00Z",
        ),
    ],
)
def test_what_is_a_problem(change: dict[str, Any], problem: str) -> None:
    page = status_page(replace(WELL, **change))
    assert (page["healthy"], page["problems"]) == (False, [problem])


@pytest.mark.parametrize("cause", ["ExceededQuota", "PodSecurity", "Invalid"])
def test_what_a_tenant_can_bring_about_is_none(cause: str) -> None:
    ledger = Ledger()
    refused(ledger, "a", NOW - 3600, cause)
    ledger.drifted("pods", Key("default", "d"), Drift(Side.HOST, "spec.x", Why.NOT_KEPT))
    assert status_page(replace(WELL, ledger=ledger))["healthy"]


def test_a_right_that_is_missing_is_the_operators() -> None:
    ledger = Ledger()
    for name in ("a", "b"):
        refused(ledger, name, NOW, "MissingRight")
    assert status_page(replace(WELL, ledger=ledger))["problems"] == ["pods: the host does not grant what it takes; `syncer rights` tells"]


def test_a_standby_tells_who_leads_and_has_no_numbers() -> None:
    leadership = Leadership(elects=True, leads=False, identity="demo-1", since="2027-01-15T07:00:00.000000Z")
    page = status_page(replace(WELL, leadership=leadership, working=()))
    assert page["healthy"]
    assert page["leader"]["identity"] == "demo-1"
    assert [set(loop) for loop in page["loops"]] == [{"name", "on", "why"}] * 2


def test_many_are_counted_and_the_oldest_shown() -> None:
    ledger = Ledger()
    for number in range(5000):
        refused(ledger, f"p-{number}", NOW - number, words="x" * 100_000)
        ledger.drifted("pods", Key("default", f"p-{number}"), Drift(Side.HOST, "y" * 10_000, Why.CONTESTED))
    page = status_page(replace(WELL, ledger=ledger))
    assert (page["refused"]["count"], len(page["refused"]["items"])) == (5000, LISTED)
    assert page["refused"]["items"][0]["name"] == "p-4999"
    assert page["refused"]["items"][0]["reason"] == "x" * (WORDS - 1) + "…"
    assert (page["drift"]["count"], len(page["drift"]["items"])) == (5000, LISTED)


_TEXT = st.text(max_size=2000)
_ROWS = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from(State), _TEXT, st.floats(0, 4e9), st.none() | st.floats(0, 4e9), _TEXT), max_size=300
)


@given(_ROWS, _TEXT, st.lists(_TEXT, max_size=50))
def test_it_is_small_and_json_whatever_happens(rows: list[Any], words: str, checks: list[str]) -> None:
    ledger = Ledger()
    for number, state, reason, since, next_try, cause in rows:
        ledger.put("pods", Key("default", str(number)), state, reason, now=since, next_try=next_try, cause=cause[:40])
    facts = replace(WELL, ledger=ledger, starting=words, fence=words, checks=[Check(f"c{i}", False, text) for i, text in enumerate(checks)])
    page = status_page(facts)
    assert len(codec.dumps(page)) < 4 * LISTED * (WORDS * 6 + 600) + 50 * 2 * WORDS * 6 + 20_000
    assert sum(page[str(state)]["count"] for state in State) == len(ledger.counts() and list(ledger.rows()))

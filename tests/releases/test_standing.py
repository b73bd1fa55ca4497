from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from syncer.errors import SyncerError
from syncer.kube.types import Key, Obj, Side
from syncer.kube.validity import Validity
from syncer.proxy.health import Check
from syncer.proxy.statuspage import Certificate, Facts, Hold, Leadership, Server, Working, status_page
from syncer.releases.pages import HEALTH_PORT, fetch
from syncer.releases.release import PAUSED, Release
from syncer.releases.standing import Findings, lines, standing
from syncer.settings import Settings
from syncer.sync.contests import Drift, Why
from syncer.sync.extent import Row
from syncer.sync.ledger import Ledger, State

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""
OWNER = {"metadata": {"name": "vc-demo-owner"}, "data": {"virtual-uid": "u-1"}}


def page(*, leads: bool = True, identity: str = "demo-0-1_x", **changes: Any) -> Obj:
    leadership = Leadership(elects=True, leads=leads, identity=identity, since="2027-01-15T06:00:00Z")
    return status_page(
        Facts(**{"name": "demo", "namespace": "team", "version": "1", "now": NOW, "leadership": leadership, "fence": None, **changes})
    )


def pod(name: str, phase: str = "Running", ready: str = "True") -> Obj:
    status = {"phase": phase, "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [{"restartCount": 2}]}
    return {"metadata": {"name": name, "namespace": "team"}, "status": status}


def release(*pods: Obj, replicas: int = 1, ready: int | None = None, **metadata: Any) -> Release:
    meta = {"name": "demo", "namespace": "team", "creationTimestamp": "2027-01-14T08:00:00Z", **metadata}
    status = {"readyReplicas": replicas if ready is None else ready}
    return Release("demo", "team", {"metadata": meta, "spec": {"replicas": replicas}, "status": status}, pods)


def lease(renewed: str, holder: str | None = "demo-0-1_x") -> Obj:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15, "acquireTime": renewed}}


WELL = Findings(name="demo", namespace="team", release=release(pod("demo-0")), owner=OWNER, pages={"demo-0": page()})


def test_a_healthy_one() -> None:
    document = standing(WELL, NOW)
    assert (document["healthy"], document["problems"]) == (True, [])
    assert document["release"] == {"status": "Running", "created": "2027-01-14T08:00:00Z", "replicas": 1, "ready": 1}
    assert document["pods"] == [{"name": "demo-0", "phase": "Running", "ready": True, "restarts": 2, "role": "leads"}]
    assert document["owner"] == {"name": "vc-demo-owner", "virtualUID": "u-1"}
    assert document["page"] == page()


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"release": None}, []),
        ({"release": release(annotations={PAUSED: "true"}), "pages": {}}, ["it is paused; `syncer resume demo --namespace=team`"]),
        ({"release": release(deletionTimestamp="2027-01-15T07:59:00Z"), "pages": {}}, ["it is being deleted"]),
        (
            {"release": release(pod("demo-0"), ready=0), "why_not_ready": "no node takes pod demo-0"},
            ["0 of 1 replicas are ready: no node takes pod demo-0"],
        ),
        ({"pages": {"demo-0": "forbidden"}}, ["pod demo-0: its status page cannot be had: forbidden"]),
        ({"pages": {"": "refused"}}, ["its status page cannot be had: refused"]),
        ({"pages": {}}, ["there is no pod of it that could be asked"]),
        (
            {"pages": {}, "owner": None, "owner_is_gone": True},
            ["there is no pod of it that could be asked", "the ConfigMap vc-demo-owner is not there; nothing is synced without it"],
        ),
        ({"pages": {}, "owner": None}, ["there is no pod of it that could be asked"]),
        ({"pages": {}, "lease": lease("2027-01-15T07:59:50Z")}, ["there is no pod of it that could be asked"]),
        (
            {"pages": {}, "lease": lease("2027-01-15T07:50:00Z")},
            ["there is no pod of it that could be asked", "no replica leads: demo-0-1_x renewed the Lease for the last time 10m ago"],
        ),
        (
            {"pages": {}, "lease": lease("2027-01-15T07:59:50Z", None)},
            ["there is no pod of it that could be asked", "no replica leads: the Lease is free"],
        ),
        ({"pages": {"demo-0": page(checks=[Check("fence", False, "closed")])}}, ["fence: closed"]),
        ({"pages": {"demo-1": page(leads=False), "demo-0": page()}}, []),
        ({"pages": {"demo-1": page(leads=False)}}, ["who leads cannot be asked: demo-0-1_x"]),
        ({"pages": {"demo-1": page(leads=False, identity="")}}, ["no replica leads"]),
        (
            {"pages": {"demo-1": page(leads=False, checks=[Check("fence", False, "closed")]), "demo-0": page()}},
            ["pod demo-1: fence: closed"],
        ),
        ({"pages": {"demo-0": page(leads=False, identity="", starting="the host API server")}}, []),
    ],
)
def test_what_is_wrong(changes: dict[str, Any], problems: list[str]) -> None:
    document = standing(replace(WELL, **changes), NOW)
    assert document["problems"] == problems
    assert document["healthy"] is not bool(problems)


def test_the_page_is_the_leaders() -> None:
    document = standing(
        replace(WELL, pages={"demo-1": page(leads=False), "demo-0": page()}, release=release(pod("demo-1"), pod("demo-0"))), NOW
    )
    assert document["page"]["leader"]["leads"]
    assert [(one["name"], one["role"]) for one in document["pods"]] == [("demo-0", "leads"), ("demo-1", "stands by")]


def full() -> Obj:
    ledger = Ledger()
    for number in range(30):
        ledger.put(
            "pods",
            Key("default", f"p{number}"),
            State.REFUSED,
            "quota \x1b[2J is\nused up",
            now=NOW - 90,
            next_try=NOW + 2,
            cause="ExceededQuota",
        )
    ledger.put("pods", Key("default", "kept"), State.HELD, "30 of 40 pods", now=NOW - 90)
    ledger.drifted("pods", Key("default", "web"), Drift(Side.HOST, "metadata.labels.team", Why.CONTESTED))
    return page(
        ledger=ledger,
        owner="team/vc-demo-owner",
        servers=[
            Server(side=Side.HOST, address="https://h", version="v1.36"),
            Server(side=Side.VIRTUAL, address="https://v", problem="refused"),
        ],
        certificates=[Certificate(name="front door", validity=Validity(NOW - 9e5, NOW + 86400 * 20))],
        rows=[Row("pods", on=True), Row("ingresses", on=False, why="Role lacks list of ingresses")],
        working=[Working(name="pods", kind="Pod", depth=3, behind=4.2)],
        holds=[Hold(loop="pods", count=30, since=NOW)],
    )


def test_for_a_person() -> None:
    told = list(lines(standing(replace(WELL, pages={"demo-0": full()}), NOW), NOW))
    assert told[:12] == [
        "demo in team: not healthy",
        "  ! the virtual API server does not answer: refused",
        "  ! pods: 30 deletions are held until `syncer release-deletions`",
        "  release      Running, 1 of 1 replicas ready, 24h00m old",
        "  pod          demo-0 Running, leads, 2 restarts",
        "  leader       demo-0-1_x, for 2h00m",
        "  host API     https://h answers v1.36",
        "  virtual API  https://v does not answer",
        "  fence        open (ConfigMap team/vc-demo-owner)",
        "  certificate  front door: ends in 20d",
        "",
        "LOOP       STATE  REFUSED  HELD  RETRYING  WAITING  DRIFT  QUEUE  BEHIND  LAST WRITE  WHY",
    ]
    assert told[12].split() == ["ingresses", "off", "Role", "lacks", "list", "of", "ingresses"]
    assert told[13].split() == ["pods", "on", "30", "1", "1", "3", "4s"]
    assert told[15] == "REFUSED (30, the oldest 20)"
    assert told[16] == "Pod default/p0   for 90s, next try in 2s  ExceededQuota  quota ?[2J is used up"
    assert "HELD (1)" in told
    assert told[-2:] == ["DRIFT (1)", "Pod default/web  host: metadata.labels.team  contested"]


def test_for_a_person_from_the_host_alone() -> None:
    findings = replace(WELL, pages={"demo-0": "forbidden"}, lease=lease("2027-01-15T07:59:50Z"))
    assert list(lines(standing(findings, NOW), NOW)) == [
        "demo in team: not healthy",
        "  ! pod demo-0: its status page cannot be had: forbidden",
        "  release      Running, 1 of 1 replicas ready, 24h00m old",
        "  pod          demo-0 Running, ready, 2 restarts",
        "  leader       demo-0-1_x, last seen 10s ago",
        "  owner        vc-demo-owner, of the virtual cluster with kube-system u-1",
    ]


def test_the_port_is_the_one_that_the_chart_leaves_alone() -> None:
    assert Settings.model_fields["health_bind_address"].default.port == HEALTH_PORT


class TestFetch:
    @pytest.fixture
    def answer(self) -> dict[str, Any]:
        """What is answered; tests change it."""
        return {"body": full()}

    @pytest.fixture
    async def url(self, answer: dict[str, Any]) -> AsyncIterator[str]:
        async def tell(_request: web.Request) -> web.Response:
            return web.json_response(answer["body"]) if "body" in answer else web.Response(**answer)

        app = web.Application()
        app.router.add_get("/status", tell)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()

    @pytest.mark.parametrize("end", ["", "/", "/status"])
    async def test_a_page(self, url: str, end: str) -> None:
        assert await fetch(url + end) == full()

    @pytest.mark.parametrize(
        ("answered", "words"),
        [
            ({"status": 403, "text": "only for who is inside"}, "^403: only for who is inside$"),
            ({"status": 404}, "^404: it has none: it is older, or no syncer$"),
            ({"text": "hello"}, "^what it answers is no status page$"),
            ({"text": "[]"}, "^what it answers is no status page$"),
            ({"body": {"apiVersion": "syncer/v9", "kind": "Status"}}, "^it tells syncer/v9 Status, which this version does not read"),
            ({"text": "x" * (5 << 20)}, "^its answer is longer than "),
            ({"status": 302, "headers": {"Location": "/elsewhere"}}, "^302: "),
        ],
    )
    async def test_none(self, url: str, answer: dict[str, Any], answered: dict[str, Any], words: str) -> None:
        answer.clear()
        answer.update(answered)
        with pytest.raises(SyncerError, match=words):
            await fetch(url)

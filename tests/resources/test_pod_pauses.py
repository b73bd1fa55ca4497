"""Pods after a pause: their host pods are gone, and nobody wanted that."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from syncer.kube.types import PODS, Obj, Side, uid_of
from syncer.resources import pods
from tests.resources.apply import told
from tests.resources.objects import deleting
from tests.resources.pod_states import HOST_WEB, LIVE, ON_NODE, RUNNING, WEB, merged, state

STARTED = str(RUNNING["startTime"])
BEFORE, AFTER = datetime.fromisoformat(STARTED).timestamp() - 1, datetime.fromisoformat(STARTED).timestamp()
AGAIN = ["patch virtual pods default/web status", "create host pods hostns/web-x-default-x-vc"]
GONE = ["delete virtual pods default/web grace=0 unexplained"]
SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": STARTED}

RULES: list[tuple[str, Obj, float, list[str]]] = [
    ("started before the pause: a new host pod", LIVE, AFTER, AGAIN),
    ("started after it: its host pod is lost, as ever", LIVE, BEFORE, GONE),
    ("no pause", LIVE, 0.0, GONE),
    ("bound before it", {**ON_NODE, "status": {"conditions": [SCHEDULED]}}, AFTER, AGAIN),
    ("bound after it", {**ON_NODE, "status": {"conditions": [SCHEDULED]}}, BEFORE, GONE),
    ("bound, and nobody knows when", {**ON_NODE, "status": {"conditions": [{**SCHEDULED, "lastTransitionTime": None}]}}, AFTER, GONE),
    ("finished", merged(LIVE, {"status": {"phase": "Succeeded"}}), AFTER, []),
    ("being deleted", merged(LIVE, deleting()), AFTER, ["delete virtual pods default/web grace=0"]),
    ("never started", {}, AFTER, AGAIN[1:]),
]


@pytest.mark.parametrize(("virtual", "paused_at", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(virtual: Obj, paused_at: float, expected: list[str]) -> None:
    world = state(virtual, None)
    world.policy = replace(world.policy, paused_at=paused_at)
    assert told(world.decide(pods.SPEC, WEB)) == expected
    world.settle(pods.SPEC, WEB)


def test_it_goes_on_as_itself_on_its_node() -> None:
    gate = {"type": "x/ready", "status": "True"}
    ended = {"containerStatuses": [{"name": "app", "state": {"terminated": {"exitCode": 0}}}], "conditions": [SCHEDULED, gate]}
    virtual = merged(LIVE, {"spec": {"readinessGates": [{"conditionType": "x/ready"}]}, "status": ended})
    world = state(virtual, None)
    world.policy = replace(world.policy, paused_at=AFTER)
    before = world.get(Side.VIRTUAL, PODS, WEB)
    world.settle(pods.SPEC, WEB)
    after, host = world.get(Side.VIRTUAL, PODS, WEB), world.get(Side.HOST, PODS, HOST_WEB)
    assert before is not None
    assert after is not None
    assert host is not None
    assert uid_of(after) == uid_of(before)
    assert after["status"] == {"phase": "Pending", "qosClass": "BestEffort", "conditions": [gate]}
    assert host["spec"]["nodeName"] == "n1"


def test_when_it_has_to_wait_it_is_not_taken_for_lost_later() -> None:
    """Its start time is gone by then, and the wait survives a restart of the syncer."""
    world = state(LIVE, None)
    world.policy = replace(world.policy, paused_at=AFTER, service_name="not-there-yet")
    assert [text.split()[0] for text in told(world.decide(pods.SPEC, WEB))] == ["patch", "wait"]
    world.settle(pods.SPEC, WEB)
    world.policy = replace(world.policy, paused_at=0.0, service_name="vc")
    assert told(world.decide(pods.SPEC, WEB)) == AGAIN[1:]

"""Pairs of pods in the states that the tables of tests start from."""

from __future__ import annotations

from syncer.kube.types import NODES, PODS, Key, Obj, Side
from syncer.resources import pods
from syncer.translate.merge import apply
from tests.resources.apply import World
from tests.resources.objects import HOST, pod, ready_world

WEB = Key("default", "web")
HOST_WEB = Key(HOST, "web-x-default-x-vc")

RUNNING = {"phase": "Running", "qosClass": "BestEffort", "startTime": "2027-01-15T07:00:00Z", "podIP": "10.0.0.7"}
ON_NODE = {"spec": {"nodeName": "n1"}}
BOUND = {**ON_NODE, "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}
LIVE = {**ON_NODE, "status": RUNNING}


def merged(*changes: Obj) -> Obj:
    result: Obj = {}
    for change in changes:
        result = apply(result, change)
    return result


def created_host(virtual: Obj) -> Obj:
    """The host pod that a virtual one gets, as stored just after creation."""
    world = ready_world(pods.SPEC)
    world.put(Side.VIRTUAL, PODS, pod({"metadata": virtual["metadata"], "spec": {**virtual["spec"], "nodeName": None}}))
    world.settle(pods.SPEC, WEB)
    host = world.get(Side.HOST, PODS, HOST_WEB)
    assert host is not None
    return host


def state(virtual: Obj | None, host: Obj | None, *, nodes: tuple[str, ...] = ("n1",)) -> World:
    """`virtual` and `host` are changes to an ordinary pod and to its host pod; None: it is not there."""
    world = ready_world(pods.SPEC)
    for node in nodes:
        world.put(Side.VIRTUAL, NODES, {"metadata": {"name": node}})
    plain = pod({"spec": (virtual or {}).get("spec", {})} if virtual else {})
    if virtual is not None:
        world.put(Side.VIRTUAL, PODS, pod(virtual))
    if host is not None:
        world.put(Side.HOST, PODS, apply(created_host(plain), host))
    return world

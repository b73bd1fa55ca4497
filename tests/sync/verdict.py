"""What has to hold after any chaos, when all is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from syncer.kube.types import CONFIGMAPS, PODS, SERVICES, Key, Resource, is_deleting, key_of, labels_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.translate.metadata import recorded_uid
from tests.agreement import disagreements
from tests.sync.chaos_parts import NAMESPACES_USED, STRANGERS, TAKEN, is_ours
from tests.sync.harness import HOST_NAMESPACE, NAMES, World

WRITES_PER_CHANGE = 4.0
"""How many writes one change may cost at most, all in all; about two thirds of that is the most that was seen."""
WRITES_PER_TROUBLE = 4.0
"""Likewise for each fault, and for a third of each start of the syncer."""


async def judge(world: World, *, changes: int, troubles: int) -> None:
    """Raise AssertionError unless both sides agree, nothing is left to do, and it was done without waste."""
    assert world.syncer is not None
    taken = [(resource, Key(namespace, TAKEN)) for resource in STRANGERS for namespace in NAMESPACES_USED]
    problems = disagreements(world.sides(without=taken))
    assert not problems, "\n".join(problems)
    strays = [f"host {resource} {key}" for resource, key in _strays(world)]
    assert not strays, f"nobody's, but labelled as ours: {strays}"
    _judge_refusals(world)
    for resource, key in taken:
        if world.virtual.get(resource, key) is not None:
            world.virtual.remove(resource, key)
    await world.settle_running()
    await asyncio.sleep(310)
    await world.settle_running()
    problems = disagreements(world.sides())
    assert not problems, "\n".join(problems)
    rows = world.syncer.rows()
    assert not rows, rows
    written = len(world.journal.writes())
    limit = WRITES_PER_CHANGE * changes + WRITES_PER_TROUBLE * troubles
    assert written <= limit, f"{written} writes for {changes} changes and {troubles} troubles"
    assert [write for write in await world.scan_writes() if "token" not in write] == [], "a token may be due just then"


def _strays(world: World) -> Iterator[tuple[Resource, Key]]:
    """What looks like ours on the host and is not, besides the strangers that were there before."""
    for resource in world.host.registry.storage.resources():
        for obj in world.host.objects(resource, HOST_NAMESPACE):
            ours = (resource == CONFIGMAPS and key_of(obj) == world.owner) or is_ours(resource, obj)
            if labels_of(obj).get(LABEL_MANAGED_BY) == NAMES.suffix and not ours and not recorded_uid(obj).startswith("of-"):
                yield resource, key_of(obj)


def _judge_refusals(world: World) -> None:
    """Whose name is taken by a stranger on the host is told so, by a condition: an event may be lost when an API server is away."""
    for resource in STRANGERS:
        for namespace in NAMESPACES_USED:
            obj = world.virtual.get(resource, Key(namespace, TAKEN))
            if obj is not None and resource in (PODS, SERVICES) and not is_deleting(obj):
                reasons = [condition.get("reason") for condition in obj["status"].get("conditions") or ()]
                assert "NameTaken" in reasons, f"nobody told that {resource} {namespace}/{TAKEN} cannot be on the host"

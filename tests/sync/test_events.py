"""Events through the whole engine."""

from __future__ import annotations

import pytest

from syncer.kube.types import EVENTS, Obj
from tests.sync.harness import HOST_NAMESPACE, World, named, pod, running

pytestmark = pytest.mark.looptime


def said(name: str) -> Obj:
    """What a scheduler says of a host pod, quicker than anybody else says that there is one."""
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": HOST_NAMESPACE, "name": name}
    message = f"Assigned {HOST_NAMESPACE}/{name}"
    return named("Event", f"{name}.17f1a2", HOST_NAMESPACE, involvedObject=about, reason="Scheduled", message=message, type="Normal")


def heard(world: World) -> list[str]:
    return [event["message"] for event in world.virtual.objects(EVENTS) if event["reason"] == "Scheduled"]


async def test_one_that_comes_before_its_pod_is_mirrored_when_that_comes() -> None:
    async with running() as world:
        await world.settle()
        world.host.create(said("web-x-default-x-one"))
        world.host.create(said("stranger"))
        await world.settle()
        assert heard(world) == []
        world.virtual.create(pod("web"))
        await world.settle()
        assert heard(world) == ["Assigned default/web"]


async def test_of_very_many_that_wait_the_oldest_are_let_go() -> None:
    async with running() as world:
        await world.settle()
        for number in range(300):
            world.host.create(said(f"pod-{number}-x-default-x-one"))
        await world.settle()
        world.virtual.create(pod("pod-0"))
        world.virtual.create(pod("pod-299"))
        await world.settle()
        assert heard(world) == ["Assigned default/pod-299"]


async def test_of_one_that_never_comes_little_is_kept_however_much_is_said() -> None:
    """It is a neighbour's, whose name could be one of ours."""
    async with running() as world:
        await world.settle()
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": HOST_NAMESPACE, "name": "web-x-default-x-one"}
        for number in range(200):
            event = named(
                "Event", f"web-x-default-x-one.{number % 100:x}", HOST_NAMESPACE, involvedObject=about, reason="Scheduled", type="Normal"
            )
            world.host.put({**event, "message": f"the {number}th"})
        await world.settle()
        assert world.syncer is not None
        (withheld,) = world.syncer.caches._withheld.values()
        assert [event["message"] for event in withheld.values()] == [f"the {number}th" for number in range(136, 200)]
        world.virtual.create(pod("web"))
        await world.settle()
        assert "the 199th" in heard(world)

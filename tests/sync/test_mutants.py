"""Tests of the tests: an engine with one part broken on purpose has to be caught by the invariants (`World.check`).

Each scenario passes with the real parts, so what is caught is the broken one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from syncer.errors import NETWORK_ERRORS
from syncer.kube.types import CONFIGMAPS, PODS, SECRETS, SERVICES, Key, Obj, Resource, Side, key_of, uid_of
from syncer.naming import LABEL_NAMESPACE
from syncer.runtime.store import Change
from syncer.sync.caches import Caches
from syncer.sync.engine import Engine
from syncer.sync.executor import Executor, Subject
from syncer.sync.fence import Fence
from syncer.sync.guard import Guard, Orphans
from syncer.sync.intents import Create, Delete, Patch
from tests.fakes.requests import on
from tests.runtime import virtual_time
from tests.sync import chaos
from tests.sync.harness import NAMES, Parts, World, clock, named, pod, stage


class WithoutPrecondition(Executor):
    """Deletes whatever has the name now."""

    async def _delete(self, subject: Subject, intent: Delete) -> None:
        found = await self._clients[intent.side].get(intent.resource, intent.key)
        await self._clients[intent.side].delete(intent.resource, intent.key, uid=uid_of(found), grace=intent.grace)


class WithoutProof(Executor):
    """Takes whatever has the name for its own."""

    async def _create(self, subject: Subject, intent: Create) -> None:
        if intent.side is Side.VIRTUAL:
            return await super()._create(subject, intent)
        key = Key(intent.obj["metadata"]["namespace"], intent.obj["metadata"]["name"])
        client = self._clients[Side.HOST]
        for found in (await client.list_page(intent.resource, key.namespace, field_selector=f"metadata.name={key.name}"))[0]:
            body = {"metadata": {**intent.obj["metadata"], "uid": uid_of(found)}}
            await client.patch(intent.resource, key, body)
        return await super()._create(subject, intent)


class Permissive(Guard):
    """Agrees to everything."""

    async def permit(
        self, resource: str, counterpart: Iterable[object], orphans: Callable[[], Awaitable[Orphans]], *, irreplaceable: bool = False
    ) -> str | None:
        return None


class OpenFence(Fence):
    """Never closes."""

    def require_open(self) -> None:
        pass


class Forgetful(Caches):
    """Own writes do not enter the caches."""

    def keep(self, side: Side, resource: Resource, obj: Obj) -> None:
        pass


class Hasty(Engine):
    """Decides before the caches are complete."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for loop in self.loops:
            loop.run = loop.workers.run  # type: ignore[method-assign]  # that is the breakage


class Credulous(Engine):
    """Takes what is missing from a list for something that was seen being deleted."""

    def _note(self, ref: Any, change: Change) -> None:
        change.vanished = False
        super()._note(ref, change)


class WithoutUid(Executor):
    """Patches whatever has the name now."""

    async def _patch(self, subject: Subject, intent: Patch, *rest: Any) -> None:
        found = await self._clients[intent.side].get(intent.resource, intent.key)
        await super()._patch(subject, replace(intent, uid=uid_of(found)), *rest)


class Impatient(Executor):
    """Takes an object for gone as soon as its deletion is accepted, whatever grace period or finalizers it has."""

    async def _delete(self, subject: Subject, intent: Delete) -> None:
        await super()._delete(subject, intent)
        self._caches.drop(intent.side, intent.resource, intent.key, intent.uid)


class Doubling(Executor):
    """Makes another one when it does not know what became of the first."""

    async def _create(self, subject: Subject, intent: Create) -> None:
        try:
            await super()._create(subject, intent)
        except NETWORK_ERRORS:
            if intent.side is Side.HOST:
                obj = {**intent.obj, "metadata": {**intent.obj["metadata"], "name": f"{key_of(intent.obj).name}-2"}}
                await self._clients[Side.HOST].create(intent.resource, key_of(obj).namespace, obj)
            raise


class Widening(Executor):
    """Copies selectors as they are."""

    async def _write(self, subject: Subject, intent: Any, *rest: Any) -> None:
        if isinstance(intent, Create) and intent.resource == SERVICES and intent.obj["spec"].get("selector"):
            kept = {key: value for key, value in intent.obj["spec"]["selector"].items() if key != LABEL_NAMESPACE}
            intent = replace(intent, obj={**intent.obj, "spec": {**intent.obj["spec"], "selector": kept}})
        elif isinstance(intent, Patch) and intent.resource == SERVICES and "selector" in intent.body.get("spec", {}):
            return
        await super()._write(subject, intent, *rest)


class Deaf(Engine):
    """Loses what somebody waits for."""

    def _subscribe(self, refs: Any, loop: Any, key: Key) -> None:
        pass


class Amnesiac(Engine):
    """Loses retries, and every other appointment."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for loop in self.loops:
            loop.queue.add_after = lambda *_args, **_kwargs: None  # type: ignore[method-assign]  # that is the breakage


class Hoarding(Caches):
    """Does not notice that something is gone from the host."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for (side, _), store in self.stores.items():
            if side is Side.HOST:
                store.remove = lambda *_args, **_kwargs: None  # type: ignore[method-assign]  # that is the breakage


class Crowded(Engine):
    """Lets two workers have the same key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for loop in self.loops:
            loop.queue._held = _Nobody()


class _Nobody(dict[Key, Any]):
    def __contains__(self, key: object) -> bool:
        return False

    def __delitem__(self, key: Key) -> None:
        self.pop(key, None)


async def changed_while_created(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    await world.settle()
    world.host.fault(on("create", PODS), delay=5, times=1)
    world.virtual.create(pod("web"))
    await asyncio.sleep(1)
    world.virtual.change(PODS, Key("default", "web"), {"metadata": {"annotations": {"touched": "yes"}}})
    await asyncio.sleep(10)
    created = [entry.name for entry in world.journal.find("create", PODS, side=Side.HOST)]
    world.journal.violations += [f"{name} was created twice" for name in set(created) if created.count(name) > 1]


async def copied_late(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    world.host.fault(on("create", CONFIGMAPS), status=500, times=9)
    world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
    world.virtual.create(pod("web", configmap="settings"))
    await asyncio.sleep(60)
    if world.host_pod("web") is None:
        world.journal.violations.append("the pod still waits for what is there")


async def ends_slowly(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    world.virtual.create(pod("web"))
    await world.settle_running()
    world.virtual.registry.delete(PODS, Key("default", "web"), {})
    await asyncio.sleep(5)
    if world.virtual_pod("web") is None and world.host_pod("web") is not None:
        world.journal.violations.append("the virtual pod went before its host pod had ended")


async def replaced_before_its_patch(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    world.virtual.create(pod("web"))
    await world.settle()
    key = NAMES.host_key(Key("default", "web"))
    world.host.hang_watches()
    world.host.remove(PODS, key)
    world.host.create(pod(key.name, key.namespace))
    world.protect(Side.HOST, PODS, key, unchanged=True)
    world.virtual.change(PODS, Key("default", "web"), {"metadata": {"annotations": {"touched": "yes"}}})
    await asyncio.sleep(10)


async def replaced_before_its_deletion(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    world.virtual.create(pod("web"))
    await world.settle()
    key = NAMES.host_key(Key("default", "web"))
    world.host.hang_watches()
    world.host.remove(PODS, key)
    world.host.create(pod(key.name, key.namespace))
    world.protect(Side.HOST, PODS, key, unchanged=True)
    world.virtual.remove(PODS, Key("default", "web"))
    await asyncio.sleep(10)


async def foreign_object_in_the_way(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    key = NAMES.host_key(Key("default", "web"))
    world.host.create(pod(key.name, key.namespace))
    world.protect(Side.HOST, PODS, key, unchanged=True)
    world.virtual.create(pod("web"))
    await asyncio.sleep(10)


async def short_list(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    for number in range(30):
        world.virtual.create(pod(f"p{number}"))
    await world.settle()
    world.virtual.hang_watches()
    for number in range(30):
        world.protect(Side.HOST, PODS, NAMES.host_key(Key("default", f"p{number}")))
        world.virtual.remove(PODS, Key("default", f"p{number}"))
    world.virtual.compact()
    world.virtual.drop_watches()
    world.virtual.resume_watches()
    await asyncio.sleep(10)


async def lost_data(world: World, parts: Parts) -> None:
    await world.start(parts=parts)
    for name in ("a", "b"):
        world.virtual.create(pod(name))
        await world.settle()
        world.protect(Side.HOST, PODS, NAMES.host_key(Key("default", name)))
    world.virtual.wipe()
    world.journal.no_writes_after = clock() + 3
    await asyncio.sleep(20)
    world.virtual.create(named("ServiceAccount", "default"))
    world.virtual.create(pod("c"))
    await asyncio.sleep(20)


async def slow_list(world: World, parts: Parts) -> None:
    await world.start()
    world.virtual.create(pod("web"))
    await world.settle()
    world.protect(Side.HOST, PODS, NAMES.host_key(Key("default", "web")))
    await world.kill()
    world.virtual.fault(on("watch", PODS), delay=20, times=1)
    await world.start(parts=parts)
    await asyncio.sleep(30)


async def silent_watches(world: World, parts: Parts) -> None:
    """Nothing is told, so each decision rests on what our own writes answered: no create may be refused as a second one."""
    await world.start(parts=parts)
    await world.settle()
    world.host.hang_watches()
    world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
    world.virtual.create(pod("web", configmap="settings", tokens=True))
    await world.settle()
    for number in range(3):
        world.virtual.change(PODS, Key("default", "web"), {"metadata": {"annotations": {"touched": str(number)}}})
        await world.settle()
    for resource in (PODS, CONFIGMAPS, SECRETS):
        created = [entry.name for entry in world.journal.find("create", resource, side=Side.HOST)]
        world.journal.violations += [f"{name} was created twice" for name in set(created) if created.count(name) > 1]


@dataclass(frozen=True)
class Mutant:
    scenario: Callable[[World, Parts], Awaitable[None]]
    broken: Parts
    caught: str


MUTANTS: Mapping[str, Mutant] = {
    "no UID precondition": Mutant(replaced_before_its_deletion, Parts(executor=WithoutPrecondition), "not provably ours"),
    "no proof of ownership": Mutant(foreign_object_in_the_way, Parts(executor=WithoutProof), "should not have been touched"),
    "a guard that agrees": Mutant(short_list, Parts(guard=Permissive), "should have been left alone"),
    "a list taken for a watch": Mutant(short_list, Parts(engine=Credulous), "should have been left alone"),
    "a fence that stays open": Mutant(lost_data, Parts(fence=OpenFence), "after the fence should have closed"),
    "decisions on half a cache": Mutant(slow_list, Parts(engine=Hasty), "its virtual pod is alive"),
    "a patch of whatever is there": Mutant(replaced_before_its_patch, Parts(executor=WithoutUid), "not provably ours"),
    "a wake that is lost": Mutant(copied_late, Parts(engine=Deaf), "still waits"),
    "what is deleted taken for gone": Mutant(ends_slowly, Parts(executor=Impatient), "before its host pod had ended"),
    "two workers on one key": Mutant(changed_while_created, Parts(engine=Crowded), "was created twice"),
    "own writes not cached": Mutant(silent_watches, Parts(caches=Forgetful), "was created twice"),
}


CHAOS_MUTANTS: Mapping[str, Parts] = {
    "no proof of ownership": Parts(executor=WithoutProof),
    "another create after a timeout": Parts(executor=Doubling),
    "selectors not narrowed": Parts(executor=Widening),
    "retries that are lost": Parts(engine=Amnesiac),
    "deletions on the host not seen": Parts(caches=Hoarding),
}
CHAOS_SEEDS = 5
"""Within so many schedules each has to be caught; most are by the first."""


@pytest.mark.parametrize("parts", CHAOS_MUTANTS.values(), ids=CHAOS_MUTANTS)
def test_chaos_catches_a_broken_engine(parts: Parts) -> None:
    for seed in range(CHAOS_SEEDS):
        try:
            virtual_time.run(lambda seed=seed: chaos.run(seed, parts=parts))  # type: ignore[misc]  # mypy takes the default for an argument
        except Exception:  # noqa: BLE001  whatever it breaks
            return
    pytest.fail(f"not caught in {CHAOS_SEEDS} schedules")


@pytest.mark.looptime
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
async def test_a_broken_engine_is_caught(mutant: Mutant) -> None:
    with pytest.raises(AssertionError, match=mutant.caught):
        async with stage() as world:
            await mutant.scenario(world, mutant.broken)


@pytest.mark.looptime
@pytest.mark.parametrize("scenario", list(dict.fromkeys(mutant.scenario for mutant in MUTANTS.values())), ids=lambda each: each.__name__)
async def test_a_sound_engine_is_not(scenario: Callable[[World, Parts], Awaitable[None]]) -> None:
    async with stage() as world:
        await scenario(world, Parts())

"""Deletions that nobody asked for: caches that are not complete, lists that come back short, control planes that lost their data."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from syncer.kube.types import CONFIGMAPS, NAMESPACES, PODS, SECRETS, SERVICES, Key, Resource, Side, key_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.fence import RELEASE_DELETIONS
from tests.fakes.requests import on
from tests.sync.harness import NAMES, World, clock, named, pod, running, service, stage, wall

pytestmark = pytest.mark.looptime

MANY = 100


async def with_pods(world: World, count: int = MANY, *, run: bool = False, **options: object) -> list[Key]:
    """So many pods, on both sides; their virtual keys."""
    keys = [key_of(world.virtual.create(pod(f"p{number}", **options))) for number in range(count)]  # type: ignore[arg-type]  # passed on as given
    await world.settle()
    if run:
        await world.settle_running()
    assert len(world.host.objects(PODS)) == count
    return keys


def vanish(world: World, side: Side, resource: Resource, keys: list[Key]) -> None:
    """Objects go without any watch ever telling."""
    server = world.servers[side]
    server.hang_watches()
    for key in keys:
        server.remove(resource, key)
    server.put(named("Namespace", "progress", ""))
    server.compact()
    server.drop_watches()
    server.resume_watches()


def release(world: World, *, ahead: float = 0.0) -> None:
    """What `syncer release-deletions` does where the clock is `ahead` by so many seconds."""
    now = datetime.fromtimestamp(wall() + ahead, UTC).isoformat()
    world.host.change(CONFIGMAPS, world.owner, {"metadata": {"annotations": {RELEASE_DELETIONS: now}}})


def deletions(world: World, side: Side, resource: Resource = PODS) -> int:
    return len(world.journal.find("delete", resource, side=side))


async def test_a_host_pod_that_lost_its_label_takes_no_virtual_pod_along() -> None:
    async with running() as world:
        (key,) = await with_pods(world, 1, run=True)
        host_key = NAMES.host_key(key)
        world.host.change(PODS, host_key, {"metadata": {"labels": {LABEL_MANAGED_BY: None}}})
        await asyncio.sleep(120)
        assert world.virtual.get(PODS, key) is not None
        assert deletions(world, Side.VIRTUAL) == deletions(world, Side.HOST) == 0
        world.host.change(PODS, host_key, {"metadata": {"labels": {LABEL_MANAGED_BY: NAMES.suffix}}})
        await world.settle()


async def test_a_list_that_comes_back_without_a_hundred_pods_holds_their_deletion_until_released() -> None:
    async with running() as world:
        assert world.syncer is not None
        await with_pods(world, 20)
        keys = [key_of(world.virtual.create(pod(f"x{number}"))) for number in range(MANY)]
        await world.settle()
        vanish(world, Side.VIRTUAL, PODS, keys)
        await world.settle()
        assert len(world.host.objects(PODS)) == MANY + 20
        assert deletions(world, Side.HOST) == 0
        assert world.syncer.guard.held() == {"pods": MANY}
        assert set(world.syncer.rows().values()) == {"held"}
        assert len(world.syncer.rows()) == MANY
        assert world.warnings(Side.HOST) == [("DeletionsHeld", "vc-one-owner")]
        began = clock()
        world.virtual.create(pod("new"))
        await asyncio.sleep(130)
        assert deletions(world, Side.HOST) == 0
        assert world.host_pod("new") is not None, "everything else goes on"
        assert len([entry for entry in world.journal.entries if entry.at > began and entry.request.verb != "watch"]) < 1000
        release(world)
        await asyncio.sleep(10)
        await world.settle()
        assert len(world.host.objects(PODS)) == 21
        assert world.syncer.guard.held() == {}
        assert world.syncer.rows() == {}
        assert await world.scan_writes() == []


async def test_a_hold_ends_by_itself_when_the_objects_are_back() -> None:
    async with running() as world:
        assert world.syncer is not None
        keys = await with_pods(world, 40)
        before = [world.virtual.get(PODS, key) for key in keys]
        for key in keys:
            world.protect(Side.HOST, PODS, NAMES.host_key(key))
        vanish(world, Side.VIRTUAL, PODS, keys)
        await world.settle()
        assert world.syncer.guard.held() == {"pods": 40}
        for obj in before:
            assert obj is not None
            world.virtual.put(obj)
        await asyncio.sleep(5)
        await world.settle()
        assert world.syncer.rows() == {}
        assert world.syncer.guard.held() == {}


async def test_a_release_does_not_cover_the_next_burst() -> None:
    async with running() as world:
        assert world.syncer is not None
        for burst in ("first", "second"):
            keys = [key_of(world.virtual.create(pod(f"{burst}-{number}"))) for number in range(30)]
            await world.settle()
            vanish(world, Side.VIRTUAL, PODS, keys)
            await asyncio.sleep(20)  # lists in quick succession are paced
            await world.settle()
            assert world.syncer.guard.held() == {"pods": 30}, burst
            assert len(world.host.objects(PODS)) == 30
            release(world)
            await asyncio.sleep(15)
            assert world.host.objects(PODS) == []


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_release_by_a_clock_that_is_ahead_does_not_cover_the_next_burst_either(restarted: bool) -> None:
    async with running() as world:
        release(world, ahead=1800)
        await asyncio.sleep(60)
        if restarted:
            await world.kill()
            await world.start()
        assert world.syncer is not None
        keys = await with_pods(world, 30)
        vanish(world, Side.VIRTUAL, PODS, keys)
        await asyncio.sleep(60)
        assert world.syncer.guard.held() == {"pods": 30}
        assert len(world.host.objects(PODS)) == 30
        release(world, ahead=1200)
        await asyncio.sleep(15)
        assert world.host.objects(PODS) == []


async def test_what_held_pods_need_is_held_with_them() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        world.virtual.create(named("Secret", "password", data={"b": "Mg=="}))
        keys = await with_pods(world, 30, tokens=True, configmap="settings", secret="password")
        assert len(world.host.objects(SECRETS)) == 31
        vanish(world, Side.VIRTUAL, PODS, keys)
        await world.settle()
        assert world.syncer.guard.held() == {"pods": 30, "tokens": 30}
        assert len(world.host.objects(SECRETS)) == 31
        assert world.host_copy(CONFIGMAPS, "settings") is not None
        assert world.host_copy(SECRETS, "password") is not None
        release(world)
        await asyncio.sleep(10)
        await world.settle()
        await world.scan_writes()
        assert world.host.objects(PODS) == []
        assert world.host.objects(SECRETS) == []
        assert world.host_copy(CONFIGMAPS, "settings") is None


async def test_a_mass_deletion_that_was_watched_is_not_held() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(named("Namespace", "shop", ""))
        for number in range(200):
            world.virtual.create(pod(f"p{number}", "shop"))
        await world.settle()
        world.virtual.registry.delete(NAMESPACES, Key("", "shop"), {})
        await world.settle()
        assert world.host.objects(PODS) == []
        assert deletions(world, Side.HOST) == 200, "one each"
        assert world.syncer.guard.held() == {}
        assert world.syncer.rows() == {}


async def test_a_mass_deletion_that_a_broken_watch_tells_of_late_is_not_held() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(pod("witness"))  # the watcher knows the server's data again by the first object that it saw
        await world.settle()
        keys = [key_of(world.virtual.create(pod(f"p{number}"))) for number in range(40)]
        await world.settle()
        await world.virtual.stop()
        for key in keys:
            world.virtual.remove(PODS, key)
        await world.virtual.start()
        await asyncio.sleep(60)
        await world.settle()
        assert len(world.host.objects(PODS)) == 1
        assert world.syncer.guard.held() == {}


@pytest.mark.parametrize(("count", "held"), [(20, 0), (40, 40)])
async def test_what_was_deleted_while_no_syncer_ran_is_held_when_it_is_much(count: int, held: int) -> None:
    async with running() as world:
        keys = await with_pods(world, 40)
        await world.kill()
        for key in keys[:count]:
            world.virtual.remove(PODS, key)
        syncer = await world.start()
        await world.settle()
        assert syncer.guard.held() == ({"pods": held} if held else {})
        assert len(world.host.objects(PODS)) == (40 if held else 40 - count)


async def test_host_pods_that_vanish_in_masses_do_not_take_their_virtual_pods_along() -> None:
    async with running() as world:
        assert world.syncer is not None
        keys = await with_pods(world, 30, run=True)
        vanish(world, Side.HOST, PODS, [NAMES.host_key(key) for key in keys])
        await world.settle()
        assert len(world.virtual.objects(PODS)) == 30
        assert deletions(world, Side.VIRTUAL) == 0
        assert world.syncer.guard.held() == {"pods": 30}
        assert world.host.objects(PODS) == [], "and no pod is started a second time"
        release(world)
        await asyncio.sleep(10)
        await world.settle()
        assert world.virtual.objects(PODS) == []


async def test_host_pods_that_are_deleted_one_by_one_take_theirs_along() -> None:
    async with running() as world:
        assert world.syncer is not None
        keys = await with_pods(world, 30, run=True)
        for key in keys:
            world.host.registry.delete(PODS, NAMES.host_key(key), {})
        await world.settle_running()
        assert world.virtual.objects(PODS) == []
        assert world.syncer.guard.held() == {}


@pytest.mark.parametrize(
    ("side", "resource"),
    [
        pytest.param(Side.VIRTUAL, PODS, id="virtual pods"),
        pytest.param(Side.VIRTUAL, SERVICES, id="virtual Services"),
        pytest.param(Side.VIRTUAL, CONFIGMAPS, id="virtual ConfigMaps"),
        pytest.param(Side.HOST, PODS, id="host pods"),
    ],
)
async def test_nothing_is_deleted_before_the_caches_are_complete(side: Side, resource: Resource) -> None:
    async with running() as world:
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        world.virtual.create(service("web"))
        world.virtual.create(pod("web", configmap="settings"))
        await world.settle_running()
        for kind, name in ((PODS, "web"), (SERVICES, "web"), (CONFIGMAPS, "settings")):
            world.protect(Side.HOST, kind, NAMES.host_key(Key("default", name)))
        await world.kill()
        rules = [world.servers[side].fault(on(verb, resource), hang=True) for verb in ("watch", "list")]
        began = clock()
        await world.start()
        await asyncio.sleep(300)
        assert [str(entry) for entry in world.journal.find("delete", since=began)] == []
        for rule in rules:
            rule.lift()
        await asyncio.sleep(100)
        await world.settle()
        assert world.journal.writes(since=began) == []


class TestFence:
    async def test_a_control_plane_that_lost_its_data_stops_all_writes_even_in_mid_flight(self) -> None:
        async with running() as world:
            assert world.syncer is not None
            await with_pods(world, 3, run=True)
            for number in range(3):
                world.protect(Side.HOST, PODS, NAMES.host_key(Key("default", f"p{number}")))
            world.host.fault(on("create", PODS), delay=1.0)
            for number in range(200):
                world.virtual.create(pod(f"x{number}"))
            await asyncio.sleep(0.5)
            before = world.virtual.registry.storage
            world.virtual.wipe()
            wiped = world.virtual.registry.storage
            world.journal.no_writes_after = clock() + 3.0
            await asyncio.sleep(3.0)
            assert len(world.host.objects(PODS)) < 100
            world.virtual.create(pod("of-another-control-plane"))
            world.host.change(PODS, NAMES.host_key(Key("default", "p0")), {"status": {"podIP": "10.9.9.9"}})
            await asyncio.sleep(130)
            assert world.warnings(Side.HOST) == [("FenceClosed", "vc-one-owner")]
            assert "held" in world.syncer.rows().values()
            assert world.virtual.registry.storage is wiped
            world.virtual.registry.storage = before
            world.virtual.drop_watches()
            world.journal.no_writes_after = float("inf")
            await asyncio.sleep(60)
            await world.settle()
            assert len(world.host.objects(PODS)) == 203
            assert world.syncer.rows() == {}

    async def test_a_syncer_that_starts_on_an_empty_control_plane_writes_nothing(self) -> None:
        async with running() as world:
            await with_pods(world, 3)
            await world.kill()
            world.virtual.wipe()
            world.journal.no_writes_after = clock()
            with pytest.raises(Exception, match="lost its data"):
                await world.start()

    async def test_an_owner_that_is_made_anew_stops_all_writes(self) -> None:
        async with running() as world:
            await with_pods(world, 3)
            for number in range(3):
                world.protect(Side.HOST, PODS, NAMES.host_key(Key("default", f"p{number}")))
            world.host.remove(CONFIGMAPS, world.owner)
            await asyncio.sleep(31)
            world.journal.no_writes_after = clock()
            world.virtual.create(pod("new"))
            world.virtual.registry.delete(PODS, Key("default", "p0"), {})
            await asyncio.sleep(60)
            assert world.host_pod("new") is None


async def test_a_cluster_that_is_not_there_yet_when_the_syncer_starts() -> None:
    async with stage() as world:
        world.virtual.create(pod("web"))
        rules = [server.fault(on("watch"), status=500) for server in world.servers.values()]
        rules += [server.fault(on("list"), status=500) for server in world.servers.values()]
        await world.start()
        await asyncio.sleep(60)
        assert world.host.objects(PODS) == []
        for rule in rules:
            rule.lift()
        await asyncio.sleep(60)
        await world.settle()
        assert world.host_pod("web") is not None

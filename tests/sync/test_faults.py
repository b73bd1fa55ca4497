"""API servers that fail in every way they can, on either side: the syncer catches up by itself, with bounded requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from syncer.kube.types import CONFIGMAPS, EVENTS, PODS, SECRETS, Key, Side, annotations_of, key_of, uid_of
from syncer.translate.metadata import recorded_uid
from tests.fakes.requests import Request, is_write, on
from tests.sync.harness import NAMES, World, clock, host_event, named, pod, running

pytestmark = pytest.mark.looptime


def answers(request: Request) -> bool:
    return request.verb != "watch"


@dataclass(frozen=True)
class Fault:
    """`strike` makes it happen; `lift`, after a minute, ends it; `patience`: seconds after which all is well again."""

    strike: Callable[[World, Side], Awaitable[None]]
    lift: Callable[[World, Side], Awaitable[None]]
    patience: float = 60.0


async def nothing(world: World, side: Side) -> None:
    """For faults that end by themselves."""


async def lift_rules(world: World, side: Side) -> None:
    for rule in world.servers[side]._rules[1:]:  # the first is the journal's
        rule.lift()


def rule(**how: object) -> Fault:
    async def strike(world: World, side: Side) -> None:
        world.servers[side].fault(answers, **how)  # type: ignore[arg-type]  # passed on as given

    return Fault(strike, lift_rules)


async def lose_answers(world: World, side: Side) -> None:
    world.servers[side].fault(is_write, drop=True, after=True, times=3)


async def drop_watches(world: World, side: Side) -> None:
    for _ in range(10):
        world.servers[side].drop_watches()
        await asyncio.sleep(1.0)


async def end_watches(world: World, side: Side) -> None:
    for _ in range(10):
        world.servers[side].drop_watches(clean=True)
        await asyncio.sleep(1.0)


def expire(*, as_status: bool) -> Fault:
    async def strike(world: World, side: Side) -> None:
        server = world.servers[side]
        server.put(named("Namespace", "progress", ""))
        server.compact(as_status=as_status)
        server.drop_watches()

    return Fault(strike, nothing)


async def garble(world: World, side: Side) -> None:
    world.servers[side].inject(b'{"type": "ADDED", "obj\n')


async def silence(world: World, side: Side) -> None:
    world.silence_watches(side)


async def pause(world: World, side: Side) -> None:
    world.servers[side].pause()


async def resume(world: World, side: Side) -> None:
    world.servers[side].resume()


async def stop(world: World, side: Side) -> None:
    await world.servers[side].stop()


async def start(world: World, side: Side) -> None:
    await world.servers[side].start()


FAULTS = {
    "slow": rule(delay=8.0),
    "500": rule(status=500),
    "503": rule(status=503),
    "429 without a word": rule(status=429),
    "429 with Retry-After": rule(status=429, retry_after=20),
    "connections break": rule(drop=True),
    "answers get lost": Fault(lose_answers, lift_rules),
    "answers never come": Fault(rule(hang=True).strike, lift_rules, patience=100),
    "watches break": Fault(drop_watches, nothing),
    "watches end": Fault(end_watches, nothing),
    "410 in an event": expire(as_status=False),
    "410 as status": expire(as_status=True),
    "garbage in watches": Fault(garble, nothing),
    "watches are half-open": Fault(silence, nothing, patience=320),
    "the server hangs": Fault(pause, resume, patience=100),
    "the server restarts": Fault(stop, start),
}
REQUESTS_PER_WATCH = 22
"""In a minute: one that ends ten times, with a look each time whether the data are the same. A hot loop would make thousands."""
RECONCILES_PER_MINUTE = 120
"""Requests that a stopped server does not get to see are counted so."""


async def in_sync(world: World) -> None:
    """The host has what the virtual side asks for, the virtual side sees what the host does, and nothing more is written."""
    for virtual in world.virtual.objects(PODS):
        host = world.host.get(PODS, NAMES.host_key(key_of(virtual)))
        assert host is not None, key_of(virtual)
        assert recorded_uid(host) == uid_of(virtual)
        assert annotations_of(host).get("note") == annotations_of(virtual).get("note")
        assert virtual["status"].get("podIP") == host["status"].get("podIP")
        assert virtual["spec"].get("nodeName") == host["spec"].get("nodeName")
        for entry in virtual["spec"].get("volumes") or ():
            name = entry["configMap"]["name"]
            config, copy = world.virtual.get(CONFIGMAPS, Key("default", name)), world.host_copy(CONFIGMAPS, name)
            assert config is not None
            assert copy is not None
            assert copy["data"] == config["data"]
    assert len(world.host.objects(PODS)) == len(world.virtual.objects(PODS))
    assert world.syncer is not None
    assert world.syncer.rows() == {}
    assert await world.scan_writes() == []


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_the_syncer_catches_up_with_bounded_requests(fault: Fault, side: Side) -> None:
    async with running() as world:
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        for name in ("kept", "gone"):
            world.virtual.create(pod(name, configmap="settings"))
        await world.settle_running()
        world.protect(Side.HOST, PODS, NAMES.host_key(Key("default", "kept")))
        world.protect(Side.VIRTUAL, PODS, Key("default", "kept"))

        assert world.syncer is not None
        reconciles, began = world.syncer.outcomes.counts.total(), clock()
        await fault.strike(world, side)
        world.virtual.create(pod("new", configmap="settings"))
        world.virtual.change(CONFIGMAPS, Key("default", "settings"), {"data": {"a": "2"}})
        world.virtual.change(PODS, Key("default", "kept"), {"metadata": {"annotations": {"note": "changed"}}})
        world.virtual.registry.delete(PODS, Key("default", "gone"), {})
        world.host.change(PODS, NAMES.host_key(Key("default", "kept")), {"status": {"podIP": "10.244.7.7"}})
        await asyncio.sleep(began + 60 - clock())
        minute = Counter(f"{entry.side} {entry.request.verb} {entry.request.path}" for entry in world.journal.entries if entry.at >= began)
        watches = sum(place_side is side for place_side, _ in world.syncer.caches.informers)
        assert minute.total() < REQUESTS_PER_WATCH * watches, minute.most_common(5)
        assert world.syncer.outcomes.counts.total() - reconciles < RECONCILES_PER_MINUTE, world.syncer.outcomes.counts
        await fault.lift(world, side)
        await asyncio.sleep(fault.patience)
        await world.settle_running()

        await in_sync(world)
        assert world.virtual_pod("gone") is None
        assert world.warnings() == []
        made = [
            event for event in world.host.registry.storage.history if event.type == "ADDED" and key_of(event.obj).name.startswith("new-x")
        ]
        assert len(made) <= 1, "compacted histories have none"
        writes = [entry for entry in world.journal.entries if entry.at > began + 60 and is_write(entry.request)]
        assert len(writes) < 12, [str(entry) for entry in writes]


class TestRetryAfter:
    @pytest.mark.parametrize("status", [429, 503, 500])
    async def test_it_is_obeyed_by_the_pair_that_was_told(self, status: int) -> None:
        async with running() as world:
            began = clock()
            world.host.fault(on("create", PODS), status=status, retry_after=20, times=2)
            world.virtual.create(pod("web"))
            await asyncio.sleep(60)
            tries = [entry.at - began for entry in world.journal.find("create", PODS, side=Side.HOST, since=began)]
            assert tries == pytest.approx([0, 20, 40], abs=1.0)
            assert world.warnings() == []

    @pytest.mark.parametrize("status", [429, 503])
    async def test_an_overloaded_server_is_left_alone_by_the_whole_lane_and_only_by_that(self, status: int) -> None:
        async with running() as world:
            world.virtual.create(pod("old"))
            await world.settle_running()
            began = clock()
            world.virtual.fault(on("patch", PODS, subresource="status"), status=status, retry_after=30, times=1)
            old = NAMES.host_key(Key("default", "old"))
            world.host.change(PODS, old, {"status": {"podIP": "10.244.9.9"}})
            await asyncio.sleep(1)
            for number in range(5):
                world.virtual.create(pod(f"new-{number}"))
                world.host.change(PODS, old, {"status": {"podIP": f"10.244.9.{number}"}})
            await asyncio.sleep(20)
            assert len(world.host.objects(PODS)) == 6, "the other lane goes on"
            assert len(world.journal.find("patch", PODS, subresource="status", since=began)) == 1
            await asyncio.sleep(20)
            late = world.journal.find("patch", PODS, subresource="status", since=began + 1)
            assert [entry.at - began for entry in late] == pytest.approx([30], abs=1)
            virtual = world.virtual_pod("old")
            assert virtual is not None
            assert virtual["status"]["podIP"] == "10.244.9.4"


async def test_a_burst_of_status_collapses_to_the_newest() -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        await world.settle_running()
        world.virtual.fault(on("patch", PODS, subresource="status"), delay=0.5)
        began = clock()
        for number in range(200):
            world.host.change(PODS, NAMES.host_key(Key("default", "web")), {"status": {"podIP": f"10.244.1.{number}"}})
            await asyncio.sleep(0.01)
        await world.settle()
        virtual = world.virtual_pod("web")
        assert virtual is not None
        assert virtual["status"]["podIP"] == "10.244.1.199"
        assert 2 <= len(world.journal.find("patch", PODS, subresource="status", since=began)) <= 6


@pytest.mark.parametrize("how", [{"hang": True}, {"status": 500}, {"status": 429, "retry_after": 60}], ids=str)
async def test_events_that_cannot_be_written_hold_nothing_up(how: dict[str, object]) -> None:
    async with running() as world:
        world.virtual.create(pod("old"))
        await world.settle_running()
        for verb in ("create", "patch"):
            world.virtual.fault(on(verb, EVENTS), **how)  # type: ignore[arg-type]  # passed on as given
        host = world.host_pod("old")
        assert host is not None
        for number in range(40):
            world.host.create(host_event(f"old.{number:x}", host))
        await asyncio.sleep(1)
        began = clock()
        world.virtual.create(pod("new"))
        await asyncio.sleep(1)
        world.run_pods()
        await asyncio.sleep(1)
        virtual = world.virtual_pod("new")
        assert virtual is not None
        assert virtual["status"]["phase"] == "Running"
        await asyncio.sleep(60)
        assert len(world.journal.find("create", EVENTS, since=began)) < 40 * 12


async def test_events_are_mirrored_in_the_end_each_once() -> None:
    async with running() as world:
        world.virtual.create(pod("old"))
        await world.settle_running()
        rule = world.virtual.fault(on("create", EVENTS), drop=True, after=True)
        host = world.host_pod("old")
        assert host is not None
        for number in range(10):
            world.host.create(host_event(f"old.{number:x}", host))
        await asyncio.sleep(30)
        rule.lift()
        await asyncio.sleep(60)
        assert len(world.virtual.objects(EVENTS)) == 10
        assert await world.scan_writes() == []


@pytest.mark.parametrize("side", list(Side))
async def test_a_half_open_watch_is_noticed_within_five_minutes(side: Side) -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        await world.settle()
        world.silence_watches(side)
        world.virtual.create(pod("new"))
        world.run_pods()
        await asyncio.sleep(305)
        await world.settle_running()
        await in_sync(world)


async def test_a_secret_that_cannot_be_fetched_is_fetched_later() -> None:
    async with running() as world:
        world.virtual.create(named("Secret", "password", data={"b": "Mg=="}))
        world.virtual.fault(on("get", SECRETS), status=500, times=4)
        world.virtual.create(pod("web", secret="password"))
        await asyncio.sleep(30)
        await world.settle()
        copy = world.host_copy(SECRETS, "password")
        assert copy is not None
        assert copy["data"] == {"b": "Mg=="}
        assert len(world.journal.find("create", SECRETS, side=Side.HOST)) == 1

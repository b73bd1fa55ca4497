"""ConfigMaps and Secrets are watched as metadata; the rest is fetched while something refers to it, and not a byte longer."""

from __future__ import annotations

import asyncio
from base64 import b64encode

import pytest

from syncer.kube.types import CONFIGMAPS, INGRESSES, PODS, SECRETS, Key, Obj, Side
from tests.fakes.requests import on
from tests.sync.harness import World, clock, named, pod, running

pytestmark = pytest.mark.looptime

TREASURE = b64encode(b"treasure" * 50).decode()
PASSWORD = Key("default", "password")


def secret(name: str = "password", value: str = TREASURE) -> dict[str, object]:
    return named("Secret", name, data={"b": value})


def treasures(world: World) -> int:
    """How many objects in any cache of the virtual side hold secret data."""
    assert world.syncer is not None
    stores = [store for (side, _), store in world.syncer.caches.stores.items() if side is Side.VIRTUAL]
    return sum(1 for store in stores for record in store.records() if TREASURE.encode() in record.raw)


def fetched(world: World) -> int:
    return len(world.journal.find("get", SECRETS, side=Side.VIRTUAL))


async def test_what_nobody_refers_to_is_never_fetched_nor_kept() -> None:
    async with running() as world:
        assert world.syncer is not None
        for number in range(50):
            world.virtual.create(secret(f"s{number}"))
        await world.settle()
        await world.scan_writes()
        store = world.syncer.store(Side.VIRTUAL, SECRETS)
        assert len(store) == 50
        assert treasures(world) == 0
        assert store.bytes_kept < 50 * 300
        assert fetched(world) == 0
        assert world.journal.find("list", SECRETS, side=Side.VIRTUAL) == []
        watches = world.journal.find("watch", SECRETS, side=Side.VIRTUAL) + world.journal.find("watch", CONFIGMAPS, side=Side.VIRTUAL)
        assert all("PartialObjectMetadata" in entry.request.headers["Accept"] for entry in watches)


async def test_what_is_referred_to_is_fetched_once_a_change_and_let_go_after_the_last_pod() -> None:
    async with running() as world:
        world.virtual.create(secret())
        for name in ("a", "b"):
            world.virtual.create(pod(name, secret="password"))
        await world.settle_running()
        assert fetched(world) == 1
        assert treasures(world) == 1
        await world.scan_writes()
        assert fetched(world) == 1
        world.virtual.change(SECRETS, PASSWORD, {"data": {"c": "Mg=="}})
        await world.settle()
        copy = world.host_copy(SECRETS, "password")
        assert copy is not None
        assert copy["data"] == {"b": TREASURE, "c": "Mg=="}
        assert fetched(world) == 2
        for name, left in (("a", 1), ("b", 0)):
            world.virtual.registry.delete(PODS, Key("default", name), {})
            await world.settle_running()
            assert treasures(world) == left
            assert (world.host_copy(SECRETS, "password") is not None) == bool(left)
        assert fetched(world) == 2


async def test_a_relist_fetches_nothing_again() -> None:
    async with running() as world:
        world.virtual.create(secret())
        world.virtual.create(pod("a", secret="password"))
        await world.settle()
        world.virtual.compact()
        world.virtual.drop_watches()
        await asyncio.sleep(30)
        await world.settle()
        assert fetched(world) == 1
        assert treasures(world) == 1


async def test_a_change_that_overtakes_the_answer_to_the_fetch_empties_nothing() -> None:
    async with running() as world:
        world.virtual.create(secret())
        world.virtual.create(pod("a", secret="password"))
        await world.settle()
        began = clock()
        world.virtual.fault(on("get", SECRETS), delay=2.0, after=True, times=1)
        world.virtual.change(SECRETS, PASSWORD, {"data": {"b": "MQ=="}})
        await asyncio.sleep(1)
        world.virtual.change(SECRETS, PASSWORD, {"data": {"b": "Mg=="}})
        await asyncio.sleep(5)
        await world.settle()
        bodies = [entry.request.body for entry in world.journal.find("patch", SECRETS, side=Side.HOST, since=began)]
        assert [body["data"] for body in bodies] in ([{"b": "Mg=="}], [{"b": "MQ=="}, {"b": "Mg=="}])
        copy = world.host_copy(SECRETS, "password")
        assert copy is not None
        assert copy["data"] == {"b": "Mg=="}


async def test_a_secret_that_goes_while_it_is_fetched() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.fault(on("get", SECRETS), delay=2.0, times=1)
        world.virtual.create(secret())
        world.virtual.create(pod("a", secret="password"))
        await asyncio.sleep(1)
        world.virtual.remove(SECRETS, PASSWORD)
        await asyncio.sleep(30)
        await world.settle()
        assert world.host_copy(SECRETS, "password") is None
        assert world.host_pod("a") is not None
        assert world.syncer.rows() == {}
        world.virtual.create(secret())
        await world.settle()
        assert world.host_copy(SECRETS, "password") is not None


async def test_a_secret_made_anew_takes_its_predecessors_copy_over() -> None:
    async with running() as world:
        world.virtual.create(secret())
        world.virtual.create(pod("a", secret="password"))
        await world.settle()
        world.virtual.hang_watches()
        world.virtual.remove(SECRETS, PASSWORD)
        world.virtual.create(secret(value="Mg=="))
        world.virtual.resume_watches()
        await asyncio.sleep(60)
        await world.settle()
        copy = world.host_copy(SECRETS, "password")
        assert copy is not None
        assert copy["data"] == {"b": "Mg=="}
        assert await world.scan_writes() == []


async def test_an_immutable_configmap_made_anew() -> None:
    async with running() as world:
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}, immutable=True))
        world.virtual.create(pod("a", configmap="settings"))
        await world.settle()
        world.virtual.remove(CONFIGMAPS, Key("default", "settings"))
        world.virtual.create(named("ConfigMap", "settings", data={"a": "2"}))
        await world.settle()
        copy = world.host_copy(CONFIGMAPS, "settings")
        assert copy is not None
        assert copy["data"] == {"a": "2"}
        assert await world.scan_writes() == []


def ingress(name: str, secret: str) -> Obj:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"tls": [{"secretName": secret}]}}


async def test_an_ingress_counts_as_a_pod_does() -> None:
    async with running() as world:
        world.virtual.create(secret())
        world.virtual.create(ingress("web", "password"))
        await world.settle()
        assert fetched(world) == 1
        copy = world.host_copy(SECRETS, "password")
        assert copy is not None
        assert copy["data"] == {"b": TREASURE}
        world.virtual.change(INGRESSES, Key("default", "web"), {"spec": {"tls": [{"secretName": "other"}]}})
        await world.settle()
        assert world.host_copy(SECRETS, "password") is None
        assert treasures(world) == 0
        world.virtual.change(INGRESSES, Key("default", "web"), {"spec": {"tls": [{"secretName": "password"}]}})
        await world.settle()
        assert world.host_copy(SECRETS, "password") is not None
        world.virtual.remove(INGRESSES, Key("default", "web"))
        await world.settle()
        assert world.host_copy(SECRETS, "password") is None
        assert treasures(world) == 0


async def test_what_a_pod_refers_to_is_copied_before_it_whichever_was_seen_first() -> None:
    """Watches of two types bring their news in any order."""
    async with running() as world:
        for number in range(20):
            begin = [named("ConfigMap", f"c{number}", data={"a": "1"}), pod(f"p{number}", configmap=f"c{number}")]
            for obj in begin if number % 2 else reversed(begin):
                world.virtual.create(obj)
            await asyncio.sleep(0.01 * (number % 3))
        await world.settle()
        copies = {f"c{number}" for number in range(20) if world.host_copy(CONFIGMAPS, f"c{number}") is not None}
        assert len(copies) == 20
        assert await world.scan_writes() == []

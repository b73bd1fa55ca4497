"""Services, what is behind them and what is said of them, by the whole engine: order, faults, and how many writes it takes."""

from __future__ import annotations

import asyncio

import pytest

from syncer.kube.types import ENDPOINT_SLICES, ENDPOINTS, EVENTS, SERVICES, Key, Obj, Side, key_of
from syncer.resources.events import APART, CROWD
from tests.fakes.requests import on
from tests.sync.harness import NAMES, World, clock, host_event, named, pod, running, service

pytestmark = pytest.mark.looptime

WEB = Key("default", "web")


def endpoints(*addresses: str) -> Obj:
    return named("Endpoints", "web", subsets=[{"addresses": [{"ip": address} for address in addresses], "ports": [{"port": 80}]}])


def endpoint_slice(address: str) -> Obj:
    fields: Obj = {"addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]}
    obj = {**named("EndpointSlice", "web-1", **fields), "apiVersion": "discovery.k8s.io/v1"}
    obj["metadata"]["labels"] = {"kubernetes.io/service-name": "web"}
    return obj


def by_hand() -> Obj:
    return service("web", selector=None)


def both(world: World) -> tuple[Obj, Obj]:
    virtual, host = world.virtual.get(SERVICES, WEB), world.host_copy(SERVICES, "web")
    assert virtual is not None
    assert host is not None
    return virtual["spec"], host["spec"]


class TestDeletedOnTheHost:
    async def test_it_is_back_with_its_address_at_once(self) -> None:
        async with running() as world:
            world.virtual.create(service("web", type="NodePort"))
            await world.settle()
            before, _ = both(world)
            told = world.warnings()
            world.host.remove(SERVICES, NAMES.host_key(WEB))
            await world.settle()
            virtual, host = both(world)
            assert virtual == before
            assert [virtual[field] for field in ("clusterIP", "ports")] == [host[field] for field in ("clusterIP", "ports")]
            assert world.warnings() == told

    async def test_whoever_took_the_address_keeps_it(self) -> None:
        async with running() as world:
            world.virtual.create(service("web"))
            await world.settle()
            before, _ = both(world)
            told = len(world.warnings())
            world.host.fault(on("create", SERVICES), delay=3.0, times=1)
            world.host.remove(SERVICES, NAMES.host_key(WEB))
            await asyncio.sleep(1)
            world.host.create(service("stranger", NAMES.host_namespace, clusterIP=before["clusterIP"]))
            world.protect(Side.HOST, SERVICES, Key(NAMES.host_namespace, "stranger"), unchanged=True)
            await world.settle()
            virtual, host = both(world)
            assert virtual["clusterIP"] == host["clusterIP"] != before["clusterIP"]
            assert world.warnings()[told:] == [("Readdressed", "web")]
            assert await world.scan_writes() == []


class TestBackends:
    @pytest.mark.parametrize("service_first", [True, False])
    async def test_whichever_comes_first(self, service_first: bool) -> None:
        async with running() as world:
            objects = [endpoints("192.0.2.1"), endpoint_slice("192.0.2.2")]
            for obj in [by_hand(), *objects] if service_first else [*objects, by_hand()]:
                world.virtual.create(obj)
                await world.settle()
            found = world.host_copy(ENDPOINTS, "web")
            assert found is not None
            assert found["subsets"][0]["addresses"] == [{"ip": "192.0.2.1"}]
            assert world.host_copy(ENDPOINT_SLICES, "web-1") is not None
            assert world.syncer is not None
            assert world.syncer.rows() == {}
            assert await world.scan_writes() == []

    async def test_a_selector_takes_the_endpoints_away_and_gives_them_back(self) -> None:
        async with running() as world:
            world.virtual.create(by_hand())
            world.virtual.create(endpoints("192.0.2.1"))
            await world.settle()
            for selector in ({"app": "web"}, None):
                world.virtual.change(SERVICES, WEB, {"spec": {"selector": selector}})
                await world.settle()
                assert (world.host_copy(ENDPOINTS, "web") is None) is bool(selector)
            assert await world.scan_writes() == []

    async def test_what_controllers_make_costs_nothing(self) -> None:
        async with running() as world:
            world.virtual.create(service("web"))
            await world.settle()
            began = clock()
            made = endpoint_slice("10.244.0.1")
            made["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io"
            for number in range(20):
                for obj in (endpoints(f"10.244.0.{number}"), {**made, "endpoints": [{"addresses": [f"10.244.0.{number}"]}]}):
                    resource = ENDPOINTS if obj["kind"] == "Endpoints" else ENDPOINT_SLICES
                    if world.virtual.get(resource, key_of(obj)) is None:
                        world.virtual.create(obj)
                    else:
                        world.virtual.change(resource, key_of(obj), {k: obj[k] for k in ("subsets", "endpoints") if k in obj})
                await asyncio.sleep(0.1)
            await world.settle()
            assert world.journal.writes(since=began) == []
            assert world.journal.find("get", ENDPOINTS, since=began) == [], "their contents are not even fetched"
            assert world.syncer is not None
            assert world.syncer.store(Side.VIRTUAL, ENDPOINT_SLICES).get(key_of(made)) is None

    async def test_a_crash_in_between_leaves_nothing_behind(self) -> None:
        async with running() as world:
            world.virtual.create(by_hand())
            world.virtual.create(endpoints("192.0.2.1"))
            world.virtual.create(endpoint_slice("192.0.2.2"))
            await world.settle()
            await world.kill()
            world.virtual.remove(SERVICES, WEB)
            world.virtual.remove(ENDPOINTS, WEB)
            await world.start()
            await world.settle()
            left = [key_of(obj).name for kind in (SERVICES, ENDPOINTS, ENDPOINT_SLICES) for obj in world.host.objects(kind)]
            assert sorted(left) == ["one", "one-dns"]


class TestEvents:
    async def test_updates_collapse_and_the_last_one_is_shown(self) -> None:
        async with running() as world:
            world.virtual.create(pod("web"))
            await world.settle_running()
            host = world.host_pod("web")
            assert host is not None
            event = world.host.create(host_event("web.1a2b", host))
            await world.settle()
            began = clock()
            for count in range(2, 501):
                world.host.change(EVENTS, key_of(event), {"count": count})
                await asyncio.sleep(0.02)
            await asyncio.sleep(2 * APART)
            writes = world.journal.find("patch", EVENTS, side=Side.VIRTUAL, since=began)
            assert 2 <= len(writes) <= 4
            found = world.virtual.get(EVENTS, Key("default", "web.1a2b"))
            assert found is not None
            assert found["count"] == 500

    async def test_a_storm_of_different_ones(self) -> None:
        async with running() as world:
            world.virtual.create(pod("web"))
            await world.settle_running()
            host = world.host_pod("web")
            assert host is not None
            for number in range(250):
                world.host.create(host_event(f"web.{0x17F1A000 + number:x}", host, f"number {number}"))
                await asyncio.sleep(0.01)
            await asyncio.sleep(30)
            writes = world.journal.find("create", EVENTS, side=Side.VIRTUAL)
            assert CROWD <= len(writes) <= 2 * CROWD + 10
            newest = world.virtual.get(EVENTS, Key("default", f"web.{0x17F1A000 + 249:x}"))
            assert newest is not None
            assert newest["message"] == "number 249"

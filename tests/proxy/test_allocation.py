"""Addresses for Services that are being created: what the host is asked for, what the tenant gets, and what is left when it fails.

Between a whole running syncer and two fake API servers; a create goes the way that the virtual API server sends it.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from syncer.errors import NETWORK_ERRORS, ApiError, Conflict, FenceClosed, Forbidden, Invalid, Refused, Stale
from syncer.kube.types import SERVICES, Key, Obj, Side, annotations_of, key_of, uid_of
from syncer.proxy.admission import AdmissionServer
from syncer.proxy.allocation import HostAllocator
from syncer.proxy.certificates import Certificates
from syncer.translate.metadata import recorded_uid
from syncer.translate.services import PENDING, host_service
from tests.fakes.requests import on
from tests.sync.harness import NAMES, World, clock, running, service, wall

pytestmark = pytest.mark.looptime

WEB = Key("default", "web")
HOST_WEB = NAMES.host_key(WEB)


def review(obj: Obj, *, operation: str = "CREATE", old: Obj | None = None, dry_run: bool = False) -> Obj:
    """What the virtual API server asks. The name is left out of the request where the server is to choose it."""
    metadata = obj["metadata"]
    request: Obj = {
        "uid": "1",
        "operation": operation,
        "namespace": metadata["namespace"],
        "name": metadata.get("name", ""),
        "dryRun": dry_run,
        "object": obj,
        "oldObject": old,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def patched(obj: Obj, operations: list[Obj] | None) -> Obj:
    """`obj` after those operations, all of which add."""
    result: Obj = json.loads(json.dumps(obj))
    for operation in operations or ():
        assert operation["op"] == "add"
        *steps, last = operation["path"].strip("/").split("/")
        target: Any = result
        for step in steps:
            target = target[int(step)] if isinstance(target, list) else target[step]
        target[last] = operation["value"]
    return result


@dataclass
class Desk:
    """The allocator of a running syncer."""

    world: World
    allocator: HostAllocator

    async def create(self, obj: Obj) -> Obj:
        """Create it as a tenant does; the virtual Service as it is stored."""
        return self.world.virtual.create(patched(obj, await self.allocator.allocate(review(obj))))

    def host(self, key: Key = HOST_WEB) -> Obj:
        found = self.world.host.get(SERVICES, key)
        assert found is not None
        return found

    def virtual(self, key: Key = WEB) -> Obj:
        found = self.world.virtual.get(SERVICES, key)
        assert found is not None
        return found


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    async with running() as world:
        assert world.syncer is not None
        syncer = world.syncer
        owner = syncer.fence.owner_reference()
        keep = partial(syncer.caches.keep, Side.HOST, SERVICES)
        yield Desk(world, HostAllocator(syncer.clients, syncer.fence, names=NAMES, owner=owner, wall=wall, keep=keep))


async def test_a_service_is_stored_with_the_hosts_address_and_adopted_with_one_write() -> None:
    async with desk() as one:
        began = clock()
        operations = await one.allocator.allocate(review(service("web")))
        host = one.host()
        assert annotations_of(host)[PENDING] == str(int(wall()))
        assert recorded_uid(host) == ""
        assert host["metadata"]["ownerReferences"][0]["name"] == "vc-one-owner"
        virtual = one.world.virtual.create(patched(service("web"), operations))
        assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"]
        await one.world.settle()
        host = one.host()
        assert PENDING not in annotations_of(host)
        assert recorded_uid(host) == uid_of(virtual)
        assert len(one.world.journal.writes(since=began)) == 2, "the creation, and the mark going"
        assert await one.world.scan_writes() == []


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"type": "NodePort"}, id="node port"),
        pytest.param({"type": "LoadBalancer"}, id="load balancer"),
        pytest.param({"clusterIP": "None"}, id="headless"),
        pytest.param(
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}, {"port": 81, "name": "b"}]}, id="a node port asked for"
        ),
    ],
)
async def test_whatever_the_host_allocates_is_what_the_tenant_sees(spec: Obj) -> None:
    async with desk() as one:
        await one.create(service("web", **spec))
        await one.world.settle()
        virtual, host = one.virtual(), one.host()
        assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"]
        ports = [[port.get("nodePort") for port in obj["spec"]["ports"]] for obj in (virtual, host)]
        assert ports[0] == ports[1]
        assert await one.world.scan_writes() == []


async def test_a_generated_name_is_chosen_before_the_host_is_asked() -> None:
    async with desk() as one:
        obj = service("web")
        obj["metadata"] = {"generateName": "web-" + "x" * 70, "namespace": "default"}
        virtual = await one.create(obj)
        name = key_of(virtual).name
        assert name.startswith("web-x")
        assert len(name) == 63
        assert one.host(NAMES.host_key(key_of(virtual)))["spec"]["clusterIP"] == virtual["spec"]["clusterIP"]
        other = await one.create(obj)
        assert key_of(other) != key_of(virtual)


async def test_a_dry_run_never_gets_there() -> None:
    async with desk() as one:
        server = AdmissionServer(one.allocator, Certificates(b"", b"", 0.0, 0.0, ca=b"", ca_key=b""), port=0)
        began = clock()
        assert await server.respond(review(service("web"), dry_run=True)) == {"allowed": True}
        assert one.world.journal.writes(since=began) == []
        answer = await server.respond(review(service("web")))
        assert json.loads(b64decode(answer["patch"]))[0]["value"] == one.host()["spec"]["clusterIP"]


@pytest.mark.parametrize("mark", ["type", "controlled-by"])
async def test_what_needs_no_address_is_left_as_it_is(mark: str) -> None:
    async with desk() as one:
        obj = service("web", **({"type": "ExternalName", "externalName": "example.org"} if mark == "type" else {}))
        if mark == "controlled-by":
            obj["metadata"]["labels"] = {"vcluster.loft.sh/controlled-by": "other"}
        assert await one.allocator.allocate(review(obj)) is None
        assert one.world.host.get(SERVICES, HOST_WEB) is None


async def test_a_name_that_somebody_else_has_on_the_host_is_refused_and_left_alone() -> None:
    async with desk() as one:
        one.world.host.create(service(HOST_WEB.name, HOST_WEB.namespace))
        one.world.protect(Side.HOST, SERVICES, HOST_WEB, unchanged=True)
        with pytest.raises(Refused, match="choose another name") as refusal:
            await one.allocator.allocate(review(service("web")))
        assert NAMES.host_namespace not in str(refusal.value)
        assert HOST_WEB.name not in str(refusal.value)


async def test_a_second_call_for_one_create_finds_what_the_first_one_made() -> None:
    async with desk() as one:
        first = await one.allocator.allocate(review(service("web")))
        await asyncio.sleep(50)
        second = await one.allocator.allocate(review(service("web")))
        assert first == second
        await asyncio.sleep(30)
        assert annotations_of(one.host())[PENDING], "its time counts from the last call"
        await asyncio.sleep(40)
        assert one.world.host.get(SERVICES, HOST_WEB) is None


async def test_two_calls_at_once_agree() -> None:
    async with desk() as one:
        first, second = await asyncio.gather(*(one.allocator.allocate(review(service("web"))) for _ in range(2)))
        assert first == second


async def test_a_leftover_of_another_shape_is_taken_over_with_the_new_one() -> None:
    async with desk() as one:
        await one.allocator.allocate(review(service("web", selector={"app": "old"})))
        await one.create(service("web", selector={"app": "new"}, ports=[{"port": 81}], type="NodePort"))
        await one.world.settle()
        host = one.host()
        assert host["spec"]["selector"]["app"] == "new"
        assert [port["port"] for port in host["spec"]["ports"]] == [81]
        assert one.virtual()["spec"]["ports"][0]["nodePort"] == host["spec"]["ports"][0]["nodePort"]
        assert await one.world.scan_writes() == []


async def test_a_predecessors_host_service_is_taken_over_before_its_deletion_was_seen() -> None:
    async with desk() as one:
        await one.create(service("web"))
        await one.world.settle()
        address = one.host()["spec"]["clusterIP"]
        one.world.virtual.hang_watches()
        one.world.virtual.remove(SERVICES, WEB)
        virtual = await one.create(service("web"))
        assert virtual["spec"]["clusterIP"] == address
        one.world.virtual.resume_watches()
        await one.world.settle()
        assert recorded_uid(one.host()) == uid_of(virtual)
        assert one.host()["spec"]["clusterIP"] == address
        assert await one.world.scan_writes() == []


@pytest.mark.parametrize("addresses", [(None, "None"), ("None", None)], ids=["headless now", "not headless any more"])
async def test_a_predecessor_of_the_other_kind_is_not_taken_over(addresses: tuple[str | None, str | None]) -> None:
    async with desk() as one:
        before, now = ({"clusterIP": address} if address else {} for address in addresses)
        await one.create(service("web", **before))
        await one.world.settle()
        one.world.virtual.hang_watches()
        one.world.virtual.remove(SERVICES, WEB)
        with pytest.raises(Stale, match="try again"):
            await one.allocator.allocate(review(service("web", **now)))
        virtual = await one.create(service("web", **now))
        one.world.virtual.resume_watches()
        await one.world.settle()
        assert virtual["spec"]["clusterIP"] == one.virtual()["spec"]["clusterIP"] == one.host()["spec"]["clusterIP"]
        assert (virtual["spec"]["clusterIP"] == "None") is bool(now)


async def test_a_predecessors_deletion_that_is_under_way_ends_with_two_that_agree() -> None:
    async with desk() as one:
        await one.create(service("web"))
        await one.world.settle()
        one.world.host.fault(on("delete", SERVICES), delay=1.0, times=1)
        one.world.virtual.remove(SERVICES, WEB)
        await asyncio.sleep(0.5)
        await one.create(service("web"))
        await one.world.settle()
        assert recorded_uid(one.host()) == uid_of(one.virtual())
        assert one.host()["spec"]["clusterIP"] == one.virtual()["spec"]["clusterIP"]
        assert await one.world.scan_writes() == []


async def test_a_create_that_is_about_to_fail_changes_nothing_of_the_one_that_is_there() -> None:
    async with desk() as one:
        await one.create(service("web"))
        await one.world.settle()
        one.world.protect(Side.HOST, SERVICES, HOST_WEB, unchanged=True)
        assert await one.allocator.allocate(review(service("web", selector={"app": "other"}))) is None


async def test_a_host_service_that_is_being_removed_is_waited_for_by_the_tenant() -> None:
    async with desk() as one:
        await one.create(service("web"))
        await one.world.settle()
        one.world.host.change(SERVICES, HOST_WEB, {"metadata": {"finalizers": ["example.org/lb"]}})
        one.world.virtual.remove(SERVICES, WEB)
        await one.world.settle()
        with pytest.raises(Stale, match="try again"):
            await one.allocator.allocate(review(service("web")))


async def test_a_create_that_never_lands_leaves_nothing_after_a_minute() -> None:
    async with desk() as one:
        await one.allocator.allocate(review(service("web")))
        began = clock()
        await asyncio.sleep(55)
        assert one.world.host.get(SERVICES, HOST_WEB) is not None
        await asyncio.sleep(10)
        assert one.world.host.get(SERVICES, HOST_WEB) is None
        (removed,) = one.world.journal.find("delete", SERVICES, side=Side.HOST)
        assert removed.at - began == pytest.approx(60, abs=2)
        assert await one.world.scan_writes() == []


async def test_nor_does_a_syncer_that_restarted_meanwhile_forget_it() -> None:
    async with desk() as one:
        await one.allocator.allocate(review(service("web")))
        await one.world.kill()
        await asyncio.sleep(30)
        await one.world.start()
        await asyncio.sleep(20)
        assert one.world.host.get(SERVICES, HOST_WEB) is not None
        await asyncio.sleep(15)
        assert one.world.host.get(SERVICES, HOST_WEB) is None


async def test_many_that_never_land_are_no_burst_to_hold() -> None:
    async with desk() as one:
        for number in range(40):
            await one.allocator.allocate(review(service(f"s{number}")))
        await asyncio.sleep(65)
        await one.world.settle()
        assert len(one.world.host.objects(SERVICES)) == 2
        assert one.world.syncer is not None
        assert one.world.syncer.guard.held() == {}


async def update(one: Desk, **spec: Any) -> Obj:
    """Change the spec of the virtual Service as a tenant does; as it is stored. The loop has time to act in between."""
    old = one.virtual()
    new = patched(old, None)
    new["spec"] = {field: value for field, value in (new["spec"] | spec).items() if value is not None}
    operations = await one.allocator.allocate(review(new, operation="UPDATE", old=old))
    await asyncio.sleep(1)
    return one.world.virtual.registry.update(SERVICES, WEB, lambda _: patched(new, operations), put=True)


async def test_an_external_name_that_becomes_a_service_gets_an_address_and_keeps_it() -> None:
    async with desk() as one:
        one.world.virtual.create(service("web", type="ExternalName", externalName="example.org", ports=[]))
        await one.world.settle()
        assert one.host()["spec"]["type"] == "ExternalName"
        stored = await update(one, **service("web")["spec"], type="ClusterIP", externalName=None)
        address = one.host()["spec"]["clusterIP"]
        await one.world.settle()
        assert stored["spec"]["clusterIP"] == one.virtual()["spec"]["clusterIP"] == one.host()["spec"]["clusterIP"] == address
        assert await one.world.scan_writes() == []


async def test_an_update_that_needs_ports_gets_the_hosts_and_the_loop_leaves_them() -> None:
    async with desk() as one:
        one.world.host.create(service("other", NAMES.host_namespace, type="NodePort"))
        await one.create(service("web"))
        await one.world.settle()
        began = clock()
        stored = await update(one, type="NodePort")
        (port,) = one.host()["spec"]["ports"]
        assert port["nodePort"] == stored["spec"]["ports"][0]["nodePort"], "the virtual API server would have given the first"
        await one.world.settle()
        assert len(one.world.journal.writes(since=began)) == 1, "the change"
        assert await one.world.scan_writes() == []


async def test_an_update_that_never_lands_is_taken_back_after_a_minute() -> None:
    async with desk() as one:
        await one.create(service("web"))
        await one.world.settle()
        new = patched(one.virtual(), None)
        new["spec"]["type"] = "NodePort"
        await one.allocator.allocate(review(new, operation="UPDATE", old=one.virtual()))
        await asyncio.sleep(55)
        assert one.host()["spec"]["type"] == "NodePort"
        await asyncio.sleep(10)
        assert one.host()["spec"]["type"] == "ClusterIP"
        assert await one.world.scan_writes() == []


async def test_an_update_that_was_overtaken_is_taken_back_at_once() -> None:
    async with desk() as one:
        await one.create(service("web"))
        await one.world.settle()
        new = patched(one.virtual(), None)
        new["spec"]["type"] = "NodePort"
        await one.allocator.allocate(review(new, operation="UPDATE", old=one.virtual()))
        one.world.virtual.change(SERVICES, WEB, {"metadata": {"labels": {"a": "b"}}})
        await asyncio.sleep(2)
        assert one.host()["spec"]["type"] == "ClusterIP"


async def test_a_node_port_that_is_taken_on_the_host_is_refused_in_words() -> None:
    async with desk() as one:
        one.world.host.create(service("other", NAMES.host_namespace, type="NodePort", ports=[{"port": 80, "nodePort": 30123}]))
        wanted: dict[str, Any] = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}]}
        with pytest.raises(Invalid, match="30123: provided port is already allocated") as refusal:
            await one.allocator.allocate(review(service("web", **wanted)))
        assert HOST_WEB.name not in refusal.value.message
        await one.create(service("web"))
        await one.world.settle()
        with pytest.raises(Invalid, match="30123: provided port is already allocated"):
            await update(one, **wanted)


async def test_an_update_of_a_service_that_somebody_deleted_on_the_host_is_left_to_the_loop() -> None:
    async with desk() as one:
        await one.create(service("web"))
        await one.world.settle()
        one.world.host.hang_watches()
        one.world.host.remove(SERVICES, HOST_WEB)
        await update(one, type="NodePort")
        one.world.host.resume_watches()
        await one.world.settle()
        assert one.host()["spec"]["ports"][0]["nodePort"] == one.virtual()["spec"]["ports"][0]["nodePort"]
        assert await one.world.scan_writes() == []


async def test_a_service_that_wants_two_families_has_the_virtual_api_server_asked_once() -> None:
    async with desk() as one:
        one.world.virtual.fault(on("create", SERVICES), status=500, times=1)
        for name in ("web", "more", "again"):
            operations = await one.allocator.allocate(review(service(name, ipFamilyPolicy="PreferDualStack")))
            assert {
                "op": "add",
                "path": "/spec/clusterIP",
                "value": one.host(NAMES.host_key(Key("default", name)))["spec"]["clusterIP"],
            } in (operations or [])
        asked = [
            entry
            for entry in one.world.journal.find("create", SERVICES, side=Side.VIRTUAL)
            if "generateName" in (entry.request.body or {}).get("metadata", {})
        ]
        assert len(asked) == 2, "once more after it could not be asked"


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, Forbidden), (422, Invalid), (500, ApiError)],
)
async def test_a_refusal_of_the_host_reaches_the_tenant_without_host_names(status: int, error: type[ApiError]) -> None:
    async with desk() as one:
        message = f'services "{HOST_WEB.name}" is forbidden: exceeded quota in namespace {HOST_WEB.namespace}'
        one.world.host.fault(on("create", SERVICES), status=status, message=message)
        with pytest.raises(error) as refusal:
            await one.allocator.allocate(review(service("web")))
        assert HOST_WEB.name not in refusal.value.message
        assert HOST_WEB.namespace not in refusal.value.message
        assert "quota" in refusal.value.message


async def test_a_conflict_is_for_the_tenant_to_repeat() -> None:
    async with desk() as one:
        await one.allocator.allocate(review(service("web")))
        one.world.host.fault(on("patch", SERVICES), status=409)
        with pytest.raises((Stale, Conflict), match="try again"):
            await one.allocator.allocate(review(service("web", selector={"app": "other"})))


async def test_behind_a_closed_fence_nothing_is_allocated() -> None:
    async with desk() as one:
        one.world.virtual.wipe()
        await asyncio.sleep(5)
        one.world.journal.no_writes_after = clock()
        with pytest.raises(FenceClosed):
            await one.allocator.allocate(review(service("web")))


async def test_a_lost_answer_leaves_one_host_service() -> None:
    async with desk() as one:
        one.world.host.fault(on("create", SERVICES), drop=True, after=True, times=1)
        with pytest.raises(NETWORK_ERRORS):
            await one.allocator.allocate(review(service("web")))
        await one.create(service("web"))
        await one.world.settle()
        assert recorded_uid(one.host()) == uid_of(one.virtual())
        assert len(one.world.host.objects(SERVICES)) == 3
        assert await one.world.scan_writes() == []


async def test_a_copy_that_an_earlier_syncer_made_of_the_same_service_is_ours() -> None:
    """Made by the loop, not by admission: it has no mark, and the UID of a Service that is long gone."""
    async with desk() as one:
        gone = service("web")
        gone["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
        left = host_service(NAMES, None, gone)
        await one.world.kill()
        one.world.host.create(left)
        await one.world.start()
        address = one.host()["spec"]["clusterIP"]
        assert one.world.syncer is not None
        syncer = one.world.syncer
        allocator = HostAllocator(syncer.clients, syncer.fence, names=NAMES, owner=None, wall=wall)
        operations = await allocator.allocate(review(service("web")))
        stored = one.world.virtual.create(patched(service("web"), operations))
        assert stored["spec"]["clusterIP"] == address
        await one.world.settle()
        assert recorded_uid(one.host()) == uid_of(stored)

"""Tenants, hosts, faults and crashes at random, then peace: both sides agree, and nothing was lost, leaked or done twice.

A failing seed is run again by itself: `pytest tests/sync/test_chaos.py -k "[17]"`; SYNCER_CHAOS_SEEDS sets how many there are.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable

import pytest

from syncer.kube.types import (
    CONFIGMAPS,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    Key,
    Obj,
    Resource,
    Side,
    annotations_of,
    is_deleting,
    key_of,
    uid_of,
)
from syncer.translate.metadata import recorded_uid, virtual_key
from syncer.translate.token_secret import token_pod
from tests.fakes.requests import Request, is_write
from tests.fakes.statuses import Failure
from tests.sync.harness import DNS_SERVICE, NAMES, World, host_event, named, pod, running, service

pytestmark = pytest.mark.looptime

SEEDS = int(os.environ.get("SYNCER_CHAOS_SEEDS", "3"))
STEPS = 60
NAMESPACES_USED = ("default", "shop")
NAMES_USED = ("a", "b", "c")  # few, so that names are used again and again
COPIED = (CONFIGMAPS, SECRETS)


class Chaos:
    """Does one thing at random at a time. At most 25 objects of a kind, so that the guard has nothing to hold."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.log: list[str] = []
        self.tenant: list[Callable[[], Awaitable[None]]] = [
            *[self.create_pod] * 4,
            *[self.delete_pod] * 2,
            self.force_delete_pod,
            self.annotate_pod,
            *[self.put_copied] * 3,
            self.delete_copied,
            *[self.create_service] * 2,
            self.change_service,
            self.delete_service,
        ]
        self.cluster: list[Callable[[], Awaitable[None]]] = [
            *[self.run_some] * 5,
            self.finish_pod,
            self.vanish_pod,
            self.delete_host_pod,
            self.say_something,
            self.delete_host_copy,
        ]
        self.faults: list[Callable[[], Awaitable[None]]] = [
            *[self.fail_requests] * 3,
            self.lose_answers,
            self.drop_watches,
            self.silence,
            self.compact,
            self.restart_server,
            self.restart_syncer,
        ]

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            kind = self.rng.choices((self.tenant, self.cluster, self.faults), (6, 5, 2))[0]
            step = self.rng.choice(kind)
            self.log.append(step.__name__)
            try:
                await step()
            except Failure as failure:  # the name is taken, or there is no such thing: so it is with tenants
                self.log.append(f"  {failure}")
            await asyncio.sleep(self.rng.choice((0, 0, 0.01, 0.2, 3.0)))

    def key(self) -> Key:
        return Key(self.rng.choice(NAMESPACES_USED), self.rng.choice(NAMES_USED))

    def some(self, side: Side, resource: Resource) -> Key:
        keys = [key_of(obj) for obj in self.world.servers[side].objects(resource) if self.is_fair_game(side, obj)]
        if not keys:
            raise Failure(404, "NotFound", "nothing there")
        return self.rng.choice(keys)

    def is_fair_game(self, side: Side, obj: Obj) -> bool:
        return key_of(obj).name not in ("kubernetes", NAMES.suffix, DNS_SERVICE, self.world.owner.name)

    def server(self) -> Side:
        return self.rng.choice(list(Side))

    # Tenants

    async def create_pod(self) -> None:
        namespace, name = self.key()
        mounts = {kind: self.rng.choice(("", "a", "b")) for kind in ("configmap", "secret")}
        finalizers = {"finalizers": ["example.org/job"]} if self.rng.random() < 0.1 else {}
        made = pod(name, namespace, tokens=self.rng.random() < 0.5, **mounts)
        made["metadata"] |= finalizers
        self.world.virtual.create(made)

    async def delete_pod(self) -> None:
        self.world.virtual.registry.delete(PODS, self.some(Side.VIRTUAL, PODS), {})

    async def force_delete_pod(self) -> None:
        self.world.virtual.registry.delete(PODS, self.some(Side.VIRTUAL, PODS), {"gracePeriodSeconds": 0})

    async def annotate_pod(self) -> None:
        value = str(self.rng.random())
        self.world.virtual.change(PODS, self.some(Side.VIRTUAL, PODS), {"metadata": {"annotations": {"note": value}}})

    async def put_copied(self) -> None:
        key = self.key()
        resource = self.rng.choice(COPIED)
        content = {"data": {self.rng.choice("xyz"): self.rng.choice(("MQ==", "Mg=="))}}
        if self.world.virtual.get(resource, key) is not None:
            self.world.virtual.change(resource, key, content)
        else:
            self.world.virtual.create(named(resource.kind, key.name, key.namespace, **content))

    async def delete_copied(self) -> None:
        resource = self.rng.choice(COPIED)
        self.world.virtual.remove(resource, self.some(Side.VIRTUAL, resource))

    async def create_service(self) -> None:
        namespace, name = self.key()
        spec: Obj = self.rng.choice(({}, {"type": "NodePort"}, {"clusterIP": "None"}))
        self.world.virtual.create(service(name, namespace, **spec))

    async def change_service(self) -> None:
        key = self.some(Side.VIRTUAL, SERVICES)
        self.world.virtual.change(SERVICES, key, {"spec": {"selector": {"app": self.rng.choice("xyz")}}})

    async def delete_service(self) -> None:
        self.world.virtual.remove(SERVICES, self.some(Side.VIRTUAL, SERVICES))

    # The host

    async def run_some(self) -> None:
        self.world.run_pods()

    async def finish_pod(self) -> None:
        self.world.kubelet.finish(self.some(Side.HOST, PODS))

    async def vanish_pod(self) -> None:
        self.world.host.remove(PODS, self.some(Side.HOST, PODS))

    async def delete_host_pod(self) -> None:
        self.world.host.registry.delete(PODS, self.some(Side.HOST, PODS), {})

    async def say_something(self) -> None:
        host = self.world.host.get(PODS, self.some(Side.HOST, PODS))
        assert host is not None
        self.world.host.create(host_event(f"x.{self.rng.randrange(10**6):x}", host))

    async def delete_host_copy(self) -> None:
        resource = self.rng.choice((*COPIED, SERVICES))
        self.world.host.remove(resource, self.some(Side.HOST, resource))

    # What goes wrong

    async def fail_requests(self) -> None:
        share, seed = self.rng.choice((0.3, 1.0)), self.rng.random()
        dice = random.Random(seed)
        ways: list[dict[str, object]] = [
            {"status": 500},
            {"status": 429, "retry_after": 1},
            {"status": 409},
            {"drop": True},
            {"delay": 3.0},
            {"hang": True},
        ]
        how = self.rng.choice(ways)

        def match(request: Request) -> bool:
            return request.verb != "watch" and request.resource is not None and dice.random() < share

        self.log.append(f"  {how}")
        self.world.servers[self.server()].fault(match, times=self.rng.randrange(1, 12), **how)  # type: ignore[arg-type]  # passed on as given

    async def lose_answers(self) -> None:
        self.world.servers[self.server()].fault(is_write, drop=True, after=True, times=self.rng.randrange(1, 5))

    async def drop_watches(self) -> None:
        self.world.servers[self.server()].drop_watches(clean=self.rng.random() < 0.5)

    async def silence(self) -> None:
        self.world.silence_watches(self.server())

    async def compact(self) -> None:
        server = self.world.servers[self.server()]
        server.compact(as_status=self.rng.random() < 0.5)
        server.drop_watches()

    async def restart_server(self) -> None:
        server = self.world.servers[self.server()]
        await server.stop()
        await asyncio.sleep(self.rng.choice((0.1, 5.0)))
        await server.start()

    async def restart_syncer(self) -> None:
        await self.world.kill()
        rules = [(server, server._rules) for server in self.world.servers.values()]
        for server, kept in rules:
            server._rules = kept[:1]  # starting is the daemon's business, and tested there
        await self.world.start()
        for server, kept in rules:
            server._rules = kept + server._rules[1:]


async def make_peace(world: World) -> None:
    """No more faults, and a host that does its work; finalizers' owners let go of what has ended."""
    for server in world.servers.values():
        for rule in server._rules[1:]:
            rule.lift()
    await asyncio.sleep(310)  # half-open watches, and the longest backoff
    for _ in range(6):
        await world.settle_running()
        for one in world.virtual.objects(PODS):
            if is_deleting(one) and one["status"].get("phase") in ("Failed", "Succeeded"):
                world.virtual.registry.update(PODS, key_of(one), _without_finalizers)
    await world.settle_running()


def _without_finalizers(obj: Obj) -> Obj:
    return {**obj, "metadata": {**obj["metadata"], "finalizers": []}}


def compare(world: World) -> None:
    """Raise AssertionError unless the host is what the virtual side asks for, and the virtual side sees what the host does."""
    virtual_pods = {key_of(obj): obj for obj in world.virtual.objects(PODS)}
    wanted: dict[Resource, set[Key]] = {resource: set() for resource in COPIED}
    tokens, nodes = set(), set()
    for key, virtual in virtual_pods.items():
        host = world.host.get(PODS, NAMES.host_key(key))
        if virtual["status"].get("phase") in ("Succeeded", "Failed") and host is None:
            continue
        assert host is not None, f"{key} has no host pod"
        assert recorded_uid(host) == uid_of(virtual), key
        assert not is_deleting(virtual), key
        assert virtual["status"].get("phase") == host["status"].get("phase"), key
        assert virtual["status"].get("podIP") == host["status"].get("podIP"), key
        assert virtual["spec"].get("nodeName") == host["spec"].get("nodeName"), key
        assert annotations_of(virtual).get("note") == annotations_of(host).get("note"), key
        nodes |= {host["spec"]["nodeName"]} if host["spec"].get("nodeName") else set()
    for key, virtual in virtual_pods.items():
        for volume in virtual["spec"].get("volumes") or ():
            if "projected" in volume:
                tokens.add(key)
            for resource, field in ((CONFIGMAPS, "configMap"), (SECRETS, "secret")):
                if field in volume:
                    source = volume[field]
                    name = Key(key.namespace, source.get("name") or source.get("secretName"))
                    if world.virtual.get(resource, name) is not None:
                        wanted[resource].add(name)
    assert {NAMES.host_key(key) for key in virtual_pods} >= {key_of(obj) for obj in world.host.objects(PODS)}
    for resource in COPIED:
        copies = {found: obj for obj in world.host.objects(resource) if (found := virtual_key(NAMES, resource, obj)) is not None}
        assert set(copies) == wanted[resource], resource
        for key, copy in copies.items():
            assert copy["data"] == (world.virtual.get(resource, key) or {})["data"], key
    kept = {found for obj in world.host.objects(SECRETS) if (found := token_pod(NAMES, obj)) is not None}
    assert kept <= tokens
    assert kept >= {key for key in tokens if virtual_pods[key]["status"].get("phase") not in ("Succeeded", "Failed")}
    assert {obj["metadata"]["name"] for obj in world.virtual.objects(NODES)} == nodes
    services = {key_of(obj): obj for obj in world.virtual.objects(SERVICES) if key_of(obj).name != "kubernetes"}
    copied = {found: obj for obj in world.host.objects(SERVICES) if (found := virtual_key(NAMES, SERVICES, obj)) is not None}
    assert set(copied) == set(services)
    for key, virtual in services.items():
        assert copied[key]["spec"]["clusterIP"] == virtual["spec"]["clusterIP"], key
        assert copied[key]["spec"]["selector"]["app"] == virtual["spec"]["selector"]["app"], key
        assert [p.get("nodePort") for p in copied[key]["spec"]["ports"]] == [p.get("nodePort") for p in virtual["spec"]["ports"]], key


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_after_any_chaos_both_sides_agree(seed: int) -> None:
    async with running() as world:
        world.virtual.create(named("Namespace", "shop", ""))
        world.virtual.create(named("ServiceAccount", "default", "shop"))
        world.pods_vanish = True
        chaos = Chaos(world, random.Random(seed))
        await chaos.run(STEPS)
        await make_peace(world)
        try:
            compare(world)
        except AssertionError as error:
            error.add_note("\n".join(chaos.log))
            raise
        assert world.syncer is not None
        assert world.syncer.rows() == {}
        assert await world.scan_writes() == []

"""Tenants, hosts, faults and crashes at random, by seed: then peace, and what has to hold after any of them.

`run(seed)` raises AssertionError with everything that was done, and every write, in its notes.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from syncer.kube.types import (
    EVENTS,
    NAMESPACES,
    PODS,
    Key,
    Obj,
    Resource,
    Side,
    is_deleting,
    key_of,
)
from syncer.translate.status import is_finished
from tests.fakes.faults import Fault
from tests.fakes.requests import Request, is_write
from tests.fakes.statuses import Failure
from tests.sync.chaos_parts import NAMESPACES_USED, PARTS, TAKEN, Part, furnish, is_ours, said_of
from tests.sync.harness import HOST_NAMESPACE, Parts, World, clock, named, running
from tests.sync.verdict import judge

STEPS = 45
SOUND = Parts()
Step: TypeAlias = Callable[[], Awaitable[None]]


class Chaos:
    """Does one thing at random at a time. At most 25 objects of a kind, so that the guard has nothing to hold."""

    def __init__(self, world: World, rng: random.Random, parts: Parts) -> None:
        self.world = world
        self.rng = rng
        self.log: list[tuple[float, str]] = []
        self.changes = 0
        """How many changes were made on either side that the syncer may have to follow."""
        self.troubles = 0
        """How many starts and faults there were, after each of which it may try again."""
        self._parts = parts
        world.pods_vanish = True
        self._later: list[tuple[int, Step]] = []
        """What ends an outage, after so many steps."""
        self._stopped: set[Side] = set()
        self._ways: dict[str, tuple[int, list[Step]]] = {
            "tenant": (6, [*self._for_each_part(), self.force_delete_pod, self.delete_namespace, self.create_namespace, self.burst]),
            "host": (
                5,
                [
                    *[self.run_some] * 6,
                    self.end_pod,
                    self.vanish,
                    self.delete_on_host,
                    self.say_something,
                    self.spoil,
                    self.play,
                    self.evict,
                ],
            ),
            "trouble": (
                3,
                [
                    *[self.fail_requests] * 3,
                    self.refuse,
                    self.lose_answers,
                    self.fail_watches,
                    self.drop_watches,
                    self.silence,
                    self.hang_watches,
                    self.garble,
                    self.compact,
                    self.stop_server,
                    self.pause_server,
                    self.restart_all,
                    *[self.restart_syncer] * 2,
                    self.stop_syncer,
                ],
            ),
        }

    def _for_each_part(self) -> list[Step]:
        steps: list[Step] = []
        for part in PARTS:
            steps += (
                [self._creating(part)] * (4 * part.weight) + [self._deleting(part)] * part.weight + [self._changing(part)] * part.weight
            )
        return steps

    async def run(self, steps: int) -> None:
        weights = [weight for weight, _ in self._ways.values()]
        for _ in range(steps):
            await self._end_outages(passed=1)
            name = self.rng.choices(list(self._ways), weights)[0]
            await self.do(self.rng.choice(self._ways[name][1]))
            await asyncio.sleep(self.rng.choices((0, 0.01, 0.2, 3.0, 40.0, 650.0), (40, 15, 15, 20, 4, 1))[0])

    async def do(self, step: Step) -> None:
        self.note(step.__name__)
        try:
            await step()
        except Failure as failure:  # the name is taken, or there is no such thing: so it is with tenants
            self.note(f"  {failure}")

    def note(self, text: str) -> None:
        self.log.append((clock(), text))

    def story(self) -> str:
        """Everything that was done and written, in order."""
        told = [(entry.at, f"        {entry}") for entry in self.world.journal.entries if is_write(entry.request)]
        return "\n".join(f"{at:8.2f} {text}" for at, text in sorted([*self.log, *told], key=lambda item: item[0]))

    async def make_peace(self) -> None:
        """No more faults, and a host that does its work; finalizers' owners let go of what is to end."""
        self.note("peace")
        await self._end_outages()
        for server in self.world.servers.values():
            for rule in server._rules[1:]:
                rule.lift()
        await asyncio.sleep(310)  # half-open watches, and the longest backoff
        for _ in range(6):
            await self.world.settle_running()
            for part in PARTS:
                for one in self.world.virtual.objects(part.resource):
                    ended = part.resource != PODS or is_finished(one) or one["spec"].get("nodeName") is None
                    if is_deleting(one) and one["metadata"].get("finalizers") and ended:
                        self.world.virtual.registry.update(part.resource, key_of(one), _without_finalizers)
        await self.world.settle_running()

    # Choices

    def key(self) -> Key:
        return Key(self.rng.choice(NAMESPACES_USED), self.rng.choices(("a", "b", "c", TAKEN), (10, 10, 10, 1))[0])

    def some(self, side: Side, resource: Resource) -> Key:
        objects = self.world.servers[side].registry.storage.objects(resource)
        keys = [key_of(obj) for obj in objects if (is_ours(resource, obj) if side is Side.HOST else key_of(obj).name != "kubernetes")]
        if not keys:
            raise Failure(404, "NotFound", "nothing there")
        return self.rng.choice(keys)

    def part(self) -> Part:
        return self.rng.choices(PARTS, [part.weight for part in PARTS])[0]

    def side(self) -> Side:
        return self.rng.choice(list(Side))

    # Tenants

    def _creating(self, part: Part) -> Step:
        async def create() -> None:
            key = self.key()
            obj = part.draw(self.rng, key)
            if self.rng.random() < 0.06:
                obj["metadata"]["finalizers"] = ["example.org/job"]
            self.note(f"  {part.resource} {key}")
            self.world.virtual.create(obj)
            self.changes += 1

        return create

    def _changing(self, part: Part) -> Step:
        async def change() -> None:
            key = self.some(Side.VIRTUAL, part.resource)
            have = self.world.virtual.get(part.resource, key)
            assert have is not None
            patch = part.change(self.rng, have)
            self.note(f"  {part.resource} {key}")
            self.world.virtual.change(part.resource, key, patch)
            self.changes += 1

        return change

    def _deleting(self, part: Part) -> Step:
        async def delete() -> None:
            key = self.some(Side.VIRTUAL, part.resource)
            self.note(f"  {part.resource} {key}")
            self.world.virtual.registry.delete(part.resource, key, {})
            self.changes += 1

        return delete

    async def force_delete_pod(self) -> None:
        self.world.virtual.registry.delete(PODS, self.some(Side.VIRTUAL, PODS), {"gracePeriodSeconds": 0})
        self.changes += 1

    async def delete_namespace(self) -> None:
        inside = sum(len(self.world.virtual.objects(part.resource, "shop")) for part in PARTS)
        self.world.virtual.registry.delete(NAMESPACES, Key("", "shop"), {})
        self.changes += 1 + inside

    async def create_namespace(self) -> None:
        """Anew, if it is gone; controllers then make what every namespace has."""
        self.world.virtual.create(named("Namespace", "shop", ""))
        self.world.virtual.create(named("ServiceAccount", "default", "shop"))
        self.changes += 2

    async def burst(self) -> None:
        """Several things at once, before anybody could look."""
        for _ in range(self.rng.randrange(2, 8)):
            await self.do(self.rng.choice((self._creating, self._changing, self._deleting))(self.part()))

    # The host

    async def run_some(self) -> None:
        self.changes += self.world.run_pods()

    async def end_pod(self) -> None:
        phase = self.rng.choice(("Succeeded", "Failed"))
        self.world.kubelet.finish(self.some(Side.HOST, PODS), phase)
        self.changes += 1

    async def evict(self) -> None:
        """By a kubelet under pressure (the pod fails), or through the API, as drains and preemption do (it is deleted)."""
        key = self.some(Side.HOST, PODS)
        target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": f"{key} has to go"}
        pod = self.world.host.get(PODS, key)
        assert pod is not None
        conditions = [item for item in pod["status"].get("conditions") or () if item["type"] != "DisruptionTarget"]
        status: Obj = {"conditions": [*conditions, target]}
        if self.rng.random() < 0.5:
            status |= {"phase": "Failed", "reason": "Evicted", "message": f"the node was low on memory, {key} used most"}
            self.world.host.change(PODS, key, {"status": status})
        else:
            self.world.host.change(PODS, key, {"status": status})
            self.world.host.registry.delete(PODS, key, {"gracePeriodSeconds": self.rng.choice((1, 30))})
        self.changes += 2

    async def vanish(self) -> None:
        """Gone without a trace, as when etcd was edited or a node's objects were garbage collected."""
        resource = self.part().resource
        self.world.host.remove(resource, self.some(Side.HOST, resource))
        self.changes += 2

    async def delete_on_host(self) -> None:
        resource = self.part().resource
        self.world.host.registry.delete(resource, self.some(Side.HOST, resource), {})
        self.changes += 2

    async def spoil(self) -> None:
        """A person on the host edits what is ours."""
        part = self.part()
        key = self.some(Side.HOST, part.resource)
        self.note(f"  {part.resource} {key}")
        host = self.world.host.get(part.resource, key)
        assert host is not None
        self.world.host.change(part.resource, key, part.spoil(self.rng, host))
        self.changes += 1

    async def play(self) -> None:
        """The host's controllers do their part."""
        part = self.part()
        key = self.some(Side.HOST, part.resource)
        host = self.world.host.get(part.resource, key)
        assert host is not None
        if patch := part.play(self.rng, host):
            self.note(f"  {part.resource} {key}")
            self.world.host.change(part.resource, key, patch)
            self.changes += 1

    async def say_something(self) -> None:
        part = self.part()
        host = self.world.host.get(part.resource, self.some(Side.HOST, part.resource))
        assert host is not None
        events = [event for event in self.world.host.objects(EVENTS) if event["involvedObject"].get("uid") == host["metadata"]["uid"]]
        if events and self.rng.random() < 0.5:
            count = {"count": events[0].get("count", 1) + 1}
            self.world.host.change(EVENTS, key_of(events[0]), count)
        else:
            self.world.host.create(said_of(self.rng, host))
        self.changes += 1

    # What goes wrong

    def _fault(self, side: Side, match: Callable[[Request], bool], *, times: int, **how: object) -> Fault:
        self.note(f"  {side} {how} x{times}")
        self.troubles += times
        return self.world.servers[side].fault(match, times=times, **how)  # type: ignore[arg-type]  # passed on as given

    async def fail_requests(self) -> None:
        share, dice = self.rng.choice((0.3, 1.0)), random.Random(self.rng.random())
        ways: list[dict[str, object]] = [
            {"status": 500},
            {"status": 503, "retry_after": 2},
            {"status": 429, "retry_after": 1},
            {"status": 409},
            {"drop": True},
            {"delay": 3.0},
            {"delay": 29.0},
            {"hang": True},
        ]

        def match(request: Request) -> bool:
            return request.verb != "watch" and request.resource is not None and dice.random() < share

        self._fault(self.side(), match, times=self.rng.randrange(1, 12), **self.rng.choice(ways))

    async def lose_answers(self) -> None:
        """The write takes effect, and nobody is told: the connection breaks, or the answer takes for ever, or says otherwise."""
        how = self.rng.choice(({"drop": True}, {"hang": True}, {"status": 500}, {"status": 504}))
        self._fault(self.side(), is_write, after=True, times=self.rng.randrange(1, 5), **how)

    async def refuse(self) -> None:
        """A quota is used up, or an admission webhook says no."""
        resource = self.part().resource
        status = self.rng.choice((403, 422, 400))
        reason = {403: "Forbidden", 422: "Invalid", 400: "BadRequest"}[status]

        def match(request: Request) -> bool:
            if request.verb not in ("create", "patch") or request.resource != resource:
                return False
            name = request.key.name or request.body["metadata"]["name"]
            quota = f"exceeded quota: compute, requested: count/{resource}=1, used: count/{resource}=4, limited: count/{resource}=4"
            fault.message = f'{resource} "{name}" is forbidden: {quota}' if status == 403 else f"{HOST_NAMESPACE}/{name} is not welcome"
            return True

        fault = self._fault(Side.HOST, match, times=self.rng.randrange(1, 10), status=status, reason=reason)

    async def fail_watches(self) -> None:
        """Lists and watches only, which are how the caches know anything."""
        how = self.rng.choice(({"status": 500}, {"status": 429, "retry_after": 1}, {"status": 410}, {"drop": True}, {"hang": True}))
        self._fault(self.side(), lambda request: request.verb in ("watch", "list"), times=self.rng.randrange(1, 6), **how)
        self.world.servers[self.side()].drop_watches()

    async def drop_watches(self) -> None:
        self.troubles += 1
        self.world.servers[self.side()].drop_watches(clean=self.rng.random() < 0.5)

    async def silence(self) -> None:
        """Half-open: watches that are open now never say another word."""
        self.troubles += 1
        self.world.silence_watches(self.side())

    async def hang_watches(self) -> None:
        server = self.world.servers[self.side()]
        server.hang_watches()

        async def resume() -> None:
            server.resume_watches()

        self._until_later(resume)

    async def garble(self) -> None:
        raw = self.rng.choice(
            (b"\x00garbage\n", b'{"type": "MODIFIED"}\n', b'{"type": "ERROR", "object": {"code": 500}}\n', b'{"type": "BO')
        )
        self.world.servers[self.side()].inject(raw)
        self.troubles += 1

    async def compact(self) -> None:
        server = self.world.servers[self.side()]
        server.compact(as_status=self.rng.random() < 0.5)
        server.drop_watches()
        self.troubles += 1

    async def stop_server(self) -> None:
        await self._stop(self.side())

    async def restart_all(self) -> None:
        for side in Side:
            await self._stop(side)

    async def _stop(self, side: Side) -> None:
        if side in self._stopped:
            return
        server = self.world.servers[side]
        self._stopped.add(side)
        await server.stop()

        async def start() -> None:
            self._stopped.discard(side)
            await server.start()

        self._until_later(start)

    async def pause_server(self) -> None:
        server = self.world.servers[self.side()]
        server.pause()

        async def resume() -> None:
            server.resume()

        self._until_later(resume)

    async def restart_syncer(self) -> None:
        if self.world.syncer is None:
            return
        await self.world.kill()
        await self._start_syncer()

    async def stop_syncer(self) -> None:
        """For some steps, so that it finds another world when it comes back."""
        if self.world.syncer is not None:
            await self.world.kill()
            self._until_later(self._start_syncer)

    async def _start_syncer(self) -> None:
        """Starting with an API server that does not answer is the daemon's business, and tested there: outages end before."""
        await self._end_outages()
        rules = [(server, server._rules) for server in self.world.servers.values()]
        for server, kept in rules:
            server._rules = kept[:1]
        self.troubles += 3
        if not self.world.runs:  # else one of the outages was its own
            await self.world.start(parts=self._parts)
        for server, kept in rules:
            server._rules = kept + server._rules[1:]

    def _until_later(self, end: Step) -> None:
        self.troubles += 3
        self._later.append((self.rng.randrange(1, 8), end))

    async def _end_outages(self, *, passed: int | None = None) -> None:
        """Those whose time has come after so many steps more; by default all."""
        waiting, self._later = self._later, []
        due = [end for steps, end in waiting if passed is None or steps <= passed]
        self._later += [(steps - passed, end) for steps, end in waiting if passed is not None and steps > passed]
        for end in sorted(due, key=lambda end: end == self._start_syncer):
            self.note(f"end of an outage: {end.__qualname__}")
            await end()


def _without_finalizers(obj: Obj) -> Obj:
    return {**obj, "metadata": {**obj["metadata"], "finalizers": []}}


async def run(seed: int, *, parts: Parts = SOUND, steps: int = STEPS, local: bool = True) -> None:
    """One schedule, and what has to hold after it. `local`: without sockets."""
    rng = random.Random(seed)
    chaos: Chaos | None = None
    with structlog.testing.capture_logs() as logs:
        try:
            async with running(parts=parts, local=local) as world:
                chaos = Chaos(world, rng, parts)
                for server in world.servers.values():
                    server.registry.new_uid = lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4))  # type: ignore[method-assign]  # else no two runs are alike
                await chaos.create_namespace()
                furnish(world)
                await chaos.run(steps)
                await chaos.make_peace()
                await judge(world, changes=chaos.changes, troubles=chaos.troubles)
                bugs = [entry for entry in logs if entry["log_level"] in ("error", "critical") and entry["event"] != "fence.closed"]
                assert not bugs, bugs[0]
        except Exception as error:
            error.add_note(f"seed {seed}: SYNCER_CHAOS_SEEDS={seed}+1 uv run pytest tests/sync/test_chaos.py")
            error.add_note(chaos.story() if chaos is not None else "while starting")
            raise

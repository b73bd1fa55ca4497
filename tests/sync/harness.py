"""The whole engine, all its loops, between two fake API servers in virtual time: put together as syncer.app does it.

```python
async with running() as world:
    world.virtual.create(pod("web"))
    await world.settle()
```

Leaving `running` checks the invariants that hold in every test (`World.check`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import ENDPOINTS, EVENTS, PODS, Key, Obj, Resource, Side, is_deleting, key_of, labels_of, uid_of
from syncer.kube.watch import Watcher
from syncer.naming import Names
from syncer.resources import chosen, known
from syncer.sync.caches import Caches
from syncer.sync.engine import Engine
from syncer.sync.executor import Executor
from syncer.sync.fence import Fence
from syncer.sync.guard import Guard
from syncer.sync.ledger import Ledger
from syncer.sync.recorder import Recorder
from syncer.sync.spec import SyncSpec
from syncer.sync.view import Policy
from tests.agreement import Sides
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.kubelet import Kubelet
from tests.fakes.local import LocalApiServer, LocalClient
from tests.sync.journal import Journal, owner_of

HOST_NAMESPACE = "host-ns"
NAMES = Names("one", HOST_NAMESPACE)
DNS_SERVICE = "one-dns"
EPOCH = 1_800_000_000.0
SCAN_INTERVAL = 600.0
DEFAULT = tuple(chosen({name for name, on in known().items() if on}))
"""The loops that run when nothing is said."""
QUIET = 2.0
"""Seconds without a request after which nothing more is to be expected but retries of what failed."""


def clock() -> float:
    """Monotonic seconds."""
    return asyncio.get_running_loop().time()


def wall() -> float:
    """Epoch seconds, of the servers and the syncer alike."""
    return EPOCH + clock()


def pod(name: str, namespace: str = "default", *, tokens: bool = False, configmap: str = "", secret: str = "", **spec: Any) -> Obj:
    """A pod as a tenant makes it, with what it mounts."""
    volumes: list[Obj] = []
    if tokens:
        sources = [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]
        volumes.append({"name": "access", "projected": {"sources": sources}})
    if configmap:
        volumes.append({"name": "config", "configMap": {"name": configmap}})
    if secret:
        volumes.append({"name": "secret", "secret": {"secretName": secret}})
    body = {"containers": [{"name": "app", "image": "nginx:1"}], **({"volumes": volumes} if volumes else {}), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": body}


def named(kind: str, name: str, namespace: str = "default", **fields: Any) -> Obj:
    """A core object with these fields; in no namespace by ""."""
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **({"namespace": namespace} if namespace else {})}, **fields}


def service(name: str, namespace: str = "default", **spec: Any) -> Obj:
    return named("Service", name, namespace, spec={"ports": [{"port": 80}], "selector": {"app": name}, **spec})


def host_event(name: str, about: Obj, message: str = "it happened") -> Obj:
    """What a kubelet or controller of the host says of one of its objects."""
    key = key_of(about)
    regarding = {"apiVersion": "v1", "kind": about["kind"], "namespace": key.namespace, "name": key.name, "uid": uid_of(about)}
    suffix = name.rpartition(".")[2]
    return named(
        "Event", f"{key.name}.{suffix}", key.namespace, involvedObject=regarding, reason="Happened", message=message, type="Normal", count=1
    )


@dataclass(frozen=True)
class Parts:
    """What the engine is made of; a test of the tests puts a broken part in."""

    executor: type[Executor] = Executor
    guard: type[Guard] = Guard
    fence: type[Fence] = Fence
    caches: type[Caches] = Caches
    engine: type[Engine] = Engine


class Outcomes:
    """Stands in for the metrics: how reconciles ended."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def reconciled(self, resource: str, outcome: str, seconds: float) -> None:
        self.counts[resource, outcome] += 1

    def synced_after(self, resource: str, seconds: float) -> None:
        """Of no interest here."""


@dataclass
class Syncer:
    """One running syncer."""

    caches: Caches
    engine: Engine
    executor: Executor
    guard: Guard
    fence: Fence
    ledger: Ledger
    clients: Mapping[Side, Client]
    outcomes: Outcomes
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether keys wait for workers, or requests for answers or their turn."""
        limits = [limit for client in self.clients.values() for limit in client.limits.values()]
        return any(len(loop.queue) for loop in self.engine.loops) or any(limit.in_flight or limit.waiting for limit in limits)

    def rows(self) -> dict[tuple[str, str], str]:
        """The ledger: state by loop and key."""
        return {(resource, str(key)): row.state for resource, key, row in self.ledger.rows()}

    def store(self, side: Side, resource: Resource) -> Any:
        return self.caches.stores[side, resource]

    async def wait_listed(self) -> None:
        """Until every cache has listed."""
        for informer in self.caches.informers.values():
            await informer.synced.wait()


class World:
    """Two API servers, what plays the host's scheduler and kubelets, and at most one syncer at a time."""

    def __init__(self, *, local: bool = False) -> None:
        kind = LocalApiServer if local else FakeApiServer
        self.virtual = kind(resources=(ENDPOINTS,), now=wall, service_cidr="10.0.0.0/8")
        self.host = kind(now=wall, service_cidr="10.96.0.0/16", first_revision=5000)
        self.servers: Mapping[Side, FakeApiServer] = {Side.VIRTUAL: self.virtual, Side.HOST: self.host}
        self.owner = owner_of(NAMES)
        self.journal = Journal(self.servers, NAMES, self.owner)
        self.kubelet = Kubelet(self.host)
        self.syncer: Syncer | None = None
        self.pods_vanish = False
        """Set where host pods go before anybody could see them run: then one more is made."""
        self._protected: list[tuple[Side, Resource, Key, str, str]] = []
        self._stack = AsyncExitStack()
        self.host.create(named("Namespace", HOST_NAMESPACE, ""))
        self.host.create(service(NAMES.suffix, HOST_NAMESPACE, ports=[{"port": 443}]))
        self.host.create(service(DNS_SERVICE, HOST_NAMESPACE, ports=[{"port": 53}]))
        self.virtual.create(named("ServiceAccount", "default"))

    # The syncer

    async def start(self, specs: Iterable[SyncSpec] = DEFAULT, parts: Parts = Parts()) -> Syncer:
        """Start a syncer, which is a new process: it remembers nothing."""
        assert self.syncer is None, "stop the other one first"
        specs = tuple(specs)
        clients = {side: await self._stack.enter_async_context(_client(server, side)) for side, server in self.servers.items()}
        recorder = Recorder(clients, clock=clock, timestamp=lambda: datetime.fromtimestamp(wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        fence = parts.fence(
            virtual=clients[Side.VIRTUAL],
            host=clients[Side.HOST],
            recorder=recorder,
            namespace=HOST_NAMESPACE,
            name=NAMES.suffix,
            clock=clock,
        )
        await fence.open()
        guard = parts.guard(
            limit_count=25, limit_fraction=0.25, verify=fence.verify, wall=wall, announce=fence.warn, told=fence.released_at
        )
        synced = frozenset(spec.kind for spec in specs)
        policy = Policy(service_name=NAMES.suffix, dns_service=DNS_SERVICE, synced=synced, owner=fence.owner_reference())
        before_swap = {Side.VIRTUAL: fence.verify, Side.HOST: fence.verify_host}
        caches = parts.caches(specs, clients, names=NAMES, policy=policy, wall=wall, before_swap=before_swap)
        for informer in caches.informers.values():
            assert isinstance(informer.watcher, Watcher)
            informer.watcher._rng.seed(7)
        ledger, outcomes = Ledger(), Outcomes()
        executor = parts.executor(clients, caches, fence, guard, recorder)
        engine = parts.engine(
            specs,
            caches=caches,
            clients=clients,
            executor=executor,
            ledger=ledger,
            guard=guard,
            fence=fence,
            observer=outcomes,
            scan_interval=SCAN_INTERVAL,
            clock=clock,
            wall=wall,
        )
        for loop in engine.loops:
            loop.queue._rng.seed(7)
            if isinstance(self.virtual, LocalApiServer):  # many short lives: starting workers that get no key costs more than all else
                del loop.workers._lanes[-20:]
        self.syncer = Syncer(caches, engine, executor, guard, fence, ledger, clients, outcomes)
        self.syncer.tasks += [asyncio.create_task(engine.run()), asyncio.create_task(recorder.run())]
        return self.syncer

    @property
    def runs(self) -> bool:
        """Whether there is a syncer."""
        return self.syncer is not None

    async def kill(self) -> None:
        """End the syncer as a crash does, whatever it was doing."""
        tasks = self.syncer.tasks if self.syncer is not None else []
        self.syncer = None
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()
        for result in ended:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def settle(self, *, limit: float = 300.0) -> None:
        """Wait until there have been no requests for a while but those that never end."""
        assert self.syncer is not None
        deadline = clock() + limit
        while True:
            before = self.journal.lively()
            await asyncio.sleep(QUIET)
            for task in self.syncer.tasks:
                assert not task.done(), "the syncer has ended"
            if before == self.journal.lively() and not self.syncer.busy:
                return
            assert clock() < deadline, "never quiet: " + "; ".join(str(entry) for entry in self.journal.entries[-12:])

    async def scan_writes(self) -> list[str]:
        """What a scan of all pairs writes."""
        assert self.syncer is not None
        began = clock()
        for loop in self.syncer.engine.loops:
            loop.scan()
        await self.settle()
        return self.journal.writes(since=began)

    # The host

    def run_pods(self) -> int:
        """Scheduler and kubelets do all there is to do for now; returns how many pods that were."""
        done = 0
        for one in self.host.registry.storage.objects(PODS):
            if is_deleting(one):
                self.kubelet.terminate(key_of(one))
            elif one["status"].get("phase") == "Pending":
                self.kubelet.run(key_of(one))
            else:
                continue
            done += 1
        return done

    async def settle_running(self) -> None:
        """Settle, with a host that runs what comes."""
        await self.settle()
        while self.run_pods():
            await self.settle()

    def silence_watches(self, side: Side) -> None:
        """Half-open: all watches that are open now never say another word; new ones work."""
        for watch in self.servers[side]._watches:
            watch.held = lambda: True

    # What there is

    def sides(self, *, without: Iterable[tuple[Resource, Key]] = ()) -> Sides:
        """All objects of both sides, to be compared."""
        resources = [resource for resource in self.host.registry.storage.resources() if resource.namespaced]
        virtual = {resource: self.virtual.objects(resource) for resource in self.virtual.registry.storage.resources()}
        return Sides(NAMES, virtual, {resource: self.host.objects(resource, HOST_NAMESPACE) for resource in resources}, without=without)

    def host_pod(self, name: str, namespace: str = "default") -> Obj | None:
        return self.host.get(PODS, NAMES.host_key(Key(namespace, name)))

    def host_copy(self, resource: Resource, name: str, namespace: str = "default") -> Obj | None:
        return self.host.get(resource, NAMES.host_key(Key(namespace, name)))

    def virtual_pod(self, name: str, namespace: str = "default") -> Obj | None:
        return self.virtual.get(PODS, Key(namespace, name))

    def warnings(self, side: Side = Side.VIRTUAL) -> list[tuple[str, str]]:
        """Reason and object of the events that the syncer wrote on that side."""
        events = [event for event in self.servers[side].objects(EVENTS) if (event.get("source") or {}).get("component") == "syncer"]
        return [(event["reason"], event["involvedObject"]["name"]) for event in events]

    # Invariants

    def protect(self, side: Side, resource: Resource, key: Key, *, unchanged: bool = False) -> None:
        """This very object has to be there in the end; `unchanged`: as it is now."""
        obj = self.servers[side].get(resource, key)
        assert obj is not None
        self._protected.append((side, resource, key, uid_of(obj), obj["metadata"]["resourceVersion"] if unchanged else ""))

    def check(self) -> None:
        """Raise AssertionError unless the invariants hold."""
        problems = list(self.journal.violations)
        for side, resource, key, uid, version in self._protected:
            obj = self.servers[side].get(resource, key)
            if obj is None or uid_of(obj) != uid or is_deleting(obj):
                problems.append(f"{side} {resource} {key} should have been left alone")
            elif version and obj["metadata"]["resourceVersion"] != version:
                problems.append(f"{side} {resource} {key} should not have been touched")
        messages = [event["message"] for event in self.virtual.objects(EVENTS)]
        problems += [f"a host name in an event: {text}" for text in messages if HOST_NAMESPACE in text or f"-x-{NAMES.suffix}" in text]
        made = Counter(
            (event.resource, recorded)
            for event in self.host.registry.storage.history
            if event.type == "ADDED" and event.resource == PODS and (recorded := _virtual_uid(event.obj))
        )
        if not self.pods_vanish:
            problems += [f"{count} host pods were made for the virtual pod {uid}" for (_, uid), count in made.items() if count > 1]
        assert not problems, "\n".join(problems)


def _virtual_uid(host: Obj) -> str:
    managed = any(key.endswith("/managed-by") for key in labels_of(host))
    return next(
        (value for key, value in (host["metadata"].get("annotations") or {}).items() if managed and key.endswith("/object-uid")), ""
    )


def _client(server: FakeApiServer, side: Side) -> Client:
    return LocalClient(server, side) if isinstance(server, LocalApiServer) else Client(Cluster(server.url), side)


@asynccontextmanager
async def stage(*, local: bool = False) -> AsyncIterator[World]:
    """Both API servers, without a syncer yet; checks the invariants in the end. `local`: without sockets."""
    world = World(local=local)
    async with world.virtual, world.host:
        try:
            yield world
        finally:
            await world.kill()
    world.check()


@asynccontextmanager
async def running(specs: Iterable[SyncSpec] = DEFAULT, *, parts: Parts = Parts(), local: bool = False) -> AsyncIterator[World]:
    """Both API servers, and a syncer that has settled."""
    async with stage(local=local) as world:
        await world.start(specs, parts)
        await world.settle()
        yield world

"""Composition root: builds everything from settings, starts it in order, and takes it down in order.

Start: health server, credentials, both API servers answer, front door, rights, fence, admission, leadership if asked
for, caches, loops. Front door and admission are served by every replica; the loops run in the one that leads. Nothing is
written before the fence is open; nothing is decided before the caches it needs have listed completely.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from syncer import resources
from syncer.controlplane.preparation import open_upkeep
from syncer.errors import NETWORK_ERRORS, ApiError, ConfigError, SyncerError
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import SERVICES, Key, Side
from syncer.metrics import Measure, Metrics, Reading
from syncer.naming import LABEL_CLUSTER, Names
from syncer.proxy.aggregation import Aggregation
from syncer.proxy.allocation import HostAllocator
from syncer.proxy.certificates import SharedAuthority
from syncer.proxy.door import FrontDoor
from syncer.proxy.health import Check, HealthServer
from syncer.proxy.inspection import ask_servers, of_served, read_certificates
from syncer.proxy.installation import Installation
from syncer.proxy.metrics_api import MetricsApi
from syncer.proxy.statuspage import Facts, Leadership, status_page
from syncer.proxy.usage import features
from syncer.runtime.leader import Elector, lease_key
from syncer.runtime.patience import AGAIN, insist
from syncer.sync.extent import Extent, ask_extent
from syncer.sync.fence import Fence, owner_key
from syncer.sync.ledger import Ledger
from syncer.sync.recorder import Recorder
from syncer.synchronization import Synchronization, timestamp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from syncer.controlplane.upkeep import Upkeep
    from syncer.kube.config import Cluster
    from syncer.kube.types import Obj
    from syncer.settings import Settings

T = TypeVar("T")

log = structlog.get_logger("syncer.app")

_BEING_WRITTEN = 10.0
"""Seconds for which a file that makes no sense may be one that is being written."""
_ASK_AGAIN = 300.0
"""Seconds between two looks at what the host allows."""


async def run(settings: Settings) -> None:
    """Sync until SIGTERM or SIGINT. Raises ConfigError for what only a person can mend."""
    app = App(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    main = asyncio.create_task(app.run(), name="app")
    stopped = asyncio.create_task(stop.wait(), name="signal")
    await asyncio.wait((main, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not main.done():
        log.info("stopping")
        await app.drain(settings.shutdown_timeout)
        main.cancel()
    stopped.cancel()
    try:
        await main
    except asyncio.CancelledError:
        log.info("stopped")
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class App:
    """One run of the syncer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._names = Names(settings.name, settings.target_namespace)
        self._wanted = resources.chosen(settings.enabled(resources.known()))
        self._extent: Extent | None = None
        """What runs; None until the host has told what it allows."""
        self._starting: str | None = "starting"
        """What is being waited for before the loops can run, None once they do."""
        self._clients: dict[Side, Client] = {}
        self._versions: dict[Side, str] = {}
        self._fence: Fence | None = None
        self._work: Synchronization | None = None
        """What runs while this replica leads."""
        self._admission: Installation | None = None
        self._elector: Elector | None = None
        self._door: FrontDoor | None = None
        self._aggregation: Aggregation | None = None
        self._upkeep: Upkeep | None = None

    async def run(self) -> None:
        """Everything, until cancelled."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            health = HealthServer(settings.health_bind_address, checks=self.checks, metrics=self._metrics, status=self.status)
            await stack.enter_async_context(health)
            clients = self._clients
            clients[Side.HOST] = await self._connect(stack, Side.HOST, settings.host_kube_config)
            if settings.control_plane_files:
                self._upkeep = await self._keep_up(clients[Side.HOST])
            clients[Side.VIRTUAL] = await self._connect(stack, Side.VIRTUAL, settings.kube_config)
            self._metrics.register_source(lambda: _client_readings(clients.values()))
            self._metrics.register_source(self._readings)
            recorder = Recorder(clients, clock=time.monotonic, timestamp=timestamp)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(recorder.run(), name="recorder")
                if self._upkeep is not None:
                    tasks.create_task(self._upkeep.run(), name="control plane's certificates")
                if settings.proxy:
                    self._door = self._open_door(clients)
                    tasks.create_task(self._door.run(), name="front door")
                self._extent = await self._until_allowed(clients[Side.HOST])
                fence = await self._open_fence(clients, recorder)
                if any(spec.kind == SERVICES for spec in self._wanted):
                    self._admission = self._admit_services(clients, fence)
                    tasks.create_task(self._admission.run(), name="admission")
                self._aggregation = self._aggregate(clients)
                tasks.create_task(self._aggregation.run(), name="metrics.k8s.io")
                if not settings.leader_elect:
                    await self._lead(clients, fence)
                    return
                # A client of its own: renewals must not queue behind a burst of writes.
                apart = await stack.enter_async_context(Client(clients[Side.HOST].cluster, Side.HOST, observe=self._metrics.api_request))
                self._elector = Elector(
                    apart,
                    lease_key(settings.target_namespace, settings.name),
                    labels={LABEL_CLUSTER: settings.name},
                    owner=fence.owner_reference() if settings.set_owner else None,
                    identity=f"{socket.gethostname()}-{os.getpid()}",
                    lease_duration=settings.lease_duration,
                    renew_deadline=settings.renew_deadline,
                    retry_period=settings.retry_period,
                )
                self._starting = None
                await self._elector.run(lambda: self._lead(clients, fence))

    async def drain(self, seconds: float) -> None:
        """Let writes in flight finish, for at most so many seconds."""
        if self._work is not None:
            await self._work.drain(seconds)

    def checks(self) -> list[Check]:
        """What /readyz tells."""
        checks = [Check("started", self._starting is None, self._starting or "")]
        if self._elector is not None:
            leads, leader = self._elector.is_leader, self._elector.leader
            checks.append(Check("leadership", bool(leader), "" if leads else f"{leader} leads" if leader else "nobody leads"))
        if self._fence is not None:
            closed = self._fence.closed
            checks.append(Check("fence", closed is None, closed or ""))
        if self._admission is not None:
            checks.append(Check("admission", not self._admission.problem, self._admission.problem))
        if self._door is not None:
            checks.append(Check("proxy", not self._door.problem, self._door.problem))
        if self._aggregation is not None and self._aggregation.problem:
            checks.append(Check("metrics.k8s.io", ok=True, reason=self._aggregation.problem))
        if self._upkeep is not None:
            checks.append(Check("certificates", ok=True, reason=self._upkeep.problem))
        if self._work is not None:
            checks += self._work.checks()
        return checks

    async def status(self, *more: Check) -> Obj:
        """What /status tells, besides `more` checks."""
        settings = self._settings
        version, servers, read = await asyncio.gather(
            asyncio.to_thread(importlib.metadata.version, "syncer"), ask_servers(self._clients), read_certificates(settings, self._clients)
        )
        fence, work = self._fence, self._work
        served = {
            "front door": self._door.served if self._door is not None else None,
            "webhook for Services": self._admission.served if self._admission is not None else None,
        }
        return status_page(
            Facts(
                name=settings.name,
                namespace=settings.target_namespace,
                version=version,
                now=time.time(),
                starting=self._starting or "",
                leadership=self._leadership(),
                fence=fence.closed if fence is not None else "not checked yet",
                owner=str(owner_key(settings.target_namespace, settings.name)),
                servers=servers,
                certificates=[*(of_served(name, one) for name, one in served.items() if one is not None), *read],
                rows=self._extent.rows if self._extent is not None else (),
                working=work.working() if work is not None else (),
                ledger=work.ledger if work is not None else Ledger(),
                holds=work.holds() if work is not None else (),
                checks=[*more, *self.checks()],
            )
        )

    def _leadership(self) -> Leadership:
        elector = self._elector
        if elector is None:
            return Leadership(elects=self._settings.leader_elect, leads=self._leads)
        leader = elector.leader
        return Leadership(elects=True, leads=elector.is_leader, identity=leader, since=elector.since if leader else "")

    async def _connect(self, stack: AsyncExitStack, side: Side, kubeconfig: str) -> Client:
        """A client of an API server that answers; keeps trying while that may help, saying what is missing."""
        cluster = await self._credentials(side, kubeconfig)
        client = Client(cluster, side, observe=self._metrics.api_request)
        await stack.enter_async_context(client)

        async def ask() -> str:
            version = await client.request_json("GET", "/version")
            return str(version.get("gitVersion"))

        version = await self._insist(f"the {side} API server at {cluster.server}", ask)
        self._versions[side] = version
        log.info("api.reached", side=side, server=cluster.server, version=version)
        return client

    async def _keep_up(self, host: Client) -> Upkeep:
        """What renews the certificates of the control plane, once they are good: without, it might not let us in."""
        upkeep = open_upkeep(host, self._settings)
        await self._insist("the certificates of the control plane", upkeep.refresh)
        return upkeep

    async def _credentials(self, side: Side, kubeconfig: str) -> Cluster:
        """The virtual control plane writes its kubeconfig when it starts, so that file may come later; anything else wrong is final."""
        if side is Side.HOST:
            return await load_cluster(kubeconfig or None)
        return await self._insist(f"the kubeconfig {kubeconfig} of the virtual cluster", lambda: _load_written(Path(kubeconfig)))

    async def _insist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        result = await insist(what, attempt, tell=self._wait_for)
        self._starting = "starting"
        return result

    def _wait_for(self, problem: str) -> None:
        self._starting = problem

    async def _until_allowed(self, host: Client) -> Extent:
        """What the host lets us do, once it grants what cannot be done without; until then say what is missing."""
        told: tuple[str, ...] = ()
        while (extent := await self._insist("the host's answer about our rights", lambda: self._ask_extent(host))).waits:
            self._starting = "the host does not allow enough: " + "; ".join(extent.waits)
            if extent.waits != told:
                log.error("extent.insufficient", missing=list(extent.waits), remedy="`syncer rights --yaml` prints the RBAC rules to apply")
            told = extent.waits
            await asyncio.sleep(AGAIN)
        self._starting = "starting"
        unwanted = resources.unwanted(self._wanted)
        for row in extent.rows:
            tell = log.info if row.on or row.name in unwanted else log.warning
            tell("extent.row", loop=row.name, on=row.on, **({"why": row.why} if row.why else {}))
        return extent

    async def _ask_extent(self, host: Client) -> Extent:
        settings = self._settings
        return await ask_extent(
            host,
            settings.target_namespace,
            self._wanted,
            election=settings.leader_elect,
            named=frozenset(settings.sync),
            unwanted=resources.unwanted(self._wanted),
            features=features(metrics=settings.proxy_metrics_server),
        )

    async def _open_fence(self, clients: Mapping[Side, Client], recorder: Recorder) -> Fence:
        fence = Fence(
            virtual=clients[Side.VIRTUAL],
            host=clients[Side.HOST],
            recorder=recorder,
            namespace=self._settings.target_namespace,
            name=self._settings.name,
            clock=time.monotonic,
        )
        self._fence = fence
        await self._insist("the fence", fence.open)
        return fence

    async def _lead(self, clients: Mapping[Side, Client], fence: Fence) -> None:
        """Sync, as the only one that does; anew whenever the host has come to allow more or less."""
        assert self._extent is not None
        if self._admission is not None:
            self._admission.look()
        while True:
            async with asyncio.TaskGroup() as tasks:
                syncing = tasks.create_task(self._synchronize(clients, fence, self._extent), name="sync")
                await self._until_changed(clients[Side.HOST], self._extent)
                await self.drain(self._settings.shutdown_timeout)
                syncing.cancel()
            self._extent = await self._until_allowed(clients[Side.HOST])

    async def _synchronize(self, clients: Mapping[Side, Client], fence: Fence, extent: Extent) -> None:
        if self._elector is not None:
            clients = {side: client.only_while(self._elector.require_lead) for side, client in clients.items()}
        self._work = Synchronization(
            self._settings, clients, fence, extent, names=self._names, version=self._versions[Side.VIRTUAL], metrics=self._metrics
        )
        self._starting = None
        if self._aggregation is not None:
            self._aggregation.look()
        try:
            await self._work.run()
        finally:
            self._work = None

    async def _until_changed(self, host: Client, extent: Extent) -> None:
        while True:
            await asyncio.sleep(_ASK_AGAIN)
            try:
                now = await self._ask_extent(host)
            except (ApiError, *NETWORK_ERRORS) as error:
                log.debug("extent.not_asked", error=str(error))
                continue
            if (now.rows, now.waits) != (extent.rows, extent.waits):
                log.warning("extent.changed", message="the host allows more or less than before; all loops start again")
                return

    def _admit_services(self, clients: Mapping[Side, Client], fence: Fence) -> Installation:
        """What has new Services get the host's addresses."""
        settings = self._settings
        owner = fence.owner_reference() if settings.set_owner else None
        return Installation(
            clients,
            fence,
            HostAllocator(clients, fence, names=self._names, owner=owner, wall=time.time, keep=self._keep_service),
            SharedAuthority(
                clients[Side.HOST],
                namespace=settings.target_namespace,
                name=settings.name,
                owner=owner,
                life=settings.certificate_life,
            ),
            front=Key(settings.target_namespace, settings.service_name),
            cidrs=settings.service_cidr,
            port=settings.webhook_port,
            leads=lambda: self._leads,
        )

    def _aggregate(self, clients: Mapping[Side, Client]) -> Aggregation:
        """What serves metrics.k8s.io, or removes what has served it."""
        settings = self._settings
        api = (
            MetricsApi(names=self._names, virtual=clients[Side.VIRTUAL], host=clients[Side.HOST]) if settings.proxy_metrics_server else None
        )
        return Aggregation(settings, clients, api, leads=lambda: self._leads, observer=self._metrics)

    def _open_door(self, clients: Mapping[Side, Client]) -> FrontDoor:
        """What clients of the virtual cluster connect to. It needs no leadership: every replica has one."""
        pod_ip = os.environ.get("POD_IP", "")
        door = FrontDoor(self._settings, clients, names=self._names, pod_ip=pod_ip, observer=self._metrics)
        self._metrics.register_source(door.readings)
        return door

    def _keep_service(self, service: Obj) -> None:
        if self._work is not None:
            self._work.keep(Side.HOST, SERVICES, service)

    @property
    def _leads(self) -> bool:
        return self._elector.is_leader if self._elector is not None else self._work is not None

    def _readings(self) -> Iterable[Reading]:
        """What /metrics tells of what is now."""
        yield Reading(Measure.FENCE_CLOSED, (), float(self._fence is not None and self._fence.closed is not None))
        yield Reading(Measure.LEADER, (), float(self._leads))
        if self._work is not None:
            yield from self._work.readings()


async def _load_written(path: Path) -> Cluster:
    """Raises ConfigError for what is wrong with a file that nobody is writing just now; else what is worth another look."""
    try:
        age = time.time() - path.stat().st_mtime  # noqa: ASYNC240  one stat, at start
    except FileNotFoundError:
        raise FileNotFoundError("no such file yet; the virtual control plane writes it when it starts, else check --kube-config") from None
    try:
        return await load_cluster(str(path))
    except ConfigError as error:
        if age < _BEING_WRITTEN:
            raise SyncerError(str(error)) from None
        raise


def _client_readings(clients: Iterable[Client]) -> Iterable[Reading]:
    for client in clients:
        for lane, limit in client.limits.items():
            yield Reading(Measure.LIMIT, (client.side, lane), limit.current)
            yield Reading(Measure.IN_FLIGHT, (client.side, lane), limit.in_flight)

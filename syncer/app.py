"""Composition root: builds everything from settings, starts it in order, and takes it down in order.

Start: health server, credentials, both API servers answer, rights, fence, leadership if asked for, admission, caches,
loops. Nothing is written before the fence is open; nothing is decided before the caches it needs have listed completely.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, FenceClosed
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import SERVICES, Side
from syncer.metrics import Metrics
from syncer.naming import Names
from syncer.proxy.admission import AdmissionServer
from syncer.proxy.allocation import ServiceAllocator
from syncer.proxy.health import Check, HealthServer
from syncer.resources import ALL
from syncer.runtime.leader import Elector
from syncer.sync.caches import Caches
from syncer.sync.engine import Engine
from syncer.sync.executor import Executor
from syncer.sync.fence import Fence
from syncer.sync.guard import Guard
from syncer.sync.ledger import Ledger
from syncer.sync.recorder import Recorder
from syncer.sync.rights import ask_rights, lacking, needed_rights
from syncer.sync.view import Policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from syncer.kube.config import Cluster
    from syncer.settings import Settings
    from syncer.sync.spec import Right

T = TypeVar("T")

log = structlog.get_logger("syncer.app")

_TRY_AGAIN = 2.0
"""Seconds between attempts to get at something that is not there yet at start."""
_STALE_WATCH = 150.0
"""A watch without a sign of life for so long is not to be trusted; API servers send bookmarks about once a minute."""


def timestamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
        self._specs = [spec for spec in ALL if settings.syncs(spec.name)]
        self._starting: str | None = "starting"
        """What is being waited for before the loops can run, None once they do."""
        self._engine: Engine | None = None
        self._fence: Fence | None = None
        self._guard: Guard | None = None
        self._elector: Elector | None = None

    async def run(self) -> None:
        """Everything, until cancelled."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            health = HealthServer(settings.health_bind_address, checks=self.checks, metrics=self._metrics)
            await stack.enter_async_context(health)
            clients = {
                Side.HOST: await self._connect(stack, Side.HOST, settings.host_kube_config),
                Side.VIRTUAL: await self._connect(stack, Side.VIRTUAL, settings.kube_config),
            }
            self._metrics.watch_clients(clients)
            recorder = Recorder(clients, clock=time.monotonic, timestamp=timestamp)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(recorder.run(), name="recorder")
                await self._until_rights(clients[Side.HOST])
                fence = await self._open_fence(clients, recorder)
                if not settings.leader_elect:
                    await self._lead(clients, fence, recorder)
                    return
                self._elector = Elector(
                    clients[Side.HOST],
                    namespace=settings.target_namespace,
                    name=f"vcluster-{settings.name}-controller",
                    identity=f"{socket.gethostname()}-{os.getpid()}",
                    lease_duration=settings.lease_duration,
                    renew_deadline=settings.renew_deadline,
                    retry_period=settings.retry_period,
                )
                await self._elector.run(lambda: self._lead(clients, fence, recorder))

    async def drain(self, seconds: float) -> None:
        """Let writes in flight finish, for at most so many seconds."""
        if self._engine is not None:
            await self._engine.drain(seconds)

    def checks(self) -> list[Check]:
        """What /readyz tells."""
        checks = [Check("started", self._starting is None, self._starting or "")]
        if self._elector is not None:
            checks.append(Check("leadership", self._elector.is_leader, "" if self._elector.is_leader else "another replica leads"))
        if self._fence is not None:
            closed = self._fence.closed
            checks.append(Check("fence", closed is None, closed or ""))
        if self._engine is not None:
            checks += [Check(name, not wrong, wrong) for name, wrong in self._engine.checks(stale_after=_STALE_WATCH)]
        return checks

    async def _connect(self, stack: AsyncExitStack, side: Side, kubeconfig: str) -> Client:
        """A client of an API server that answers; keeps trying while that may help, saying what is missing."""
        cluster = await self._credentials(side, kubeconfig)
        client = Client(cluster, side, observe=self._metrics.api_request)
        await stack.enter_async_context(client)

        async def ask() -> str:
            version = await client.request_json("GET", "/version")
            return str(version.get("gitVersion"))

        version = await self._insist(f"the {side} API server at {cluster.server}", ask)
        log.info("api.reached", side=side, server=cluster.server, version=version)
        return client

    async def _credentials(self, side: Side, kubeconfig: str) -> Cluster:
        """The virtual control plane writes its kubeconfig when it starts, so that file may come later; anything else wrong is final."""
        path = Path(kubeconfig)
        if side is Side.VIRTUAL and not path.exists():  # noqa: ASYNC240  a stat at start, before anything else runs
            self._starting = f"waiting for the kubeconfig {path} of the virtual cluster"
            log.warning(
                "kubeconfig.missing", path=kubeconfig, remedy="the virtual control plane writes it when it starts; else check --kube-config"
            )
            while not path.exists():  # noqa: ASYNC240
                await asyncio.sleep(_TRY_AGAIN / 4)
        return await load_cluster(kubeconfig or None)

    async def _insist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempt again and again until it works; a new cause is logged once, and shown by /readyz."""
        while True:
            try:
                result = await attempt()
            except (ApiError, FenceClosed, *NETWORK_ERRORS) as error:
                cause = f"{what}: {error or type(error).__name__}"
                if cause != self._starting:
                    log.warning("start.waiting", on=what, error=str(error) or type(error).__name__, again_in=_TRY_AGAIN)
                self._starting = cause
                await asyncio.sleep(_TRY_AGAIN)
            else:
                self._starting = "starting"
                return result

    async def _until_rights(self, host: Client) -> None:
        """Go on once the host grants what the enabled loops cannot work without; until then say what is missing."""
        namespace = self._settings.target_namespace
        rights = needed_rights(self._specs)
        told: list[Right] = []
        while missing := lacking(rights, await self._insist("the host's answer about our rights", lambda: ask_rights(host, namespace))):
            self._starting = "rights are missing on the host: " + ", ".join(
                f"{'/'.join(right.verbs)} {right.resource}" for right in missing
            )
            for right in missing if missing != told else ():
                log.error(
                    "right.missing",
                    namespace=namespace,
                    group=right.group,
                    resource=right.resource,
                    verbs=list(right.verbs),
                    remedy="grant it in the Role of the syncer's service account",
                )
            told = missing
            await asyncio.sleep(_TRY_AGAIN)

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
        self._metrics.watch_fence(lambda: fence.closed is not None)
        await self._insist("the fence", fence.open)
        return fence

    async def _lead(self, clients: Mapping[Side, Client], fence: Fence, recorder: Recorder) -> None:
        """Sync, as the only one that does."""
        settings = self._settings
        guard = Guard(
            limit_count=settings.deletion_hold_count,
            limit_fraction=settings.deletion_hold_fraction,
            verify=fence.verify,
            wall=time.time,
            announce=fence.warn,
        )
        policy = Policy(
            service_name=settings.service_name,
            dns_service=settings.dns_service,
            cluster_domain=settings.cluster_domain,
            service_account=settings.service_account,
            translate_images=settings.translate_image,
            owner=fence.owner_reference() if settings.set_owner else None,
        )
        caches = Caches(
            self._specs,
            clients,
            names=self._names,
            policy=policy,
            wall=time.time,
            before_swap={Side.VIRTUAL: fence.verify, Side.HOST: fence.verify_host},
        )
        ledger = Ledger()
        engine = Engine(
            self._specs,
            caches=caches,
            clients=clients,
            executor=Executor(clients, caches, fence, guard, recorder),
            ledger=ledger,
            guard=guard,
            fence=fence,
            observer=self._metrics,
            scan_interval=settings.scan_interval,
            clock=time.monotonic,
            wall=time.time,
        )
        self._metrics.watch_engine(engine, guard, ledger)
        async with AsyncExitStack() as stack:
            if any(spec.kind is SERVICES for spec in self._specs):
                await self._admit_services(stack, clients, caches, fence)
            self._engine, self._guard, self._starting = engine, guard, None
            await engine.run()

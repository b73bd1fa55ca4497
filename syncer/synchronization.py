"""What the replica that leads does: it runs the loops, as far as the host allows them, writes the kubeconfig Secrets, applies manifests."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from syncer.kube.types import CONFIGMAPS, SECRETS, SERVICES, Key, Side
from syncer.manifests.applying import Manifests
from syncer.metrics import Measure, Reading
from syncer.proxy.health import Check
from syncer.proxy.kubeconfigs import KubeconfigSecrets
from syncer.proxy.statuspage import Hold, Working
from syncer.sync.caches import Caches
from syncer.sync.engine import Engine
from syncer.sync.executor import Executor
from syncer.sync.guard import Guard
from syncer.sync.ledger import Ledger, State
from syncer.sync.mainstays import Mainstays
from syncer.sync.recorder import Recorder
from syncer.sync.view import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncer.kube.client import Client
    from syncer.kube.types import Obj, Resource
    from syncer.metrics import Metrics
    from syncer.naming import Names
    from syncer.settings import Settings
    from syncer.sync.extent import Extent
    from syncer.sync.fence import Fence

_STALE_WATCH = 320.0
"""A watch without a sign of life for so long is not to be trusted. Where nothing changes an API server sends nothing, not even
bookmarks, until it ends the watch after five minutes at most, as asked; then the next one starts."""


def timestamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Synchronization:
    """The loops of `extent` and all they need, while `run` runs. `clients` write only while this replica leads.

    `version` is that of the virtual API server.
    """

    def __init__(
        self,
        settings: Settings,
        clients: Mapping[Side, Client],
        fence: Fence,
        extent: Extent,
        *,
        names: Names,
        version: str,
        metrics: Metrics,
    ) -> None:
        specs = extent.specs
        self._owner = fence.owner_reference() if settings.set_owner else None
        self._recorder = Recorder(clients, clock=time.monotonic, timestamp=timestamp)
        self._guard = Guard(
            limit_count=settings.deletion_hold_count,
            limit_fraction=settings.deletion_hold_fraction,
            verify=fence.verify,
            wall=time.time,
            announce=fence.warn,
            told=fence.released_at,
        )
        self._caches = Caches(
            specs,
            clients,
            names=names,
            policy=_policy(settings, extent, version, self._owner, fence.paused_at),
            wall=time.time,
            before_swap={Side.VIRTUAL: fence.verify, Side.HOST: fence.verify_host},
        )
        self._ledger = Ledger()
        self._engine = Engine(
            specs,
            caches=self._caches,
            clients=clients,
            executor=Executor(clients, self._caches, fence, self._guard, self._recorder),
            ledger=self._ledger,
            guard=self._guard,
            fence=fence,
            observer=metrics,
            scan_interval=settings.scan_interval,
            clock=time.monotonic,
            wall=time.time,
        )
        self._kubeconfigs = self._secrets(settings, clients[Side.HOST], fence) if settings.proxy else None
        self._mainstays = self._kept_up(settings, clients[Side.HOST], fence)
        self._manifests: Manifests | None = None
        if settings.init_manifests:
            directory = Path(settings.init_manifests)
            self._manifests = Manifests(clients[Side.VIRTUAL], directory, require=fence.require_open, announce=fence.warn)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._engine.run(), name="engine")
            tasks.create_task(self._recorder.run(), name="events")
            if self._mainstays is not None:
                tasks.create_task(self._mainstays.run(), name="mainstays")
            if self._kubeconfigs is not None:
                tasks.create_task(self._kubeconfigs.run(), name="kubeconfig secrets")
            if self._manifests is not None:
                tasks.create_task(self._manifests.run(), name="manifests")

    async def drain(self, seconds: float) -> None:
        """Let writes in flight finish, for at most so many seconds."""
        await self._engine.drain(seconds)

    def keep(self, side: Side, resource: Resource, obj: Obj) -> None:
        """An object as an API server has just answered."""
        self._caches.keep(side, resource, obj)

    def checks(self) -> list[Check]:
        """What /readyz tells of it."""
        held = [
            Check(f"deletions {name}", ok=True, reason=f"{count} are held until `syncer release-deletions`")
            for name, count in self._guard.held().items()
        ]
        if self._manifests is not None and self._manifests.problem:
            held.append(Check("manifests", ok=True, reason=f"not all are applied: {self._manifests.problem}"))
        found = self._engine.checks(stale_after=_STALE_WATCH)
        return held + [Check(name, not wrong, wrong, live=name.startswith("loop ")) for name, wrong in found]

    @property
    def ledger(self) -> Ledger:
        """Where its pairs stand."""
        return self._ledger

    def working(self) -> list[Working]:
        """What the status page tells of its loops."""
        return [
            Working(
                name=loop.spec.name,
                kind=loop.spec.kind.kind,
                alive=loop.workers.alive,
                depth=len(loop.queue),
                oldest=loop.queue.oldest_age(),
                behind=loop.behind(),
            )
            for loop in self._engine.loops
        ]

    def holds(self) -> list[Hold]:
        """What the status page tells of deletions that wait for a person."""
        return [Hold(loop=name, count=count, since=self._guard.held_since(name)) for name, count in self._guard.held().items()]

    def readings(self) -> Iterable[Reading]:
        """What /metrics tells of it."""
        held, counts = self._guard.held(), self._ledger.counts()
        for loop in self._engine.loops:
            name = (loop.spec.name,)
            yield Reading(Measure.QUEUE_DEPTH, name, len(loop.queue))
            yield Reading(Measure.QUEUE_OLDEST, name, loop.queue.oldest_age())
            yield Reading(Measure.DELETIONS_HELD, name, held.get(loop.spec.name, 0))
            for state in State:
                yield Reading(Measure.PAIRS, (loop.spec.name, state), counts[loop.spec.name, state])
            for cause, count in loop.refusals().items():
                yield Reading(Measure.REFUSED, (loop.spec.name, cause), count)
        if self._manifests is not None:
            yield Reading(Measure.MANIFESTS, ("applied",), self._manifests.applied)
            yield Reading(Measure.MANIFESTS, ("waiting",), self._manifests.waiting)
        for labels, count in self._ledger.drift_counts().items():
            yield Reading(Measure.DRIFTING, labels, count)
        for (side, resource), informer in self._caches.informers.items():
            place = (side, str(resource))
            yield Reading(Measure.CACHE_OBJECTS, place, len(informer.store))
            yield Reading(Measure.CACHE_BYTES, place, informer.store.bytes_kept)
            yield Reading(Measure.WATCH_RESTARTS, place, informer.watcher.restarts)
            yield Reading(Measure.WATCH_STALENESS, place, informer.stale_for())

    def _kept_up(self, settings: Settings, host: Client, fence: Fence) -> Mainstays | None:
        services = self._caches.stores.get((Side.HOST, SERVICES))
        names = (settings.service_name, settings.dns_service)
        return None if services is None else Mainstays(host, services, fence, names, self._owner)

    def _secrets(self, settings: Settings, host: Client, fence: Fence) -> KubeconfigSecrets:
        namespace = settings.target_namespace
        extra = Key(settings.out_kube_config_secret_namespace or namespace, settings.out_kube_config_secret)
        return KubeconfigSecrets(
            host,
            kubeconfig=Path(settings.kube_config),
            name=settings.name,
            namespace=namespace,
            server=settings.out_kube_config_server or f"https://localhost:{settings.port}",
            context=settings.kube_config_context_name,
            extra=extra if extra.name else None,
            owner=self._owner,
            require=fence.require_open,
        )


def _policy(settings: Settings, extent: Extent, version: str, owner: Obj | None, paused_at: float) -> Policy:
    return Policy(
        service_name=settings.service_name,
        dns_service=settings.dns_service,
        cluster_domain=settings.cluster_domain,
        service_cidr=tuple(settings.service_cidr),
        service_account=settings.service_account,
        virtual_version=version,
        translate_images=settings.translate_image,
        synced=frozenset(spec.kind for spec in extent.specs),
        lacking=extent.lacking,
        all_copied=_all_copied(settings),
        enforced_tolerations=settings.enforce_toleration,
        node_selector=settings.node_selector,
        enforce_node_selector=settings.enforce_node_selector,
        sync_all_nodes=settings.sync_all_nodes,
        clear_node_images=settings.node_clear_image_status,
        fake_kubelets=settings.proxy and not settings.disable_fake_kubelets,
        kubelet_port=settings.port if settings.fake_kubelet_ips else 0,
        paused_at=paused_at,
        owner=owner,
    )


def _all_copied(settings: Settings) -> frozenset[Resource]:
    chosen = ((CONFIGMAPS, settings.sync_all_configmaps), (SECRETS, settings.sync_all_secrets))
    return frozenset(resource for resource, all_of_them in chosen if all_of_them)

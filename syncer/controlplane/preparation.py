"""What has to be there before a control plane starts: its certificates, the range of its Service addresses, its datastore."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from syncer.controlplane.ranges import configmap_key, publish_ranges, service_ranges
from syncer.controlplane.upkeep import Upkeep
from syncer.errors import ConfigError, NotFound
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import CONFIGMAPS, Key, Side, is_deleting, uid_of
from syncer.runtime.patience import insist
from syncer.sync.fence import owner_key, reference_to

if TYPE_CHECKING:
    from syncer.kube.types import Obj
    from syncer.settings import Settings

log = structlog.get_logger("syncer.controlplane")

_CONNECT_SECONDS = 5.0


def keys_owner_key(namespace: str, name: str) -> Key:
    """Where the ConfigMap is that owns the keys of the control plane `name` besides the fence's: that may be deleted to start afresh."""
    return Key(namespace, f"vc-{name}-keys")


async def prepare(settings: Settings, *, service_range: bool, wait_for: str) -> None:
    """Make what is asked for, trying again while the host does not answer; then wait until somebody listens at `wait_for` (HOST:PORT).

    Raises ConfigError for what only a person can mend.
    """
    where = _address(wait_for) if wait_for else None
    async with Client(await load_cluster(settings.host_kube_config or None), Side.HOST) as host:
        if settings.control_plane_files:
            await insist("the certificates of the control plane", lambda: _make_certificates(host, settings), tell=_nobody)
        if service_range:
            await insist("the host's range of Service addresses", lambda: _find_range(host, settings), tell=_nobody)
    if where is not None:
        await insist(f"somebody who listens at {wait_for}", lambda: _connect(*where), tell=_nobody, again=0.5)
    log.info("prepared")


def open_upkeep(host: Client, settings: Settings) -> Upkeep:
    """What keeps the certificates of `settings.control_plane_files`."""
    return Upkeep(
        host,
        directory=Path(settings.control_plane_files),
        name=settings.name,
        namespace=settings.target_namespace,
        cluster_domain=settings.cluster_domain,
        life=settings.certificate_life,
        owners=lambda: _owners(host, settings),
    )


async def _make_certificates(host: Client, settings: Settings) -> None:
    await open_upkeep(host, settings).refresh()


async def _find_range(host: Client, settings: Settings) -> None:
    namespace = settings.target_namespace
    ranges = await service_ranges(host, namespace)
    owners = await _owners(host, settings)
    await publish_ranges(host, configmap_key(namespace, settings.name), ranges, name=settings.name, owners=owners)


async def _owners(host: Client, settings: Settings) -> list[Obj]:
    """The ownerReferences of what is made: to the ConfigMaps that the chart makes for that, as far as they are there."""
    found: list[Obj] = []
    for key in [of(settings.target_namespace, settings.name) for of in (owner_key, keys_owner_key) if settings.set_owner]:
        with suppress(NotFound):
            owner = await host.get(CONFIGMAPS, key)
            if not is_deleting(owner):
                found.append(reference_to(key, uid_of(owner)))
    return found


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--wait-for: {text!r} is not an address; write HOST:PORT")
    return host.strip("[]"), int(port)


async def _connect(host: str, port: int) -> None:
    async with asyncio.timeout(_CONNECT_SECONDS):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()


def _nobody(_: str) -> None:
    """The log tells already."""

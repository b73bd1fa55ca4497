"""Asks replicas of a virtual cluster for their status page: through a port forwarded to the pod, since it is served inside only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp

from syncer.errors import NETWORK_ERRORS, Forbidden, NotFound, SyncerError
from syncer.kube import codec
from syncer.kube.types import CONFIGMAPS, LEASES, Key, key_of
from syncer.proxy.statuspage import API_VERSION, KIND
from syncer.releases.portforward import PortForward
from syncer.releases.readiness import why
from syncer.releases.standing import Findings
from syncer.releases.waiting import is_ready
from syncer.runtime.leader import lease_key
from syncer.sync.fence import owner_key

if TYPE_CHECKING:
    from syncer.kube.client import Client
    from syncer.kube.types import Obj, Resource
    from syncer.releases.release import Release

HEALTH_PORT = 8081
"""That of --health-bind-address, which the chart leaves as it is."""
_PATIENCE = 10.0
_SIZE = 4 << 20


async def fetch(url: str) -> Obj:
    """The page of the syncer whose health is served at `url`. Raises SyncerError or a network error."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE), trust_env=False) as session:
        address = url.rstrip("/").removesuffix("/status") + "/status"
        async with session.get(address, allow_redirects=False) as answer:
            body = b""
            async for piece in answer.content.iter_chunked(1 << 16):
                body += piece
                if len(body) > _SIZE:
                    raise SyncerError(f"its answer is longer than {_SIZE} bytes, which no status page is")
            if answer.status != 200:
                words = "it has none: it is older, or no syncer" if answer.status == 404 else body[:200].decode(errors="replace").strip()
                raise SyncerError(f"{answer.status}: {words}")
    try:
        page: Obj = codec.loads(body)
        told = page["apiVersion"], page["kind"]
    except (ValueError, KeyError, TypeError):
        raise SyncerError("what it answers is no status page") from None
    if told != (API_VERSION, KIND):
        raise SyncerError(f"it tells {told[0]} {told[1]}, which this version does not read; use the syncer command of its version")
    return page


async def fetch_of(host: Client, pod: Key) -> Obj:
    """The page of a replica in a pod. Raises SyncerError or a network error."""
    said: list[str] = []

    async def same() -> Key:
        return pod

    async with PortForward(host, same, HEALTH_PORT, say=said.append) as forward:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await fetch(f"http://{forward.address}:{forward.local_port}")
        except NETWORK_ERRORS as error:
            raise SyncerError(said[-1] if said else str(error) or f"no answer within {_PATIENCE:g} s") from None


async def find_out(host: Client, release: Release) -> Findings:
    """All about a release."""
    name, namespace = release.name, release.namespace
    running = [key_of(pod) for pod in release.pods if (pod.get("status") or {}).get("phase") == "Running"]
    pages = await asyncio.gather(*(_page(host, pod) for pod in running))
    reason = "" if is_ready(release.stateful_set) else await why(host, Key(namespace, name), release.stateful_set)
    found = await of_host(host, name, namespace)
    return replace(found, release=release, why_not_ready=reason, pages={pod.name: page for pod, page in zip(running, pages, strict=True)})


async def of_host(host: Client, name: str, namespace: str) -> Findings:
    """The Lease and the owner ConfigMap of a virtual cluster, as far as there are such and they may be read."""
    lease, _ = await _find(host, LEASES, lease_key(namespace, name))
    owner, gone = await _find(host, CONFIGMAPS, owner_key(namespace, name))
    return Findings(name=name, namespace=namespace, lease=lease, owner=owner, owner_is_gone=gone)


async def _page(host: Client, pod: Key) -> Obj | str:
    try:
        return await fetch_of(host, pod)
    except (SyncerError, *NETWORK_ERRORS) as error:
        return str(error) or type(error).__name__


async def _find(host: Client, resource: Resource, key: Key) -> tuple[Obj | None, bool]:
    """The object, and whether it is known that there is none."""
    try:
        return await host.get(resource, key), False
    except NotFound:
        return None, True
    except Forbidden:
        return None, False

"""What the status page has to ask for, each time that somebody looks: do the API servers answer, how long are certificates good."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from syncer.errors import NETWORK_ERRORS, ApiError, ConfigError
from syncer.kube.types import Side
from syncer.kube.validity import Validity, validities
from syncer.proxy.statuspage import Certificate, Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from syncer.kube.client import Client
    from syncer.proxy.certificates import Served
    from syncer.settings import Settings

PATIENCE = 3.0
"""Seconds after which an API server counts as one that does not answer."""
_SIZE = 1 << 20
"""Bytes of a file of certificates that are looked at."""


async def ask_servers(clients: Mapping[Side, Client]) -> list[Server]:
    """Both API servers now; there is no client of one that has never been reached."""
    return list(await asyncio.gather(*(_ask(side, clients.get(side)) for side in (Side.HOST, Side.VIRTUAL))))


async def _ask(side: Side, client: Client | None) -> Server:
    if client is None:
        return Server(side=side, problem="not reached since the start")
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await client.request_json("GET", "/version")
    except TimeoutError:
        return Server(side=side, address=client.cluster.server, problem=f"no answer within {PATIENCE:g} s")
    except (ApiError, *NETWORK_ERRORS) as error:
        return Server(side=side, address=client.cluster.server, problem=str(error) or type(error).__name__)
    return Server(side=side, address=client.cluster.server, version=str(answer.get("gitVersion") or ""))


def of_served(name: str, served: Served) -> Certificate:
    """One that the syncer had issued itself."""
    return Certificate(name=name, validity=Validity(served.issued_at, served.expires_at))


async def read_certificates(settings: Settings, clients: Mapping[Side, Client]) -> list[Certificate]:
    """Those of the virtual control plane that the syncer goes by, and those by which it is known to the API servers."""
    return await asyncio.to_thread(_read, settings, clients)


def _read(settings: Settings, clients: Mapping[Side, Client]) -> list[Certificate]:
    files = {
        "server-ca": settings.server_ca_cert,
        "client-ca": settings.client_ca_cert,
        "front-proxy client": settings.proxy_client_cert,
    }
    if settings.proxy_metrics_server:
        files["request-header-ca"] = settings.request_header_ca_cert
    found = [_of_file(name, path) for name, path in files.items()] if settings.proxy else []
    for side, client in clients.items():
        if client.cluster.read is None:
            continue
        try:
            pem = client.cluster.read().certificate.value
        except ConfigError as error:
            found.append(Certificate(name=f"client at the {side} API server", problem=str(error)))
        else:
            if pem:
                found.append(_of(f"client at the {side} API server", pem))
    return found


def _of_file(name: str, path: Path) -> Certificate:
    try:
        with path.open("rb") as stream:
            return _of(name, stream.read(_SIZE))
    except OSError as error:
        return Certificate(name=name, problem=f"{path} cannot be read: {error.strerror}")


def _of(name: str, pem: bytes) -> Certificate:
    """Of several, the one that counts is the first: what comes after it vouches for it, or is on its way out."""
    found = validities(pem)
    return Certificate(name=name, validity=found[0]) if found else Certificate(name=name, problem="there is no certificate in it")

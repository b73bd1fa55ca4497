"""Where a virtual cluster is reached from outside of its host: what its Services tell, as pure functions, and what of it answers."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from syncer.errors import NETWORK_ERRORS, ConfigError, Forbidden, NotFound, SyncerError, told
from syncer.kube.types import NODES, SERVICES, Key
from syncer.releases.credentials import Endpoint, open_virtual

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncer.kube.client import Client
    from syncer.kube.types import Obj
    from syncer.releases.credentials import Credentials

IN_EVERY_CERTIFICATE = "localhost"
_PROBE_SECONDS = 3.0
_MOST_NODES = 3


def endpoint_of(server: str) -> Endpoint:
    """What --server says: a URL, or a host with or without a port. Raises ValueError."""
    url = server if "://" in server else f"https://{server}"
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(f"{server!r} is not the URL of an API server; write https://HOST:PORT")
    return Endpoint(url.rstrip("/"))


def listening(address: str, port: int) -> Endpoint:
    """Where to reach what listens on an address of this machine."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    # These two are in the certificate.
    named = "" if str(ip) in ("127.0.0.1", "::1") else IN_EVERY_CERTIFICATE
    return Endpoint(_url(str(ip), port), named)


def exposed(services: Iterable[Obj], nodes: Iterable[Obj]) -> Iterator[Endpoint]:
    """Where these Services can be reached from outside, the better first; whether they can from here is another question.

    An address may be younger than the certificate, and those of nodes are never in it.
    """
    at_nodes: list[Endpoint] = []
    for service in services:
        spec = service.get("spec") or {}
        port = next((one for one in spec.get("ports") or () if one.get("name") in ("https", None, "")), None)
        if port is None or spec.get("type") not in ("LoadBalancer", "NodePort"):
            continue
        if spec["type"] == "LoadBalancer":
            for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
                if address := ingress.get("ip") or ingress.get("hostname"):
                    yield Endpoint(_url(address, port["port"]))
                    yield Endpoint(_url(address, port["port"]), IN_EVERY_CERTIFICATE)
        elif port.get("nodePort"):
            at_nodes += (Endpoint(_url(address, port["nodePort"]), IN_EVERY_CERTIFICATE) for address in _addresses(nodes))
    yield from at_nodes


def waits_for_balancer(services: Iterable[Obj]) -> bool:
    """Whether one of them is to get an address, and has none yet."""
    return any(
        (service.get("spec") or {}).get("type") == "LoadBalancer"
        and not ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress")
        for service in services
    )


async def front_services(host: Client, name: str, namespace: str) -> list[Obj]:
    """The Services that lead to the virtual cluster from outside: the one that the chart makes for a load balancer, and its own."""
    found = []
    for service in (f"{name}-lb", name):
        try:
            found.append(await host.get(SERVICES, Key(namespace, service)))
        except (NotFound, Forbidden):
            continue
    return found


async def reachable(host: Client, services: list[Obj], credentials: Credentials) -> tuple[Endpoint | None, str]:
    """The best endpoint that answers here; if there is none, why not, "" for one that nobody wanted."""
    nodes: list[Obj] = []
    if any((service.get("spec") or {}).get("type") == "NodePort" for service in services):
        try:
            nodes = await host.list_all(NODES)
        except Forbidden:
            return None, "which nodes there are may not be seen, so its node port cannot be used"
    candidates = list(exposed(services, nodes))
    answers = await asyncio.gather(*(problem(credentials, endpoint, _PROBE_SECONDS) for endpoint in candidates))
    for endpoint, wrong in zip(candidates, answers, strict=True):
        if not wrong:
            return endpoint, ""
    if candidates:
        return None, f"{candidates[0].server} does not answer here: {answers[0]}"
    return None, "its load balancer has no address yet" if waits_for_balancer(services) else ""


async def problem(credentials: Credentials, endpoint: Endpoint, seconds: float) -> str:
    """Why the virtual API server does not answer there, "" if it does."""
    try:
        async with asyncio.timeout(seconds), await open_virtual(credentials, endpoint, request_timeout=seconds) as virtual:
            await virtual.request_json("GET", "/version")
    except ConfigError:
        raise
    except (SyncerError, *NETWORK_ERRORS) as error:
        return told(error)
    return ""


def _addresses(nodes: Iterable[Obj]) -> list[str]:
    """Of a few nodes; those for the outside first."""
    found: dict[str, list[str]] = {"ExternalIP": [], "InternalIP": []}
    for node in nodes:
        for address in (node.get("status") or {}).get("addresses") or ():
            if address.get("type") in found:
                found[address["type"]].append(address["address"])
    return [address for kind in found.values() for address in kind][:_MOST_NODES]


def _url(host: str, port: int) -> str:
    named = f"[{host}]" if ":" in host else host
    return f"https://{named}" if port == 443 else f"https://{named}:{port}"

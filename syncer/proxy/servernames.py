"""Under which host names and IP addresses clients may reach the front door: what its serving certificate is for."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from typing import TYPE_CHECKING

import structlog

from syncer.errors import NETWORK_ERRORS, NotFound, SyncerError
from syncer.kube.types import SERVICES, Key
from syncer.translate.kubelets import BELONGS_TO, HOST_DOMAIN, NODE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from syncer.kube.client import Client
    from syncer.kube.types import Obj

log = structlog.get_logger("syncer.proxy")

_ASK_AGAIN = 15.0
_LONGEST = 253
_PART = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def server_names(
    *, service: Key, cluster_domain: str, pod_ip: str = "", more: Iterable[str] = (), found: Iterable[str] = ()
) -> tuple[frozenset[str], frozenset[str]]:
    """Names and addresses for a certificate in canonical form, and texts among those given that are neither.

    `service` is the host Service in front; `found` is what the host tells, `more` what a person does.
    """
    candidates = {"localhost", "127.0.0.1", "::1", f"*.{HOST_DOMAIN}", pod_ip, *more, *found}
    for name in ("kubernetes.default", *(f"{front}.{service.namespace}" for front in fronts(service))):
        candidates |= {name.partition(".")[0], name, f"{name}.svc", f"{name}.svc.{cluster_domain}"}
    candidates.discard("")
    read = {candidate: canonical(candidate) for candidate in candidates}
    return frozenset(name for name in read.values() if name), frozenset(text for text, name in read.items() if not name)


def fronts(service: Key) -> tuple[str, str]:
    """Names of the Services that lead to the front door: the one given, and the one that vcluster's chart makes for a load balancer."""
    return service.name, f"{service.name}-lb"


def canonical(text: str) -> str:
    """An IP address as it is usually written, or a host name in small letters; "" for what is neither."""
    text = text.strip().rstrip(".").lower()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        return "" if "%" in text else str(address)
    parts = text.removeprefix("*.").split(".")
    usable = len(text) <= _LONGEST and all(_PART.fullmatch(part) for part in parts) and not parts[-1].isdecimal()
    return text if usable else ""


def addresses(service: Obj) -> set[str]:
    """Where a host Service is reached: its cluster and external IPs, and what its load balancer has."""
    spec = service.get("spec") or {}
    found = {spec.get("clusterIP"), *(spec.get("clusterIPs") or ()), *(spec.get("externalIPs") or ())}
    for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
        found |= {ingress.get("ip"), ingress.get("hostname")}
    return {str(address) for address in found if address and address != "None"}


class ServerNames:
    """Asks the host, at most every 15 seconds, for what `server_names` needs; what cannot be asked stays as it was last told.

    `name` is that of the virtual cluster; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        host: Client,
        *,
        name: str,
        service: Key,
        cluster_domain: str,
        pod_ip: str,
        more: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._name = name
        self._service = service
        self._cluster_domain = cluster_domain
        self._pod_ip = pod_ip
        self._more = tuple(more)
        self._clock = clock
        self._asked_at = float("-inf")
        self._found: dict[str, set[str]] = {}
        self._told: dict[str, object] = {}

    async def __call__(self) -> frozenset[str]:
        """The names of the moment."""
        if self._clock() - self._asked_at >= _ASK_AGAIN:
            self._asked_at = self._clock()
            async with asyncio.TaskGroup() as tasks:
                for front in fronts(self._service):
                    tasks.create_task(self._ask(f"Service {front}", self._ask_front(front)))
                tasks.create_task(self._ask("Services of nodes", self._ask_nodes()))
        usable, unusable = server_names(
            service=self._service,
            cluster_domain=self._cluster_domain,
            pod_ip=self._pod_ip,
            more=self._more,
            found={address for found in self._found.values() for address in found},
        )
        if self._is_news("unusable", unusable) and unusable:
            log.warning("proxy.names_unusable", names=sorted(unusable), remedy="a certificate takes host names and IP addresses only")
        return usable

    async def _ask(self, what: str, answer: Awaitable[set[str]]) -> None:
        try:
            self._found[what] = await answer
        except (SyncerError, *NETWORK_ERRORS) as error:
            words = str(error) or type(error).__name__
            if self._is_news(what, words):
                log.warning("proxy.names_not_asked", of=what, error=words, effect="the serving certificate keeps the addresses it has")
        else:
            self._told.pop(what, None)

    def _is_news(self, about: str, what: object) -> bool:
        is_news = self._told.get(about) != what
        self._told[about] = what
        return is_news

    async def _ask_front(self, name: str) -> set[str]:
        try:
            return addresses(await self._host.get(SERVICES, Key(self._service.namespace, name)))
        except NotFound:
            # The first one comes back with its addresses when somebody deletes it, see sync.mainstays.
            return self._found.get(f"Service {name}", set()) if name == self._service.name else set()

    async def _ask_nodes(self) -> set[str]:
        services = await self._host.list_all(SERVICES, self._service.namespace, label_selector=f"{NODE},{BELONGS_TO}={self._name}")
        return {address for service in services for address in addresses(service)}

"""Admission of Services as installed in a virtual cluster: the addresses it accepts, the webhook's authority, the webhook.

Every replica runs one, whether it leads or not: each serves the API server that runs beside it, and that one calls the
loopback. They share one authority, so one MutatingWebhookConfiguration is right for all of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog

from syncer.errors import NETWORK_ERRORS, AlreadyExists, FenceClosed, NotFound, SyncerError
from syncer.kube.types import MUTATING_WEBHOOKS, SERVICE_CIDRS, SERVICES, Key, Side, key_of
from syncer.proxy.admission import AdmissionServer, missing_service_cidr, webhook_configuration
from syncer.runtime.patience import AGAIN, insist, until_told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from syncer.kube.client import Client
    from syncer.proxy.admission import ServiceAllocator
    from syncer.proxy.certificates import Certificates, Served, SharedAuthority
    from syncer.sync.fence import Fence

T = TypeVar("T")

log = structlog.get_logger("syncer.proxy")

_LOOK_AGAIN = 60.0
"""Seconds between two looks at whether all is as it was installed."""


class Installation:
    """Installs admission, serves it and keeps it as it is, while `run` runs.

    `front` is the host Service of the virtual API server, which tells the IP families of the host; `cidrs`, when given, are
    the host's ranges of Service addresses. `leads` tells whether this replica is the one that mends what others changed.
    """

    def __init__(
        self,
        clients: Mapping[Side, Client],
        fence: Fence,
        allocator: ServiceAllocator,
        authority: SharedAuthority,
        *,
        front: Key,
        cidrs: tuple[str, ...],
        port: int,
        leads: Callable[[], bool],
    ) -> None:
        self._host = clients[Side.HOST]
        self._virtual = clients[Side.VIRTUAL]
        self._fence = fence
        self._allocator = allocator
        self._authority = authority
        self._front = front
        self._cidrs = cidrs
        self._port = port
        self._leads = leads
        self._ranges: tuple[str, ...] = ()
        self._look = asyncio.Event()
        self._server: AdmissionServer | None = None
        self._not_tended = ""
        self.problem = "the webhook for Services is not served yet"
        """Why new Services get no addresses now; "" when they do."""

    @property
    def served(self) -> Served | None:
        """The certificate that the virtual API server is shown; None while there is none."""
        return None if self._server is None else self._server.certificates

    def look(self) -> None:
        """See to the webhook now: this replica has come to lead."""
        self._look.set()

    async def run(self) -> None:
        """Until cancelled. Raises ConfigError when the port is taken."""
        served = await self._insist("the range of Service addresses", self._accept_host_addresses)
        if not served and not self._cidrs:
            log.error(
                "service_cidr.not_served",
                remedy="before Kubernetes 1.33, start the virtual API server with the host's range as --service-cluster-ip-range, "
                "and give that to --service-cidr",
            )
        certificates = await self._insist("the authority of the webhook for Services", self._authority.issue)
        async with AdmissionServer(self._allocator, certificates, port=self._port, issue=self._reissue) as server:
            self._server = server
            await self._insist("the webhook for Services", lambda: self._install(server.certificates.ca))
            log.info("admission.serving", url=server.url)
            self.problem = ""
            pause = _LOOK_AGAIN
            while True:
                await until_told(self._look, pause)
                pause = _LOOK_AGAIN if await self._tend(server) else AGAIN

    async def _tend(self, server: AdmissionServer) -> bool:
        """Put right what was changed; False when that did not work. What is installed serves all the same."""
        try:
            if not self._leads():  # the engine of the leader watches the fence
                await self._watch_fence()
            if await self._authority.bundle() != server.certificates.ca:
                await server.renew()
            if self._leads():
                await self._install(server.certificates.ca)
                await self._accept_host_addresses()
        except (SyncerError, *NETWORK_ERRORS) as error:
            words = str(error) or type(error).__name__
            if words != self._not_tended:
                log.warning("admission.not_tended", error=words)
            self._not_tended = words
            return False
        self._not_tended = ""
        return True

    async def _watch_fence(self) -> None:
        try:
            await self._fence.verify_host()
            await self._fence.verify()
        except FenceClosed:
            return  # /readyz tells, and the allocator asks it

    async def _reissue(self, previous: Certificates) -> Certificates:
        """The next certificate; if it is of another authority, API servers trust that one before they see it."""
        fresh = await self._authority.issue(previous)
        if fresh.ca != previous.ca:
            await self._install(fresh.ca)
        return fresh

    async def _install(self, ca: bytes) -> None:
        assert self._server is not None
        configuration = webhook_configuration(self._server.url, ca)
        # By force: whoever changed a field since, be it by kubectl edit or a restored backup, would have it for good.
        await self._virtual.patch(MUTATING_WEBHOOKS, key_of(configuration), configuration, strategy="apply", force=True)

    async def _accept_host_addresses(self) -> bool:
        """Have the virtual API server accept the addresses that the host gives to Services; False when it knows no such ranges."""
        self._ranges = self._ranges or self._cidrs or await self._host_families()
        try:
            missing = missing_service_cidr(self._ranges, await self._virtual.list_all(SERVICE_CIDRS))
            if missing is not None:
                await self._virtual.create(SERVICE_CIDRS, "", missing)
                log.info("service_cidr.created", name=key_of(missing).name, cidrs=missing["spec"]["cidrs"])
        except AlreadyExists:
            return True  # another replica was first
        except NotFound:
            return False
        return True

    async def _host_families(self) -> tuple[str, ...]:
        """The widest range of each IP family that the host's Services have, seen by the one in front of the virtual API server."""
        try:
            service = await self._host.get(SERVICES, self._front)
        except NotFound:
            service = {}
        addresses = (service.get("spec") or {}).get("clusterIPs") or []
        families = {"::/0" if ":" in address else "0.0.0.0/0" for address in addresses if address != "None"}
        return tuple(sorted(families)) or ("0.0.0.0/0",)

    async def _insist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        return await insist(what, attempt, tell=self._tell)

    def _tell(self, problem: str) -> None:
        self.problem = problem

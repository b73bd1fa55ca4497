"""The front door as installed: its certificate, its ways to both API servers, its routes, its listener."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from syncer.kube.config import open_cluster
from syncer.kube.kubeconfig import read_kubeconfig, with_certificate
from syncer.kube.types import Key, Side
from syncer.metrics import Measure, Reading
from syncer.proxy.containers import Containers
from syncer.proxy.gate import Gate
from syncer.proxy.kubelet import Kubelets
from syncer.proxy.relay import Relay
from syncer.proxy.server import ProxyServer, VirtualServers
from syncer.proxy.servernames import ServerNames
from syncer.proxy.serving import ServingCertificate
from syncer.runtime.patience import insist
from syncer.translate.messages import host_names_hidden
from syncer.values import Address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncer.kube.client import Client
    from syncer.kube.kubeconfig import Access
    from syncer.naming import Names
    from syncer.proxy.certificates import Served
    from syncer.proxy.server import Observer, Route
    from syncer.settings import Settings

log = structlog.get_logger("syncer.proxy")


class FrontDoor:
    """Serves the virtual cluster's API while `run` runs. `pod_ip` is our own address if we run in a pod."""

    def __init__(self, settings: Settings, clients: Mapping[Side, Client], *, names: Names, pod_ip: str, observer: Observer) -> None:
        self._settings = settings
        self._pod_ip = pod_ip
        self._host = clients[Side.HOST]
        self._virtual = clients[Side.VIRTUAL]
        self._names = names
        self._observer = observer
        self._server: ProxyServer | None = None
        self._serving: ServingCertificate | None = None
        self.problem = "the virtual cluster's API is not served yet"
        """Why clients are not served now; "" when they are."""

    async def run(self) -> None:
        """Until cancelled. Raises ConfigError when the port is taken."""
        settings = self._settings
        names = ServerNames(
            self._host,
            name=settings.name,
            service=Key(settings.target_namespace, settings.service_name),
            cluster_domain=settings.cluster_domain,
            pod_ip=self._pod_ip,
            more=settings.tls_san,
        )
        serving = ServingCertificate(
            ca_cert=settings.server_ca_cert,
            ca_key=settings.server_ca_key,
            client_ca=settings.client_ca_cert,
            names=names,
            life=settings.certificate_life,
        )
        servers = await insist("the way to the virtual API server", self._open, tell=self._tell, files_may_come=True)
        await insist("the certificate to serve with", serving.begin, tell=self._tell, files_may_come=True)
        async with Relay(hide=lambda text: host_names_hidden(text, names=self._names, pairs=())) as relay:
            server = ProxyServer(
                Address(settings.bind_address, settings.port),
                servers,
                relay,
                self._routes(relay, servers),
                context=lambda: serving.context,
                observer=self._observer,
                limit=settings.max_connections,
                drain=settings.drain_time,
            )
            async with server:
                self._server, self._serving, self.problem = server, serving, ""
                log.info("proxy.serving", address=f"{settings.bind_address}:{server.connections.port}")
                await serving.run()

    @property
    def served(self) -> Served | None:
        """The certificate that clients are shown; None while there is none."""
        return None if self._serving is None else self._serving.served

    def readings(self) -> Iterable[Reading]:
        """What /metrics tells of it."""
        if self._server is not None:
            yield Reading(Measure.PROXY_CONNECTIONS, (), self._server.connections.count)
            yield Reading(Measure.PROXY_TURNED_AWAY, (), self._server.connections.turned_away)

    def _tell(self, problem: str) -> None:
        self.problem = problem

    async def _open(self) -> VirtualServers:
        settings = self._settings
        vouched = partial(_access, Path(settings.kube_config), settings.proxy_client_cert, settings.proxy_client_key)
        bare = partial(_access, Path(settings.kube_config), None, None)
        return VirtualServers(await open_cluster(vouched), await open_cluster(bare))

    def _routes(self, relay: Relay, servers: VirtualServers) -> list[Route]:
        gate, names, virtual, host = Gate(relay, servers), self._names, self._virtual, self._host
        containers = Containers(gate=gate, relay=relay, servers=servers, names=names, virtual=virtual, host=host)
        return [Kubelets(gate=gate, relay=relay, containers=containers, names=names, virtual=virtual, host=host), containers]


def _access(kubeconfig: Path, certificate: Path | None, key: Path | None) -> Access:
    return with_certificate(read_kubeconfig(kubeconfig), certificate, key)

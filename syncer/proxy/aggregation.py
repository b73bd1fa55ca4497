"""metrics.k8s.io as an aggregated API of the virtual cluster: served on the loopback, and registered there by the replica that leads.

The virtual API server authenticates and authorises its clients as for any of its types, and then asks here, with its front-proxy
certificate, which is all that is let in. So whichever way a client comes, by the front door or past it, as the autoscaler does that
runs beside the virtual API server, it sees the same.

It is registered while the host has a metrics server and the virtual API server gets here, and not otherwise: an API that is
registered but not there holds up everything that goes over all types, such as the deletion of namespaces. Where a metrics server is
there but does not answer for a while, only the metrics are missing. What the tenant has registered himself under the same name is
left as it is.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import structlog
from aiohttp import web

from syncer.errors import NETWORK_ERRORS, ApiError, ConfigError, NotFound, SyncerError, Unauthorized
from syncer.kube.types import SERVICES, Key, Resource, Side, key_of, labels_of, uid_of
from syncer.naming import DOMAIN
from syncer.proxy.connections import Connections
from syncer.proxy.metrics_api import ROOT
from syncer.proxy.requests import parse
from syncer.proxy.server import answered
from syncer.proxy.serving import ServingCertificate
from syncer.proxy.usage import GROUP, VERSION
from syncer.runtime.patience import AGAIN, insist, until_told
from syncer.translate.merge import owned
from syncer.values import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from syncer.kube.client import Client
    from syncer.kube.types import Obj
    from syncer.proxy.metrics_api import MetricsApi
    from syncer.proxy.server import Observer
    from syncer.settings import Settings

log = structlog.get_logger("syncer.proxy")

API_SERVICES = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService", namespaced=False)
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
SERVICE = Key("kube-system", "metrics-service")
API_SERVICE = Key("", f"{VERSION}.{GROUP}")
OURS = f"{DOMAIN}/controlled-by"
"""Label of what we have made there; it also keeps the Service from being synced."""

_LOOPBACK = "127.0.0.1"
_LOOK_AGAIN = 60.0
_UNREACHED = 3
"""How many looks in a row may find that the virtual API server does not get here."""
_TRY_AGAIN = 3600.0
_CONNECTIONS = 100
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def registration(port: int, ca: str) -> list[tuple[Resource, Obj]]:
    """What registers the API in a virtual cluster, served at `port` with a certificate that `ca` (PEM) vouches for.

    A Service of this type is asked at its external name, whatever that is, by API servers that do not route by endpoints; the port is
    the one that the APIService names. The ClusterRole is what metrics servers come with: whoever may view pods may view these.
    """
    labels = {OURS: "syncer"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE.name, "namespace": SERVICE.namespace, "labels": labels},
        "spec": {"type": "ExternalName", "externalName": _LOOPBACK},
    }
    role = {
        "apiVersion": CLUSTER_ROLES.api_version,
        "kind": CLUSTER_ROLES.kind,
        "metadata": {
            "name": "system:aggregated-metrics-reader",
            "labels": {**labels, **{f"rbac.authorization.k8s.io/aggregate-to-{role}": "true" for role in ("view", "edit", "admin")}},
        },
        "rules": [{"apiGroups": [GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}],
    }
    api_service = {
        "apiVersion": API_SERVICES.api_version,
        "kind": API_SERVICES.kind,
        "metadata": {"name": API_SERVICE.name, "labels": labels},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": SERVICE.namespace, "name": SERVICE.name, "port": port},
            "caBundle": b64encode("".join(_CERTIFICATE.findall(ca)).encode()).decode(),
        },
    }
    return [(SERVICES, service), (CLUSTER_ROLES, role), (API_SERVICES, api_service)]


class AggregatedServer:
    """Serves the API on the loopback while entered, to whoever has a certificate that `serving` takes for a front proxy's.

    Entering raises ConfigError when the port is taken.
    """

    def __init__(self, api: MetricsApi, serving: ServingCertificate, *, port: int, observer: Observer) -> None:
        self._api = api
        self._serving = serving
        self._observer = observer
        self._server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._connections = Connections(self._server, Address(_LOOPBACK, port), self._context, limit=_CONNECTIONS)

    @property
    def port(self) -> int:
        """Where it really listens."""
        return self._connections.port

    async def __aenter__(self) -> Self:
        try:
            await self._connections.__aenter__()
        except ConfigError as error:
            raise ConfigError(f"--metrics-server-port: cannot listen there: {error.__cause__}; give another one") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connections.close()
        await self._server.shutdown(0.001)
        await self._connections.__aexit__()

    def _context(self) -> ssl.SSLContext:
        context = self._serving.context
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self._connections.busy(request.transport)
        began = asyncio.get_running_loop().time()
        info = parse(request.method, request.raw_path)
        code = 499
        try:
            answer = await answered(self._answer(request), info)
            code = answer.status
            return answer
        finally:
            resource = f"{info.resource}.{GROUP}" if info.resource in ("pods", "nodes") else "path"
            self._observer.proxy_request(info.verb, resource, code, asyncio.get_running_loop().time() - began)
            self._connections.idle(request.transport)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if not request.headers.get("X-Remote-User"):
            # Not the virtual API server on behalf of a client whom it has authorised.
            raise Unauthorized(401, "Unauthorized", "a front proxy has to tell on whose behalf it asks")
        return await self._api.answer(request)


class Aggregation:
    """Serves the API and has it registered while `run` runs, or, without an `api`, sees to it that it no longer is.

    `leads` tells whether this replica is the one that registers it.
    """

    def __init__(
        self, settings: Settings, clients: Mapping[Side, Client], api: MetricsApi | None, *, leads: Callable[[], bool], observer: Observer
    ) -> None:
        self._settings = settings
        self._host = clients[Side.HOST]
        self._virtual = clients[Side.VIRTUAL]
        self._api = api
        self._leads = leads
        self._observer = observer
        self._look = asyncio.Event()
        self._told: tuple[str, ...] = ()
        self._unreached = 0
        self._not_before = 0.0
        self.problem = ""
        """Why there are no metrics now; "" when there are, as far as can be seen from here."""

    def look(self) -> None:
        """See to the registration now: this replica has come to lead."""
        self._look.set()

    async def run(self) -> None:
        """Until cancelled; without an `api` until all traces are gone. Raises ConfigError when the port is taken."""
        if self._api is None:
            while not (self._leads() and await self._tend(None)):
                await until_told(self._look, AGAIN if self._leads() else _LOOK_AGAIN)
            return
        settings = self._settings
        serving = ServingCertificate(
            ca_cert=settings.server_ca_cert,
            ca_key=settings.server_ca_key,
            client_ca=settings.request_header_ca_cert,
            names=_names,
            life=settings.certificate_life,
        )
        await insist("the certificate of metrics.k8s.io", serving.begin, tell=self._tell, files_may_come=True)
        server = AggregatedServer(self._api, serving, port=settings.metrics_server_port, observer=self._observer)
        async with server, asyncio.TaskGroup() as tasks:
            tasks.create_task(serving.run(), name="certificate of metrics.k8s.io")
            tasks.create_task(self._register(server.port), name="registration of metrics.k8s.io")

    async def _register(self, port: int) -> None:
        log.info("metrics_api.serving", address=f"{_LOOPBACK}:{port}")
        self._tell("")
        while True:
            done = not self._leads() or await self._tend(port)
            await until_told(self._look, _LOOK_AGAIN if done else AGAIN)

    async def _tend(self, port: int | None) -> bool:
        """Have it registered at `port`, or not at all; False when that did not work."""
        try:
            if port is None:
                await self._remove()
            elif await self._host_serves() is False:
                await self._remove()
                self._say("metrics_api.not_served", "the host serves no metrics.k8s.io: install a metrics server there")
            elif asyncio.get_running_loop().time() >= self._not_before:
                await self._keep(port)
        except (SyncerError, *NETWORK_ERRORS) as error:
            log.debug("metrics_api.not_tended", error=str(error) or type(error).__name__)
            self._tell(f"it is not registered: {error}")
            return False
        return True

    async def _host_serves(self) -> bool | None:
        """None when nobody can tell: then all stays as it is."""
        try:
            await self._host.request_json("GET", ROOT)
        except NotFound:
            return False
        except ApiError as error:
            # An API that is registered but not there. What it has is not told before it comes back.
            return True if error.status == 503 else None
        return True

    async def _keep(self, port: int) -> None:
        ca = await asyncio.to_thread(_read, self._settings.server_ca_cert)
        found: Obj = {}
        for resource, wanted in registration(port, ca):
            key = key_of(wanted)
            try:
                found = await self._virtual.get(resource, key)
            except NotFound:
                found = await self._virtual.create(resource, key.namespace, wanted)
                log.info("metrics_api.registered", kind=resource.kind, key=str(key))
                continue
            if not labels_of(found).get(OURS):
                if resource is CLUSTER_ROLES:
                    continue  # a metrics server of the tenant's own had one, and it grants the same
                self._say("metrics_api.taken", f"the virtual cluster has a {resource.kind} {key} of its own, which is left as it is")
                return
            if patch := owned(found, wanted):
                unchanged = {"metadata": {"uid": uid_of(found), **patch.pop("metadata", {})}}
                found = await self._virtual.patch(resource, key, {**patch, **unchanged})
        await self._judge(found)

    async def _judge(self, api_service: Obj) -> None:
        """Tell what the virtual API server has against it, and do not insist."""
        conditions = (api_service.get("status") or {}).get("conditions") or ()
        available: Mapping[str, Any] = next((item for item in conditions if item.get("type") == "Available"), {})
        if available.get("status") != "False":
            self._unreached = 0
            self._say("", "")
            return
        self._unreached += 1
        words = f"the virtual API server does not reach it; is it started with --enable-aggregator-routing? {available.get('message')}"
        self._tell(words)
        if self._unreached > 1:  # it looks only now and then itself, and may not have seen yet that we are there
            self._say("metrics_api.unreachable", words)
        if self._unreached >= _UNREACHED:
            self._unreached, self._not_before = 0, asyncio.get_running_loop().time() + _TRY_AGAIN
            await self._remove()

    async def _remove(self) -> None:
        for resource, wanted in reversed(registration(0, "")):
            key = key_of(wanted)
            with suppress(NotFound):
                found = await self._virtual.get(resource, key, metadata_only=True)
                if labels_of(found).get(OURS):
                    await self._virtual.delete(resource, key, uid=uid_of(found))
                    log.info("metrics_api.unregistered", kind=resource.kind, key=str(key))

    def _say(self, event: str, problem: str) -> None:
        """Log a problem, once as long as it lasts."""
        if event and self._told != (event, problem):
            log.warning(event, message=problem)
        self._told = (event, problem)
        self._tell(problem)

    def _tell(self, problem: str) -> None:
        self.problem = problem


async def _names() -> frozenset[str]:
    """How the virtual API server calls the server behind an APIService."""
    return frozenset({f"{SERVICE.name}.{SERVICE.namespace}.svc"})


def _read(path: Path) -> str:
    return path.read_text("ascii", errors="ignore")

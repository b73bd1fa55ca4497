"""metrics.k8s.io as a virtual API server finds it: who is let in, and when it is registered."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from base64 import b64decode
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from syncer.errors import ConfigError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import SERVICES, Key, Obj, Side
from syncer.naming import Names
from syncer.proxy.aggregation import API_SERVICE, API_SERVICES, CLUSTER_ROLES, OURS, SERVICE, AggregatedServer, Aggregation, registration
from syncer.proxy.metrics_api import ROOT, MetricsApi
from syncer.proxy.serving import ServingCertificate
from syncer.proxy.usage import POD_METRICS
from syncer.settings import Settings
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import on
from tests.patience import until
from tests.proxy.front import Seen
from tests.proxy.pki import Files, Pki

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from structlog.typing import EventDict

SERVER, FRONT, OTHER = Pki.make("server CA"), Pki.make("front-proxy CA"), Pki.make("client CA")
ROLE = Key("", "system:aggregated-metrics-reader")
CALLED = "metrics-service.kube-system.svc"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write_server(SERVER)
    files.write_client(FRONT)
    return files


@pytest.fixture
async def clients(virtual_api: FakeApiServer, host_api: FakeApiServer) -> AsyncIterator[Mapping[Side, Client]]:
    for resource in (API_SERVICES, CLUSTER_ROLES):
        virtual_api.register(resource)
    host_api.register(POD_METRICS)
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as virtual, Client(Cluster(host_api.url), Side.HOST) as host:
        yield {Side.VIRTUAL: virtual, Side.HOST: host}


def api_of(clients: Mapping[Side, Client]) -> MetricsApi:
    return MetricsApi(names=Names("blue", "team-17"), virtual=clients[Side.VIRTUAL], host=clients[Side.HOST])


class TestServer:
    @pytest.fixture
    async def server(self, clients: Mapping[Side, Client], files: Files) -> AsyncIterator[AggregatedServer]:
        async def names() -> frozenset[str]:
            return frozenset({CALLED})

        serving = ServingCertificate(ca_cert=files.ca_cert, ca_key=files.ca_key, client_ca=files.client_ca, names=names)
        await serving.begin()
        async with AggregatedServer(api_of(clients), serving, port=0, observer=Seen()) as server:
            yield server

    async def ask(self, server: AggregatedServer, certificate: str, headers: Mapping[str, str], path: str = ROOT) -> int:
        context = ssl.create_default_context(cadata=SERVER.pem)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        with tempfile.NamedTemporaryFile("w") as file:
            if certificate:
                file.write(certificate)
                file.flush()
                context.load_cert_chain(file.name)
        address = f"https://127.0.0.1:{server.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(address, headers=headers, ssl=context, server_hostname=CALLED) as answer:
            return answer.status

    async def test_the_virtual_api_server_is_let_in(self, server: AggregatedServer) -> None:
        assert await self.ask(server, FRONT.client("system:auth-proxy"), {"X-Remote-User": "jane"}) == 200
        assert await self.ask(server, FRONT.client("system:auth-proxy"), {"X-Remote-User": "jane"}, "/api/v1/secrets") == 404

    async def test_nobody_is_asked_for_nobody(self, server: AggregatedServer) -> None:
        assert await self.ask(server, FRONT.client("system:auth-proxy"), {"Authorization": "Bearer x"}) == 401

    @pytest.mark.parametrize(
        "certificate", [pytest.param("", id="none"), pytest.param(OTHER.client("system:auth-proxy"), id="of the virtual cluster's clients")]
    )
    async def test_nobody_else_is(self, server: AggregatedServer, certificate: str) -> None:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await self.ask(server, certificate, {"X-Remote-User": "jane", "X-Remote-Group": "system:masters"})

    async def test_a_port_that_is_taken(self, server: AggregatedServer, clients: Mapping[Side, Client], files: Files) -> None:
        async def names() -> frozenset[str]:
            return frozenset({CALLED})

        serving = ServingCertificate(ca_cert=files.ca_cert, ca_key=files.ca_key, client_ca=files.client_ca, names=names)
        with pytest.raises(ConfigError, match="--metrics-server-port: cannot listen there"):
            await AggregatedServer(api_of(clients), serving, port=server.port, observer=Seen()).__aenter__()


class World:
    """An aggregation that runs, in a replica that leads."""

    def __init__(self, files: Files, clients: Mapping[Side, Client], virtual: FakeApiServer, *, wanted: bool) -> None:
        self.virtual = virtual
        self.leads = True
        settings = Settings.model_validate(
            {
                "target_namespace": "team-17",
                "server_ca_cert": str(files.ca_cert),
                "server_ca_key": str(files.ca_key),
                "request_header_ca_cert": str(files.client_ca),
                "metrics_server_port": "0",
            }
        )
        api = api_of(clients) if wanted else None
        self.aggregation = Aggregation(settings, clients, api, leads=lambda: self.leads, observer=Seen())

    def registered(self) -> list[Obj | None]:
        return [
            self.virtual.get(resource, key) for resource, key in ((API_SERVICES, API_SERVICE), (SERVICES, SERVICE), (CLUSTER_ROLES, ROLE))
        ]

    def look(self) -> None:
        self.aggregation.look()


@pytest.fixture
def begin(files: Files, clients: Mapping[Side, Client], virtual_api: FakeApiServer) -> Callable[..., World]:
    return lambda *, wanted=True: World(files, clients, virtual_api, wanted=wanted)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.aggregation.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def put_registration(api: FakeApiServer, *, ours: bool = True) -> None:
    for _, obj in registration(8445, SERVER.pem):
        labels = obj["metadata"]["labels"] if ours else {}
        api.put({**obj, "metadata": {**obj["metadata"], "labels": labels}})


class TestRegistration:
    async def test_where_the_host_has_a_metrics_server(self, begin: Callable[..., World]) -> None:
        world = begin()
        async with running(world):
            await until(lambda: all(world.registered()))
            api_service, service, role = world.registered()
            assert api_service is not None
            assert service is not None
            assert role is not None
            spec = api_service["spec"]
            assert spec["service"] | {"port": 0} == {"namespace": "kube-system", "name": "metrics-service", "port": 0}
            assert b64decode(spec["caBundle"]).decode() == SERVER.pem
            assert (service["spec"]["type"], service["spec"]["externalName"]) == ("ExternalName", "127.0.0.1")
            assert world.aggregation.problem == ""

    async def test_not_where_it_has_none(self, begin: Callable[..., World], host_api: FakeApiServer, logs: list[EventDict]) -> None:
        """Nor does what was registered before stay, or discovery would fail for everybody."""
        world = begin()
        put_registration(world.virtual)
        host_api.fault(lambda request: request.path == ROOT, status=404)
        async with running(world):
            await until(lambda: not any(world.registered()))
            await until(lambda: world.aggregation.problem.startswith("the host serves no metrics.k8s.io"))
            world.look()
            await asyncio.sleep(0.2)
        assert [line["event"] for line in logs].count("metrics_api.not_served") == 1

    async def test_it_comes_and_goes_with_the_hosts(self, begin: Callable[..., World], host_api: FakeApiServer) -> None:
        world = begin()
        gone = host_api.fault(lambda request: request.path == ROOT, status=404)
        async with running(world):
            await until(lambda: bool(world.aggregation.problem))
            gone.lift()
            world.look()
            await until(lambda: all(world.registered()) and not world.aggregation.problem)
            host_api.fault(lambda request: request.path == ROOT, status=404)
            world.look()
            await until(lambda: not any(world.registered()))

    @pytest.mark.parametrize("status", [500, 503, 401])
    async def test_it_stays_while_nobody_can_tell(self, begin: Callable[..., World], host_api: FakeApiServer, status: int) -> None:
        world = begin()
        put_registration(world.virtual)
        fault = host_api.fault(lambda request: request.path == ROOT, status=status)
        async with running(world):
            await until(lambda: fault.hits > 0)
            await asyncio.sleep(0.2)
            assert all(world.registered())

    async def test_what_somebody_changed_is_put_back(self, begin: Callable[..., World]) -> None:
        world = begin()
        async with running(world):
            await until(lambda: all(world.registered()))
            before = world.registered()
            world.virtual.change(SERVICES, SERVICE, {"spec": {"externalName": "elsewhere"}})
            world.virtual.change(API_SERVICES, API_SERVICE, {"spec": {"insecureSkipTLSVerify": None, "caBundle": "eA=="}})
            world.virtual.remove(CLUSTER_ROLES, ROLE)
            world.look()
            await until(lambda: [it and it.get("spec") for it in world.registered()] == [it and it.get("spec") for it in before])
            await until(lambda: all(world.registered()))

    async def test_what_the_tenant_registered_is_left(self, begin: Callable[..., World], logs: list[EventDict]) -> None:
        world = begin()
        put_registration(world.virtual, ours=False)
        before = world.registered()
        async with running(world):
            await until(lambda: "of its own" in world.aggregation.problem)
        assert world.registered() == before
        assert "metrics_api.taken" in {line["event"] for line in logs}

    async def test_only_who_leads_registers(self, begin: Callable[..., World]) -> None:
        world = begin()
        world.leads = False
        async with running(world):
            await asyncio.sleep(0.3)
            assert not any(world.registered())
            world.leads = True
            world.look()
            await until(lambda: all(world.registered()))

    async def test_it_is_told_that_it_cannot_be_reached(self, begin: Callable[..., World], logs: list[EventDict]) -> None:
        world = begin()
        async with running(world):
            await until(lambda: all(world.registered()))
            condition = {"type": "Available", "status": "False", "message": "unsupported service type"}
            world.virtual.change(API_SERVICES, API_SERVICE, {"status": {"conditions": [condition]}})
            world.look()
            await until(lambda: "unsupported service type" in world.aggregation.problem)
            assert "metrics_api.unreachable" not in {line["event"] for line in logs}, "that may be old"
            world.look()
            await until(lambda: "metrics_api.unreachable" in {line["event"] for line in logs})
            world.virtual.change(API_SERVICES, API_SERVICE, {"status": {"conditions": [condition | {"status": "True"}]}})
            world.look()
            await until(lambda: world.aggregation.problem == "")

    async def test_it_does_not_stay_where_it_is_never_reached(self, begin: Callable[..., World]) -> None:
        world = begin()
        async with running(world):
            await until(lambda: all(world.registered()))
            world.virtual.change(API_SERVICES, API_SERVICE, {"status": {"conditions": [{"type": "Available", "status": "False"}]}})
            for look in range(3):
                assert all(world.registered()), f"{look} looks may find so"
                world.look()
                await asyncio.sleep(0.2)
            await until(lambda: not any(world.registered()))
            world.look()
            await asyncio.sleep(0.2)
            assert not any(world.registered()), "nor does it come back at once"


class TestWithoutTheFlag:
    async def test_what_was_registered_goes(self, begin: Callable[..., World]) -> None:
        world = begin(wanted=False)
        put_registration(world.virtual)
        world.virtual.fault(on("delete", SERVICES), status=503, times=1)
        async with asyncio.timeout(20):
            await world.aggregation.run()
        assert not any(world.registered())

    async def test_only_what_is_ours(self, begin: Callable[..., World]) -> None:
        world = begin(wanted=False)
        put_registration(world.virtual, ours=False)
        async with asyncio.timeout(20):
            await world.aggregation.run()
        assert all(world.registered())

    async def test_only_who_leads(self, begin: Callable[..., World]) -> None:
        world = begin(wanted=False)
        put_registration(world.virtual)
        world.leads = False
        async with running(world):
            await asyncio.sleep(0.3)
            assert all(world.registered())
            world.leads = True
            world.look()
            await until(lambda: not any(world.registered()))


def test_the_service_is_left_alone_by_the_loops() -> None:
    (_, service), *_ = registration(8445, SERVER.pem)
    assert OURS in service["metadata"]["labels"]
    assert OURS == "vcluster.loft.sh/controlled-by"

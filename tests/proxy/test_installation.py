"""Admission as it is installed by several replicas: one authority, one configuration, and both mended."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from syncer.errors import SyncerError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, MUTATING_WEBHOOKS, SECRETS, SERVICE_CIDRS, Key, Obj, Side, is_deleting, key_of
from syncer.proxy import authority
from syncer.proxy.certificates import LIFE, SharedAuthority, secret_key
from syncer.proxy.installation import Installation
from syncer.sync.fence import Fence, owner_key
from syncer.sync.recorder import Notice
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import Request, on
from tests.patience import until

if TYPE_CHECKING:
    from structlog.typing import EventDict

SECRET = secret_key("host-ns", "one")
WEBHOOK = Key("", "syncer.vcluster.loft.sh")
LONG_AGO = datetime.now(UTC) - timedelta(days=365 * 9)


class Nobody:
    """Stands in for the recorder and the allocator."""

    def warn(self, notice: Notice) -> None:
        pass

    async def allocate(self, review: Obj) -> list[Obj] | None:
        return None


@pytest.fixture
async def clients(virtual_api: FakeApiServer, host_api: FakeApiServer) -> AsyncIterator[Mapping[Side, Client]]:
    host_api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "host-ns"}})
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as virtual, Client(Cluster(host_api.url), Side.HOST) as host:
        yield {Side.VIRTUAL: virtual, Side.HOST: host}


def shared(clients: Mapping[Side, Client], owner: Obj | None = None) -> SharedAuthority:
    return SharedAuthority(clients[Side.HOST], namespace="host-ns", name="one", owner=owner)


def secret(api: FakeApiServer) -> Obj:
    found = api.get(SECRETS, SECRET)
    assert found is not None
    return found


def pem(api: FakeApiServer) -> bytes:
    return b64decode(secret(api)["data"]["ca.crt"])


def keep(api: FakeApiServer, data: dict[str, Any], labels: Mapping[str, str] | None = None) -> None:
    metadata = {
        "namespace": "host-ns",
        "name": SECRET.name,
        "labels": labels if labels is not None else {"vcluster.loft.sh/vcluster-name": "one"},
    }
    encoded = {name: b64encode(str(value).encode()).decode() for name, value in data.items()}
    api.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded})


class TestSharedAuthority:
    async def test_whoever_comes_first_makes_it_and_all_use_it(self, clients: Mapping[Side, Client], host_api: FakeApiServer) -> None:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "vc-one-owner", "uid": "1"}
        issued = await asyncio.gather(*(shared(clients, owner).issue() for _ in range(3)))
        assert {one.ca for one in issued} == {pem(host_api)}
        assert len({one.certificate for one in issued}) == 3
        assert secret(host_api)["metadata"]["ownerReferences"] == [owner]
        assert await shared(clients).bundle() == issued[0].ca

    async def test_near_its_end_it_is_renewed_once_and_its_predecessor_stays_trusted(
        self, clients: Mapping[Side, Client], host_api: FakeApiServer
    ) -> None:
        old = authority.issue({"life": LIFE}, LONG_AGO)
        keep(host_api, {"ca.crt": old["ca"], "ca.key": old["ca_key"]})
        issued = await asyncio.gather(*(shared(clients).issue() for _ in range(2)))
        assert issued[0].ca == issued[1].ca == pem(host_api)
        bundle = x509.load_pem_x509_certificates(pem(host_api))
        assert len(bundle) == 2
        assert bundle[1] == x509.load_pem_x509_certificate(str(old["ca"]).encode())
        x509.load_pem_x509_certificate(issued[0].certificate).verify_directly_issued_by(bundle[0])

    async def test_a_secret_that_is_gone_is_made_again_with_the_same_authority(
        self, clients: Mapping[Side, Client], host_api: FakeApiServer
    ) -> None:
        first = await shared(clients).issue()
        host_api.remove(SECRETS, SECRET)
        assert await shared(clients).bundle() == b""
        again = await shared(clients).issue(first)
        assert again.ca == first.ca == pem(host_api)

    @pytest.mark.parametrize(
        ("data", "labels", "words"),
        [
            pytest.param({"ca.crt": "x", "ca.key": "y"}, {}, "is not the syncer's own", id="somebody else's"),
            pytest.param({}, None, "holds no ca.crt and ca.key; delete it", id="empty"),
            pytest.param({"ca.crt": "x", "ca.key": "y"}, None, "failed: ValueError", id="garbled"),
        ],
    )
    async def test_what_is_not_understood_is_left_alone_and_told(
        self, clients: Mapping[Side, Client], host_api: FakeApiServer, data: dict[str, Any], labels: Mapping[str, str] | None, words: str
    ) -> None:
        keep(host_api, data, labels)
        before = secret(host_api)
        with pytest.raises(SyncerError, match=words):
            await shared(clients).issue()
        assert secret(host_api) == before

    async def test_keys_are_not_logged(self, clients: Mapping[Side, Client], host_api: FakeApiServer, logs: list[EventDict]) -> None:
        await shared(clients).issue()
        assert [line["event"] for line in logs] == ["admission.authority_kept"]
        key = b64decode(secret(host_api)["data"]["ca.key"]).decode()
        assert key.splitlines()[1] not in str(logs)
        assert secret(host_api)["data"]["ca.key"] not in str(logs)


class Replica:
    """An installation that runs."""

    def __init__(self, clients: Mapping[Side, Client], fence: Fence) -> None:
        self.leads = False
        self.fence = fence
        self.installation = Installation(
            clients,
            fence,
            Nobody(),
            SharedAuthority(clients[Side.HOST], namespace="host-ns", name="one", owner=None),
            front=Key("host-ns", "one"),
            cidrs=(),
            port=0,
            leads=lambda: self.leads,
        )
        self.task = asyncio.create_task(self.installation.run())

    async def ready(self) -> None:
        await until(lambda: not self.installation.problem)


@asynccontextmanager
async def replicas(clients: Mapping[Side, Client], number: int) -> AsyncIterator[list[Replica]]:
    fences = [
        Fence(
            virtual=clients[Side.VIRTUAL],
            host=clients[Side.HOST],
            recorder=Nobody(),
            namespace="host-ns",
            name="one",
            clock=asyncio.get_running_loop().time,
        )
        for _ in range(number)
    ]
    for fence in fences:
        await fence.open()
    started = [Replica(clients, fence) for fence in fences]
    try:
        yield started
    finally:
        for one in started:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in started), return_exceptions=True)


def configured(api: FakeApiServer) -> Obj | None:
    found = api.get(MUTATING_WEBHOOKS, WEBHOOK)
    return None if found is None else found["webhooks"][0]["clientConfig"]


async def is_trusted(url: str, ca: bytes) -> bool:
    """Whether who serves there has a certificate of one of those authorities."""
    host, _, port = url.split("/")[2].partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port), ssl=ssl.create_default_context(cadata=ca.decode()))
    except ssl.SSLError:
        return False
    writer.close()
    return True


def unforced(request: Request) -> bool:
    """An apply that leaves other managers' fields alone."""
    return on("patch", MUTATING_WEBHOOKS)(request) and request.params.get("force") != "true"


async def refuse_twice(replica: Replica, api: FakeApiServer, words: str) -> None:
    """What it applies."""
    fault = api.fault(on("patch", MUTATING_WEBHOOKS), status=403, message=words)
    replica.installation.look()
    await until(lambda: fault.hits > 0)
    replica.installation.look()
    await until(lambda: fault.hits > 1)
    fault.lift()


class TestInstallation:
    async def test_it_is_one_for_all_replicas(
        self, clients: Mapping[Side, Client], virtual_api: FakeApiServer, host_api: FakeApiServer
    ) -> None:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "host-ns", "name": "one"}}
        host_api.create({**service, "spec": {"ports": [{"port": 443}]}})
        async with replicas(clients, 2) as both:
            for one in both:
                await one.ready()
            found = configured(virtual_api)
            assert found is not None
            assert b64decode(found["caBundle"]) == pem(host_api)
            assert await is_trusted(found["url"], pem(host_api))
        cidrs = virtual_api.objects(SERVICE_CIDRS)
        assert [cidr["spec"]["cidrs"] for cidr in cidrs] == [["0.0.0.0/0"]]

    async def test_who_leads_puts_the_configuration_back(self, clients: Mapping[Side, Client], virtual_api: FakeApiServer) -> None:
        async with replicas(clients, 2) as (one, other):
            await one.ready()
            await other.ready()
            virtual_api.remove(MUTATING_WEBHOOKS, WEBHOOK)
            other.installation.look()
            await asyncio.sleep(0.5)
            assert configured(virtual_api) is None, "others might be of another version"
            one.leads = True
            one.installation.look()
            await until(lambda: configured(virtual_api) is not None)

    async def test_addresses_are_accepted_again_when_their_range_is_deleted(
        self, clients: Mapping[Side, Client], virtual_api: FakeApiServer
    ) -> None:
        """It stays, being deleted, as long as one of its addresses is in use: no start would find that it is missing."""

        def staying() -> list[str]:
            return [key_of(one).name for one in virtual_api.objects(SERVICE_CIDRS) if not is_deleting(one)]

        def delete(name: str) -> None:
            going = {"deletionTimestamp": "2026-11-22T06:00:00Z", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]}
            virtual_api.change(SERVICE_CIDRS, Key("", name), {"metadata": going})

        async with replicas(clients, 1) as (one,):
            await one.ready()
            assert staying() == ["host-0-0-0-0-0"]
            delete("host-0-0-0-0-0")
            one.leads = True
            one.installation.look()
            await until(lambda: staying() == ["host-0-0-0-0-0-2"])
            delete("host-0-0-0-0-0-2")
        async with replicas(clients, 1) as (one,):
            await one.ready()
            assert staying() == ["host-0-0-0-0-0-3"]

    async def test_what_another_field_manager_owns_is_taken_back(
        self, clients: Mapping[Side, Client], virtual_api: FakeApiServer, logs: list[EventDict]
    ) -> None:
        """At the start as well: it would never get ready."""
        virtual_api.fault(unforced, status=409)
        async with replicas(clients, 1) as (one,):
            await one.ready()
            virtual_api.change(MUTATING_WEBHOOKS, WEBHOOK, {"webhooks": []})
            one.leads = True
            one.installation.look()
            await until(lambda: (virtual_api.get(MUTATING_WEBHOOKS, WEBHOOK) or {})["webhooks"])
        assert "start.waiting" not in [line["event"] for line in logs]

    async def test_why_it_cannot_be_put_right_is_told_once(
        self, clients: Mapping[Side, Client], virtual_api: FakeApiServer, logs: list[EventDict]
    ) -> None:
        def told() -> list[str]:
            return [line["error"] for line in logs if line["event"] == "admission.not_tended" and line["log_level"] == "warning"]

        async with replicas(clients, 1) as (one,):
            await one.ready()
            one.leads = True
            await refuse_twice(one, virtual_api, "no")
            await refuse_twice(one, virtual_api, "never")
            assert len(told()) == 2
            assert one.installation.problem == "", "what is installed serves all the same"

    async def test_another_authority_is_trusted_before_it_is_served(
        self, clients: Mapping[Side, Client], virtual_api: FakeApiServer, host_api: FakeApiServer
    ) -> None:
        """Somebody, or another replica, has put one in its place."""
        async with replicas(clients, 1) as (one,):
            await one.ready()
            successor = authority.issue({"life": LIFE}, datetime.now(UTC))
            keep(host_api, {"ca.crt": successor["ca"], "ca.key": successor["ca_key"]})
            ca = str(successor["ca"]).encode()
            virtual_api.fault(on("patch", MUTATING_WEBHOOKS), status=503, times=1)
            one.installation.look()
            await asyncio.sleep(1)
            found = configured(virtual_api)
            assert found is not None
            assert not await is_trusted(found["url"], ca)
            await until(lambda: b64decode((configured(virtual_api) or {}).get("caBundle", "")) == ca)
            await asyncio.sleep(0.5)
            assert await is_trusted(found["url"], ca)
            assert one.installation.problem == "", "it has served all the time"

    async def test_what_it_waits_for_is_told(self, clients: Mapping[Side, Client], host_api: FakeApiServer, logs: list[EventDict]) -> None:
        keep(host_api, {}, {})
        async with replicas(clients, 1) as (one,):
            await until(lambda: "is not the syncer's own" in one.installation.problem)
            host_api.remove(SECRETS, SECRET)
            await one.ready()
        assert [line["event"] for line in logs].count("start.waiting") == 1

    async def test_a_candidate_notices_that_the_owner_is_gone(self, clients: Mapping[Side, Client], host_api: FakeApiServer) -> None:
        async with replicas(clients, 1) as (one,):
            await one.ready()
            host_api.remove(CONFIGMAPS, owner_key("host-ns", "one"))
            one.installation.look()
            await until(lambda: one.fence.closed is not None)

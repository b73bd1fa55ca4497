from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from syncer.errors import ConfigError, FenceClosed, Refused, Stale, api_error
from syncer.proxy import authority
from syncer.proxy.admission import (
    AdmissionServer,
    missing_service_cidr,
    read_review,
    service_cidr,
    status_of,
    wants_addresses,
    webhook_configuration,
)
from syncer.proxy.certificates import LIFE, Certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from structlog.typing import EventDict

    from syncer.kube.types import Obj

PATCH = [{"op": "add", "path": "/spec/clusterIP", "value": "10.96.0.7"}]


def certificates(previous: Certificates | None = None) -> Certificates:
    request = {} if previous is None else {"ca": previous.ca.decode(), "ca_key": previous.ca_key.decode()}
    issued = authority.issue({**request, "life": LIFE}, datetime.now(UTC))
    pems: Any = {name: str(issued[name]).encode() for name in ("ca", "ca_key", "certificate", "key")}
    return Certificates(**pems, issued_at=float(issued["issued"]), expires_at=float(issued["expires"]))


def review(operation: str = "CREATE", *, service: Obj | None = None, old: Obj | None = None, dry_run: bool = False) -> Obj:
    base: Obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}}
    request: Obj = {
        "uid": "705ab4f5",
        "operation": operation,
        "namespace": "shop",
        "name": "web",
        "dryRun": dry_run,
        "object": base | {"spec": {"type": "ClusterIP"} if service is None else service},
        "oldObject": None if old is None else base | {"spec": old},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


class Allocator:
    """Answers with `outcome`, or raises it, and remembers what it was asked."""

    def __init__(self) -> None:
        self.outcome: list[Obj] | Exception | None = PATCH
        self.asked: list[Obj] = []
        self.delay = 0.0

    async def allocate(self, review: Obj) -> list[Obj] | None:
        self.asked.append(review)
        await asyncio.sleep(self.delay)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def allocator() -> Allocator:
    return Allocator()


@pytest.fixture(scope="module")
def issued() -> Certificates:
    return certificates()


@pytest.fixture
async def server(allocator: Allocator, issued: Certificates) -> AsyncIterator[AdmissionServer]:
    async with AdmissionServer(allocator, issued, port=0) as server:
        yield server


@pytest.fixture
async def session(issued: Certificates) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cadata=issued.ca.decode())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


async def ask(server: AdmissionServer, session: aiohttp.ClientSession, body: Obj) -> Obj:
    """The response part of the answer, everything around it checked."""
    async with session.post(server.url, json=body, params={"timeout": "10s"}) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        document: Obj = await answer.json()
    assert document["apiVersion"] == "admission.k8s.io/v1"
    assert document["kind"] == "AdmissionReview"
    response: Obj = document["response"]
    assert response.pop("uid") == body["request"]["uid"]
    return response


class TestAnswers:
    async def test_a_patch(self, server: AdmissionServer, session: aiohttp.ClientSession, allocator: Allocator) -> None:
        response = await ask(server, session, review())
        assert response.pop("patch") == base64.b64encode(json.dumps(PATCH, separators=(",", ":")).encode()).decode()
        assert response == {"allowed": True, "patchType": "JSONPatch"}
        assert allocator.asked == [review()]

    @pytest.mark.parametrize("nothing", [None, []])
    async def test_no_patch(
        self, server: AdmissionServer, session: aiohttp.ClientSession, allocator: Allocator, nothing: list[Obj] | None
    ) -> None:
        allocator.outcome = nothing
        assert await ask(server, session, review()) == {"allowed": True}

    async def test_a_dry_run_touches_nothing(self, server: AdmissionServer, session: aiohttp.ClientSession, allocator: Allocator) -> None:
        assert await ask(server, session, review(dry_run=True)) == {"allowed": True}
        assert allocator.asked == []

    async def test_an_update_without_a_new_address_is_let_through(
        self, server: AdmissionServer, session: aiohttp.ClientSession, allocator: Allocator
    ) -> None:
        assert await ask(server, session, review("UPDATE", old={"type": "ClusterIP"})) == {"allowed": True}
        assert allocator.asked == []

    async def test_a_refusal_reaches_the_tenant(
        self, server: AdmissionServer, session: aiohttp.ClientSession, allocator: Allocator, logs: list[EventDict]
    ) -> None:
        allocator.outcome = api_error(403, {"reason": "Forbidden", "message": "exceeded quota: services"})
        response = await ask(server, session, review())
        assert response["allowed"] is False
        assert response["status"]["code"] == 403
        assert response["status"]["message"] == "exceeded quota: services"
        assert [(line["event"], line["log_level"], line["key"]) for line in logs] == [("admission.refused", "info", "shop/web")]

    async def test_a_bug_is_an_answer_too(
        self, server: AdmissionServer, session: aiohttp.ClientSession, allocator: Allocator, logs: list[EventDict]
    ) -> None:
        allocator.outcome = KeyError("spec")
        response = await ask(server, session, review())
        assert response["allowed"] is False
        assert response["status"]["code"] == 500
        assert "spec" not in json.dumps(response)
        assert [(line["event"], line["log_level"]) for line in logs] == [("admission.bug", "error")]

    async def test_names_are_those_that_a_service_will_have(
        self, server: AdmissionServer, session: aiohttp.ClientSession, allocator: Allocator, logs: list[EventDict]
    ) -> None:
        allocator.outcome = Stale("try again")
        body = review()
        del body["request"]["name"]
        body["request"]["object"]["metadata"] = {"generateName": "web-"}
        await ask(server, session, body)
        assert logs[0]["key"] == "shop/web-"


@pytest.mark.looptime
async def test_an_allocation_that_hangs_is_given_up_while_the_api_server_still_waits(issued: Certificates, logs: list[EventDict]) -> None:
    allocator = Allocator()
    allocator.delay = 3600.0
    server = AdmissionServer(allocator, issued, port=0)
    loop = asyncio.get_running_loop()
    response = await server.respond(review())
    assert response["status"]["reason"] == "ServiceUnavailable"
    assert 8 <= loop.time() < 10
    assert [line["event"] for line in logs] == ["admission.refused"]


class TestStrangers:
    @pytest.mark.parametrize(
        ("method", "content_type", "body", "status"),
        [
            ("GET", "application/json", b"", 405),
            ("PUT", "application/json", b"{}", 405),
            ("POST", "application/yaml", b"{}", 415),
            ("POST", "application/json", b"{", 400),
            ("POST", "application/json", b"\xff", 400),
            ("POST", "application/json", b"[]", 400),
            ("POST", "application/json", b"{}", 400),
            ("POST", "application/json", b'"' + b"x" * (9 * 2**20) + b'"', 413),
        ],
    )
    async def test_get_an_error(
        self,
        server: AdmissionServer,
        session: aiohttp.ClientSession,
        allocator: Allocator,
        method: str,
        content_type: str,
        body: bytes,
        status: int,
    ) -> None:
        async with session.request(method, server.url, data=io.BytesIO(body), headers={"Content-Type": content_type}) as answer:
            assert answer.status == status
            assert "Traceback" not in await answer.text()
        assert allocator.asked == []

    async def test_without_our_ca_find_no_server(self, server: AdmissionServer) -> None:
        context = ssl.create_default_context(cadata=certificates().ca.decode())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.post(server.url, json=review())

    async def test_are_only_on_this_machine(self, server: AdmissionServer) -> None:
        assert server.url.startswith("https://127.0.0.1:")
        assert server.url.endswith("/admission/services")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        json.dumps(review() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
        json.dumps(review() | {"kind": "Review"}).encode(),
        json.dumps(review() | {"request": {}}).encode(),
        json.dumps(review() | {"request": review()["request"] | {"object": None}}).encode(),
        json.dumps(review() | {"request": review()["request"] | {"object": {"apiVersion": "v1", "kind": "Pod"}}}).encode(),
    ],
)
def test_read_review_refuses(body: bytes) -> None:
    assert read_review(body) is None


def test_read_review_keeps_what_it_does_not_know() -> None:
    assert read_review(json.dumps(review() | {"future": 1}).encode()) == review() | {"future": 1}


@pytest.mark.parametrize(
    ("operation", "old", "new", "wants"),
    [
        ("CREATE", None, {"type": "ClusterIP"}, True),
        ("CREATE", None, {}, True),
        ("UPDATE", {"type": "ClusterIP"}, {"type": "NodePort"}, True),
        ("UPDATE", {"type": "NodePort"}, {"type": "ClusterIP"}, False),
        ("UPDATE", {"type": "NodePort"}, {"type": "LoadBalancer"}, True),
        ("UPDATE", {"type": "NodePort"}, {"type": "NodePort", "selector": {"a": "b"}}, False),
        ("UPDATE", {"type": "NodePort", "ports": [{"port": 1}]}, {"type": "NodePort", "ports": [{"port": 2}]}, True),
        ("UPDATE", {"type": "ClusterIP", "ports": [{"port": 1}]}, {"type": "ClusterIP", "ports": [{"port": 2}]}, False),
        ("UPDATE", {"type": "LoadBalancer"}, {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, True),
        ("UPDATE", {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}, {"type": "LoadBalancer"}, True),
        ("UPDATE", {"type": "ClusterIP"}, {"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}, True),
        ("UPDATE", {"type": "ClusterIP"}, {"type": "ExternalName"}, False),
        ("UPDATE", {"type": "ExternalName"}, {"type": "ExternalName"}, False),
        ("UPDATE", {"type": "ExternalName"}, {"type": "ClusterIP"}, True),
        ("UPDATE", {"type": "ExternalName"}, {}, True),
        ("DELETE", {"type": "ExternalName"}, {}, False),
    ],
)
def test_wants_addresses(operation: str, old: Obj | None, new: Obj, wants: bool) -> None:
    assert wants_addresses(review(operation, service=new, old=old)["request"]) is wants


@pytest.mark.parametrize(
    ("error", "code", "reason", "message", "retry"),
    [
        (Refused("NameTaken", "the name is taken"), 403, "NameTaken", "the name is taken", None),
        (api_error(422, {"reason": "Invalid", "message": "bad port"}), 422, "Invalid", "bad port", None),
        (api_error(403, {"reason": "Forbidden", "message": "quota"}), 403, "Forbidden", "quota", None),
        (api_error(409, {"reason": "AlreadyExists", "message": "there"}), 409, "AlreadyExists", "there", None),
        (Stale("try again"), 503, "ServiceUnavailable", "try again", 1),
        (api_error(429, {"message": "slow"}, 7.2), 503, "ServiceUnavailable", "the host cluster does not answer as it should: slow", 7),
        (api_error(401, {"message": "who?"}), 503, "ServiceUnavailable", "the host cluster does not answer as it should: who?", 1),
        (api_error(500, {"message": "etcd"}), 503, "ServiceUnavailable", "the host cluster does not answer as it should: etcd", 1),
        (TimeoutError(), 503, "ServiceUnavailable", "the host cluster cannot be reached right now; try again", 1),
        (ConnectionRefusedError(111, "10.0.0.1"), 503, "ServiceUnavailable", "the host cluster cannot be reached right now; try again", 1),
        (KeyError("x"), 500, "InternalError", "the syncer made a mistake, which its log tells more about", None),
    ],
)  # fmt: skip
def test_status(error: Exception, code: int, reason: str, message: str, retry: int | None) -> None:
    status = status_of(error)
    assert (status["kind"], status["status"]) == ("Status", "Failure")
    assert (status["code"], status["reason"], status["message"]) == (code, reason, message)
    assert (status.get("details") or {}).get("retryAfterSeconds") == retry


def test_what_closed_the_fence_is_not_for_the_tenant() -> None:
    status = status_of(FenceClosed("kube-system 1 is not 2"))
    assert (status["code"], status["reason"]) == (503, "ServiceUnavailable")
    assert "kube-system" not in status["message"]
    assert "details" not in status


async def test_a_taken_port_is_a_mistake_in_the_settings(server: AdmissionServer, allocator: Allocator, issued: Certificates) -> None:
    port = int(server.url.split(":")[2].partition("/")[0])
    with pytest.raises(ConfigError, match=f"^--webhook-port: cannot listen at 127.0.0.1:{port}: "):
        async with AdmissionServer(allocator, issued, port=port):
            pass


class TestRenewal:
    """Time is virtual, but for the wall clock, which tests move along with it."""

    @staticmethod
    def wall(start: float) -> Callable[[], float]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        return lambda: start + loop.time() - begun

    @pytest.mark.looptime
    async def test_happens_after_four_fifths_of_its_life_with_the_same_authority(self, issued: Certificates) -> None:
        asked_at: list[float] = []
        wall = self.wall(issued.expires_at - 90 * 86400)

        async def issue(previous: Certificates) -> Certificates:
            asked_at.append(wall())
            return replace(certificates(previous), expires_at=previous.expires_at + 365 * 86400)

        keeping = asyncio.create_task(AdmissionServer(Allocator(), issued, port=0, wall=wall, issue=issue).keep_fresh())
        await asyncio.sleep(16 * 86400)
        assert asked_at == []
        await asyncio.sleep(60 * 86400)
        assert asked_at == [pytest.approx(issued.renew_at, abs=120)]
        keeping.cancel()

    @pytest.mark.looptime
    async def test_that_fails_is_tried_again(self, issued: Certificates, logs: list[EventDict]) -> None:
        tries = 0

        async def issue(previous: Certificates) -> Certificates:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise OSError(12, "no memory")
            return replace(previous, expires_at=previous.expires_at + 365 * 86400)

        server = AdmissionServer(Allocator(), issued, port=0, wall=self.wall(issued.renew_at - 1), issue=issue)
        keeping = asyncio.create_task(server.keep_fresh())
        await asyncio.sleep(3600)
        keeping.cancel()
        assert tries == 3
        assert [line["event"] for line in logs] == ["admission.renewal_failed"] * 2 + ["admission.certificate_renewed"]

    async def test_serves_new_connections_with_the_new_certificate(self, issued: Certificates) -> None:
        renewed = asyncio.Event()
        fresh = certificates(issued)

        async def issue(_previous: Certificates) -> Certificates:
            renewed.set()
            return fresh

        due = replace(issued, expires_at=0.0)
        async with AdmissionServer(Allocator(), due, port=0, issue=issue) as server:
            context = ssl.create_default_context(cadata=issued.ca.decode())
            port = int(server.url.split(":")[2].partition("/")[0])

            async def served() -> bytes:
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                found: Any = writer.get_extra_info("ssl_object")
                writer.close()
                return bytes(found.getpeercert(binary_form=True))

            assert await served() == ssl.PEM_cert_to_DER_cert(issued.certificate.decode())
            await server.renew()
            assert renewed.is_set()
            assert await served() == ssl.PEM_cert_to_DER_cert(fresh.certificate.decode())


def test_webhook_configuration() -> None:
    configuration = webhook_configuration("https://127.0.0.1:8444/admission/services", b"PEM")
    assert configuration["apiVersion"] == "admissionregistration.k8s.io/v1"
    assert configuration["kind"] == "MutatingWebhookConfiguration"
    assert configuration["metadata"] == {"name": "syncer.vcluster.loft.sh"}
    (webhook,) = configuration["webhooks"]
    assert webhook["clientConfig"] == {"url": "https://127.0.0.1:8444/admission/services", "caBundle": "UEVN"}
    assert (webhook["failurePolicy"], webhook["sideEffects"], webhook["matchPolicy"]) == ("Fail", "NoneOnDryRun", "Equivalent")
    assert (webhook["reinvocationPolicy"], webhook["timeoutSeconds"]) == ("Never", 10)
    assert (webhook["namespaceSelector"], webhook["objectSelector"]) == ({}, {}), "what is not applied is not taken back"


@pytest.mark.parametrize(
    ("cidrs", "name", "ranges"),
    [
        (["10.96.0.0/12"], "host-10-96-0-0-12", ["10.96.0.0/12"]),
        (["0.0.0.0/0"], "host-0-0-0-0-0", ["0.0.0.0/0"]),
        (["fd00:1::/108", "10.0.0.0/8"], "host-10-0-0-0-8-fd00-1---108", ["10.0.0.0/8", "fd00:1::/108"]),
    ],
)
def test_service_cidr(cidrs: list[str], name: str, ranges: list[str]) -> None:
    assert service_cidr(cidrs) == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": ranges},
    }


def existing(name: str, *cidrs: str, deleted: bool = False) -> Obj:
    return {"metadata": {"name": name, **({"deletionTimestamp": "2026-11-22T06:00:00Z"} if deleted else {})}, "spec": {"cidrs": [*cidrs]}}


OURS = "host-10-0-0-0-8"


@pytest.mark.parametrize(
    ("found", "name"),
    [
        pytest.param([], OURS, id="none"),
        pytest.param([existing("kubernetes", "10.43.0.0/16")], OURS, id="the server's own range"),
        pytest.param([existing(OURS, "10.0.0.0/8")], None, id="there"),
        pytest.param([existing("tenants", "fd00::/108", "10.0.0.0/8")], None, id="somebody else's"),
        pytest.param([existing(OURS, "10.0.0.0/8", deleted=True)], f"{OURS}-2", id="going"),
        pytest.param([existing(OURS, "10.0.0.0/8", deleted=True), existing(f"{OURS}-2", "10.0.0.0/8")], None, id="replaced"),
        pytest.param([existing(f"{OURS}{end}", "10.0.0.0/8", deleted=True) for end in ("", "-2")], f"{OURS}-3", id="both going"),
        pytest.param([existing(OURS, "10.0.0.0/9")], f"{OURS}-2", id="another range of that name"),
    ],
)
def test_a_service_cidr_that_is_going_does_not_count(found: list[Obj], name: str | None) -> None:
    missing = missing_service_cidr(["10.0.0.0/8"], found)
    assert missing == (None if name is None else {**service_cidr(["10.0.0.0/8"]), "metadata": {"name": name}})

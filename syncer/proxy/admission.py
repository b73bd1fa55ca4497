"""The admission webhook through which new Services get the addresses that the host allocates.

The virtual API server calls it over TLS on the loopback of the pod that both run in, whichever way the Service comes
(JSON, YAML, protobuf, server-side apply, with or without a proxy in between). A process in that pod is all that can
reach it, so callers are not asked who they are.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import ssl
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Protocol, Self

import structlog
from aiohttp import web

from syncer.errors import NETWORK_ERRORS, ApiError, ConfigError, FenceClosed, Refused, SyncerError
from syncer.kube import codec
from syncer.kube.types import MUTATING_WEBHOOKS, SERVICE_CIDRS, Key, is_deleting, key_of
from syncer.naming import DOMAIN
from syncer.proxy.certificates import Certificates, issue_certificates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from syncer.kube.types import Obj

log = structlog.get_logger("syncer.proxy")

PATH = "/admission/services"
_LOOPBACK = "127.0.0.1"
_TIMEOUT = 10
"""Seconds that the API server waits for an answer."""
_PATIENCE = 9.0
"""Seconds that allocating may take, so that the answer, though a refusal, still arrives."""
_LINGER = 1.0
"""Seconds that what was refused for its size may go on sending, so that it reads the answer."""
_BODY_LIMIT = 8 * 2**20
"""Bytes: the API server takes objects of up to 3 MiB, and an update comes with the old one as well."""
_DAY = 86400.0


class ServiceAllocator(Protocol):
    """Gets a Service its addresses."""

    async def allocate(self, review: Obj) -> list[Obj] | None:
        """JSON Patch operations for the object in this AdmissionReview's request, None to leave it as it is.

        Called for creations, and for updates that need other addresses or ports; never for a dry run. It may raise ApiError,
        Refused or another SyncerError, with a message that the tenant may read, or a network error.
        """
        ...


class AdmissionServer:
    """Serves the webhook at a loopback port while entered, and renews its own certificate in time.

    `port` 0 picks a free one; `wall` tells epoch seconds; `issue` makes the next certificate of the same authority.
    Entering raises ConfigError when the port is taken.
    """

    def __init__(
        self,
        allocator: ServiceAllocator,
        certificates: Certificates,
        *,
        port: int,
        wall: Callable[[], float] = time.time,
        issue: Callable[[Certificates], Awaitable[Certificates]] = issue_certificates,
    ) -> None:
        self._allocator = allocator
        self._certificates = certificates
        self._port = port
        self._wall = wall
        self._issue = issue
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_alpn_protocols(["http/1.1"])
        app = web.Application(client_max_size=_BODY_LIMIT)
        app.router.add_post(PATH, self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE, lingering_time=_LINGER)
        self._renewing: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """What the API server has to call."""
        return f"https://{_LOOPBACK}:{self._runner.addresses[0][1]}{PATH}"

    @property
    def certificates(self) -> Certificates:
        """What it serves with now."""
        return self._certificates

    @property
    def configuration(self) -> Obj:
        """The object that makes a virtual API server call this webhook."""
        return webhook_configuration(self.url, self._certificates.ca)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._load)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, _LOOPBACK, self._port, ssl_context=self._context).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"--webhook-port: cannot listen at {_LOOPBACK}:{self._port}: {error.strerror}; give another one") from error
        self._renewing = asyncio.create_task(self.keep_fresh(), name="admission-certificate")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        await self._runner.cleanup()

    async def keep_fresh(self) -> None:
        """Renew the certificate whenever it is time, until cancelled; runs by itself while the server is entered."""
        while True:
            # Looked at daily, as a machine that sleeps does not count that time.
            await asyncio.sleep(min(_DAY, max(60.0, self._certificates.renew_at - self._wall())))
            if self._wall() >= self._certificates.renew_at:
                try:
                    await self.renew()
                except (SyncerError, *NETWORK_ERRORS):
                    log.exception("admission.renewal_failed", expires_at=self._certificates.expires_at)

    async def renew(self) -> None:
        """Have another certificate issued and go on with that; connections that are open stay."""
        self._certificates = await self._issue(self._certificates)
        await asyncio.to_thread(self._load)
        log.info("admission.certificate_renewed", expires_at=self._certificates.expires_at)

    def _load(self) -> None:
        """New connections are served with the present certificate from now on."""
        self._certificates.load(self._context)

    async def _serve(self, request: web.Request) -> web.Response:
        if not _is_loopback(request):
            return web.Response(status=403, text="only for callers on this machine\n")
        if request.content_type != "application/json":
            return web.Response(status=415, text="send an AdmissionReview as application/json\n")
        review = read_review(await request.read())
        if review is None:
            return web.Response(status=400, text="this is no AdmissionReview of admission.k8s.io/v1 for a Service\n")
        response = {"uid": review["request"]["uid"], **await self.respond(review)}
        body = codec.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
        return web.Response(body=body, content_type="application/json")

    async def respond(self, review: Obj) -> Obj:
        """The `response` to an AdmissionReview, without its uid: always an answer, after nine seconds at most."""
        request = review["request"]
        if request.get("dryRun") or not wants_addresses(request):
            return {"allowed": True}
        key = Key(request.get("namespace") or "", request.get("name") or request["object"].get("metadata", {}).get("generateName") or "")
        try:
            async with asyncio.timeout(_PATIENCE):
                operations = await self._allocator.allocate(review)
        except (SyncerError, *NETWORK_ERRORS) as error:
            log.info("admission.refused", resource="services", key=str(key), exc_info=error)
            return {"allowed": False, "status": status_of(error)}
        except Exception as error:  # a bug: the API server gets an answer all the same, and the log the traceback
            log.exception("admission.bug", resource="services", key=str(key))
            return {"allowed": False, "status": status_of(error)}
        if not operations:
            return {"allowed": True}
        return {"allowed": True, "patchType": "JSONPatch", "patch": b64encode(codec.dumps(operations)).decode()}


def read_review(body: bytes) -> Obj | None:
    """The AdmissionReview in a request's body, None if it is none of ours: another version, another type, or garbled."""
    try:
        review = codec.loads(body)
    except ValueError:
        return None
    match review:
        case {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": str(), "operation": str(), "object": {"kind": "Service", "apiVersion": "v1"}},
        }:
            found: Obj = review
            return found
        case _:
            return None


_ALLOCATED = ("type", "ports", "externalTrafficPolicy", "allocateLoadBalancerNodePorts")
"""Fields of a Service with node ports whose change may need other ports of the host."""


def wants_addresses(request: Obj) -> bool:
    """Whether an AdmissionRequest makes a Service, or changes one so that it may need other addresses or ports.

    The webhook's match conditions say the same, but API servers before Kubernetes 1.28 do not know these.
    """
    if request["operation"] == "CREATE":
        return True
    old, new = ((request.get(name) or {}).get("spec") or {} for name in ("oldObject", "object"))
    if request["operation"] != "UPDATE" or new.get("type") == "ExternalName":
        return False
    changed = {field for field in ("ipFamilyPolicy", *_ALLOCATED) if old.get(field) != new.get(field)}
    has_node_ports = new.get("type") in ("NodePort", "LoadBalancer")
    return old.get("type") == "ExternalName" or "ipFamilyPolicy" in changed or (has_node_ports and bool(changed))


def _differs(field: str) -> str:
    """CEL for a field of the spec that an update changes, adds or removes."""
    old, new = (f"has({obj}.spec.{field})" for obj in ("oldObject", "object"))
    return f"({old} != {new} || ({new} && oldObject.spec.{field} != object.spec.{field}))"


_WANTS_ADDRESSES = (
    "request.operation == 'CREATE' || (object.spec.type != 'ExternalName' && (oldObject.spec.type == 'ExternalName' || "
    f"{_differs('ipFamilyPolicy')} || (object.spec.type != 'ClusterIP' && ({' || '.join(map(_differs, _ALLOCATED))}))))"
)


def status_of(error: BaseException) -> Obj:
    """The Status by which the tenant learns why there is no Service. Where trying again helps, clients of Kubernetes are told to do so."""
    match error:
        case Refused():
            return _status(403, error.reason, str(error))
        case ApiError(status=status) if status in (400, 403, 409, 422):
            return _status(status, error.reason, error.message)
        case ApiError():
            return _status(
                503, "ServiceUnavailable", f"the host cluster does not answer as it should: {error.message}", error.retry_after or 1
            )
        case FenceClosed():
            return _status(
                503, "ServiceUnavailable", "this virtual cluster is cut off from its host cluster until its operator has looked at it"
            )
        case SyncerError():
            return _status(503, "ServiceUnavailable", str(error), 1)
        case _ if isinstance(error, NETWORK_ERRORS):
            return _status(503, "ServiceUnavailable", "the host cluster cannot be reached right now; try again", 1)
        case _:
            return _status(500, "InternalError", "the syncer made a mistake, which its log tells more about")


def _status(code: int, reason: str, message: str, retry_after: float = 0) -> Obj:
    status: Obj = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
    if retry_after:
        status["details"] = {"retryAfterSeconds": max(1, round(retry_after))}
    return status


def _is_loopback(request: web.Request) -> bool:
    peer: tuple[str, int] | None = request.transport.get_extra_info("peername") if request.transport is not None else None
    return peer is not None and ipaddress.ip_address(peer[0]).is_loopback


def webhook_configuration(url: str, ca: bytes) -> Obj:
    """The MutatingWebhookConfiguration that has the API server ask at `url`, whose certificate `ca` (PEM) vouches for.

    While nobody answers there no Service can be created, which is better than one with addresses that lead nowhere. The
    Service `kubernetes` is left out: the API server makes it itself, before it could ask anybody.
    """
    webhook: dict[str, Any] = {
        "name": f"services.{DOMAIN}",
        "clientConfig": {"url": url, "caBundle": b64encode(ca).decode()},
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["services"], "scope": "Namespaced"}
        ],
        "matchConditions": [
            {
                "name": "not-the-api-servers-own",
                "expression": "!(request.namespace == 'default' && has(request.name) && request.name == 'kubernetes')",
            },
            {
                "name": "addresses-wanted",
                "expression": _WANTS_ADDRESSES,
            },
        ],
        "namespaceSelector": {},
        "objectSelector": {},
        "matchPolicy": "Equivalent",
        "failurePolicy": "Fail",
        "sideEffects": "NoneOnDryRun",
        "reinvocationPolicy": "Never",
        "timeoutSeconds": _TIMEOUT,
        "admissionReviewVersions": ["v1"],
    }
    return {
        "apiVersion": MUTATING_WEBHOOKS.api_version,
        "kind": MUTATING_WEBHOOKS.kind,
        "metadata": {"name": f"syncer.{DOMAIN}"},
        "webhooks": [webhook],
    }


def service_cidr(cidrs: Iterable[str]) -> Obj:
    """The ServiceCIDR (Kubernetes 1.33 on) by which an API server accepts Service addresses of these ranges, at most one of each IP family.

    Its name tells the ranges, since the spec of such an object cannot be changed.
    """
    ranges = sorted(cidrs, key=lambda text: ":" in text)
    name = "-".join("".join(character if character.isalnum() else "-" for character in text) for text in ranges)
    return {
        "apiVersion": SERVICE_CIDRS.api_version,
        "kind": SERVICE_CIDRS.kind,
        "metadata": {"name": f"host-{name}"},
        "spec": {"cidrs": ranges},
    }


def missing_service_cidr(cidrs: Iterable[str], found: Iterable[Obj]) -> Obj | None:
    """The `service_cidr` of these ranges that is to be made beside those `found`; None while one that stays has the ranges.

    One that is being deleted stays while its addresses are in use, and no others are accepted. Ranges may overlap, names may not.
    """
    wanted = service_cidr(cidrs)
    there = {key_of(one).name: one for one in found}
    if any(not is_deleting(one) and {*wanted["spec"]["cidrs"]} <= {*one["spec"]["cidrs"]} for one in there.values()):
        return None
    name = wanted["metadata"]["name"]
    others = (f"{name}-{number}" for number in itertools.count(2))
    free = next(other for other in itertools.chain([name], others) if other not in there)
    return {**wanted, "metadata": {"name": free}}

"""A real API server calls the admission webhook as it is meant to. What addresses come out of it is for other tests."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import ApiFailure, wait_until
from syncer.errors import Refused, api_error
from syncer.kube.types import MUTATING_WEBHOOKS, SERVICE_CIDRS, SERVICES
from syncer.proxy.admission import AdmissionServer, service_cidr
from syncer.proxy.certificates import issue_certificates

if TYPE_CHECKING:
    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Api, Obj

pytestmark = pytest.mark.apiserver

RANGE = "10.96.0.0/16"  # not the cluster's own one


NUMBERS = itertools.count(10)
"""The API server may be late to notice that an address is free again, so none is given out twice."""


class Allocator:
    """Gives out the addresses of RANGE in order, or refuses with `error`; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Obj] = []
        self.error: Exception | None = None

    async def allocate(self, review: Obj) -> list[Obj] | None:
        self.asked.append(review["request"])
        if self.error is not None:
            raise self.error
        if review["request"]["object"]["spec"]["type"] == "ExternalName" or review["request"]["object"]["spec"].get("clusterIP"):
            return None
        address = f"10.96.0.{next(NUMBERS)}"
        return [{"op": "add", "path": "/spec/clusterIP", "value": address}, {"op": "add", "path": "/spec/clusterIPs", "value": [address]}]

    @property
    def names(self) -> list[tuple[str, str]]:
        """Operation and name of each Service it was asked for."""
        return [(request["operation"], request.get("name") or "") for request in self.asked]


@pytest.fixture(scope="module")
def api(virtual_cluster: StartVirtual) -> Api:
    return virtual_cluster("admission").api


@pytest.fixture
def allocator() -> Allocator:
    return Allocator()


@pytest.fixture
async def webhook(api: Api, allocator: Allocator) -> AsyncIterator[AdmissionServer]:
    async with AdmissionServer(allocator, await issue_certificates(), port=0) as server:
        path = MUTATING_WEBHOOKS.path("", server.configuration["metadata"]["name"])
        await asyncio.to_thread(api.apply, server.configuration)
        allocator.error = Refused("Seen", "that will do")
        await asyncio.to_thread(wait_until, lambda: asks(api), "the API server has noticed its new configuration")
        allocator.asked.clear()
        allocator.error = None
        yield server
    await asyncio.to_thread(api.delete, path)


def service(name: str, namespace: str = "default", **spec: Any) -> Obj:
    ports = {} if spec.get("type") == "ExternalName" else {"ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {**ports, **spec}}


def asks(api: Api) -> bool:
    try:
        api.request("POST", SERVICES.path("default"), service("probe"))
    except ApiFailure as failure:
        return "that will do" in str(failure)
    api.delete(SERVICES.path("default", "probe"))
    return False


async def make(api: Api, body: Obj, **params: str) -> Obj:
    made: Obj = await asyncio.to_thread(api.request, "POST", SERVICES.path(body["metadata"]["namespace"]), body, params=params)
    return made


async def remove(api: Api, *names: str) -> None:
    for name in names:
        await asyncio.to_thread(api.delete, SERVICES.path("default", name))


def is_ready(cidr: Obj) -> bool:
    conditions = (cidr.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


@pytest.mark.usefixtures("webhook")
async def test_a_service_gets_an_address_outside_of_the_servers_own_range(api: Api) -> None:
    cidrs = service_cidr([RANGE])
    path = SERVICE_CIDRS.path("", cidrs["metadata"]["name"])
    await asyncio.to_thread(api.apply, cidrs)
    await asyncio.to_thread(wait_until, lambda: is_ready(api.get(path)), "the range is taken over")
    made = await make(api, service("outside"))
    applied = await asyncio.to_thread(api.apply, service("outside-too"))
    addresses = [obj["spec"]["clusterIP"] for obj in (made, applied)]
    assert all(address.startswith("10.96.0.") for address in addresses), addresses
    await remove(api, "outside", "outside-too")


@pytest.mark.usefixtures("webhook")
async def test_a_generated_name_in_the_default_namespace_is_no_obstacle(api: Api, allocator: Allocator) -> None:
    allocator.error = Refused("Seen", "that will do")
    body = service("")
    body["metadata"] = {"generateName": "some-", "namespace": "default"}
    with pytest.raises(ApiFailure, match="that will do"):
        await make(api, body)
    assert [operation for operation, _ in allocator.names] == ["CREATE"]


@pytest.mark.usefixtures("webhook")
async def test_a_dry_run_is_not_allocated(api: Api, allocator: Allocator) -> None:
    made = await make(api, service("dry"), dryRun="All")
    assert made["metadata"]["name"] == "dry"
    assert allocator.asked == []


TWO_PORTS = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]


@pytest.mark.usefixtures("webhook")
async def test_only_updates_that_may_need_addresses_or_ports_are_asked_about(api: Api, allocator: Allocator) -> None:
    await make(api, service("moving", type="ExternalName", externalName="example.test"))
    assert allocator.names == [("CREATE", "moving")]
    changes: list[tuple[Obj, bool]] = [
        ({"metadata": {"labels": {"a": "b"}}}, False),
        ({"spec": {"type": "ClusterIP", "externalName": None, "ports": [{"port": 80}]}}, True),
        ({"spec": {"selector": {"a": "b"}, "ports": TWO_PORTS}}, False),
        ({"spec": {"ipFamilyPolicy": "PreferDualStack"}}, True),
        ({"spec": {"type": "NodePort"}}, True),
        ({"spec": {"selector": {"a": "c"}, "sessionAffinity": "ClientIP"}}, False),
        ({"spec": {"ports": TWO_PORTS[:1]}}, True),
        ({"spec": {"type": "LoadBalancer"}}, True),
        ({"spec": {"externalTrafficPolicy": "Local"}}, True),
        ({"spec": {"allocateLoadBalancerNodePorts": False}}, True),
        ({"spec": {"type": "ClusterIP"}}, False),
        ({"spec": {"type": "ExternalName", "externalName": "example.test"}}, False),
    ]
    for change, asked in changes:
        allocator.asked.clear()
        path = SERVICES.path("default", "moving")
        await asyncio.to_thread(api.request, "PATCH", path, change, content_type="application/merge-patch+json")
        # An API server admits a patch once more when somebody else wrote in between.
        assert set(allocator.names) == ({("UPDATE", "moving")} if asked else set()), change
    await remove(api, "moving")


@pytest.mark.usefixtures("webhook")
async def test_an_update_is_refused_as_a_create_is(api: Api, allocator: Allocator) -> None:
    await make(api, service("refused-later"))
    allocator.error = Refused("Seen", "that will do")
    change, path = {"spec": {"type": "NodePort"}}, SERVICES.path("default", "refused-later")
    with pytest.raises(ApiFailure, match="that will do"):
        await asyncio.to_thread(api.request, "PATCH", path, change, content_type="application/merge-patch+json")
    await remove(api, "refused-later")


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Refused("NameTaken", "the name is taken"), 403, "the name is taken"),
        (api_error(403, {"reason": "Forbidden", "message": "exceeded quota"}), 403, "exceeded quota"),
        (api_error(422, {"reason": "Invalid", "message": "port: too high"}), 422, "port: too high"),
        (ConnectionRefusedError(111, "refused"), 503, "the host cluster cannot be reached right now"),
        (KeyError("bug"), 500, "the syncer made a mistake"),
    ],
)
async def test_the_tenant_reads_why(api: Api, allocator: Allocator, error: Exception, status: int, words: str) -> None:
    allocator.error = error
    with pytest.raises(ApiFailure, match=words) as caught:
        await make(api, service("refused"))
    assert caught.value.status == status


async def test_without_the_webhook_no_service_but_that_of_the_api_server(api: Api, allocator: Allocator, webhook: AdmissionServer) -> None:
    await webhook.__aexit__()
    with pytest.raises(ApiFailure, match="failed calling webhook"):
        await make(api, service("orphan"))
    with pytest.raises(ApiFailure, match='services "kubernetes" already exists'):
        await make(api, service("kubernetes"))
    assert allocator.asked == []

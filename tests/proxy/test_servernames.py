from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import SERVICES, Key, Obj, Side
from syncer.proxy.servernames import ServerNames, addresses, canonical, server_names
from tests.fakes.requests import on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import EventDict

    from tests.fakes.apiserver import FakeApiServer

FRONT = Key("host-ns", "blue")


def test_names_of_a_virtual_cluster() -> None:
    names, unusable = server_names(service=FRONT, cluster_domain="cluster.local", pod_ip="10.0.0.9", more=("api.example.com",))
    assert names == {
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
        "blue",
        "blue.host-ns",
        "blue.host-ns.svc",
        "blue.host-ns.svc.cluster.local",
        "blue-lb",
        "blue-lb.host-ns",
        "blue-lb.host-ns.svc",
        "blue-lb.host-ns.svc.cluster.local",
        "*.nodes.vcluster.com",
        "10.0.0.9",
        "api.example.com",
    }
    assert unusable == set()


def test_what_is_no_name_is_left_out_and_told() -> None:
    names, unusable = server_names(service=FRONT, cluster_domain="cluster.local", more=("https://a", "b"), found=("10.0.0.300",))
    assert unusable == {"https://a", "10.0.0.300"}
    assert "b" in names
    assert names.isdisjoint(unusable | {""})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.com.", "api.example.com"),
        (" a ", "a"),
        ("*.example.com", "*.example.com"),
        ("a_b.example.com", "a_b.example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", ""),
        ("10.0.0.300", ""),
        ("10.0.0.1:8443", ""),
        ("[::1]", ""),
        ("https://api.example.com", ""),
        ("a..b", ""),
        ("a.*.b", ""),
        ("*", ""),
        ("-a", ""),
        ("müller.example", ""),
        ("a b", ""),
        ("", ""),
        (".".join(["a" * 63] * 4), ""),
        ("a" * 64, ""),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert canonical(text) == expected


@given(st.text(alphabet="aA0.-_*:%ß /\x00\n") | st.text() | st.ip_addresses().map(str) | st.from_regex(r"[a-z0-9.*-]+", fullmatch=True))
def test_whatever_is_usable_can_stand_in_a_certificate(text: str) -> None:
    name = canonical(text)
    if name:
        assert canonical(name) == name
        try:
            x509.IPAddress(ip_address(name))
        except ValueError:
            x509.DNSName(name)


def test_addresses_of_a_service() -> None:
    service: Obj = {
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "externalIPs": ["192.0.2.1"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "lb.example.com", "ip": ""}]}},
    }
    assert addresses(service) == {"10.96.0.7", "fd00::7", "192.0.2.1", "192.0.2.2", "lb.example.com"}


@pytest.mark.parametrize("service", [{}, {"spec": {"clusterIP": "None", "clusterIPs": ["None"]}, "status": {"loadBalancer": {}}}])
def test_no_addresses(service: Obj) -> None:
    assert addresses(service) == set()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def put(api: FakeApiServer, name: str, address: str, *, labels: dict[str, str] | None = None, balancer: str = "") -> None:
    status = {"loadBalancer": {"ingress": [{"hostname": balancer}]}} if balancer else {}
    api.put(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": FRONT.namespace, "name": name, "labels": labels or {}},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 443}]},
            "status": status,
        }
    )


class TestAskingTheHost:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    async def names(self, host_api: FakeApiServer, clock: Clock) -> AsyncIterator[ServerNames]:
        host_api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FRONT.namespace}})
        async with Client(Cluster(host_api.url), Side.HOST) as host:
            yield ServerNames(host, name="blue", service=FRONT, cluster_domain="cluster.local", pod_ip="", more=("x y",), clock=clock)

    async def test_services_in_front_and_of_nodes(self, names: ServerNames, host_api: FakeApiServer) -> None:
        put(host_api, "blue", "10.96.0.7")
        put(host_api, "blue-lb", "10.96.0.8", balancer="lb.example.com")
        put(host_api, "node-1", "10.96.0.9", labels={"vcluster.loft.sh/belongs-to": "blue", "vcluster.loft.sh/node": "n1"})
        put(host_api, "node-2", "10.96.0.10", labels={"vcluster.loft.sh/belongs-to": "red", "vcluster.loft.sh/node": "n1"})
        put(host_api, "other", "10.96.0.11", labels={"vcluster.loft.sh/belongs-to": "blue"})
        found = await names()
        assert found >= {"10.96.0.7", "10.96.0.8", "lb.example.com", "10.96.0.9", "blue.host-ns"}
        assert found.isdisjoint({"10.96.0.10", "10.96.0.11", "x y"})

    async def test_without_any_service_there_are_the_others(self, names: ServerNames, logs: list[EventDict]) -> None:
        assert await names() >= {"kubernetes", "localhost"}
        assert [line["event"] for line in logs] == ["proxy.names_unusable"]

    async def test_is_done_every_15_seconds(self, names: ServerNames, host_api: FakeApiServer, clock: Clock) -> None:
        await names()
        asked = len(host_api.requests)
        put(host_api, "blue", "10.96.0.7")
        clock.now += 14
        assert "10.96.0.7" not in await names()
        assert len(host_api.requests) == asked
        clock.now += 1
        assert "10.96.0.7" in await names()
        assert len(host_api.requests) == 2 * asked

    async def test_what_cannot_be_asked_stays_and_is_told_once(
        self, names: ServerNames, host_api: FakeApiServer, clock: Clock, logs: list[EventDict]
    ) -> None:
        put(host_api, "blue", "10.96.0.7")
        put(host_api, "node-1", "10.96.0.9", labels={"vcluster.loft.sh/belongs-to": "blue", "vcluster.loft.sh/node": "n1"})
        before = await names()
        host_api.fault(on("get", SERVICES, name="blue"), status=403)
        host_api.remove(SERVICES, Key(FRONT.namespace, "node-1"))
        for _ in range(3):
            clock.now += 15
            assert await names() == before - {"10.96.0.9"}
        assert [line["of"] for line in logs if line["event"] == "proxy.names_not_asked"] == ["Service blue"]

    async def test_the_one_in_front_may_be_away_for_a_while(self, names: ServerNames, host_api: FakeApiServer, clock: Clock) -> None:
        put(host_api, "blue", "10.96.0.7")
        put(host_api, "blue-lb", "10.96.0.8")
        before = await names()
        host_api.remove(SERVICES, FRONT)
        host_api.remove(SERVICES, Key(FRONT.namespace, "blue-lb"))
        clock.now += 15
        assert await names() == before - {"10.96.0.8"}
        put(host_api, "blue", "10.96.0.9")
        clock.now += 15
        assert await names() == before - {"10.96.0.7", "10.96.0.8"} | {"10.96.0.9"}

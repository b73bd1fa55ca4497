from __future__ import annotations

from typing import Any

import pytest

from syncer.releases.credentials import Endpoint
from syncer.releases.endpoints import endpoint_of, exposed, listening, waits_for_balancer

KUBELET = {"name": "kubelet", "port": 10250, "nodePort": 30001}


def service(kind: str, *ingress: dict[str, str], port: int = 443) -> dict[str, Any]:
    spec = {"type": kind, "ports": [KUBELET, {"name": "https", "port": port, "nodePort": 30000}]}
    return {"spec": spec, "status": {"loadBalancer": {"ingress": list(ingress)} if ingress else {}}}


def node(**addresses: str) -> dict[str, Any]:
    return {"status": {"addresses": [{"type": kind, "address": address} for kind, address in addresses.items()]}}


@pytest.mark.parametrize(
    ("services", "nodes", "found"),
    [
        ([], [], []),
        ([{}], [{}], []),
        ([service("ClusterIP")], [node(ExternalIP="1.2.3.4")], []),
        ([service("LoadBalancer")], [], []),
        ([service("LoadBalancer", {"ip": "1.2.3.4"})], [], [("https://1.2.3.4", ""), ("https://1.2.3.4", "localhost")]),
        (
            [service("LoadBalancer", {"hostname": "lb.test"}, port=8443)],
            [],
            [("https://lb.test:8443", ""), ("https://lb.test:8443", "localhost")],
        ),
        ([service("LoadBalancer", {"ip": "fd00::1"})], [], [("https://[fd00::1]", ""), ("https://[fd00::1]", "localhost")]),
        (
            [service("NodePort")],
            [node(InternalIP="10.0.0.1", Hostname="n"), node(InternalIP="10.0.0.2", ExternalIP="1.2.3.4")],
            [(f"https://{address}:30000", "localhost") for address in ("1.2.3.4", "10.0.0.1", "10.0.0.2")],
        ),
        (
            [service("NodePort"), service("LoadBalancer", {"ip": "1.2.3.4"})],
            [node(InternalIP="10.0.0.1")],
            [("https://1.2.3.4", ""), ("https://1.2.3.4", "localhost"), ("https://10.0.0.1:30000", "localhost")],
        ),
    ],
)
def test_where_services_are_reached(services: list[Any], nodes: list[Any], found: list[tuple[str, str]]) -> None:
    assert list(exposed(services, nodes)) == [Endpoint(*one) for one in found]


def test_a_load_balancer_that_has_no_address_yet() -> None:
    assert waits_for_balancer([service("LoadBalancer")])
    assert not waits_for_balancer([service("LoadBalancer", {"ip": "1.2.3.4"}), service("ClusterIP"), {}])


@pytest.mark.parametrize(
    ("address", "server", "name"),
    [
        ("127.0.0.1", "https://127.0.0.1:5", ""),
        ("0.0.0.0", "https://127.0.0.1:5", ""),
        ("::", "https://[::1]:5", ""),
        ("192.0.2.1", "https://192.0.2.1:5", "localhost"),
        ("127.0.0.2", "https://127.0.0.2:5", "localhost"),
    ],
)
def test_an_address_to_listen_on_is_reached(address: str, server: str, name: str) -> None:
    assert listening(address, 5) == Endpoint(server, name)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("https://vc.test:6443", "https://vc.test:6443"),
        ("vc.test", "https://vc.test"),
        ("vc.test:6443", "https://vc.test:6443"),
        ("https://vc.test/path/", "https://vc.test/path"),
    ],
)
def test_a_server_that_is_given(text: str, server: str) -> None:
    assert endpoint_of(text) == Endpoint(server)


@pytest.mark.parametrize("text", ["", "http://vc.test", "https://", "https://me@vc.test", "https://vc.test?a=b", "https://[::1"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        endpoint_of(text)

from __future__ import annotations

from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.translate.environment import own_names, service_variables
from syncer.translate.references import Kind

API = {
    "KUBERNETES_SERVICE_HOST": "10.1.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    "KUBERNETES_PORT": "tcp://10.1.0.1:443",
    "KUBERNETES_PORT_443_TCP": "tcp://10.1.0.1:443",
    "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
    "KUBERNETES_PORT_443_TCP_PORT": "443",
    "KUBERNETES_PORT_443_TCP_ADDR": "10.1.0.1",
}


def service(name: str, address: str | None, *ports: Obj, namespace: str = "ns", **spec: Any) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": address, "ports": list(ports), **spec}}


def test_the_api_server_is_always_there() -> None:
    assert service_variables("ns", [service("web", "10.0.0.2", {"port": 80})], "10.1.0.1", links=False) == API


def test_a_service_with_several_ports() -> None:
    """The example of pkg/kubelet/envvars/envvars_test.go, for a Service with a TCP and an UDP port."""
    ports = ({"name": "u-d-p", "port": 8080, "protocol": "UDP"}, {"name": "t-c-p", "port": 8081, "protocol": "TCP"})
    assert service_variables("ns", [service("abc-123", "5.6.7.8", *ports)], "10.1.0.1", links=True) == {
        **API,
        "ABC_123_SERVICE_HOST": "5.6.7.8",
        "ABC_123_SERVICE_PORT": "8080",
        "ABC_123_SERVICE_PORT_U_D_P": "8080",
        "ABC_123_SERVICE_PORT_T_C_P": "8081",
        "ABC_123_PORT": "udp://5.6.7.8:8080",
        "ABC_123_PORT_8080_UDP": "udp://5.6.7.8:8080",
        "ABC_123_PORT_8080_UDP_PROTO": "udp",
        "ABC_123_PORT_8080_UDP_PORT": "8080",
        "ABC_123_PORT_8080_UDP_ADDR": "5.6.7.8",
        "ABC_123_PORT_8081_TCP": "tcp://5.6.7.8:8081",
        "ABC_123_PORT_8081_TCP_PROTO": "tcp",
        "ABC_123_PORT_8081_TCP_PORT": "8081",
        "ABC_123_PORT_8081_TCP_ADDR": "5.6.7.8",
    }


def test_ipv6() -> None:
    variables = service_variables("ns", [service("db", "fd00::5", {"port": 5432})], "fd00::1", links=True)
    assert variables["DB_SERVICE_HOST"] == "fd00::5"
    assert variables["DB_PORT"] == "tcp://[fd00::5]:5432"
    assert variables["DB_PORT_5432_TCP_ADDR"] == "fd00::5"
    assert variables["KUBERNETES_PORT"] == "tcp://[fd00::1]:443"


@pytest.mark.parametrize(
    "ignored",
    [
        service("headless", "None", {"port": 80}),
        service("pending", "", {"port": 80}),
        service("external", None, {"port": 80}, type="ExternalName"),
        service("no-ports", "10.0.0.9"),
        service("elsewhere", "10.0.0.9", {"port": 80}, namespace="other"),
        service("kubernetes", "10.0.0.9", {"port": 443}, namespace="default"),
        {"metadata": {"name": "no-spec", "namespace": "ns"}},
    ],
)
def test_services_without_variables(ignored: Obj) -> None:
    assert service_variables("default" if ignored["metadata"]["name"] == "kubernetes" else "ns", [ignored], "10.1.0.1", links=True) == API


def test_a_service_named_kubernetes_takes_the_place_of_the_api_server_in_its_namespace() -> None:
    own = service("kubernetes", "10.0.0.9", {"port": 80})
    variables = service_variables("ns", [own], "10.1.0.1", links=True)
    assert variables["KUBERNETES_SERVICE_HOST"] == "10.0.0.9"
    assert "KUBERNETES_PORT_443_TCP" not in variables
    assert service_variables("ns", [own], "10.1.0.1", links=False) == API


def test_own_names() -> None:
    container = {
        "env": [{"name": "A", "value": "1"}],
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}, {}],
    }
    data = {(Kind.CONFIGMAP, "c"): ["x", "y"], (Kind.SECRET, "s"): ["z"]}
    assert own_names(container, lambda kind, name: data[kind, name]) == {"A", "P_x", "P_y", "z"}
    assert own_names({"env": None, "envFrom": None}, lambda _kind, _name: ()) == set()

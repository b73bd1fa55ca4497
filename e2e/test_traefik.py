"""A real ingress controller on the host serves tenants' pods under their names, with the certificates that they bring."""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from e2e.guestbook import kubectl
from e2e.lab import traefik
from e2e.lab.api import wait_until
from e2e.lab.images import AGNHOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.host import HostCluster
    from e2e.lab.traefik import Traefik
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.node

NAMESPACE = "default"
HOST_NAMESPACE = "shared"
INGRESSES = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


class Shop:
    """A tenant with a pod that tells its name, and an Ingress for `<tenant>.example`. All of it has the same names with each tenant."""

    def __init__(self, daemon: Daemon, front: Traefik) -> None:
        self.daemon, self.front = daemon, front
        self.api = daemon.virtual.api
        self.host_name = f"{daemon.virtual.name}.example"
        self.pod = f"web-of-{daemon.virtual.name}"
        self.ca = trustme.CA()

    def open(self) -> None:
        container = {
            "name": "web",
            "image": AGNHOST,
            "args": ["netexec", "--http-port=8080"],
            "ports": [{"name": "http", "containerPort": 8080}],
        }
        self.make("v1", "Pod", self.pod, labels={"app": "web"}, spec={"terminationGracePeriodSeconds": 0, "containers": [container]})
        self.make("v1", "Service", "web", spec={"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]})
        self.bring_certificate()
        self.publish()

    def bring_certificate(self) -> None:
        leaf = self.ca.issue_cert(self.host_name)
        data = {"tls.key": leaf.private_key_pem.bytes(), "tls.crt": leaf.cert_chain_pems[0].bytes()}
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.make("v1", "Secret", "certificate", type="kubernetes.io/tls", data=encoded)

    def publish(self, path: str = "/") -> None:
        backend = {"service": {"name": "web", "port": {"name": "http"}}}
        rule = {"host": self.host_name, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
        tls = [{"hosts": [self.host_name], "secretName": "certificate"}]
        self.make("networking.k8s.io/v1", "Ingress", "web", spec={"ingressClassName": traefik.CLASS, "rules": [rule], "tls": tls})

    def make(self, version: str, kind: str, name: str, labels: dict[str, str] | None = None, **fields: Any) -> None:
        self.api.apply({"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels or {}}, **fields})

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"{INGRESSES}/web")["status"]
        return found

    def ask(self, path: str = "/hostname") -> tuple[int, str]:
        return self.front.ask(self.host_name, path, ca=self.ca.cert_pem.bytes().decode())

    def answers(self, path: str = "/hostname") -> bool:
        """Whether its own pod answers, with its own certificate."""
        try:
            return self.ask(path) == (200, self.pod)
        except ssl.SSLCertVerificationError:
            return False


@pytest.fixture(scope="module")
def front(real_node: HostCluster) -> Iterator[Traefik]:
    yield traefik.start(real_node)
    traefik.stop(real_node)


@pytest.fixture(scope="module")
def shops(front: Traefik, tenant: StartTenant) -> list[Shop]:
    """Both in one host namespace; only the first one is allowed to see the host's classes."""
    blue = tenant("blue", namespace=HOST_NAMESPACE, cluster_rights=True)
    shops = [Shop(daemon, front) for daemon in (blue, tenant("green", namespace=HOST_NAMESPACE))]
    for shop in shops:
        shop.open()
    for shop in shops:
        wait_until(shop.answers, f"{shop.host_name} answers")
    return shops


def test_each_host_name_leads_to_its_tenants_pod_with_its_tenants_certificate(shops: list[Shop]) -> None:
    blue, green = shops
    for shop, other in ((blue, green), (green, blue)):
        assert shop.ask() == (200, shop.pod)
        with pytest.raises(ssl.SSLCertVerificationError):
            shop.front.ask(shop.host_name, "/hostname", ca=other.ca.cert_pem.bytes().decode())
    assert blue.front.ask_openly("nobody.example", "/hostname")[0] == 404


def test_the_tenant_sees_where_it_is_published(shops: list[Shop]) -> None:
    published = {"loadBalancer": {"ingress": [{"ip": traefik.ADDRESS}]}}
    wait_until(lambda: all(shop.status() == published for shop in shops), "the address in the status")
    for shop in shops:
        shown = kubectl(shop.daemon.virtual, "-n", NAMESPACE, "get", "ingress", "web", "--no-headers").split()
        assert shown[:5] == ["web", traefik.CLASS, shop.host_name, traefik.ADDRESS, "80,"]


def test_the_hosts_class_is_there_to_be_chosen(shops: list[Shop]) -> None:
    blue, green = (shop.api.find(f"/apis/networking.k8s.io/v1/ingressclasses/{traefik.CLASS}") for shop in shops)
    assert blue is not None
    assert blue["spec"] == {"controller": "traefik.io/ingress-controller"}
    assert green is None


def test_a_new_certificate_is_served(shops: list[Shop]) -> None:
    blue, green = shops
    before, blue.ca = blue.ca, trustme.CA()
    assert not blue.answers()
    blue.bring_certificate()
    wait_until(blue.answers, "the new certificate")
    with pytest.raises(ssl.SSLCertVerificationError):
        blue.front.ask(blue.host_name, "/hostname", ca=before.cert_pem.bytes().decode())
    assert green.answers()


def test_changed_rules_are_served(shops: list[Shop]) -> None:
    blue = shops[0]
    blue.publish("/elsewhere")
    wait_until(lambda: blue.ask()[0] == 404, "the old path is gone")
    blue.publish("/hostname")
    wait_until(blue.answers, "the new path")


def test_it_ends_with_the_ingress_and_only_for_its_tenant(shops: list[Shop]) -> None:
    blue, green = shops
    blue.api.delete(f"{INGRESSES}/web")
    wait_until(lambda: blue.front.ask_openly(blue.host_name, "/hostname")[0] == 404, "the host name leads nowhere")
    wait_until(lambda: not blue.answers(), "the certificate is not served any more")
    copy = f"/api/v1/namespaces/{HOST_NAMESPACE}/secrets/certificate-x-default-x-blue"
    wait_until(lambda: blue.daemon.virtual.host.api.find(copy) is None, "the certificate has left the host")
    assert blue.api.find(f"{SECRETS}/certificate") is not None
    assert green.answers()

"""Certificates that last ten minutes, all of them, on real API servers: they are renewed under open watches, and nobody notices."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509

from e2e.daemon import Daemon
from e2e.lab.api import Api, wait_until
from syncer.kube.types import CONFIGMAPS, PODS, SERVICES, Resource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Obj
    from e2e.lab.virtual import VirtualCluster

pytestmark = [pytest.mark.apiserver, pytest.mark.long, pytest.mark.timeout(1500)]

LIFE = timedelta(minutes=10)
RENEWED = timedelta(minutes=6)
"""When the distribution does so: what the syncer started with is then good for some minutes more."""
END = timedelta(minutes=13)
TELLING = ("credentials.changed", "admission.certificate_renewed", "kubeconfig.written")


@pytest.fixture
def daemon(virtual_cluster: StartVirtual) -> Iterator[Daemon]:
    virtual = virtual_cluster("renewed")
    daemon = Daemon(virtual, "--certificate-life=10m")
    renew(daemon)
    virtual.stop_apiserver()
    virtual.start_apiserver()
    daemon.start()
    yield daemon
    daemon.stop()
    virtual.remove()


def renew(daemon: Daemon) -> None:
    """What k3s does when it is time, on both sides; nobody is told."""
    virtual = daemon.virtual
    virtual.issue_certificates(LIFE)
    vars(virtual).pop("api", None)  # which had the certificate of before
    # The controller manager has another one, which it reads at its start only.
    daemon.host_kubeconfig  # noqa: B018  grants the rights when it is first asked for
    virtual.host.client_kubeconfig(f"syncer-{virtual.name}", namespace=virtual.host_namespace, life=LIFE)


class Client:
    """The virtual cluster's administrator, with what the Secret holds at the time, through the front door."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        virtual = daemon.virtual
        secret = virtual.host.api.get(f"/api/v1/namespaces/{virtual.host_namespace}/secrets/vc-{virtual.name}")
        config = yaml.safe_load(b64decode(secret["data"]["config"]))
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{daemon.proxy_port}"
        file = directory / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        self.api = Api(file)
        self.certificate = x509.load_pem_x509_certificate(b64decode(config["users"][0]["user"]["client-certificate-data"]))

    def create(self, resource: Resource, name: str, spec: Obj) -> None:
        body = {"apiVersion": "v1", "kind": resource.kind, "metadata": {"name": name}, **spec}
        self.api.request("POST", resource.path("default"), body, timeout=30)


class Watcher(threading.Thread):
    """Whoever has a watch open all the time."""

    def __init__(self, api: Api) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._since: str = api.get(CONFIGMAPS.path("default"))["metadata"]["resourceVersion"]
        self.seen: set[str] = set()
        self.ended = False
        self.start()

    def run(self) -> None:
        for event in self._api.watch(CONFIGMAPS.path("default"), self._since, timeoutSeconds="3600"):
            self.seen.add(event["object"]["metadata"]["name"])
        self.ended = True


def served(virtual: VirtualCluster, port: int) -> x509.Certificate:
    """What is served at a port, if the virtual cluster's authority vouches for it now."""
    context = ssl.create_default_context(cafile=virtual.tls / "server-ca.crt")
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30), server_hostname="127.0.0.1") as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def test_nobody_notices(daemon: Daemon, tmp_path: Path) -> None:
    virtual = daemon.virtual
    began = datetime.now(UTC)
    wait_until(
        lambda: virtual.host.api.find(f"/api/v1/namespaces/{virtual.host_namespace}/secrets/vc-{virtual.name}") is not None, "the Secret"
    )
    first, first_served = Client(daemon, tmp_path), served(virtual, daemon.proxy_port)
    for certificate in (first.certificate, first_served, served(virtual, virtual.port("apiserver"))):
        assert certificate.not_valid_after_utc < began + END - timedelta(minutes=2), "it is over before this test is"
    watcher, made, renewed = Watcher(first.api), set[str](), False
    while (now := datetime.now(UTC)) < began + END:
        if now > began + RENEWED and not renewed:
            renew(daemon)
            renewed = True
        name = f"at-{(now - began).seconds}"
        client = Client(daemon, tmp_path)
        client.create(CONFIGMAPS, name, {})
        client.create(SERVICES, name, {"spec": {"ports": [{"port": 80}]}})
        made.add(name)
        assert not watcher.ended
        time.sleep(5)
    last = Client(daemon, tmp_path)
    assert last.certificate.not_valid_after_utc > first.certificate.not_valid_after_utc
    assert served(virtual, daemon.proxy_port).not_valid_after_utc > first_served.not_valid_after_utc
    wait_until(lambda: made <= watcher.seen, "the watch that was opened first tells of everything")
    services = virtual.host.api.get(SERVICES.path(virtual.host_namespace))["items"]
    assert {f"{name}-x-default-x-{virtual.name}" for name in made} <= {service["metadata"]["name"] for service in services}
    last.create(PODS, "web", {"spec": {"containers": [{"name": "app", "image": "lab.local/none:1"}]}})
    host_pod = PODS.path(virtual.host_namespace, f"web-x-default-x-{virtual.name}")
    wait_until(lambda: virtual.host.api.find(host_pod) is not None, "a pod is synced after all that")
    log = daemon.log()
    told = {line["event"] for line in log}
    assert set(TELLING) <= told
    troubles = [line for line in log if line.get("level") in ("warning", "error") and line["timestamp"] > began.isoformat()]
    assert troubles == []
    assert daemon.metric("syncer_fence_closed") == 0

"""By what a tenant knows the front door, and the kubeconfig that leads there, on real API servers and with a real kubectl."""

from __future__ import annotations

import socket
import ssl
import subprocess
from base64 import b64decode, b64encode
from functools import partial
from typing import TYPE_CHECKING

import pytest

from e2e.daemon import Daemon
from e2e.lab.api import wait_until
from syncer.sync.fence import owner_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Obj
    from e2e.lab.virtual import VirtualCluster

pytestmark = pytest.mark.apiserver

NAME = "certified"
OPS = "certified-ops"
EXTRA = "access"
CONTEXT = "my-vcluster"


@pytest.fixture(scope="module")
def virtual(virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    """With the Secret that vcluster would have left there; it has the same authority, and no labels."""
    virtual = virtual_cluster(NAME)
    authority = (virtual.tls / "server-ca.crt").read_bytes()
    put_secret(virtual, {"config": b"of vcluster", "certificate-authority": authority, "client-certificate": b"", "client-key": b""})
    yield virtual
    virtual.remove()
    virtual.host.api.delete(f"/api/v1/namespaces/{OPS}")


@pytest.fixture(scope="module")
def daemon(virtual: VirtualCluster) -> Iterator[Daemon]:
    virtual.host.create_namespace(OPS)
    daemon = Daemon(
        virtual,
        f"--kube-config-context-name={CONTEXT}",
        f"--out-kube-config-secret={EXTRA}",
        f"--out-kube-config-secret-namespace={OPS}",
        "--tls-san=api.certified.example.com,192.0.2.7,not/a/name",
    )
    daemon.start()
    yield daemon
    daemon.stop()


def secret_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets/{name}"


def own_path(virtual: VirtualCluster) -> str:
    return secret_path(virtual.host_namespace, f"vc-{NAME}")


def put_secret(virtual: VirtualCluster, data: dict[str, bytes]) -> None:
    metadata = {"name": f"vc-{NAME}", "namespace": virtual.host_namespace}
    encoded = {name: b64encode(value).decode() for name, value in data.items()}
    virtual.host.api.request(
        "POST",
        f"/api/v1/namespaces/{virtual.host_namespace}/secrets",
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded},
    )


def connect(daemon: Daemon, name: str) -> ssl.SSLSocket:
    """A connection to the front door by that name, which the virtual cluster's authority vouches for; SSLError when it does not."""
    context = ssl.create_default_context(cafile=daemon.virtual.tls / "server-ca.crt")
    connection = socket.create_connection(("127.0.0.1", daemon.proxy_port), timeout=30)
    return context.wrap_socket(connection, server_hostname=name)


def is_known_by(daemon: Daemon, name: str) -> bool:
    try:
        connect(daemon, name).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def version(connection: ssl.SSLSocket) -> bytes:
    """The first line of an answer over that connection, which stays open."""
    connection.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65536)
    return received.partition(b"\r\n")[0]


def test_it_is_known_by_all_its_names(daemon: Daemon) -> None:
    virtual = daemon.virtual
    front = f"{NAME}.{virtual.host_namespace}"
    names = [
        *("localhost", "127.0.0.1", "kubernetes", "kubernetes.default.svc.cluster.local", "any.nodes.vcluster.com"),
        *(NAME, front, f"{front}.svc", virtual.service_address, "api.certified.example.com", "192.0.2.7"),
    ]
    assert [name for name in names if not is_known_by(daemon, name)] == []
    assert not is_known_by(daemon, "elsewhere.example.com")
    assert daemon.wait_log("proxy.names_unusable")["names"] == ["not/a/name"]


def test_it_gets_the_names_of_new_services_and_keeps_its_connections(daemon: Daemon) -> None:
    api, namespace = daemon.virtual.host.api, daemon.virtual.host_namespace
    path = f"/api/v1/namespaces/{namespace}/services"
    before = connect(daemon, "localhost")
    assert version(before).startswith(b"HTTP/1.1 ")
    ports = [{"port": 443}]
    labels = {"vcluster.loft.sh/belongs-to": NAME, "vcluster.loft.sh/node": "one"}
    balancer: Obj = {"metadata": {"name": f"{NAME}-lb"}, "spec": {"type": "LoadBalancer", "ports": ports}}
    node: Obj = {"metadata": {"name": "node-one", "labels": labels}, "spec": {"ports": ports}}
    made = [api.request("POST", path, {"apiVersion": "v1", "kind": "Service", **service}) for service in (balancer, node)]
    api.request(
        "PATCH",
        f"{path}/{NAME}-lb/status",
        {"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}},
        content_type="application/merge-patch+json",
    )
    for name in (*(service["spec"]["clusterIP"] for service in made), "lb.example.com"):
        wait_until(partial(is_known_by, daemon, name), f"the front door is known by {name}")
    assert version(before).startswith(b"HTTP/1.1 "), "over the same connection"
    before.close()


def kubectl(daemon: Daemon, secret: Obj, directory: Path, *words: str) -> str:
    """What kubectl prints with the kubeconfig in that Secret alone."""
    file = directory / "config"
    file.write_bytes(b64decode(secret["data"]["config"]))
    command = [str(daemon.virtual.binary("kubectl")), f"--kubeconfig={file}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_secret_of_vcluster_is_taken_over_and_leads_to_the_front_door(daemon: Daemon, tmp_path: Path) -> None:
    virtual = daemon.virtual
    wait_until(lambda: "labels" in virtual.host.api.get(own_path(virtual))["metadata"], "the Secret is ours")
    secret = virtual.host.api.get(own_path(virtual))
    owner = owner_key(virtual.host_namespace, NAME)
    assert [one["name"] for one in secret["metadata"]["ownerReferences"]] == [owner.name]
    assert kubectl(daemon, secret, tmp_path, "config", "current-context") == CONTEXT
    shown = kubectl(daemon, secret, tmp_path, "config", "view", "-o", "jsonpath={.clusters[*].cluster.server}")
    assert shown == f"https://localhost:{daemon.proxy_port}"
    assert kubectl(daemon, secret, tmp_path, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}") == "system:admin"
    assert "kube-system" in kubectl(daemon, secret, tmp_path, "get", "namespaces", "-o", "name")
    assert kubectl(daemon, secret, tmp_path, "auth", "can-i", "*", "*") == "yes"


def test_another_namespace_needs_rights_of_its_own(daemon: Daemon) -> None:
    virtual, path = daemon.virtual, secret_path(OPS, EXTRA)
    line = daemon.wait_log("kubeconfig.not_written", key=f"{OPS}/{EXTRA}")
    assert f"grant get, create and patch of Secrets in the namespace {OPS}" in line["error"]
    assert virtual.host.api.find(path) is None
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch"]}
    virtual.host.grant(OPS, f"syncer-{NAME}", [rule])
    wait_until(lambda: virtual.host.api.find(path) is not None, "the other Secret")
    written = virtual.host.api.get(path)
    assert "ownerReferences" not in written["metadata"]
    assert written["data"] == virtual.host.api.get(own_path(virtual))["data"]


def test_a_secret_that_is_gone_comes_back_at_the_next_start(daemon: Daemon) -> None:
    virtual = daemon.virtual
    daemon.stop()
    before = virtual.host.api.get(own_path(virtual))
    virtual.host.api.delete(own_path(virtual))
    daemon.start()
    wait_until(lambda: virtual.host.api.find(own_path(virtual)) is not None, "the Secret is back")
    assert virtual.host.api.get(own_path(virtual))["data"] == before["data"]


def test_no_secret_is_logged(daemon: Daemon) -> None:
    log = (daemon.virtual.dir / "logs" / f"{daemon.name}.log").read_text()
    data = daemon.virtual.host.api.get(own_path(daemon.virtual))["data"]
    assert "kubeconfig.written" in log
    for text in ("PRIVATE KEY", data["client-key"], data["config"]):
        assert text not in log

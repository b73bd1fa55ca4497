"""The lab itself: what its users rely on."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from e2e.errors import LabError
from e2e.lab import process
from e2e.lab.api import Api, ApiFailure, wait_until
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab
from e2e.lab.teardown import down
from e2e.lab.virtual import VirtualCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.cluster import ControlPlane

pytestmark = pytest.mark.apiserver

OTHER_VERSION = os.environ.get("OTHER_KUBERNETES_VERSION", "")
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def own_lab() -> Iterator[Callable[[str], Lab]]:
    """Makes labs that only this test uses."""
    labs: list[Lab] = []

    def make(name: str) -> Lab:
        labs.append(Lab(f"{name}-{os.getpid()}"))
        return labs[-1]

    yield make
    for lab in labs:
        down(lab)


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "main", "image": "example.test/none:1"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"a": "1"}}


def identity(cluster: ControlPlane) -> str:
    uid: str = cluster.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    return uid


def pods_run(cluster: ControlPlane) -> bool:
    pods = cluster.api.get(PODS)["items"]
    return bool(pods) and all(pod["status"].get("phase") == "Running" for pod in pods)


def test_host_runs_a_deployment_on_simulated_nodes(host_cluster: HostCluster, simulated_nodes: list[str]) -> None:
    host_cluster.api.apply(deployment("web"))
    wait_until(lambda: pods_run(host_cluster), "pods of the Deployment run")
    assert {pod["spec"]["nodeName"] for pod in host_cluster.api.get(PODS)["items"]} <= set(simulated_nodes)


@pytest.mark.parametrize("datastore", ["kine", "etcd"])
def test_virtual_cluster_has_controllers_but_no_scheduler(virtual_cluster: StartVirtual, datastore: Any) -> None:
    start = time.monotonic()
    virtual = virtual_cluster(f"plain-{datastore}", datastore=datastore)
    print(f"virtual cluster on {datastore}: usable after {time.monotonic() - start:.1f} s")
    virtual.api.apply(deployment("web"))
    wait_until(lambda: len(virtual.api.get(PODS)["items"]) == 1, "the Deployment has a pod")
    assert "nodeName" not in virtual.api.get(PODS)["items"][0]["spec"]
    assert virtual.api.get("/api/v1/nodes")["items"] == []
    assert sorted(name for name, _, _ in virtual.status()) == sorted(["apiserver", "controller-manager", datastore])


def test_host_services_lead_to_the_virtual_cluster(host_cluster: HostCluster, virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("plain-kine")
    slices = {
        item["metadata"]["name"]: [(port["protocol"], port["port"]) for port in item["ports"]]
        for item in host_cluster.api.get("/apis/discovery.k8s.io/v1/namespaces/vcluster-plain-kine/endpointslices")["items"]
    }
    dns = [("UDP", virtual.dns_port), ("TCP", virtual.dns_port)]
    assert slices == {"plain-kine": [("TCP", virtual.front_port)], "plain-kine-dns": dns}
    certificate = (virtual.tls / "serving-kube-apiserver.crt").read_bytes()
    assert virtual.service_address in subject_names(certificate)
    assert {"localhost", "127.0.0.1", "kubernetes.default.svc", "plain-kine", "172.30.0.1"} <= subject_names(certificate)


def subject_names(certificate: bytes) -> set[str]:
    from cryptography import x509

    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def test_restart_keeps_data_and_pause_hangs(virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("plain-kine")
    uid, server = identity(virtual), virtual.server
    virtual.api.apply(config_map("kept"))

    virtual.pause()
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        virtual.api.request("GET", "/readyz", timeout=0.3)
    virtual.resume()
    assert virtual.api.ready()

    virtual.stop_apiserver()
    assert not virtual.api.ready()
    virtual.start_apiserver()
    assert virtual.api.find("/api/v1/namespaces/default/configmaps/kept") is not None

    virtual.stop()
    assert not virtual.running()
    virtual.start()
    assert virtual.api.find("/api/v1/namespaces/default/configmaps/kept") is not None
    assert (identity(virtual), virtual.server) == (uid, server)


def test_wipe_gives_an_empty_cluster_with_the_same_certificates(virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("plain-kine")
    uid, server, kubeconfig = identity(virtual), virtual.server, virtual.kubeconfig.read_text()
    virtual.api.apply(config_map("lost"))
    virtual.wipe()
    assert Api(virtual.kubeconfig).find("/api/v1/namespaces/default/configmaps/lost") is None
    assert identity(virtual) != uid
    assert (virtual.server, virtual.kubeconfig.read_text()) == (server, kubeconfig)


def test_granted_user_may_do_what_the_rules_say_and_nothing_else(host_cluster: HostCluster) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "patch", "create"]}]
    user = Api(host_cluster.grant("granted", "eve", rules))
    user.apply(config_map("mine") | {"metadata": {"name": "mine", "namespace": "granted"}})
    for path in ("/api/v1/namespaces/granted/secrets", "/api/v1/namespaces/default/configmaps", "/api/v1/nodes"):
        with pytest.raises(ApiFailure) as failure:
            user.get(path)
        assert failure.value.status == 403


@pytest.mark.skipif(OTHER_VERSION == "", reason="set OTHER_KUBERNETES_VERSION, e.g. to 1.34.4; its first build takes minutes")
@pytest.mark.timeout(1200)
def test_virtual_cluster_of_another_version_than_its_host(host_cluster: HostCluster, virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("other-version", version=OTHER_VERSION)
    assert virtual.api.get("/version")["gitVersion"] == f"v{OTHER_VERSION}" != host_cluster.api.get("/version")["gitVersion"]
    virtual.api.apply(deployment("web"))
    wait_until(lambda: len(virtual.api.get(PODS)["items"]) == 1, "the Deployment has a pod")


def test_what_cannot_be_is_told_in_words(virtual_cluster: StartVirtual) -> None:
    virtual_cluster("plain-kine")
    with pytest.raises(LabError, match="lives in host namespace vcluster-plain-kine"):
        virtual_cluster("plain-kine", namespace="elsewhere")
    with pytest.raises(LabError, match="take it down first"):
        virtual_cluster("plain-kine", datastore="etcd")
    with pytest.raises(LabError, match="all three numbers"):
        virtual_cluster("other", version="1.36")


def test_removed_virtual_cluster_leaves_nothing(host_cluster: HostCluster, virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("removed", namespace="its-home")
    virtual.remove()
    assert process.strays(virtual.dir) == []
    assert not virtual.dir.exists()
    assert host_cluster.api.find("/api/v1/namespaces/its-home") is None
    assert not any("virtual/removed/" in name for name in host_cluster.lab.ports)


@pytest.mark.long
def test_labs_side_by_side_do_not_collide_and_leave_nothing(own_lab: Callable[[str], Lab]) -> None:
    hosts = [HostCluster(own_lab("left")), HostCluster(own_lab("right"))]
    failures: list[BaseException] = []

    def up(host: HostCluster) -> None:
        try:
            host.lab.create()
            host.up()
        except LabError as error:
            failures.append(error)

    threads = [threading.Thread(target=up, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({identity(host) for host in hosts}) == 2
    assert set(hosts[0].lab.ports.values()).isdisjoint(hosts[1].lab.ports.values())

    for host in hosts:
        down(host.lab)
    assert [process.strays(host.lab.dir) for host in hosts] == [[], []]
    assert [host.lab.dir.exists() for host in hosts] == [False, False]


@pytest.mark.long
def test_up_mends_what_a_crash_left(own_lab: Callable[[str], Lab]) -> None:
    lab = own_lab("crashed")
    lab.create()
    host, virtual = HostCluster(lab), VirtualCluster(lab, "blue")
    host.up()
    virtual.up()
    uids = identity(host), identity(virtual)

    # All processes die, but for one whose record is lost.
    orphan = process.pid_of(host.dir, "etcd")
    assert orphan is not None
    for cluster in (host, virtual):
        for _, pid, _ in cluster.status():
            if pid not in (None, orphan):
                os.kill(pid, signal.SIGKILL)
    (host.dir / "pids" / "etcd.json").unlink()

    host.up()
    virtual.up()
    assert (identity(host), identity(virtual)) == uids
    assert orphan not in process.strays(lab.dir)

"""`distro: k8s` on the real node: Kubernetes' own programs from images without a shell, and etcd beside them."""

from __future__ import annotations

import json
import ssl
import urllib.request
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest

from e2e.controlplanes import etcd_pods, k8s_values, kill_container, restarts, run_web
from e2e.installed import merged
from e2e.kubernetes import binaries
from e2e.lab import k3s_image, k8s_images, node, syncer_image
from e2e.lab.api import wait_until
from e2e.test_installed_node import CALL

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.installed import Install, Installed
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def orange(prepared_node: HostCluster, install: Install) -> Installed:
    """One with a pod and a Service in it."""
    node.import_images(prepared_node.lab, *k8s_images.build())
    installed = install("orange", values=k8s_values())
    run_web(installed, "web")
    service = {"ports": [{"port": 80, "targetPort": 8080}], "selector": {"app": "web"}}
    metadata = {"name": "web", "namespace": "default"}
    installed.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    return installed


def test_it_starts_without_stumbling(orange: Installed) -> None:
    (pod,) = orange.pods()
    assert set(restarts(pod)) == {"syncer", "kube-apiserver", "kube-controller-manager", "coredns"}
    # The controller manager waits ten seconds for its API server, and not longer, on a busy machine either.
    assert {count for name, count in restarts(pod).items() if name != "kube-controller-manager"} == {0}
    assert [restarts(one) for one in etcd_pods(orange)] == [{"etcd": 0}]
    assert orange.api.get("/version")["gitVersion"] == k8s_images.tag("kube-apiserver").rpartition(":")[2]


def test_logs_exec_and_names(orange: Installed) -> None:
    assert orange.kubectl("logs", "web") == "serving\n"
    fetch = ("exec", "web", "--", "timeout", "5", "wget", "-qO-", "http://web.default.svc.cluster.local")
    wait_until(lambda: orange.kubectl(*fetch, check=False).strip() == "web", "the Service answers", 30)


def test_a_pod_reaches_its_api_by_its_token(orange: Installed) -> None:
    container = {"name": "main", "image": syncer_image.SYNCER, "imagePullPolicy": "Never", "command": ["python3", "-c", CALL]}
    spec = {"containers": [container], "restartPolicy": "Never"}
    orange.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller", "namespace": "default"}, "spec": spec})
    path = "/api/v1/namespaces/default/pods/caller"
    wait_until(lambda: orange.api.get(path)["status"]["phase"] in ("Succeeded", "Failed"), "the caller has ended", 60)
    assert orange.kubectl("logs", "caller").split() == ["200", "200"]


def test_etcd_lets_in_nobody_without_a_certificate(orange: Installed, tmp_path: Path) -> None:
    (pod,) = etcd_pods(orange)
    url = f"https://{pod['status']['podIP']}:2379/version"
    context = ssl._create_unverified_context()  # noqa: SLF001  whose it is matters not, but whom it lets in
    with pytest.raises(OSError, match=r"CERTIFICATE_REQUIRED|reset"):
        urllib.request.urlopen(url, context=context, timeout=10)
    files = secret_data(orange, "vc-orange-etcd")
    known = tmp_path / "client.pem"
    known.write_bytes(b64decode(files["client.crt"]) + b64decode(files["client.key"]))
    context.load_cert_chain(known)
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        assert "etcdserver" in json.load(answer)


def test_controllers_work(orange: Installed) -> None:
    orange.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "made"}})
    path = "/api/v1/namespaces/made/serviceaccounts/default"
    wait_until(lambda: orange.api.find(path) is not None, "the service account of a new namespace", 30)
    orange.api.delete("/api/v1/namespaces/made")
    wait_until(lambda: orange.api.find("/api/v1/namespaces/made") is None, "the namespace is gone", 60)


@pytest.mark.long  # that of k3s is not
def test_a_restart_of_the_control_plane_keeps_all(orange: Installed) -> None:
    system = orange.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    before = {pod["metadata"]["uid"] for pod in orange.tenant_pods()}
    secrets = {name: secret_data(orange, name) for name in ("vc-orange-certs", "vc-orange-etcd")}
    credentials = orange.kubeconfig.read_text()
    (pod,) = orange.pods()
    orange.host.api.delete(f"{orange.path}/pods/orange-0")
    wait_until(lambda: [one["metadata"]["uid"] for one in orange.pods()] not in ([], [pod["metadata"]["uid"]]), "another pod", 60)
    # Whoever had a kubeconfig before has it still: the authorities are the same.
    wait_until(lambda: orange.kubectl("get", "namespaces", check=False).count("Active") > 3, "the old kubeconfig is good", 60)
    assert orange.kubeconfig.read_text() == credentials
    orange.wait_ready()
    assert orange.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"] == system
    assert {pod["metadata"]["uid"] for pod in orange.tenant_pods()} == before
    assert {name: secret_data(orange, name) for name in secrets} == secrets
    assert orange.kubectl("exec", "web", "--", "cat", "/tmp/www/index.html").strip() == "web"


def test_etcd_that_starts_again_is_found_again(orange: Installed) -> None:
    """Its container, as its emptyDir would go with the pod. The API server is not restarted for that."""
    (pod,) = etcd_pods(orange)
    kill_container(orange, pod, "etcd")
    wait_until(lambda: restarts(etcd_pods(orange)[0]) == {"etcd": 1}, "etcd has started again", 60)
    wait_until(lambda: "web" in orange.kubectl("get", "pods", "--output=name", check=False), "the API server answers", 60)
    (pod,) = orange.pods()
    assert restarts(pod)["kube-apiserver"] == 0


@pytest.mark.long
def test_who_starts_afresh_keeps_the_keys_and_who_uninstalls_keeps_nothing(orange: Installed) -> None:
    secrets = {name: secret_data(orange, name) for name in ("vc-orange-certs", "vc-orange-etcd")}
    credentials = orange.kubeconfig.read_text()
    orange.host.api.delete(f"{orange.path}/configmaps/vc-orange-owner")
    wait_until(lambda: not orange.tenant_pods(), "what it owned has gone", 120)
    (pod,) = orange.pods()
    orange.host.api.delete(f"{orange.path}/pods/orange-0")
    wait_until(lambda: [one["metadata"]["uid"] for one in orange.pods()] not in ([], [pod["metadata"]["uid"]]), "another pod", 60)
    orange.wait_ready()
    assert {name: secret_data(orange, name) for name in secrets} == secrets
    orange.kubeconfig.write_text(credentials)
    assert "web" in orange.kubectl("get", "services", "--output=name"), "whoever had a kubeconfig has it still"
    orange.uninstall()

    def left() -> list[str]:
        found = [one for kind in ("secrets", "configmaps") for one in orange.host.api.get(f"{orange.path}/{kind}")["items"]]
        return [one["metadata"]["name"] for one in found if one["metadata"]["name"].startswith("vc-orange")]

    wait_until(lambda: not left(), "the release's keys have gone", 60)


def secret_data(release: Installed, name: str) -> Any:
    return release.host.api.get(f"{release.path}/secrets/{name}")["data"]


@pytest.mark.long  # e2e/test_prepare.py is not
@pytest.mark.parametrize("distro", ["k8s", "k3s"])
def test_an_older_version_is_told_the_hosts_range(prepared_node: HostCluster, install: Install, distro: str) -> None:
    """One by the tags of its images: really it is newer, and so tells what it was told."""
    node.import_images(prepared_node.lab, *k8s_images.build())
    tags = {"api": "kube-apiserver", "controller": "kube-controller-manager"} if distro == "k8s" else {"vcluster": "k3s"}
    older = {part: f"lab.local/older/{program}:v1.32.9" for part, program in tags.items()}
    for part, image in older.items():
        known = k3s_image.tag() if part == "vcluster" else k8s_images.tag(tags[part])
        ctr = (binaries.ensure("ctr")["ctr"], "--namespace=k8s.io")
        node.run(prepared_node.lab, *ctr, "images", "tag", "--force", known, image)
    values = merged(k8s_values() if distro == "k8s" else {}, {part: {"image": image} for part, image in older.items()})
    installed = install(f"older-{distro}", values=values)
    found = installed.api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
    assert found["spec"]["cidrs"] == [prepared_node.service_range]
    assert installed.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"] == installed.address

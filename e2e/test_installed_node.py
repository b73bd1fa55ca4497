"""`helm install` and nothing else: a virtual cluster in pods of the real node, what runs in it, and what it survives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e import guestbook
from e2e.lab import k3s_image, provisioner, syncer_image
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.installed import Install, Installed
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

NAMESPACE = "team-blue"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def blue(install: Install) -> Installed:
    """One with the guestbook in it, ready."""
    installed = install("blue", NAMESPACE)
    guestbook.apply(installed)
    guestbook.wait_ready(installed)
    return installed


@pytest.fixture(scope="module")
def storage(prepared_node: HostCluster) -> Iterator[None]:
    """A provisioner of volumes."""
    provisioner.start(prepared_node)
    yield
    provisioner.stop(prepared_node)


def peer(blue: Installed, script: str) -> str:
    """What a shell in a pod of the tenant prints, by the tenant's own kubectl."""
    return blue.kubectl("exec", "--namespace=guestbook", "peers-0", "--", "sh", "-c", script).strip()


def delete_pod(blue: Installed) -> None:
    """Have the control plane start again, and wait until it is ready."""
    (pod,) = blue.pods()
    blue.host.api.delete(f"{blue.path}/pods/{blue.name}-0")

    def is_another() -> bool:
        return any(found["metadata"]["uid"] != pod["metadata"]["uid"] for found in blue.pods())

    wait_until(is_another, "another pod of the control plane", 60)
    blue.wait_ready()


def test_it_serves_the_guestbook(blue: Installed) -> None:
    guestbook.write_entry(blue, "hello-from-blue")
    assert json.loads(guestbook.read_entry(blue, "hello-from-blue"))["data"].endswith("hello-from-blue")


def test_names_are_those_of_the_virtual_cluster(blue: Installed) -> None:
    for name in ("peers-1.peers", "peers-1.peers.guestbook.svc.cluster.local"):
        assert peer(blue, f"wget -qO- http://{name}:8080/hostname") == "peers-1"
    address = blue.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"]
    assert address == blue.address
    assert address in peer(blue, "nslookup kubernetes.default.svc.cluster.local")
    assert peer(blue, "echo $KUBERNETES_SERVICE_HOST") == address


CALL = """
import os, ssl, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=account + "ca.crt")
for server in (os.environ["KUBERNETES_SERVICE_HOST"], "kubernetes.default.svc"):
    asked = urllib.request.Request(f"https://{server}/version", headers={"Authorization": "Bearer " + open(account + "token").read()})
    print(urllib.request.urlopen(asked, context=context).status)
"""


def test_a_pod_reaches_its_api_by_its_token(blue: Installed) -> None:
    container = {"name": "main", "image": syncer_image.SYNCER, "imagePullPolicy": "Never", "command": ["python3", "-c", CALL]}
    spec = {"containers": [container], "restartPolicy": "Never"}
    blue.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller", "namespace": "default"}, "spec": spec})
    path = "/api/v1/namespaces/default/pods/caller"
    wait_until(lambda: blue.api.get(path)["status"]["phase"] in ("Succeeded", "Failed"), "the caller has ended", 60)
    assert blue.kubectl("logs", "caller").split() == ["200", "200"]


def test_it_is_the_version_of_its_image(blue: Installed) -> None:
    assert k3s_image.tag() == f"lab.local/k3s:{blue.api.get('/version')['gitVersion']}-k3s1"


def test_the_control_plane_is_confined(blue: Installed) -> None:
    (pod,) = blue.pods()
    assert {status["restartCount"] for status in pod["status"]["containerStatuses"]} == {0}
    blue.host.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    spec = {key: value for key, value in pod["spec"].items() if key not in ("nodeName", "hostname")}
    again = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "again", "namespace": NAMESPACE}, "spec": spec}
    try:
        blue.host.api.request("POST", f"{blue.path}/pods", again, params={"dryRun": "All"})
    finally:
        blue.host.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {}}})
    for container in pod["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["securityContext"]["runAsUser"] == 12345


def test_helm_test_passes(blue: Installed) -> None:
    said = blue.helm("test", blue.name)
    assert "Phase:          Succeeded" in said, said


@pytest.mark.usefixtures("storage")
def test_a_restart_of_the_control_plane_leaves_all_as_it_is(install: Install) -> None:
    """On a volume, since an emptyDir goes with its pod."""
    green = install("green", "team-green", {"storage": {"persistence": True, "size": "1Gi"}})
    guestbook.apply(green)
    guestbook.wait_ready(green)
    guestbook.write_entry(green, "before")
    before, inside = uids(green.tenant_pods()), uids(guestbook.pods(green))
    system = green.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    certificate = green.kubeconfig.read_text()

    delete_pod(green)
    assert green.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"] == system
    guestbook.wait_ready(green)
    guestbook.read_entry(green, "before")
    assert (uids(green.tenant_pods()), uids(guestbook.pods(green))) == (before, inside)
    assert {status["restartCount"] for pod in green.tenant_pods() for status in pod["status"]["containerStatuses"]} == {0}
    assert green.kubeconfig.read_text() != certificate, "certificates are renewed at each start, and the Secret follows"


def uids(pods: list[Any]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


@pytest.mark.parametrize("end", ["", "-dns"])
def test_a_service_that_is_deleted_by_mistake_comes_back_and_nobody_notices(blue: Installed, end: str) -> None:
    path = f"{blue.path}/services/{blue.name}{end}"
    before, pods = blue.host.api.get(path), uids(blue.tenant_pods())
    blue.host.api.delete(path)
    wait_until(lambda: blue.host.api.find(path) is not None, f"{path} is back", 60)
    after = blue.host.api.get(path)
    assert (after["spec"], after["metadata"]["labels"]) == (before["spec"], before["metadata"]["labels"])
    ask = ("exec", "--namespace=guestbook", "peers-0", "--", "wget", "-qO-", "http://peers-1.peers:8080/hostname")
    wait_until(lambda: blue.kubectl(*ask, check=False).strip() == "peers-1", "API and names are found again", 30)
    assert uids(blue.tenant_pods()) == pods
    blue.install()
    blue.wait_ready()
    assert blue.host.api.get(path)["spec"] == before["spec"], "Helm goes on with it"

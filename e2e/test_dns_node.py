"""CoreDNS as a Deployment of the virtual cluster, and other manifests to begin with, on the real node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e import guestbook
from e2e.installed import Installed, merged
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.installed import Install

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

NAME = "named"


def greeting(text: str) -> dict[str, Any]:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greeting", "namespace": "lobby"}, "data": {"text": text}}
    manifests = yaml.safe_dump_all([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lobby"}}, config])
    return {"init": {"manifests": manifests}}


VALUES = merged({"coredns": {"deployment": True}}, greeting("welcome"))


@pytest.fixture(scope="module")
def named(install: Install) -> Installed:
    installed = install(NAME, values=VALUES)
    guestbook.apply(installed)
    guestbook.wait_ready(installed)
    return installed


def peer(named: Installed, script: str) -> str:
    return named.kubectl("exec", "--namespace=guestbook", "peers-0", "--", "sh", "-c", script).strip()


def servers(named: Installed) -> list[dict[str, Any]]:
    """The pods of the DNS, as the tenant sees them."""
    found: list[dict[str, Any]] = named.api.get("/api/v1/namespaces/kube-system/pods", labelSelector="k8s-app=kube-dns")["items"]
    return found


def assert_names_are_answered(named: Installed) -> None:
    lookup = "nslookup kubernetes.default.svc.cluster.local >/dev/null 2>&1 && echo found || true"
    wait_until(lambda: peer(named, lookup) == "found", "the Service leads to a pod of the DNS")
    address = named.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"]
    assert address in peer(named, "nslookup kubernetes.default.svc.cluster.local")
    service = named.api.get("/api/v1/namespaces/guestbook/services/agnhost-primary")["spec"]["clusterIP"]
    assert service in peer(named, "nslookup agnhost-primary.guestbook.svc.cluster.local")
    assert peer(named, "wget -qO- http://peers-1.peers:8080/hostname") == "peers-1"


def test_names_are_answered_by_pods_of_the_tenant(named: Installed) -> None:
    (pod,) = named.pods()
    assert [container["name"] for container in pod["spec"]["containers"]] == ["syncer", "vcluster"]
    assert named.host.api.find(f"{named.path}/services/{NAME}-dns") is None
    (server,) = servers(named)
    assert {status["restartCount"] for status in server["status"]["containerStatuses"]} == {0}
    assert_names_are_answered(named)
    dns = named.api.get("/api/v1/namespaces/kube-system/services/kube-dns")["spec"]["clusterIP"]
    assert peer(named, "grep nameserver /etc/resolv.conf") == f"nameserver {dns}"


def test_it_is_there_again_after_its_pod_is_gone(named: Installed) -> None:
    (old,) = servers(named)
    named.api.delete(f"/api/v1/namespaces/kube-system/pods/{old['metadata']['name']}")

    def another() -> bool:
        return [pod["metadata"]["uid"] for pod in servers(named) if guestbook.is_ready(pod)] not in ([], [old["metadata"]["uid"]])

    wait_until(another, "another pod of the DNS is ready", 60)
    assert_names_are_answered(named)


@pytest.mark.long  # the kubelet looks after mounted ConfigMaps once a minute
def test_other_manifests_reach_it_without_a_restart(named: Installed) -> None:
    path = "/api/v1/namespaces/lobby/configmaps/greeting"
    wait_until(lambda: (named.api.find(path) or {}).get("data") == {"text": "welcome"}, "the manifest is applied")
    (before,) = named.pods()
    Installed(named.host, NAME, named.host_namespace, merged(VALUES, greeting("good morning"))).install()
    wait_until(lambda: named.api.get(path)["data"] == {"text": "good morning"}, "the new manifest is applied", 150)
    (after,) = named.pods()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]

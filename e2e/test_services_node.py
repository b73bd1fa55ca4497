"""Traffic through Services on a real node: what kube-proxy of the host does with what was synced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e import guestbook
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX
from e2e.servicepairs import ServicePairs, service
from syncer.kube.types import ENDPOINTS, PODS, Key

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("real_node")]

SERVE = "mkdir /w; hostname >/w/index.html; httpd -f -p 8080 -h /w"


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    """A tenant with a pod that serves its name, and one to ask from."""
    daemon = tenant("traffic")
    for name, command in (("web", SERVE), ("tools", "sleep 1d")):
        container = {"name": "app", "image": BUSYBOX, "command": ["sh", "-c", command]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}}}
        daemon.virtual.api.apply({**pod, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}})

    def ready() -> bool:
        return all(guestbook.is_ready(daemon.virtual.api.get(PODS.path("default", name))) for name in ("web", "tools"))

    wait_until(ready, "both pods are ready", 120)
    return daemon


@pytest.fixture(scope="module")
def pairs(daemon: Daemon) -> ServicePairs:
    return ServicePairs(daemon)


def ask(daemon: Daemon, where: str) -> str:
    """What a pod of the tenant gets from there, or what keeps it from that."""
    virtual = daemon.virtual
    tools = virtual.host_namespace, guestbook.host_pod_name(virtual, "tools", "default")
    return guestbook.in_pod(virtual.host, *tools, "sh", "-c", f"timeout 3 wget -q -O - http://{where} 2>&1 || true").strip()


def wait_answer(daemon: Daemon, where: str) -> None:
    wait_until(lambda: ask(daemon, where) == "web", f"an answer from {where}: {ask(daemon, where)}", 60)


def web(daemon: Daemon) -> Obj:
    found: Obj = daemon.virtual.api.get(PODS.path("default", "web"))
    return found


def test_hand_made_endpoints(daemon: Daemon, pairs: ServicePairs) -> None:
    pod = web(daemon)
    target = {"kind": "Pod", "namespace": "default", "name": "web", "uid": pod["metadata"]["uid"]}
    subsets = [{"addresses": [{"ip": pod["status"]["podIP"], "targetRef": target}], "ports": [{"port": 8080}]}]
    meta = {"name": "by-hand", "namespace": "default"}
    pairs.virtual.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets})
    pairs.create(service("by-hand"))
    wait_answer(daemon, "by-hand")
    path = ENDPOINTS.path(*pairs.names.host_key(Key("default", "by-hand")))
    assert pairs.host.get(path)["subsets"][0]["addresses"][0]["targetRef"]["name"] == "web-x-default-x-traffic"


def test_a_hand_made_slice(daemon: Daemon, pairs: ServicePairs) -> None:
    labels = {"kubernetes.io/service-name": "by-slice"}
    pairs.create(service("by-slice"))
    pairs.virtual.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "by-slice-1", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [web(daemon)["status"]["podIP"]]}],
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        }
    )
    wait_answer(daemon, "by-slice")


def test_the_node_port_that_an_update_was_given(daemon: Daemon, pairs: ServicePairs) -> None:
    pairs.create(service("opens", selector={"app": "web"}, ports=[{"port": 80, "targetPort": 8080}]))
    wait_answer(daemon, "opens")
    port = pairs.patch("opens", {"type": "NodePort"})["spec"]["ports"][0]["nodePort"]
    wait_answer(daemon, f"{web(daemon)['status']['hostIP']}:{port}")


def test_a_service_that_somebody_deleted_on_the_host_answers_again_at_its_address(daemon: Daemon, pairs: ServicePairs) -> None:
    address = pairs.create(service("heals", selector={"app": "web"}, ports=[{"port": 80, "targetPort": 8080}]))["spec"]["clusterIP"]
    wait_answer(daemon, address)
    uid = pairs.get_host("heals")["metadata"]["uid"]
    pairs.host.delete(pairs.host_path("heals"))
    wait_until(lambda: (pairs.host.find(pairs.host_path("heals")) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, "it is back")
    wait_answer(daemon, address)

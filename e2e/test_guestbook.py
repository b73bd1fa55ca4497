"""The main job on a real node: two virtual clusters in one host namespace run the same application side by side."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from e2e import guestbook
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.node, pytest.mark.guestbook, pytest.mark.usefixtures("real_node")]

NAMES = ("blue", "green")
HOST_NAMESPACE = "tenants"
EVERYTHING = (
    *(f"/api/v1/{plural}" for plural in ("pods", "services", "endpoints", "configmaps", "secrets", "events", "namespaces", "nodes")),
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/apps/v1/statefulsets",
)


@pytest.fixture(scope="module")
def daemons(tenant: StartTenant) -> list[Daemon]:
    """Both tenants, with the guestbook Ready."""
    found = [tenant(name, namespace=HOST_NAMESPACE) for name in NAMES]
    for daemon in found:
        guestbook.apply(daemon.virtual)
    for daemon in found:
        guestbook.wait_ready(daemon.virtual)
    return found


@pytest.fixture(params=range(len(NAMES)), ids=NAMES)
def daemon(daemons: list[Daemon], request: pytest.FixtureRequest) -> Daemon:
    """Each of the two."""
    found: Daemon = daemons[request.param]
    return found


def shell(daemon: Daemon, pod: str, script: str) -> str:
    host_pod = guestbook.host_pod_name(daemon.virtual, pod)
    return guestbook.in_pod(daemon.virtual.host, HOST_NAMESPACE, host_pod, "sh", "-c", script).strip()


def test_it_serves_across_services_by_virtual_names(daemon: Daemon) -> None:
    text = f"hello-from-{daemon.virtual.name}"
    guestbook.write_entry(daemon.virtual, text)
    assert json.loads(guestbook.read_entry(daemon.virtual, text))["data"].endswith(text)


def test_entries_of_one_tenant_are_not_seen_by_the_other(daemons: list[Daemon]) -> None:
    blue, green = daemons
    guestbook.write_entry(blue.virtual, "only-blue-knows-this")
    guestbook.read_entry(blue.virtual, "only-blue-knows-this")
    guestbook.write_entry(green.virtual, "marker-of-green")
    assert "only-blue" not in guestbook.read_entry(green.virtual, "marker-of-green")


def test_stateful_pods_find_each_other_by_stable_name(daemon: Daemon) -> None:
    for asking, asked in (("peers-0", "peers-1"), ("peers-1", "peers-0")):
        for name in (f"{asked}.peers", f"{asked}.peers.guestbook.svc.cluster.local"):
            assert shell(daemon, asking, f"wget -qO- http://{name}:8080/hostname") == asked


def test_hostname_is_the_virtual_pods(daemon: Daemon) -> None:
    assert shell(daemon, "peers-0", "hostname") == "peers-0"
    assert HOST_NAMESPACE not in shell(daemon, "peers-0", "cat /etc/hosts /etc/resolv.conf")


def test_containers_see_configmap_secret_and_their_own_virtual_name(daemon: Daemon) -> None:
    seen = shell(daemon, "peers-0", 'echo "$GREETING|$(cat /credentials/password)|$POD_NAME"')
    assert seen == "hello from the ConfigMap|s3cret-of-the-demo|peers-0"


def test_a_changed_configmap_and_secret_reach_the_host(daemon: Daemon) -> None:
    virtual = daemon.virtual
    text = f"changed for {virtual.name}"
    virtual.api.request(
        "PATCH",
        "/api/v1/namespaces/guestbook/secrets/credentials",
        {"stringData": {"extra": text}},
        content_type="application/merge-patch+json",
    )
    copy = f"/api/v1/namespaces/{HOST_NAMESPACE}/secrets/credentials-x-guestbook-x-{virtual.name}"

    def arrived() -> bool:
        data: dict[str, str] = virtual.host.api.get(copy)["data"]
        return base64.b64decode(data.get("extra", "")).decode() == text

    wait_until(arrived, "the Secret's new key on the host", 10)


def test_describe_shows_what_happened_on_the_host_in_virtual_words(daemon: Daemon) -> None:
    def described() -> str:
        return guestbook.kubectl(daemon.virtual, "-n", "guestbook", "describe", "pod", "peers-0")

    wait_until(lambda: all(word in described() for word in ("Scheduled", "Started", "Created")), "the host's events in describe", 20)
    text = described()
    assert f"-x-{daemon.virtual.name}" not in text
    assert HOST_NAMESPACE not in text


def test_a_pod_reaches_its_own_api_server_as_programs_inside_a_cluster_do(daemon: Daemon) -> None:
    said = shell(daemon, "peers-0", "timeout 3 /agnhost inclusterclient --poll-interval 1 2>&1; true")
    assert said.count("calling /healthz") >= 2, "it goes on when there was an answer"
    assert "status=failed" not in said


def test_the_token_is_bound_to_the_virtual_pod(daemon: Daemon) -> None:
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": shell(daemon, "peers-0", f"cat {account}/token")},
    }
    user: dict[str, Any] = daemon.virtual.api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)["status"]["user"]
    pod = daemon.virtual.api.get("/api/v1/namespaces/guestbook/pods/peers-0")
    assert user["username"] == "system:serviceaccount:guestbook:default"
    assert user["extra"]["authentication.kubernetes.io/pod-uid"] == [pod["metadata"]["uid"]]
    assert shell(daemon, "peers-0", f"cat {account}/namespace") == "guestbook"


def test_neither_the_host_nor_the_other_tenant_shows(daemons: list[Daemon]) -> None:
    for mine, other in (daemons, reversed(daemons)):
        foreign = {pod["metadata"]["uid"] for pod in (*guestbook.pods(other.virtual), *guestbook.host_pods(other.virtual))}
        seen = "".join(json.dumps(mine.virtual.api.get(path)) for path in EVERYTHING) + shell(mine, "peers-0", "env; cat /etc/resolv.conf")
        for word in (HOST_NAMESPACE, "-x-", other.virtual.name, other.virtual.name.upper(), *foreign):
            where = re.findall(f".{{0,150}}{re.escape(word)}.{{0,50}}", seen)
            assert not where, f"{mine.virtual.name} sees {word}"


def test_nothing_of_one_tenant_is_selected_by_the_other(daemons: list[Daemon]) -> None:
    host = daemons[0].virtual.host
    owner = {}
    for daemon in daemons:
        for pod in guestbook.host_pods(daemon.virtual):
            owner[pod["status"]["podIP"]] = daemon.virtual.name
    slices = host.api.get(f"/apis/discovery.k8s.io/v1/namespaces/{HOST_NAMESPACE}/endpointslices")["items"]
    checked = 0
    for item in slices:
        service = item["metadata"]["labels"]["kubernetes.io/service-name"]
        copied, _, name = service.rpartition("-x-")
        if not copied:
            continue  # the API servers and DNS of both, made by the lab
        for endpoint in item["endpoints"] or ():
            for address in endpoint["addresses"]:
                assert owner[address] == name, f"{service} leads to a pod of {owner[address]}"
                checked += 1
    assert checked >= 2 * guestbook.PODS


def test_virtual_nodes_are_made_up_and_ready(daemon: Daemon) -> None:
    nodes = daemon.virtual.api.get("/api/v1/nodes")["items"]
    assert [node["metadata"]["labels"].get("vcluster.loft.sh/fake-node") for node in nodes] == ["true"]
    assert any(c["type"] == "Ready" and c["status"] == "True" for c in nodes[0]["status"]["conditions"])


def test_deleting_the_namespace_clears_the_host_and_leaves_the_other_tenant_alone(daemons: list[Daemon]) -> None:
    blue, green = daemons
    before = {pod["metadata"]["uid"] for pod in guestbook.host_pods(green.virtual)}
    guestbook.kubectl(blue.virtual, "delete", "namespace", "guestbook", "--timeout=60s")
    api, selector = blue.virtual.host.api, f"vcluster.loft.sh/managed-by={blue.virtual.name},vcluster.loft.sh/namespace=guestbook"

    def left() -> list[str]:
        return [
            f"{plural}/{item['metadata']['name']}"
            for plural in ("pods", "services", "configmaps", "secrets")
            for item in api.get(f"/api/v1/namespaces/{HOST_NAMESPACE}/{plural}", labelSelector=selector)["items"]
        ]

    wait_until(lambda: not left(), f"the host objects of {blue.virtual.name} are gone", 30)
    assert {pod["metadata"]["uid"] for pod in guestbook.host_pods(green.virtual)} == before
    guestbook.write_entry(green.virtual, "still-here")
    guestbook.read_entry(green.virtual, "still-here")

"""Files of manifests, applied to a real virtual API server; and CoreDNS by them, as the chart has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.chart import objects
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Api
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAME = "begun"
COLOURS = """
apiVersion: lab.test/v1
kind: Colour
metadata: {name: red}
spec: {hex: ff0000}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: colours.lab.test}
spec:
  group: lab.test
  names: {kind: Colour, plural: colours}
  scope: Cluster
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
DNS = "/api/v1/namespaces/kube-system/services/kube-dns"
CONFIG = "/api/v1/namespaces/shop/configmaps/config"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With CoreDNS, objects that need one another in the worst order, and one that is refused."""
    directory = tmp_path_factory.mktemp("manifests")
    rendered = objects({"coredns": {"deployment": True}}, release=NAME)["ConfigMap", f"{NAME}-manifests"]["data"]
    (directory / "coredns.yaml").write_text(rendered["coredns.yaml"])
    (directory / "colours.yaml").write_text(COLOURS)
    (directory / "shop.yaml").write_text(shop("1"))
    return directory


def shop(value: str) -> str:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config", "namespace": "shop"}, "data": {"value": value}}
    return yaml.safe_dump_all([config, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}])


@pytest.fixture(scope="module")
def daemon(directory: Path, tenant: StartTenant) -> Daemon:
    """Without the Service for the DNS that labs make, as the chart leaves it out."""
    return tenant(NAME, f"--init-manifests={directory}", "--dns-service=none")


@pytest.fixture(scope="module")
def virtual(daemon: Daemon) -> Api:
    return daemon.virtual.api


def data(api: Api) -> dict[str, str]:
    found: dict[str, str] = (api.find(CONFIG) or {}).get("data") or {}
    return found


def merge(api: Api, path: str, patch: dict[str, Any]) -> None:
    api.request("PATCH", path, patch, content_type="application/merge-patch+json", params={"fieldManager": "tenant"})


def test_what_needs_something_else_comes_once_that_is_there(daemon: Daemon, virtual: Api) -> None:
    wait_until(lambda: virtual.find("/apis/lab.test/v1/colours/red") is not None, "the custom resource")
    wait_until(lambda: data(virtual) == {"value": "1"}, "the ConfigMap of the new namespace")
    wait_until(lambda: daemon.metric('syncer_init_manifests{state="waiting"}') == 0, "nothing waits")
    assert daemon.metric('syncer_init_manifests{state="applied"}') == 10
    assert daemon.get("/readyz") == (200, "ok\n")


def test_coredns_is_a_deployment_whose_address_pods_get(daemon: Daemon, virtual: Api) -> None:
    host, namespace = daemon.virtual.host.api, daemon.virtual.host_namespace
    deployment = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"
    wait_until(lambda: (virtual.get(deployment)["status"].get("readyReplicas") or 0) == 1, "CoreDNS is ready", 90)
    service = f"/api/v1/namespaces/{namespace}/services/kube-dns-x-kube-system-x-{NAME}"

    def address_of(api: Api, path: str) -> str | None:
        return ((api.find(path) or {}).get("spec") or {}).get("clusterIP")

    # One that was applied before the webhook was there has another address first.
    wait_until(lambda: address_of(virtual, DNS) == address_of(host, service) is not None, "the Service has the host's address")
    address = address_of(host, service)
    container = {"name": "main", "image": "lab.local/none:1"}
    virtual.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": {"containers": [container]}})
    copy = f"/api/v1/namespaces/{namespace}/pods/client-x-default-x-{NAME}"
    wait_until(lambda: host.find(copy) is not None, "the pod is on the host")
    assert host.get(copy)["spec"]["dnsConfig"]["nameservers"] == [address]
    (server,) = (pod for pod in host.get(f"/api/v1/namespaces/{namespace}/pods")["items"] if pod["metadata"]["name"].startswith("coredns-"))
    assert server["spec"]["dnsPolicy"] == "Default"
    environment = {item["name"]: item.get("value") for item in server["spec"]["containers"][0]["env"]}
    assert environment["KUBERNETES_SERVICE_HOST"] == daemon.virtual.service_address


def test_a_change_of_the_files_is_applied_and_nothing_of_the_tenants_lost(daemon: Daemon, directory: Path, virtual: Api) -> None:
    wait_until(lambda: data(virtual) == {"value": "1"}, "the ConfigMap")
    merge(virtual, CONFIG, {"data": {"value": "the tenant's", "more": "of his"}})
    (directory / "shop.yaml").write_text(shop("2"))
    wait_until(lambda: data(virtual) == {"value": "2", "more": "of his"}, "our value is back, his own stays")
    (directory / "shop.yaml").unlink()
    wait_until(lambda: daemon.metric('syncer_init_manifests{state="applied"}') == 8, "the file is forgotten")
    assert data(virtual) == {"value": "2", "more": "of his"}


def test_what_is_refused_is_told_to_the_platform(daemon: Daemon, directory: Path, virtual: Api) -> None:
    bad = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "dada": {"a": "b"}}
    (directory / "bad.yaml").write_text(yaml.safe_dump(bad))
    line = daemon.wait_log("manifests.not_applied")
    assert line["error"].startswith("ConfigMap bad of bad.yaml: ")
    assert "dada" in line["error"]
    code, text = daemon.get("/readyz")
    assert code == 200
    assert "[+]manifests ok, but not all are applied: ConfigMap bad of bad.yaml" in text
    assert daemon.metric('syncer_init_manifests{state="waiting"}') == 1
    host, namespace = daemon.virtual.host.api, daemon.virtual.host_namespace

    def told() -> list[dict[str, Any]]:
        found = host.get(f"/api/v1/namespaces/{namespace}/events")["items"]
        return [event for event in found if event["reason"] == "ManifestNotApplied"]

    wait_until(lambda: bool(told()), "an event on the host")
    assert told()[0]["involvedObject"]["name"] == f"vc-{NAME}-owner"
    assert "dada" in told()[0]["message"]
    (directory / "bad.yaml").write_text("")
    wait_until(lambda: daemon.get("/readyz") == (200, "ok\n"), "it is well again")
    assert virtual.find("/api/v1/namespaces/default/configmaps/bad") is None


def test_what_the_tenant_deleted_comes_back_with_the_next_start(daemon: Daemon, virtual: Api) -> None:
    account = "/api/v1/namespaces/kube-system/serviceaccounts/coredns"
    wait_until(lambda: virtual.find(account) is not None, "what was applied")
    virtual.delete(account)
    daemon.stop()
    daemon.start()
    wait_until(lambda: virtual.find(account) is not None, "it is there again")

"""ConfigMaps and Secrets between real API servers: copied while something refers to them, and no longer."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until
from syncer.sync.referenced import FORCE_SYNC

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

KINDS = {"configmaps": "ConfigMap", "secrets": "Secret"}
MERGE = "application/merge-patch+json"
MEBIBYTE = 1024 * 1024
ANNOTATIONS_LIMIT = 256 * 1024
BOTH = pytest.mark.parametrize("plural", [*KINDS])


class Tenant:
    """A virtual cluster; its pods never run, because the host has no nodes for them."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.name = daemon, daemon.virtual.name
        self.api, self.host = daemon.virtual.api, daemon.virtual.host.api

    def path(self, plural: str, name: str, namespace: str = "default") -> str:
        return f"/api/v1/namespaces/{namespace}/{plural}/{name}"

    def copy_path(self, plural: str, name: str, namespace: str = "default") -> str:
        return f"/api/v1/namespaces/{self.daemon.virtual.host_namespace}/{plural}/{name}-x-{namespace}-x-{self.name}"

    def copy(self, plural: str, name: str, namespace: str = "default") -> Obj | None:
        return self.host.find(self.copy_path(plural, name, namespace))

    def make(self, plural: str, name: str, namespace: str = "default", **fields: Any) -> Obj:
        """With `annotations` among the fields, and for a Secret plain text in `data`."""
        metadata = {"name": name, "namespace": namespace, "annotations": fields.pop("annotations", {})}
        if plural == "secrets" and "data" in fields:
            fields["data"] = {key: encoded(value.encode()) for key, value in fields["data"].items()}
        body = {"apiVersion": "v1", "kind": KINDS[plural], "metadata": metadata, **fields}
        made: Obj = self.api.request("POST", self.path(plural, name, namespace).rpartition("/")[0], body)
        return made

    def change(self, plural: str, name: str, body: Obj) -> None:
        self.api.request("PATCH", self.path(plural, name), body, content_type=MERGE)

    def use(self, pod: str, plural: str, *names: str, namespace: str = "default") -> None:
        """Make a pod that mounts them."""
        kind = "configMap" if plural == "configmaps" else "secret"
        volumes = [{"name": "v", "projected": {"sources": [{kind: {"name": name}} for name in names]}}]
        containers = [{"name": "main", "image": "lab.local/none:1"}]
        spec = {"containers": containers, "volumes": volumes, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
        self.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": namespace}, "spec": spec})

    def remove(self, plural: str, *names: str, namespace: str = "default") -> None:
        for name in names:
            self.api.delete(self.path(plural, name, namespace))

    def wait_copy(self, plural: str, name: str, there: bool = True, namespace: str = "default") -> None:
        what = f"{plural} {name} {'on' if there else 'gone from'} the host"
        wait_until(lambda: (self.copy(plural, name, namespace) is not None) is there, what)

    def wait_data(self, plural: str, name: str, data: dict[str, str]) -> None:
        """Until the copy has this data, given as plain text."""
        wanted = {key: encoded(value.encode()) if plural == "secrets" else value for key, value in data.items()}
        wait_until(lambda: (self.copy(plural, name) or {}).get("data") == wanted, f"{name} with {[*data]} on the host")

    def told(self, plural: str, name: str) -> list[str]:
        """Warnings on an object, which say nothing of the host."""
        events = self.api.get("/api/v1/namespaces/default/events")["items"]
        found = [
            e for e in events if (e["type"], e["involvedObject"]["kind"], e["involvedObject"]["name"]) == ("Warning", KINDS[plural], name)
        ]
        texts = [event["message"] for event in found]
        assert not any(word in text for text in texts for word in (f"-x-{self.name}", self.daemon.virtual.host_namespace))
        return texts

    def kept(self) -> float:
        """Bytes that the syncer keeps of the tenant's Secrets."""
        return self.daemon.metric('syncer_cache_bytes{resource="secrets",side="virtual"}')


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def one(tenant: StartTenant) -> Tenant:
    return Tenant(tenant("copies"))


@pytest.fixture(scope="module")
def everything(one: Tenant) -> Tenant:
    """The same, which from now on copies all, but no Ingresses."""
    one.daemon.stop()
    one.daemon.start(extra=("--sync-all-configmaps", "--sync-all-secrets", "--sync=-ingresses"))
    return one


@BOTH
def test_copied_while_used(one: Tenant, plural: str) -> None:
    one.make(plural, "used", data={"a": "1", "b": "2"})
    one.make(plural, "unused", data={"a": "1"})
    one.use("user", plural, "used")
    one.wait_data(plural, "used", {"a": "1", "b": "2"})
    assert one.copy(plural, "unused") is None
    one.change(plural, "used", {"data": {"a": None, "c": encoded(b"3") if plural == "secrets" else "3"}})
    one.wait_data(plural, "used", {"b": "2", "c": "3"})
    one.use("second", plural, "used", "unused")
    one.wait_data(plural, "unused", {"a": "1"})
    one.remove("pods", "user")
    one.remove("pods", "second")
    for name in ("used", "unused"):
        one.wait_copy(plural, name, there=False)
    one.remove(plural, "used", "unused")


@BOTH
def test_the_annotation_that_asks_for_a_copy(one: Tenant, plural: str) -> None:
    one.make(plural, "asked", data={"a": "1"}, annotations={FORCE_SYNC: "true"})
    one.wait_data(plural, "asked", {"a": "1"})
    one.change(plural, "asked", {"metadata": {"annotations": {FORCE_SYNC: None}}})
    one.wait_copy(plural, "asked", there=False)
    one.remove(plural, "asked")


@BOTH
def test_immutable_and_made_anew_with_other_contents(one: Tenant, plural: str) -> None:
    one.make(plural, "fixed", data={"a": "1"})
    one.use("user", plural, "fixed")
    one.wait_data(plural, "fixed", {"a": "1"})
    one.change(plural, "fixed", {"immutable": True})
    wait_until(lambda: bool((one.copy(plural, "fixed") or {}).get("immutable")), "the copy is immutable too")
    one.remove(plural, "fixed")
    one.make(plural, "fixed", data={"a": "2"}, immutable=True)
    one.wait_data(plural, "fixed", {"a": "2"})
    one.remove(plural, "fixed")
    one.make(plural, "fixed", data={"a": "3"})
    one.wait_data(plural, "fixed", {"a": "3"})
    assert not (one.copy(plural, "fixed") or {}).get("immutable")
    one.remove("pods", "user")
    one.remove(plural, "fixed")


def test_a_secret_of_another_type_is_made_anew(one: Tenant) -> None:
    one.make("secrets", "typed", data={"username": "a", "password": "b"})
    one.use("user", "secrets", "typed")
    one.wait_copy("secrets", "typed")
    before = one.copy("secrets", "typed") or {}
    one.remove("secrets", "typed")
    one.make("secrets", "typed", data={"username": "a", "password": "b"}, type="kubernetes.io/basic-auth")
    wait_until(lambda: (one.copy("secrets", "typed") or {}).get("type") == "kubernetes.io/basic-auth", "a copy of the new type")
    assert (one.copy("secrets", "typed") or {})["metadata"]["uid"] != before["metadata"]["uid"]
    one.remove("pods", "user")
    one.remove("secrets", "typed")


def test_binary_data(one: Tenant) -> None:
    one.make("configmaps", "binary", data={"text": "1"}, binaryData={"bytes": encoded(bytes(range(256)))})
    one.use("user", "configmaps", "binary")
    one.wait_copy("configmaps", "binary")
    assert (one.copy("configmaps", "binary") or {})["binaryData"] == {"bytes": encoded(bytes(range(256)))}
    one.change("configmaps", "binary", {"data": {"bytes": "now text"}, "binaryData": None})
    one.wait_data("configmaps", "binary", {"text": "1", "bytes": "now text"})
    assert "binaryData" not in (one.copy("configmaps", "binary") or {})
    one.remove("pods", "user")
    one.remove("configmaps", "binary")


def test_the_largest_that_an_api_server_takes(one: Tenant) -> None:
    one.make("configmaps", "large", binaryData={"a": encoded(os.urandom(MEBIBYTE))})
    one.make("secrets", "large", data={"a": "x" * MEBIBYTE})
    one.use("reader", "configmaps", "large")
    one.use("keeper", "secrets", "large")
    for plural in KINDS:
        one.wait_copy(plural, "large")
    one.change("configmaps", "large", {"binaryData": {"a": encoded(os.urandom(MEBIBYTE // 2)), "b": encoded(os.urandom(MEBIBYTE // 2))}})
    wait_until(lambda: (one.copy("configmaps", "large") or {})["binaryData"].keys() == {"a", "b"}, "the change")
    one.remove("pods", "reader", "keeper")
    for plural in KINDS:
        one.remove(plural, "large")


def test_one_that_does_not_fit_with_our_annotations_is_told_and_tried_again(one: Tenant) -> None:
    def refusals() -> float:
        return one.daemon.metric('syncer_reconciles_total{outcome="refused",resource="configmaps"}')

    before = refusals()
    one.make("configmaps", "full", data={"a": "1"}, annotations={"note": "x" * (ANNOTATIONS_LIMIT - len("note"))})
    one.use("user", "configmaps", "full")
    wait_until(lambda: any("larger than" in text for text in one.told("configmaps", "full")), "the refusal")
    assert refusals() - before < 10
    assert one.copy("configmaps", "full") is None
    one.change("configmaps", "full", {"metadata": {"annotations": {"note": "short"}}})
    one.wait_data("configmaps", "full", {"a": "1"})
    one.remove("pods", "user")
    one.remove("configmaps", "full")


def test_each_namespaces_certificate_authority(one: Tenant) -> None:
    """The ConfigMap that the virtual control plane makes in every namespace, and its pods mount beside their tokens."""
    namespaces = ("alpha", "beta")
    for namespace in namespaces:
        one.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        wait_until(lambda: one.api.find(one.path("configmaps", "kube-root-ca.crt", namespace)) is not None, "kube-root-ca.crt")  # noqa: B023  called here
        one.use("user", "configmaps", "kube-root-ca.crt", namespace=namespace)
    virtual = one.api.get(one.path("configmaps", "kube-root-ca.crt", "alpha"))
    for namespace in namespaces:
        one.wait_copy("configmaps", "kube-root-ca.crt", namespace=namespace)
        assert (one.copy("configmaps", "kube-root-ca.crt", namespace) or {})["data"] == virtual["data"]
    host = one.host.get(f"/api/v1/namespaces/{one.daemon.virtual.host_namespace}/configmaps/kube-root-ca.crt")
    assert host["data"] != virtual["data"], "the host's own is another"
    assert one.copy("configmaps", "kube-root-ca.crt") is None, "nobody mounts that of default"
    for namespace in namespaces:
        one.remove("namespaces", namespace)
        one.api.delete(f"/api/v1/namespaces/{namespace}")
    for namespace in namespaces:
        one.wait_copy("configmaps", "kube-root-ca.crt", there=False, namespace=namespace)


def test_a_reference_and_what_it_refers_to_in_any_order(one: Tenant) -> None:
    names = [f"early-{number}" for number in range(8)] + [f"late-{number}" for number in range(8)]
    for name in names:
        if name.startswith("early"):
            one.make("configmaps", name, data={"a": name})
        one.use(name, "configmaps", name)
        if name.startswith("late"):
            one.make("configmaps", name, data={"a": name})
    for name in names:
        one.wait_data("configmaps", name, {"a": name})
    one.remove("pods", *names)
    for name in names:
        one.wait_copy("configmaps", name, there=False)
    one.remove("configmaps", *names)


def test_what_nothing_refers_to_is_not_kept_in_memory(one: Tenant) -> None:
    names = [f"heavy-{number}" for number in range(30)]
    before = one.kept()
    for name in names:
        one.make("secrets", name, data={"a": "x" * 20_000})
    wait_until(lambda: one.daemon.metric('syncer_cache_objects{resource="secrets",side="virtual"}') >= len(names), "all seen")
    assert one.kept() - before < len(names) * 500
    one.use("heavy", "secrets", *names)
    wait_until(lambda: one.kept() - before > len(names) * 20_000, "all kept while a pod mounts them")
    one.remove("pods", "heavy")
    wait_until(lambda: one.kept() - before < len(names) * 500, "let go of")
    for name in names:
        one.wait_copy("secrets", name, there=False)
    one.remove("secrets", *names)


def test_all_of_them_if_so_asked(everything: Tenant) -> None:
    account = {"kubernetes.io/service-account.name": "default"}
    for plural in KINDS:
        everything.make(plural, "alone", data={"a": "1"})
    everything.make("secrets", "sh.helm.release.v1.app.v1", data={"release": "H4sI"}, type="helm.sh/release.v1")
    everything.make("secrets", "token", annotations=account, type="kubernetes.io/service-account-token")
    for plural in KINDS:
        everything.wait_data(plural, "alone", {"a": "1"})
    for namespace in ("default", "kube-system"):
        everything.wait_copy("configmaps", "kube-root-ca.crt", namespace=namespace)
    everything.wait_copy("secrets", "sh.helm.release.v1.app.v1")
    assert (everything.copy("secrets", "sh.helm.release.v1.app.v1") or {})["type"] == "helm.sh/release.v1"
    token = everything.api.get(everything.path("secrets", "token"))
    wait_until(lambda: (everything.copy("secrets", "token") or {}).get("data", {}).keys() >= {"token"}, "the virtual cluster's token")
    copy = everything.copy("secrets", "token") or {}
    assert copy["type"] == "Opaque", "or the host's controllers would delete it, not knowing the account"
    assert copy["data"] == everything.api.get(everything.path("secrets", "token"))["data"]
    everything.change("configmaps", "alone", {"data": {"a": "2"}})
    everything.wait_data("configmaps", "alone", {"a": "2"})
    assert (everything.copy("secrets", "token") or {})["metadata"]["uid"] == copy["metadata"]["uid"]
    assert token["metadata"]["uid"] in copy["metadata"]["annotations"].values()
    for plural in KINDS:
        everything.remove(plural, "alone")
        everything.wait_copy(plural, "alone", there=False)


def test_ingresses_are_not_synced_if_so_asked(everything: Tenant) -> None:
    name, spec = {"name": "off"}, {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": name, "spec": spec}
    everything.api.apply(ingress)
    everything.make("configmaps", "later", data={"a": "1"})
    everything.wait_copy("configmaps", "later")
    path = f"/apis/networking.k8s.io/v1/namespaces/{everything.daemon.virtual.host_namespace}/ingresses"
    assert everything.host.get(path)["items"] == []

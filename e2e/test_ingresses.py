"""Ingresses and their classes between real API servers; the tests play the host's controllers. A real one is in test_traefik."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import ApiFailure, wait_until
from syncer.naming import LABEL_MANAGED_BY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Api, Obj
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

HOST = "edge"
NETWORKING = "networking.k8s.io/v1"
NGINX = "nginx.ingress.kubernetes.io/"
ALB = "alb.ingress.kubernetes.io/"
DEFAULT = "ingressclass.kubernetes.io/is-default-class"
CLASSES = f"/apis/{NETWORKING}/ingressclasses"
MERGE = "application/merge-patch+json"


class Tenant:
    """A virtual cluster whose Ingresses all are in its default namespace."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.name = daemon, daemon.virtual.name
        self.api, self.host = daemon.virtual.api, daemon.virtual.host.api

    def path(self, name: str) -> str:
        return f"/apis/{NETWORKING}/namespaces/default/ingresses/{name}"

    def host_path(self, name: str) -> str:
        return f"/apis/{NETWORKING}/namespaces/{HOST}/ingresses/{name}-x-default-x-{self.name}"

    def secret_path(self, name: str, namespace: str = "default") -> str:
        return f"/api/v1/namespaces/{HOST}/secrets/{name}-x-{namespace}-x-{self.name}"

    def create(self, name: str, annotations: dict[str, str] | None = None, **spec: Any) -> Obj:
        """As kubectl create does: the API server may fill in what is missing."""
        metadata = {"name": name, "annotations": annotations or {}}
        body = {
            "apiVersion": NETWORKING,
            "kind": "Ingress",
            "metadata": metadata,
            "spec": {"rules": [rule(f"{name}.example", "web")], **spec},
        }
        created: Obj = self.api.request("POST", self.path(name).rpartition("/")[0], body)
        return created

    def secret(self, name: str, namespace: str = "default", **fields: Any) -> None:
        self.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, **fields})

    def change(self, name: str, body: Obj) -> None:
        self.api.request("PATCH", self.path(name), body, content_type=MERGE)

    def change_on_host(self, name: str, body: Obj, subresource: str = "") -> Obj:
        changed: Obj = self.host.request("PATCH", self.host_path(name) + subresource, body, content_type=MERGE)
        return changed

    def on_host(self, name: str) -> Obj:
        """The host Ingress, once it is there."""
        wait_until(lambda: self.host.find(self.host_path(name)) is not None, f"{name} on the host")
        found: Obj = self.host.get(self.host_path(name))
        return found

    def wait_host(self, name: str, path: str, value: object) -> None:
        """Until a field of the host Ingress's spec has that value."""
        wait_until(lambda: self.on_host(name)["spec"].get(path) == value, f"{path} of {name} on the host: {value}")

    def told(self, kind: str, name: str) -> list[str]:
        """Warnings on an object, which say nothing of the host."""
        events = self.api.get("/api/v1/namespaces/default/events")["items"]
        texts = [
            e["message"] for e in events if (e["type"], e["involvedObject"]["kind"], e["involvedObject"]["name"]) == ("Warning", kind, name)
        ]
        assert not any(word in text for text in texts for word in (f"-x-{self.name}", HOST))
        return texts

    def wait_told(self, kind: str, name: str, words: str) -> None:
        wait_until(lambda: any(words in text for text in self.told(kind, name)), f"{words!r} told on {kind} {name}")

    def settled(self, name: str) -> None:
        """Fails if a later change, which is synced too, brought anything else to the host Ingress than itself."""
        before = self.on_host(name)
        self.change(name, {"metadata": {"labels": {"mark": before["metadata"]["resourceVersion"]}}})
        wait_until(lambda: self.on_host(name)["metadata"]["labels"].get("mark") == before["metadata"]["resourceVersion"], "a label")
        after = self.on_host(name)
        assert after["spec"] == before["spec"]
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        assert after["metadata"]["annotations"].keys() >= before["metadata"]["annotations"].keys()


def backend(service: str, port: str | int = 80) -> Obj:
    return {"service": {"name": service, "port": {"number" if isinstance(port, int) else "name": port}}}


def rule(host: str, *services: str) -> Obj:
    paths = [{"path": f"/{number}", "pathType": "Prefix", "backend": backend(name)} for number, name in enumerate(services)]
    return {"host": host, "http": {"paths": paths}}


def host_class(api: Api, name: str, *, controller: str = "example.com/edge", default: bool = False, **spec: Any) -> None:
    annotations = {DEFAULT: str(default).lower(), "meta.helm.sh/release-namespace": HOST}
    metadata = {"name": name, "annotations": annotations}
    api.apply({"apiVersion": NETWORKING, "kind": "IngressClass", "metadata": metadata, "spec": {"controller": controller, **spec}})


@pytest.fixture(scope="module")
def tenants(tenant: StartTenant) -> Iterator[list[Tenant]]:
    """Both in one host namespace; only the first one may see the host's classes."""
    found = [Tenant(tenant("red", namespace=HOST, cluster_rights=True)), Tenant(tenant("redder", namespace=HOST))]
    yield found
    for name in ("edge", "standard", "passing", "own"):
        found[0].host.delete(f"{CLASSES}/{name}")


@pytest.fixture
def red(tenants: list[Tenant]) -> Tenant:
    return tenants[0]


@pytest.fixture
def redder(tenants: list[Tenant]) -> Tenant:
    return tenants[1]


def test_names_become_those_of_the_host_and_all_else_arrives_as_it_is(red: Tenant) -> None:
    for namespace in ("default", "shop"):
        red.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    annotations = {
        NGINX + "auth-secret": "users",
        NGINX + "auth-tls-secret": "shop/ca",
        NGINX + "custom-headers": "default/headers",
        NGINX + "configuration-snippet": "more_set_headers 'X: y';",
        NGINX + "auth-url": "http://oauth.shop.svc.cluster.local/auth",
        ALB + "actions.weighted": '{"type":"forward","forwardConfig":{"targetGroups":[{"serviceName":"web","servicePort":80}]}}',
        ALB + "conditions.web": "[]",
        "cert-manager.io/cluster-issuer": "letsencrypt",
        "kubernetes.io/ingress.class": "old",
    }
    for name, namespace in (("users", "default"), ("ca", "shop"), ("certificate", "default"), ("unused", "default")):
        red.secret(name, namespace, stringData={"a": name})
    red.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "headers"}, "data": {"X-A": "b"}})
    weighted = {"pathType": "ImplementationSpecific", "backend": backend("weighted", "use-annotation")}
    red.create(
        "all",
        annotations,
        defaultBackend={"resource": {"apiGroup": "example.com", "kind": "Bucket", "name": "static"}},
        rules=[{"host": "all.example", "http": {"paths": [weighted]}}, rule("b.example", "web", "kubernetes")],
        tls=[{"hosts": ["all.example"], "secretName": "certificate"}],
    )
    host = red.on_host("all")
    assert host["spec"]["defaultBackend"]["resource"]["name"] == "static-x-default-x-red"
    names = [path["backend"]["service"]["name"] for item in host["spec"]["rules"] for path in item["http"]["paths"]]
    assert names == ["weighted-x-default-x-red", "web-x-default-x-red", "red"]
    assert host["spec"]["tls"] == [{"hosts": ["all.example"], "secretName": "certificate-x-default-x-red"}]
    unchanged = {key: value for key, value in annotations.items() if not key.startswith(ALB)}
    assert {key: value for key, value in host["metadata"]["annotations"].items() if "vcluster" not in key} == {
        **unchanged,
        NGINX + "auth-secret": "users-x-default-x-red",
        NGINX + "auth-tls-secret": f"{HOST}/ca-x-shop-x-red",
        NGINX + "custom-headers": f"{HOST}/headers-x-default-x-red",
        NGINX + "auth-url": f"http://oauth-x-shop-x-red.{HOST}.svc.cluster.local/auth",
        ALB + "actions.weighted-x-default-x-red": annotations[ALB + "actions.weighted"].replace("web", "web-x-default-x-red"),
        ALB + "conditions.web-x-default-x-red": "[]",
    }
    copies = [red.secret_path("users"), red.secret_path("ca", "shop"), red.secret_path("certificate")]
    wait_until(lambda: all(red.host.find(path) for path in copies), "the Secrets that it names")
    wait_until(lambda: red.host.find(red.secret_path("headers").replace("secrets", "configmaps")) is not None, "its ConfigMap")
    assert red.host.find(red.secret_path("unused")) is None
    red.settled("all")
    red.change("all", {"metadata": {"annotations": {NGINX + "auth-secret": None}}})
    wait_until(lambda: red.host.find(copies[0]) is None, "a Secret that it does not name any more is gone")
    red.api.delete(red.path("all"))
    wait_until(lambda: red.host.find(red.host_path("all")) is None, "gone from the host")
    wait_until(lambda: not any(red.host.find(path) for path in copies), "and its Secrets")


def test_status_comes_up_and_what_the_hosts_controllers_add_stays(red: Tenant) -> None:
    red.create("shown", tls=[{"secretName": "x"}])
    path = red.on_host("shown")["spec"]["rules"][0]["http"]["paths"][0]
    address = {"loadBalancer": {"ingress": [{"hostname": "lb.example", "ports": [{"port": 443, "protocol": "TCP"}]}]}}
    red.change_on_host("shown", {"status": address}, "/status")
    wait_until(lambda: red.api.get(red.path("shown"))["status"] == address, "the address")
    solver = {"path": "/.well-known/acme-challenge/x", "pathType": "ImplementationSpecific", "backend": backend("solver")}
    added = [{"host": "shown.example", "http": {"paths": [solver, path]}}]
    red.change_on_host("shown", {"metadata": {"annotations": {"theirs": "x"}, "finalizers": ["example.com/lb"]}, "spec": {"rules": added}})
    red.settled("shown")
    assert red.on_host("shown")["spec"]["rules"] == added
    red.change_on_host("shown", {"spec": {"rules": [rule("stolen.example", "theirs")]}})
    red.wait_host("shown", "rules", [rule("shown.example", "web-x-default-x-red")])
    red.change_on_host("shown", {"status": {"loadBalancer": None}}, "/status")
    wait_until(lambda: red.api.get(red.path("shown"))["status"] == {"loadBalancer": {}}, "the address has gone")

    red.api.delete(red.path("shown"))
    wait_until(lambda: "deletionTimestamp" in red.on_host("shown")["metadata"], "deleted on the host too")
    uid = red.on_host("shown")["metadata"]["uid"]
    red.create("shown")
    red.change_on_host("shown", {"metadata": {"finalizers": None}})
    wait_until(lambda: red.on_host("shown")["metadata"]["uid"] != uid, "a new one, after the old one's controller has let it go")
    red.api.delete(red.path("shown"))


def test_one_made_anew_takes_over_what_is_on_the_host(red: Tenant) -> None:
    red.create("again")
    uid = red.on_host("again")["metadata"]["uid"]
    virtual = red.api.get(red.path("again"))["metadata"]["uid"]
    red.daemon.stop()
    red.api.delete(red.path("again"))
    red.create("again", rules=[rule("new.example", "web")])
    red.daemon.start()
    red.wait_host("again", "rules", [rule("new.example", "web-x-default-x-red")])
    host = red.on_host("again")
    assert host["metadata"]["uid"] == uid
    assert virtual not in str(host)


def test_classes_of_the_host_are_shown_and_no_others_touched(red: Tenant, redder: Tenant) -> None:
    def shown(name: str) -> Obj:
        return red.api.find(f"{CLASSES}/{name}") or {}

    own = {"metadata": {"name": "own"}, "spec": {"controller": "tenant.example/own"}}
    red.api.apply({"apiVersion": NETWORKING, "kind": "IngressClass", **own})
    parameters = {"apiGroup": "example.com", "kind": "P", "name": "p", "namespace": HOST, "scope": "Namespace"}
    host_class(red.host, "passing", parameters=parameters)
    wait_until(lambda: bool(shown("passing")), "the host's class")
    assert shown("passing")["spec"] == {"controller": "example.com/edge"}
    assert shown("passing")["metadata"]["annotations"] == {DEFAULT: "false", LABEL_MANAGED_BY: "red"}
    assert redder.api.find(f"{CLASSES}/passing") is None
    uid = shown("passing")["metadata"]["uid"]
    host_class(red.host, "passing", default=True, parameters=parameters)
    wait_until(lambda: shown("passing")["metadata"]["annotations"][DEFAULT] == "true", "the default")
    assert shown("passing")["metadata"]["uid"] == uid
    red.host.delete(f"{CLASSES}/passing")
    host_class(red.host, "passing", controller="example.com/other")
    wait_until(lambda: shown("passing").get("spec") == {"controller": "example.com/other"}, "another controller's class")
    red.api.delete(f"{CLASSES}/passing")
    wait_until(lambda: bool(shown("passing")), "what the tenant deletes comes back")
    red.host.delete(f"{CLASSES}/passing")
    wait_until(lambda: not shown("passing"), "the host's class is gone")
    assert shown("own")["spec"] == own["spec"]
    host_class(red.host, "own")
    host_class(red.host, "standard")
    wait_until(lambda: bool(shown("standard")), "a later class")
    assert shown("own")["spec"] == own["spec"]
    red.host.delete(f"{CLASSES}/own")


def test_an_ingress_for_the_tenants_own_controller_stays_in_the_virtual_cluster(red: Tenant) -> None:
    red.api.apply(
        {"apiVersion": NETWORKING, "kind": "IngressClass", "metadata": {"name": "private"}, "spec": {"controller": "tenant.example/own"}}
    )
    address = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    red.create("private", ingressClassName="private")
    red.api.request("PATCH", red.path("private") + "/status", address, content_type=MERGE)
    red.create("public", ingressClassName="edge")
    red.on_host("public")
    assert red.host.find(red.host_path("private")) is None
    red.change("public", {"spec": {"ingressClassName": "private"}})
    wait_until(lambda: red.host.find(red.host_path("public")) is None, "gone when it becomes private")
    red.change("private", {"spec": {"ingressClassName": "edge"}})
    red.wait_host("private", "ingressClassName", "edge")
    for name in ("private", "public"):
        red.api.delete(red.path(name))


def test_the_hosts_default_class(red: Tenant, redder: Tenant) -> None:
    host_class(red.host, "standard", default=True)
    wait_until(
        lambda: (red.api.find(f"{CLASSES}/standard") or {}).get("metadata", {}).get("annotations", {}).get(DEFAULT) == "true", "shown", 10
    )
    assert red.create("defaulted")["spec"]["ingressClassName"] == "standard", "the virtual API server knows it as well"
    assert "ingressClassName" not in redder.create("defaulted")["spec"]
    wait_until(lambda: redder.api.get(redder.path("defaulted"))["spec"].get("ingressClassName") == "standard", "shown")
    redder.settled("defaulted")
    redder.change("defaulted", {"spec": {"ingressClassName": None}})
    redder.wait_host("defaulted", "ingressClassName", None)
    redder.settled("defaulted")
    assert "ingressClassName" not in redder.api.get(redder.path("defaulted"))["spec"]
    host_class(red.host, "standard")
    for one in (red, redder):
        one.api.delete(one.path("defaulted"))


def test_a_certificate_that_the_hosts_cert_manager_keeps_is_left_to_it(red: Tenant) -> None:
    """It makes a Secret under the name that the host Ingress gives. (Its Certificate for an Ingress has the Secret's name.)"""

    def write(name: str, key: str) -> Obj:
        path = red.secret_path(name)
        annotations = {"cert-manager.io/certificate-name": path.rpartition("/")[2]}
        metadata = {"name": path.rpartition("/")[2], "namespace": HOST, "annotations": annotations}
        return red.host.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"tls.key": key}})

    red.create("certified", {"cert-manager.io/cluster-issuer": "x"}, tls=[{"secretName": "issued"}, {"secretName": "brought"}])
    red.on_host("certified")
    issued = write("issued", "aXNzdWVk")
    red.secret("issued", stringData={"tls.key": "the tenant's"})
    red.wait_told("Secret", "issued", "is taken")
    red.secret("brought", stringData={"tls.key": "the tenant's"})
    wait_until(lambda: red.host.find(red.secret_path("brought")) is not None, "the tenant's own")
    brought = write("brought", "YnJvdWdodA==")
    red.wait_told("Secret", "brought", "cert-manager")
    red.secret("brought", stringData={"tls.key": "changed"})
    red.secret("users", stringData={"a": "b"})
    red.change("certified", {"metadata": {"annotations": {NGINX + "auth-secret": "users"}}})
    wait_until(lambda: red.host.find(red.secret_path("users")) is not None, "another Secret")
    for name, before in (("issued", issued), ("brought", brought)):
        assert red.host.get(red.secret_path(name))["data"] == before["data"]
        assert red.host.get(red.secret_path(name))["metadata"]["uid"] == before["metadata"]["uid"]
    red.api.delete(red.path("certified"))
    wait_until(lambda: red.host.find(red.secret_path("brought")) is None, "our copy goes with the Ingress")
    assert red.host.get(red.secret_path("issued"))["metadata"]["uid"] == issued["metadata"]["uid"]
    red.host.delete(red.secret_path("issued"))


def test_a_host_name_that_the_host_refuses(red: Tenant, redder: Tenant) -> None:
    """Who may have which host name is for the host to say, here by a policy that plays an ingress controller's webhook."""
    admission, group = "/apis/admissionregistration.k8s.io/v1", "admissionregistration.k8s.io/v1"
    refuse = {
        "expression": "object.spec.rules.all(r, r.host != 'taken.example')",
        "message": "host taken.example is defined in another ingress",
    }
    rules = [{"apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"], "resources": ["ingresses"], "operations": ["CREATE", "UPDATE"]}]
    policy = {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": rules}, "validations": [refuse]}
    red.host.apply({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "hosts"}, "spec": policy})
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": HOST}}}
    binding = {"policyName": "hosts", "validationActions": ["Deny"], "matchResources": here}
    red.host.apply({"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "hosts"}, "spec": binding})

    def refused() -> bool:
        body = {"metadata": {"name": "probe", "namespace": HOST}, "spec": {"rules": [rule("taken.example", "x")]}}
        probe = {"apiVersion": NETWORKING, "kind": "Ingress", **body}
        try:
            red.host.request("POST", f"/apis/{NETWORKING}/namespaces/{HOST}/ingresses", probe, params={"dryRun": "All"})
        except ApiFailure as failure:
            return failure.status == 422
        return False

    wait_until(refused, "the policy is in force")
    redder.create("taken")
    redder.create("free")
    redder.on_host("free")
    redder.wait_told("Ingress", "taken", "defined in another ingress")
    assert redder.host.find(redder.host_path("taken")) is None
    redder.change("taken", {"spec": {"rules": [rule("mine.example", "web")]}})
    redder.wait_host("taken", "rules", [rule("mine.example", "web-x-default-x-redder")])
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        red.host.delete(f"{admission}/{kind}/hosts")
    for name in ("taken", "free"):
        redder.api.delete(redder.path(name))


def test_what_cannot_be_carried_over_is_told(red: Tenant) -> None:
    long = "s" * 50
    red.create("long", {f"{ALB}conditions.{long}": "[]"}, rules=[rule("long.example", long)])
    red.create("middle", {"traefik.ingress.kubernetes.io/router.middlewares": "default-a@kubernetescrd"})
    red.wait_told("Ingress", "long", "longer than 63 characters")
    red.wait_told("Ingress", "middle", "custom resources are not copied")
    assert red.on_host("middle")["metadata"]["annotations"]["traefik.ingress.kubernetes.io/router.middlewares"] == "default-a@kubernetescrd"
    assert red.host.find(red.host_path("long")) is None
    for name in ("long", "middle"):
        red.api.delete(red.path(name))


def test_two_tenants_and_a_stranger_in_one_namespace(red: Tenant, redder: Tenant) -> None:
    """None reaches what is another's, whatever its annotations say."""
    stranger = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password", "namespace": HOST}, "stringData": {"a": "b"}}
    uid = red.host.apply(stranger)["metadata"]["uid"]
    for one in (red, redder):
        one.create(
            "same", {NGINX + "auth-secret": f" {HOST}/password", NGINX + "proxy-ssl-secret": "password"}, tls=[{"secretName": "password"}]
        )
    for one in (red, redder):
        host = one.on_host("same")
        assert host["metadata"]["annotations"][NGINX + "auth-secret"] == f"{HOST}/password-x-{HOST}-x-{one.name}"
        assert host["metadata"]["annotations"][NGINX + "proxy-ssl-secret"] == f"password-x-default-x-{one.name}"
        assert host["spec"]["tls"] == [{"secretName": f"password-x-default-x-{one.name}"}]
    red.api.delete(red.path("same"))
    wait_until(lambda: red.host.find(red.host_path("same")) is None, "the one is gone")
    assert "deletionTimestamp" not in redder.on_host("same")["metadata"]
    assert red.host.get(f"/api/v1/namespaces/{HOST}/secrets/password")["metadata"]["uid"] == uid
    redder.api.delete(redder.path("same"))
    red.host.delete(f"/api/v1/namespaces/{HOST}/secrets/password")


def test_who_may_not_see_the_hosts_classes_never_asks_for_them(red: Tenant, redder: Tenant) -> None:
    def asked(one: Tenant, word: str) -> list[str]:
        lines = one.daemon.get("/metrics")[1].splitlines()
        return [line for line in lines if line.startswith("syncer_api_requests_total{") and word in line and 'side="host"' in line]

    assert asked(red, 'resource="ingressclasses.networking.k8s.io"')
    assert asked(redder, 'resource="ingresses.networking.k8s.io"')
    assert not asked(redder, "ingressclasses")
    assert not asked(redder, 'code="403"')

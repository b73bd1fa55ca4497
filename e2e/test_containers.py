"""Logs, exec, attach and port-forward through the front door, between real API servers: who may, what is refused, and in which words.

There are no kubelets here, so what is let through ends with the host's complaint that it cannot reach one.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from e2e.lab import kwok, pki
from e2e.lab.api import wait_until
from syncer.kube.types import PODS, SERVICE_ACCOUNTS, Key
from syncer.naming import Names
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from e2e.daemon import Daemon
    from e2e.lab.api import Api, Obj
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGVzdHRlc3R0ZXN0dGVzdA==",
}
CHANNELS = "v4.channel.k8s.io"
WEB = PODS.path("default", "web")
REGISTRATION = "admissionregistration.k8s.io/v1"
RBAC = "rbac.authorization.k8s.io"


class Tenant:
    """A virtual cluster, and requests to it, both through the front door and directly."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.virtual = daemon, daemon.virtual
        self.api, self.host = daemon.virtual.api, daemon.virtual.host.api
        self.names = Names(daemon.virtual.name, daemon.virtual.host_namespace)
        self.said: list[str] = []
        """Everything that the front door answered."""

    def host_path(self, name: str, subresource: str = "") -> str:
        return PODS.path(*self.names.host_key(Key("default", name)), subresource)

    def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        user: str = "admin",
        groups: Sequence[str] = (),
        directly: bool = False,
    ) -> tuple[int, str]:
        """Status, and the message of a Status or what else was answered. Nobody's request without `user`."""
        port = urlsplit(self.virtual.server).port if directly else self.daemon.proxy_port
        connection = http.client.HTTPSConnection("127.0.0.1", port or 0, timeout=60, context=self._context(user, groups))
        try:
            connection.request(method, path, headers={"Accept": "application/json, */*", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode() if answer.status != 101 else ""
        finally:
            connection.close()
        if not directly:
            self.said += [text, str(answer.headers)]
        return answer.status, json.loads(text)["message"] if answer.headers.get_content_type() == "application/json" else text

    def _context(self, user: str, groups: Sequence[str]) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.virtual.tls / "server-ca.crt"))
        if user:
            organizations = ["system:masters"] if user == "admin" else groups
            made = pki.Authority(self.virtual.tls, "client-ca").issue(f"test-{user}", user, organizations)
            context.load_cert_chain(made.cert, made.key)
        return context

    def run(self, name: str, *, wait: bool = True, containers: Sequence[str] = ("main",), **spec: Any) -> None:
        """A pod, running unless told otherwise."""
        listed = [{"name": container, "image": "example.com/none:1"} for container in containers]
        metadata = {"name": name, "namespace": "default"}
        self.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": listed, **spec}})
        if wait:
            path = PODS.path("default", name)
            wait_until(lambda: self.api.get(path).get("status", {}).get("phase") == "Running", f"{name} runs")

    def allow(self, user: str, *rights: tuple[str, str]) -> None:
        """Rights in the virtual cluster's default namespace: verb and resource."""
        metadata = {"name": user, "namespace": "default"}
        listed = [{"apiGroups": [""], "resources": [resource], "verbs": [verb]} for verb, resource in rights]
        self.api.apply({"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": listed})
        self.api.apply(
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": user},
                "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
            }
        )

    def wait_answer(self, expected: int, text: str, method: str, path: str, headers: dict[str, str] | None = None) -> None:
        """Until a request is answered so: API servers take a moment for new webhooks, policies and rights."""

        def answered() -> bool:
            status, message = self.ask(method, path, headers)
            return status == expected and text in message

        wait_until(answered, f"{method} {path}: {expected} {text!r}, not {self.ask(method, path, headers)}")


@pytest.fixture(scope="module")
def it(host_cluster: HostCluster, tenant: StartTenant) -> Iterator[Tenant]:
    """With the pods `web`, of one container, and `two`; nothing that was answered to anybody names the host."""
    kwok.start(host_cluster, 2)
    doors = Tenant(tenant("doors", namespace="hidden-place"))
    doors.run("web")
    doors.run("two", containers=("a", "b"), initContainers=[{"name": "first", "image": "example.com/none:1"}])
    doors.run("homeless", wait=False, nodeSelector={"no": "node"})
    doors.allow("reader", ("get", "pods/exec"), ("get", "pods/log"), ("get", "pods"))
    doors.allow("worker", ("create", "pods/exec"))
    doors.allow("stranger")
    yield doors
    for text in doors.said:
        assert "hidden-place" not in text
        assert "-x-default-x-" not in text
        assert doors.virtual.host.server.removeprefix("https://") not in text


def reached_the_host(answer: tuple[int, str]) -> bool:
    """Whether that is what a host says whose node has no kubelet."""
    status, message = answer
    return status in (500, 502) and ("dial" in message or "10250" in message)


class TestWhoMay:
    def test_an_administrator(self, it: Tenant) -> None:
        for subresource in ("exec?command=ls", "attach", "portforward"):
            assert reached_the_host(it.ask("POST", f"{WEB}/{subresource}", SPDY)), subresource
        assert reached_the_host(it.ask("GET", f"{WEB}/log"))

    def test_whoever_may_create(self, it: Tenant) -> None:
        assert reached_the_host(it.ask("POST", f"{WEB}/exec?command=ls", SPDY, user="worker"))

    def test_reading_is_not_enough_for_a_websocket(self, it: Tenant) -> None:
        """From Kubernetes 1.35 on: https://github.com/kubernetes/kubernetes/issues/133515."""
        protocol = {"Sec-WebSocket-Protocol": CHANNELS}
        status, message = it.ask("GET", f"{WEB}/exec?command=ls", WEBSOCKET | protocol, user="reader")
        if tuple(map(int, it.virtual.version.removeprefix("v").split(".")[:2])) >= (1, 35):
            assert (status, message) == it.ask("GET", f"{WEB}/exec?command=ls", WEBSOCKET | protocol, user="reader", directly=True)
            assert status == 403
        else:
            assert status != 403

    @pytest.mark.parametrize("user", ["stranger", "worker"])
    @pytest.mark.parametrize("name", ["web", "missing", "web-x-default-x-doors"])
    def test_nobody_else_learns_what_exists(self, it: Tenant, user: str, name: str) -> None:
        for method, subresource in (("GET", "log"), ("POST", "attach"), ("GET", "portforward")):
            path, headers = f"{PODS.path('default', name)}/{subresource}", SPDY if method == "POST" else {}
            status, message = it.ask(method, path, headers, user=user)
            assert (status, message) == it.ask(method, path, headers, user=user, directly=True)
            assert status == 403
            assert f'pods "{name}" is forbidden: User "{user}" cannot' in message

    def test_nobody(self, it: Tenant) -> None:
        for method, path, headers in (("POST", f"{WEB}/exec?command=ls", SPDY), ("GET", f"{WEB}/log", {})):
            assert it.ask(method, path, headers, user="")[0] == 403
            forged = {**headers, "X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
            assert it.ask(method, path, forged, user="")[0] == 403
            assert it.ask(method, path, {**headers, "Authorization": "Bearer wrong"}, user="") == (401, "Unauthorized")

    def test_whom_one_may_impersonate(self, it: Tenant) -> None:
        path = f"{WEB}/exec?command=ls"
        assert reached_the_host(it.ask("POST", path, SPDY | {"Impersonate-User": "worker"}))
        assert it.ask("POST", path, SPDY | {"Impersonate-User": "stranger"})[0] == 403
        wanted = SPDY | {"Impersonate-User": "admin", "Impersonate-Group": "system:masters"}
        status, message = it.ask("POST", path, wanted, user="worker")
        assert (status, message) == it.ask("POST", path, wanted, user="worker", directly=True)
        assert status == 403
        assert 'User "worker" cannot impersonate' in message

    def test_a_token_among_websocket_protocols(self, it: Tenant) -> None:
        token_path = SERVICE_ACCOUNTS.path("default", "default", "token")
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        token = it.api.request("POST", token_path, request)["status"]["token"]
        encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
        protocols = f"base64url.bearer.authorization.k8s.io.{encoded}, {CHANNELS}"
        status, message = it.ask("GET", f"{WEB}/exec", WEBSOCKET | {"Sec-WebSocket-Protocol": protocols}, user="")
        assert status == 403
        assert 'User "system:serviceaccount:default:default" cannot' in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "missing/exec?command=ls"),
        ("POST", "missing/portforward"),
        ("GET", "missing/log"),
        ("POST", "web/exec?command=ls&container=nope"),
        ("POST", "two/exec?command=ls"),
        ("POST", "two/attach"),
        ("GET", "two/log"),
        ("GET", "two/log?container=nope"),
        ("POST", "homeless/exec?command=ls"),
        ("POST", "homeless/portforward"),
        ("GET", "homeless/log"),
        ("POST", "web/exec?dryRun=All"),
        ("POST", "web/portforward?ports=x"),
        ("GET", "web/log?tailLines=-1"),
        ("GET", "web/log?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z"),
        ("GET", "web/exec?command=ls"),
        ("GET", "web/attach"),
        ("DELETE", "web/exec"),
        ("POST", "web/log"),
        ("GET", "web/exec/more"),
    ],
)
def test_what_cannot_be_is_refused_as_by_a_kube_apiserver(it: Tenant, method: str, path: str) -> None:
    path, headers = f"{PODS.path('default')}/{path}", SPDY if method == "POST" else {}
    answer = it.ask(method, path, headers)
    assert answer == it.ask(method, path, headers, directly=True)
    assert answer[0] >= 400 or answer == (204, "")


class TestOtherPods:
    def test_of_the_host_by_their_names(self, it: Tenant) -> None:
        for path in (it.host_path("web"), PODS.path("default", "web-x-default-x-doors"), PODS.path("hidden-place", "web")):
            assert it.ask("GET", f"{path}/log")[0] == 404
            assert it.ask("POST", f"{path}/exec?command=ls", SPDY)[0] == 404
        it.said = [text.replace("web-x-default-x-doors", "").replace("hidden-place", "") for text in it.said]  # he named them himself

    def test_one_that_has_the_name_on_the_host(self, it: Tenant) -> None:
        key = it.names.host_key(Key("default", "taken"))
        spec = {"containers": [{"name": "main", "image": "example.com/none:1"}]}
        it.host.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": key.name, "namespace": key.namespace}, "spec": spec})
        node = it.api.get(WEB)["spec"]["nodeName"]
        it.run("taken", wait=False, nodeName=node)
        for method, subresource in (("POST", "exec?command=ls"), ("POST", "attach"), ("POST", "portforward"), ("GET", "log")):
            answer = it.ask(method, f"{PODS.path('default', 'taken')}/{subresource}", SPDY if method == "POST" else {})
            assert answer == (400, "pod taken does not have a host assigned")

    def test_a_container_that_an_operator_added(self, it: Tenant) -> None:
        it.run("debugged")
        path = PODS.path("default", "debugged")
        add_ephemeral(it.host, it.host_path("debugged"), "secret")
        assert it.ask("GET", f"{path}/log?container=secret") == (400, "container secret is not valid for pod debugged")
        add_ephemeral(it.api, path, "secret")
        add_ephemeral(it.api, path, "own")
        wait_until(lambda: reached_the_host(it.ask("GET", f"{path}/log?container=own")), "the tenant's own can be reached")
        assert reached_the_host(it.ask("POST", f"{path}/attach?container=own", SPDY))
        for method, rest in (("GET", "log?"), ("POST", "attach?"), ("POST", "exec?command=ls&")):
            answer = it.ask(method, f"{path}/{rest}container=secret", SPDY if method == "POST" else {})
            assert answer == (400, "container secret is not valid for pod debugged")


def add_ephemeral(api: Api, path: str, name: str) -> None:
    container = {"name": name, "image": "example.com/none:1"}
    body = {"spec": {"ephemeralContainers": [container]}}
    api.request("PATCH", f"{path}/ephemeralcontainers", body, content_type="application/strategic-merge-patch+json")


def test_a_right_that_the_host_does_not_grant(it: Tenant) -> None:
    without = [right for right in needed_rights(ALL, election=True) if right.resource not in ("pods/exec", "pods/log")]
    grant = partial(it.virtual.host.grant, it.virtual.host_namespace, f"syncer-{it.virtual.name}")
    words = 'pods "web" is forbidden: this virtual cluster has no right to pods/{} in its host cluster; whoever runs that can grant it'
    try:
        grant(rules(without))
        it.wait_answer(403, words.format("exec"), "POST", f"{WEB}/exec?command=ls", SPDY)
        it.wait_answer(403, words.format("log"), "GET", f"{WEB}/log")
        assert reached_the_host(it.ask("POST", f"{WEB}/attach", SPDY))
    finally:
        grant(rules(needed_rights(ALL, election=True)))
        wait_until(lambda: reached_the_host(it.ask("GET", f"{WEB}/log")), "the right is back")


class Webhook:
    """A validating webhook on loopback that denies commands which begin with `rm`, and remembers what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[Obj] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append(review["request"])
                allowed = review["request"]["object"].get("command", [""])[0] != "rm"
                response = {"uid": review["request"]["uid"], "allowed": allowed, "status": {"message": "nothing is removed here"}}
                body = json.dumps({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Nothing."""

        authority = pki.Authority(directory, "webhook-ca")
        issued = authority.issue("webhook", "webhook", usage="server", sans=["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.cert, issued.key)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.client = {
            "url": f"https://127.0.0.1:{self.server.server_address[1]}/",
            "caBundle": base64.b64encode(authority.cert.read_bytes()).decode(),
        }
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def registration(name: str, client: Obj, **fields: Any) -> Obj:
    webhook = {
        "name": f"{name}.example.com",
        "clientConfig": client,
        "rules": [{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
        **fields,
    }
    return {"apiVersion": REGISTRATION, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": name}, "webhooks": [webhook]}


class TestAdmission:
    def test_a_webhook(self, it: Tenant, tmp_path: Path) -> None:
        hook = Webhook(tmp_path)
        condition = {"name": "not-the-worker", "expression": "request.userInfo.username != 'worker'"}
        it.api.apply(registration("careful", hook.client, matchConditions=[condition]))
        removing = f"{WEB}/exec?command=rm&command=-r&container=main"
        try:
            denied = 'admission webhook "careful.example.com" denied the request: nothing is removed here'
            it.wait_answer(400, denied, "POST", removing, SPDY)
            assert reached_the_host(it.ask("POST", f"{WEB}/exec?command=ls", SPDY))
            assert reached_the_host(it.ask("POST", removing, SPDY, user="worker")), "its condition is heeded"
            assert reached_the_host(it.ask("POST", f"{WEB}/attach", SPDY)), "it asked for pods/exec alone"
            asked = [request for request in hook.asked if request["object"]["command"][0] == "rm"][-1]
            assert (asked["operation"], asked["subResource"], asked["name"]) == ("CONNECT", "exec", "web")
            assert asked["userInfo"]["username"] == "admin"
            assert asked["object"] == {
                "kind": "PodExecOptions",
                "apiVersion": "v1",
                "container": "main",
                "command": ["rm", "-r"],
            }
            before = len(hook.asked)
            it.ask("POST", f"{WEB}/exec?command=ls", SPDY)
            assert len(hook.asked) == before + 1, "once a request"
        finally:
            it.api.delete(f"/apis/{REGISTRATION}/validatingwebhookconfigurations/careful")
            hook.server.shutdown()
            hook.server.server_close()
        wait_until(lambda: reached_the_host(it.ask("POST", removing, SPDY)), "nobody is asked any more")

    def test_a_webhook_that_is_not_there(self, it: Tenant) -> None:
        it.api.apply(registration("absent", {"url": "https://127.0.0.1:1/"}))
        try:
            it.wait_answer(500, 'failed calling webhook "absent.example.com"', "POST", f"{WEB}/exec?command=ls", SPDY)
        finally:
            it.api.delete(f"/apis/{REGISTRATION}/validatingwebhookconfigurations/absent")
        wait_until(lambda: reached_the_host(it.ask("POST", f"{WEB}/exec?command=ls", SPDY)), "nobody is asked any more")

    def test_a_policy(self, it: Tenant) -> None:
        metadata = {"name": "no-root-shell"}
        rule = {"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec"]}
        validation = {"expression": "object.command[0] != 'sh'", "message": "no shells"}
        policy = {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [rule]}, "validations": [validation]}
        it.api.apply({"apiVersion": REGISTRATION, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": policy})
        binding = {"policyName": "no-root-shell", "validationActions": ["Deny"]}
        it.api.apply({"apiVersion": REGISTRATION, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata, "spec": binding})
        try:
            it.wait_answer(422, "denied request: no shells", "POST", f"{WEB}/exec?command=sh", SPDY)
            assert reached_the_host(it.ask("POST", f"{WEB}/exec?command=ls", SPDY))
        finally:
            it.api.delete(f"/apis/{REGISTRATION}/validatingadmissionpolicybindings/no-root-shell")
            it.api.delete(f"/apis/{REGISTRATION}/validatingadmissionpolicies/no-root-shell")
        wait_until(lambda: reached_the_host(it.ask("POST", f"{WEB}/exec?command=sh", SPDY)), "the policy is gone")

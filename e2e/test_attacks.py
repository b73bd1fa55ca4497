"""What a tenant or a stranger may try at a front door, between real API servers: two virtual clusters share one host namespace.

How malformed requests and answers are dealt with, and how much they can use up, is tested on the wire (tests/proxy/test_attacks.py,
test_limits.py); what kubelets and containers of others are guarded by, where they are served (test_kubelets.py, test_containers.py).
`docs/threat-model.md` has the whole table.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import resource
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from e2e.lab import kwok, pki, process
from e2e.lab.api import wait_until
from syncer.kube.types import PODS, SECRETS, SERVICE_ACCOUNTS, SERVICES, Key
from syncer.naming import Names
from syncer.translate.kubelets import host_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from e2e.daemon import Daemon
    from e2e.lab.cluster import ControlPlane
    from e2e.lab.host import HostCluster
    from e2e.lab.virtual import VirtualCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

SHARED = "shared-hideout"
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
FORGED = {
    "X-Remote-User": "system:admin",
    "X-Remote-Group": "system:masters",
    "X-Remote-Uid": "0",
    "X-Remote-Extra-Scopes": "all",
    "X_Remote_User": "system:admin",
    "X_Remote_Group": "system:masters",
}
MEMORY = 64 << 20
"""How much an attack may cost while it lasts, in bytes."""


class Answer(NamedTuple):
    status: int
    text: str


class Front:
    """The front door of one virtual cluster; `said` is all that was asked of it and answered."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.virtual = daemon, daemon.virtual
        self.names = Names(daemon.virtual.name, daemon.virtual.host_namespace)
        self.said: list[tuple[str, str]] = []

    def context(self, user: str, issuer: ControlPlane | None = None) -> ssl.SSLContext:
        """As `user`, by a certificate of this or another cluster; nobody if that is ""."""
        context = ssl.create_default_context(cafile=str(self.virtual.tls / "server-ca.crt"))
        if user:
            groups = ["system:masters"] if user == "admin" else []
            issued = pki.Authority((issuer or self.virtual).tls, "client-ca").issue(f"attack-{user}", user, groups)
            context.load_cert_chain(issued.cert, issued.key)
        return context

    def connect(self, user: str = "", issuer: ControlPlane | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.daemon.proxy_port), timeout=60)
        return self.context(user, issuer).wrap_socket(plain, server_hostname="localhost")

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        *,
        user: str = "admin",
        token: str = "",
        directly: bool = False,
    ) -> Answer:
        """What it answers, or what the API server behind it does."""
        port = urlsplit(self.virtual.server).port if directly else self.daemon.proxy_port
        connection = http.client.HTTPSConnection("127.0.0.1", port or 0, timeout=60, context=self.context("" if token else user))
        sent = {"Accept": "application/json, */*", **(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, data, {**sent, **({"Content-Type": "application/json"} if data else {})})
            answer = connection.getresponse()
            text = answer.read().decode() if answer.status != 101 else ""
        finally:
            connection.close()
        if not directly:
            self.said.append((f"{method} {path} {headers} {data}", f"{answer.status} {answer.headers} {text}"))
        return Answer(answer.status, text)

    def raw(self, request: str, user: str = "admin") -> Answer:
        """The answer to these bytes."""
        with self.connect(user) as connection:
            connection.sendall(request.encode())
            received = b""
            with suppress(TimeoutError, ConnectionError):
                while data := connection.recv(65536):
                    received += data
        text = received.decode()
        self.said.append((request, text))
        return Answer(int(text.split(" ", 2)[1]), text.partition("\r\n\r\n")[2])

    def whoami(self, headers: Mapping[str, str] | None = None, *, user: str = "", token: str = "") -> tuple[int, str]:
        """Status, and the user whom the virtual API server takes the caller for."""
        status, text = self.ask("POST", WHOAMI, headers, REVIEW, user=user, token=token)
        return status, json.loads(text)["status"]["userInfo"]["username"] if status == 201 else json.loads(text)["message"]

    def memory(self) -> int:
        return process.memory(self.virtual.dir, self.daemon.name)


def run_pod(front: Front, name: str) -> None:
    container = {"name": "main", "image": "example.com/none:1"}
    spec = {"containers": [container], "automountServiceAccountToken": False}
    front.virtual.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    path = PODS.path("default", name)
    wait_until(lambda: front.virtual.api.get(path).get("status", {}).get("phase") == "Running", f"{name} runs")


def service_token(cluster: ControlPlane) -> str:
    """Of a service account of that cluster."""
    path = f"{SERVICE_ACCOUNTS.path('default', 'default')}/token"
    token: str = cluster.api.request("POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"})["status"]["token"]
    return token


@pytest.fixture(scope="module")
def attacker(host_cluster: HostCluster, tenant: StartTenant) -> Front:
    kwok.start(host_cluster, 2)
    return Front(tenant("attacker", namespace=SHARED))


@pytest.fixture(scope="module")
def victim(attacker: Front, tenant: StartTenant) -> Front:
    del attacker  # which brings the nodes
    front = Front(tenant("victim", namespace=SHARED))
    run_pod(front, "web")
    front.virtual.api.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}
    )
    return front


@pytest.fixture(scope="module")
def front(attacker: Front, victim: Front) -> Iterator[Front]:
    """The attacker's, with pods `web` and `gone`; whatever it answered to anybody names nothing of the host that was not asked for."""
    del victim
    run_pod(attacker, "web")
    yield attacker
    host = attacker.virtual.host
    address = host.server.removeprefix("https://")
    secrets = (SHARED, address, f":{address.rpartition(':')[2]}", "-x-default-x-", "x-victim", f"syncer-{attacker.virtual.name}")
    for request, answer in attacker.said:
        for secret in secrets:
            assert secret not in answer or secret in request, (request, answer)
    assert attacker.said, "or there was nothing to look at"


class TestIdentity:
    def test_a_stranger_stays_one(self, front: Front) -> None:
        anonymous = front.whoami()
        assert anonymous[0] == 403
        assert 'User "system:anonymous" cannot create' in anonymous[1]
        assert front.whoami(FORGED) == anonymous
        for name in FORGED:
            assert front.whoami({name: FORGED[name], "Connection": f"close, {name}"}) == anonymous

    def test_a_tenants_user_stays_himself(self, front: Front) -> None:
        assert front.whoami(FORGED, user="mallory") == (201, "mallory")
        token = service_token(front.virtual)
        assert front.whoami(FORGED, token=token) == (201, "system:serviceaccount:default:default")
        status, message = front.whoami({"Impersonate-User": "system:admin", "Impersonate-Group": "system:masters"}, user="mallory")
        assert status == 403
        assert 'User "mallory" cannot impersonate' in message

    def test_certificates_of_other_clusters_are_strange(self, front: Front, victim: Front) -> None:
        for issuer in (victim.virtual, front.virtual.host):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                greet(front, issuer)
        greet(front, front.virtual)

    def test_tokens_of_other_clusters_are_wrong(self, front: Front, victim: Front) -> None:
        for cluster in (victim.virtual, front.virtual.host):
            assert front.whoami(token=service_token(cluster)) == (401, "Unauthorized")
            for path in (f"{PODS.path('default', 'web')}/log", "/version", "/api/v1/nodes/simulated-1/proxy/pods"):
                assert front.ask("GET", path, token=service_token(cluster)).status == 401

    def test_an_expired_token_is_wrong(self, front: Front) -> None:
        token = service_token(front.virtual)
        now = int(time.time())
        assert front.whoami(token=signed_anew(front.virtual, token, nbf=now - 7200, iat=now - 7200, exp=now + 3600))[0] == 201
        expired = signed_anew(front.virtual, token, nbf=now - 7200, iat=now - 7200, exp=now - 3600)
        assert front.whoami(token=expired) == (401, "Unauthorized")
        assert front.ask("GET", f"{PODS.path('default', 'web')}/log", token=expired).status == 401


def greet(front: Front, issuer: ControlPlane) -> None:
    """ConnectionError or SSLError when a certificate of that cluster is not taken; TLS 1.3 tells a client when it first reads."""
    with front.connect("admin", issuer) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not connection.recv(65536):
            raise ConnectionError


def signed_anew(cluster: VirtualCluster, token: str, **claims: int) -> str:
    """The same token with other claims, signed by the cluster's own key."""
    head, payload, _ = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))) | claims
    key = serialization.load_pem_private_key((cluster.tls / "service.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    text = f"{head}.{encoded(json.dumps(said).encode())}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


WEB = PODS.path("default", "web")


@pytest.mark.parametrize("subresource", ["log", "exec?command=ls"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/default/pods/web/../web/{}",
        "/api/v1/namespaces/x/../default/pods/web/{}",
        "/api/v1/namespaces/default/pods/./web/{}",
        "/api/v1/namespaces/default/pods/web%2f{}",
        "/api/v1/namespaces/default%2Fpods/web/{}",
        "/api/v1/namespaces/default/pods/%2e%2e/pods/web/{}",
        "/api/v1/namespaces/default/pods/..%2fweb/{}",
        "//api/v1/namespaces/default/pods/web/{}",
        "/api/v1/namespaces/default/pods//web/{}",
        "/api/v1/namespaces//pods/web/{}",
        "/api/v1/namespaces/default/pods/web%00/{}",
        "/api/v1/namespaces/default/pods/web;a=b/{}",
        "/api/v1/namespaces/default/pods/web./{}",
        "/api/v1/namespaces/default/pods/web%20/{}",
        "/api/v1/namespaces/default/pods/w%C3%A9b/{}",
        "/api/v1/namespaces/default/pods/w%c0%afb/{}",
        "/api/v1/namespaces/default/pods/web%252f/{}",
        "/api/v1/namespaces/default/pods/web\\/{}",
        "/api/v1/proxy/namespaces/default/pods/web/{}",
        "/api/v1/watch/namespaces/default/pods/web/{}",
        "/API/v1/namespaces/default/pods/web/{}",
        "/api/v1/namespaces/default/pods/" + "a" * 20_000 + "/{}",
    ],
    ids=map(str, range(22)),
)
def test_odd_paths_mean_what_they_mean_to_the_virtual_api_server(front: Front, path: str, subresource: str) -> None:
    """Answered by the host, they would be about a kubelet of the host that cannot be reached."""
    method, headers = ("GET", {}) if subresource == "log" else ("POST", SPDY)
    for user in ("admin", "mallory"):
        answer = front.ask(method, path.format(subresource), headers, user=user)
        assert answer == front.ask(method, path.format(subresource), headers, user=user, directly=True)


class TestOthers:
    def test_pods_by_their_host_names(self, front: Front, victim: Front) -> None:
        host = victim.names.host_key(Key("default", "web"))
        assert front.virtual.host.api.find(PODS.path(host.namespace, host.name)) is not None
        for namespace, name in itertools.product(("default", host.namespace), (host.name, "web-x-default-x-victim")):
            path = PODS.path(namespace, name)
            assert front.ask("GET", f"{path}/log").status == 404
            assert front.ask("GET", f"{path}/proxy/").status in (400, 404)
            for subresource in ("exec?command=ls", "attach", "portforward?ports=80"):
                assert front.ask("POST", f"{path}/{subresource}", SPDY).status == 404
                assert front.ask("GET", f"{path}/{subresource}").status in (400, 404)

    def test_pods_by_way_of_nodes(self, front: Front, victim: Front) -> None:
        node = victim.virtual.api.get(WEB)["spec"]["nodeName"]
        host = victim.names.host_key(Key("default", "web"))
        tails = [
            "pods",
            "runningpods/",
            "logs/",
            "configz",
            "metrics/../pods",
            f"containerLogs/{host}/main",
            f"exec/{host}/main?command=ls&output=1",
        ]
        tails += [f"run/{host}/main?cmd=ls", f"attach/{host}/main?output=1", f"portForward/{host}", "debug/pprof/", "checkpoint/a/b/c"]
        for tail, port in itertools.product(tails, ("", ":10250", ":10255", "https:{}:10250")):
            name = port.format(node) if "{" in port else node + port
            status, text = front.ask("GET", f"/api/v1/nodes/{name}/proxy/{tail}")
            assert status >= 400 or "victim" not in text
            assert status >= 400 or tail in ("pods", "runningpods/")
        for tail in tails:
            headers = {"Host": f"{host_name(node)}:10250"}
            for method in ("GET", "POST"):
                status, text = front.ask(method, f"/{tail}", headers | (SPDY if "exec" in tail else {}))
                assert status >= 400 or "victim" not in text
                assert front.ask(method, f"/{tail}", headers, user="mallory").status in (301, 403)

    def test_services_by_their_host_names(self, front: Front, victim: Front) -> None:
        host = victim.names.host_key(Key("default", "web"))
        assert front.virtual.host.api.find(SERVICES.path(host.namespace, host.name)) is not None
        for namespace, name in itertools.product(
            ("default", host.namespace), (host.name, f"http:{host.name}:80", "kubernetes.default.svc")
        ):
            assert front.ask("GET", f"{SERVICES.path(namespace, name)}/proxy/").status in (400, 404, 500, 503)


class TestTheHost:
    def test_its_namespace_is_an_ordinary_name(self, front: Front) -> None:
        for kind in ("pods", "secrets", "services", "configmaps"):
            status, text = front.ask("GET", f"/api/v1/namespaces/{SHARED}/{kind}")
            assert (status, json.loads(text)["items"]) == (200, [])
        assert front.ask("GET", SECRETS.path(SHARED, "vc-attacker")).status == 404
        assert front.ask("GET", f"/api/v1/namespaces/{SHARED}").status == 404

    def test_no_request_names_another_server(self, front: Front) -> None:
        host = front.virtual.host.server
        address = host.removeprefix("https://")
        path = f"/api/v1/namespaces/{SHARED}/pods"
        for target in (f"{host}{path}", f"http://{address}{path}", f"//{address}{path}", f"https:{path}", f"@{address}{path}"):
            status, _ = front.raw(f"GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            assert status in (301, 400, 404), target
        assert front.raw(f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").status == 400

    @pytest.mark.parametrize(
        "name", ["{0}", "kubernetes.default.svc", "[::1]:10250", "admin@{0}", "{0}/../..", "a.nodes.vcluster.com.evil"]
    )
    def test_what_it_is_called_by_changes_nothing(self, front: Front, name: str) -> None:
        host = name.format(front.virtual.host.server.removeprefix("https://"))
        status, text = front.raw(f"GET /api/v1/namespaces/{SHARED}/pods HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert status == 400 or (status, json.loads(text)["items"]) == (200, [])


SWEEP = [
    ("GET", "/api/v1/namespaces/default/pods/web/log"),
    ("GET", "/api/v1/namespaces/default/pods/web/log?follow=true&tailLines=x"),
    ("GET", "/api/v1/namespaces/default/pods/web/log?container=none"),
    ("POST", "/api/v1/namespaces/default/pods/web/exec?command=ls"),
    ("GET", "/api/v1/namespaces/default/pods/web/exec?command=ls"),
    ("POST", "/api/v1/namespaces/default/pods/web/attach"),
    ("POST", "/api/v1/namespaces/default/pods/web/portforward?ports=80"),
    ("POST", "/api/v1/namespaces/default/pods/none/exec?command=ls"),
    ("GET", "/api/v1/namespaces/default/pods/web/proxy/"),
    ("GET", "/api/v1/namespaces/default/pods/web:99999/proxy/"),
    ("GET", "/api/v1/namespaces/default/services/kubernetes/proxy/"),
    ("GET", "/api/v1/namespaces/default/services/https:kubernetes:https/proxy/version"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/nodes/{node}"),
    ("GET", "/api/v1/nodes/{node}/proxy/pods"),
    ("GET", "/api/v1/nodes/{node}/proxy/metrics"),
    ("GET", "/api/v1/nodes/{node}/proxy/metrics/cadvisor"),
    ("GET", "/api/v1/nodes/{node}/proxy/stats/summary"),
    ("GET", "/api/v1/nodes/{node}/proxy/containerLogs/default/web/main"),
    ("GET", "/api/v1/nodes/{node}/proxy/healthz"),
    ("GET", "/api/v1/nodes/none/proxy/metrics"),
    ("GET", "/api/v1/namespaces/default/pods"),
    ("GET", "/api/v1/namespaces/default/events"),
    ("GET", "/api/v1/namespaces/default/endpoints"),
    ("GET", "/apis/metrics.k8s.io/v1beta1/pods"),
    ("GET", "/apis/metrics.k8s.io/v1beta1/nodes"),
    ("GET", "/apis/nonsense/v1/things"),
    ("GET", "/version"),
    ("GET", "/healthz?verbose"),
    ("GET", "/readyz?verbose"),
    ("GET", "/metrics"),
    ("GET", "/mutate"),
    ("GET", "/debug/pprof/"),
    ("POST", "/api/v1/namespaces/default/pods"),
    ("DELETE", "/api/v1/namespaces/default/pods/none"),
    ("OPTIONS", "/api"),
    ("TRACE", "/api"),
]


def sweep(front: Front) -> list[int]:
    node = front.virtual.api.get(WEB)["spec"]["nodeName"]
    found = []
    for method, path in SWEEP:
        for headers in ({}, SPDY):
            found.append(front.ask(method, path.format(node=node), headers).status)
            found.append(front.ask(method, path.format(node=node), headers, user="mallory").status)
    return found


class TestWords:
    """What is told there is searched for names of the host when `front` ends."""

    def test_of_failures(self, front: Front) -> None:
        assert {200, 403, 404} <= set(sweep(front))

    def test_of_failures_while_the_host_grants_nothing(self, front: Front) -> None:
        host, binding = front.virtual.host.api, f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SHARED}/rolebindings"
        kept = [item for item in host.get(binding)["items"] if item["metadata"]["name"] == "syncer-attacker"]
        assert kept
        host.delete(f"{binding}/syncer-attacker")
        try:
            wait_until(lambda: front.ask("GET", f"{WEB}/log").status == 503, "the right is gone")
            sweep(front)
        finally:
            host.apply(
                {
                    **kept[0],
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": "syncer-attacker", "namespace": SHARED},
                }
            )
            wait_until(lambda: front.ask("GET", f"{WEB}/log").status in (500, 502), "the right is back")

    def test_of_failures_while_the_host_is_away(self, front: Front) -> None:
        front.virtual.host.stop_apiserver()
        try:
            assert {502, 503} & set(sweep(front))
        finally:
            front.virtual.host.start()

    def test_of_failures_while_the_virtual_api_server_is_away(self, front: Front) -> None:
        front.virtual.stop_apiserver()
        try:
            for method, path in SWEEP:
                assert front.ask(method, path.format(node="node")).status in (400, 502, 503)
        finally:
            front.virtual.start()


class TestLoad:
    def test_five_thousand_idle_connections(self, front: Front) -> None:
        """Without a word, which are given up soonest."""
        self._idle(front, 5000, lambda: socket.create_connection(("127.0.0.1", front.daemon.proxy_port), timeout=60))

    @pytest.mark.long
    @pytest.mark.timeout(600)
    def test_five_thousand_idle_connections_of_clients(self, front: Front) -> None:
        context = front.context("")

        def connect() -> socket.socket:
            plain = socket.create_connection(("127.0.0.1", front.daemon.proxy_port), timeout=60)
            return context.wrap_socket(plain, server_hostname="localhost")

        self._idle(front, 5000, connect)

    def _idle(self, front: Front, count: int, connect: Callable[[], socket.socket]) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 1000)), hard))
        before = front.memory()
        with ExitStack() as held:
            for number in range(count):
                held.enter_context(connect())
                if number % 500 == 499:
                    assert front.ask("GET", "/version").status == 200
            grown = front.memory() - before
            print(f"{count} idle connections: {before >> 20} MiB and {grown >> 20} MiB")
            assert front.whoami(user="mallory") == (201, "mallory")
        assert grown < 4 * MEMORY, "a quarter of a MiB each for the thousand that may be held at once"

    def test_a_body_of_a_gibibyte(self, front: Front) -> None:
        before = front.memory()
        head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        chunk = b" " * (1 << 20)
        for user, length in (("admin", "Content-Length: 1073741824"), ("", "Content-Length: 1073741824")):
            sent, received = 0, b""
            with front.connect(user) as connection:
                connection.sendall(f"{head}{length}\r\n\r\n".encode())
                with suppress(ConnectionError, ssl.SSLError):
                    while sent < 1 << 30:
                        connection.sendall(chunk)
                        sent += len(chunk)
                with suppress(ConnectionError, ssl.SSLError):
                    received = connection.recv(65536)
            print(f"of a GiB {sent >> 20} MiB were taken; answered {received[:40]!r}; {(front.memory() - before) >> 20} MiB more")
            assert sent < 256 << 20
            assert not received or int(received.split(b" ")[1]) in (403, 413)
        assert front.memory() - before < MEMORY
        assert front.ask("GET", "/version").status == 200

"""kubectl and other clients cannot tell the front door from the virtual API server behind it: the same requests at both."""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from e2e.front import Command, Ways
from e2e.frontcommands import ALL
from e2e.lab.api import wait_until
from syncer.kube.types import CONFIGMAPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from e2e.front import Way
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

LATER = ("running", "new types")
"""Groups that are left to `make test-long`."""
WIRE = "/api/v1/namespaces/wire/configmaps"
JSON = {"Content-Type": "application/json"}
PROTOBUF = "application/vnd.kubernetes.protobuf"
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
AGE = re.compile(rb'"(\d+[dhms])+"')
METADATA = "application/{};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@pytest.fixture(scope="module")
def ways(tenant: StartTenant) -> Ways:
    daemon = tenant("mirror")
    return Ways(daemon.virtual, daemon.proxy_port)


@pytest.mark.parametrize("group", [pytest.param(name, marks=pytest.mark.long) if name in LATER else name for name in ALL])
def test_kubectl_prints_the_same(ways: Ways, group: str) -> None:
    found = ways.differences(ALL[group])
    assert not found, "\n\n".join(found)


@pytest.fixture(scope="module")
def wire(ways: Ways) -> Ways:
    """With a namespace of ConfigMaps that nobody changes."""
    api = ways.virtual.api
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "wire"}})
    wait_until(lambda: api.find(f"{WIRE}/kube-root-ca.crt") is not None, "the namespace has what is put into each")
    for number in range(6):
        metadata = {"name": f"large-{number}", "namespace": "wire", "labels": {"kind": "large"}}
        api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": f"line {number}\n" * 8000}})
    return ways


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Sequence[bytes] | None = None
    user: str = "admin"
    code: int = 200

    def __str__(self) -> str:
        return f"{self.method} {self.path} {' '.join(self.headers.values())} {self.user}".strip()[:100]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


OWN_HEADERS = {"date", "audit-id"}
FRAMING = {"connection", "transfer-encoding", "content-length"}
"""What is about one connection: how the end of a body is told, and that an API server closes its own after one that is too large."""


def ask(way: Way, request: Request) -> Answer:
    connection = way.connection(request.user)
    try:
        connection.request(request.method, request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        given = {name.lower(): value for name, value in answer.getheaders()}
        headers = {name: "" if name in OWN_HEADERS else value for name, value in given.items() if name not in FRAMING}
        return Answer(answer.status, headers, AGE.sub(b'"<age>"', answer.read()))
    finally:
        connection.close()


def same(wire: Ways, request: Request) -> Answer:
    """What both answer. They get several chances, because the resourceVersion of a list moves with whatever is written meanwhile."""
    front, plain = ask_both(wire, request)
    for _ in range(4):
        if front != plain:
            front, plain = ask_both(wire, request)
    assert front == plain
    return front


def ask_both(wire: Ways, request: Request) -> list[Answer]:
    with ThreadPoolExecutor(2) as both:
        return list(both.map(lambda way: ask(way, request), (wire.front, wire.plain)))


def config_map(name: str) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).encode()


PATHS = (
    *("/", "/api", "/apis", "/api/v1", "/apis/apps/v1", "/version", "/healthz", "/livez?verbose", "/readyz?verbose", "/readyz/ping"),
    *("/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1", "/.well-known/openid-configuration", "/openid/v1/jwks"),
)
READING = [
    *(Request("GET", path) for path in PATHS),
    *(Request("GET", WIRE, {"Accept": form}) for form in (PROTOBUF, TABLE, METADATA.format("json"), "application/yaml", "*/*")),
    Request("GET", WIRE, {"Accept": METADATA.format("vnd.kubernetes.protobuf")}),
    Request("GET", WIRE, {"Accept": f"{TABLE},application/json"}),
    *(Request("GET", path, {"Accept": DISCOVERY}) for path in ("/api", "/apis")),
    Request("GET", "/openapi/v2", {"Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}),
    Request("GET", "/openapi/v3/api/v1", {"Accept": "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"}),
    Request("GET", f"{WIRE}?limit=2"),
    Request("GET", f"{WIRE}?labelSelector=kind%3Dlarge%2C%20kind&fieldSelector=metadata.name%21%3Dlarge-0"),
    Request("GET", f"{WIRE}?limit=few", code=400),
    Request("GET", f"{WIRE}?continue=wrong", code=400),
    Request("GET", f"{WIRE}?labelSelector=%3D", code=400),
    Request("GET", WIRE, {"Accept": "text/plain"}, code=406),
    Request("GET", WIRE, {"Accept": "application/cbor"}, code=406),
    Request("HEAD", WIRE, code=405),
    Request("HEAD", "/healthz"),
    Request("OPTIONS", WIRE, code=405),
    Request("TRACE", "/api", code=405),
    Request("POST", "/healthz", body=b""),
    Request("PUT", WIRE, JSON, b"{}", code=405),
    Request("POST", WIRE, {"Content-Type": "text/plain"}, b"hello", code=415),
    Request("POST", WIRE, JSON, b"{", code=400),
    Request("POST", WIRE, {"Content-Type": PROTOBUF}, b"k8s\0wrong", code=400),
    *(Request("GET", path) for path in ("/api/v1/", f"{WIRE}/", "/api/v1/namespaces/%77ire/configmaps", "/apis/", "/api/v1?timeout=5s")),
    *(
        Request("GET", path, code=404)
        for path in ("/api/v1/namespaces/wire/nothing", "/nothing%20here", "/api/v2", "/api/v1/proxy/nodes/n")
    ),
    *(Request("GET", f"/api/v1{path}", code=404) for path in ("/namespaces/wire/configmaps/a%2Fb", "/nodes/none/status")),
    Request("GET", "/api/v1/namespaces/default/services/https:kubernetes:https/proxy/version", code=503),
    Request("GET", "/api/v1/namespaces/default/services/none/proxy/", code=404),
    Request("GET", "/healthz", user="anonymous"),
    Request("GET", WIRE, user="anonymous", code=403),
    Request("GET", WIRE, user="jane", code=403),
    Request("GET", WIRE, {"Authorization": "Bearer wrong"}, user="anonymous", code=401),
    Request("GET", WIRE, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="}, user="anonymous", code=403),
    Request("GET", WIRE, {"Authorization": "Bearer wrong"}),
    Request("GET", WIRE, {"Impersonate-User": "jane"}, code=403),
    Request("GET", WIRE, {"Impersonate-User": "admin"}, user="jane", code=403),
    Request("GET", WIRE, {"Connection": "close"}),
    *(Request("GET", f"{WIRE}?watch=1&timeoutSeconds=1&resourceVersion=0", {"Accept": form}) for form in ("*/*", PROTOBUF, TABLE)),
    Request("GET", f"{WIRE}?watch=1&resourceVersion=few", code=500),
    Request("GET", "/api/v1/watch/namespaces/wire?timeoutSeconds=1"),
]
DRY = f"{WIRE}?dryRun=All"
WRITING = [
    Request("POST", DRY, JSON, config_map("dry"), code=201),
    Request("POST", DRY, {"Content-Type": "application/yaml"}, config_map("dry"), code=201),
    Request("POST", DRY, JSON, (config_map("dry")[:10], config_map("dry")[10:]), code=201),
    Request("POST", DRY, {**JSON, "Expect": "100-continue"}, config_map("dry"), code=201),
    Request("POST", f"{DRY}&fieldValidation=Strict", JSON, config_map("dry").replace(b'"kind"', b'"odd": 1, "kind"'), code=400),
    Request("POST", f"{DRY}&fieldValidation=Warn", JSON, config_map("dry").replace(b'"kind"', b'"odd": 1, "kind"'), code=201),
    Request("POST", DRY, JSON, config_map("large-1"), code=409),
    Request("POST", DRY, JSON, config_map("Wrong"), code=422),
    Request("POST", DRY, JSON, config_map("dry" + "y" * 4 * 2**20), code=413),
    Request("PATCH", f"{WIRE}/large-1?dryRun=All", {"Content-Type": "application/merge-patch+json"}, b'{"data":{"a":"b"}}'),
    Request("PATCH", f"{WIRE}/large-1?dryRun=All", {"Content-Type": "application/json"}, b"{}", code=415),
    Request("PATCH", f"{DRY}", {"Content-Type": "application/merge-patch+json"}, b"{}", code=405),
    Request("DELETE", f"{WIRE}/large-1?dryRun=All", JSON, b'{"preconditions":{"uid":"other"}}', code=409),
    Request("DELETE", f"{DRY}&labelSelector=kind%3Dlarge"),
    Request("DELETE", f"{WIRE}/none", code=404),
]


class TestWire:
    @pytest.mark.parametrize("request_", READING, ids=str)
    def test_answers_are_the_same_byte_by_byte(self, wire: Ways, request_: Request) -> None:
        assert same(wire, request_).status == request_.code

    @pytest.mark.parametrize("request_", WRITING, ids=str)
    def test_and_of_what_is_written_but_for_times_and_names(self, wire: Ways, request_: Request) -> None:
        front, plain = ask_both(wire, request_)
        texts = [way.without_own(answer.body.decode()) for way, answer in ((wire.front, front), (wire.plain, plain))]
        assert texts[0] == texts[1]
        assert front.status == plain.status == request_.code
        assert front.headers == plain.headers

    def test_large_lists_are_compressed(self, wire: Ways) -> None:
        answer = same(wire, Request("GET", WIRE, {"Accept-Encoding": "gzip"}))
        assert answer.headers["content-encoding"] == "gzip"
        listed = json.loads(gzip.decompress(answer.body))["items"]
        assert sum(len(item["data"].get("text", "")) for item in listed) == 6 * 8000 * len("line 0\n")

    def test_what_has_not_changed_is_not_sent_again(self, wire: Ways) -> None:
        tag = ask(wire.front, Request("GET", "/openapi/v3/apis/apps/v1")).headers["etag"]
        for way in (wire.front, wire.plain):
            again = ask(way, Request("GET", "/openapi/v3/apis/apps/v1", {"If-None-Match": tag}))
            assert (again.status, again.body) == (304, b"")

    def test_metrics(self, wire: Ways) -> None:
        front, plain = ask(wire.front, Request("GET", "/metrics")), ask(wire.plain, Request("GET", "/metrics"))
        assert front.headers == plain.headers
        families = [set(re.findall(rb"^# TYPE .*$", answer.body, re.MULTILINE)) for answer in (front, plain)]
        assert len(families[0]) > 100
        assert families[0] <= families[1], "those that were asked for later may be more"

    def test_a_watch_over_a_websocket(self, wire: Ways) -> None:
        query = "watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Dlarge-1"
        handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdHRlc3R0ZXN0dGVzdA=="
        head = f"GET {WIRE}?{query} HTTP/1.1\r\nHost: localhost\r\nOrigin: https://localhost\r\n{handshake}\r\n\r\n"
        front, plain = (exchange(way, head.encode()) for way in (wire.front, wire.plain))
        assert front == plain
        assert front.startswith(b"HTTP/1.1 101 ")
        assert b'"type":"ADDED"' in front

    def test_http_of_old(self, wire: Ways) -> None:
        for way in (wire.front, wire.plain):
            assert exchange(way, b"GET /version HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")


def exchange(way: Way, data: bytes) -> bytes:
    """All that comes back over a connection until the server closes it, but for the date."""
    connection = way.connection("admin")
    connection.connect()
    received = b""
    assert isinstance(connection.sock, socket.socket)
    connection.sock.sendall(data)
    while chunk := connection.sock.recv(65536):
        received += chunk
    connection.close()
    return re.sub(rb"(?mi)^(date|audit-id): .*\r\n", b"", received)


@contextmanager
def going(way: Way, words: str) -> Iterator[subprocess.Popen[str]]:
    """kubectl while it runs; then it is killed."""
    with subprocess.Popen(way.argv(Command(words)), env=way.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


FORMS = ("", "-o yaml", """-o 'jsonpath={.type}:{.object.data.colour}{"\\n"}'""")


@pytest.mark.parametrize("form", FORMS)
def test_kubectl_watches(wire: Ways, form: str) -> None:
    words = f"get configmap --namespace=wire --watch --output-watch-events --field-selector=metadata.name=watched {form}"
    seen = []
    for way in (wire.front, wire.plain):
        paint(wire, "red")
        with going(way, words) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            for colour in ("green", "blue"):
                paint(wire, colour)
            wire.virtual.api.delete(CONFIGMAPS.path("wire", "watched"))
            while "DELETED" not in lines[-1]:
                assert lines[-1], lines
                lines.append(process.stdout.readline())
            seen.append(way.without_own("".join(lines)))
    assert seen[0] == seen[1]


def paint(wire: Ways, colour: str, name: str = "watched") -> None:
    metadata = {"name": name, "namespace": "wire"}
    wire.virtual.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"colour": colour}})


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kubectl_watches_for_ten_minutes(wire: Ways) -> None:
    """Once with something to see every ten seconds, and once with nothing but the beginning and the end."""
    form = """-o 'jsonpath={.data.colour}{"\\n"}'"""
    words = f"get configmap --namespace=wire --watch {form} --field-selector=metadata.name="
    paint(wire, "first")
    paint(wire, "first", "quiet")
    with going(wire.front, f"{words}watched") as busy, going(wire.front, f"{words}quiet") as quiet:
        assert busy.stdout is not None
        assert quiet.stdout is not None
        assert (busy.stdout.readline(), quiet.stdout.readline()) == ("first\n", "first\n")
        for number in range(60):
            time.sleep(10)
            paint(wire, f"colour-{number}")
            assert busy.stdout.readline() == f"colour-{number}\n"
        paint(wire, "last", "quiet")
        assert quiet.stdout.readline() == "last\n"


def test_kubectl_as_a_proxy(ways: Ways) -> None:
    with going(ways.front, "proxy --port=0") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        for path in ("/api/v1/namespaces/default", "/apis", "/healthz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                assert answer.read() == ask(ways.plain, Request("GET", path)).body

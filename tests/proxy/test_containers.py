from __future__ import annotations

import asyncio
import copy
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from syncer.errors import ApiError
from syncer.kube import codec
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import PODS, Key, Side
from syncer.naming import ANNOTATION_UID, LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.proxy.callers import caller_of
from syncer.proxy.containers import Containers, choose_container, host_headers, in_virtual_terms, is_same_container, read_options
from syncer.proxy.gate import Gate
from syncer.proxy.relay import Relay
from syncer.proxy.requests import parse
from syncer.proxy.server import VirtualServers
from syncer.translate.metadata import host_metadata
from tests.patience import until
from tests.proxy.front import CLIENT_CA, Front, Upstream, front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from multidict import CIMultiDictProxy

    from syncer.kube.types import Obj

NAMES = Names("blue", "team-17")
KEY = Key("default", "web")
HOST_NAME = "web-x-default-x-blue"
HOST_PATH = f"/api/v1/namespaces/team-17/pods/{HOST_NAME}"
WEB = "/api/v1/namespaces/default/pods/web"
POD: Obj = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default", "uid": "virtual-uid"},
    "spec": {"nodeName": "n1", "containers": [{"name": "main"}]},
    "status": {"hostIP": "10.96.0.77"},
}
DEBUG = {"name": "debug"}
EVERYTHING = "Upgrade request required"


def host_pod(pod: Obj = POD, *, manager: str = "syncer", **spec: Any) -> Obj:
    """What stands for `pod` on the host, where somebody put a sidecar into it."""
    ephemeral = spec.get("ephemeralContainers", ())
    owned: Obj = {f'k:{{"name":"{container["name"]}"}}': {} for container in ephemeral}
    managed = {"manager": manager, "fieldsV1": {"f:spec": {"f:ephemeralContainers": owned}}}
    metadata = {**host_metadata(NAMES, None, PODS, pod), "uid": "host-uid", "managedFields": [managed]}
    containers = [*pod["spec"]["containers"], {"name": "mesh"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**pod["spec"], "containers": containers, **spec},
        "status": {"hostIP": "10.1.2.3"},
    }


def failure(code: int, message: str, reason: str = "", **headers: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}
    return web.json_response(body, status=code, headers=headers)


@dataclass
class Virtual:
    """A virtual API server. `verdict` is what it makes of a request to connect, `allowed` of one for logs."""

    pods: dict[str, Obj] = field(default_factory=lambda: {"web": copy.deepcopy(POD)})
    verdict: tuple[int, str] = (400, EVERYTHING)
    allowed: bool = True
    reviews: list[Obj] = field(default_factory=list)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.endswith("/selfsubjectaccessreviews"):
            self.reviews.append(codec.loads(await request.read())["spec"]["resourceAttributes"])
            return web.json_response({"status": {"allowed": self.allowed}}, status=201)
        if path.endswith("/selfsubjectreviews"):
            return web.json_response({"status": {"userInfo": {"username": "jane"}}}, status=201)
        info = parse("GET", path)
        if info.subresource:
            code, message = self.verdict
            return failure(code, message)
        if info.namespace != "default" or info.name not in self.pods:
            return failure(404, f'pods "{info.name}" not found', "NotFound")
        return web.json_response(self.pods[info.name])


@dataclass
class Host:
    """A host API server that echoes what is sent through its WebSockets."""

    pod: Obj | None = field(default_factory=host_pod)
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None
    protocols: list[str] = field(default_factory=list)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == HOST_PATH:
            return failure(404, f'pods "{HOST_NAME}" not found', "NotFound") if self.pod is None else web.json_response(self.pod)
        if self.answer is not None:
            return await self.answer(request)
        if request.headers.get("Upgrade") == "SPDY/3.1":
            return failure(400, "no SPDY here", "BadRequest")
        if "Upgrade" not in request.headers:
            return web.Response(text="one\ntwo\n", content_type="text/plain", headers={"X-Kubernetes-Pf-Flowschema-Uid": "host"})
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket


@dataclass
class Bench:
    """A front door that answers for containers, between two API servers that remember what reached them."""

    door: Front
    virtual: Virtual
    host: Host
    vouched: Upstream
    bare: Upstream
    admin: Upstream
    upstream: Upstream
    relay: Relay

    @property
    def on_host(self) -> list[tuple[str, str, CIMultiDictProxy[str]]]:
        """What the host was asked but for the pod itself."""
        return [seen for seen in self.upstream.seen if seen[1] != HOST_PATH]

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status, and message of a Status or the text."""
        async with self.door.client() as client, client.request(options.pop("method", "GET"), path, **options) as answer:
            text = await answer.text()
            return answer.status, codec.loads(text)["message"] if answer.content_type == "application/json" else text


@asynccontextmanager
async def bench(virtual: Virtual | None = None, host: Host | None = None) -> AsyncIterator[Bench]:
    virtual, host = virtual or Virtual(), host or Host()
    async with (
        Upstream(virtual) as vouched,
        Upstream(virtual) as bare,
        Upstream(virtual) as admin,
        Upstream(host) as upstream,
        Relay() as relay,
        Client(admin.cluster, Side.VIRTUAL) as virtual_client,
        Client(Cluster(upstream.cluster.server, token="of-the-syncer"), Side.HOST) as host_client,
    ):
        servers = VirtualServers(vouched.cluster, bare.cluster)
        route = Containers(gate=Gate(relay, servers), relay=relay, servers=servers, names=NAMES, virtual=virtual_client, host=host_client)
        async with front(vouched, bare, [route]) as door:
            yield Bench(door, virtual, host, vouched, bare, admin, upstream, relay)


def bearer(token: str) -> str:
    return "base64url.bearer.authorization.k8s.io." + urlsafe_b64encode(token.encode()).decode().rstrip("=")


SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}


class TestConnecting:
    async def test_a_tunnel_to_the_host(self) -> None:
        async with bench() as it, it.door.client() as client:
            async with client.ws_connect(
                f"{WEB}/exec?command=sh&command=-c&stdin=1&container=main&unknown=x&pretty=1",
                protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"),
                headers={"Authorization": "Bearer of-jane", "Cookie": "a=b", "X-Custom": "1", "Origin": "https://console"},
            ) as socket:
                assert socket.protocol == "v5.channel.k8s.io"
                await socket.send_bytes(b"\0hello")
                assert (await socket.receive()).data == b"\0hello"
            ((method, path, headers),) = it.on_host
            assert (method, path) == ("GET", f"{HOST_PATH}/exec?stdin=1&container=main&command=sh&command=-c")
            assert headers["Authorization"] == "Bearer of-the-syncer"
            assert headers["Sec-WebSocket-Protocol"] == "v5.channel.k8s.io, v4.channel.k8s.io"
            assert {name.lower() for name in headers} == {
                *("host", "connection", "upgrade", "accept", "accept-encoding", "authorization", "user-agent"),
                *("sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"),
            }
            await until(lambda: not it.relay.tunnels and it.upstream.open == 0)

    async def test_the_virtual_api_server_is_asked_first_as_the_caller(self) -> None:
        async with bench() as it, it.door.client() as client:
            headers = {"Authorization": "Bearer of-jane", "Impersonate-User": "joe", "X-Remote-User": "root"}
            async with client.ws_connect(f"{WEB}/exec?command=sh&unknown=x", headers=headers):
                pass
            ((method, path, seen),) = it.bare.seen
            assert (method, path) == ("GET", f"{WEB}/exec?command=sh")
            assert (seen["Authorization"], seen["Impersonate-User"]) == ("Bearer of-jane", "joe")
            assert not {"Upgrade", "X-Remote-User", "Sec-WebSocket-Key"} & set(seen)
            assert it.vouched.seen == []

    async def test_a_certificate_is_vouched_for(self) -> None:
        async with bench() as it, it.door.client(CLIENT_CA.issue("jane", ["devs"])) as client:
            async with client.ws_connect(f"{WEB}/attach", headers={"X-Remote-User": "root", "Authorization": "Bearer x"}):
                pass
            ((_, _, seen),) = it.vouched.seen
            assert (seen.getall("X-Remote-User"), seen.getall("X-Remote-Group")) == (["jane"], ["devs"])
            assert it.bare.seen == []
            assert not [name for name in it.on_host[0][2] if name.lower().startswith("x-remote")]

    async def test_a_token_among_subprotocols_stays_here(self) -> None:
        async with bench() as it, it.door.client() as client:
            async with client.ws_connect(f"{WEB}/exec", protocols=(bearer("of-jane"), "v5.channel.k8s.io")):
                pass
            assert it.bare.seen[0][2]["Authorization"] == "Bearer of-jane"
            assert it.on_host[0][2]["Sec-WebSocket-Protocol"] == "v5.channel.k8s.io"
            assert urlsafe_b64encode(b"of-jane").decode().rstrip("=") not in str(it.upstream.seen)

    @pytest.mark.parametrize(
        "protocols",
        [[bearer("jane")], [bearer("jane"), bearer("joe"), "v5.channel.k8s.io"], [bearer("jane") + "!!!!é", "v5.channel.k8s.io"]],
        ids=["alone", "two", "garbled"],
    )
    async def test_unusable_tokens_among_subprotocols(self, protocols: list[str]) -> None:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Protocol": ", ".join(protocols)}
        async with bench() as it:
            assert await it.get(f"{WEB}/exec", headers=headers) == (401, "Unauthorized")
            assert it.bare.seen == it.upstream.seen == []

    @pytest.mark.parametrize(
        "verdict",
        [
            (403, 'pods "web" is forbidden: User "jane" cannot create'),
            (401, "Unauthorized"),
            (404, 'pods "web" not found'),
            (400, "no host"),
        ],
        ids=str,
    )
    async def test_what_the_virtual_api_server_refuses(self, verdict: tuple[int, str]) -> None:
        async with bench(Virtual(verdict=verdict)) as it:
            assert await it.get(f"{WEB}/exec", headers=SPDY, method="POST") == verdict
            assert [seen[:2] for seen in it.bare.seen] == [("POST", f"{WEB}/exec")]
            assert it.upstream.seen == it.admin.seen == [], "nobody learns what exists"

    async def test_an_api_server_that_connects_by_itself(self) -> None:
        async with bench(Virtual(verdict=(200, ""))) as it:
            status, message = await it.get(f"{WEB}/exec", headers=SPDY, method="POST")
            assert (status, message) == (500, "the virtual API server did not say whether it would connect")
            assert it.upstream.seen == []

    @pytest.mark.parametrize("subresource", ["exec", "attach", "portforward"])
    async def test_without_an_upgrade(self, subresource: str) -> None:
        async with bench() as it:
            for method in ("GET", "POST"):
                assert await it.get(f"{WEB}/{subresource}", method=method) == (400, EVERYTHING)
            assert it.upstream.seen == []

    @pytest.mark.parametrize("protocol", ["websocket, SPDY/3.1", "TLS/1.0"])
    async def test_other_protocols(self, protocol: str) -> None:
        async with bench() as it:
            assert await it.get(f"{WEB}/exec", headers={**SPDY, "Upgrade": protocol}, method="POST") == (400, EVERYTHING)
            assert await it.get(f"{WEB}/log", headers={**SPDY, "Upgrade": protocol}) == (400, EVERYTHING)
            assert await it.get(f"{WEB}/log", headers=SPDY) == (400, EVERYTHING)
            assert it.bare.seen == it.upstream.seen == []

    async def test_a_body_beside_an_upgrade(self) -> None:
        async with bench() as it:
            smuggled = b"GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n"
            assert await it.get(f"{WEB}/exec", headers=SPDY, method="POST", data=smuggled) == (400, "pods/exec takes no body")
            assert it.bare.seen == it.upstream.seen == []

    async def test_all_offered_protocols_of_spdy_pass(self) -> None:
        async with bench() as it:
            reader, writer = await it.door.connect()
            versions = "".join(f"X-Stream-Protocol-Version: v{number}.channel.k8s.io\r\n" for number in (5, 4, 3))
            head = f"POST {WEB}/exec?command=sh HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{versions}"
            writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
            await reader.readline()
            ((method, _, headers),) = it.on_host
            assert (method, headers["Upgrade"]) == ("POST", "SPDY/3.1")
            assert headers.getall("X-Stream-Protocol-Version") == [f"v{number}.channel.k8s.io" for number in (5, 4, 3)]
            writer.transport.abort()

    async def test_a_client_that_goes_frees_the_host(self) -> None:
        async with bench() as it, it.door.client() as client:
            socket = await client.ws_connect(f"{WEB}/portforward?ports=80")
            await until(lambda: it.upstream.open == 1)
            assert it.on_host[0][1] == f"{HOST_PATH}/portforward?ports=80"
            connection = socket.get_extra_info("ssl_object")
            assert connection is not None
            await client.close()
            await until(lambda: it.upstream.open == 0 and not it.relay.tunnels)


class TestPods:
    @pytest.mark.parametrize(
        "change",
        [
            {"labels": {}, "annotations": {}},
            {"annotations": {ANNOTATION_UID: "of-an-earlier-pod"}},
            {"labels": {LABEL_MANAGED_BY: "green"}},
            {"labels": {LABEL_NAMESPACE: "other"}},
            None,
        ],
        ids=["unmarked", "earlier", "another virtual cluster's", "another namespace's", "none"],
    )
    async def test_another_host_pod_of_the_name(self, change: Obj | None) -> None:
        found = host_pod() if change is not None else None
        for part, values in (change or {}).items():
            assert found is not None
            found["metadata"][part] = {**found["metadata"][part], **values} if values else {}
        async with bench(host=Host(found)) as it:
            for subresource, method in (("exec", "POST"), ("attach", "POST"), ("portforward", "POST"), ("log", "GET")):
                status, message = await it.get(f"{WEB}/{subresource}", headers=SPDY if method == "POST" else {}, method=method)
                assert (status, message) == (400, "pod web does not have a host assigned")
            assert it.on_host == []

    async def test_a_pod_without_uid_has_none_either(self) -> None:
        nameless = copy.deepcopy(POD)
        nameless["metadata"].pop("uid")
        async with bench(Virtual({"web": nameless}), Host(host_pod(nameless))) as it:
            assert (await it.get(f"{WEB}/log"))[0] == 400

    async def test_no_such_pod(self) -> None:
        async with bench(Virtual({})) as it:
            assert await it.get(f"{WEB}/log") == (404, 'pods "web" not found')
            assert it.upstream.seen == []

    @pytest.mark.parametrize("subresource", ["exec", "attach"])
    async def test_a_sidecar_of_the_host(self, subresource: str) -> None:
        async with bench() as it:
            for name in ("mesh", "Main", "main ", ""):
                status, message = await it.get(f"{WEB}/{subresource}?container={name}", headers=SPDY, method="POST")
                assert (status, message) == (400, f"container {name} is not valid for pod web") if name else (400, "no SPDY here")
            assert await it.get(f"{WEB}/log?container=mesh") == (400, "container mesh is not valid for pod web")
            assert [path for _, path, _ in it.on_host] == [f"{HOST_PATH}/{subresource}?container=main"]

    @pytest.mark.parametrize(
        ("name", "host", "reached"),
        [
            ("debug", host_pod(ephemeralContainers=[DEBUG]), True),
            ("debug", host_pod(ephemeralContainers=[DEBUG], manager="kubectl-debug"), False),
            ("debug", host_pod(), False),
            ("mesh", host_pod(), False),
        ],
        ids=["ours", "an operator's", "not there yet", "a sidecar's name"],
    )
    async def test_ephemeral_containers(self, name: str, host: Obj, reached: bool) -> None:
        pod = copy.deepcopy(POD)
        pod["spec"]["ephemeralContainers"] = [{"name": name}]
        async with bench(Virtual({"web": pod}), Host(host)) as it:
            status, text = await it.get(f"{WEB}/log?container={name}")
            expected = (200, "one\ntwo\n") if reached else (400, f"container {name} is not valid for pod web")
            assert (status, text) == expected
            assert len(it.on_host) == reached


class TestLogs:
    async def test_are_the_hosts(self) -> None:
        async with bench() as it, it.door.client() as client:
            query = "?tailLines=5&tailLines=9&previous=true&sinceTime=2026-01-01T00%3A00%3A00Z&unknown=1"
            async with client.get(f"{WEB}/log{query}", headers={"Authorization": "Bearer of-jane", "Accept-Encoding": "gzip"}) as answer:
                assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", "one\ntwo\n")
                assert "X-Kubernetes-Pf-Flowschema-Uid" not in answer.headers
            ((_, path, headers),) = it.on_host
            assert path == f"{HOST_PATH}/log?previous=true&sinceTime=2026-01-01T00%3A00%3A00Z&tailLines=5&container=main"
            assert (headers["Authorization"], headers["Accept-Encoding"]) == ("Bearer of-the-syncer", "identity")

    async def test_need_the_right(self) -> None:
        async with bench(Virtual(allowed=False)) as it:
            status, message = await it.get(f"{WEB}/log?container=nope")
            assert status == 403
            assert message.startswith('pods "web" is forbidden: User "jane" cannot get resource "pods/log"')
            assert it.virtual.reviews == [
                {"verb": "get", "version": "v1", "namespace": "default", "resource": "pods", "subresource": "log", "name": "web"}
            ]
            assert it.upstream.seen == it.admin.seen == []

    async def test_of_a_pod_without_node(self) -> None:
        waiting = copy.deepcopy(POD)
        del waiting["spec"]["nodeName"]
        async with bench(Virtual({"web": waiting})) as it:
            assert await it.get(f"{WEB}/log") == (204, "")
            assert await it.get(f"{WEB}/log?container=x") == (400, "container x is not valid for pod web")
            assert it.upstream.seen == []

    async def test_are_followed_until_the_client_goes(self) -> None:
        async def follow(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            await response.write(b"first\n")
            await asyncio.Event().wait()
            return response

        async with bench(host=Host(answer=follow)) as it:
            async with it.door.client() as client, client.get(f"{WEB}/log?follow=true") as answer:
                assert await answer.content.readline() == b"first\n"
                assert it.upstream.open == 1
            await until(lambda: it.upstream.open == 0)

    async def test_of_others_by_their_host_name(self) -> None:
        async with bench(Virtual({})) as it:
            for path in (f"/api/v1/namespaces/team-17/pods/{HOST_NAME}/log", f"/api/v1/namespaces/default/pods/{HOST_NAME}/log"):
                assert (await it.get(path))[0] == 404
            assert it.upstream.seen == []


class TestNotOurs:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("DELETE", f"{WEB}/exec"),
            ("PUT", f"{WEB}/attach"),
            ("POST", f"{WEB}/log"),
            ("GET", f"{WEB}/exec/x"),
            ("GET", f"{WEB}/log/x"),
            ("GET", f"{WEB}/proxy/"),
            ("GET", "/api/v1/pods/web/exec"),
            ("GET", "/api/v2/namespaces/default/pods/web/exec"),
            ("GET", "/apis/x/v1/namespaces/default/pods/web/log"),
            ("GET", "/api/v1/watch/namespaces/default/pods/web/log"),
            ("GET", "/api/v1/namespaces/default/pods/web%2Fexec"),
            ("GET", "/api/v1/namespaces/default/pods/%2e%2e/log"),
            ("GET", "/api/v1/namespaces/default//pods/web/log"),
            ("GET", "/api/v1/namespaces/default/pods/../pods/web/log"),
            ("GET", "/api/v1/namespaces/default/services/web/log"),
        ],
    )
    async def test_is_for_the_virtual_api_server_alone(self, method: str, path: str) -> None:
        async with bench() as it:
            reader, writer = await it.door.connect()
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
            await reader.readline()
            writer.transport.abort()
            assert [seen[:2] for seen in it.bare.seen] == [(method, path)]
            assert it.upstream.seen == []


class TestRefusalsOfTheHost:
    @pytest.mark.parametrize("subresource", ["exec", "log"])
    @pytest.mark.parametrize("chunked", [True, False])
    async def test_are_told_in_virtual_terms(self, subresource: str, chunked: bool) -> None:
        text = f'container "main" in pod "{HOST_NAME}" (host-uid) of team-17 at 10.1.2.3 is waiting: pod "{HOST_NAME}_team-17"'

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            answer = failure(500, text + " " * 70_000 * chunked, Warning='299 - "team-17"', Location="https://10.1.2.3")
            if chunked:
                answer.enable_chunked_encoding()
            return answer

        async with bench(host=Host(answer=refuse)) as it, it.door.client() as client:
            headers = SPDY if subresource == "exec" else {}
            async with client.request("POST" if headers else "GET", f"{WEB}/{subresource}", headers=headers) as answer:
                assert answer.status == 500
                assert not {"Warning", "Location"} & set(answer.headers)
                message = (await answer.json())["message"].strip()
            assert message == 'container "main" in pod "web" (virtual-uid) of default at 10.96.0.77 is waiting: pod "web_default"'

    async def test_are_so_after_an_upgrade_too(self) -> None:
        async with (
            bench() as it,
            it.door.client() as client,
            client.ws_connect(f"{WEB}/attach", protocols=("v5.channel.k8s.io",)) as socket,
        ):
            for text in (f"container main not found in pod {HOST_NAME}_team-17", "command terminated with exit code 7"):
                await socket.send_bytes(b"\1" + text.encode())
                assert (await socket.receive()).data == b"\1" + text.encode(), "an output is the tenant's own"
                await socket.send_bytes(b"\3" + text.encode())
                said = text.replace(HOST_NAME, "web").replace("team-17", "default")
                assert (await socket.receive()).data == b"\3" + said.encode()

    async def test_that_cannot_be_read_end_the_tunnel(self) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
            await socket.prepare(request)
            assert request.transport is not None
            request.transport.write(b"\x02\x08\x03team-17")
            await socket.receive()
            return socket

        async with bench(host=Host(answer=answer)) as it, it.door.client() as client:
            async with client.ws_connect(f"{WEB}/attach", protocols=("v4.channel.k8s.io",)) as socket:
                message = await socket.receive()
                assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            await until(lambda: not it.relay.tunnels and it.upstream.open == 0)

    @pytest.mark.parametrize("subresource", ["exec", "log"])
    async def test_a_missing_right_is_told_in_words(self, subresource: str) -> None:
        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            user = "system:serviceaccount:team-17:vc-blue"
            return failure(403, f'pods "{HOST_NAME}" is forbidden: User "{user}" cannot create resource "pods/{subresource}"', "Forbidden")

        async with bench(host=Host(answer=refuse)) as it:
            headers = SPDY if subresource == "exec" else {}
            status, message = await it.get(f"{WEB}/{subresource}", headers=headers, method="POST" if headers else "GET")
            assert status == 403
            assert message == (
                f'pods "web" is forbidden: this virtual cluster has no right to pods/{subresource} in its host cluster; whoever runs that'
                " can grant it (`syncer rights --yaml` prints the rules)"
            )

    async def test_what_a_policy_of_the_host_denies_is_told(self) -> None:
        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            return failure(403, f'admission webhook "audit" denied the request: {HOST_NAME} is sealed', "Forbidden")

        async with bench(host=Host(answer=refuse)) as it:
            status, message = await it.get(f"{WEB}/exec", headers=SPDY, method="POST")
            assert (status, message) == (403, 'admission webhook "audit" denied the request: web is sealed')

    async def test_credentials_of_ours_are_no_matter_of_the_callers(self) -> None:
        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            return failure(401, "Unauthorized", "Unauthorized")

        async with bench(host=Host(answer=refuse)) as it:
            assert await it.get(f"{WEB}/log") == (503, "the host cluster does not accept this virtual cluster's credentials")
            assert len(it.on_host) == 2

    async def test_redirections_are_not_passed_on(self) -> None:
        async def redirect(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": "https://10.1.2.3/team-17"})

        async with bench(host=Host(answer=redirect)) as it:
            assert await it.get(f"{WEB}/log") == (502, "the host API server answers with a redirection")

    async def test_an_unknown_pod_is_not_for_the_caller_to_see(self) -> None:
        async with bench() as it:
            it.host.pod = None
            original = it.upstream.respond

            async def refuse(request: web.BaseRequest) -> web.StreamResponse:
                return failure(403, "team-17 is closed", "Forbidden")

            it.upstream.respond = refuse
            assert await it.get(f"{WEB}/log") == (503, "the host cluster does not answer as it should; try again")
            it.upstream.respond = original

    async def test_a_host_that_is_not_there(self) -> None:
        async with bench() as it:
            await it.upstream.__aexit__()
            status, message = await it.get(f"{WEB}/log")
            assert status == 503
            assert "127.0.0.1" not in message


@pytest.mark.parametrize(
    ("subresource", "query", "options"),
    [
        ("log", "", {}),
        ("log", "follow&Follow=1&container=a&container=b", {"container": ["a"], "follow": [""]}),
        ("exec", "command=a%20b&command=%ff&command=&stdin=true", {"stdin": ["true"], "command": ["a b", "\udcff", ""]}),
        ("exec", "container=a;container=b", {"container": ["a;container=b"]}),
        ("exec", "dryRun=All&tailLines=1", {"dryRun": ["All"]}),
        ("portforward", "ports=80&ports=81,82&container=x", {"ports": ["80", "81,82"]}),
        ("attach", "%63ontainer=a&command=x", {"container": ["a"]}),
    ],
)
def test_options(subresource: str, query: str, options: dict[str, list[str]]) -> None:
    assert read_options(subresource, query) == options


POD_OF_THREE: Obj = {
    "metadata": {"name": "p"},
    "spec": {
        "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "b"}],
        "ephemeralContainers": [{"name": "e"}],
    },
}


@pytest.mark.parametrize(
    ("pod", "name", "message"),
    [
        (POD, "x", "container x is not valid for pod web"),
        (POD, "\udcff", "container ? is not valid for pod web"),
        (POD_OF_THREE, "", "a container name must be specified for pod p, choose one of: [i a b e]"),
        ({"metadata": {"name": "p"}, "spec": {}}, "", "a container name must be specified for pod p"),
    ],
)
def test_containers_that_are_not_chosen(pod: Obj, name: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        choose_container(pod, name)
    assert (refused.value.status, refused.value.reason, refused.value.message) == (400, "BadRequest", message)


def test_containers_that_are_chosen() -> None:
    assert choose_container(POD, "") == "main"
    assert [choose_container(POD_OF_THREE, name) for name in "iabe"] == list("iabe")
    assert [is_same_container(name, POD_OF_THREE, POD_OF_THREE) for name in "iabe"] == [True, True, True, False]
    assert not is_same_container("x", POD_OF_THREE, POD_OF_THREE)


def test_headers_for_the_host() -> None:
    caller = caller_of(CIMultiDict({"Authorization": "Bearer x"}), None, 0.0)
    assert caller.credentials["Authorization"] == "Bearer x"
    assert "Authorization" not in host_headers(caller.credentials)


def test_terms_of_a_text_that_is_no_status() -> None:
    info = parse("GET", f"{WEB}/exec")
    text = f"unable to upgrade connection: container not found in {HOST_NAME}_team-17"
    assert in_virtual_terms(text, names=NAMES, info=info, pod=POD, host=host_pod()).endswith("not found in web_default")

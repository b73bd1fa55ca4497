from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from syncer.errors import Forbidden
from tests.patience import until
from tests.proxy.front import CLIENT_CA, OTHER_CA, Front, Upstream, front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import EventDict

    from syncer.proxy.server import Call

PODS = "/api/v1/namespaces/default/pods"


async def hello(_request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"hello": True}, headers={"X-Kubernetes-Pf-Flowschema-Uid": "1"})


@pytest.fixture
async def bare() -> AsyncIterator[Upstream]:
    async with Upstream(hello) as upstream:
        yield upstream


@pytest.fixture
async def vouched() -> AsyncIterator[Upstream]:
    async with Upstream(hello) as upstream:
        yield upstream


class TestWho:
    async def test_nobody_is_passed_on_as_nobody(self, door: Front, vouched: Upstream, bare: Upstream) -> None:
        forged = {"X-Remote-User": "root", "x-remote-group": "system:masters", "X-Remote-Extra-Scopes": "all", "X-Remote-Uid": "1"}
        async with door.client() as client, client.get(PODS + "?limit=500&labelSelector=a%3Db", headers=forged) as answer:
            assert (answer.status, await answer.json()) == (200, {"hello": True})
            assert answer.headers["X-Kubernetes-Pf-Flowschema-Uid"] == "1"
        ((method, path, headers),) = bare.seen
        assert (method, path) == ("GET", PODS + "?limit=500&labelSelector=a%3Db")
        assert not [name for name in headers if name.lower().startswith("x-remote")]
        assert vouched.seen == []

    async def test_a_certificate_is_vouched_for(self, door: Front, vouched: Upstream, bare: Upstream) -> None:
        certificate = CLIENT_CA.issue("jane", ["devs", "ops"])
        headers = {
            "X-Remote-User": "root",
            "Authorization": "Bearer x",
            "Connection": "X-Remote-User, X-Remote-Group",
            "Impersonate-User": "joe",
        }
        async with door.client(certificate) as client, client.get(PODS, headers=headers) as answer:
            assert answer.status == 200
        ((_, _, seen),) = vouched.seen
        assert seen.getall("X-Remote-User") == ["jane"]
        assert seen.getall("X-Remote-Group") == ["devs", "ops"]
        assert seen["X-Remote-Extra-Authentication.kubernetes.io%2Fcredential-Id"].startswith("X509SHA256=")
        assert seen["Impersonate-User"] == "joe", "whether he may is for the virtual API server to say"
        assert "Authorization" not in seen
        assert bare.seen == []

    async def test_a_certificate_of_another_virtual_cluster_is_refused(self, door: Front, vouched: Upstream, bare: Upstream) -> None:
        async with door.client(OTHER_CA.issue("jane", ["system:masters"])) as client:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                async with client.get(PODS):
                    pass
        assert vouched.seen == bare.seen == []

    async def test_long_tokens_pass(self, door: Front, bare: Upstream) -> None:
        token = "Bearer " + "x" * 20_000
        async with door.client(max_line_size=65536) as client, client.get(PODS, headers={"Authorization": token}) as answer:
            assert answer.status == 200
        assert bare.seen[0][2]["Authorization"] == token


class Never:
    """A route that answers everything it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, call: Call) -> web.StreamResponse | None:
        self.asked.append(call.request.raw_path)
        if call.info.resource == "secrets":
            raise Forbidden(403, "Forbidden", "no secrets today", {"kind": "secrets"})
        if call.info.resource == "bugs":
            raise ZeroDivisionError
        return web.Response(text="mine") if call.info.resource == "pods" else None


async def raw(door: Front, data: bytes) -> bytes:
    reader, writer = await door.connect()
    writer.write(data)
    answer = await reader.read(65536)
    writer.close()
    return answer


class TestRoutes:
    async def test_are_asked_first_and_fail_as_kubernetes_does(self, vouched: Upstream, bare: Upstream, logs: list[EventDict]) -> None:
        route = Never()
        async with front(vouched, bare, [route]) as door, door.client() as client:
            async with client.get(PODS) as answer:
                assert await answer.text() == "mine"
            async with client.get("/api/v1/nodes") as answer:
                assert await answer.json() == {"hello": True}
            async with client.get("/api/v1/secrets") as answer:
                status = await answer.json()
            async with client.get("/api/v1/bugs") as answer:
                assert answer.status == 500
            assert door.seen.requests == [("list", "pods", 200), ("list", "nodes", 200), ("list", "secrets", 403), ("list", "bugs", 500)]
        expected = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": "no secrets today",
            "reason": "Forbidden",
            "code": 403,
        }
        assert status.items() >= expected.items()
        assert [path for _, path, _ in bare.seen] == ["/api/v1/nodes"]
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["proxy.bug"]

    @pytest.mark.parametrize("path", ["/api/v1/namespaces/a/../b/pods", "//api/v1/pods", "/api/v1/namespaces/a%2Fpods", "/api/v1//pods"])
    async def test_see_nothing_that_could_be_read_in_two_ways(self, vouched: Upstream, bare: Upstream, path: str) -> None:
        route = Never()
        async with front(vouched, bare, [route]) as door:
            answer = await raw(door, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200")
        assert route.asked == []
        assert [seen for _, seen, _ in bare.seen] == [path], "as it came"

    @pytest.mark.parametrize(
        "head",
        [
            b"GET https://elsewhere/api/v1/pods HTTP/1.1\r\nHost: localhost\r\n",
            b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n",
            b"POST /api/v1/pods HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            b"POST /api/v1/pods HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
            b"POST /api/v1/pods HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n",
            b"GET /api/v1/pods HTTP/1.1\r\nHost: localhost\r\nX-Remote-User : root\r\n",
            b"GET /api/v1/pods HTTP/1.1\r\nHost: localhost\r\nX: a\r\n X-Remote-User: root\r\n",
            b"GET /api/v1/pods HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n",
        ],
        ids=["absolute", "connect", "asterisk", "both lengths", "two lengths", "odd encoding", "space before colon", "folded", "long"],
    )
    async def test_requests_that_are_none_are_refused(self, door: Front, bare: Upstream, vouched: Upstream, head: bytes) -> None:
        answer = await raw(door, head + b"\r\n0\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer[:200]
        assert bare.seen == vouched.seen == []


class TestAnswers:
    async def test_large_ones_are_streamed_at_the_readers_pace(self, vouched: Upstream) -> None:
        made = 0

        async def much(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal made
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(4096):
                await response.write(b"x" * 65536)
                made += 65536
            return response

        async with Upstream(much) as upstream, front(vouched, upstream) as door:
            reader, writer = await door.connect()
            writer.write(f"GET {PODS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            before = -1
            while made != before:
                before = made
                await asyncio.sleep(0.2)
            assert made < 32 * 2**20, "a reader that does not read stops the sender"
            writer.transport.abort()
            await until(lambda: upstream.open == 0)

    async def test_one_that_breaks_off_is_not_taken_for_a_whole_one(self, vouched: Upstream) -> None:
        async def broken(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"items":[')
            assert request.transport is not None
            request.transport.abort()
            return response

        async with Upstream(broken) as upstream, front(vouched, upstream) as door, door.client() as client:
            with pytest.raises(aiohttp.ClientError):
                async with client.get(PODS) as answer:
                    await answer.read()

    async def test_heads_and_empty_ones(self, vouched: Upstream) -> None:
        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            if request.method == "HEAD":
                return web.Response(headers={"Content-Length": "1234", "X-A": "b"})
            return web.Response(status=304)

        async with Upstream(respond) as upstream, front(vouched, upstream) as door, door.client() as client:
            async with client.head(PODS) as answer:
                assert (answer.status, answer.headers["X-A"], await answer.read()) == (200, "b", b"")
            async with client.get(PODS) as answer:
                assert answer.status == 304

    async def test_say_nothing_of_what_answers(self, vouched: Upstream) -> None:
        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=b"", headers={"Server": "nginx"} if request.path.endswith("/proxy/") else {})

        async with Upstream(respond) as upstream, front(vouched, upstream, [Never()]) as door, door.client() as client:
            for path, said in (("/api/v1/nodes", None), ("/api/v1/secrets", None), ("/api/v1/namespaces/a/services/b/proxy/", "nginx")):
                async with client.get(path) as answer:
                    assert answer.headers.get("Server") == said
        async with front(vouched, vouched) as door:
            assert b"Server" not in await raw(door, b"GET / HTTP/1.1\r\nConnection: close\r\nbroken\r\n\r\n")

    async def test_none_at_all(self, vouched: Upstream) -> None:
        async with Upstream(hello) as upstream:
            pass
        async with front(vouched, upstream) as door, door.client() as client, client.get(PODS) as answer:
            assert answer.status == 502
            assert (await answer.json())["message"] == "the virtual API server cannot be reached"

    async def test_a_body_that_is_too_large_is_refused_while_it_comes(self, vouched: Upstream) -> None:
        async def refuse(_request: web.BaseRequest) -> web.StreamResponse:
            return web.json_response({"kind": "Status", "code": 413}, status=413)

        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(16384):
                sent += 65536
                yield b"x" * 65536

        async with Upstream(refuse) as upstream, front(vouched, upstream) as door, door.client() as client:
            try:
                async with client.post(PODS, data=body()) as answer:
                    assert answer.status == 413
            except aiohttp.ClientError:
                pass  # it may hear of the connection's end first
        assert sent < 256 * 2**20

    async def test_continue(self, door: Front, bare: Upstream) -> None:
        async with door.client() as client, client.post(PODS, data=b"{}", expect100=True) as answer:
            assert answer.status == 200
        assert "Expect" not in bare.seen[0][2]


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"type":"ADDED"}\n')
    await asyncio.Event().wait()
    return response


class TestWatches:
    async def test_end_with_their_client(self, vouched: Upstream) -> None:
        async with Upstream(endless) as upstream, front(vouched, upstream) as door:
            async with door.client() as client, client.get(PODS + "?watch=true") as answer:
                assert await answer.content.readline() == b'{"type":"ADDED"}\n'
                assert (upstream.open, door.seen.lasting) == (1, {("watch", "pods"): 1})
            await until(lambda: upstream.open == 0)
            await until(lambda: door.seen.lasting == {("watch", "pods"): 0})

    async def test_end_in_order_when_it_is_stopped(self, vouched: Upstream) -> None:
        async with (
            Upstream(endless) as upstream,
            front(vouched, upstream) as door,
            door.client() as client,
            client.get(PODS + "?watch=true") as answer,
        ):
            await answer.content.readline()
            async with asyncio.timeout(5):
                await asyncio.gather(door.server.stop(30.0), answer.content.read())  # it raises if the end is not one


async def echo_tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"/refused" in head:
        body = b'{"kind":"Status","message":"no"}'
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
    else:
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4\r\n\r\nfirst"
        )
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    await writer.drain()
    writer.close()


@pytest.fixture
async def tunnelled(vouched: Upstream) -> AsyncIterator[Front]:
    server = await asyncio.start_server(echo_tunnel, "127.0.0.1", 0)
    upstream = Upstream(hello, port=server.sockets[0].getsockname()[1])
    async with server, front(vouched, upstream) as door:
        yield door


UPGRADE = b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"


class TestTunnels:
    async def test_pass_every_byte(self, tunnelled: Front) -> None:
        reader, writer = await tunnelled.connect()
        writer.write(b"POST /x HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 0\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"X-Stream-Protocol-Version: v4\r\n" in head
        assert await reader.readexactly(5) == b"first"
        sent = os.urandom(16 * 2**20)

        async def send() -> None:
            for at in range(0, len(sent), 100_000):
                writer.write(sent[at : at + 100_000])
                await writer.drain()

        _, received = await asyncio.gather(send(), reader.readexactly(len(sent)))
        assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
        assert len(tunnelled.relay.tunnels) == 1
        writer.close()
        await until(lambda: len(tunnelled.relay.tunnels) == 0)
        await until(lambda: tunnelled.seen.requests == [("post", "path", 101)])

    async def test_end_when_it_is_stopped(self, tunnelled: Front) -> None:
        reader, writer = await tunnelled.connect()
        writer.write(b"GET /x HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        await reader.readuntil(b"first")
        async with asyncio.timeout(5):
            await tunnelled.server.stop(30.0)
            assert await reader.read() == b""
        writer.close()

    async def test_a_refusal_is_an_ordinary_answer(self, tunnelled: Front) -> None:
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGVzdHRlc3R0ZXN0dGVzdA==",
        }
        async with tunnelled.client() as client:
            for _ in range(2):
                async with client.get("/refused", headers=headers) as answer:
                    assert (answer.status, await answer.json()) == (403, {"kind": "Status", "message": "no"})


class TestConnections:
    async def test_whoever_idles_longest_makes_room(self, vouched: Upstream, bare: Upstream) -> None:
        async with front(vouched, bare, limit=3) as door:
            idle = [await door.connect() for _ in range(6)]
            async with door.client() as client, client.get(PODS) as answer:
                assert answer.status == 200
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await idle[0][0].readexactly(1)
            for _, writer in idle:
                writer.transport.abort()

    async def test_busy_ones_are_never_cut_off(self, vouched: Upstream) -> None:
        async with (
            Upstream(endless) as upstream,
            front(vouched, upstream, limit=2) as door,
            door.client() as client,
            client.get(PODS + "?watch=1") as one,
            client.get(PODS + "?watch=1") as two,
        ):
            await one.content.readline()
            await two.content.readline()
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                async with client.get(PODS):
                    pass
            assert door.server.connections.turned_away == 1
            assert upstream.open == 2

    async def test_there_may_be_files_for_all_of_them(self, vouched: Upstream, bare: Upstream) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        try:
            async with front(vouched, bare, limit=500):
                assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(1000, before[1])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    async def test_only_http_1_is_offered(self, door: Front) -> None:
        _, writer = await door.connect()
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        writer.close()

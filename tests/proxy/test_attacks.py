"""What strangers and tenants send who mean harm, on the wire: what the virtual API server sees of it, and what the front door holds."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.patience import until
from tests.proxy.front import CLIENT_CA, Front, Upstream, front
from tests.proxy.wire import GET, KEPT, NEXT, PODS, POST, SPDY, SWITCHES, WEBSOCKET, Wire, ended, say, status

if TYPE_CHECKING:
    from syncer.proxy.server import Call

NO_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 O\rSet-Cookie: evil\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: a\0b\r\nSet-Cookie : evil\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: evil\r\n evil\r\nSet-Cookie\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"\0" * 100 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
]
"""What an API server never says. (A bare line feed ends a line for aiohttp as for its writer, so that is told on in order.)"""


class TestIdentity:
    @pytest.mark.parametrize(
        "forged",
        [
            b"X-Remote-User: root",
            b"x-rEMOTE-uSER: root",
            b"X-Remote-Group: system:masters",
            b"X-Remote-Uid: 0",
            b"X-Remote-Extra-Scopes: all",
            b"X-Remote-User: root\r\nConnection: X-Remote-User",
            b"X-Remote-Anything-New: root",
        ],
    )
    @pytest.mark.parametrize("certificate", [None, CLIENT_CA.issue("jane")], ids=["nobody", "jane"])
    async def test_what_a_client_says_of_itself_never_passes(
        self, door: Front, bare: Wire, vouched: Wire, forged: bytes, certificate: bytes | None
    ) -> None:
        assert status(await say(door, GET + forged + b"\r\n\r\n", certificate=certificate)) == 200
        (head,) = bare.heads or vouched.heads
        said = sorted(line for line in head if line.lower().startswith((b"x-remote", b"connection")))
        if certificate is None:
            assert said == []
        else:
            assert said[1:] == [b"X-Remote-User: jane"]
            assert said[0].startswith(b"X-Remote-Extra-Authentication.kubernetes.io%2Fcredential-Id: X509SHA256=")

    @pytest.mark.parametrize(
        "forged", [b"X-Remote-User : root", b"X-Remote-User\t: root", b"X-Remote-User\xe2\x84\xaa: a", b" X-Remote-User: a"]
    )
    async def test_nor_in_other_spellings(self, door: Front, bare: Wire, forged: bytes) -> None:
        assert status(await say(door, GET + b"A: b\r\n" + forged + b"\r\n\r\n")) == 400
        assert bare.connections == []

    async def test_underscores_stay_underscores(self, door: Front, bare: Wire) -> None:
        """Go's servers take no underscore for a hyphen; e2e/test_attacks.py asks one."""
        await say(door, GET + b"X_Remote_User: root\r\n\r\n")
        assert b"X_Remote_User: root" in bare.heads[0]

    async def test_no_header_can_have_another_taken_away(self, door: Front, vouched: Wire) -> None:
        """A front proxy before us may add Impersonate-User to what its users send, and they `Connection: Impersonate-User`."""
        headers = b"Impersonate-User: joe\r\nConnection: close, Impersonate-User\r\n\r\n"
        await say(door, GET + headers, certificate=CLIENT_CA.issue("proxy"))
        assert b"Impersonate-User: joe" in vouched.heads[0]

    @pytest.mark.parametrize("name", [b"Authorization: Bearer a", b"Impersonate-User: adm", b"X: "])
    async def test_no_byte_of_a_header_is_lost(self, door: Front, bare: Wire, name: bytes) -> None:
        """What is not UTF-8 would be left out by aiohttp, and `adm<ff>in` become `admin`."""
        assert status(await say(door, GET + name + b"\xff\xfein\r\n\r\n")) == 400
        assert bare.connections == []
        assert status(await say(door, GET + name + "é\r\n\r\n".encode())) == 200
        assert name + "é".encode() in bare.heads[0]

    async def test_a_certificate_that_expires_ends_with_its_connection_open(self, vouched: Wire, bare: Wire) -> None:
        now = 0.0
        async with front(vouched, bare, wall=lambda: now) as door, door.client(CLIENT_CA.issue("jane")) as client:
            async with client.get(PODS) as answer:
                assert answer.status == 200
            now = 10.0**10
            async with client.get(PODS) as answer:
                assert answer.status == 401
        assert len(vouched.heads) == 1

    async def test_connections_to_the_api_server_carry_nobody_over(self, vouched: Wire) -> None:
        async def whoami(request: web.BaseRequest) -> web.StreamResponse:
            told = request.headers.getall("X-Remote-User", []) + request.headers.getall("Authorization", [])
            connections.add(request.transport)
            return web.json_response(told)

        connections: set[object] = set()
        users = [f"user-{number}" for number in range(4)]
        async with Upstream(whoami) as upstream, front(upstream, upstream) as door:

            async def ask(user: str, *, by_token: bool) -> None:
                headers = {"Authorization": user} if by_token else {}
                async with door.client(None if by_token else CLIENT_CA.issue(user)) as client:
                    for _ in range(25):
                        async with client.get(PODS, headers=headers) as answer:
                            assert await answer.json() == [user]

            await asyncio.gather(*(ask(user, by_token=by_token) for user in users for by_token in (False, True)))
            async with door.client() as client, client.get(PODS) as answer:
                assert await answer.json() == []
            assert len(upstream.seen) == 201
        assert len(connections) < 20, "they were used again and again"


class TestFraming:
    @pytest.mark.parametrize(
        ("expected", "request_"),
        [
            (400, POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            (400, POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
            (400, POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
            (400, POST + b"Content-Length: 4, 4\r\n\r\nabcd"),
            (400, POST + b"Content-Length: +4\r\n\r\nabcd"),
            (400, POST + b"Content-Length: 0x4\r\n\r\nabcd"),
            (400, POST + b"Content-Length: -1\r\n\r\n"),
            (400, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
            (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            (400, POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
            (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            (400, POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
            (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            (501, POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            (505, GET.replace(b"1.1", b"2.0") + b"\r\n"),
            (505, GET.replace(b" HTTP/1.1", b"") + b"\r\n"),
            (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            (400, GET.replace(b"\r\n", b"\n") + b"\n"),
            (400, GET + b"X: a\rX-Remote-User: root\r\n\r\n"),
            (400, GET + b"X: a\0b\r\n\r\n"),
            (400, GET + b"Host: elsewhere\r\n\r\n"),
            (400, GET.partition(b"Host")[0] + b"\r\n"),
            (400, b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            (400, b"GET /p\xc3\xb6ds HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            (400, b"GET " + PODS.encode() + b"#/../../nodes HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            (400, b"GET http://127.0.0.1:6443/api HTTP/1.1\r\nHost: 127.0.0.1:6443\r\n\r\n"),
            (400, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ],
        ids=map(str, range(27)),
    )  # fmt: skip
    async def test_what_could_be_read_in_two_ways_is_refused(self, door: Front, bare: Wire, expected: int, request_: bytes) -> None:
        answer = await say(door, request_)
        assert status(answer) == expected
        assert bare.connections == []

    async def test_a_body_arrives_in_a_frame_of_our_own(self, door: Front, bare: Wire) -> None:
        chunked = b"Transfer-Encoding: chunked\r\nTrailer: X-Remote-User\r\n\r\n4;a=b\r\nabcd\r\n0\r\nX-Remote-User: root\r\n\r\n"
        assert status(await say(door, POST + chunked)) == 200
        (seen,) = bare.connections
        assert seen.endswith(b"\r\n\r\n4\r\nabcd\r\n0\r\n\r\n")
        assert b"root" not in seen

    @pytest.mark.parametrize("upgrade", [SPDY, WEBSOCKET], ids=["spdy", "websocket"])
    async def test_what_follows_a_refused_upgrade_is_a_request_like_any_other(self, door: Front, bare: Wire, upgrade: bytes) -> None:
        await say(door, KEPT + upgrade + b"\r\n" + NEXT)
        assert len(bare.heads) in (1, 2), "aiohttp drops what comes behind a head for SPDY"
        assert all(seen.count(b"\r\n\r\n") == 1 for seen in bare.connections), (
            "nothing but the one request on a connection that was to switch"
        )
        assert not [line for head in bare.heads for line in head if b"root" in line]

    async def test_what_a_refused_upgrade_leaves_is_no_way_to_the_api_server(self, door: Front, bare: Wire) -> None:
        """https://github.com/kubernetes/kubernetes/issues/71411: there the connection stayed open, with the proxy's own credentials."""
        reader, writer = await door.connect()
        writer.write(KEPT + SPDY + b"\r\n")
        await reader.readuntil(b"{}")
        writer.write(b"\0raw\0" + NEXT)
        assert await ended(reader)
        writer.transport.abort()
        assert [bytes(seen).count(b"\r\n\r\n") for seen in bare.connections] == [1]
        assert b"raw" not in bare.connections[0]

    @pytest.mark.parametrize("upgrade", [SPDY, WEBSOCKET], ids=["spdy", "websocket"])
    async def test_what_follows_an_upgrade_is_no_request_of_ours(self, vouched: Wire, upgrade: bytes) -> None:
        async with Wire(SWITCHES) as bare, front(vouched, bare) as door:
            reader, writer = await door.connect()
            writer.write(KEPT + upgrade + b"\r\n" + NEXT)
            assert await reader.readuntil(b"\r\n\r\n") == SWITCHES
            writer.write(NEXT)
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()
            (seen,) = bare.connections
            assert seen.endswith(NEXT), "as it came, to whom the tunnel leads"
            assert seen.count(b"X-Forwarded-For") == 1

    async def test_a_body_beside_an_upgrade_is_a_body(self, door: Front, bare: Wire) -> None:
        await say(door, KEPT.replace(b"GET", b"POST") + SPDY + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT)
        (seen,) = bare.connections
        assert seen.endswith(b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT)

    async def test_http_2_in_clear_text_is_not_spoken(self, door: Front, bare: Wire) -> None:
        bare.answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        answer = await say(door, KEPT + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
        assert status(answer) == 502
        assert not [line for line in bare.heads[0] if line.lower().startswith((b"upgrade", b"connection"))]

    async def test_half_a_body_is_never_a_whole_one(self, door: Front, bare: Wire) -> None:
        usual, bare.answer = bare.answer, b""
        reader, writer = await door.connect()
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
        await until(lambda: bare.connections and b"abcd" in bare.connections[0])
        writer.transport.abort()
        assert await ended(reader)
        bare.answer = usual
        await say(door, GET + b"\r\n")
        first, second = bare.connections
        assert first.endswith(b"abcd\r\n"), "no end, and nobody else's request"
        assert second.startswith(b"GET ")

    async def test_an_early_answer_leaves_no_half_request_on_a_connection(self, vouched: Wire) -> None:
        early = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
        async with Wire(early) as bare, front(vouched, bare) as door:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(say(door, POST + b"Content-Length: 1000\r\n\r\nabc"))
            await say(door, GET + b"\r\n")
            for seen in bare.connections:
                assert (b"POST " in seen) + (b"GET " in seen) == 1


class TestAnswers:
    @pytest.mark.parametrize(
        ("upgrade", "answer"),
        [(upgrade, answer) for upgrade in (b"", SPDY) for answer in NO_ANSWERS]
        + [
            (SPDY, b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil\r\nContent-Length: 2\r\n\r\n{}"),
            (SPDY, b"HTTP/1.1 103 Early Hints\r\nLink: evil\r\n\r\n"),
            (SPDY, b"HTTP/1.1 101 Switching Protocols\r\nX: a\rSet-Cookie: evil\r\n\r\n"),
        ],
        ids=map(str, range(25)),
    )
    async def test_those_that_are_none_become_failures(self, vouched: Wire, upgrade: bytes, answer: bytes) -> None:
        async with Wire(answer + b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n") as bare, front(vouched, bare) as door:
            received = await say(door, (KEPT + upgrade if upgrade else GET) + b"\r\n")
        assert status(received) == 502
        assert b"evil" not in received.lower()
        assert received.count(b"HTTP/1.1 ") == 1

    async def test_a_second_answer_is_nobodys(self, vouched: Wire) -> None:
        twice = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmineHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        async with Wire(twice) as bare, front(vouched, bare) as door:
            for _ in range(5):
                received = await say(door, GET + b"\r\n")
                assert received.endswith(b"mine")
                assert b"evil" not in received

    async def test_a_refusal_that_breaks_off_is_not_passed_off_as_whole(self, vouched: Wire) -> None:
        for rest in (
            b"Content-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
            b"Transfer-Encoding: chunked\r\n\r\nFFFFFF\r\n" + b"x" * 2_000_000,
        ):
            async with Wire(b"HTTP/1.1 200 OK\r\n" + rest) as bare, front(vouched, bare) as door:
                assert status(await say(door, KEPT + SPDY + b"\r\n")) == 502

    async def test_nothing_is_unpacked(self, vouched: Wire) -> None:
        bomb = gzip.compress(b"\0" * 50_000_000)
        packed = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
        async with Wire(b"HTTP/1.1 200 OK\r\n" + packed) as bare, front(vouched, bare) as door:
            answer = await say(door, POST + packed)
            assert answer.endswith(bomb)
            assert bare.connections[0].endswith(bomb)


class Everything:
    """A route that would answer whatever it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, call: Call) -> web.StreamResponse | None:
        self.asked.append(call.request.raw_path)
        return web.Response(text="host")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/a/pods/b/exec/../..",
        "/api/v1/namespaces/a/pods/b/./exec",
        "/api/v1/namespaces/a/pods/../../b/pods/c/log",
        "/api/v1/namespaces/a/pods/b%2fexec",
        "/api/v1/namespaces/a/pods/b%2Fexec",
        "/api/v1/namespaces/a%2f..%2fb/pods/c/log",
        "/api/v1/namespaces/a/pods/%2e%2e/log",
        "/api/v1/namespaces/a/pods/b%00/log",
        "/api/v1/namespaces/a/pods/b%252fc/log",
        "/api/v1/namespaces/a/pods/b%5cc/log",
        "/api/v1/namespaces/a/pods/b%c0%afc/log",
        "/api/v1/namespaces/a/pods/b\\c/log",
        "//api/v1/namespaces/a/pods/b/log",
        "/api/v1//namespaces/a/pods/b/log",
        "/api/v1/namespaces/a/pods/b//log",
        "/api/v1/namespaces/a/pods/b/log//",
        "/api/v1/namespaces//pods/b/log",
    ],
)
async def test_odd_paths_are_for_the_virtual_api_server_alone(vouched: Wire, bare: Wire, path: str) -> None:
    route = Everything()
    async with front(vouched, bare, [route]) as door:
        await say(door, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert route.asked == []
        assert bare.heads[0][0] == f"GET {path} HTTP/1.1".encode(), "as it came"
        plain = "/api/v1/namespaces/a/pods/b;x=y/log"
        await say(door, f"GET {plain} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert route.asked == [plain], "others are offered to it"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nodes/n/proxy//exec/default/web/main",
        "/api/v1/nodes/n/proxy/pods/../exec/default/web/main",
        "/api/v1/nodes/n/proxy/pods/%2e%2e/exec/default/web/main",
        "/api/v1/nodes/n/proxy%2fexec/default/web/main",
        "/api/v1/nodes/n%2fproxy/exec/default/web/main",
        "/api/v1//nodes/n/proxy/exec/default/web/main",
        "//api/v1/nodes/n/proxy/exec/default/web/main",
    ],
)
async def test_the_virtual_api_server_asks_no_kubelet_for_anybody(door: Front, bare: Wire, path: str) -> None:
    """It would do so as itself, who may do anything there, once its caller may `get` nodes/proxy."""
    assert status(await say(door, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())) == 400
    assert status(await say(door, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + WEBSOCKET + b"\r\n")) == 400
    assert bare.connections == []


async def test_a_body_that_a_route_does_not_read_is_no_request(vouched: Wire, bare: Wire) -> None:
    route = Everything()
    async with front(vouched, bare, [route]) as door:
        answer = await say(door, KEPT.replace(b"GET", b"POST") + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT + GET + b"\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert route.asked == [PODS, PODS]


async def test_http_1_0(door: Front, bare: Wire) -> None:
    answer = await say(door, f"GET {PODS} HTTP/1.0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(b"\r\n\r\n{}")
    assert bare.heads[0][0] == f"GET {PODS} HTTP/1.1".encode()

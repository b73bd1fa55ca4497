"""How much of a front door strangers can use up, and for how long."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from syncer.proxy.connections import HEAD_BYTES, Patience
from tests.proxy.front import Front, Upstream, front
from tests.proxy.wire import GET, HASTY, KEPT, PODS, POST, SPDY, Wire, ended, say, status

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: %s\r\n" % (number, b"a" * 60_000) for number in range(18)),
        b"".join(b"X-%d: a\r\n" % number for number in range(100_000)),
        b"X: " + b"a" * (1 << 20),
    ],
    ids=["long ones", "many", "a long one"],
)
async def test_a_head_of_a_mebibyte(door: Front, bare: Wire, head: bytes) -> None:
    assert status(await say(door, GET + head + b"\r\n")) in (400, 431)
    assert bare.connections == []


async def test_trailers_without_end(vouched: Wire, bare: Wire) -> None:
    trailers = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(5000))
    async with front(vouched, bare, patience=HASTY) as door:
        answer = await say(door, POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"\r\n")
    assert status(answer) == 408
    assert bare.connections == []


async def test_heads_are_counted_one_by_one(door: Front) -> None:
    reader, writer = await door.connect()
    head = KEPT + b"X: " + b"a" * 60_000 + b"\r\n\r\n"
    for _ in range(2 * HEAD_BYTES // len(head)):
        writer.write(head)
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()


async def test_a_head_that_takes_its_time(vouched: Wire, bare: Wire) -> None:
    async with front(vouched, bare, patience=HASTY) as door:
        reader, writer = await door.connect()
        ending = asyncio.create_task(ended(reader))
        for byte in GET * 1000:
            if ending.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        assert await ending
        writer.transport.abort()
    assert bare.connections == []


async def test_a_client_that_says_nothing(vouched: Wire, bare: Wire) -> None:
    async with front(vouched, bare, patience=HASTY) as door:
        for request in (b"", KEPT + b"\r\n"):
            reader, writer = await door.connect()
            writer.write(request)
            assert await ended(reader)
            writer.transport.abort()
        reader, writer = await asyncio.open_connection("localhost", door.server.connections.port)
        assert await ended(reader), "nor shakes hands"
        writer.transport.abort()


async def test_a_body_that_takes_its_time(vouched: Wire, bare: Wire) -> None:
    async with front(vouched, bare, patience=HASTY) as door:
        assert status(await say(door, KEPT.replace(b"GET", b"POST") + SPDY + b"Content-Length: 10\r\n\r\na")) == 408
        assert status(await say(door, POST + b"Content-Length: 10\r\n\r\n")) == 408
    assert bare.connections == []


async def test_handshakes_that_make_no_progress_make_room(vouched: Wire, bare: Wire) -> None:
    async with front(vouched, bare, limit=5) as door:
        silent = [await asyncio.open_connection("localhost", door.server.connections.port) for _ in range(50)]
        async with door.client() as client, client.get(PODS) as answer:
            assert answer.status == 200
        assert door.server.connections.count <= 5
        for _, writer in silent:
            writer.transport.abort()


async def test_clients_that_idle_outlast_handshakes_that_do(vouched: Wire, bare: Wire) -> None:
    async with front(vouched, bare, limit=3, patience=Patience(stale=0.0)) as door:
        reader, client = await door.connect()
        opened = [client]
        for _ in range(10):
            _, silent = await asyncio.open_connection("localhost", door.server.connections.port)
            opened.append(silent)
            client.write(KEPT + b"\r\n")
            assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 "), "over the same connection"
        for writer in opened:
            writer.transport.abort()


async def test_a_body_that_nobody_reads_is_not_kept(vouched: Wire) -> None:
    async def never(_request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with Upstream(never) as upstream, front(vouched, upstream) as door:
        _, writer = await door.connect()
        writer.write(POST + b"Content-Length: 1073741824\r\n\r\n")
        sent = 0
        with suppress(TimeoutError):
            while sent < 1 << 30:
                writer.write(b"x" * 65536)
                await asyncio.wait_for(writer.drain(), 1)
                sent += 65536
        assert sent < 32 << 20
        writer.transport.abort()


async def test_of_malformed_requests_nothing_is_logged(door: Front, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await say(door, GET + b"Authorization: Bearer secret\0\r\n\r\n")
        await say(door, b"secret\r\n\r\n")
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_absurd_methods_and_paths_are_counted_under_few_names(door: Front) -> None:
    async with door.client() as client:
        for method in ("TRACE", "OPTIONS", "PROPFIND"):
            with suppress(aiohttp.ClientError):
                async with client.request(method, PODS):
                    pass
    assert {resource for _, resource, _ in door.seen.requests} == {"path"}

"""The fake server fails as it is told to, and only so; time passes only where it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from syncer.kube.types import CONFIGMAPS, NAMESPACES, PODS, SECRETS, Key, Obj, uid_of
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.conftest import STREAM, Probe, named, pod
from tests.fakes.requests import is_write, on

pytestmark = pytest.mark.looptime
A = Key("default", "a")


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def watching(call: Probe, path: str = "secrets", **params: str) -> AsyncIterator[aiohttp.ClientResponse]:
    async with call.session.get(call.url(path), params={"watch": "1", **params}) as response:
        yield response


async def read(response: aiohttp.ClientResponse) -> tuple[str, Obj]:
    event = json.loads(await response.content.readline())
    return event["type"], event["object"]


def secret(name: str) -> Obj:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}}


async def test_requests_take_no_time_and_are_logged(virtual_api: FakeApiServer, call: Probe) -> None:
    begin = now()
    for _ in range(20):
        await call("GET", "secrets")
    await call("POST", "pods/none/binding", {"metadata": {}})
    assert now() == begin
    assert virtual_api.requests[:20] == [("GET", "/api/v1/namespaces/default/secrets", 200)] * 20
    assert virtual_api.requests[20] == ("POST", "/api/v1/namespaces/default/pods/none/binding", 404)
    assert (virtual_api.in_flight, virtual_api.peak) == (0, 1)


async def test_a_status_with_retry_after(virtual_api: FakeApiServer, call: Probe) -> None:
    rule = virtual_api.fault(on("create", SECRETS), status=429, retry_after=7, times=2)
    answers = [await call("POST", "secrets", named("a")) for _ in range(3)]
    assert [answer.code for answer in answers] == [429, 429, 201]
    assert (answers[0].refusal, answers[0].retry_after) == ((429, "TooManyRequests"), "7")
    assert answers[0].body["details"] == {"retryAfterSeconds": 7}
    assert rule.hits == 2


async def test_the_oldest_rule_that_matches_counts_until_it_is_lifted(virtual_api: FakeApiServer, call: Probe) -> None:
    first = virtual_api.fault(on(name="a"), status=403, reason="Forbidden", message='exceeded quota: "q"')
    virtual_api.fault(is_write, status=500)
    assert (await call("DELETE", "secrets/a")).body["message"] == 'exceeded quota: "q"'
    assert (await call("DELETE", "secrets/b")).refusal == (500, "InternalError")
    assert (await call("GET", "secrets/b")).code == 404
    first.lift()
    assert (await call("DELETE", "secrets/a")).code == 500
    virtual_api.clear_faults()
    assert (await call("DELETE", "secrets/a")).code == 404


async def test_a_status_after_the_write_took_effect(virtual_api: FakeApiServer, call: Probe) -> None:
    virtual_api.fault(on("create"), status=504, after=True)
    assert (await call("POST", "secrets", named("a"))).refusal == (504, "Timeout")
    assert virtual_api.get(SECRETS, A)


@pytest.mark.parametrize("after", [False, True])
async def test_a_delay(virtual_api: FakeApiServer, call: Probe, after: bool) -> None:
    virtual_api.fault(is_write, delay=90, after=after)
    begin = now()
    request = asyncio.create_task(call("POST", "secrets", named("a")))
    await asyncio.sleep(89)
    assert bool(virtual_api.get(SECRETS, A)) == after
    assert (await request).code == 201
    assert now() - begin == pytest.approx(90)


@pytest.mark.parametrize("after", [False, True])
async def test_a_dropped_connection(virtual_api: FakeApiServer, call: Probe, after: bool) -> None:
    virtual_api.fault(on("create"), drop=True, after=after, times=1)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await call("POST", "secrets", named("a"))
    assert bool(virtual_api.get(SECRETS, A)) == after
    assert virtual_api.requests[-1].code == 0
    assert (await call("POST", "secrets", named("a"))).code == (409 if after else 201)


@pytest.mark.parametrize("after", [False, True])
async def test_a_request_that_is_never_answered(virtual_api: FakeApiServer, call: Probe, after: bool) -> None:
    virtual_api.fault(on("create"), hang=True, after=after)
    begin = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1000):
            await call("POST", "secrets", named("a"))
    assert now() - begin == pytest.approx(1000)
    assert bool(virtual_api.get(SECRETS, A)) == after
    await asyncio.sleep(1)  # the server notices that the client is gone
    assert virtual_api.requests[-1].code == 0


async def test_pause(virtual_api: FakeApiServer, call: Probe) -> None:
    async with watching(call) as watch:
        virtual_api.pause()
        virtual_api.put(secret("a"))
        request = asyncio.create_task(call("GET", "secrets/a"))
        event = asyncio.create_task(read(watch))
        await asyncio.sleep(500)
        assert (request.done(), event.done()) == (False, False)
        virtual_api.resume()
        assert (await request).code == 200
        assert (await event)[0] == "ADDED"


async def test_capacity(virtual_api: FakeApiServer, call: Probe) -> None:
    virtual_api.capacity = 3
    virtual_api.fault(on("get"), delay=1)
    async with watching(call):
        answers = await asyncio.gather(*(call("GET", "secrets/a") for _ in range(5)))
    assert sorted(answer.code for answer in answers) == [404, 404, 404, 429, 429]
    assert [answer.retry_after for answer in answers if answer.code == 429] == ["1", "1"]
    assert (virtual_api.peak, virtual_api.in_flight) == (3, 0)


async def test_stop_refuses_and_start_brings_everything_back(virtual_api: FakeApiServer, call: Probe) -> None:
    made = await call("POST", "secrets", named("a"))
    virtual_api.fault(on(name="slow"), hang=True)
    url = virtual_api.url
    async with watching(call) as watch:
        await read(watch)
        slow = asyncio.create_task(call("POST", "secrets/slow/x", {}))
        await asyncio.sleep(1)
        await virtual_api.stop()
        with pytest.raises(aiohttp.ClientError):
            await watch.content.readline()
        with pytest.raises(aiohttp.ClientError):
            await slow
    with pytest.raises(aiohttp.ClientConnectorError):
        await call("GET", "secrets/a")
    await virtual_api.start()
    assert virtual_api.url == url
    assert (await call("GET", "secrets/a")).body == made.body


async def test_a_wiped_server_is_another_one(virtual_api: FakeApiServer, call: Probe) -> None:
    system = Key("", "kube-system")
    before = virtual_api.get(NAMESPACES, system)
    for name in "abcdef":
        await call("POST", "secrets", named(name))
    known = virtual_api.revision
    async with watching(call, resourceVersion=str(known)) as watch:
        virtual_api.wipe()
        with pytest.raises(aiohttp.ClientError):
            await watch.content.readline()
    assert virtual_api.revision < known
    assert (await call("GET", "secrets")).body["items"] == []
    after = virtual_api.get(NAMESPACES, system)
    assert before
    assert after
    assert uid_of(before) != uid_of(after)
    assert await call.watch("secrets", resourceVersion=str(known), timeoutSeconds="5") == (200, [])
    assert (await call("GET", "secrets", resourceVersion=str(known))).refusal == (504, "Timeout")


async def test_watches_break_or_end(virtual_api: FakeApiServer, call: Probe) -> None:
    for clean in (True, False):
        async with watching(call) as first, watching(call, "pods") as second:
            assert virtual_api.watches == 2
            virtual_api.drop_watches(clean=clean)
            for watch in (first, second):
                if clean:
                    assert await watch.content.readline() == b""
                else:
                    with pytest.raises(aiohttp.ClientError):
                        await watch.content.readline()
    assert virtual_api.watches == 0


async def test_half_open_watches(virtual_api: FakeApiServer, call: Probe) -> None:
    async with watching(call, timeoutSeconds="100", allowWatchBookmarks="true") as watch:
        virtual_api.hang_watches()
        virtual_api.put(secret("a"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000):
                await watch.content.readline()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000), watching(call):
                pass
        virtual_api.resume_watches()
        assert (await read(watch))[0] == "ADDED"
        assert (await read(watch))[0] == "BOOKMARK"
        assert await watch.content.readline() == b""


async def test_bookmarks(virtual_api: FakeApiServer, call: Probe) -> None:
    async with watching(call, timeoutSeconds="130", allowWatchBookmarks="true") as watch, watching(call, timeoutSeconds="130") as without:
        begin = now()
        virtual_api.put(named("a", apiVersion="v1", kind="ConfigMap") | {"metadata": {"name": "a", "namespace": "default"}})
        virtual_api.send_bookmarks()
        assert await read(watch) == (
            "BOOKMARK",
            {"kind": "Secret", "apiVersion": "v1", "metadata": {"resourceVersion": str(virtual_api.revision)}},
        )
        assert now() == begin
        for due in (60, 120):
            assert (await read(watch))[0] == "BOOKMARK"
            assert now() - begin == pytest.approx(due)
        assert await watch.content.readline() == b""
        assert now() - begin == pytest.approx(130)
        assert await without.content.read() == b""
    _, events = await call.watch("secrets", until=None, timeoutSeconds="10", allowWatchBookmarks="true")
    assert [event["type"] for event in events] == ["BOOKMARK"]  # two seconds before the end


async def test_history_that_is_gone(virtual_api: FakeApiServer, call: Probe) -> None:
    for name in "abc":
        await call("POST", "secrets", named(name))
    page = await call("GET", "secrets", limit="1")
    await call("POST", "secrets", named("d"))
    virtual_api.compact()
    code, events = await call.watch("secrets", resourceVersion=str(page.revision))
    assert (code, [event["type"] for event in events]) == (200, ["ERROR"])
    assert (events[0]["object"]["code"], events[0]["object"]["reason"]) == (410, "Expired")
    assert (await call("GET", "secrets", limit="1", **{"continue": page.meta["continue"]})).refusal == (410, "Expired")
    async with watching(call, resourceVersion=str(virtual_api.revision)) as watch:
        virtual_api.compact(as_status=True)
        virtual_api.put(secret("e"))
        assert (await read(watch))[0] == "ADDED"
    assert (await call("GET", "secrets", watch="1", resourceVersion=str(page.revision))).refusal == (410, "Expired")


async def test_a_half_open_watch_whose_history_is_gone(virtual_api: FakeApiServer, call: Probe) -> None:
    async with watching(call, resourceVersion=str(virtual_api.revision)) as watch:
        virtual_api.hang_watches()
        virtual_api.put(secret("a"))
        virtual_api.compact()
        virtual_api.resume_watches()
        assert (await read(watch))[0] == "ERROR"
        assert await watch.content.readline() == b""


async def test_garbage(virtual_api: FakeApiServer, call: Probe) -> None:
    async with watching(call) as watch:
        virtual_api.inject(b"nonsense\n")
        assert await watch.content.readline() == b"nonsense\n"
        virtual_api.put(secret("a"))
        assert (await read(watch))[0] == "ADDED"
        virtual_api.inject(b'{"type":"ADD')
        await asyncio.sleep(1)
        virtual_api.drop_watches(clean=True)
        assert await watch.content.readline() == b'{"type":"ADD'


async def test_a_server_without_watch_list(virtual_api: FakeApiServer, call: Probe) -> None:
    virtual_api.features.watch_list = False
    code, events = await call.watch("secrets", until=None, **STREAM)
    assert (code, events[0]["reason"]) == (422, "Invalid")
    assert "sendInitialEvents is forbidden" in events[0]["message"]


async def test_tokens_and_rights(virtual_api: FakeApiServer, call: Probe) -> None:
    virtual_api.features.allows = lambda attributes: attributes.get("resource") != "nodes"
    for resource, allowed in (("pods", True), ("nodes", False)):
        access = {"spec": {"resourceAttributes": {"verb": "get", "resource": resource}}}
        review = await call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", access)
        assert review.body["status"]["allowed"] is allowed
    virtual_api.tokens.add("good")
    for token, code in (("good", 200), ("bad", 401)):
        async with call.session.get(call.url("secrets"), headers={"Authorization": f"Bearer {token}"}) as found:
            assert found.status == code
    assert (await call("GET", "secrets")).refusal == (401, "Unauthorized")


async def test_tls() -> None:
    async with FakeApiServer(tls=True) as api, aiohttp.ClientSession() as session:
        async with session.get(api.url + PODS.path(), ssl=api.ssl or True) as found:
            assert found.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(api.url + PODS.path())


async def test_a_watch_goes_on_where_the_reader_is_slow(virtual_api: FakeApiServer, call: Probe) -> None:
    async with watching(call, "configmaps") as watch:
        for number in range(300):
            virtual_api.put(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": f"c{number}", "namespace": "default"},
                    "data": {"k": "v" * 5000},
                }
            )
        await asyncio.sleep(100)
        names = [(await read(watch))[1]["metadata"]["name"] for _ in range(300)]
        assert names == [f"c{number}" for number in range(300)]
    assert len(virtual_api.objects(CONFIGMAPS)) == 300


async def test_a_graceful_deletion_waits_for_the_kubelet(virtual_api: FakeApiServer, call: Probe) -> None:
    await call("POST", "pods", pod("a", nodeName="n"))
    await call("DELETE", "pods/a")
    await asyncio.sleep(10_000)
    assert (await call("GET", "pods/a")).code == 200

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web

from syncer.errors import (
    NETWORK_ERRORS,
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    Throttled,
    Unauthorized,
    WatchError,
)
from syncer.kube import answers
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, NODES, PODS, SERVICE_ACCOUNTS, Key, Lane, Resource, Side
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.kube.conftest import Connect, Serve

KEY = Key("default", "a")
WATCH = {"timeoutSeconds": "240"}


def config_map(name: str = "a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        yield server


@pytest.fixture
async def client(api: FakeApiServer, connect: Connect) -> Client:
    return await connect(api.url)


class TestVerbs:
    async def test_create_get_patch_delete(self, client: Client) -> None:
        made = await client.create(CONFIGMAPS, "default", config_map(a="1"))
        assert made["metadata"]["uid"]
        assert (await client.get(CONFIGMAPS, KEY))["data"] == {"a": "1"}
        assert (await client.patch(CONFIGMAPS, KEY, {"data": {"a": None, "b": "2"}}))["data"] == {"b": "2"}
        gone = await client.delete(CONFIGMAPS, KEY, uid=made["metadata"]["uid"])
        assert gone["kind"] in ("Status", "ConfigMap")
        with pytest.raises(NotFound):
            await client.get(CONFIGMAPS, KEY)

    async def test_dry_run_makes_nothing(self, api: FakeApiServer, client: Client) -> None:
        assert (await client.create(CONFIGMAPS, "default", config_map(), dry_run=True))["metadata"]["name"] == "a"
        assert api.get(CONFIGMAPS, KEY) is None

    async def test_delete_spares_another_object_of_that_name(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map())
        with pytest.raises(Conflict):
            await client.delete(CONFIGMAPS, KEY, uid="somebody-else")
        assert api.get(CONFIGMAPS, KEY)

    async def test_delete_without_uid_is_a_bug(self, client: Client) -> None:
        with pytest.raises(ValueError, match="without its uid"):
            await client.delete(CONFIGMAPS, KEY, uid="")

    async def test_pages(self, api: FakeApiServer, client: Client) -> None:
        for number in range(5):
            api.put(config_map(f"a{number}"))
        first, version, token = await client.list_page(CONFIGMAPS, "default", limit=3)
        rest, same_version, end = await client.list_page(CONFIGMAPS, "default", limit=3, continue_=token)
        assert [item["metadata"]["name"] for item in first + rest] == ["a0", "a1", "a2", "a3", "a4"]
        assert version == same_version == str(api.revision)
        assert (bool(token), end) == (True, "")

    async def test_items_of_a_list_get_their_type(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map())
        ((item,), _, _) = await client.list_page(CONFIGMAPS, "default")
        assert (item["apiVersion"], item["kind"]) == ("v1", "ConfigMap")

    async def test_bare_metadata(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map(a="1"))
        ((item,), _, _) = await client.list_page(CONFIGMAPS, "default", metadata_only=True)
        for obj in (item, await client.get(CONFIGMAPS, KEY, metadata_only=True)):
            assert set(obj) == {"apiVersion", "kind", "metadata"}
            assert (obj["apiVersion"], obj["kind"], obj["metadata"]["name"]) == ("v1", "ConfigMap", "a")

    async def test_subresources(self, api: FakeApiServer, client: Client) -> None:
        spec = {"containers": [{"name": "a", "image": "a"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "spec": spec}
        await client.create(PODS, "default", pod)
        changed = await client.patch(PODS, KEY, {"status": {"phase": "Running"}}, subresource="status", lane=Lane.STATUS)
        assert changed["status"]["phase"] == "Running"
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}}
        await client.create(PODS, "default", binding, name="a", subresource="binding")
        stored = api.get(PODS, KEY)
        assert stored
        assert stored["spec"]["nodeName"] == "n"
        api.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "default"}})
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [], "expirationSeconds": 600}}
        made = await client.create(SERVICE_ACCOUNTS, "default", request, name="a", subresource="token")
        assert made["status"]["token"]

    async def test_anything_else(self, client: Client) -> None:
        assert (await client.request_json("GET", "/version"))["gitVersion"]


async def echo(request: web.Request) -> web.Response:
    content = await request.text()
    return web.json_response({"method": request.method, "path": request.raw_path, "headers": dict(request.headers), "body": content})


class TestOnTheWire:
    @pytest.mark.parametrize(
        ("strategy", "content_type"),
        [
            ("merge", "application/merge-patch+json"),
            ("strategic", "application/strategic-merge-patch+json"),
            ("json", "application/json-patch+json"),
            ("apply", "application/apply-patch+yaml"),
        ],
    )
    async def test_patches(self, serve: Serve, connect: Connect, strategy: Any, content_type: str) -> None:
        client = await connect((await serve(echo)).url)
        sent = await client.patch(PODS, KEY, {"a": None}, strategy=strategy, field_manager="me")
        assert sent["headers"]["Content-Type"] == content_type
        assert (sent["method"], sent["path"], sent["body"]) == (
            "PATCH",
            "/api/v1/namespaces/default/pods/a?fieldManager=me",
            '{"a":null}',
        )

    async def test_delete_options(self, serve: Serve, connect: Connect) -> None:
        client = await connect((await serve(echo)).url)
        sent = await client.delete(PODS, KEY, uid="u", grace=0, propagation="Background")
        assert json.loads(sent["body"]) == {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": "u"},
            "gracePeriodSeconds": 0,
            "propagationPolicy": "Background",
        }

    async def test_names_are_encoded_once(self, serve: Serve, connect: Connect) -> None:
        client = await connect((await serve(echo)).url + "/k8s/clusters/c-1")
        roles = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
        sent = await client.get(roles, Key("", "system:node/ü%20"), params={"x": "a,b=c&d"})
        assert (
            sent["path"] == "/k8s/clusters/c-1/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode%2F%C3%BC%2520?x=a%2Cb%3Dc%26d"
        )

    async def test_selectors(self, serve: Serve, connect: Connect) -> None:
        tiny = await serve(echo)
        client = await connect(tiny.url)
        await client.list_page(NODES, label_selector="a in (b,c)", field_selector="metadata.name=x", resource_version="0")
        assert dict(tiny.requests[0].query) == {
            "labelSelector": "a in (b,c)",
            "fieldSelector": "metadata.name=x",
            "limit": "500",
            "resourceVersion": "0",
        }

    async def test_headers(self, serve: Serve, connect: Connect) -> None:
        client = await connect(Cluster((await serve(echo)).url, token="t" * 20_000))
        headers = (await client.get(PODS, KEY))["headers"]
        assert headers["Authorization"] == f"Bearer {'t' * 20_000}"
        assert headers["User-Agent"] == "syncer"
        assert headers["Accept-Encoding"] == "identity"
        assert "Cookie" not in headers

    async def test_environment_proxies_are_not_looked_at_per_request(
        self, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        assert await (await connect((await serve(echo)).url)).get(PODS, KEY)

    async def test_a_proxy(self, serve: Serve, connect: Connect) -> None:
        proxy = await serve(echo)
        client = await connect(Cluster("http://api.invalid", proxy=proxy.url))
        assert (await client.get(PODS, KEY))["headers"]["Host"] == "api.invalid"

    async def test_connections_are_kept(self, serve: Serve, connect: Connect) -> None:
        async def port(request: web.Request) -> web.Response:
            assert request.transport
            return web.json_response({"port": request.transport.get_extra_info("peername")[1]})

        client = await connect((await serve(port)).url)
        assert len({(await client.get(PODS, KEY))["port"] for _ in range(5)}) == 1


def failing(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    async def handler(_: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body if body is not None else {})
        return web.Response(status=status, text=text, headers=headers)

    return handler


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "reason", "error"),
        [
            (400, "BadRequest", ApiError),
            (401, "Unauthorized", Unauthorized),
            (403, "Forbidden", Forbidden),
            (404, "NotFound", NotFound),
            (409, "AlreadyExists", AlreadyExists),
            (409, "Conflict", Conflict),
            (410, "Expired", Expired),
            (422, "Invalid", Invalid),
            (500, "InternalError", ApiError),
        ],
    )
    async def test_kinds(self, serve: Serve, connect: Connect, status: int, reason: str, error: type[ApiError]) -> None:
        status_body = {"kind": "Status", "reason": reason, "message": "no", "details": {"name": "a"}}
        client = await connect((await serve(failing(status, status_body))).url)
        with pytest.raises(error) as caught:
            await client.get(PODS, KEY)
        assert type(caught.value) is error
        assert (caught.value.status, caught.value.reason, caught.value.message) == (status, reason, "no")
        assert caught.value.details == {"name": "a"}
        assert caught.value.retry_after is None

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("<html>Bad\nGateway</html>", "<html>Bad Gateway</html>"),
            ("", "no message"),
            ("[1]", "no message"),
            ("x" * 5000, "x" * 200),
        ],
    )
    async def test_what_is_no_status_is_quoted(self, serve: Serve, connect: Connect, body: str, message: str) -> None:
        client = await connect((await serve(failing(502, body))).url)
        with pytest.raises(ApiError) as caught:
            await client.get(PODS, KEY)
        assert (caught.value.status, caught.value.message) == (502, message)

    @pytest.mark.parametrize(
        ("headers", "body", "seconds"),
        [
            pytest.param({"Retry-After": "7"}, {}, 7.0, id="header"),
            pytest.param({}, {"details": {"retryAfterSeconds": 3}}, 3.0, id="details"),
            pytest.param({"Retry-After": "7"}, {"details": {"retryAfterSeconds": 3}}, 7.0, id="header goes first"),
            pytest.param({"Retry-After": "soon"}, {}, None, id="garbage"),
            pytest.param({"Retry-After": "-1"}, {}, None, id="negative"),
            pytest.param({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, {}, 0.0, id="date gone by"),
            pytest.param({}, {"details": {"retryAfterSeconds": "x"}}, None, id="garbage in details"),
            pytest.param({}, {"details": None}, None, id="none"),
        ],
    )
    @pytest.mark.parametrize("status", [429, 503])
    async def test_retry_after(
        self, serve: Serve, connect: Connect, headers: dict[str, str], body: Any, seconds: float | None, status: int
    ) -> None:
        client = await connect((await serve(failing(status, body, headers))).url)
        with pytest.raises(ApiError) as caught:
            await client.get(PODS, KEY)
        assert caught.value.retry_after == seconds
        assert isinstance(caught.value, Throttled) == (status == 429 or seconds is not None)
        assert client.limits[Lane.SPEC].current == 8

    async def test_a_date_to_come(self, serve: Serve, connect: Connect) -> None:
        client = await connect((await serve(failing(429, {}, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}))).url)
        with pytest.raises(Throttled) as caught:
            await client.get(PODS, KEY)
        assert caught.value.retry_after
        assert caught.value.retry_after > 1e9

    @pytest.mark.parametrize("body", ["", "<html>", "{"])
    async def test_a_success_that_is_not_json_is_a_network_failure(self, serve: Serve, connect: Connect, body: str) -> None:
        client = await connect((await serve(failing(200, body))).url)
        with pytest.raises(aiohttp.ClientPayloadError, match="is not JSON"):
            await client.get(PODS, KEY)

    async def test_an_object_that_is_none_is_a_network_failure(self, serve: Serve, connect: Connect) -> None:
        client = await connect((await serve(failing(200, [1]))).url)
        with pytest.raises(aiohttp.ClientPayloadError, match="is not an object"):
            await client.get(PODS, KEY)
        assert await client.request_json("GET", "/") == [1]

    @pytest.mark.parametrize(
        ("date", "told"), [("Sun, 17 Mar 2030 17:46:40 GMT", datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)), ("soon", None), ("", None)]
    )
    async def test_the_servers_clock(self, serve: Serve, connect: Connect, date: str, told: datetime | None) -> None:
        client = await connect((await serve(failing(200, {}, {"Date": date}))).url)
        assert await client.server_time() == told

    async def test_redirects_are_not_followed(self, serve: Serve, connect: Connect) -> None:
        """They could lead credentials elsewhere."""
        tiny = await serve(failing(302, {}, {"Location": "http://127.0.0.1:1"}))
        with pytest.raises(ApiError) as caught:
            await (await connect(Cluster(tiny.url, token="t"))).get(PODS, KEY)
        assert caught.value.status == 302

    async def test_a_401_is_tried_once_more(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map())
        fault = api.fault(on("get", CONFIGMAPS), status=401, times=1)
        assert await client.get(CONFIGMAPS, KEY)
        fault.lift()
        api.fault(on("get", CONFIGMAPS), status=401)
        before = len(api.requests)
        with pytest.raises(Unauthorized):
            await client.get(CONFIGMAPS, KEY)
        assert len(api.requests) == before + 2

    async def test_nothing_else_is_retried(self, api: FakeApiServer, client: Client) -> None:
        for status in (409, 429, 500, 503, 504):
            fault = api.fault(on("create", CONFIGMAPS), status=status)
            with pytest.raises(ApiError):
                await client.create(CONFIGMAPS, "default", config_map())
            assert fault.hits == 1
            fault.lift()

    async def test_a_refused_connection_fails_at_once(self, api: FakeApiServer, client: Client) -> None:
        await client.request_json("GET", "/version")
        await api.stop()
        with pytest.raises(NETWORK_ERRORS):
            await client.get(PODS, KEY)
        await api.start()
        assert await client.request_json("GET", "/version")

    @pytest.mark.looptime
    async def test_silence_ends_in_a_timeout_and_halves_the_limit(self, api: FakeApiServer, client: Client) -> None:
        api.fault(on("get", PODS), hang=True)
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await client.get(PODS, KEY)
        assert asyncio.get_running_loop().time() - began == pytest.approx(30, abs=1)
        assert client.limits[Lane.SPEC].current == 8

    async def test_a_write_that_broke_off_is_not_sent_twice(self, api: FakeApiServer, client: Client) -> None:
        """The server may have done it: only the queue, which looks at the state first, may try again."""
        await client.request_json("GET", "/version")
        fault = api.fault(on("create", CONFIGMAPS), drop=True, after=True)
        with pytest.raises(NETWORK_ERRORS):
            await client.create(CONFIGMAPS, "default", config_map())
        assert fault.hits == 1
        assert api.get(CONFIGMAPS, KEY)


class TestLanes:
    @pytest.mark.looptime
    async def test_retry_after_pauses_its_lane_only(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map())
        api.fault(on("patch", CONFIGMAPS), status=429, retry_after=5, times=1)
        with pytest.raises(Throttled):
            await client.patch(CONFIGMAPS, KEY, {"data": {}}, lane=Lane.STATUS)
        began = asyncio.get_running_loop().time()
        await client.patch(CONFIGMAPS, KEY, {"data": {"a": "1"}})
        assert asyncio.get_running_loop().time() == began
        await client.patch(CONFIGMAPS, KEY, {"data": {"a": "2"}}, lane=Lane.STATUS)
        assert asyncio.get_running_loop().time() == pytest.approx(began + 5)

    @pytest.mark.looptime
    async def test_the_limit_settles_below_what_the_server_bears(self, api: FakeApiServer, client: Client) -> None:
        api.capacity = 4
        api.fault(lambda _: True, delay=0.05)
        api.put(config_map())

        async def read() -> None:
            while True:
                try:
                    await client.get(CONFIGMAPS, KEY)
                except Throttled:
                    continue
                return

        await asyncio.gather(*(read() for _ in range(200)))
        refused = sum(request.code == 429 for request in api.requests)
        assert refused < 60
        assert client.limits[Lane.SPEC].current <= 8
        assert client.limits[Lane.SPEC].in_flight == 0

    async def test_answers_are_observed(self, api: FakeApiServer, connect: Connect) -> None:
        seen: list[tuple[Any, ...]] = []
        client = await connect(api.url, observe=lambda *what: seen.append(what))
        api.put(config_map())
        await client.get(CONFIGMAPS, KEY)
        with pytest.raises(NotFound):
            await client.patch(PODS, KEY, {}, subresource="status")
        async with client.watch(PODS, params=WATCH):
            pass
        await api.stop()
        with pytest.raises(NETWORK_ERRORS):
            await client.request_json("GET", "/version")
        assert [what[:4] for what in seen] == [
            (Side.HOST, "get", "configmaps", "200"),
            (Side.HOST, "patch", "pods/status", "404"),
            (Side.HOST, "watch", "pods", "200"),
            (Side.HOST, "get", "-", "network"),
        ]
        assert all(0 <= what[4] < 10 for what in seen)


def streaming(*chunks: bytes, end: bool = True) -> Any:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if not end:
            assert request.transport
            request.transport.abort()
        return response

    return handler


class TestWatch:
    async def test_lines_of_any_length(self, serve: Serve, connect: Connect) -> None:
        lines = [b"a" * size + b"\n" for size in (0, 1, 8190, 2**16, 2**18 + 1, 5_000_000, 3)]
        client = await connect((await serve(streaming(b"".join(lines)))).url)
        async with client.watch(PODS, params=WATCH) as response:
            assert [await response.readline() for _ in lines] == lines
            assert await response.readline() == b""

    async def test_lines_beyond_all_measure(self, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(answers, "LONGEST_LINE", 1000)
        client = await connect((await serve(streaming(b"a" * 2000 + b"\n"))).url)
        async with client.watch(PODS, params=WATCH) as response:
            with pytest.raises(WatchError, match="more than 1000 bytes"):
                await response.readline()

    @pytest.mark.parametrize("end", [True, False])
    async def test_half_a_line_is_no_line(self, serve: Serve, connect: Connect, end: bool) -> None:
        client = await connect((await serve(streaming(b"whole\n", b"hal", end=end))).url)
        async with client.watch(PODS, params=WATCH) as response:
            with pytest.raises(NETWORK_ERRORS):  # noqa: PT012 (an abrupt end may overtake the line before it)
                assert await response.readline() == b"whole\n"
                await response.readline()

    async def test_asks_for_what_it_is_told(self, serve: Serve, connect: Connect) -> None:
        tiny = await serve(streaming())
        async with (await connect(tiny.url)).watch(PODS, "ns", params=WATCH | {"labelSelector": "a=b"}, metadata_only=True):
            pass
        request = tiny.requests[0]
        assert request.path == "/api/v1/namespaces/ns/pods"
        assert dict(request.query) == {"watch": "1", "timeoutSeconds": "240", "labelSelector": "a=b"}
        assert request.headers["Accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

    @pytest.mark.parametrize(("status", "error"), [(403, Forbidden), (410, Expired), (429, Throttled), (500, ApiError)])
    async def test_refusals(self, serve: Serve, connect: Connect, status: int, error: type[ApiError]) -> None:
        client = await connect((await serve(failing(status, {"message": "no"}, {"Retry-After": "2"}))).url)
        with pytest.raises(error) as caught:
            async with client.watch(PODS, params=WATCH):
                pass
        assert (caught.value.message, caught.value.retry_after) == ("no", 2)

    async def test_a_401_is_tried_once_more(self, api: FakeApiServer, client: Client) -> None:
        api.fault(on("watch", PODS), status=401, times=1)
        async with client.watch(PODS, params=WATCH):
            pass
        fault = api.fault(on("watch", PODS), status=401)
        with pytest.raises(Unauthorized):
            async with client.watch(PODS, params=WATCH):
                pass
        assert fault.hits == 2

    @pytest.mark.looptime
    async def test_silence_is_a_timeout(self, api: FakeApiServer, client: Client) -> None:
        began = asyncio.get_running_loop().time()
        async with client.watch(PODS, params=WATCH) as response:
            api.hang_watches()
            with pytest.raises(TimeoutError):
                await response.readline()
        assert asyncio.get_running_loop().time() - began == pytest.approx(250, abs=1)

    @pytest.mark.looptime
    async def test_a_server_that_takes_a_watch_and_says_nothing(self, api: FakeApiServer, client: Client) -> None:
        api.pause()
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with client.watch(PODS, params=WATCH):
                pass
        assert asyncio.get_running_loop().time() - began == pytest.approx(30, abs=1)

    async def test_watches_use_up_no_connections_of_requests(self, api: FakeApiServer, client: Client) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(150):
                await stack.enter_async_context(client.watch(PODS, params=WATCH))
            assert await client.request_json("GET", "/version")

    async def test_leaving_a_watch_ends_it_at_the_server(self, api: FakeApiServer, client: Client) -> None:
        async with client.watch(PODS, params=WATCH):
            assert api.watches == 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert api.watches == 0


class TestClosing:
    @pytest.mark.parametrize("tls", [False, True])
    async def test_open_watches_end_at_once(self, authority: trustme.CA, serve: Serve, tls: bool) -> None:
        context = client_context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            client_context = ssl.create_default_context()
            authority.configure_trust(client_context)
        forever = asyncio.Event()

        async def silent(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await forever.wait()
            return response

        tiny = await serve(silent, tls=context)
        client = Client(Cluster(tiny.url, client_context), Side.HOST)
        reading = asyncio.Event()

        async def read() -> None:
            async with client.watch(PODS, params=WATCH) as response:
                reading.set()
                await response.readline()

        async with client:
            task = asyncio.create_task(read())
            await reading.wait()
            await asyncio.sleep(0)
        with pytest.raises(NETWORK_ERRORS):
            await task

    async def test_calls_on_a_closed_client_are_network_errors(self, api: FakeApiServer) -> None:
        assert Client(Cluster(api.url), Side.HOST).closed
        async with Client(Cluster(api.url), Side.HOST) as client:
            assert await client.request_json("GET", "/version")
        assert client.closed
        with pytest.raises(aiohttp.ClientConnectionError, match="the client of the host API server is closed"):
            await client.get(PODS, KEY)
        with pytest.raises(aiohttp.ClientConnectionError):
            async with client.watch(PODS, params=WATCH):
                pass

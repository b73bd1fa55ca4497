"""The watcher against the fake API server, in virtual time. What a real one does is checked in e2e."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from syncer.errors import ApiError, Expired, Forbidden, NotFound, Throttled, Unauthorized, WatchError
from syncer.kube import codec
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, Key, Obj, Resource, Side, key_of
from syncer.kube.watch import (
    RELIST_SECONDS,
    Apply,
    Bookmark,
    Delete,
    Failed,
    Init,
    InitApply,
    InitDone,
    State,
    Watcher,
    WatchEvent,
)
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import Request, on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.kube.conftest import Connect, Serve

pytestmark = pytest.mark.looptime

A, B = Key("default", "a"), Key("default", "b")
HEALTHY = RELIST_SECONDS + 1
"""Long enough for a relist not to be paced."""


def config_map(name: str = "a", *, labels: dict[str, str] | None = None, **data: str) -> Obj:
    metadata: Obj = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | ({"labels": labels} if labels else {}), "data": data}


class Mirror:
    """What a consumer does: keeps its content until a list is complete, then swaps."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.events: list[WatchEvent] = []
        self.objects: dict[Key, Obj] = {}
        self._staged: dict[Key, Obj] | None = None

    async def run(self) -> None:
        async with aclosing(self.watcher.events()) as events:
            async for event in events:
                self.take(event)

    def take(self, event: WatchEvent) -> None:
        self.events.append(event)
        match event:
            case Init():
                self._staged = {}
            case InitApply(obj):
                assert self._staged is not None, "Init comes before InitApply"
                self._staged[key_of(obj)] = obj
            case InitDone():
                assert self._staged is not None, "Init comes before InitDone"
                self.objects, self._staged = self._staged, None
            case Apply(obj):
                assert self._staged is None, "nothing but the list comes between Init and InitDone"
                self.objects[key_of(obj)] = obj
            case Delete(obj):
                assert self._staged is None, "nothing but the list comes between Init and InitDone"
                del self.objects[key_of(obj)]
            case Bookmark() | Failed():
                pass

    @property
    def kinds(self) -> list[str]:
        """The events' names; those of one kind in a row count once."""
        names = [type(event).__name__ for event in self.events]
        return [name for number, name in enumerate(names) if not number or names[number - 1] != name]

    @property
    def failures(self) -> list[Exception]:
        return [event.error for event in self.events if isinstance(event, Failed)]

    def forget(self) -> None:
        self.events.clear()


@asynccontextmanager
async def mirror(client: Client, resource: Resource = CONFIGMAPS, **options: Any) -> AsyncIterator[Mirror]:
    """A mirror that has synced (where the server lets it) and runs on."""
    made = Mirror(Watcher(client, resource, rng=random.Random(1), **options))
    task = asyncio.create_task(made.run())
    try:
        await asyncio.sleep(0.5)
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        yield server


@pytest.fixture
async def client(api: FakeApiServer) -> AsyncIterator[Client]:
    async with Client(Cluster(api.url), Side.VIRTUAL) as opened:
        yield opened


def seen(api: FakeApiServer) -> list[Request]:
    """All requests from now on, with their parameters."""
    requests: list[Request] = []

    def note(request: Request) -> bool:
        requests.append(request)
        return False

    api.fault(note)
    return requests


def content(api: FakeApiServer) -> dict[Key, Obj]:
    return {key_of(obj): codec.prune(obj) for obj in api.objects(CONFIGMAPS)}


class TestListing:
    @pytest.mark.parametrize("watch_list", [True, False])
    async def test_list_then_changes(self, api: FakeApiServer, client: Client, watch_list: bool) -> None:
        api.features.watch_list = watch_list
        api.put(config_map("a", x="1"))
        api.put(config_map("b"))
        async with mirror(client) as made:
            assert made.kinds == ["Init", "InitApply", "InitDone"]
            assert made.objects == content(api)
            assert made.watcher.state is State.WATCHING
            made.forget()
            api.put(config_map("a", x="2"))
            api.put(config_map("c"))
            api.remove(CONFIGMAPS, B)
            await asyncio.sleep(0)
            await asyncio.sleep(0.1)
            assert [type(event) for event in made.events] == [Apply, Apply, Delete]
            assert made.objects == content(api)
            assert made.watcher.restarts == 0

    @pytest.mark.parametrize("watch_list", [True, False])
    async def test_an_empty_list(self, api: FakeApiServer, client: Client, watch_list: bool) -> None:
        api.features.watch_list = watch_list
        async with mirror(client) as made:
            assert made.events == [Init(), InitDone(str(api.revision))]

    async def test_streaming_takes_one_request(self, api: FakeApiServer, client: Client) -> None:
        requests = seen(api)
        async with mirror(client, namespace="default", label_selector="x=y", field_selector="metadata.name=a"):
            pass
        assert [request.verb for request in requests] == ["watch"]
        params = dict(requests[0].params)
        assert 240 <= int(params.pop("timeoutSeconds")) <= 290
        assert params == {
            "watch": "1",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "allowWatchBookmarks": "true",
            "labelSelector": "x=y",
            "fieldSelector": "metadata.name=a",
        }

    async def test_pages_are_remembered(self, api: FakeApiServer, client: Client) -> None:
        api.features.watch_list = False
        for number in range(7):
            api.put(config_map(f"a{number}"))
        requests = seen(api)
        async with mirror(client, page_size=3) as made:
            assert [request.verb for request in requests] == ["watch", "list", "list", "list", "watch"]
            assert made.objects == content(api)
            assert made.failures == []
            await asyncio.sleep(HEALTHY)
            requests.clear()
            api.compact()
            api.drop_watches(clean=True)
            api.put(config_map("b"))
            await asyncio.sleep(2)
            assert "sendInitialEvents" not in {name for request in requests for name in request.params}
            assert made.objects == content(api)

    async def test_selectors_and_namespace(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map("a", labels={"x": "y"}))
        api.put(config_map("b"))
        async with mirror(client, namespace="default", label_selector="x=y") as made:
            assert set(made.objects) == {A}
            api.put(config_map("b", labels={"x": "y"}))
            await asyncio.sleep(0.1)
            assert set(made.objects) == {A, B}
            api.put(config_map("a"))
            await asyncio.sleep(0.1)
            assert set(made.objects) == {B}

    @pytest.mark.parametrize("watch_list", [True, False])
    async def test_bare_metadata(self, api: FakeApiServer, client: Client, watch_list: bool) -> None:
        api.features.watch_list = watch_list
        api.put(config_map("a", x="1"))
        async with mirror(client, metadata_only=True) as made:
            api.put(config_map("b", x="1"))
            await asyncio.sleep(0.1)
            for obj in made.objects.values():
                assert set(obj) == {"apiVersion", "kind", "metadata"}
                assert (obj["apiVersion"], obj["kind"]) == ("v1", "ConfigMap")
            assert set(made.objects) == {A, B}
            api.remove(CONFIGMAPS, A)
            await asyncio.sleep(0.1)
            assert set(made.objects) == {B}

    async def test_objects_are_pruned(self, api: FakeApiServer, client: Client) -> None:
        bulky = config_map("a")
        bulky["metadata"] |= {"managedFields": [{}], "annotations": {codec.LAST_APPLIED: "{}"}}
        api.put(bulky)
        async with mirror(client) as made:
            api.put(bulky | {"metadata": bulky["metadata"] | {"name": "b"}})
            await asyncio.sleep(0.1)
            assert [sorted(obj["metadata"]) for obj in made.objects.values()] == [
                ["creationTimestamp", "name", "namespace", "resourceVersion", "uid"]
            ] * 2

    async def test_a_token_that_expires_amid_the_list_starts_it_anew(self, api: FakeApiServer, client: Client) -> None:
        api.features.watch_list = False
        for number in range(4):
            api.put(config_map(f"a{number}"))
        api.fault(lambda request: "continue" in request.params, status=410, times=1)
        async with mirror(client, page_size=2) as made:
            await asyncio.sleep(2)
            assert made.kinds == ["Init", "InitApply", "Failed", "Init", "InitApply", "InitDone"]
            assert made.objects == content(api)
            assert isinstance(made.failures[0], Expired)

    @pytest.mark.parametrize("watch_list", [True, False])
    async def test_a_list_that_breaks_off_starts_anew(self, api: FakeApiServer, client: Client, watch_list: bool) -> None:
        api.features.watch_list = watch_list
        api.put(config_map("a"))
        api.fault(on("watch" if watch_list else "list"), drop=True, times=2)  # the transport repeats a GET once by itself
        async with mirror(client) as made:
            await asyncio.sleep(2)
            assert [kind for kind in made.kinds if kind != "Init"] == ["Failed", "InitApply", "InitDone"]
            assert made.objects == content(api)
            assert made.watcher.restarts == 1

    async def test_a_stream_that_never_ends_its_list_is_replaced_by_pages(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map("a"))
        api.hang_watches()
        async with mirror(client) as made:
            await asyncio.sleep(29)
            assert made.events == []
            api.resume_watches()
            await asyncio.sleep(1)
            assert made.objects == content(api)

    async def test_deletions_amid_a_streamed_list_are_told_after_it(self, serve: Serve, connect: Connect) -> None:
        a, b, gone = ({"metadata": {"name": name, "uid": name, "resourceVersion": "5"}} for name in ("a", "b", "gone"))
        end = {"metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}}
        early = {"metadata": {"resourceVersion": "1"}}
        stream = [("ADDED", a), ("ADDED", gone), ("BOOKMARK", early), ("DELETED", gone), ("ADDED", b), ("BOOKMARK", end), ("MODIFIED", a)]

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for kind, obj in stream:
                await response.write(codec.dumps({"type": kind, "object": obj}) + b"\n")
            await asyncio.Event().wait()
            return response

        async with mirror(await connect((await serve(handler)).url)) as made:
            assert made.events == [Init(), InitApply(a), InitApply(gone), InitDone("9"), Delete(gone), Apply(b), Apply(a)]

    async def test_a_streamed_list_that_ends_early_is_none(self, serve: Serve, connect: Connect) -> None:
        async def handler(request: web.Request) -> web.Response:
            if "watch" not in request.query:
                return web.json_response({"metadata": {"resourceVersion": "3"}, "items": None})
            return web.Response(body=codec.dumps({"type": "ADDED", "object": config_map("a")}) + b"\n")

        async with mirror(await connect((await serve(handler)).url)) as made:
            await asyncio.sleep(3)
            assert made.kinds[:10] == ["Init", "InitApply", "Failed"] * 2 + ["Init", "InitApply", "Init", "InitDone"]
            assert [type(error) for error in made.failures[:2]] == [WatchError] * 2

    async def test_a_streamed_list_that_never_ends_gives_way_to_pages(self, serve: Serve, connect: Connect) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            if "watch" not in request.query:
                return web.json_response({"metadata": {"resourceVersion": "3"}, "items": [config_map("a")]})
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(codec.dumps({"type": "ADDED", "object": config_map("a")}) + b"\n")
            await asyncio.Event().wait()
            return response

        async with mirror(await connect((await serve(handler)).url)) as made:
            await asyncio.sleep(65)
            assert made.kinds == ["Init", "InitApply", "Failed", "Init", "InitApply", "InitDone", "Apply"]
            assert isinstance(made.failures[0], TimeoutError)
            assert set(made.objects) == {A}

    async def test_a_list_without_a_version_is_none(self, serve: Serve, connect: Connect) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response({"items": []}, status=422 if "watch" in request.query else 200)

        async with mirror(await connect((await serve(handler)).url)) as made:
            assert made.kinds == ["Init", "Failed"]
            assert "without a resourceVersion" in str(made.failures[0])

    @pytest.mark.parametrize("status", [500, 504])
    async def test_streams_that_fail_in_the_server_give_way_to_pages(self, api: FakeApiServer, client: Client, status: int) -> None:
        api.put(config_map("a"))
        api.fault(lambda request: "sendInitialEvents" in request.params, status=status)
        async with mirror(client) as made:
            await asyncio.sleep(10)
            assert made.objects == content(api)
            assert [error.status for error in made.failures if isinstance(error, ApiError)] == [status, status]

    @pytest.mark.parametrize("status", [400, 422])
    async def test_streams_that_are_refused_give_way_to_pages_at_once(self, api: FakeApiServer, client: Client, status: int) -> None:
        api.put(config_map("a"))
        api.fault(lambda request: "sendInitialEvents" in request.params, status=status)
        async with mirror(client) as made:
            assert made.objects == content(api)
            assert made.failures == []


class TestResuming:
    async def test_a_watch_that_ends_in_time_goes_on_where_it_was(self, api: FakeApiServer, client: Client) -> None:
        """Ten hours of nothing: only bookmarks and reconnects, no list, no failure, no check."""
        async with mirror(client) as made:
            requests = seen(api)
            await asyncio.sleep(36_000)
            assert set(made.kinds) == {"Init", "InitDone", "Bookmark"}
            assert made.watcher.restarts == 0
            assert {request.verb for request in requests} == {"watch"}
            assert 36_000 / 290 <= len(requests) <= 36_000 / 240
            assert {request.params["resourceVersion"] for request in requests} == {str(api.revision)}
            assert made.watcher.last_activity > asyncio.get_running_loop().time() - 300

    async def test_bookmarks_move_the_point_of_return(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map("a"))
        async with mirror(client) as made:
            api.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": "default"}})
            api.send_bookmarks()
            await asyncio.sleep(0.1)
            assert made.events[-1] == Bookmark(str(api.revision))
            requests = seen(api)
            api.drop_watches(clean=True)
            await asyncio.sleep(2)
            watches = [request for request in requests if request.verb == "watch"]
            assert [request.params["resourceVersion"] for request in watches] == [str(api.revision)]

    async def test_a_broken_connection_loses_nothing(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map("a"))
        api.put(config_map("b"))
        async with mirror(client) as made:
            made.forget()
            api.drop_watches()
            api.put(config_map("c"))
            api.remove(CONFIGMAPS, B)
            await asyncio.sleep(2)
            assert made.kinds == ["Failed", "Apply", "Delete"]
            assert made.objects == content(api)
            assert made.watcher.restarts == 1

    async def test_a_clean_end_needs_no_list_and_no_failure(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map("a"))
        async with mirror(client) as made:
            made.forget()
            api.drop_watches(clean=True)
            await asyncio.sleep(0.01)
            api.put(config_map("b"))
            await asyncio.sleep(2)
            assert made.kinds == ["Apply"]

    async def test_a_server_that_ends_watches_at_once_is_not_stormed(self, api: FakeApiServer, client: Client) -> None:
        async with mirror(client):
            requests = seen(api)
            for _ in range(1000):
                api.drop_watches(clean=True)
                await asyncio.sleep(0.1)
            assert sum(request.verb == "watch" for request in requests) <= 101

    async def test_a_silent_connection_is_left(self, api: FakeApiServer, client: Client) -> None:
        async with mirror(client) as made:
            api.hang_watches()
            api.put(config_map("a"))
            await asyncio.sleep(239)
            assert made.failures == []
            api._hanging = False  # for new watches only: the old one stays silent
            await asyncio.sleep(62 + 30)
            assert [isinstance(error, TimeoutError) for error in made.failures] == [True]
            assert made.objects == content(api)

    async def test_restart_of_the_server(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map("a"))
        async with mirror(client) as made:
            made.forget()
            await api.stop()
            await asyncio.sleep(10)
            assert set(made.kinds) == {"Failed"}
            api.put(config_map("b"))
            await api.start()
            await asyncio.sleep(31)
            assert made.kinds == ["Failed", "Apply"]
            assert made.objects == content(api)

    async def test_failures_come_ever_more_slowly_and_start_over(self, api: FakeApiServer, client: Client) -> None:
        async with mirror(client) as made:
            await api.stop()
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(600)
            first = len(made.failures)
            assert 600 / 30 < first < 600 / 15 + 8
            await api.start()
            await asyncio.sleep(200)
            assert made.watcher.state is State.WATCHING
            await api.stop()
            await asyncio.sleep(3)
            assert len(made.failures) >= first + 2, "short pauses again"
            assert asyncio.get_running_loop().time() > began

    @pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden), (404, NotFound), (500, ApiError), (503, ApiError)])
    @pytest.mark.parametrize("listed", [True, False])
    async def test_refusals_are_told_and_tried_again(
        self, api: FakeApiServer, client: Client, status: int, kind: type[ApiError], listed: bool
    ) -> None:
        api.put(config_map("a"))
        refuse = None if listed else api.fault(lambda _: True, status=status)
        async with mirror(client) as made:
            if refuse is None:
                refuse = api.fault(lambda _: True, status=status)
                api.drop_watches(clean=True)
            await asyncio.sleep(20)
            assert {type(error) for error in made.failures} == {kind}
            assert 4 <= len(made.failures) <= 12
            refuse.lift()
            api.put(config_map("b"))
            await asyncio.sleep(31)
            assert made.objects == content(api)

    async def test_retry_after_is_obeyed(self, api: FakeApiServer, client: Client) -> None:
        fault = api.fault(on("watch"), status=429, retry_after=100, times=1)
        async with mirror(client) as made:
            await asyncio.sleep(98)
            assert fault.hits == 1
            assert [type(error) for error in made.failures] == [Throttled]
            await asyncio.sleep(3)
            assert made.kinds == ["Failed", "Init", "InitDone"]


class TestRelisting:
    @pytest.mark.parametrize("as_status", [True, False])
    @pytest.mark.parametrize("watch_list", [True, False])
    async def test_410(self, api: FakeApiServer, client: Client, as_status: bool, watch_list: bool) -> None:
        api.features.watch_list = watch_list
        api.put(config_map("a"))
        api.put(config_map("b"))
        async with mirror(client) as made:
            await asyncio.sleep(HEALTHY)
            made.forget()
            api.hang_watches()
            api.remove(CONFIGMAPS, B)
            api.put(config_map("c"))
            api.compact(as_status=as_status)
            api.resume_watches()
            api.drop_watches(clean=True)
            await asyncio.sleep(2)
            assert made.kinds == ["Init", "InitApply", "InitDone"], "not an error, and no pause"
            assert made.objects == content(api)

    async def test_lists_in_a_row_are_paced(self, api: FakeApiServer, client: Client) -> None:
        async with mirror(client) as made:
            api.fault(lambda request: "resourceVersion" in request.params, status=410)
            requests = seen(api)
            for _ in range(600):
                api.drop_watches(clean=True)
                await asyncio.sleep(0.1)
            assert len(requests) < 120
            assert all(isinstance(error, Expired) for error in made.failures)

    async def test_a_wiped_server_does_not_leave_us_waiting(self, api: FakeApiServer, client: Client) -> None:
        """Its resourceVersions begin anew: a watch from the old one would be silent, not an error."""
        for number in range(50):
            api.put(config_map(f"a{number}"))
        async with mirror(client) as made:
            api.wipe()
            api.put(config_map("new"))
            await asyncio.sleep(35)
            assert made.objects == content(api)
            assert set(made.objects) == {Key("default", "new")}

    async def test_a_wipe_behind_a_clean_end_is_noticed_too(self, api: FakeApiServer, client: Client) -> None:
        for number in range(50):
            api.put(config_map(f"a{number}"))
        async with mirror(client) as made:
            await asyncio.sleep(HEALTHY)
            api.hang_watches()
            api.wipe()
            api.resume_watches()
            api.drop_watches(clean=True)
            await asyncio.sleep(35)
            assert made.objects == content(api) == {}

    @pytest.mark.parametrize(
        ("status", "reason", "message"),
        [(504, "Timeout", "Too large resource version: 9, current: 4"), (500, "", "Too large resource version: 9, current: 4")],
    )
    async def test_too_large_a_version(self, api: FakeApiServer, client: Client, status: int, reason: str, message: str) -> None:
        api.put(config_map("a"))
        async with mirror(client) as made:
            api.fault(lambda request: "resourceVersion" in request.params, status=status, reason=reason, message=message)
            requests = seen(api)
            api.drop_watches(clean=True)
            await asyncio.sleep(3)
            assert made.kinds == ["Init", "InitApply", "InitDone", "Failed", "Init", "InitApply", "InitDone"]
            assert "resourceVersion" not in requests[-1].params

    @pytest.mark.parametrize(
        "line",
        [
            b"garbage\n",
            b"\n",
            b"[]\n",
            b'{"type":"ADDED"}\n',
            b'{"type":"ADDED","object":[]}\n',
            b'{"type":"SOMETHING","object":{"metadata":{}}}\n',
            b'{"type":"BOOKMARK","object":{"metadata":{}}}\n',
        ],
    )
    async def test_garbage_is_mended_by_a_list(self, api: FakeApiServer, client: Client, line: bytes) -> None:
        api.put(config_map("a"))
        async with mirror(client) as made:
            api.inject(line)
            api.put(config_map("b"))
            await asyncio.sleep(2)
            assert [type(error) for error in made.failures] == [WatchError]
            assert made.objects == content(api)

    async def test_an_error_event_that_is_not_410_resumes(self, api: FakeApiServer, client: Client) -> None:
        api.put(config_map("a"))
        async with mirror(client) as made:
            made.forget()
            api.inject(b'{"type":"ERROR","object":{"kind":"Status","code":500,"reason":"InternalError","message":"no"}}\n')
            api.put(config_map("b"))
            await asyncio.sleep(2)
            assert made.kinds == ["Failed", "Apply"]
            assert str(made.failures[0]) == "500 InternalError: no"

    async def test_a_server_behind_does_not_take_us_back(self, api: FakeApiServer, client: Client) -> None:
        async with mirror(client):
            api.put(config_map("a"))
            await asyncio.sleep(0.1)
            api.inject(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1"}}}\n')
            await asyncio.sleep(0.1)
            requests = seen(api)
            api.drop_watches()
            await asyncio.sleep(2)
            watches = [request for request in requests if request.verb == "watch"]
            assert [request.params["resourceVersion"] for request in watches] == [str(api.revision)]


class TestManners:
    async def test_other_tasks_get_turns_during_a_burst(self, api: FakeApiServer, client: Client) -> None:
        for number in range(2000):
            api.put(config_map(f"a{number}"))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        watcher = Watcher(client, CONFIGMAPS)
        at: list[int] = []
        async with aclosing(watcher.events()) as events:
            async for event in events:
                at.append(turns)
                if isinstance(event, InitDone):
                    break
        counting.cancel()
        assert max(at.count(turn) for turn in set(at)) <= 101

    @pytest.mark.parametrize("trouble", ["none", "silence", "refusal", "no server"])
    async def test_closing_the_client_ends_the_stream_at_once(self, api: FakeApiServer, trouble: str) -> None:
        """Also amid a pause of half a minute, or while waiting for an answer."""
        async with Client(Cluster(api.url), Side.HOST) as client:
            made = Mirror(Watcher(client, CONFIGMAPS))
            if trouble == "silence":
                api.pause()
            elif trouble == "refusal":
                api.fault(lambda _: True, status=403)
            elif trouble == "no server":
                await api.stop()
            task = asyncio.create_task(made.run())
            await asyncio.sleep(1 if trouble in ("none", "silence") else 200)
        began = asyncio.get_running_loop().time()
        await task
        assert asyncio.get_running_loop().time() == began
        assert bool(made.failures) == (trouble in ("refusal", "no server"))

    async def test_cancelling_the_consumer_ends_the_watch_at_the_server(self, api: FakeApiServer, client: Client) -> None:
        async with mirror(client):
            assert api.watches == 1
        await asyncio.sleep(0.1)
        assert api.watches == 0


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_the_mirror_gets_there(seed: int) -> None:
    """Any order of changes and faults: in the end the consumer holds exactly what the server does."""
    rng = random.Random(seed)
    async with FakeApiServer() as api, Client(Cluster(api.url), Side.HOST) as client:
        api.features.watch_list = rng.random() < 0.5
        async with mirror(client, page_size=rng.choice([1, 3, 500]), metadata_only=rng.random() < 0.2) as made:
            for _ in range(60):
                await disturb(api, rng)
                await asyncio.sleep(rng.choice([0, 0.01, 1, 20]))
            await calm(api)
            await asyncio.sleep(400)
            assert {key: obj["metadata"] for key, obj in made.objects.items()} == {
                key: obj["metadata"] for key, obj in content(api).items()
            }
            assert made.watcher.state is State.WATCHING


async def disturb(api: FakeApiServer, rng: random.Random) -> None:
    name = f"a{rng.randrange(6)}"
    match rng.randrange(14):
        case 0:
            api.drop_watches()
        case 1:
            api.drop_watches(clean=True)
        case 2:
            api.compact(as_status=rng.random() < 0.5)
        case 3:
            api.hang_watches()
        case 4:
            api.resume_watches()
        case 5:
            await api.stop()
            await asyncio.sleep(rng.choice([0, 5]))
            await api.start()
        case 6:
            api.fault(lambda _: True, status=rng.choice([401, 403, 404, 410, 429, 500, 503, 504]), times=rng.randrange(4))
        case 7:
            api.wipe()
        case 8:
            api.inject(rng.choice([b"garbage\n", b"ha", b'{"type":"ERROR","object":{"code":410,"reason":"Expired"}}\n']))
        case 9:
            api.fault(lambda _: True, drop=True, times=1)
        case 10 if api.get(CONFIGMAPS, Key("default", name)):
            api.remove(CONFIGMAPS, Key("default", name))
        case _:
            api.put(config_map(name, x=str(rng.random())))


async def calm(api: FakeApiServer) -> None:
    api.clear_faults()
    api.resume_watches()
    api.put(config_map("last"))

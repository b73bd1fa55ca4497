"""The informer on a scripted watcher, and at the end on the real one with the fake API server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from syncer.errors import FenceClosed, Forbidden, SyncerError, WatchError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, Key, Obj, Side
from syncer.kube.watch import Apply, Bookmark, Delete, Failed, Init, InitApply, InitDone, State, Watcher, WatchEvent
from syncer.runtime.informer import Informer
from syncer.runtime.store import Store
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import EventDict

pytestmark = pytest.mark.looptime

Change = tuple[str, str, bool]
PAUSE = 5.0


class Script:
    """A watcher that tells `steps`: events, or seconds to wait. What is thrown in is told as Failed, followed by a pause."""

    def __init__(self, *steps: WatchEvent | float) -> None:
        self.steps = steps
        self.state = State.EMPTY
        self.restarts = 0
        self.last_activity = -math.inf
        self.thrown: list[WatchError] = []

    async def events(self) -> AsyncGenerator[WatchEvent, None]:
        for step in self.steps:
            if isinstance(step, int | float):
                await asyncio.sleep(step)
                continue
            self.state = State.LISTED if isinstance(step, Failed) else State.WATCHING
            if not isinstance(step, Failed):
                self.last_activity = asyncio.get_running_loop().time()
            try:
                yield step
            except WatchError as error:
                self.thrown.append(error)
                yield Failed(error)
                await asyncio.sleep(PAUSE)


def thing(name: str, rv: int, uid: str = "", **data: Any) -> Obj:
    return {"metadata": {"namespace": "ns", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(rv)}, "data": data}


def listed(*objects: Obj, at: int) -> list[WatchEvent | float]:
    return [Init(), *(InitApply(obj) for obj in objects), InitDone(str(at))]


class Bench:
    """An informer, and what its listeners were told."""

    def __init__(self, *steps: WatchEvent | float, **options: Any) -> None:
        self.script = Script(*steps)
        self.store = Store(Side.VIRTUAL, CONFIGMAPS)
        self.informer = Informer(self.script, self.store, **options)
        self.told: list[tuple[str, str, bool]] = []
        self.store.listeners.append(lambda c: self.told.append((c.key.name, c.kind, c.listed)))

    def names(self) -> list[str]:
        return [key.name for key in self.store]


async def test_lists_then_follows() -> None:
    bench = Bench(
        *listed(thing("a", 1), thing("b", 2), at=3),
        Apply(thing("a", 4, new="1")),
        Apply(thing("c", 5)),
        Delete(thing("b", 6)),
        Bookmark("9"),
    )
    await bench.informer.run()
    assert bench.names() == ["a", "c"]
    assert bench.store.get(Key("ns", "a")) == thing("a", 4, new="1")
    assert bench.told == [("a", "added", True), ("b", "added", True), ("a", "changed", False), ("c", "added", False), ("b", "gone", False)]
    assert bench.store.seen == 9
    assert bench.store.apply(thing("d", 8)) is None, "the watch is past it"


async def test_synced_only_when_the_listeners_have_seen_the_first_list() -> None:
    bench = Bench(Init(), InitApply(thing("a", 1)), 10, InitDone("2"), 10, *listed(thing("a", 1), at=3))
    seen: list[tuple[bool, int]] = []
    bench.store.listeners.append(lambda _: seen.append((bench.informer.synced.is_set(), bench.informer.epoch)))
    task = asyncio.create_task(bench.informer.run())
    await asyncio.sleep(5)
    assert not bench.informer.synced.is_set()
    assert bench.names() == []
    await asyncio.sleep(10)
    assert bench.informer.synced.is_set()
    assert bench.informer.epoch == 1
    await task
    assert bench.informer.epoch == 2
    assert seen == [(False, 1)], "the second list brought nothing new"


async def test_old_content_stays_until_the_list_is_complete() -> None:
    bench = Bench(
        *listed(thing("a", 1), at=2),
        Init(),
        InitApply(thing("b", 3)),
        Failed(OSError("broken")),
        10,
        Init(),
        InitApply(thing("c", 4)),
        10,
        InitDone("5"),
    )
    task = asyncio.create_task(bench.informer.run())
    await asyncio.sleep(5)
    assert bench.names() == ["a"]
    await asyncio.sleep(10)
    assert bench.names() == ["a"]
    await task
    assert bench.names() == ["c"]
    assert bench.told[1:] == [("c", "added", True), ("a", "gone", True)]


@pytest.mark.parametrize("error", [FenceClosed("another cluster"), Forbidden(403, "Forbidden", "no"), TimeoutError()])
async def test_a_refused_list_leaves_everything_as_it_was_and_is_tried_again(error: Exception, logs: list[EventDict]) -> None:
    answers: list[Exception | None] = [None, error, error, None]

    async def fence() -> None:
        if answer := answers.pop(0):
            raise answer

    empty = listed(at=50)
    bench = Bench(*listed(thing("a", 1), at=2), *empty, *empty, *listed(thing("a", 60), at=61), before_swap=fence)
    task = asyncio.create_task(bench.informer.run())
    await asyncio.sleep(2 * PAUSE - 1)
    assert bench.names() == ["a"]
    assert bench.store.seen == 2
    assert bench.informer.epoch == 1
    assert str(bench.informer.error).startswith("a list of configmaps on the virtual side was not taken in: ")
    assert bench.informer.stale_for() == pytest.approx(2 * PAUSE - 1), "although the watcher itself is fine"
    await task
    assert bench.told == [("a", "added", True), ("a", "changed", True)]
    assert len(bench.script.thrown) == 2
    assert bench.informer.error is None
    assert [entry["event"] for entry in logs] == ["informer.synced", "informer.failing", "informer.listed_again", "informer.recovered"]


async def test_own_write_while_the_fence_is_being_asked_survives_an_older_list() -> None:
    bench = Bench(*listed(at=5), *listed(thing("a", 2), at=10))

    async def fence() -> None:
        bench.store.apply(thing("mine", 11))

    bench.informer._before_swap = fence
    await bench.informer.run()
    assert bench.names() == ["a", "mine"]


async def test_the_watcher_ending_right_after_a_refusal_ends_the_informer() -> None:
    class Ends(Script):
        async def events(self) -> AsyncGenerator[WatchEvent, None]:
            yield Init()
            try:
                yield InitDone("1")
            except WatchError:
                return

    async def fence() -> None:
        raise FenceClosed("no")

    bench = Bench(before_swap=fence)
    bench.informer.watcher = Ends()
    await bench.informer.run()
    assert not bench.informer.synced.is_set()


async def test_transform_cuts_and_drops() -> None:
    def small(obj: Obj) -> Obj | None:
        return None if obj["data"].get("drop") else {"metadata": obj["metadata"], "data": {"cut": "1"}}

    bench = Bench(
        *listed(thing("a", 1, x="1"), thing("b", 2, drop="1"), thing("c", 3), at=4),
        Apply(thing("a", 5, y="2")),
        Apply(thing("c", 6, drop="1")),
        Apply(thing("d", 7, drop="1")),
        *listed(thing("a", 8, drop="1"), at=9),
        transform=small,
    )
    await bench.informer.run()
    assert bench.names() == []
    assert bench.told == [
        ("a", "added", True),
        ("c", "added", True),
        ("a", "changed", False),
        ("c", "gone", False),
        ("a", "gone", True),
    ]


async def test_metadata_only_does_not_undo_what_was_fetched_in_full() -> None:
    bench = Bench(*listed(thing("a", 1), at=2), 5, Apply(thing("a", 1)), 5, Apply(thing("a", 6)), partial=True)
    task = asyncio.create_task(bench.informer.run())
    await asyncio.sleep(1)
    bench.store.apply(thing("a", 1, full="1"))
    await asyncio.sleep(5)
    record = bench.store.record(Key("ns", "a"))
    assert record is not None
    assert not record.partial
    await task
    record = bench.store.record(Key("ns", "a"))
    assert record is not None
    assert record.partial


async def test_stale_for() -> None:
    bench = Bench(5, *listed(at=1), 20, Bookmark("2"), 10, Failed(OSError()), 30, Apply(thing("a", 3)), 5, Init(), 7, InitDone("4"), 1)
    task = asyncio.create_task(bench.informer.run())
    ages = []
    for _ in range(6):
        await asyncio.sleep(10)
        ages.append(bench.informer.stale_for())
    await asyncio.sleep(16)
    ages.append(bench.informer.stale_for())
    await task
    ages.append(bench.informer.stale_for())
    assert ages == pytest.approx([5, 15, 5, 15, 25, 35, 11, 1], abs=0.1)


async def test_never_synced_is_infinitely_stale() -> None:
    bench = Bench(Init(), InitApply(thing("a", 1)))
    await bench.informer.run()
    assert bench.informer.stale_for() == math.inf


async def test_signs_of_life_count_only_while_the_store_follows() -> None:
    bench = Bench(*listed(at=1), 100, Failed(OSError()), 50, Init(), 50)
    task = asyncio.create_task(bench.informer.run())
    for until, stale in ((60, 1), (120, 120), (170, 170)):  # watching, failing, listing
        await asyncio.sleep(until - asyncio.get_running_loop().time())
        bench.script.last_activity = until - 1.0
        assert bench.informer.stale_for() == pytest.approx(stale)
    await task


async def test_failures_are_logged_when_they_change(logs: list[EventDict]) -> None:
    no = Forbidden(403, "Forbidden", "no")
    bench = Bench(Failed(no), Failed(Forbidden(403, "Forbidden", "no")), Failed(OSError("x")), *listed(at=1), Failed(no), Bookmark("2"))
    await bench.informer.run()
    assert [(entry["event"], entry.get("error")) for entry in logs] == [
        ("informer.failing", "403 Forbidden: no"),
        ("informer.failing", "x"),
        ("informer.synced", None),
        ("informer.recovered", None),
        ("informer.failing", "403 Forbidden: no"),
        ("informer.recovered", None),
    ]


async def test_versions_that_are_no_numbers_end_it_in_words() -> None:
    bad = thing("a", 1)
    bad["metadata"]["resourceVersion"] = "v1"
    with pytest.raises(SyncerError, match="not a whole number"):
        await Bench(*listed(bad, at=1)).informer.run()


@asynccontextmanager
async def informer_on(api: FakeApiServer, **options: Any) -> AsyncIterator[Informer]:
    async with Client(Cluster(api.url), Side.VIRTUAL) as client:
        informer = Informer(Watcher(client, CONFIGMAPS), Store(Side.VIRTUAL, CONFIGMAPS), **options)
        task = asyncio.create_task(informer.run())
        await asyncio.sleep(1)
        yield informer
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def put(api: FakeApiServer, name: str) -> None:
    api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}})


@pytest.mark.parametrize("streamed", [True, False])
async def test_real_watcher_lists_again_when_the_fence_refuses(virtual_api: FakeApiServer, streamed: bool) -> None:
    """Pins down that the watcher takes a WatchError thrown in like one of its own."""
    virtual_api.features.watch_list = streamed
    put(virtual_api, "a")
    closed = False
    asked = 0

    async def fence() -> None:
        nonlocal asked
        asked += 1
        if closed:
            raise FenceClosed("another cluster")

    async with informer_on(virtual_api, before_swap=fence) as informer:
        assert informer.synced.is_set()
        closed = True
        virtual_api.wipe()
        await asyncio.sleep(60)
        assert informer.store.keys() == [Key("default", "a")]
        assert 3 < asked < 12, "again and again, but with growing pauses"
        assert informer.stale_for() > 59
        closed = False
        put(virtual_api, "b")
        await asyncio.sleep(40)
        assert informer.store.keys() == [Key("default", "b")]
        assert informer.stale_for() < 40


async def test_real_watcher_survives_everything(virtual_api: FakeApiServer) -> None:
    async with informer_on(virtual_api) as informer:
        faults: list[Callable[[], None]] = [virtual_api.compact, virtual_api.drop_watches, virtual_api.wipe]
        for number, fault in enumerate(faults):
            put(virtual_api, f"before-{number}")
            fault()
            put(virtual_api, f"after-{number}")
            await asyncio.sleep(40)
            kept = {str(key): informer.store.get(key) for key in informer.store}
            assert kept == {f"default/{obj['metadata']['name']}": obj for obj in virtual_api.objects(CONFIGMAPS)}

"""Workers on a queue: errors, urgency, draining."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from syncer.runtime.workers import Workers
from syncer.runtime.workqueue import Priority, WorkQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import EventDict

pytestmark = pytest.mark.looptime


@asynccontextmanager
async def running(
    queue: WorkQueue[str], reconcile: Callable[[str], Awaitable[None]], **options: Any
) -> AsyncIterator[tuple[Workers[str], asyncio.Task[None]]]:
    workers = Workers(queue, reconcile, **options)
    task = asyncio.create_task(workers.run())
    await asyncio.sleep(0)
    yield workers, task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not workers.alive


async def test_every_key_is_reconciled_by_as_many_as_there_are() -> None:
    queue: WorkQueue[str] = WorkQueue()
    now: set[str] = set()
    most = 0
    done: list[str] = []

    async def reconcile(key: str) -> None:
        nonlocal most
        now.add(key)
        most = max(most, len(now))
        await asyncio.sleep(1)
        now.remove(key)
        done.append(key)

    async with running(queue, reconcile, count=8, urgent=2) as (workers, _):
        assert workers.alive
        for n in range(30):
            queue.add(str(n))
        await asyncio.sleep(0.5)
        assert workers.busy == 6
        assert workers.longest_run() == pytest.approx(0.5)
        await asyncio.sleep(10)
        assert sorted(done, key=int) == [str(n) for n in range(30)]
        assert most == 6, "two wait for urgent keys"
        assert workers.busy == 0
        assert workers.longest_run() == 0


async def test_urgent_keys_find_a_worker_when_all_others_are_stuck() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def reconcile(key: str) -> None:
        if key.startswith("stuck"):
            await asyncio.sleep(1000)
        done.append(key)

    async with running(queue, reconcile, count=4, urgent=1):
        for n in range(10):
            queue.add(f"stuck-{n}")
        await asyncio.sleep(1)
        queue.add("status", Priority.URGENT)
        await asyncio.sleep(1)
        assert done == ["status"]


async def test_errors_end_no_worker_and_lose_no_key(logs: list[EventDict]) -> None:
    queue: WorkQueue[str] = WorkQueue(jitter=0)
    tries: list[str] = []

    async def reconcile(key: str) -> None:
        tries.append(key)
        if len(tries) == 1:
            raise KeyError("bug")
        if len(tries) == 2:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        queue.forget(key)

    async with running(queue, reconcile, count=1, urgent=0) as (workers, _):
        queue.add("a")
        await asyncio.sleep(10)
        assert tries == ["a", "a", "a"]
        assert workers.alive
        assert queue.failures("a") == 0
    assert [(entry["event"], entry["key"], entry["retry_in"]) for entry in logs] == [
        ("worker.failed", "a", 0.05),
        ("worker.failed", "a", 0.1),
    ]
    assert isinstance(logs[0]["exc_info"], KeyError)


async def test_an_error_handler_that_fails_itself(logs: list[EventDict]) -> None:
    queue: WorkQueue[str] = WorkQueue()
    told: list[str] = []

    async def reconcile(key: str) -> None:
        if len(told) < 2:
            raise OSError(key)

    def on_error(key: str, error: Exception) -> None:
        told.append(f"{key} {error!r}")
        raise RuntimeError("bug in the handler")

    async with running(queue, reconcile, count=2, urgent=1, on_error=on_error) as (workers, _):
        queue.add("a")
        await asyncio.sleep(10)
        assert told == ["a OSError('a')"] * 2
        assert workers.alive
    assert {entry["event"] for entry in logs} == {"worker.error_handler_failed"}


async def test_keys_with_nothing_to_do_do_not_block_the_loop() -> None:
    queue: WorkQueue[str] = WorkQueue()
    left: list[int] = []

    async def reconcile(_: str) -> None:
        pass

    async def other() -> None:
        while len(queue):
            left.append(len(queue))
            await asyncio.sleep(0)

    async with running(queue, reconcile, count=4, urgent=0):
        for n in range(400):
            queue.add(str(n))
        await other()
    assert len(left) >= 100, "each round of the loop takes one key per worker at most"


async def test_drain_lets_running_ones_finish_and_takes_no_more() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def reconcile(key: str) -> None:
        await asyncio.sleep(3)
        done.append(key)

    async with running(queue, reconcile, count=3, urgent=1) as (workers, task):
        for key in "abcd":
            queue.add(key)
        await asyncio.sleep(1)
        start = asyncio.get_running_loop().time()
        assert await workers.drain(30) == 0
        assert asyncio.get_running_loop().time() - start == pytest.approx(2)
        assert sorted(done) == ["a", "b"]
        assert len(queue) == 2
        await task
        assert not workers.alive


async def test_drain_cuts_off_what_does_not_finish_and_leaves_its_key_in_the_queue() -> None:
    queue: WorkQueue[str] = WorkQueue()

    async def reconcile(_: str) -> None:
        await asyncio.sleep(1000)

    async with running(queue, reconcile, count=3, urgent=1) as (workers, task):
        queue.add("a")
        await asyncio.sleep(1)
        assert await workers.drain(5) == 1
        await task
        assert asyncio.get_running_loop().time() == pytest.approx(6, abs=0.1)
        assert len(queue) == 1
        assert await workers.drain(5) == 0, "again, with nobody left"


async def test_a_key_woken_for_in_the_moment_of_draining_stays_in_the_queue() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def reconcile(key: str) -> None:
        done.append(key)

    async with running(queue, reconcile, count=2, urgent=0) as (workers, _):
        queue.add("a")
        await workers.drain(5)
        assert len(queue) + len(done) == 1


async def test_closing_the_queue_ends_the_workers_when_it_is_empty() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def reconcile(key: str) -> None:
        done.append(key)

    async with running(queue, reconcile) as (_, task):
        queue.add("a")
        queue.add("b")
        queue.close()
        await task
        assert done == ["a", "b"]


async def test_cancelled_and_run_again_goes_on_where_it_was() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def reconcile(key: str) -> None:
        await asyncio.sleep(2)
        done.append(key)

    workers = Workers(queue, reconcile, count=2, urgent=0)
    queue.add("a")
    for seconds in (1, 5):
        task = asyncio.create_task(workers.run())
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not workers.alive
    assert done == ["a"]

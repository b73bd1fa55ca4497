"""Tasks that take keys from a queue and reconcile them, some of them for the keys of one lane only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from syncer.runtime.workqueue import Closed, Priority, WorkQueue

K = TypeVar("K", bound=Hashable)

log = structlog.get_logger("syncer.runtime")


class Workers(Generic[K]):
    """`count` tasks that run `reconcile(key)`, of which `urgent` take urgent keys only, and `normal` normal ones.

    `reconcile` settles with the queue itself (`forget`, `retry`, `add_after`). What it raises goes to `on_error(key, error)`,
    by default to the log and into a retry; no error ends a worker, and no key is lost by one.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        reconcile: Callable[[K], Awaitable[None]],
        *,
        count: int = 32,
        urgent: int = 4,
        normal: int = 0,
        on_error: Callable[[K, Exception], None] | None = None,
    ) -> None:
        assert 0 <= urgent + normal < count, "somebody has to take the other keys"
        self._queue = queue
        self._reconcile = reconcile
        self._lanes = [Priority.URGENT] * urgent + [Priority.NORMAL] * normal + [None] * (count - urgent - normal)
        self._on_error = on_error or self._log_and_retry
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[asyncio.Task[None], float] = {}  # since when (loop time)
        self._draining = False

    @property
    def alive(self) -> bool:
        """Whether all workers are there; False before `run` and after it."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def busy(self) -> int:
        """How many are reconciling right now."""
        return len(self._running)

    def longest_run(self) -> float:
        """Seconds for which the longest of the present reconciles has been running; 0.0 when there is none."""
        if not self._running:
            return 0.0
        return asyncio.get_running_loop().time() - min(self._running.values())

    async def run(self) -> None:
        """Until `drain` has been called, the queue was closed and is empty, or this is cancelled (then what runs is cut off)."""
        self._draining = False
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks = [group.create_task(self._work(lane)) for lane in self._lanes]
        finally:
            self._tasks = []

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109 -- it ends in order, not by an error
        """Take no more keys, and let what is running finish; after `timeout` seconds cut it off. How many were cut off."""
        self._draining = True
        tasks = list(self._tasks)
        for task in tasks:
            if task not in self._running:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        cut = len(self._running)
        for task in self._running:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        return cut

    async def _work(self, only: Priority | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not self._draining:
            try:
                key = await self._queue.get(only)
            except Closed:
                return
            self._running[task] = asyncio.get_running_loop().time()
            try:
                await self._reconcile(key)
            except asyncio.CancelledError:
                if task.cancelling():
                    self._queue.add(key)  # for whoever works on this queue next
                    raise
                self._fail(key, RuntimeError("something that the reconcile waited for was cancelled"))
            except Exception as error:  # noqa: BLE001 -- the one place where an error of whatever kind must not end the task
                self._fail(key, error)
            finally:
                del self._running[task]
                self._queue.done(key)
            # Neither get() nor a reconcile with nothing to write gives the loop back by itself.
            await asyncio.sleep(0)

    def _fail(self, key: K, error: Exception) -> None:
        try:
            self._on_error(key, error)
        except Exception:
            log.exception("worker.error_handler_failed", key=str(key))
            self._queue.retry(key)

    def _log_and_retry(self, key: K, error: Exception) -> None:
        log.error("worker.failed", key=str(key), exc_info=error, retry_in=round(self._queue.retry(key), 3))

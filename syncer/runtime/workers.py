"""Workers that take keys from a queue and reconcile them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from syncer.runtime.workqueue import Closed, Priority, WorkQueue

K = TypeVar("K", bound=Hashable)


class Workers(Generic[K]):
    """`count` workers for everything and `urgent` more for the urgent lane alone. An exception never ends a worker."""

    def __init__(
        self,
        queue: WorkQueue[K],
        reconcile: Callable[[K], Awaitable[None]],
        *,
        count: int = 32,
        urgent: int = 4,
        on_error: Callable[[K, Exception], None],
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._lanes: list[Priority | None] = [None] * count + [Priority.URGENT] * urgent
        self._on_error = on_error
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """Whether every worker is at work."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def run(self) -> None:
        """Work until the queue is closed or the caller is cancelled."""
        async with asyncio.TaskGroup() as group:
            self._tasks = [group.create_task(self._work(lane)) for lane in self._lanes]

    async def drain(self, seconds: float) -> None:
        """Take no more keys; wait for those in work, at most so long."""
        self._queue.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _work(self, lane: Priority | None) -> None:
        while True:
            try:
                key = await self._queue.get(lane)
            except Closed:
                return
            try:
                await self._reconcile(key)
            except Exception as error:  # noqa: BLE001  a bug in one pair must not stop the others; the callback tells it
                self._on_error(key, error)
            finally:
                self._queue.done(key)

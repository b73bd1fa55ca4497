"""A loop for tests that hypothesis calls many times, which neither fixtures nor marks of a test can give."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import looptime


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run in a new loop whose time passes at once. There is no I/O to be waited for, so looptime need not poll for it."""
    loop = looptime.new_event_loop(noop_cycles=1)
    try:
        loop.run_until_complete(main())
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        if rest:
            loop.run_until_complete(asyncio.wait(rest))
    finally:
        loop.close()

"""Waiting: for what does not work yet at start, when others may still be starting too, and between two looks at something."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import structlog

from syncer.errors import NETWORK_ERRORS, ConfigError, SyncerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

log = structlog.get_logger("syncer.start")

AGAIN = 2.0
"""Seconds between two attempts."""


async def until_told(word: asyncio.Event, seconds: float) -> None:
    """Wait for so long, or until `word` is set, which is cleared then."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await word.wait()
    word.clear()


async def insist(
    what: str, attempt: Callable[[], Awaitable[T]], *, tell: Callable[[str], None], files_may_come: bool = False, again: float = AGAIN
) -> T:
    """What `attempt` returns, once it works. After each failure `tell` hears what is being waited for; a new cause is logged once.

    Raises ConfigError at once, as only a person can mend that, unless `files_may_come`: a control plane that starts beside us
    still has to write what it names.
    """
    told = ""
    while True:
        try:
            return await attempt()
        except (SyncerError, *NETWORK_ERRORS) as error:
            if isinstance(error, ConfigError) and not files_may_come:
                raise
            words = str(error) or type(error).__name__
            problem = f"{what}: {words}"
            if problem != told:
                log.warning("start.waiting", on=what, error=words, again_in=again)
            told = problem
            tell(problem)
            await asyncio.sleep(again)

"""A program that is run for the user, as if the user had run it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from syncer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PASSED_ON = (*ENDINGS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_OF_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
"""A terminal sends these to all programs in its foreground by itself."""


async def run_program(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Its exit code; 128 and the signal's number if it was killed. Signals are passed on to it. Raises ConfigError if it cannot be run."""
    child: asyncio.subprocess.Process | None = None
    early: list[int] = []

    def pass_on(number: int) -> None:
        if child is None:
            early.append(number)
        # Twice would be once too often: many programs end at once at a second one.
        elif not (number in _OF_TERMINAL and _in_foreground()):
            with suppress(ProcessLookupError):
                child.send_signal(number)

    with handling(_PASSED_ON, pass_on):
        try:
            child = await asyncio.create_subprocess_exec(*words, env=dict(environ))
        except OSError as error:
            raise ConfigError(f"cannot run {words[0]!r} ({error.strerror}); give a program that is on PATH") from None
        for number in early:
            pass_on(number)
        try:
            code = await child.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                child.terminate()
            await child.wait()
            raise
    return code if code >= 0 else 128 - code


@contextmanager
def handling(numbers: Iterable[int], handler: Callable[[int], None]) -> Iterator[None]:
    """Have signals handled in the event loop, and as before afterwards."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        loop.add_signal_handler(number, handler, number)
    try:
        yield
    finally:
        for number, handled in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handled if handled is not None else signal.SIG_DFL)


def _in_foreground() -> bool:
    """Whether this process is one of those to which its terminal sends what is typed."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)

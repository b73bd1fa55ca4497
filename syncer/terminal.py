"""What a command tells its user: results on standard output, everything else on standard error. The only module that prints."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


class Terminal:
    """Results go to `out`, so that they can be piped; words about them to `err`; `answers` is where the user types, by default stdin."""

    def __init__(self, out: TextIO, err: TextIO, answers: TextIO | None = None) -> None:
        self._out = out
        self._err = err
        self._answers = answers

    def print(self, text: str) -> None:
        """A result."""
        print(text, file=self._out, flush=True)

    def say(self, text: str) -> None:
        """Progress, or what the user should know besides."""
        print(text, file=self._err, flush=True)

    def complain(self, text: str) -> None:
        """What went wrong, each line with the program's name in front."""
        for line in text.splitlines():
            print(f"syncer: {line}", file=self._err, flush=True)

    async def agrees(self, question: str) -> bool:
        """Whether the user types yes, or y. At the end of the input he does not."""
        answers = self._answers or sys.stdin
        print(f"{question} [y/N] ", end="", file=self._err, flush=True)
        loop = asyncio.get_running_loop()
        typed = asyncio.Event()
        try:  # not in a thread, which an interrupt would leave behind, waiting
            loop.add_reader(answers, typed.set)
        except (OSError, ValueError):
            pass  # a file, or nothing at all, which nobody waits for
        else:
            try:
                await typed.wait()
            finally:
                loop.remove_reader(answers)
        return answers.readline().strip().lower() in ("y", "yes")

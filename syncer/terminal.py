"""What a command tells its user: results on standard output, everything else on standard error. The only module that prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


class Terminal:
    """Results go to `out`, so that they can be piped; words about them to `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err

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

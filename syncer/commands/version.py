"""`syncer version`."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = "Print the version."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


async def run(_arguments: argparse.Namespace, _environ: Mapping[str, str], terminal: Terminal) -> int:
    """Print it."""
    terminal.print(f"syncer {await asyncio.to_thread(version, 'syncer')}")
    return 0

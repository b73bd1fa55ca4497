"""`syncer start`: the daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import structlog

from syncer import classic, log, settings
from syncer.flags import add_flags, read_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncer.terminal import Terminal

USAGE = "syncer start [FLAG…]"
DESCRIPTION = "Run the syncer until it is stopped."
EPILOG = """\
Write --flag=value or --flag value; a list with commas, or by repeating the flag; a switch without a value means true.
Durations are 15s, 1m30s, or a number of seconds. The environment variable in brackets does the same as its flag, which
wins over it. An empty value means the default.

The flags of the vcluster syncer that are not listed here are known: each is answered with what this version does instead.

Outside of the host cluster, for example:
  syncer start --name=blue --target-namespace=team-blue --kube-config=blue.kubeconfig --host-kube-config=host.kubeconfig
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All settings, and those of the Go original, which are answered in words."""
    add_flags(parser)
    for name in classic.FLAGS:
        parser.add_argument(f"--{name}", action="append", nargs="?", const="true", help=argparse.SUPPRESS)


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], _terminal: Terminal) -> int:
    """Until a signal ends it."""
    chosen, warnings = read_flags(arguments, environ)
    log.configure(chosen.log_format, chosen.log_level)
    logger = structlog.get_logger("syncer.cli")
    for warning in warnings:
        logger.warning("settings.needless", flag=warning.partition(":")[0], message=warning)
    for name in settings.unknown_variables(environ):
        logger.warning("settings.unknown_variable", variable=name, message="nothing reads it; see syncer start --help")

    from syncer import app

    await app.run(chosen)
    return 0

"""The commands of `syncer`, a module each, named as the command is.

A module has a `DESCRIPTION`, `add_arguments(parser)` and `async def run(arguments, environ, terminal) -> int`, whose result is the
exit code; USAGE and EPILOG if argparse's own would not do; TAKES_PROGRAM if it wants what stands after `--`: that is the list
`arguments.program`, empty for every other one. What fails is raised: `cli` tells it and chooses the code. Modules
import what is heavy only in `run`, so that --help and mistakes are answered at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

SUMMARIES = {
    "create": "make a virtual cluster",
    "connect": "a kubeconfig for a virtual cluster, or a command with one",
    "list": "the virtual clusters of a host",
    "use": "switch to a virtual cluster that was connected to before",
    "disconnect": "switch back to the host",
    "pause": "stop everything of a virtual cluster, and keep its data",
    "resume": "go on after a pause",
    "delete": "delete a virtual cluster, with all that it has on the host",
    "status": "how a virtual cluster is doing",
    "orphans": "what is left on the host of virtual clusters that are no more",
    "start": "run the syncer",
    "prepare": "make what a control plane beside the syncer needs before it starts",
    "rights": "what the host grants, what is on and off, and the RBAC rules that the flags need",
    "release-deletions": "let deletions go ahead that are being held",
    "completion": "a script that makes a shell complete commands, flags and names",
    "version": "print the version",
}
"""All commands in the order of --help, each in a few words."""


class Command(Protocol):
    """What a module of this package is."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what the command takes."""

    async def run(self, arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
        """Do it, and return the exit code."""


def command(name: str) -> Command:
    """The module of one of SUMMARIES."""
    return cast("Command", importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))

"""`syncer pause`: nothing of a virtual cluster runs, and its data stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = """\
Stop the control plane and all pods of the tenant. Claims, Services and everything else stay, and so does what the virtual cluster knows:
`syncer resume` brings it all back, pods without a controller too. Safe to run again after it was interrupted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster."""
    from syncer.releases.hosts import add_release_arguments, add_timeout_argument

    add_release_arguments(parser)
    add_timeout_argument(parser, "5m", "until all pods have ended")


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Return when nothing runs any more."""
    import time

    from syncer.releases.connection import nearest
    from syncer.releases.pausing import pause
    from syncer.releases.waiting import Progress

    async with nearest(arguments, environ) as (client, release):
        release.require_ours()
        progress = Progress(f"pausing {release.name}", terminal.say, time.monotonic, arguments.timeout)
        count = await pause(client, release, progress)
    pods = f"{count} pod{'' if count == 1 else 's'} of the tenant stopped"
    terminal.say(f"{release.name} is paused, {pods}; `syncer resume {release.name} --namespace={release.namespace}` brings it back")
    return 0

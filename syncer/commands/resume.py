"""`syncer resume`: what `pause` stopped goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = """\
Start the control plane of a paused virtual cluster, with as many replicas as it had, and wait until it is ready. It then starts the pods
again that the pause stopped, each on its node."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster."""
    from syncer.releases.hosts import add_release_arguments, add_timeout_argument

    add_release_arguments(parser)
    add_timeout_argument(parser, "5m", "until it is ready")


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Return when it is ready, also one that was not paused."""
    import time

    from syncer.releases.connection import nearest
    from syncer.releases.pausing import resume
    from syncer.releases.readiness import wait_ready
    from syncer.releases.waiting import Progress

    async with nearest(arguments, environ) as (client, release):
        release.require_ours()
        progress = Progress(f"resuming {release.name}", terminal.say, time.monotonic, arguments.timeout)
        if not await resume(client, release, progress):
            terminal.say(f"{release.name} is not paused")
        await wait_ready(client, release.name, release.namespace, progress)
    terminal.say(f"{release.name} is ready after {progress.elapsed:.0f} s; its pods follow")
    return 0

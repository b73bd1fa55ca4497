"""`syncer release-deletions`: a person has looked, and what is held may be deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from syncer.flags import OF_A_RELEASE, add_flags, read_flags

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.settings import Settings
    from syncer.terminal import Terminal

USAGE = "syncer release-deletions [FLAG…]"
DESCRIPTION = """\
Let the deletions go ahead that the syncer holds because nobody was seen asking for so many of them.
Look first why both sides differ: /readyz?verbose and the log name them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster."""
    add_flags(parser, OF_A_RELEASE)


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Tell until when."""
    chosen, _ = read_flags(arguments, environ)
    now = await release(chosen)
    terminal.print(f"deletions held until {now} are released; the syncer goes on with them within seconds")
    return 0


async def release(settings: Settings) -> str:
    """Write the present time on the owner ConfigMap, and return it: every deletion held until then may go ahead.

    It is the host's, as the syncer judges it by its own clock: that of this machine may be anything. The host tells whole
    seconds, so the end of the present one is written: what has been held since half a second ago is meant as well, and
    the syncer takes no release for later than the moment at which it reads it.
    """
    from syncer.errors import ConfigError, NotFound
    from syncer.kube.client import Client
    from syncer.kube.config import load_cluster
    from syncer.kube.types import CONFIGMAPS, Side
    from syncer.sync.fence import RELEASE_DELETIONS, owner_key

    owner = owner_key(settings.target_namespace, settings.name)
    async with Client(await load_cluster(settings.host_kube_config or None), Side.HOST) as host:
        now = ((await host.server_time() or datetime.now(UTC)) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            await host.patch(CONFIGMAPS, owner, {"metadata": {"annotations": {RELEASE_DELETIONS: now}}})
        except NotFound:
            raise ConfigError(
                f"there is no ConfigMap {owner} on the host, so no virtual cluster {settings.name!r} lives there; "
                "see --name and --target-namespace"
            ) from None
    return now

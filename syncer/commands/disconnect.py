"""`syncer disconnect`: back to the context of the host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from syncer.commands.use import add_file_argument

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = """\
Make the context current again from which the virtual cluster of the current one was connected to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which kubeconfig."""
    add_file_argument(parser)


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Tell which context it is."""
    from syncer.releases import contexts, kubeconfigs
    from syncer.releases.hosts import kubeconfig_files

    def leave() -> str:
        files = kubeconfig_files(environ, arguments.kubeconfig)
        context = contexts.host_of_current(kubeconfigs.read(files))
        kubeconfigs.change(kubeconfigs.to_write(files), lambda document: contexts.with_current(document, context))
        return context

    context = await asyncio.to_thread(leave)
    terminal.say(f"the current context is now {context}")
    return 0

"""`syncer use`: make the context of a virtual cluster current that `connect` made before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = """\
Make the context of a virtual cluster current that `syncer connect` made before. `syncer disconnect` leads back to the host."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster, and which kubeconfig."""
    parser.add_argument("name", metavar="NAME", help="the virtual cluster")
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", default="", help="its host namespace, if several have one of that name")
    add_file_argument(parser)


def add_file_argument(parser: argparse.ArgumentParser) -> None:
    """`--kubeconfig`, as kubectl has it."""
    parser.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig to change [KUBECONFIG, else ~/.kube/config]")


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Tell which context it is."""
    from syncer.releases import contexts, kubeconfigs
    from syncer.releases.hosts import kubeconfig_files

    def switch() -> str:
        files = kubeconfig_files(environ, arguments.kubeconfig)
        context = contexts.chosen_for(kubeconfigs.read(files), arguments.name, arguments.namespace)
        kubeconfigs.change(kubeconfigs.to_write(files), lambda document: contexts.with_current(document, context))
        return context

    context = await asyncio.to_thread(switch)
    terminal.say(f"the current context is now {context}; `syncer disconnect` leads back")
    return 0

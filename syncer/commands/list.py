"""`syncer list`: the virtual clusters of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = """\
List the virtual clusters of the host, or of one namespace. PODS are the tenant's that run or want to; CPU and MEMORY are what these and the
control plane ask for together, as the host's scheduler and quotas count it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how it looks."""
    from syncer.releases.forms import add_form_argument
    from syncer.releases.hosts import add_host_arguments

    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", default="", help="only those in this host namespace (default: all)")
    add_form_argument(parser)
    add_host_arguments(parser)


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Print it; a table without a line is told on standard error."""
    import time

    from syncer.releases.forms import rendered
    from syncer.releases.hosts import host_of
    from syncer.releases.listing import documents, lines, listed

    host = await host_of(arguments, environ)
    async with await host.connect() as client:
        rows = await listed(client, arguments.namespace)
    if arguments.output:
        terminal.print(rendered(documents(rows), arguments.output))
    elif rows:
        terminal.print("\n".join(lines(rows, time.time())))
    else:
        terminal.say("there are no virtual clusters" + (f" in namespace {arguments.namespace}" if arguments.namespace else ""))
    return 0

"""`syncer status`: how a virtual cluster is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.releases.standing import Findings
    from syncer.terminal import Terminal

DESCRIPTION = """\
Tell how a virtual cluster is doing: each loop of its syncer, how far it is behind, what the host refuses and why, deletions that are
held, fields that are contested, the fence, who leads, certificates, and whether both API servers answer. Ask for it through the host's
API server (get and create of pods/portforward); without an answer, tell what the host knows. Exit code 0 if it is healthy, else 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster, and the form."""
    from syncer.releases.forms import add_form_argument
    from syncer.releases.hosts import add_release_arguments

    parser.add_argument("--url", metavar="URL", help="of the syncer's health port (http://127.0.0.1:8081), where it does not run in a pod")
    add_form_argument(parser)
    add_release_arguments(parser)


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Tell it."""
    import time

    from syncer.releases.forms import rendered
    from syncer.releases.standing import lines, standing

    findings = await (_by_url if arguments.url else _by_release)(arguments, environ)
    document = standing(findings, time.time())
    terminal.print(rendered(document, arguments.output) if arguments.output else "\n".join(lines(document, time.time())))
    return 0 if document["healthy"] else 1


async def _by_release(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Findings:
    from syncer.releases.connection import nearest
    from syncer.releases.pages import find_out

    async with nearest(arguments, environ) as (host, release):
        return await find_out(host, release)


async def _by_url(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Findings:
    """The host is needed only where there is no page."""
    from dataclasses import replace

    from syncer.errors import NETWORK_ERRORS, ConfigError, SyncerError
    from syncer.releases.connection import home
    from syncer.releases.hosts import hosts_of
    from syncer.releases.pages import fetch, of_host
    from syncer.releases.standing import Findings

    try:
        page = await fetch(arguments.url)
    except (SyncerError, *NETWORK_ERRORS) as error:
        hosts = await hosts_of(arguments, environ)
        # It need not have a StatefulSet there.
        chosen, namespace = home(hosts, arguments.name, arguments.namespace) or (hosts[0], arguments.namespace or hosts[0].namespace)
        async with await chosen.connect() as host:
            found = await of_host(host, arguments.name, namespace)
        return replace(found, pages={"": str(error) or type(error).__name__})
    whose = page["name"], page["namespace"]
    if whose[0] != arguments.name or (arguments.namespace and whose[1] != arguments.namespace):
        raise ConfigError(f"--url: the syncer there is that of virtual cluster {whose[0]} in {whose[1]}, not of {arguments.name}")
    return Findings(name=whose[0], namespace=whose[1], pages={"": page})

"""`syncer delete`: nothing of a virtual cluster is left."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = """\
Delete a virtual cluster with all that it has on the host, in whatever state it is, and print what was removed. Nothing is deleted that is
not provably its own. The namespace goes too if `syncer create` made it and nothing else is in it."""
_GRACE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster, and what is to stay."""
    from syncer.releases.hosts import add_release_arguments, add_timeout_argument

    add_release_arguments(parser)
    parser.add_argument(
        "--delete-namespace",
        action=argparse.BooleanOptionalAction,
        help="delete the namespace, whoever made it, or not even if `create` did; never one that something else is in",
    )
    claims = parser.add_mutually_exclusive_group()
    claims.add_argument("--keep-pvc", action="store_true", help="keep all claims, of the control plane and of the tenant, and their data")
    claims.add_argument("--delete-pvcs", dest="keep_pvc", action="store_false", help="delete them (the default)")
    words = f"seconds that pods have to end (default: {_GRACE}; with --keep-pvc what each was promised)"
    parser.add_argument("--grace-period", metavar="SECONDS", type=_seconds, help=words)
    add_timeout_argument(parser, "2m", "until everything is gone")


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Print what was removed, and what was kept and why."""
    import time

    from syncer.releases.deletion import Deletion, Wishes, locate
    from syncer.releases.helm import Helm
    from syncer.releases.hosts import host_of
    from syncer.releases.waiting import Progress

    name: str = arguments.name
    grace = arguments.grace_period
    if grace is None and not arguments.keep_pvc:
        grace = _GRACE
    wishes = Wishes(keep_claims=arguments.keep_pvc, namespace=arguments.delete_namespace, grace=grace)
    progress = Progress(f"deleting {name}", terminal.say, time.monotonic, arguments.timeout)
    host = await host_of(arguments, environ)
    helm = await Helm.find(host, environ)
    async with await host.connect() as client:
        namespace = await locate(client, helm, name, arguments.namespace)
        deleted = await Deletion(client, helm, name, namespace, wishes, progress).run()
    terminal.print("\n".join(deleted.lines()))
    terminal.say(f"{name} in namespace {namespace} is gone after {progress.elapsed:.0f} s")
    return 0


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds, one at least")
    return int(text)

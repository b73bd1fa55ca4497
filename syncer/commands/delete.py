"""`syncer delete`: nothing of a virtual cluster is left."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncer.releases.hosts import Host
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

    from syncer.releases.contexts import Origin
    from syncer.releases.deletion import Deletion, Wishes
    from syncer.releases.helm import Helm
    from syncer.releases.hosts import hosts_of
    from syncer.releases.waiting import Progress

    name: str = arguments.name
    grace = arguments.grace_period
    if grace is None and not arguments.keep_pvc:
        grace = _GRACE
    wishes = Wishes(keep_claims=arguments.keep_pvc, namespace=arguments.delete_namespace, grace=grace)
    progress = Progress(f"deleting {name}", terminal.say, time.monotonic, arguments.timeout)
    host, namespace = await _find(await hosts_of(arguments, environ), name, arguments.namespace, environ)
    helm = await Helm.find(host, environ)
    async with await host.connect() as client:
        deleted = await Deletion(client, helm, name, namespace, wishes, progress).run()
    terminal.print("\n".join(deleted.lines()))
    for forgotten in await asyncio.to_thread(_forget, Origin(name, namespace, host.context).context, arguments, environ):
        terminal.say(forgotten)
    terminal.say(f"{name} in namespace {namespace} is gone after {progress.elapsed:.0f} s")
    return 0


async def _find(hosts: list[Host], name: str, namespace: str, environ: Mapping[str, str]) -> tuple[Host, str]:
    """Where it, or what is left of it, is: in which namespace of which host."""
    from syncer.errors import NoSuchCluster
    from syncer.releases.connection import find_near, home
    from syncer.releases.deletion import locate
    from syncer.releases.helm import Helm

    try:
        host, release = await find_near(hosts, name, namespace)
    except NoSuchCluster:
        host, namespace = home(hosts, name, namespace) or (hosts[-1], namespace)
    else:
        return host, release.namespace
    async with await host.connect() as client:
        return host, await locate(client, await Helm.find(host, environ), name, namespace)


def _forget(context: str, arguments: argparse.Namespace, environ: Mapping[str, str]) -> list[str]:
    """Take the context that `connect` made out of the kubeconfigs in use; in words."""
    from syncer.releases import contexts, kubeconfigs
    from syncer.releases.hosts import kubeconfig_files

    files = [file for file in kubeconfig_files(environ, arguments.kubeconfig) if file.exists()]
    documents = kubeconfigs.read(files)
    known = contexts.names(documents)
    return [
        f"context {context} removed from {file}; the current context is now {after.get('current-context') or 'none'}"
        for file, document in zip(files, documents, strict=True)
        if context in contexts.names([document])
        for after in [kubeconfigs.change(file, lambda found: contexts.forgotten(found, context, known))]
    ]


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds, one at least")
    return int(text)

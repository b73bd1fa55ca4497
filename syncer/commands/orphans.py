"""`syncer orphans`: what virtual clusters have left on the host that are no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

DESCRIPTION = """\
Show what is left on the host of virtual clusters that do not exist any more: copies that a syncer made, its own Secrets, ConfigMaps and
Leases, claims of control planes, and what has no namespace. Whatever cannot be proven to be such is not shown, nor what belongs to a
virtual cluster of which there is any sign, be it paused or half installed. With --delete, delete exactly these."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and what to do with them."""
    from syncer.releases.forms import add_form_argument
    from syncer.releases.hosts import add_host_arguments

    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", default="", help="of virtual clusters of this namespace (default: the context's)"
    )
    where.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces, also of those that are gone")
    parser.add_argument("--delete", action="store_true", help="delete them, after asking")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--keep-pvc", action="store_true", help="leave out claims, and their data")
    add_form_argument(parser)
    add_host_arguments(parser)


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """1 if something was to be deleted and was not."""
    import time

    from syncer.errors import ConfigError
    from syncer.releases.belongings import is_claim
    from syncer.releases.forms import rendered
    from syncer.releases.hosts import host_of
    from syncer.releases.leftovers import DONE, Leftovers
    from syncer.releases.orphans import lines

    if arguments.yes and not arguments.delete:
        raise ConfigError("--yes: agrees to --delete, which is not given")
    host = await host_of(arguments, environ)
    async with await host.connect() as client:
        leftovers = Leftovers(client, "" if arguments.all_namespaces else arguments.namespace or host.namespace, time.time)
        found = [orphan for orphan in await leftovers.look() if not (arguments.keep_pvc and is_claim(orphan.item))]
        for remark in leftovers.remarks:
            terminal.say(remark)
        if arguments.output:
            terminal.print(rendered([orphan.document() for orphan in found], arguments.output))
        elif found:
            terminal.print("\n".join(lines(found, time.time())))
        else:
            terminal.say(
                "there are no orphans" + ("" if arguments.all_namespaces else f" of namespace {arguments.namespace or host.namespace}")
            )
        if not found or not arguments.delete:
            return 0
        if not arguments.yes and not await terminal.agrees(f"delete these {len(found)} objects, and data with claims?"):
            terminal.say("nothing was deleted")
            return 1
        results = await leftovers.remove(found)
    for orphan, words in results:
        terminal.say(f"{orphan.item.resource.kind} {orphan.item.key} {words}")
    return 0 if all(words in DONE for _, words in results) else 1

"""`syncer rights`: what the host grants and what is needed, as a table or as RBAC objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncer.flags import OF_A_RELEASE, add_flags, read_flags

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from syncer.kube.types import Obj
    from syncer.settings import Settings
    from syncer.sync.extent import Extent
    from syncer.terminal import Terminal

USAGE = "syncer rights [FLAG…]"
DESCRIPTION = """\
Ask the host what it grants and serves, and print what that leaves on and off. With --yaml, print the Role and the
ClusterRole that the given flags need, without asking anybody: kubectl apply takes them."""
_RBAC = "rbac.authorization.k8s.io"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster, and the settings that rights depend on."""
    parser.add_argument("--yaml", action="store_true", help="print the RBAC rules, and nothing else")
    add_flags(parser, (*OF_A_RELEASE, "sync", "disable-sync-resources", "leader-elect", "proxy-metrics-server"))


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """1 if the syncer could not run with what it is granted."""
    chosen, _ = read_flags(arguments, environ)
    if arguments.yaml:
        import yaml

        terminal.print(yaml.safe_dump_all(roles(chosen), sort_keys=False).rstrip())
        return 0
    extent = await ask(chosen)
    terminal.print("\n".join([*table(extent), *(f"cannot run: {wait}" for wait in extent.waits)]))
    return 1 if extent.waits else 0


async def ask(settings: Settings) -> Extent:
    """What the host allows of what `settings` want."""
    from syncer import resources
    from syncer.kube.client import Client
    from syncer.kube.config import load_cluster
    from syncer.kube.types import Side
    from syncer.proxy.usage import features
    from syncer.sync.extent import ask_extent

    specs = resources.chosen(settings.enabled(resources.known()))
    async with Client(await load_cluster(settings.host_kube_config or None), Side.HOST) as host:
        return await ask_extent(
            host,
            settings.target_namespace,
            specs,
            election=settings.leader_elect,
            named=frozenset(settings.sync),
            unwanted=resources.unwanted(specs),
            features=features(metrics=settings.proxy_metrics_server),
        )


def roles(settings: Settings) -> list[Obj]:
    """The Role, and where something cluster-scoped is needed the ClusterRole, to bind to the syncer's service account."""
    from syncer import resources
    from syncer.proxy.usage import features
    from syncer.sync.rights import needed_rights, rules

    needed = needed_rights(
        resources.chosen(settings.enabled(resources.known())),
        election=settings.leader_elect,
        features=features(metrics=settings.proxy_metrics_server),
    )
    name = f"vc-{settings.name}"
    metadata = {"name": name, "namespace": settings.target_namespace}
    objects: list[Obj] = [{"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules(needed)}]
    if cluster := rules(needed, cluster=True):
        metadata = {"name": f"{name}-v-{settings.target_namespace}"}
        objects.append({"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": cluster})
    return objects


def table(extent: Extent) -> Iterator[str]:
    """Lines for a person: loop, on or off, and why."""
    width = max(len("LOOP"), *(len(row.name) for row in extent.rows)) + 2
    yield f"{'LOOP':<{width}}STATE  WHY"
    for row in extent.rows:
        first, *more = row.why.split("; ")
        yield f"{row.name:<{width}}{'on' if row.on else 'off':<7}{first}".rstrip()
        yield from (f"{'':<{width + 7}}{line}" for line in more)

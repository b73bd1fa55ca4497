"""The commands besides `syncer start`: each asks or tells the host one thing, and says what to print."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import yaml

from syncer import resources
from syncer.errors import ConfigError, NotFound
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import CONFIGMAPS, Obj, Side
from syncer.proxy.usage import features
from syncer.sync.extent import Extent, ask_extent
from syncer.sync.fence import RELEASE_DELETIONS, owner_key
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncer.settings import Settings

_RBAC = "rbac.authorization.k8s.io"


async def release_deletions(settings: Settings) -> str:
    """Write the present time on the owner ConfigMap: every deletion held until now may go ahead."""
    owner = owner_key(settings.target_namespace, settings.name)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    async with Client(await load_cluster(settings.host_kube_config or None), Side.HOST) as host:
        try:
            await host.patch(CONFIGMAPS, owner, {"metadata": {"annotations": {RELEASE_DELETIONS: now}}})
        except NotFound:
            raise ConfigError(
                f"there is no ConfigMap {owner} on the host, so no virtual cluster {settings.name!r} lives there; "
                "see --name and --target-namespace"
            ) from None
    return f"deletions held until {now} are released; the syncer goes on with them within seconds"


async def rights(settings: Settings) -> tuple[str, bool]:
    """What the host allows of what `settings` want, as a table, and whether the syncer could run."""
    specs = resources.chosen(settings.enabled(resources.known()))
    async with Client(await load_cluster(settings.host_kube_config or None), Side.HOST) as host:
        extent = await ask_extent(
            host,
            settings.target_namespace,
            specs,
            election=settings.leader_elect,
            named=frozenset(settings.sync),
            unwanted=resources.unwanted(specs),
            features=features(metrics=settings.proxy_metrics_server),
        )
    return "\n".join([*table(extent), *(f"cannot run: {wait}" for wait in extent.waits)]), not extent.waits


def roles(settings: Settings) -> str:
    """The Role, and where something cluster-scoped is needed the ClusterRole, to bind to the syncer's service account: as YAML."""
    needed = needed_rights(
        resources.chosen(settings.enabled(resources.known())),
        election=settings.leader_elect,
        features=features(metrics=settings.proxy_metrics_server),
    )
    name = f"vc-{settings.name}"
    objects: list[Obj] = [
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": {"name": name, "namespace": settings.target_namespace},
            "rules": rules(needed),
        }
    ]
    if cluster := rules(needed, cluster=True):
        metadata = {"name": f"{name}-v-{settings.target_namespace}"}
        objects.append({"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": cluster})
    return yaml.safe_dump_all(objects, sort_keys=False).rstrip()


def table(extent: Extent) -> Iterator[str]:
    """Lines for a person: loop, on or off, and why."""
    width = max(len("LOOP"), *(len(row.name) for row in extent.rows)) + 2
    yield f"{'LOOP':<{width}}STATE  WHY"
    for row in extent.rows:
        first, *more = row.why.split("; ")
        yield f"{row.name:<{width}}{'on' if row.on else 'off':<7}{first}".rstrip()
        yield from (f"{'':<{width + 7}}{line}" for line in more)

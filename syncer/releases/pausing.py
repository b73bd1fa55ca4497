"""Pause: nothing runs, and all data stays. Resume: the same state is back.

The order is what keeps it safe, whenever it is interrupted, and however often it is run:

1. The StatefulSet says that it is paused and how many replicas it had, in the same patch that takes them away. With a replica the syncer
   would take a host pod that goes for lost, and delete the tenant's.
2. Once no pod of the control plane is left, a datastore with a StatefulSet of its own follows, in the same way.
3. The owner ConfigMap says up to when host pods had been started, so that the syncer starts those again (see `resources.pods.pauses`).
4. The host pods are deleted, each with the grace period that it asks for. Those that have finished stay, with their logs.

Before a resume gives the replicas back, no host pod may be on its way out: to the syncer it would look as if somebody had deleted it.

Who resumes beside a pause has the last word: the pause looks before each step and while it waits, and gives back what it took since.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from syncer.errors import ConfigError, Conflict, NoSuchCluster, NotFound
from syncer.kube.types import CONFIGMAPS, PODS, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.releases.belongings import tenant_pods
from syncer.releases.readiness import until
from syncer.releases.release import CONTROL_PLANE, PAUSED, STATEFUL_SETS
from syncer.sync.fence import PAUSED_AT, owner_key
from syncer.translate.status import is_finished

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncer.kube.client import Client
    from syncer.kube.types import Key, Obj
    from syncer.releases.release import Release
    from syncer.releases.waiting import Progress

REPLICAS, DATE = "loft.sh/paused-replicas", "loft.sh/paused-date"
"""Annotations beside PAUSED: the Go original's."""
_DATASTORE_VARIABLE = "K3S_DATASTORE_ENDPOINT"
_AT_ONCE = 50
_AGAIN = "run the same command again to go on waiting"


def require_lasting(stateful_sets: Iterable[Obj]) -> None:
    """Raise ConfigError if what the virtual cluster knows is in a pod, and would go with it."""
    for stateful_set in stateful_sets:
        spec = ((stateful_set.get("spec") or {}).get("template") or {}).get("spec") or {}
        containers = {container["name"]: container for container in spec.get("containers") or ()}
        in_pod = any(volume["name"] == "data" and "emptyDir" in volume for volume in spec.get("volumes") or ())
        external = any(item.get("name") == _DATASTORE_VARIABLE for item in containers.get("vcluster", {}).get("env") or ())
        if in_pod and not external and containers.keys() & {"vcluster", "etcd"}:
            raise ConfigError(
                f"{key_of(stateful_set).name} keeps what the virtual cluster knows in its pod (storage.persistence is off), "
                "and a pause would lose it; only one with a volume, or with a datastore of its own, can be paused"
            )


def pause_patch(stateful_set: Obj, now: datetime) -> Obj | None:
    """What takes the replicas away and remembers them; None when that is done. One that was scaled up meanwhile is paused anew."""
    annotations = annotations_of(stateful_set)
    replicas = (stateful_set.get("spec") or {}).get("replicas", 1)
    paused = PAUSED in annotations
    if paused and replicas == 0:
        return None
    marks = {PAUSED: "true", REPLICAS: str(replicas), DATE: timestamp(now)}
    return {"metadata": {"annotations": marks, "uid": uid_of(stateful_set)}, "spec": {"replicas": 0}}


def resume_patch(stateful_set: Obj) -> Obj | None:
    """What gives the replicas back; None when it is not paused. Somebody who scaled it up meanwhile has the last word."""
    annotations = annotations_of(stateful_set)
    if PAUSED not in annotations:
        return None
    had = annotations.get(REPLICAS, "")
    replicas = int(had) if had.isascii() and had.isdigit() else 1
    now = (stateful_set.get("spec") or {}).get("replicas", 1)
    return {
        "metadata": {"annotations": {PAUSED: None, REPLICAS: None, DATE: None}, "uid": uid_of(stateful_set)},
        "spec": {"replicas": now or replicas or 1},
    }


def paused_at(pods: Iterable[Obj], now: datetime, recorded: str = "") -> str:
    """Up to when these host pods had been started: the latest of the times on them, of our own clock, and of what is recorded.

    Their times are those of other machines, whose clocks may be ahead of ours.
    """
    times = [timestamp(now)]
    for pod in pods:
        status = pod.get("status") or {}
        times += [status.get("startTime") or "", (pod.get("metadata") or {}).get("creationTimestamp") or ""]
        times += [item.get("lastTransitionTime") or "" for item in status.get("conditions") or () if item.get("type") == "PodScheduled"]
    with suppress(ValueError):
        times.append(timestamp(datetime.fromisoformat(recorded)))
    return max(times)


def timestamp(moment: datetime) -> str:
    """As Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def pause(host: Client, release: Release, progress: Progress) -> int:
    """Take everything down that runs; how many host pods of the tenant that were. Raises TooLate: then run it again."""
    main, *datastores = await _stateful_sets(host, release)
    require_lasting([main, *datastores])
    await _take_down(host, release, [main], progress)
    await _require_paused(host, release)
    await _take_down(host, release, datastores, progress)
    names = Names(release.name, release.namespace)
    running = [pod for pod in await _pods(host, names) if not is_finished(pod)]
    await _require_paused(host, release)
    await _record(host, release, running)
    for start in range(0, len(running), _AT_ONCE):
        await _require_paused(host, release)
        await asyncio.gather(*(_delete(host, pod) for pod in running[start : start + _AT_ONCE]))
    gone = {uid_of(pod) for pod in running}

    async def ending() -> str:
        await _require_paused(host, release)
        return _still("the tenant's pods", [key_of(pod).name for pod in await _pods(host, names) if uid_of(pod) in gone])

    await until(ending, progress, f"they may take as long as they were promised; {_AGAIN}")
    return len(running)


async def resume(host: Client, release: Release, progress: Progress) -> bool:
    """Give the replicas back; False when it was not paused. Raises TooLate: then run it again."""
    if not _resumptions(await _stateful_sets(host, release)):
        return False
    names = Names(release.name, release.namespace)

    async def ending() -> str:
        left = [key_of(pod).name for pod in await _pods(host, names) if is_deleting(pod)]
        return _still("pods of before the pause", left)

    await until(ending, progress, "they have to end first, or their owners would be taken for deleted; run the same command again")
    await _resume(host, await _stateful_sets(host, release))
    return True


def _resumptions(stateful_sets: list[Obj]) -> list[tuple[Key, Obj]]:
    """Datastores first."""
    return [(key_of(one), patch) for one in reversed(stateful_sets) if (patch := resume_patch(one))]


async def _resume(host: Client, stateful_sets: list[Obj]) -> None:
    for key, patch in _resumptions(stateful_sets):
        await host.patch(STATEFUL_SETS, key, patch)


async def _stateful_sets(host: Client, release: Release) -> list[Obj]:
    """The control plane's own first, which the syncer runs in; then datastores. Raises NoSuchCluster without the first."""
    found = await host.list_all(STATEFUL_SETS, release.namespace, label_selector=f"{CONTROL_PLANE},release={release.name}")
    if all(key_of(one).name != release.name for one in found):
        raise NoSuchCluster(f"{release.name} in namespace {release.namespace} is gone: somebody deleted it meanwhile; see `syncer list`")
    return sorted(found, key=lambda one: (key_of(one).name != release.name, key_of(one).name))


async def _pods(host: Client, names: Names) -> list[Obj]:
    selector = f"{LABEL_MANAGED_BY}={names.suffix}"
    return tenant_pods(await host.list_all(PODS, names.host_namespace, label_selector=selector), names)


async def _take_down(host: Client, release: Release, stateful_sets: list[Obj], progress: Progress) -> None:
    for stateful_set in stateful_sets:
        if patch := pause_patch(stateful_set, datetime.now(UTC)):
            with suppress(NotFound):  # the next look tells what that means
                await host.patch(STATEFUL_SETS, key_of(stateful_set), patch)
    owners = {uid_of(stateful_set) for stateful_set in stateful_sets}

    async def running() -> str:
        await _require_paused(host, release)
        pods = await host.list_all(PODS, release.namespace, label_selector=f"{CONTROL_PLANE},release={release.name}")
        return _still("pods of the control plane", [key_of(pod).name for pod in pods if _owners(pod) & owners])

    await until(running, progress, _AGAIN)


async def _delete(host: Client, pod: Obj) -> None:
    if not is_deleting(pod):
        with suppress(NotFound, Conflict):
            await host.delete(PODS, key_of(pod), uid=uid_of(pod))


def _still(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} are still ending: {', '.join(sorted(names)[:3])}{more}"


async def _record(host: Client, release: Release, pods: list[Obj]) -> None:
    owner = owner_key(release.namespace, release.name)
    try:
        recorded = annotations_of(await host.get(CONFIGMAPS, owner)).get(PAUSED_AT, "")
        mark: dict[str, Any] = {"metadata": {"annotations": {PAUSED_AT: paused_at(pods, datetime.now(UTC), recorded)}}}
        await host.patch(CONFIGMAPS, owner, mark)
    except NotFound:
        if not pods:
            return
        raise ConfigError(
            f"the ConfigMap {owner} is gone, where a pause is written down, so that resuming would lose pods: "
            "`syncer resume` and look at the syncer's log first"
        ) from None


async def _require_paused(host: Client, release: Release) -> None:
    """Give way to whoever resumed it: what the pause stopped since then, a datastore, comes back, and the rest is left alone."""
    stateful_sets = await _stateful_sets(host, release)
    if PAUSED not in annotations_of(stateful_sets[0]):
        await _resume(host, stateful_sets)
        raise ConfigError(f"somebody resumed {release.name} meanwhile, so its pods are left alone; pause it again if it is to stop")


def _owners(pod: Obj) -> set[str]:
    return {owner.get("uid", "") for owner in pod["metadata"].get("ownerReferences") or ()}

"""Deletes a virtual cluster so that nothing of it is left, and nothing of anybody else is touched.

The control plane goes first, or it would make things anew. Then Helm removes what it knows, while the host's garbage collector and we
remove the rest; what is left is looked for among all types that the host serves, by the rules in `belongings`, until nothing is.
Helm's record need not be there, nor all of its objects: so a half-made release goes, and one whose deletion was interrupted.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from syncer.errors import ConfigError, Conflict, Forbidden, NoSuchCluster, NotFound
from syncer.kube.types import (
    CONFIGMAPS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    is_deleting,
    key_of,
    labels_of,
)
from syncer.naming import LABEL_CLUSTER
from syncer.releases import namespaces
from syncer.releases.belongings import Item, belongings, is_claim, is_labelled, is_record
from syncer.releases.orphans import DEPLOYMENTS
from syncer.releases.readiness import in_time, until
from syncer.releases.release import STATEFUL_SETS, find_release, require_ours
from syncer.releases.survey import Survey, elsewhere

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from syncer.kube.client import Client
    from syncer.kube.types import Key, Obj, Resource
    from syncer.releases.helm import Helm, Record
    from syncer.releases.waiting import Progress

_SETTLE_SECONDS = 2.0
"""For how long the host's controllers may need to remove what they made for objects that are gone."""
_SHOWN = 5
_AGAIN = "run the same command again to go on"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user says: keep claims, the namespace (None: if `create` made it), and how long pods may take to end."""

    keep_claims: bool = False
    namespace: bool | None = None
    grace: int | None = None


@dataclass
class Deleted:
    """What was removed and what was left, in words."""

    removed: dict[str, Item] = field(default_factory=dict)
    kept: list[Item] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    """What becomes of the volumes of claims that were removed: that is not up to us."""
    namespace: str = ""
    """What became of the namespace."""
    unseen: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people: a line for each type."""
        lines = [f"{_counted(kind, names)} deleted" for kind, names in sorted(_by_kind(self.removed.values()).items())]
        lines += [f"{_counted(kind, names)} kept" for kind, names in sorted(_by_kind(self.kept).items())]
        lines += self.volumes
        if self.unseen:
            lines.append(f"not looked at, as listing them fails or is not allowed: {', '.join(self.unseen)}")
        return [*lines, self.namespace] if self.namespace else lines


def fate(volume: Obj) -> str:
    """What becomes of a volume whose claim is gone."""
    name = key_of(volume).name
    if (volume.get("spec") or {}).get("persistentVolumeReclaimPolicy") == "Retain":
        return f"PersistentVolume {name} kept, with its data: that is its reclaim policy"
    return f"PersistentVolume {name} is left to its provisioner to delete"


def _by_kind(items: Iterable[Item]) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        found[item.resource.kind].append(item.key.name)
    return found


def _counted(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{kind} {', '.join(sorted(names)[:_SHOWN])}{more}"


async def locate(host: Client, helm: Helm, name: str, namespace: str = "") -> str:
    """The namespace of a virtual cluster, or of what is left of one. Raises NoSuchCluster, or ConfigError if there are several."""
    if namespace:
        return namespace
    try:
        return (await find_release(host, name)).namespace
    except NoSuchCluster as error:
        found = {record.namespace for record in await helm.records(name) if record.ours}
        owners = await host.list_all(CONFIGMAPS, label_selector=f"{LABEL_CLUSTER}={name}", metadata_only=True)
        found |= {key_of(owner).namespace for owner in owners if key_of(owner).name == f"vc-{name}-owner"}
        if len(found) > 1:
            raise ConfigError(f"parts of {name} are in the namespaces {', '.join(sorted(found))}; choose one with --namespace") from None
        if not found:
            raise error from None
        return found.pop()


class Deletion:
    """Of one virtual cluster."""

    def __init__(self, host: Client, helm: Helm, name: str, namespace: str, wishes: Wishes, progress: Progress) -> None:
        self._host = host
        self._helm = helm
        self._name = name
        self._namespace = namespace
        self._wishes = wishes
        self._progress = progress
        self._survey = Survey(host, namespace)
        self._done = Deleted()

    async def run(self) -> Deleted:
        """All of it. Raises NoSuchCluster if nothing is there, TooLate if something does not go."""
        records = await self._helm.records(self._name, self._namespace)
        everything, own = await self._look()
        self._refuse_others(records, everything)
        if not own and not records:
            raise NoSuchCluster(f"there is nothing of a virtual cluster {self._name!r} in namespace {self._namespace}; see `syncer list`")
        self._require_sight(records)
        namespace = await namespaces.to_go(self._host, self._namespace, self._wishes.namespace)
        going = {item.uid for item in own if not self._keeps(item)}
        strangers = [item for item in everything if item.uid not in going and not (records and is_record(item, self._name))]
        if begun := namespace is not None and not namespaces.why_kept(strangers, self._survey.unseen):
            await namespaces.delete(self._host, namespace)  # the host lets 5 s pass before it begins with that
        await self._stop_control_plane(own)
        await self._detach_claims()
        if records:
            pods = [in_time(partial(self._delete, item), self._progress, _AGAIN) for item in own if item.resource == PODS]
            await asyncio.gather(self._helm.uninstall(self._name, self._namespace), *pods)
        self._done.removed |= {item.uid: item for item in own if item.uid in going}
        await until(self._sweep, self._progress, "something keeps it; its finalizers tell who, see kubectl get -o yaml; run it again then")
        self._done.unseen = sorted(self._survey.unseen)
        self._done.volumes = await self._volumes()
        if namespace is not None:
            self._done.namespace = await self._end_namespace(namespace, begun=begun)
        return self._done

    def _refuse_others(self, records: Iterable[Record], everything: Iterable[Item]) -> None:
        """Raise ConfigError if it is the Go original's, whose copies have the same marks as ours."""
        for record in records:
            if not record.ours:
                what = f"{self._name} is a Helm release of {record.chart} in namespace {self._namespace}"
                raise ConfigError(f"{what}; manage it with the program that made it")
        for item in everything:
            if item.resource in (STATEFUL_SETS, DEPLOYMENTS) and is_labelled(labels_of(item.obj), self._name):
                require_ours(item.obj, self._name)

    def _require_sight(self, records: Collection[Record]) -> None:
        """Raise ConfigError if it cannot be known whose it is, what of it would still run, or what would be lost."""
        claims = [PERSISTENT_VOLUME_CLAIMS] if self._wishes.keep_claims else []
        needed = (STATEFUL_SETS, PODS, *claims, *([] if records else [DEPLOYMENTS]))
        if hidden := self._survey.unseen & set(map(str, needed)):
            raise ConfigError(f"nothing is deleted, as you may not list {', '.join(sorted(hidden))} in namespace {self._namespace}")

    async def _look(self) -> tuple[list[Item], list[Item]]:
        """Everything in the namespace, and what is its own there and elsewhere."""
        found, more = await asyncio.gather(self._survey.everything(), elsewhere(self._host, self._name, self._namespace))
        return found, belongings([*found, *more], self._name, self._namespace)

    async def _stop_control_plane(self, own: list[Item]) -> None:
        """With claims that are kept it may end as it likes: it has data to write."""
        stateful_sets = [item for item in own if item.resource.group == STATEFUL_SETS.group and item.resource.plural == "statefulsets"]
        for item in stateful_sets:
            patch: dict[str, object] = {"replicas": 0}
            if self._wishes.keep_claims:  # or their owner, the StatefulSet, takes them along
                patch["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": "Retain", "whenScaled": "Retain"}
            await in_time(partial(self._patch, STATEFUL_SETS, item.key, {"spec": patch}), self._progress, _AGAIN)
        owners = {item.uid for item in stateful_sets}

        async def running() -> str:
            pods = [item for item in await self._survey.of([PODS]) if _owners(item) & owners]
            await asyncio.gather(*(self._delete(item) for item in pods))
            return f"pod {pods[0].key.name} of the control plane is still ending" if pods else ""

        await until(running, self._progress, "its node does not answer; when it is lost, delete the pod with --force, and run it again")

    async def _patch(self, resource: Resource, key: Key, patch: Obj) -> None:
        with suppress(NotFound):
            await self._host.patch(resource, key, patch)

    async def _detach_claims(self) -> None:
        """Kept claims have no owner any more that would take them along."""

        async def owned() -> str:
            _, own = await self._look()
            claims = [item for item in own if is_claim(item) and item.obj["metadata"].get("ownerReferences")]
            for item in claims:
                metadata = {"uid": item.uid, "resourceVersion": item.obj["metadata"]["resourceVersion"], "ownerReferences": None}
                with suppress(Conflict):
                    await self._patch(PERSISTENT_VOLUME_CLAIMS, item.key, {"metadata": metadata})
            return f"{claims[0]} still has an owner" if claims else ""

        if self._wishes.keep_claims:
            await until(owned, self._progress, _AGAIN)

    async def _sweep(self) -> str:
        """Delete what is left; in words, what does not go."""
        _, own = await self._look()
        left = [item for item in own if not self._keeps(item)]
        self._done.kept = [item for item in own if self._keeps(item)]
        for item in left:
            self._done.removed.setdefault(item.uid, item)
        await asyncio.gather(*(self._delete(item) for item in left))
        stuck = [f"{item} ({', '.join(held)})" if (held := item.obj["metadata"].get("finalizers")) else str(item) for item in left]
        return f"still there: {', '.join(stuck[:_SHOWN])}" if stuck else ""

    def _keeps(self, item: Item) -> bool:
        return self._wishes.keep_claims and is_claim(item)

    async def _delete(self, item: Item) -> None:
        """With the grace period that was wished for, which may be shorter than the one that is running."""
        metadata = item.obj["metadata"]
        grace = self._wishes.grace if item.resource == PODS else None
        given = metadata.get("deletionGracePeriodSeconds")
        if is_deleting(item.obj) and (grace is None or given is None or given <= grace):
            return
        with suppress(NotFound, Conflict):
            await self._host.delete(item.resource, item.key, uid=item.uid, grace=grace)

    async def _volumes(self) -> list[str]:
        claims = {item.uid for item in self._done.removed.values() if is_claim(item)}
        if not claims:
            return []
        try:
            volumes = await in_time(partial(self._host.list_all, PERSISTENT_VOLUMES), self._progress, "everything is gone")
        except Forbidden:
            return []
        return [fate(volume) for volume in volumes if ((volume.get("spec") or {}).get("claimRef") or {}).get("uid") in claims]

    async def _end_namespace(self, namespace: Obj, *, begun: bool) -> str:
        """In words what became of it."""
        deadline = min(self._progress.elapsed + _SETTLE_SECONDS, self._progress.limit)
        why = ""

        async def settled() -> str:
            nonlocal why
            why = namespaces.why_kept(await self._survey.everything(), self._survey.unseen)
            if not why:
                await namespaces.delete(self._host, namespace)
            return why if self._progress.elapsed < deadline else ""

        if not begun:
            await until(settled, self._progress, "the virtual cluster itself is gone")
        if why:
            return f"Namespace {self._namespace} kept: {why}"
        await namespaces.wait_gone(self._host, namespace, self._progress)
        return f"Namespace {self._namespace} deleted"


def _owners(item: Item) -> set[str]:
    return {owner.get("uid", "") for owner in item.obj["metadata"].get("ownerReferences") or ()}

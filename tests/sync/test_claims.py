"""Claims through the whole engine: in which order a binding shows, and how little is taken for a reason to delete data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from syncer.kube.types import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Key, Obj, is_deleting, uid_of
from syncer.sync.guard import Guard, Orphans
from syncer.sync.ledger import State
from tests.sync.harness import HOST_NAMESPACE, NAMES, World, named, running, stage

pytestmark = pytest.mark.looptime

DATA = Key("default", "data")
HOST_DATA = NAMES.host_key(DATA)
VOLUME = Key("", "pvc-1")


def claim(name: str = "data") -> Obj:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "fast"}
    return named("PersistentVolumeClaim", name, spec=spec, status={"phase": "Pending"})


def bind(world: World, name: str = "data", volume: str = "pvc-1") -> None:
    """What the host's provisioner and binder do."""
    key = NAMES.host_key(Key("default", name))
    host = world.host.get(PERSISTENT_VOLUME_CLAIMS, key)
    assert host is not None
    reference = {"namespace": HOST_NAMESPACE, "name": key.name, "uid": uid_of(host)}
    spec = {"capacity": {"storage": "1Gi"}, "claimRef": reference, "hostPath": {"path": "/srv"}, "storageClassName": "fast"}
    world.host.create(named("PersistentVolume", volume, "", spec=spec, status={"phase": "Bound"}))
    annotations, status = {"pv.kubernetes.io/bind-completed": "yes"}, {"phase": "Bound", "capacity": {"storage": "1Gi"}}
    change = {"metadata": {"annotations": annotations}, "spec": {"volumeName": volume}, "status": status}
    world.host.change(PERSISTENT_VOLUME_CLAIMS, key, change)


def phase(world: World, key: Key = DATA) -> Any:
    found = world.virtual.get(PERSISTENT_VOLUME_CLAIMS, key)
    return found and found.get("status", {}).get("phase")


def kept(world: World, name: str = "data") -> bool:
    found = world.host.get(PERSISTENT_VOLUME_CLAIMS, NAMES.host_key(Key("default", name)))
    return found is not None and not is_deleting(found)


def history(world: World) -> Iterable[tuple[str, str]]:
    """What every watcher of the virtual cluster saw of claims and volumes, in order."""
    for event in world.virtual.registry.storage.history:
        phase = event.obj.get("status", {}).get("phase", "Pending")
        if event.resource == PERSISTENT_VOLUMES:
            yield "volume", phase
        elif event.resource == PERSISTENT_VOLUME_CLAIMS:
            yield "claim", f"{phase} {event.obj['spec'].get('volumeName', '')}".strip()


async def test_nobody_sees_a_bound_claim_without_its_volume() -> None:
    async with running() as world:
        world.virtual.create(claim())
        await world.settle()
        bind(world)
        await world.settle()
        assert phase(world) == "Bound"
        seen = list(dict.fromkeys(history(world)))
        assert ("volume", "Bound") in seen
        volumes = [index for index, (kind, _) in enumerate(seen) if kind == "volume"]
        assert min(volumes) < seen.index(("claim", "Pending pvc-1")) < seen.index(("claim", "Bound pvc-1"))
        assert await world.scan_writes() == []


async def test_it_is_bound_once_the_tenants_volume_of_that_name_is_gone() -> None:
    async with running() as world:
        world.virtual.create(named("PersistentVolume", "pvc-1", "", spec={"hostPath": {"path": "/x"}}))
        world.virtual.create(claim())
        await world.settle()
        bind(world)
        await world.settle()
        assert phase(world) != "Bound"
        world.virtual.remove(PERSISTENT_VOLUMES, VOLUME)
        await world.settle(limit=10)
        assert phase(world) == "Bound"


async def test_a_deletion_that_was_seen_takes_the_host_claim_along() -> None:
    async with running() as world:
        world.virtual.create(claim())
        await world.settle()
        bind(world)
        await world.settle()
        world.virtual.remove(PERSISTENT_VOLUME_CLAIMS, DATA)
        await world.settle()
        assert not kept(world)


async def test_not_even_one_claim_goes_because_it_is_merely_absent() -> None:
    async with stage() as world:
        await world.start()
        world.virtual.create(claim())
        await world.settle()
        bind(world)
        await world.settle()
        await world.kill()
        world.virtual.remove(PERSISTENT_VOLUME_CLAIMS, DATA)
        syncer = await world.start()
        await world.settle()
        assert kept(world)
        assert syncer.rows()["persistentvolumeclaims", str(DATA)] == State.HELD
        syncer.guard.release(2_000_000_000.0)
        syncer.engine._look_again_at_held()
        await world.settle()
        assert not kept(world)


async def test_a_deletion_that_was_noted_is_remembered_over_a_restart() -> None:
    async with stage() as world:
        await world.start()
        body = claim()
        body["metadata"]["finalizers"] = ["kubernetes.io/pvc-protection"]
        world.virtual.create(body)
        await world.settle()
        bind(world)
        await world.settle()
        world.virtual.change(PERSISTENT_VOLUME_CLAIMS, DATA, {"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z"}})
        await world.settle()
        assert kept(world)  # in use, for all that is known
        await world.kill()
        world.virtual.remove(PERSISTENT_VOLUME_CLAIMS, DATA)
        await world.start()
        await world.settle()
        assert not kept(world)


async def test_deleted_on_the_host_it_is_lost_and_stays_so() -> None:
    async with running() as world:
        world.virtual.create(claim())
        await world.settle()
        bind(world)
        await world.settle()
        world.host.remove(PERSISTENT_VOLUME_CLAIMS, HOST_DATA)
        await world.settle()
        assert phase(world) == "Lost"
        assert world.host.get(PERSISTENT_VOLUME_CLAIMS, HOST_DATA) is None
        assert ("ClaimLost", "data") in world.warnings()
        assert await world.scan_writes() == []


@pytest.mark.parametrize(("irreplaceable", "held"), [(True, True), (False, False)])
async def test_of_what_is_irreplaceable_no_number_is_small_enough(irreplaceable: bool, held: bool) -> None:
    async def verify() -> None:
        """The control plane is the right one."""

    async def orphans() -> Orphans:
        return Orphans(0, 1000)  # counted before this one was missing

    guard = Guard(limit_count=25, limit_fraction=0.25, verify=verify, wall=lambda: 1000.0, announce=lambda *_: None, told=None)
    assert (await guard.permit("claims", (), orphans, irreplaceable=irreplaceable) is not None) is held
    guard.saw_deleted("uid-1")
    assert await guard.permit("claims", ("uid-1",), orphans, irreplaceable=irreplaceable) is None

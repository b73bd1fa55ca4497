"""A pause and a resume that are cut off at any request that writes, and run again."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from syncer.errors import NETWORK_ERRORS, ConfigError, NoSuchCluster, TooLate
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, PODS, Key, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import Names
from syncer.releases.pausing import DATE, REPLICAS, pause, resume
from syncer.releases.release import PAUSED as ANNOTATION
from syncer.releases.release import STATEFUL_SETS, find_release
from syncer.releases.waiting import Progress
from syncer.sync.fence import PAUSED_AT
from syncer.translate.metadata import host_metadata
from tests.patience import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.fakes.apiserver import FakeApiServer

pytestmark = pytest.mark.looptime

NAMES = Names("demo", "team")
OWNER = Key("team", "vc-demo-owner")
STARTED = "2999-01-01T00:00:00Z"
"""By a node whose clock is far ahead."""


def labels(stateful_set: str) -> dict[str, str]:
    return {"app": "vcluster-etcd" if stateful_set.endswith("etcd") else "vcluster", "release": "demo"}


class CutOff(Exception):
    """The command is killed."""


class Host:
    """A host with a virtual cluster of two replicas and a datastore; and what its controllers and kubelets do.

    `wrong` tells of host pods that went while a syncer could have seen that, or before it was written down.
    """

    def __init__(self, api: FakeApiServer) -> None:
        self.api = api
        self.wrong: list[str] = []
        api.register(STATEFUL_SETS)
        for name, replicas in (("demo", 2), ("demo-etcd", 3)):
            metadata = {"name": name, "namespace": "team", "labels": labels(name)}
            api.put({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": {"replicas": replicas}})
        api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": OWNER.name, "namespace": "team"}})
        self.tenant = [self.run("web"), self.run("db"), self.run("done", phase="Succeeded")]
        stranger = {"name": "stranger", "namespace": "team", "labels": {"vcluster.loft.sh/managed-by": "demo"}}
        api.put({"apiVersion": "v1", "kind": "Pod", "metadata": stranger, "spec": {}})
        self.step()

    def run(self, name: str, phase: str = "Running") -> Key:
        virtual = {"metadata": {"name": name, "namespace": "default", "uid": name}}
        status = {"phase": phase, "startTime": STARTED}
        spec = {"nodeName": "n1", "terminationGracePeriodSeconds": 30}
        return key_of(
            self.api.put(
                {"apiVersion": "v1", "kind": "Pod", "metadata": host_metadata(NAMES, None, PODS, virtual), "spec": spec, "status": status}
            )
        )

    def step(self) -> None:
        """Pods follow their StatefulSets, and those that are deleted go, one at a time."""
        control_plane = 0
        for stateful_set in self.api.objects(STATEFUL_SETS):
            name = key_of(stateful_set).name
            wanted = [Key("team", f"{name}-{number}") for number in range(stateful_set["spec"]["replicas"])]
            owners = [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": uid_of(stateful_set)}]
            have = [pod for pod in self.api.objects(PODS) if pod["metadata"].get("ownerReferences") == owners]
            for pod in [pod for pod in have if key_of(pod) not in wanted][:1]:
                self.api.remove(PODS, key_of(pod))
            for key in wanted:
                if self.api.get(PODS, key) is None:
                    metadata = {"name": key.name, "namespace": "team", "labels": labels(name), "ownerReferences": owners}
                    self.api.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}})
            control_plane += len(have)
        going = [pod for pod in self.api.objects(PODS) if is_deleting(pod)]
        if going and control_plane:
            self.wrong.append("a host pod was deleted while a control plane ran")
        if going and PAUSED_AT not in annotations_of(self.api.get(CONFIGMAPS, OWNER) or {}):
            self.wrong.append("a host pod was deleted before that was written down")
        for pod in going[:1]:
            self.api.remove(PODS, key_of(pod))

    async def live(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.step()

    def shown(self) -> Any:
        """What counts: replicas and marks, and which host pods there are."""
        sets = {
            key_of(one).name: (one["spec"]["replicas"], annotations_of(one).get("loft.sh/paused-replicas"))
            for one in self.api.objects(STATEFUL_SETS)
        }
        return sets, [key_of(pod).name for pod in self.api.objects(PODS) if not pod["metadata"].get("ownerReferences")]


@asynccontextmanager
async def living(api: FakeApiServer) -> AsyncIterator[tuple[Host, Client]]:
    host = Host(api)
    async with Client(Cluster(api.url), Side.HOST) as client:
        life = asyncio.create_task(host.live())
        try:
            yield host, client
        finally:
            life.cancel()
            with suppress(asyncio.CancelledError):
                await life


def progress(limit: float = 60) -> Progress:
    return Progress("pausing", lambda _: None, asyncio.get_running_loop().time, limit)


def cut_after(writes: int) -> Callable[[], None]:
    """A permission that is taken back; each write asks twice, before it is begun and before its body goes out."""
    left = [writes]

    def permit() -> None:
        if not left[0]:
            raise CutOff
        left[0] -= 1

    return permit


PAUSED: Any = ({"demo": (0, "2"), "demo-etcd": (0, "3")}, ["done-x-default-x-demo", "stranger"])
RUNNING: Any = ({"demo": (2, None), "demo-etcd": (3, None)}, ["done-x-default-x-demo", "stranger"])


@pytest.mark.parametrize("writes", range(12))
async def test_a_pause_that_was_cut_off_is_completed_by_the_next(host_api: FakeApiServer, writes: int) -> None:
    async with living(host_api) as (host, client):
        release = await find_release(client, "demo")
        with suppress(CutOff, *NETWORK_ERRORS):
            await pause(client.only_while(cut_after(writes)), release, progress())
        for _ in range(2):  # running it once more changes nothing
            await pause(client, await find_release(client, "demo"), progress())
            assert host.shown() == PAUSED
        owner = host_api.get(CONFIGMAPS, OWNER)
        assert owner is not None
        assert annotations_of(owner)[PAUSED_AT] == STARTED
        assert host.wrong == []


@pytest.mark.parametrize("writes", range(5))
async def test_so_is_a_resume(host_api: FakeApiServer, writes: int) -> None:
    async with living(host_api) as (host, client):
        await pause(client, await find_release(client, "demo"), progress())
        with suppress(CutOff, *NETWORK_ERRORS):
            await resume(client.only_while(cut_after(writes)), await find_release(client, "demo"), progress())
        await resume(client, await find_release(client, "demo"), progress())
        assert host.shown() == RUNNING
        assert await resume(client, await find_release(client, "demo"), progress()) is False


@pytest.mark.parametrize("writes", range(12))
async def test_a_pause_that_was_cut_off_can_be_taken_back(host_api: FakeApiServer, writes: int) -> None:
    """Whatever host pods are left by then; but none that is on its way out while the syncer starts."""
    async with living(host_api) as (host, client):
        with suppress(CutOff, *NETWORK_ERRORS):
            await pause(client.only_while(cut_after(writes)), await find_release(client, "demo"), progress())
        await resume(client, await find_release(client, "demo"), progress())
        assert host.shown()[0] == RUNNING[0]
        await asyncio.sleep(5)
        assert host.wrong == []


async def test_who_resumes_meanwhile_stops_a_pause(host_api: FakeApiServer) -> None:
    async with living(host_api) as (host, client):

        def permit() -> None:
            """Somebody resumes it when the control plane is down: the next write is the last one before pods go."""
            if host_api.objects(STATEFUL_SETS)[1]["spec"]["replicas"] == 0:
                host_api.change(STATEFUL_SETS, Key("team", "demo"), {"metadata": {"annotations": {"loft.sh/paused": None}}})

        with pytest.raises(ConfigError, match="somebody resumed demo meanwhile, so its pods are left alone"):
            await pause(client.only_while(permit), await find_release(client, "demo"), progress())
        assert len(host.shown()[1]) == 4


@pytest.mark.parametrize("when", ["before the datastore stops", "while it stops", "before pods go", "at the end"])
async def test_who_resumes_beside_a_pause_gets_all_back(host_api: FakeApiServer, when: str) -> None:
    """Above all its datastore: the control plane would run without one."""
    async with living(host_api) as (host, client):

        def resume_all() -> None:
            for name, replicas in (("demo", 2), ("demo-etcd", 3)):
                stateful_set = host_api.get(STATEFUL_SETS, Key("team", name))
                assert stateful_set is not None
                if annotations_of(stateful_set).get(ANNOTATION) and (name == "demo" or when == "before pods go"):
                    patch = {"metadata": {"annotations": {ANNOTATION: None, REPLICAS: None, DATE: None}}, "spec": {"replicas": replicas}}
                    host_api.change(STATEFUL_SETS, key_of(stateful_set), patch)

        def due() -> bool:
            main, datastore = host_api.objects(STATEFUL_SETS)
            down = [one["spec"]["replicas"] == 0 for one in (main, datastore)]
            pods = [key_of(pod).name for pod in host_api.objects(PODS)]
            if when == "before the datastore stops":
                return down == [True, False] and "demo-0" not in pods
            if when == "while it stops":
                return down == [True, True] and "demo-etcd-0" in pods
            if when == "before pods go":
                return down == [True, True] and "demo-etcd-0" not in pods
            return down == [True, True] and not {"web-x-default-x-demo", "db-x-default-x-demo"} <= {*pods}

        async def beside() -> None:
            await until(due)
            resume_all()

        other = asyncio.create_task(beside())
        with pytest.raises(ConfigError, match="somebody resumed demo meanwhile"):
            await pause(client, await find_release(client, "demo"), progress())
        await other
        assert host.shown()[0] == RUNNING[0]
        assert (len(host.shown()[1]) == 4) is (when != "at the end")
        assert "a host pod was deleted while a control plane ran" not in host.wrong or when == "at the end"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_one_that_is_deleted_beside_its_pause_or_resume(host_api: FakeApiServer, when: str) -> None:
    async with living(host_api) as (host, client):
        release = await find_release(client, "demo")

        def delete() -> None:
            if host_api.get(STATEFUL_SETS, Key("team", "demo")):
                host_api.remove(STATEFUL_SETS, Key("team", "demo"))

        if when == "before":
            delete()
        with pytest.raises(NoSuchCluster, match="demo in namespace team is gone: somebody deleted it meanwhile"):
            await pause(client.only_while(delete) if when == "meanwhile" else client, release, progress())
        with pytest.raises(NoSuchCluster, match="somebody deleted it meanwhile"):
            await resume(client, release, progress())
        assert host.shown()[0]["demo-etcd"] == (3, None)


async def test_pods_that_do_not_end_are_named(host_api: FakeApiServer) -> None:
    async with Client(Cluster(host_api.url), Side.HOST) as client:
        host = Host(host_api)
        for left in ("demo-0, demo-1", "demo-etcd-0, demo-etcd-1, demo-etcd-2"):
            with pytest.raises(TooLate, match=rf"pods of the control plane are still ending: {left}; run the same command again"):
                await pause(client, await find_release(client, "demo"), progress(3))
            for _ in range(9):
                host.step()
        with pytest.raises(TooLate, match=r"the tenant's pods are still ending: db-x-default-x-demo, web-x-default-x-demo; they may take"):
            await pause(client, await find_release(client, "demo"), progress(3))
        with pytest.raises(TooLate, match=r"pods of before the pause are still ending: db-x-.*; they have to end first, or their"):
            await resume(client, await find_release(client, "demo"), progress(3))


async def test_without_its_owner_a_pause_says_what_would_be_lost(host_api: FakeApiServer) -> None:
    async with living(host_api) as (host, client):
        host_api.remove(CONFIGMAPS, OWNER)
        with pytest.raises(ConfigError, match=r"the ConfigMap team/vc-demo-owner is gone, where a pause is written down"):
            await pause(client, await find_release(client, "demo"), progress())
        assert len(host.shown()[1]) == 4

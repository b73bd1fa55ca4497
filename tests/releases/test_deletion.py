"""Deletions on a host that fails now and then, and that does not tell everything."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from syncer.errors import ApiError, ConfigError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import (
    CONFIGMAPS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    Key,
    Resource,
    Side,
    key_of,
    uid_of,
)
from syncer.naming import Names
from syncer.releases.belongings import CREATED
from syncer.releases.deletion import Deleted, Deletion, Wishes
from syncer.releases.helm import Helm
from syncer.releases.hosts import Host as Access
from syncer.releases.orphans import DEPLOYMENTS
from syncer.releases.release import STATEFUL_SETS
from syncer.releases.waiting import Progress
from syncer.translate.metadata import host_metadata
from tests.fakes.requests import Match, Request, on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from syncer.kube.types import Obj
    from tests.fakes.apiserver import FakeApiServer

pytestmark = pytest.mark.looptime

OWNER = Key("team", "vc-demo-owner")
LABELS = {"app": "vcluster", "release": "demo", "chart": "syncer-0.1.0"}
WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


class Records(Helm):
    """Helm's, without the program: of releases of these charts."""

    def __init__(self, *charts: str) -> None:
        super().__init__("helm", Access(Path("config"), "here", ""), {})
        self._charts = charts

    async def run(self, *arguments: str) -> str:
        return (
            json.dumps([{"name": "demo", "namespace": "team", "chart": chart} for chart in self._charts]) if arguments[0] == "list" else ""
        )


class Host:
    """A namespace that `create` made, with a virtual cluster that owns a Secret and a claim; and the host's controllers.

    `wrong` tells of what went while the control plane ran.
    """

    def __init__(self, api: FakeApiServer) -> None:
        self.api = api
        self.wrong: list[str] = []
        for resource in (STATEFUL_SETS, DEPLOYMENTS, WIDGETS):
            api.register(resource)
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "annotations": {CREATED: "true"}}})
        stateful_set = api.put(self.obj(STATEFUL_SETS, "demo", labels=LABELS) | {"spec": {"replicas": 1}})
        api.put(self.obj(PODS, "demo-0", labels=LABELS, ownerReferences=[reference(stateful_set)]))
        owner = reference(api.put(self.obj(CONFIGMAPS, OWNER.name)))
        for resource in (SECRETS, PERSISTENT_VOLUME_CLAIMS):
            virtual = {"metadata": {"name": "data", "namespace": "default", "uid": f"v-{resource}"}}
            api.put(self.obj(resource, **host_metadata(Names("demo", "team"), owner, resource, virtual)))

    def obj(self, resource: Resource, name: str, **metadata: Any) -> Obj:
        return {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"namespace": "team", **metadata, "name": name},
        }

    def left(self) -> list[str]:
        kinds = (STATEFUL_SETS, PODS, CONFIGMAPS, SECRETS, PERSISTENT_VOLUME_CLAIMS, WIDGETS)
        return [f"{one['kind']} {key_of(one).name}" for kind in kinds for one in self.api.objects(kind, "team")]

    def stopped(self) -> bool:
        return not any(one["spec"]["replicas"] for one in self.api.objects(STATEFUL_SETS))

    async def live(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            pods = self.api.objects(PODS, "team")
            if pods and self.api.get(CONFIGMAPS, OWNER) is None:
                self.wrong.append("the owner went while the control plane ran")
            for pod in pods if self.stopped() else ():
                self.api.remove(PODS, key_of(pod))
            self.api.collect_garbage()


def reference(obj: Obj) -> Obj:
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": key_of(obj).name, "uid": uid_of(obj)}


@asynccontextmanager
async def living(api: FakeApiServer) -> AsyncIterator[Host]:
    host = Host(api)
    life = asyncio.create_task(host.live())
    try:
        yield host
    finally:
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life


async def delete(host: Host, *charts: str, **wishes: Any) -> Deleted:
    progress = Progress("deleting demo", lambda _: None, asyncio.get_running_loop().time, 60)
    async with Client(Cluster(host.api.url), Side.HOST) as client:
        return await Deletion(client, Records(*charts), "demo", "team", Wishes(**wishes), progress).run()


def begun(host: Host, match: Match) -> Match:
    """As soon as the control plane is to stop."""
    return lambda request: host.stopped() and match(request)


def asked(path: str) -> Match:
    def match(request: Request) -> bool:
        return request.path == path

    return match


async def test_it_goes_with_its_namespace(host_api: FakeApiServer) -> None:
    async with living(host_api) as host:
        assert (await delete(host)).namespace == "Namespace team deleted"
        assert host.left() == host.wrong == []


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("resource", [STATEFUL_SETS, PODS, CONFIGMAPS, SECRETS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES], ids=str)
async def test_a_list_that_fails_for_a_while_is_no_empty_one(host_api: FakeApiServer, resource: Resource, status: int) -> None:
    async with living(host_api) as host:
        fault = host_api.fault(begun(host, on("list", resource)), status=status, times=10)
        await delete(host, namespace=False)
        assert fault.hits == 10
        assert host.left() == host.wrong == []


async def test_a_pod_that_cannot_be_deleted_for_a_while_goes_later(host_api: FakeApiServer) -> None:
    async with living(host_api) as host:
        virtual = {"metadata": {"name": "web", "namespace": "default", "uid": "v-web"}}
        pod = host_api.put(host.obj(PODS, **host_metadata(Names("demo", "team"), None, PODS, virtual)))
        fault = host_api.fault(on("delete", PODS, name=key_of(pod).name), status=503, times=10)
        await delete(host, "syncer-0.1.0", namespace=False)
        assert fault.hits == 10
        assert host.left() == host.wrong == []


async def test_nothing_is_stopped_when_the_first_look_fails(host_api: FakeApiServer) -> None:
    async with living(host_api) as host:
        for match in (*(on("list", one) for one in (STATEFUL_SETS, PODS, SECRETS)), asked("/api/v1"), asked("/apis/apps/v1")):
            fault = host_api.fault(match, status=500)
            before = host_api.revision
            with pytest.raises(ApiError):
                await delete(host)
            fault.lift()
            assert host_api.revision == before


async def test_claims_that_cannot_be_listed_for_a_while_are_kept(host_api: FakeApiServer) -> None:
    async with living(host_api) as host:
        fault = host_api.fault(begun(host, on("list", PERSISTENT_VOLUME_CLAIMS)), status=503, times=10)
        await delete(host, keep_claims=True)
        await asyncio.sleep(5)
        assert fault.hits == 10
        assert host.left() == ["PersistentVolumeClaim data-x-default-x-demo"]


@pytest.mark.parametrize("resource", [PERSISTENT_VOLUME_CLAIMS, STATEFUL_SETS], ids=str)
async def test_claims_are_not_kept_blindly(host_api: FakeApiServer, resource: Resource) -> None:
    async with living(host_api) as host:
        host_api.fault(on("list", resource), status=403)
        before = host_api.revision
        with pytest.raises(ConfigError, match=r"list|not allowed"):
            await delete(host, keep_claims=True)
        assert host_api.revision == before


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"drop": True}], ids=str)
@pytest.mark.parametrize("match", [asked("/apis/example.com/v1"), on("list", WIDGETS)], ids=["discovery", "list"])
async def test_a_namespace_stays_with_what_another_api_server_may_have_in_it(
    host_api: FakeApiServer, match: Match, fault: dict[str, Any]
) -> None:
    async with living(host_api) as host:
        host_api.put(host.obj(WIDGETS, "precious"))
        host_api.fault(match, **fault)
        done = await delete(host)
        assert done.namespace.startswith("Namespace team kept: something else may be in it, of types that could not be looked at: ")
        assert "example.com" in "".join(done.unseen)
        assert host.left() == ["Widget precious"]
        assert host_api.get(NAMESPACES, Key("", "team")) is not None


async def test_one_that_could_not_tell_for_a_while_does_not_keep_it(host_api: FakeApiServer) -> None:
    async with living(host_api) as host:
        host_api.fault(asked("/apis/example.com/v1"), status=503, times=2)
        done = await delete(host)
        assert (done.namespace, done.unseen) == ("Namespace team deleted", [])


@pytest.mark.parametrize("whose", ["record", "deployment", "datastore", "without a chart"])
async def test_another_programs_is_left_alone(host_api: FakeApiServer, whose: str) -> None:
    """Its copies have the same marks as ours. It may have no StatefulSet of that name, and what is ours may be beside it."""
    async with living(host_api) as host:
        host_api.remove(STATEFUL_SETS, Key("team", "demo"))
        charts = ("vcluster-0.19.10",) if whose == "record" else ()
        if whose == "deployment":
            host_api.put(host.obj(DEPLOYMENTS, "demo", labels={**LABELS, "chart": "vcluster-0.19.10"}))
        if whose == "datastore":
            host_api.put(
                host.obj(STATEFUL_SETS, "demo-etcd", labels={**LABELS, "app": "vcluster-etcd", "chart": "vcluster-k8s-0.19.10"})
                | {"spec": {"replicas": 1}}
            )
        if whose == "without a chart":
            host_api.put(host.obj(DEPLOYMENTS, "theirs", labels={"app": "vcluster", "release": "demo"}))
        before = host_api.revision
        with pytest.raises(ConfigError, match=r"manage it with the program that made it"):
            await delete(host, *charts)
        assert host_api.revision == before


async def test_whose_it_is_has_to_be_seen(host_api: FakeApiServer) -> None:
    async with living(host_api) as host:
        host_api.fault(on("list", DEPLOYMENTS), status=403)
        with pytest.raises(ConfigError, match=r"nothing is deleted, as you may not list deployments.apps in namespace team"):
            await delete(host)
        await delete(host, "syncer-0.1.0", namespace=False)  # by Helm's word
        assert host.left() == host.wrong == []


async def test_a_namespace_stays_with_what_only_an_old_version_of_a_group_has(host_api: FakeApiServer) -> None:
    gauges = Resource("example.com", "v1alpha1", "gauges", "Gauge")
    for resource in (gauges, Resource("example.com", "v1alpha1", "widgets", "Widget")):
        host_api.register(resource)
    async with living(host_api) as host:
        host_api.put(host.obj(gauges, "precious"))
        assert (await delete(host)).namespace == "Namespace team kept: there are other things in it: Gauge precious"
        assert not [one for one in host_api.requests if one.path.endswith("/v1alpha1/namespaces/team/widgets")], (
            "each type is asked for once"
        )

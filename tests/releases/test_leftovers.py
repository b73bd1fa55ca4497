"""What happens between the look and the deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from syncer.errors import ApiError
from syncer.kube.client import Client
from syncer.kube.config import Cluster as Access
from syncer.kube.types import CONFIGMAPS, PODS, SECRETS, Key, Obj, Resource, Side, key_of, uid_of
from syncer.naming import LABEL_CLUSTER, Names
from syncer.releases.leftovers import Leftovers
from syncer.releases.orphans import DEPLOYMENTS
from syncer.releases.release import STATEFUL_SETS
from syncer.translate.metadata import host_metadata
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vc-gone-owner", "namespace": "team"}}


def copied(name: str) -> Obj:
    virtual = {"metadata": {"name": name, "namespace": "default", "uid": f"v-{name}"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": host_metadata(Names("gone", "team"), None, CONFIGMAPS, virtual)}


@pytest.fixture
async def host(host_api: FakeApiServer) -> AsyncIterator[Client]:
    """It has a ConfigMap, a Secret and a claim of a virtual cluster that is gone."""
    for resource in (STATEFUL_SETS, DEPLOYMENTS):
        host_api.register(resource)
    host_api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    for name in ("a", "b"):
        host_api.create(copied(name))
    secret = {"metadata": {"name": "vc-gone", "namespace": "team", "labels": {LABEL_CLUSTER: "gone"}}}
    host_api.create({"apiVersion": "v1", "kind": "Secret", **secret})
    async with Client(Access(host_api.url), Side.HOST) as client:
        yield client


@pytest.fixture
def leftovers(host: Client) -> Leftovers:
    return Leftovers(host, "team", lambda: 1_800_000_000.0)


def names(host_api: FakeApiServer) -> list[str]:
    return sorted(one["metadata"]["name"] for resource in (CONFIGMAPS, SECRETS) for one in host_api.objects(resource))


async def test_they_go(host_api: FakeApiServer, leftovers: Leftovers) -> None:
    found = await leftovers.look()
    assert [(one.item.resource, one.virtual) for one in found] == [(CONFIGMAPS, "default/a"), (CONFIGMAPS, "default/b"), (SECRETS, "")]
    assert leftovers.remarks == []
    assert [words for _, words in await leftovers.remove(found)] == ["deleted"] * 3
    assert names(host_api) == []
    assert [words for _, words in await leftovers.remove(found)] == ["is no orphan any more"] * 3, "twice does no harm"


async def test_a_cluster_that_came_back_meanwhile_keeps_everything(host_api: FakeApiServer, leftovers: Leftovers) -> None:
    found = await leftovers.look()
    before = names(host_api)
    host_api.create(OWNER)
    assert [words for _, words in await leftovers.remove(found)] == ["is no orphan any more"] * 3
    assert names(host_api) == sorted([*before, "vc-gone-owner"])
    assert await leftovers.look() == []


async def test_one_that_was_made_anew_or_lost_its_marks_stays(host_api: FakeApiServer, host: Client, leftovers: Leftovers) -> None:
    found = await leftovers.look()
    first, second, _ = (one.item for one in found)
    await host.delete(CONFIGMAPS, first.key, uid=first.uid)
    await host.create(CONFIGMAPS, "team", copied("a"))
    await host.patch(CONFIGMAPS, second.key, {"metadata": {"labels": None}})
    assert [words for _, words in await leftovers.remove(found)] == ["is no orphan any more"] * 2 + ["deleted"]
    assert uid_of(await host.get(CONFIGMAPS, Key("team", first.key.name))) != first.uid
    assert names(host_api) == [first.key.name, second.key.name]


async def test_what_became_of_each_is_told_though_the_host_stops_answering(host_api: FakeApiServer, leftovers: Leftovers) -> None:
    found = await leftovers.look()
    host_api.fault(on("delete", CONFIGMAPS, name=found[1].item.key.name), drop=True)
    first, second, third = [words for _, words in await leftovers.remove(found)]
    assert (first, third) == ("deleted", "deleted")
    assert second.startswith("stays, or not: ")


async def test_a_look_that_fails_finds_nothing_out(host_api: FakeApiServer, leftovers: Leftovers) -> None:
    """And is not "there are no orphans"; what the host has from others may fail."""
    host_api.register(Resource("example.com", "v1", "widgets", "Widget", namespaced=False))
    host_api.fault(lambda request: request.path.startswith("/apis/example.com/v1"), status=503)
    assert len(await leftovers.look()) == 3
    assert leftovers.remarks == ["not looked at, as listing them fails or is not allowed: example.com/v1"]
    host_api.fault(on("list", CONFIGMAPS), status=503)
    with pytest.raises(ApiError):
        await leftovers.look()


async def test_a_pod_of_its_datastore_is_a_sign_of_life(host_api: FakeApiServer, leftovers: Leftovers) -> None:
    labels = {"app": "vcluster-etcd", "release": "gone"}
    pod = host_api.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gone-etcd-0", "namespace": "team", "labels": labels}})
    assert await leftovers.look() == []
    host_api.remove(PODS, key_of(pod))
    assert len(await leftovers.look()) == 3

"""Client and watcher against real API servers, on both datastores, while these break in all the ways they can be made to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from syncer.errors import NETWORK_ERRORS, AlreadyExists, ApiError, Conflict, Expired, Invalid, NotFound
from syncer.kube.client import Client
from syncer.kube.codec import pack, prune
from syncer.kube.config import load_cluster
from syncer.kube.types import CONFIGMAPS, PODS, SERVICE_ACCOUNTS, Key, Obj, Resource, Side, key_of, uid_of
from syncer.kube.watch import Apply, Delete, Failed, Init, InitApply, InitDone, State, Watcher, WatchEvent
from tests.patience import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.virtual import VirtualCluster
    from syncer.kube.answers import WatchResponse

pytestmark = pytest.mark.apiserver

A = Key("default", "a")


@pytest.fixture(scope="module", params=["kine", "etcd"])
def cluster(request: pytest.FixtureRequest, virtual_cluster: StartVirtual) -> VirtualCluster:
    return virtual_cluster(f"watched-{request.param}", datastore=request.param)


class WithoutStreaming(Client):
    """Sees a server that does not stream lists."""

    @asynccontextmanager
    async def watch(self, resource: Resource, namespace: str = "", **options: Any) -> AsyncIterator[WatchResponse]:
        if "sendInitialEvents" in options["params"]:
            raise Invalid(422, "Invalid", "sendInitialEvents is forbidden")
        async with super().watch(resource, namespace, **options) as response:
            yield response


class Belated(Client):
    """Comes back with a resourceVersion of long ago."""

    @asynccontextmanager
    async def watch(self, resource: Resource, namespace: str = "", **options: Any) -> AsyncIterator[WatchResponse]:
        if "resourceVersion" in options["params"]:
            options["params"] = {**options["params"], "resourceVersion": "1"}
        async with super().watch(resource, namespace, **options) as response:
            yield response


@asynccontextmanager
async def connected(cluster: VirtualCluster, kind: type[Client] = Client, **options: Any) -> AsyncIterator[Client]:
    async with kind(await load_cluster(str(cluster.kubeconfig)), Side.VIRTUAL, **options) as client:
        for obj in (await client.list_page(CONFIGMAPS, "default"))[0]:
            with contextlib.suppress(NotFound):
                await client.delete(CONFIGMAPS, key_of(obj), uid=uid_of(obj))
        yield client


def config_map(name: str, **data: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


class Mirror:
    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.objects: dict[Key, Obj] = {}
        self.events: list[WatchEvent] = []
        self._staged: dict[Key, Obj] = {}

    async def run(self) -> None:
        async with aclosing(self.watcher.events()) as events:
            async for event in events:
                self.events.append(event)
                match event:
                    case Init():
                        self._staged = {}
                    case InitApply(obj):
                        self._staged[key_of(obj)] = obj
                    case InitDone():
                        self.objects = self._staged
                    case Apply(obj):
                        self.objects[key_of(obj)] = obj
                    case Delete(obj):
                        del self.objects[key_of(obj)]
                    case _:
                        pass

    def lists(self) -> int:
        return sum(isinstance(event, InitDone) for event in self.events)


@asynccontextmanager
async def mirror(watcher: Watcher) -> AsyncIterator[Mirror]:
    made = Mirror(watcher)
    running = asyncio.create_task(made.run())
    await until(lambda: watcher.state is State.WATCHING)
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


async def content(client: Client) -> dict[Key, Obj]:
    items, _, more = await client.list_page(CONFIGMAPS)
    assert not more
    return {key_of(item): item for item in items}


async def same(made: Mirror, client: Client) -> None:
    """The mirror gets to hold what the server does, to the last field."""
    async with asyncio.timeout(30):
        while made.objects != await content(client):  # noqa: ASYNC110 (a server is asked)
            await asyncio.sleep(0.05)


async def test_requests_and_refusals(cluster: VirtualCluster) -> None:
    async with connected(cluster) as client:
        made = await client.create(CONFIGMAPS, "default", config_map("a", x="1"))
        with pytest.raises(AlreadyExists):
            await client.create(CONFIGMAPS, "default", config_map("a"))
        with pytest.raises(Invalid):
            await client.create(CONFIGMAPS, "default", config_map("A_"))
        with pytest.raises(Conflict):
            await client.patch(CONFIGMAPS, A, {"metadata": {"resourceVersion": "1"}, "data": {"x": "2"}})
        with pytest.raises(Conflict):
            await client.delete(CONFIGMAPS, A, uid="somebody-else")
        operations = [{"op": "test", "path": "/data/x", "value": "1"}, {"op": "replace", "path": "/data/x", "value": "2"}]
        assert (await client.patch(CONFIGMAPS, A, operations, strategy="json"))["data"] == {"x": "2"}
        applied = await client.patch(CONFIGMAPS, A, {"apiVersion": "v1", "kind": "ConfigMap", "data": {"y": "1"}}, strategy="apply")
        assert applied["data"] == {"x": "2", "y": "1"}
        assert (await client.patch(CONFIGMAPS, A, {"data": {"y": None}}, strategy="strategic"))["data"] == {"x": "2"}
        await client.create(CONFIGMAPS, "default", config_map("dry"), dry_run=True)
        ((item,), version, _) = await client.list_page(CONFIGMAPS, "default", field_selector="metadata.name=a", metadata_only=True)
        bare = await client.get(CONFIGMAPS, A, metadata_only=True)
        assert bare == item
        assert (set(bare), bare["kind"]) == ({"apiVersion", "kind", "metadata"}, "ConfigMap")
        assert int(version) >= int(bare["metadata"]["resourceVersion"])
        with pytest.raises(ApiError, match="Too large resource version"):
            await client.list_page(CONFIGMAPS, resource_version="99999999")
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        token = await client.create(SERVICE_ACCOUNTS, "default", request, name="default", subresource="token")
        assert token["status"]["token"].count(".") == 2
        assert (await client.delete(CONFIGMAPS, A, uid=uid_of(made)))["kind"] == "Status"


@pytest.mark.parametrize("metadata_only", [False, True])
async def test_streamed_and_paged_lists_are_alike(cluster: VirtualCluster, metadata_only: bool) -> None:
    async with connected(cluster) as client, connected(cluster, WithoutStreaming) as other_client:
        for number in range(7):
            await client.create(CONFIGMAPS, "default", config_map(f"a{number}", x="é<" * 1000))
        streamed = Watcher(client, CONFIGMAPS, metadata_only=metadata_only)
        paged = Watcher(other_client, CONFIGMAPS, metadata_only=metadata_only, page_size=3)
        async with mirror(streamed) as one, mirror(paged) as other:
            assert one.objects == other.objects
            await client.create(CONFIGMAPS, "default", config_map("huge", x="é<" * 250_000))
            await client.patch(CONFIGMAPS, Key("default", "a1"), {"data": {"x": "2"}})
            gone = one.objects[Key("default", "a0")]
            await client.delete(CONFIGMAPS, key_of(gone), uid=uid_of(gone))
            await until(lambda: key_of(gone) not in one.objects and key_of(gone) not in other.objects)
            assert one.objects == other.objects
            assert (one.lists(), other.lists()) == (1, 1)
            assert not metadata_only or all(set(obj) == {"apiVersion", "kind", "metadata"} for obj in one.objects.values())


async def test_what_is_written_is_what_is_watched(cluster: VirtualCluster) -> None:
    """So that an answer may go into the cache at once."""
    async with connected(cluster) as client, mirror(Watcher(client, CONFIGMAPS)) as made:
        created = await client.create(CONFIGMAPS, "default", config_map("a", x="1"))
        await until(lambda: made.objects.get(A) == created)
        patched = await client.patch(CONFIGMAPS, A, {"data": {"x": "2"}})
        await until(lambda: made.objects.get(A) == patched)


async def test_each_way_to_an_object_gives_the_same_bytes(cluster: VirtualCluster) -> None:
    """So that a store finds quickly that a list after a short break tells nothing of what has not changed."""
    resources = {"requests": {"cpu": "1m"}}
    spec = {"containers": [{"name": "main", "image": "none", "resources": resources}], "nodeSelector": {"no": "where"}}
    key = Key("default", "formed")
    async with connected(cluster) as client, mirror(Watcher(client, PODS)) as made:
        body = {"metadata": {"name": key.name, "labels": {"b": "1", "a": "2"}}, "spec": spec}
        forms = [await client.create(PODS, key.namespace, body)]
        await until(lambda: key in made.objects)
        forms += [made.objects[key], await client.get(PODS, key), *(await client.list_page(PODS))[0]]
        forms.append(await client.patch(PODS, key, {"metadata": {"labels": {"a": "2"}}}))
        async with mirror(Watcher(client, PODS)) as streamed:
            forms.append(streamed.objects[key])
        assert len({pack(prune(form)) for form in forms}) == 1, forms
        await client.delete(PODS, key, uid=uid_of(forms[0]))


async def test_a_crash_of_the_api_server_takes_no_list_and_loses_nothing(cluster: VirtualCluster) -> None:
    async with connected(cluster) as client, mirror(Watcher(client, CONFIGMAPS)) as made:
        await asyncio.to_thread(cluster.stop_apiserver)
        began = time.monotonic()
        with pytest.raises(NETWORK_ERRORS):
            await client.get(CONFIGMAPS, A)
        assert time.monotonic() - began < 1
        await asyncio.to_thread(cluster.start_apiserver)
        created = await client.create(CONFIGMAPS, "default", config_map("a"))
        await until(lambda: made.objects.get(A) == created)
        await same(made, client)
        assert made.lists() == 1


async def test_a_version_that_the_server_forgot_means_another_list(cluster: VirtualCluster) -> None:
    """A watch cache that was filled after a restart knows nothing older."""
    async with connected(cluster, Belated) as client, mirror(Watcher(client, CONFIGMAPS)) as made:
        await asyncio.to_thread(cluster.stop_apiserver)
        await asyncio.to_thread(cluster.start_apiserver)
        await until(lambda: made.lists() == 2)
        await client.create(CONFIGMAPS, "default", config_map("a"))
        await same(made, client)
        assert {type(event.error) for event in made.events if isinstance(event, Failed)} & {Expired}


async def test_a_server_that_hangs_is_timed_out(cluster: VirtualCluster) -> None:
    async with connected(cluster, request_timeout=1.0) as client, mirror(Watcher(client, CONFIGMAPS)) as made:
        cluster.pause()
        try:
            await asyncio.sleep(0.2)
            with pytest.raises(TimeoutError):
                await client.get(CONFIGMAPS, A)
        finally:
            cluster.resume()
        await client.create(CONFIGMAPS, "default", config_map("a"))
        await same(made, client)


async def test_a_watch_from_the_future_is_silent(cluster: VirtualCluster) -> None:
    """Why the watcher asks first: the server does not say that it never was there."""
    params = {"timeoutSeconds": "240", "resourceVersion": "99999999"}
    async with connected(cluster) as client, client.watch(CONFIGMAPS, params=params) as response:
        await client.create(CONFIGMAPS, "default", config_map("a"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.readline(), 1)


async def test_a_wiped_server_is_noticed(cluster: VirtualCluster) -> None:
    """Last, since it takes the cluster's data away."""
    async with connected(cluster) as client, mirror(Watcher(client, CONFIGMAPS)) as made:
        for number in range(20):
            await client.create(CONFIGMAPS, "default", config_map(f"a{number}"))
        await asyncio.to_thread(cluster.stop)
        await asyncio.to_thread(cluster.wipe)
        await asyncio.to_thread(cluster.start)
        await until(lambda: made.lists() == 2)
        await same(made, client)
        assert not any(key.name.startswith("a") for key in made.objects)
        assert all(isinstance(event.error, (*NETWORK_ERRORS, ApiError)) for event in made.events if isinstance(event, Failed))

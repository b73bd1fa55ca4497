"""`syncer prepare`, as a container that ends once all is there."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import pytest

from syncer.controlplane.preparation import prepare
from syncer.errors import ConfigError
from syncer.kube.types import CONFIGMAPS, SECRETS, Key
from syncer.settings import Settings
from tests.fakes.requests import on

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.apiserver import FakeApiServer


OWNERS = [Key("host-ns", "vc-blue-owner"), Key("host-ns", "vc-blue-keys")]
SHARED = [Key("host-ns", "vc-blue-certs"), Key("host-ns", "vc-blue-etcd")]


@pytest.fixture
def settings(host_api: FakeApiServer, tmp_path: Path) -> Settings:
    host_api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "host-ns"}})
    for owner in OWNERS:
        host_api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": owner.name, "namespace": owner.namespace}})
    kubeconfig = tmp_path / "host.kubeconfig"
    context = {"name": "host", "context": {"cluster": "host"}}
    clusters = [{"name": "host", "cluster": {"server": host_api.url}}]
    kubeconfig.write_text(json.dumps({"current-context": "host", "contexts": [context], "clusters": clusters}))
    return Settings(name="blue", target_namespace="host-ns", host_kube_config=str(kubeconfig), control_plane_files=str(tmp_path / "data"))


async def test_it_waits_for_a_host_that_does_not_answer(settings: Settings, host_api: FakeApiServer, tmp_path: Path) -> None:
    fault = host_api.fault(on("create", SECRETS), status=503, times=1)
    await prepare(settings, service_range=False, wait_for="")
    assert fault.hits == 1
    assert (tmp_path / "data" / "k3s-config" / "kube-config.yaml").exists()


@pytest.mark.parametrize("gone", OWNERS)
async def test_the_authorities_outlive_each_of_their_owners(settings: Settings, host_api: FakeApiServer, gone: Key) -> None:
    """One of which a person is told to delete to start afresh: with etcd's data there, its authority and its keys have to be, too."""
    await prepare(settings, service_range=False, wait_for="")
    before = [host_api.get(SECRETS, key) for key in SHARED]
    assert None not in before
    host_api.remove(CONFIGMAPS, gone)
    assert host_api.collect_garbage() == []
    await prepare(settings, service_range=False, wait_for="")
    after = [host_api.get(SECRETS, key) for key in SHARED]
    (left,) = set(OWNERS) - {gone}
    for had, has in zip(before, after, strict=True):
        assert had is not None
        assert has is not None
        assert has["data"] == had["data"]
        assert [owner["name"] for owner in has["metadata"]["ownerReferences"]] == [left.name]
    host_api.remove(CONFIGMAPS, left)
    assert sorted(host_api.collect_garbage()) == sorted(SHARED), "as with the release"


async def test_what_is_on_its_way_out_owns_nothing(settings: Settings, host_api: FakeApiServer) -> None:
    """`kubectl delete --cascade=foreground` leaves it until its dependents are gone."""
    host_api.change(
        CONFIGMAPS, OWNERS[0], {"metadata": {"finalizers": ["foregroundDeletion"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    )
    await prepare(settings, service_range=False, wait_for="")
    secret = host_api.get(SECRETS, SHARED[0])
    assert secret is not None
    assert [owner["name"] for owner in secret["metadata"]["ownerReferences"]] == [OWNERS[1].name]


async def test_nothing_owns_them_where_that_is_not_wished(settings: Settings, host_api: FakeApiServer) -> None:
    await prepare(settings.model_copy(update={"set_owner": False}), service_range=False, wait_for="")
    secret = host_api.get(SECRETS, SHARED[0])
    assert secret is not None
    assert "ownerReferences" not in secret["metadata"]


async def test_it_ends_once_somebody_listens(settings: Settings) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        preparing = asyncio.create_task(
            prepare(settings.model_copy(update={"control_plane_files": ""}), service_range=False, wait_for=f"127.0.0.1:{port}")
        )
        done, _ = await asyncio.wait({preparing}, timeout=0.7)  # it has tried at least once
        assert not done
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port):
        async with asyncio.timeout(20):
            await preparing


@pytest.mark.parametrize("wait_for", ["etcd", ":2379", "etcd:client"])
async def test_where_nobody_can_listen(settings: Settings, wait_for: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        await prepare(settings, service_range=False, wait_for=wait_for)

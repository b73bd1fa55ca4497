"""On which cluster a command works: what answers for a virtual cluster, and what must not."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest
import yaml

from syncer.commands import delete
from syncer.errors import ApiError, ConfigError, NoSuchCluster, SyncerError
from syncer.kube.types import Key
from syncer.releases.connection import find_near, home, nearest
from syncer.releases.contexts import Origin
from syncer.releases.hosts import Host, hosts_of
from syncer.releases.release import STATEFUL_SETS
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import on

if TYPE_CHECKING:
    from pathlib import Path

DEMO = Origin("demo", "a", "kind").context
TEAM = Origin("team", "t", "kind").context
NESTED = Origin("demo", "a", TEAM).context


def put(api: FakeApiServer, namespace: str, name: str = "demo") -> None:
    api.register(STATEFUL_SETS)
    metadata = {"name": name, "namespace": namespace, "labels": {"app": "vcluster", "release": name}}
    api.put({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": {"replicas": 1}})


class Clusters:
    """A kubeconfig: `kind` is the host, and what is current is a virtual cluster on it, or within that."""

    def __init__(self, directory: Path, host: FakeApiServer, virtual: FakeApiServer) -> None:
        self.host, self.virtual = host, virtual
        self.file = directory / "config"
        for api in (host, virtual):
            api.register(STATEFUL_SETS)

    async def hosts(self, *contexts: str) -> list[Host]:
        """The first context is current; all but `kind` lead to the same."""
        servers = {"kind": self.host.url} | {context: self.virtual.url for context in contexts if context != "kind"}
        document = {
            "current-context": contexts[0],
            "clusters": [{"name": name, "cluster": {"server": url}} for name, url in servers.items()],
            "contexts": [{"name": name, "context": {"cluster": name}} for name in servers],
        }
        self.file.write_text(yaml.safe_dump(document))
        return await hosts_of(argparse.Namespace(kubeconfig=None, context=None), self.environ)

    @property
    def environ(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.file), "PATH": str(self.file.parent)}


@pytest.fixture
def clusters(tmp_path: Path, host_api: FakeApiServer, virtual_api: FakeApiServer) -> Clusters:
    return Clusters(tmp_path, host_api, virtual_api)


async def found(clusters: Clusters, context: str, name: str = "demo", namespace: str = "") -> tuple[str, str]:
    host, release = await find_near(await clusters.hosts(context, "kind"), name, namespace)
    return host.context, release.namespace


async def test_the_nearest_that_has_one(clusters: Clusters) -> None:
    put(clusters.host, "a")
    assert await found(clusters, "kind") == await found(clusters, TEAM) == await found(clusters, DEMO) == ("kind", "a")
    put(clusters.virtual, "x")
    assert await found(clusters, TEAM) == (TEAM, "x")
    assert await found(clusters, TEAM, namespace="a") == ("kind", "a")


async def test_what_does_not_answer_is_not_passed_over(clusters: Clusters) -> None:
    """The one that is meant may be in there, and the host's is another one of its name."""
    put(clusters.host, "a")
    words = rf"context {TEAM}: .*; if demo is not in there, write --context=kind"
    clusters.virtual.fault(on("list", STATEFUL_SETS), status=503, times=1)
    with pytest.raises(SyncerError, match=words):
        await found(clusters, TEAM)
    await clusters.virtual.stop()
    for namespace in ("", "a"):
        with pytest.raises(SyncerError, match=words.replace(".*", "cannot connect to .*")):
            await found(clusters, TEAM, namespace=namespace)
    hosts = await clusters.hosts(TEAM, "kind")
    assert (await find_near(hosts, "demo", "", passable=(ApiError, OSError)))[0] == hosts[1]


async def test_several_there_are_not_passed_over_either(clusters: Clusters) -> None:
    put(clusters.host, "a")
    put(clusters.virtual, "x")
    put(clusters.virtual, "y")
    with pytest.raises(ConfigError, match=r"there are virtual clusters 'demo' in x, y; choose one with --namespace; if demo is not"):
        await found(clusters, TEAM)


@pytest.mark.parametrize("broken", ["gone", "expired", "failing"])
async def test_the_one_that_is_meant_need_not_answer_itself(clusters: Clusters, broken: str) -> None:
    put(clusters.host, "a")
    put(clusters.host, "b")
    if broken == "gone":
        await clusters.virtual.stop()
    elif broken == "expired":
        clusters.virtual.tokens = {"another"}
    else:
        clusters.virtual.fault(on("list", STATEFUL_SETS), status=500)
    assert await found(clusters, DEMO) == await found(clusters, DEMO, namespace="a") == ("kind", "a")
    with pytest.raises(SyncerError, match="if demo is not in there, write --context=kind"):
        await found(clusters, DEMO, namespace="b")
    clusters.host.remove(STATEFUL_SETS, Key("a", "demo"))
    with pytest.raises(NoSuchCluster, match="no virtual cluster 'demo' in namespace a"):
        await found(clusters, DEMO)


async def test_where_the_host_of_the_one_that_is_meant_is_not_known(clusters: Clusters) -> None:
    """Its namesake two clusters below is not it."""
    put(clusters.host, "a")
    await clusters.virtual.stop()
    hosts = await clusters.hosts(NESTED, "kind")
    assert [host.context for host in hosts] == [NESTED, "kind"]
    assert home(hosts, "demo", "") is None
    with pytest.raises(SyncerError, match="if demo is not in there"):
        await find_near(hosts, "demo", "")
    there = await clusters.hosts(NESTED, TEAM, "kind")
    assert home(there, "demo", "") == (there[1], "a")
    assert home(there, "team", "") == (there[2], "t")
    assert home(there, "demo", "b") is None


async def test_commands_agree(clusters: Clusters) -> None:
    put(clusters.host, "a")
    await clusters.virtual.stop()
    hosts = await clusters.hosts(DEMO, "kind")
    asked = argparse.Namespace(kubeconfig=None, context=None, name="demo", namespace="")
    async with nearest(asked, clusters.environ) as (_, release):
        assert release.namespace == "a"
    assert await delete._find(hosts, "demo", "", clusters.environ) == (hosts[1], "a")
    clusters.host.remove(STATEFUL_SETS, Key("a", "demo"))
    clusters.file.with_name("helm").touch(0o755)
    assert await delete._find(hosts, "demo", "", clusters.environ) == (hosts[1], "a"), "what is left of it is there too"
    await clusters.hosts(TEAM, "kind")
    with pytest.raises(SyncerError, match="if demo is not in there"):
        async with nearest(asked, clusters.environ):
            pass
    with pytest.raises(SyncerError, match="if demo is not in there"):
        await delete._find(await clusters.hosts(TEAM, "kind"), "demo", "", clusters.environ)

"""metrics.k8s.io between two API servers: what is asked of them, and what comes of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import NODES, PODS, Key, Obj, Side
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.proxy.metrics_api import ROOT, MetricsApi
from syncer.proxy.requests import parse
from syncer.proxy.server import answered
from syncer.proxy.usage import NODE_METRICS, POD_METRICS
from syncer.translate.metadata import host_metadata
from tests.fakes.requests import on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.apiserver import FakeApiServer

BLUE, RED = Names("blue", "team-17"), Names("red", "team-17")
USAGE = {"cpu": "1m", "memory": "1Mi"}


@dataclass
class Bench:
    """The API of `blue`, on a plain listener."""

    session: aiohttp.ClientSession
    virtual: FakeApiServer
    host: FakeApiServer

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
        """Status, and the decoded answer or the message of a Status."""
        async with self.session.request(method, path, headers=headers) as answer:
            body = await answer.json()
            return answer.status, body["message"] if body["kind"] == "Status" else body

    async def names(self, path: str) -> list[str]:
        code, body = await self.ask(path)
        assert code == 200, body
        assert body["kind"] in ("PodMetricsList", "NodeMetricsList")
        return [f"{it['metadata'].get('namespace', '')}/{it['metadata']['name']}" for it in body["items"]]

    def run(self, names: Names, namespace: str, name: str, **labels: str) -> None:
        """A pod of a tenant that runs, and is measured."""
        pod: Obj = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels}}
        pod["spec"] = {"containers": [{"name": "main", "image": "web:1"}]}
        pod = self.virtual.put(pod) if names is BLUE else {**pod, "metadata": {**pod["metadata"], "uid": "of red"}}
        image = {**pod, "metadata": host_metadata(names, None, PODS, pod)}
        self.host.put(image)
        self.measure(image["metadata"]["name"], names.host_namespace, image["metadata"]["labels"])

    def measure(self, name: str, namespace: str, labels: dict[str, str]) -> None:
        containers = [{"name": "main", "usage": USAGE}]
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        self.host.put({**_kind(POD_METRICS.kind), "metadata": metadata, "timestamp": "now", "window": "10s", "containers": containers})


def _kind(kind: str) -> Obj:
    return {"apiVersion": POD_METRICS.api_version, "kind": kind}


@pytest.fixture
async def bench(virtual_api: FakeApiServer, host_api: FakeApiServer) -> AsyncIterator[Bench]:
    """With three pods of blue, one of red and one of the host, and the nodes n1, which blue sees, and n2."""
    for resource in (POD_METRICS, NODE_METRICS):
        host_api.register(resource)
    async with serving(virtual_api, host_api) as it:
        it.run(BLUE, "default", "web", app="web")
        it.run(BLUE, "default", "db", app="db")
        it.run(BLUE, "other", "web", app="web")
        it.run(RED, "default", "web", app="web")
        it.measure("etcd", "team-17", {"app": "web"})
        for name in ("n1", "n2"):
            host_api.put({**_kind(NODE_METRICS.kind), "metadata": {"name": name}, "timestamp": "now", "window": "10s", "usage": USAGE})
            marks = {"annotations": {LABEL_MANAGED_BY: "blue"}} if name == "n1" else {}
            virtual_api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, **marks, "labels": {"is": name}}})
        yield it


@asynccontextmanager
async def serving(virtual_api: FakeApiServer, host_api: FakeApiServer) -> AsyncIterator[Bench]:
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as virtual, Client(Cluster(host_api.url), Side.HOST) as host:
        api = MetricsApi(names=BLUE, virtual=virtual, host=host)

        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            return await answered(api.answer(request), parse(request.method, request.raw_path))

        runner = web.ServerRunner(web.Server(serve))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
                yield Bench(session, virtual_api, host_api)
        finally:
            await runner.cleanup()


class TestPods:
    @pytest.mark.parametrize(
        ("path", "names"),
        [
            ("pods", ["default/db", "default/web", "other/web"]),
            ("namespaces/default/pods", ["default/db", "default/web"]),
            ("namespaces/other/pods", ["other/web"]),
            ("namespaces/team-17/pods", []),
            ("pods?labelSelector=app%3Dweb", ["default/web", "other/web"]),
            ("pods?labelSelector=app+in+(db),app!%3Dweb", ["default/db"]),
            ("pods?labelSelector=vcluster.loft.sh/managed-by%3Dred", []),
            ("pods?fieldSelector=metadata.name%3Dweb", ["default/web", "other/web"]),
            ("namespaces/default/pods?limit=1", ["default/db", "default/web"]),
        ],
    )
    async def test_many(self, bench: Bench, path: str, names: list[str]) -> None:
        assert await bench.names(f"{ROOT}/{path}") == names

    async def test_one(self, bench: Bench) -> None:
        code, body = await bench.ask(f"{ROOT}/namespaces/default/pods/web")
        assert (code, body["kind"], body["apiVersion"]) == (200, "PodMetrics", "metrics.k8s.io/v1beta1")
        assert (body["metadata"]["name"], body["metadata"]["labels"]) == ("web", {"app": "web"})
        assert body["containers"] == [{"name": "main", "usage": USAGE}]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("none", 'pods "none" not found'),
            ("web-x-default-x-red", 'pods "web-x-default-x-red" not found'),
            ("etcd", 'pods "etcd" not found'),
            ("new", 'podmetrics.metrics.k8s.io "default/new" not found'),
            ("old", 'podmetrics.metrics.k8s.io "default/old" not found'),
        ],
    )
    async def test_one_that_is_not_there(self, bench: Bench, name: str, message: str) -> None:
        """`new` is not measured yet, and of `old` only the predecessor is."""
        bench.run(BLUE, "default", "new")
        bench.host.remove(POD_METRICS, BLUE.host_key(Key("default", "new")))
        bench.run(BLUE, "default", "old")
        bench.virtual.change(PODS, Key("default", "old"), {"metadata": {"uid": "successor"}})
        assert await bench.ask(f"{ROOT}/namespaces/default/pods/{name}") == (404, message)
        assert "default/old" not in await bench.names(f"{ROOT}/pods")

    async def test_table(self, bench: Bench) -> None:
        code, body = await bench.ask(f"{ROOT}/namespaces/default/pods", Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
        assert (code, body["kind"]) == (200, "Table")
        assert [row["cells"] for row in body["rows"]] == [["db", "1m", "1Mi", "10s"], ["web", "1m", "1Mi", "10s"]]

    async def test_the_hosts_answer_is_chosen_by_the_tenants_labels(self, bench: Bench) -> None:
        """So that autoscalers do not have the whole namespace listed each time."""
        wanted = "vcluster.loft.sh/managed-by=blue,vcluster.loft.sh/namespace=default,app in (web)"
        bench.host.fault(lambda request: request.params.get("labelSelector") != wanted, status=500)
        assert await bench.names(f"{ROOT}/namespaces/default/pods?labelSelector=app%3Dweb") == ["default/web"]


class TestNodes:
    async def test_those_that_stand_for_the_hosts(self, bench: Bench) -> None:
        assert await bench.names(f"{ROOT}/nodes") == ["/n1"]
        assert await bench.names(f"{ROOT}/nodes?labelSelector=is%3Dn2") == []
        code, body = await bench.ask(f"{ROOT}/nodes/n1")
        assert (code, body["kind"], body["usage"]) == (200, "NodeMetrics", USAGE)

    async def test_others_are_not_found(self, bench: Bench) -> None:
        assert await bench.ask(f"{ROOT}/nodes/n2") == (404, 'nodemetrics.metrics.k8s.io "n2" not found')
        assert await bench.ask(f"{ROOT}/nodes/n3") == (404, 'nodes "n3" not found')
        bench.host.remove(NODE_METRICS, Key("", "n1"))
        assert await bench.ask(f"{ROOT}/nodes/n1") == (404, 'nodemetrics.metrics.k8s.io "n1" not found')


class TestWhatIsServed:
    async def test_discovery_needs_nobody(self, bench: Bench) -> None:
        await bench.host.stop()
        code, body = await bench.ask(ROOT)
        assert (code, body["groupVersion"]) == (200, "metrics.k8s.io/v1beta1")
        assert [(it["name"], it["namespaced"], it["kind"]) for it in body["resources"]] == [
            ("nodes", False, "NodeMetrics"),
            ("pods", True, "PodMetrics"),
        ]

    @pytest.mark.parametrize(
        ("method", "path", "code", "message"),
        [
            ("GET", f"{ROOT}/pods?watch=1", 405, 'watch is not supported on resources of kind "pods.metrics.k8s.io"'),
            ("POST", f"{ROOT}/namespaces/default/pods", 405, 'create is not supported on resources of kind "pods.metrics.k8s.io"'),
            ("DELETE", f"{ROOT}/nodes", 405, 'deletecollection is not supported on resources of kind "nodes.metrics.k8s.io"'),
            ("GET", f"{ROOT}/pods?fieldSelector=spec.nodeName%3Dn1", 400, "is not a known field selector"),
            *(
                ("GET", path, 404, "the server could not find the requested resource")
                for path in (
                    "/apis",
                    "/api/v1/pods",
                    "/apis/metrics.k8s.io",
                    "/apis/metrics.k8s.io/v1/pods",
                    f"{ROOT}/services",
                    f"{ROOT}/namespaces/default/nodes/n1",
                    f"{ROOT}/namespaces/default/pods/web/log",
                    f"{ROOT}/pods/web",
                    f"{ROOT}/namespaces/default%2Fx/pods",
                    f"{ROOT}/namespaces/default/pods/..%2fweb",
                )
            ),
        ],
    )
    async def test_nothing_else(self, bench: Bench, method: str, path: str, code: int, message: str) -> None:
        found, words = await bench.ask(path, method)
        assert (found, message in words) == (code, True), words


class TestFailures:
    @pytest.mark.parametrize(
        ("path", "resource", "words"),
        [
            ("pods", POD_METRICS, "get and list of pods in metrics.k8s.io, in a Role)"),
            ("namespaces/default/pods/web", POD_METRICS, "get and list of pods in metrics.k8s.io, in a Role)"),
            ("nodes", NODE_METRICS, "get and list of nodes in metrics.k8s.io, in a ClusterRole)"),
            ("nodes/n1", NODE_METRICS, "get and list of nodes in metrics.k8s.io, in a ClusterRole)"),
        ],
    )
    async def test_a_missing_right(self, bench: Bench, path: str, resource: Any, words: str) -> None:
        said = 'pods.metrics.k8s.io is forbidden: User "system:serviceaccount:team-17:vc-blue" cannot list'
        bench.host.fault(lambda request: request.resource == resource, status=403, message=said)
        code, message = await bench.ask(f"{ROOT}/{path}")
        assert (code, words in message) == (403, True), message
        assert "team-17" not in message

    @pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
    @pytest.mark.parametrize("path", ["pods", "namespaces/default/pods/web", "nodes"])
    async def test_whatever_else_the_host_says(self, bench: Bench, path: str, status: int) -> None:
        bench.host.fault(lambda request: request.resource in (POD_METRICS, NODE_METRICS), status=status, message="team-17 at 10.0.0.1")
        words = "the host cluster's metrics server does not answer as it should right now; try again"
        assert await bench.ask(f"{ROOT}/{path}") == (503, words)

    @pytest.mark.parametrize("path", ["pods", "namespaces/default/pods/web"])
    async def test_its_pods_cannot_be_asked_for(self, bench: Bench, path: str) -> None:
        bench.host.fault(lambda request: request.resource == PODS, status=403, message="team-17")
        assert await bench.ask(f"{ROOT}/{path}") == (503, "the host cluster does not answer as it should right now; try again")

    async def test_a_selector_that_is_none_is_refused_as_the_virtual_cluster_words_it(self, bench: Bench) -> None:
        bench.virtual.fault(on("list", PODS), status=400, message="unable to parse requirement: found '%'")
        assert await bench.ask(f"{ROOT}/pods?labelSelector=%25") == (400, "unable to parse requirement: found '%'")

    async def test_the_virtual_cluster_does_not_answer(self, bench: Bench) -> None:
        for resource in (PODS, NODES):
            bench.virtual.fault(on("list", resource), status=500)
        words = "the virtual cluster's API server does not answer as it should right now; try again"
        for path in ("pods", "nodes"):
            assert await bench.ask(f"{ROOT}/{path}") == (503, words)

    async def test_the_host_is_down(self, bench: Bench) -> None:
        await bench.host.stop()
        code, message = await bench.ask(f"{ROOT}/nodes")
        assert (code, "127.0.0.1" in message) == (503, False)

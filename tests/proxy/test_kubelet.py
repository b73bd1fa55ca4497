from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from syncer.errors import Forbidden
from syncer.kube import codec
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import PODS, Obj, Side
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.proxy.containers import Containers
from syncer.proxy.gate import Gate
from syncer.proxy.kubelet import Kubelets
from syncer.proxy.kubelet_paths import about_containers, node_of_proxy, options, questions
from syncer.proxy.relay import Relay
from syncer.proxy.server import VirtualServers
from syncer.translate.kubelets import node_service
from syncer.translate.metadata import host_metadata
from tests.proxy.front import Front, Upstream, front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


NAMES = Names("blue", "team-17")
NODE: Obj = {"metadata": {"name": "n1", "uid": "node-uid", "annotations": {LABEL_MANAGED_BY: "blue"}}}
DOTTED: Obj = {"metadata": {"name": "n1.zone", "annotations": {LABEL_MANAGED_BY: "blue"}}}
FOREIGN: Obj = {"metadata": {"name": "n2", "annotations": {}}}
WEB: Obj = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default", "uid": "virtual-uid"},
    "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "web:1"}]},
    "status": {"phase": "Running"},
}
HOST_WEB: Obj = {**WEB, "metadata": {**host_metadata(NAMES, None, PODS, WEB), "uid": "host-uid"}}
HOST_NAME = "web-x-default-x-blue"
METRICS = f"""# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{{container="main",namespace="team-17",pod="{HOST_NAME}"}} 1
container_cpu_usage_seconds_total{{container="main",namespace="team-17",pod="web-x-default-x-red"}} 2
container_cpu_usage_seconds_total{{container="etcd",namespace="kube-system",pod="etcd-host"}} 3
rest_client_requests_total{{host="10.0.0.1:6443"}} 4
"""
SHOWN = """# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="main",namespace="default",pod="web"} 1
"""
ALL = frozenset({"proxy", "metrics", "stats", "log", "pods", "healthz", "configz", "checkpoint", "spec", "statusz"})


def status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "message": message, "code": code}, status=code)


def many(items: list[Obj]) -> web.Response:
    return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})


@dataclass
class Virtual:
    """A virtual API server; its callers may do what `allowed` names: verb and subresource of nodes."""

    allowed: Callable[[str, str], bool] = lambda _verb, _subresource: True
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    nodes: list[Obj] = field(default_factory=lambda: [NODE, DOTTED, FOREIGN])

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.endswith("/selfsubjectaccessreviews"):
            asked = codec.loads(await request.read())["spec"]["resourceAttributes"]
            assert asked["resource"] == "nodes"
            self.asked.append((asked["verb"], asked["name"], asked["subresource"]))
            return web.json_response({"status": {"allowed": self.allowed(asked["verb"], asked["subresource"])}}, status=201)
        if path.endswith("/selfsubjectreviews"):
            return web.json_response({"status": {"userInfo": {"username": "jane"}}}, status=201)
        if path == "/api/v1/nodes":
            return many(self.nodes)
        if path == "/api/v1/pods":
            return many([WEB, {**WEB, "metadata": {"name": "done", "uid": "u"}, "status": {"phase": "Succeeded"}}])
        if path == "/api/v1/namespaces/default/pods/web":
            return web.json_response(WEB)
        for node in self.nodes:
            if path == f"/api/v1/nodes/{node['metadata']['name']}":
                return web.json_response(node)
        return status(404, f"{path} not found")


async def its_metrics(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=METRICS)


@dataclass
class Host:
    """A host API server, whose kubelets answer with `kubelet`."""

    kubelet: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = its_metrics
    lists: bool = True
    pods: list[Obj] = field(default_factory=lambda: [HOST_WEB])

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/api/v1/nodes/n1/proxy/"):
            return await self.kubelet(request)
        if not self.lists:
            return status(403, 'pods is forbidden: User "system:serviceaccount:team-17:vc-blue" cannot list')
        if path == "/api/v1/namespaces/team-17/services":
            assert request.query["labelSelector"] == "vcluster.loft.sh/belongs-to=blue"
            service = node_service(NAMES, None, NODE, {}, 8443)
            service["spec"]["clusterIP"] = "10.96.0.7"
            return many([service])
        if path == "/api/v1/namespaces/team-17/pods":
            assert request.query["fieldSelector"] == "spec.nodeName=n1"
            assert request.query["labelSelector"] == "vcluster.loft.sh/managed-by=blue"
            return many(self.pods)
        if path == f"/api/v1/namespaces/team-17/pods/{HOST_NAME}":
            return web.json_response(HOST_WEB)
        if path == f"/api/v1/namespaces/team-17/pods/{HOST_NAME}/log":
            return web.Response(text=f"log {request.query_string}")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket


@dataclass
class Bench:
    """A front door that answers for kubelets, between two API servers."""

    door: Front
    virtual: Virtual
    host: Upstream

    async def get(self, path: str, host: str = "n1.nodes.vcluster.com:10250", **options: Any) -> tuple[int, str]:
        """Status, and message of a Status or the text."""
        headers = {**options.pop("headers", {}), **({"Host": host} if host else {})}
        async with self.door.client() as client, client.request(options.pop("method", "GET"), path, headers=headers, **options) as answer:
            text = await answer.text()
            is_status = answer.content_type == "application/json" and answer.status >= 400
            return answer.status, codec.loads(text)["message"] if is_status else text


@asynccontextmanager
async def bench(virtual: Virtual | None = None, host: Host | None = None) -> AsyncIterator[Bench]:
    virtual, host = virtual or Virtual(), host or Host()
    async with (
        Upstream(virtual) as api,
        Upstream(host) as upstream,
        Relay() as relay,
        Client(api.cluster, Side.VIRTUAL) as virtual_client,
        Client(Cluster(upstream.cluster.server, token="of-the-syncer"), Side.HOST) as host_client,
    ):
        servers = VirtualServers(api.cluster, api.cluster)
        gate = Gate(relay, servers)
        containers = Containers(gate=gate, relay=relay, servers=servers, names=NAMES, virtual=virtual_client, host=host_client)
        kubelets = Kubelets(gate=gate, relay=relay, containers=containers, names=NAMES, virtual=virtual_client, host=host_client)
        async with front(api, api, [kubelets, containers]) as door:
            yield Bench(door, virtual, upstream)


class TestWhichNode:
    @pytest.mark.parametrize(
        "host",
        ["n1.nodes.vcluster.com", "n1.nodes.vcluster.com:10250", "N1.Nodes.VCluster.com", "n1.nodes.vcluster.com.", "10.96.0.7:10250"],
    )
    async def test_by_what_it_is_called(self, host: str) -> None:
        async with bench() as it:
            assert await it.get("/metrics", host) == (200, SHOWN)
            assert it.virtual.asked == [("get", "n1", "metrics")]

    @pytest.mark.parametrize("name", ["n1", "n1:10250", "n1:", "https:n1:", "https:n1:10250"])
    async def test_through_the_api(self, name: str) -> None:
        async with bench() as it:
            assert await it.get(f"/api/v1/nodes/{name}/proxy/metrics", "") == (200, SHOWN)
            assert it.virtual.asked == [("get", name, "proxy")]

    @pytest.mark.parametrize("name", ["n1:22", "http:n1:10255", "n1:10250:x", "a:b:c:d"])
    async def test_no_other_port(self, name: str) -> None:
        async with bench() as it:
            code, message = await it.get(f"/api/v1/nodes/{name}/proxy/metrics", "")
            assert (code, message.partition(":")[0]) == (403, name.partition(":")[0])
            assert it.host.seen == []

    async def test_a_dotted_name(self) -> None:
        """The dots are found again by asking which nodes there are."""
        async with bench(host=Host(kubelet=its_metrics)) as it:
            code, _ = await it.get("/pods", "n1-zone.nodes.vcluster.com")
            assert code == 200
            assert it.virtual.asked[0][1] == "n1.zone"

    async def test_nodes_that_would_have_one_name_have_none(self) -> None:
        async with bench(Virtual(nodes=[DOTTED, {**DOTTED, "metadata": {**DOTTED["metadata"], "name": "n1-zone"}}])) as it:
            code, _ = await it.get("/pods", "n1-zone.nodes.vcluster.com")
            assert (code, it.virtual.asked[0][1]) == (200, "n1-zone"), "but for the one that has no dots"

    async def test_an_unknown_node(self) -> None:
        async with bench() as it:
            for path, host in (("/metrics", "n9.nodes.vcluster.com"), ("/api/v1/nodes/n9/proxy/metrics", "")):
                assert await it.get(path, host) == (404, 'nodes "n9" not found')
            assert it.host.seen == []

    async def test_a_node_that_the_tenant_made_has_no_kubelet(self) -> None:
        async with bench() as it:
            assert await it.get("/metrics", "n2.nodes.vcluster.com") == (503, 'node "n2" has no kubelet')
            assert it.host.seen == []

    @pytest.mark.parametrize("host", ["localhost", "10.96.0.7", "10.96.0.7:443", "10.96.0.8:10250", "nodes.vcluster.com", "x.example.com"])
    async def test_other_names_are_those_of_the_api(self, host: str) -> None:
        async with bench() as it:
            assert (await it.get("/metrics", host))[0] == 404, "the virtual API server of this test has none"
            assert it.virtual.asked == []


class TestWhoMay:
    @pytest.mark.parametrize("path", ["/metrics/cadvisor", "/stats/summary", "/pods", "/healthz", "/logs/", "/run/default/web/main"])
    async def test_nothing_is_told_to_others(self, path: str) -> None:
        async with bench(Virtual(allowed=lambda *_: False)) as it:
            for where, host in ((path, "n1.nodes.vcluster.com"), (f"/api/v1/nodes/n1/proxy{path}", "")):
                code, message = await it.get(where, host)
                assert code == 403
                assert 'User "jane" cannot' in message
            assert it.host.seen == []

    async def test_what_is_finer_is_enough(self) -> None:
        async with bench(Virtual(allowed=lambda _verb, subresource: subresource == "pods")) as it:
            assert (await it.get("/pods"))[0] == 200
            assert (await it.get("/metrics"))[0] == 403
            assert (await it.get("/api/v1/nodes/n1/proxy/pods", ""))[0] == 403

    async def test_whoever_may_only_read_runs_nothing(self) -> None:
        async with bench(Virtual(allowed=lambda verb, _: verb == "get")) as it, it.door.client() as client:
            for path in ("/exec/default/web/main?command=sh&output=1", "/api/v1/nodes/n1/proxy/exec/default/web/main?command=sh&output=1"):
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await client.ws_connect(path, headers={"Host": "n1.nodes.vcluster.com"} if path[1] == "e" else {})
                assert caught.value.status == 403
            assert it.host.seen == []


class TestWhatIsServed:
    @pytest.mark.parametrize(
        "path", ["/metrics", "/metrics/cadvisor", "/metrics/probes", "/metrics/resource", "/metrics/resource/v1beta1", "/metrics/"]
    )
    async def test_metrics(self, path: str) -> None:
        async with bench() as it:
            assert await it.get(f"{path}?x=y") == (200, SHOWN)
            method, asked, headers = it.host.seen[-1]
            assert (method, asked) == ("GET", f"/api/v1/nodes/n1/proxy{path.rstrip('/')}")
            assert headers["Authorization"] == "Bearer of-the-syncer"

    @pytest.mark.parametrize(
        "path",
        [
            *("/", "/logs/", "/logs/syslog", "/run/default/web/main", "/configz", "/spec", "/debug/pprof/heap", "/statusz", "/flagz"),
            *("/checkpoint/default/web/main", "/stats", "/stats/container", "/metrics/other", "/api/v1/pods", "/healthz/syncloop"),
            *("/cri/exec/token", "/metrics/cadvisor/x", "/pods/default", "/stats/summary/x"),
        ],
    )
    async def test_nothing_else(self, path: str) -> None:
        async with bench() as it:
            for where, host in ((path, "n1.nodes.vcluster.com"), (f"/api/v1/nodes/n1/proxy{path}", "")):
                code, message = await it.get(where, host)
                assert code == 403
                assert "in a virtual cluster; it answers" in message
            assert it.host.seen == []

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    async def test_reading_only(self, method: str) -> None:
        async with bench() as it:
            assert (await it.get("/metrics", method=method))[0] == 405
            assert (await it.get("/containerLogs/default/web/main", method=method))[0] == 405
            assert it.host.seen == []

    async def test_summary(self) -> None:
        async def kubelet(request: web.BaseRequest) -> web.StreamResponse:
            assert request.raw_path == "/api/v1/nodes/n1/proxy/stats/summary?only_cpu_and_memory=true"
            pods = [{"podRef": {"name": name, "namespace": "team-17", "uid": "host-uid"}} for name in (HOST_NAME, "web-x-default-x-red")]
            return web.json_response({"node": {"nodeName": "n1"}, "pods": pods})

        async with bench(host=Host(kubelet)) as it:
            code, text = await it.get("/stats/summary?only_cpu_and_memory=true&x=y")
            found = [pod["podRef"] for pod in codec.loads(text)["pods"]]
            assert (code, found) == (200, [{"name": "web", "namespace": "default", "uid": "virtual-uid"}])

    @pytest.mark.parametrize("body", ["no JSON", "[]", '{"pods": [1]}'])
    async def test_a_summary_that_cannot_be_read(self, body: str) -> None:
        async def kubelet(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text=body)

        async with bench(host=Host(kubelet)) as it:
            assert await it.get("/stats/summary") == (502, "the kubelet's summary cannot be read")

    async def test_where_no_pod_is_nothing_is_told(self) -> None:
        """A tenant may make Nodes, and pods that name them, of whatever name the host's have."""
        async with bench(host=Host(pods=[])) as it:
            assert await it.get("/metrics") == (200, "")
            assert await it.get("/stats/summary") == (200, '{"node":{"nodeName":"n1"},"pods":[]}')
            assert not [path for _, path, _ in it.host.seen if path.startswith("/api/v1/nodes/")]

    async def test_pods(self) -> None:
        async with bench() as it:
            names = {
                path: [pod["metadata"]["name"] for pod in codec.loads((await it.get(path))[1])["items"]]
                for path in ("/pods", "/runningpods/")
            }
            assert names == {"/pods": ["web", "done"], "/runningpods/": ["web"]}
            assert it.host.seen == []

    @pytest.mark.parametrize(("code", "expected"), [(200, (200, "ok")), (500, (500, "the kubelet is not well"))])
    async def test_healthz(self, code: int, expected: tuple[int, str]) -> None:
        async def kubelet(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text="[-]syncloop of host failed", status=code)

        async with bench(host=Host(kubelet)) as it:
            assert await it.get("/healthz") == expected


class TestContainers:
    async def test_logs(self) -> None:
        async with bench() as it:
            path = "/containerLogs/default/web/main?tail=5&follow=true&unknown=1"
            for where, host in ((path, "n1.nodes.vcluster.com"), (f"/api/v1/nodes/n1/proxy{path}", "")):
                assert await it.get(where, host) == (200, "log container=main&follow=true&tailLines=5")

    async def test_exec(self) -> None:
        async with bench() as it, it.door.client() as client:
            path = "/exec/default/web/virtual-uid/main?command=cat&command=-&input=1&output=1&error=0"
            async with client.ws_connect(path, headers={"Host": "n1.nodes.vcluster.com"}, protocols=("v5.channel.k8s.io",)) as socket:
                await socket.send_bytes(b"\0hello")
                assert (await socket.receive()).data == b"\0hello"
            assert it.host.seen[-1][1] == (
                f"/api/v1/namespaces/team-17/pods/{HOST_NAME}/exec?stdin=true&stdout=true&stderr=false&container=main&command=cat&command=-"
            )

    @pytest.mark.parametrize("path", ["/containerLogs/default/web/main", "/containerLogs/default/other/main"])
    async def test_no_pod_of_another_node(self, path: str) -> None:
        async with bench() as it:
            code, message = await it.get(path, "n1-zone.nodes.vcluster.com")
            assert (code, "not found" in message) == (404, True)
            assert it.host.seen == []

    async def test_a_pod_that_was_made_anew(self) -> None:
        async with bench() as it:
            upgrade = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
            assert await it.get("/exec/default/web/other-uid/main?command=x", method="POST", headers=upgrade) == (
                404,
                'pods "web" not found',
            )
            assert await it.get("/attach/default/web/main", method="POST") == (400, "Upgrade request required")

    @pytest.mark.parametrize(
        "path", ["/containerLogs", "/containerLogs/default/web", "/exec/default/web", "/portForward/default", "/exec/a/b/c/d/e"]
    )
    async def test_too_little_or_too_much(self, path: str) -> None:
        async with bench() as it:
            assert await it.get(path) == (404, f"a kubelet has nothing at {path}")


class TestFailures:
    @pytest.mark.parametrize("code", [401, 403])
    async def test_a_missing_right_is_named(self, code: int) -> None:
        async def kubelet(_request: web.BaseRequest) -> web.StreamResponse:
            return status(code, 'nodes "n1" is forbidden: User "system:serviceaccount:team-17:vc-blue" cannot get nodes/proxy')

        async with bench(host=Host(kubelet)) as it:
            for path in ("/metrics", "/stats/summary", "/healthz"):
                answered, message = await it.get(path)
                assert answered == 403
                assert "no right to nodes/proxy in its host cluster" in message
                assert "team-17" not in message

    @pytest.mark.parametrize(("code", "expected"), [(404, 404), (500, 503), (502, 503), (301, 503), (429, 503)])
    async def test_what_the_host_says_stays_there(self, code: int, expected: int) -> None:
        async def kubelet(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text="dial tcp 10.1.2.3:10250 in team-17", status=code, headers={"Location": "https://10.1.2.3"})

        async with bench(host=Host(kubelet)) as it:
            answered, message = await it.get("/metrics")
            assert answered == expected
            assert "10.1.2.3" not in message

    async def test_pods_that_cannot_be_listed(self) -> None:
        async with bench(host=Host(lists=False)) as it:
            assert await it.get("/metrics") == (503, "the host API server does not answer as it should; try again")
            assert (await it.get("/metrics", "10.96.0.7:10250"))[0] == 503

    async def test_an_answer_that_breaks_off_does_not_look_complete(self) -> None:
        async def kubelet(request: web.BaseRequest) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(METRICS.encode() * 2)
            assert request.transport is not None
            request.transport.abort()
            return answer

        async with bench(host=Host(kubelet)) as it:
            with pytest.raises(aiohttp.ClientError):
                await it.get("/metrics")

    async def test_a_text_comes_as_it_is_told(self) -> None:
        """Nothing waits for its end."""
        go_on = asyncio.Event()

        async def kubelet(request: web.BaseRequest) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(METRICS.encode())
            await go_on.wait()
            return answer

        async with (
            bench(host=Host(kubelet)) as it,
            it.door.client() as client,
            client.get("/metrics", headers={"Host": "n1.nodes.vcluster.com"}) as answer,
        ):
            assert await answer.content.readline() == SHOWN.splitlines(keepends=True)[0].encode()
            assert not go_on.is_set()
            go_on.set()
            await answer.read()


QUESTIONS = [
    ("GET", "/metrics", ["get metrics"]),
    ("GET", "/metrics/cadvisor", ["get metrics"]),
    ("GET", "/stats/summary", ["get stats"]),
    ("POST", "/stats/x", ["create stats"]),
    ("GET", "/logs/x", ["get log"]),
    ("GET", "/spec", ["get spec"]),
    ("POST", "/checkpoint/a/b/c", ["create checkpoint"]),
    ("GET", "/pods", ["get pods", "get proxy"]),
    ("GET", "/runningpods", ["get pods", "get proxy"]),
    ("GET", "/healthz", ["get healthz", "get proxy"]),
    ("GET", "/configz", ["get configz", "get proxy"]),
    ("GET", "/metricsx", ["get proxy"]),
    ("GET", "/containerLogs/a/b/c", ["get proxy"]),
    ("GET", "/exec/a/b/c", ["create proxy"]),
    ("GET", "/attach/a/b/c", ["create proxy"]),
    ("GET", "/portForward/a/b", ["create proxy"]),
    ("GET", "/run/a/b/c", ["create proxy"]),
    ("DELETE", "/", ["delete proxy"]),
]


@pytest.mark.parametrize(("method", "path", "expected"), QUESTIONS)
def test_what_a_kubelet_asks_about_its_caller(method: str, path: str, expected: list[str]) -> None:
    assert [f"{question.verb} {question.subresource}" for question in questions("n1", method, path)] == expected
    assert {question.subresource for question in questions("n1", method, path)} <= ALL


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/containerLogs/a/b/c", "tail=all&container=x&previous=true", "container=c&container=x&previous=true"),
        ("/exec/a/b/c", "command=a&command=b%26&tty=1&input=0&ports=1", "container=c&command=a&command=b%26&tty=true&stdin=false"),
        ("/portForward/a/b/uid", "port=80&container=x", "ports=80"),
    ],
)
def test_parameters_in_the_words_of_the_api(path: str, query: str, expected: str) -> None:
    about = about_containers(path)
    assert about is not None
    assert options(about, query) == expected


def test_a_node_and_its_port() -> None:
    assert node_of_proxy("https:n1:10250") == "n1"
    with pytest.raises(Forbidden):
        node_of_proxy("http:n1:")

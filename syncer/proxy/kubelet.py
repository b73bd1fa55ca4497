"""The kubelet facade: virtual nodes answer as kubelets do, with nothing in it but this virtual cluster's pods.

A request is for a kubelet by the host name or the address that a virtual Node shows (translate.kubelets), or as `nodes/<node>/proxy`
of the API, which an API server serves by asking the kubelet. Who may ask is for the virtual cluster's RBAC to say, by the kubelet's
own rules in the one case and by kube-apiserver's in the other.

What is not named here is refused: the paths of a kubelet that are left out tell of the whole node, or run something on it. Metrics
and statistics are read from the host's kubelet, if the host lets us (`get` of nodes/proxy), and filtered on their way; everything
else is composed from the virtual API server, and from the host's API about the one pod in question.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import structlog
from aiohttp import web
from multidict import CIMultiDict

from syncer.errors import NETWORK_ERRORS, ApiError, Forbidden, NotFound
from syncer.kube import codec
from syncer.kube.types import NODES, PODS, SERVICES, Key, annotations_of, key_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.proxy import kubelet_paths as paths
from syncer.proxy.exposition import CONTENT_TYPE, Exposition
from syncer.proxy.relay import is_upgrade
from syncer.proxy.requests import RequestInfo
from syncer.proxy.residents import residents
from syncer.proxy.summary import shown_summary
from syncer.translate.kubelets import BELONGS_TO, HOST_DOMAIN, PORT, host_name, node_of
from syncer.translate.metadata import marker_selector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from syncer.kube.client import Client
    from syncer.kube.types import Obj, Resource
    from syncer.naming import Names
    from syncer.proxy.containers import Containers
    from syncer.proxy.gate import Gate
    from syncer.proxy.relay import Relay
    from syncer.proxy.residents import Residents
    from syncer.proxy.server import Call

log = structlog.get_logger("syncer.proxy")

_AT_ONCE = 8
"""How many requests may be under way to kubelets of the host; a tenant who reads slowly keeps only himself waiting."""
_LONGEST = 120.0
"""Seconds that reading from a kubelet may take."""
_SUMMARY_BYTES = 64 << 20
_FRESH = 2.0
"""Seconds for which it is known which host names and addresses are those of nodes: whoever asks is not known yet."""


class Kubelets:
    """A Route. `virtual` and `host` are the syncer's own clients."""

    def __init__(self, *, gate: Gate, relay: Relay, containers: Containers, names: Names, virtual: Client, host: Client) -> None:
        self._gate = gate
        self._relay = relay
        self._containers = containers
        self._names = names
        self._virtual = virtual
        self._host = host
        self._by_name = _Directory(self._ask_names)
        self._by_address = _Directory(self._ask_addresses)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, call: Call) -> web.StreamResponse | None:
        """The kubelet's, once the virtual cluster has nothing against it; None for what is for no kubelet."""
        info = call.info
        if paths.is_node_proxy(info):
            path = paths.path_of(info.tail)
            await self._require(call, [replace(info, verb="create") if paths.runs_something(path) else info])
            node = paths.node_of_proxy(info.name)
        elif (found := await self._called(call)) is not None:
            node, path = found, paths.path_of(info.path)
            await self._require(call, paths.questions(node, call.request.method, path))
        else:
            return None
        try:
            shown = await self._virtual.get(NODES, Key("", node), metadata_only=True)
        except NotFound:
            raise NotFound(404, "NotFound", f'nodes "{node}" not found', {"name": node, "kind": "nodes"}) from None
        if annotations_of(shown).get(LABEL_MANAGED_BY) != self._names.suffix:
            # A tenant may make Nodes of any name. One that the host has by chance is none that he has to do with.
            raise ApiError(503, "ServiceUnavailable", f'node "{node}" has no kubelet')
        return await self._serve(call, node, path)

    async def _called(self, call: Call) -> str | None:
        """The node that the client calls us by; None when it calls us by any other name."""
        host = call.host.lower().rstrip(".")
        if host.endswith(f".{HOST_DOMAIN}"):
            return await self._by_name.find(host) or host.removesuffix(f".{HOST_DOMAIN}")
        if (call.request.headers.get("Host") or "").endswith(f":{PORT}"):
            return await self._by_address.find(host.strip("[]"))
        return None

    async def _require(self, call: Call, questions: list[RequestInfo]) -> None:
        *others, last = questions
        for question in others:
            try:
                await self._gate.require(call.caller, question)
            except Forbidden:
                continue
            return
        await self._gate.require(call.caller, last)

    async def _serve(self, call: Call, node: str, path: str) -> web.StreamResponse:
        if (about := paths.about_containers(path)) is not None:
            return await self._contain(call, node, about)
        if call.request.method != "GET" or is_upgrade(call.request):
            raise ApiError(405, "MethodNotAllowed", f"a kubelet answers {path} to a plain GET only")
        if path in paths.TEXTS:
            return await self._metrics(call, node, path)
        match path:
            case "/stats/summary":
                return await self._summary(call, node)
            case "/pods":
                return await self._pods(node, lambda _: True)
            case "/runningpods":
                return await self._pods(node, lambda pod: (pod.get("status") or {}).get("phase") == "Running")
            case "/healthz":
                return await self._healthz(node)
            case _:
                words = f'the kubelet of node "{node}" does not answer {path} in a virtual cluster; it answers {paths.SERVED}'
                raise Forbidden(403, "Forbidden", words, {"name": node, "kind": "nodes"})

    async def _contain(self, call: Call, node: str, about: paths.ContainerPath) -> web.StreamResponse:
        """Logs, exec, attach and port-forward of a pod on that node."""
        reads, method = about.subresource == "log", call.request.method
        if method != "GET" and (reads or method != "POST"):
            raise ApiError(405, "MethodNotAllowed", f"a kubelet has no {about.subresource} for {method}")
        key = about.pod
        path = PODS.path(key.namespace, key.name, about.subresource)
        info = RequestInfo("get" if reads else "create", path, "", "v1", key.namespace, "pods", key.name, about.subresource)
        options = paths.options(about, call.request.raw_path.partition("?")[2])
        return await self._containers.as_kubelet(replace(call, info=info), options, node=node, uid=about.uid)

    async def _metrics(self, call: Call, node: str, path: str) -> web.StreamResponse:
        those = await self._residents(node)
        if not those.pods:
            # What is told of the node is what his pods see of it, and here are none.
            return web.Response(body=b"", headers={"Content-Type": CONTENT_TYPE})
        text = Exposition(those)
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        try:
            async with self._reading(node, path) as answer:
                await response.prepare(call.request)
                async for piece in answer.content.iter_any():
                    if shown := text.feed(piece):
                        await response.write(shown)
                    await asyncio.sleep(0)  # the next piece may be there already, and all of them take a while
        except NETWORK_ERRORS:
            if not response.prepared:
                raise
            # The answer is not complete. Its end must not look like one.
            if call.request.transport is not None:
                call.request.transport.abort()
            return response
        await response.write_eof(text.end())
        return response

    async def _summary(self, call: Call, node: str) -> web.Response:
        those = await self._residents(node)
        if not those.pods:
            return _json(shown_summary({}, those))
        brief = call.request.query.get("only_cpu_and_memory") == "true"
        body = bytearray()
        async with self._reading(node, f"/stats/summary{'?only_cpu_and_memory=true' if brief else ''}") as answer:
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > _SUMMARY_BYTES:
                    raise ApiError(502, "BadGateway", "the kubelet's summary is too long")
        try:
            summary = shown_summary(codec.loads(body), those)
        except (ValueError, AttributeError, TypeError, KeyError):
            log.warning("proxy.summary_unreadable", node=node)
            raise ApiError(502, "BadGateway", "the kubelet's summary cannot be read") from None
        return _json(summary)

    async def _pods(self, node: str, which: Callable[[Obj], bool]) -> web.Response:
        """From the virtual API server: what the host's kubelet has of them differs in names only, and in what the tenant is not shown."""
        found = [pod for pod in await _listed(self._virtual, PODS, field_selector=f"spec.nodeName={node}") if which(pod)]
        return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found})

    async def _healthz(self, node: str) -> web.Response:
        async with self._reading(node, "/healthz", well=(200, 500)) as answer:
            well = answer.status == 200
        return web.Response(status=answer.status, text="ok" if well else "the kubelet is not well")

    async def _residents(self, node: str) -> Residents:
        field = f"spec.nodeName={node}"
        virtual, host = await asyncio.gather(
            _listed(self._virtual, PODS, field_selector=field),
            _listed(
                self._host,
                PODS,
                self._names.host_namespace,
                label_selector=marker_selector(self._names),
                field_selector=field,
                metadata_only=True,
            ),
        )
        return residents(self._names, node, virtual, host)

    @asynccontextmanager
    async def _reading(self, node: str, path: str, *, well: tuple[int, ...] = (200,)) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of the host's kubelet, to be read. Raises ApiError in virtual terms, or a network error."""
        cluster = self._host.cluster
        async with asyncio.timeout(_LONGEST), self._slots:
            for last in (False, True):
                began = asyncio.get_running_loop().time()
                headers = CIMultiDict({"Accept": "text/plain, application/json", "Accept-Encoding": "identity"})
                headers.update(await cluster.headers())
                async with self._relay.read(cluster, f"{NODES.path('', quote(node, safe=''), 'proxy')}{path}", headers) as answer:
                    if answer.status != 401 or last:
                        if answer.status not in well:
                            raise _failure(node, path, answer.status)
                        yield answer
                        return
                await cluster.refresh(since=began, force=True)

    async def _ask_names(self) -> Mapping[str, str]:
        """Nodes by host name; not those that have one together."""
        found: dict[str, list[str]] = {}
        for node in await _listed(self._virtual, NODES, metadata_only=True):
            name = key_of(node).name
            found.setdefault(host_name(name), []).append(name)
        return {host: nodes[0] for host, nodes in found.items() if len(nodes) == 1}

    async def _ask_addresses(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        selector = f"{BELONGS_TO}={self._names.suffix}"
        for service in await _listed(self._host, SERVICES, self._names.host_namespace, label_selector=selector):
            if (node := node_of(self._names, service)) is not None:
                spec = service.get("spec") or {}
                found |= dict.fromkeys([spec.get("clusterIP") or "", *(spec.get("clusterIPs") or ())], node)
        return found


class _Directory:
    """Which node is meant by a host name or an address, asked anew when the last answer is no longer fresh."""

    def __init__(self, ask: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._ask = ask
        self._found: Mapping[str, str] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def find(self, text: str) -> str | None:
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if now - self._asked_at >= _FRESH:
                self._found = await self._ask()
                self._asked_at = now
        return self._found.get(text)


async def _listed(client: Client, resource: Resource, namespace: str = "", **selected: Any) -> list[Obj]:
    """All objects. Raises ApiError in words that anybody may read."""
    try:
        return await client.list_all(resource, namespace, **selected)
    except ApiError as error:
        log.warning("proxy.not_listed", side=client.side, resource=str(resource), error=str(error))
        words = f"the {client.side} API server does not answer as it should; try again"
        raise ApiError(503, "ServiceUnavailable", words) from error


def _failure(node: str, path: str, status: int) -> ApiError:
    match status:
        case 401 | 403:
            words = (
                f'nodes "{node}" is forbidden: this virtual cluster has no right to nodes/proxy in its host cluster; whoever runs that'
                " can grant it (get of nodes/proxy, in a ClusterRole)"
            )
            return Forbidden(403, "Forbidden", words, {"name": node, "kind": "nodes"})
        case 404:
            return NotFound(404, "NotFound", f'the kubelet of node "{node}" has nothing at {path}')
        case _:
            return ApiError(503, "ServiceUnavailable", f'the kubelet of node "{node}" does not answer as it should; try again')


def _json(body: Obj) -> web.Response:
    return web.Response(body=codec.dumps(body), content_type="application/json")

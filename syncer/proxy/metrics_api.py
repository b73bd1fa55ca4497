"""metrics.k8s.io of a virtual cluster, read from the host's metrics server and put in virtual terms.

It is an aggregated API: the virtual API server has authorised a request before it asks here (see aggregation). What is served is
told without asking the host, so that a metrics server that is down for a while does not break discovery, by which
everything that goes over all types would be held up, the deletion of namespaces among it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import structlog
from aiohttp import web

from syncer.errors import NETWORK_ERRORS, ApiError, Forbidden, NotFound
from syncer.kube import codec
from syncer.kube.types import NODES, PODS, Key
from syncer.proxy.requests import RequestInfo, is_clear, parse
from syncer.proxy.residents import proven_pairs
from syncer.proxy.tables import table, table_version
from syncer.proxy.usage import GROUP, NODE_METRICS, POD_METRICS, RESOURCES, VERSION, check_fields, host_query, shown_nodes, shown_pods

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from syncer.kube.client import Client
    from syncer.kube.types import Obj, Resource
    from syncer.naming import Names

T = TypeVar("T")

log = structlog.get_logger("syncer.proxy")

ROOT = f"/apis/{GROUP}/{VERSION}"
_AT_ONCE = 8
"""How many requests may be under way; the adaptive limits of the clients are shared with the loops."""


class MetricsApi:
    """`virtual` and `host` are the syncer's own clients."""

    def __init__(self, *, names: Names, virtual: Client, host: Client) -> None:
        self._names = names
        self._virtual = virtual
        self._host = host
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer to an authorised request. Raises ApiError in virtual terms, or a network error."""
        info = parse(request.method, request.raw_path)
        if info.path.rstrip("/") == ROOT and request.method == "GET":
            return _json(RESOURCES)
        resource = {"pods": POD_METRICS, "nodes": NODE_METRICS}.get(info.resource)
        served = resource is not None and f"{info.group}/{info.version}" == resource.api_version and not info.subresource
        if resource is None or not served or not is_clear(request.raw_path) or (info.namespace and not resource.namespaced):
            raise NotFound(404, "NotFound", "the server could not find the requested resource")
        if info.verb not in ("get", "list"):
            words = f'{info.verb} is not supported on resources of kind "{resource}"'
            raise ApiError(405, "MethodNotAllowed", words, {"group": GROUP, "kind": info.resource})
        version = table_version(request.headers.get("Accept", ""))
        async with self._slots:
            found = await (self._one(resource, info) if info.verb == "get" else self._many(resource, info, request))
        if version is not None:
            return _json(table(version, found, resource.api_version, resource.kind, request.query.get("includeObject", "")))
        if info.verb == "get":
            return _json({"kind": resource.kind, "apiVersion": resource.api_version, **found[0]})
        return _json({"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": {}, "items": found})

    async def _one(self, resource: Resource, info: RequestInfo) -> list[Obj]:
        """The one that is asked for, or NotFound."""
        key = Key(info.namespace, info.name)
        kind = resource.kind.lower()
        missing = NotFound(404, "NotFound", f'{kind}.{GROUP} "{key}" not found', {"name": str(key), "group": GROUP, "kind": kind})
        if resource is NODE_METRICS:
            node = await self._of_virtual(self._virtual.get(NODES, key, metadata_only=True))
            if not shown_nodes(self._names, [node], [node]):  # a tenant may make Nodes of any name
                raise missing
            found = shown_nodes(self._names, [node], [await self._of_metrics(self._host.get(NODE_METRICS, key), resource, missing)])
        elif not key.namespace:
            raise NotFound(404, "NotFound", "the server could not find the requested resource")
        else:
            host_key = self._names.host_key(key)
            pod = await self._of_virtual(self._virtual.get(PODS, key))
            image = await self._of_host(self._host.get(PODS, host_key, metadata_only=True), missing)
            pairs = [*proven_pairs(self._names, [pod], [image])]
            if not pairs:
                raise missing
            found = shown_pods(pairs, [await self._of_metrics(self._host.get(POD_METRICS, host_key), resource, missing)])
        if not found:
            raise missing
        return found

    async def _many(self, resource: Resource, info: RequestInfo, request: web.BaseRequest) -> list[Obj]:
        """All that are asked for. As with the metrics server itself there are no pages of them."""
        labels, fields = (request.query.get(name, "") for name in ("labelSelector", "fieldSelector"))
        check_fields(fields)
        chosen: dict[str, Any] = {"label_selector": labels, "field_selector": fields}
        if resource is NODE_METRICS:
            nodes = await self._of_virtual(self._virtual.list_all(NODES, metadata_only=True, **chosen))
            found = await self._of_metrics(self._host.list_all(NODE_METRICS), resource)
            return shown_nodes(self._names, nodes, found)
        namespace, query = self._names.host_namespace, host_query(self._names, info.namespace, labels)
        virtual, images, found = await asyncio.gather(
            self._of_virtual(self._virtual.list_all(PODS, info.namespace, **chosen)),
            self._of_host(self._host.list_all(PODS, namespace, label_selector=query, metadata_only=True)),
            self._of_metrics(self._host.list_all(POD_METRICS, namespace, label_selector=query), resource),
        )
        return shown_pods(proven_pairs(self._names, virtual, images), found)

    async def _of_virtual(self, asked: Awaitable[T]) -> T:
        """The virtual API server's answer. What it has against the request itself is the tenant's to know in its words."""
        try:
            return await asked
        except (ApiError, *NETWORK_ERRORS) as error:
            if isinstance(error, ApiError) and error.status in (400, 404):
                raise
            _unavailable("the virtual cluster's API server", error)

    async def _of_host(self, asked: Awaitable[T], missing: NotFound | None = None) -> T:
        try:
            return await asked
        except (ApiError, *NETWORK_ERRORS) as error:
            if isinstance(error, NotFound) and missing is not None:
                raise missing from None
            _unavailable("the host cluster", error)

    async def _of_metrics(self, asked: Awaitable[T], resource: Resource, missing: NotFound | None = None) -> T:
        try:
            return await asked
        except Forbidden:
            words = (
                f"{resource} is forbidden: this virtual cluster has no right to them in its host cluster; whoever runs that can grant it "
                f"(get and list of {resource.plural} in {GROUP}, in a {'Role' if resource.namespaced else 'ClusterRole'})"
            )
            raise Forbidden(403, "Forbidden", words, {"group": GROUP, "kind": resource.plural}) from None
        except (ApiError, *NETWORK_ERRORS) as error:
            if isinstance(error, NotFound) and missing is not None and error.details.get("name"):
                raise missing from None
            _unavailable("the host cluster's metrics server", error)


def _unavailable(who: str, error: BaseException) -> NoReturn:
    log.warning("metrics_api.unavailable", who=who, error=str(error) or type(error).__name__)
    raise ApiError(503, "ServiceUnavailable", f"{who} does not answer as it should right now; try again") from None


def _json(body: Obj) -> web.Response:
    return web.Response(body=codec.dumps(body), content_type="application/json")

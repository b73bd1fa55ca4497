"""pods/log, pods/exec, pods/attach and pods/portforward: the host answers them, as its kubelets run the containers.

Whether the caller may is for the virtual cluster to say, before anything is looked up. For what Kubernetes calls CONNECT (all but
logs) its API server is sent the very request, with the caller's own credentials but without asking for an upgrade, and so does all
that it does before it would connect to a kubelet: authentication, impersonation, RBAC with the rules of its version, admission by
webhooks and policies with their conditions, the pod, its container, its node. When nothing stands in the way, it misses the
upgrade, and says so (apimachinery's UpgradeAwareHandler). Its audit log has the request then, too.

The host is asked about nothing but a pod that provably is the virtual one's, and about no container but those of the virtual pod.
It is told nothing of the caller, and what it refuses is told in virtual terms.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import structlog
from aiohttp import web
from multidict import CIMultiDict

from syncer.errors import ApiError, NotFound, Unauthorized
from syncer.kube import codec
from syncer.kube.types import PODS, Key, Side, uid_of
from syncer.proxy.callers import subprotocols, without_token
from syncer.proxy.relay import is_upgrade
from syncer.proxy.residents import container_names
from syncer.translate.messages import host_names_hidden, names_of_pod
from syncer.translate.metadata import recorded_uid, virtual_key
from syncer.translate.references import CONTAINER_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from multidict import MultiMapping

    from syncer.kube.client import Client
    from syncer.kube.types import Obj
    from syncer.naming import Names
    from syncer.proxy.gate import Gate
    from syncer.proxy.relay import Relay
    from syncer.proxy.requests import RequestInfo
    from syncer.proxy.server import Call, VirtualServers

log = structlog.get_logger("syncer.proxy")

_STREAMS = ("stdin", "stdout", "stderr", "tty", "container")
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "log": (
        "container",
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "insecureSkipTLSVerifyBackend",
        "stream",
    ),
    "exec": (*_STREAMS, "command", "dryRun"),
    "attach": (*_STREAMS, "dryRun"),
    "portforward": ("ports", "dryRun"),
}
"""Parameters of PodLogOptions and so on (core/v1). Of a dry run, which does not exist here, the virtual API server says so."""
_LISTS = frozenset({"command", "ports"})
_CONNECTING = ("GET", "POST")
_METHODS: Mapping[str, tuple[str, ...]] = {"log": ("GET",), "exec": _CONNECTING, "attach": _CONNECTING, "portforward": _CONNECTING}
_PASSED = ("User-Agent", "X-Stream-Protocol-Version", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
_NO_UPGRADE = "Upgrade request required"
_MANAGER = "syncer"
"""Our name as the manager of fields, see Client.patch."""


class Containers:
    """A Route. `virtual` and `host` are the syncer's own clients; `servers` is where callers are let speak for themselves."""

    def __init__(self, *, gate: Gate, relay: Relay, servers: VirtualServers, names: Names, virtual: Client, host: Client) -> None:
        self._gate = gate
        self._relay = relay
        self._servers = servers
        self._names = names
        self._virtual = virtual
        self._host = host

    async def answer(self, call: Call) -> web.StreamResponse | None:
        """The host's, once the virtual cluster has nothing against it; None for what is not about a pod's containers."""
        info, request = call.info, call.request
        if not _is_ours(info, request.method):
            return None
        if request.can_read_body:
            raise ApiError(400, "BadRequest", f"{info.kind} takes no body")
        options = read_options(info.subresource, request.raw_path.partition("?")[2])
        _check_upgrade(call)
        if info.subresource == "log":
            await self._gate.require(call.caller, info)
        else:
            await self._have_admitted(call, options)
            if not is_upgrade(request):
                raise ApiError(400, "BadRequest", _NO_UPGRADE)
        return await self._connected(call, options, await self._virtual_pod(Key(info.namespace, info.name)))

    async def as_kubelet(self, call: Call, query: str, *, node: str, uid: str) -> web.StreamResponse:
        """The same for a caller who may do anything on that node, where `call.info` says what. Of other pods nothing is found there.

        `query` has the parameters in the words of the API; `uid` is that of the pod, if the caller knows it.
        """
        info, request = call.info, call.request
        if request.can_read_body:
            raise ApiError(400, "BadRequest", f"{info.kind} takes no body")
        options = read_options(info.subresource, query)
        _check_upgrade(call)
        if info.subresource != "log" and not is_upgrade(request):
            raise ApiError(400, "BadRequest", _NO_UPGRADE)
        pod = await self._virtual_pod(Key(info.namespace, info.name))
        if (pod.get("spec") or {}).get("nodeName") != node or uid not in ("", uid_of(pod)):
            raise NotFound(404, "NotFound", f'pods "{info.name}" not found', {"name": info.name, "kind": "pods"})
        return await self._connected(call, options, pod)

    async def _connected(self, call: Call, options: dict[str, list[str]], pod: Obj) -> web.StreamResponse:
        info = call.info
        container = "" if info.subresource == "portforward" else choose_container(pod, "".join(options.get("container", ())))
        if info.subresource == "log" and not (pod.get("spec") or {}).get("nodeName"):
            return web.Response(status=204)  # there is no log yet, as kube-apiserver sees it
        host = await self._host_pod(Key(info.namespace, info.name), pod)
        if container:
            if not is_same_container(container, pod, host):
                raise _no_container(container, info.name)
            options["container"] = [container]
        return await self._pass_on(call, options, pod, host)

    async def _have_admitted(self, call: Call, options: Mapping[str, list[str]]) -> None:
        """Return if the virtual API server would connect. Raises its ApiError."""
        request, caller = call.request, call.caller
        cluster = self._servers.of(caller)
        headers = CIMultiDict(caller.credentials)
        if agent := request.headers.get("User-Agent"):
            headers["User-Agent"] = agent
        if request.remote:
            headers["X-Forwarded-For"] = request.remote
        path = f"{request.raw_path.partition('?')[0]}?{_encoded(options)}"
        try:
            await self._relay.ask(cluster, path, headers, method=request.method)
        except ApiError as error:
            if (error.status, error.message) == (400, _NO_UPGRADE):
                return
            raise
        raise ApiError(500, "InternalError", "the virtual API server did not say whether it would connect")

    async def _virtual_pod(self, key: Key) -> Obj:
        try:
            return await self._virtual.get(PODS, key)
        except ApiError as error:
            if error.status in (400, 404):
                raise
            log.warning("proxy.pod_unknown", side=Side.VIRTUAL, key=str(key), error=str(error))
            raise ApiError(503, "ServiceUnavailable", "the virtual API server does not answer as it should; try again") from error

    async def _host_pod(self, key: Key, pod: Obj) -> Obj:
        """With managedFields, that a Client's own objects do not have."""
        wanted = self._names.host_key(key)
        try:
            host: Obj = await self._host.request_json("GET", PODS.path(wanted.namespace, wanted.name))
        except NotFound:
            host = {}
        except ApiError as error:
            log.warning("proxy.pod_unknown", side=Side.HOST, key=str(key), error=str(error))
            raise ApiError(503, "ServiceUnavailable", "the host cluster does not answer as it should; try again") from error
        if virtual_key(self._names, PODS, host) != key or not uid_of(pod) or recorded_uid(host) != uid_of(pod):
            raise ApiError(400, "BadRequest", f"pod {key.name} does not have a host assigned")
        return host

    async def _pass_on(self, call: Call, options: Mapping[str, list[str]], pod: Obj, host: Obj) -> web.StreamResponse:
        info, cluster = call.info, self._host.cluster
        wanted = self._names.host_key(Key(info.namespace, info.name))
        path = f"{PODS.path(wanted.namespace, wanted.name, info.subresource)}?{_encoded(options)}"
        hide = partial(in_virtual_terms, names=self._names, info=info, pod=pod, host=host)
        endless = is_upgrade(call.request) or _is_true(options.get("follow", []))
        for _ in range(2):
            began = asyncio.get_running_loop().time()
            headers = host_headers(call.request.headers)
            headers.update(await cluster.headers())
            answer = await self._relay.pass_on(call.request, cluster, path, headers, Side.HOST, endless=endless, hide=hide)
            if answer.status != 401:
                return answer
            await cluster.refresh(since=began, force=True)
        raise ApiError(503, "ServiceUnavailable", "the host cluster does not accept this virtual cluster's credentials")


def _is_ours(info: RequestInfo, method: str) -> bool:
    return (
        (info.group, info.version, info.resource) == ("", "v1", "pods")
        and method in _METHODS.get(info.subresource, ())
        and info.verb in ("get", "create")
        and bool(info.namespace and info.name)
        and info.tail in ("", "/")
    )


def read_options(subresource: str, query: str) -> dict[str, list[str]]:
    """The parameters of a query that Kubernetes knows, each with the values that it looks at.

    Nothing else is passed to anybody, so that all who read them read the same.
    """
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        given.setdefault(name, []).append(value)
    return {name: given[name] if name in _LISTS else given[name][:1] for name in _OPTIONS[subresource] if name in given}


def _encoded(options: Mapping[str, list[str]]) -> str:
    return urlencode(options, doseq=True, errors="surrogateescape")


def _is_true(values: list[str]) -> bool:
    """As apimachinery's Convert_Slice_string_To_bool."""
    return bool(values) and values[0] != "0" and values[0].lower() != "false"


def _check_upgrade(call: Call) -> None:
    """Raise for protocols that nobody speaks here, and, as kube-apiserver's websocket authenticator does, for unusable tokens."""
    request = call.request
    if not is_upgrade(request):
        return
    protocol = request.headers["Upgrade"].lower()
    if protocol not in ("websocket", "spdy/3.1") or (protocol != "websocket" and call.info.subresource == "log"):
        raise ApiError(400, "BadRequest", _NO_UPGRADE)
    offered = subprotocols(request.headers)
    kept = without_token(offered)
    if len(kept) == len(offered) or call.caller.asserted or "Authorization" in request.headers:
        return
    if len(kept) != len(offered) - 1 or not kept or "Authorization" not in call.caller.credentials:
        raise Unauthorized(401, "Unauthorized", "Unauthorized")


def host_headers(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """What the host gets to see of a client's headers. Its errors have to come in a form that can be read here."""
    passed: CIMultiDict[str] = CIMultiDict({"Accept": "application/json, */*", "Accept-Encoding": "identity"})
    for name in _PASSED:
        for value in headers.getall(name, ()):
            passed.add(name, value)
    if protocols := without_token(subprotocols(headers)):
        passed["Sec-WebSocket-Protocol"] = ", ".join(protocols)
    return passed


def choose_container(pod: Obj, name: str) -> str:
    """The container of that name, or the only one. Raises ApiError in kube-apiserver's words (validateContainer)."""
    pod_name = pod["metadata"]["name"]
    if name:
        if name not in container_names(pod):
            raise _no_container(name, pod_name)
        return name
    match (pod.get("spec") or {}).get("containers") or []:
        case [only]:
            return str(only["name"])
        case []:
            raise ApiError(400, "BadRequest", f"a container name must be specified for pod {pod_name}")
        case _:
            known = " ".join(container_names(pod))
            raise ApiError(400, "BadRequest", f"a container name must be specified for pod {pod_name}, choose one of: [{known}]")


def _no_container(name: str, pod_name: str) -> ApiError:
    readable = name.encode(errors="replace").decode()
    return ApiError(400, "BadRequest", f"container {readable} is not valid for pod {pod_name}")


def _containers(pod: Obj, field: str) -> list[Obj]:
    found: list[Obj] = (pod.get("spec") or {}).get(field) or []
    return found


def is_same_container(name: str, pod: Obj, host: Obj) -> bool:
    """Whether the host pod's container of that name is the virtual pod's.

    A tenant can add an ephemeral container with the name of one that somebody else put into the host pod: a sidecar, or an
    operator's ephemeral container, as which ours would never get there. Ours have our name on record as their manager.
    """
    field = next((field for field in CONTAINER_FIELDS if any(it.get("name") == name for it in _containers(pod, field))), None)
    if field is None or not any(it.get("name") == name for it in _containers(host, field)):
        return False
    return field != "ephemeralContainers" or name in _ephemeral_ours(host)


def _ephemeral_ours(host: Obj) -> Iterator[str]:
    for entry in (host.get("metadata") or {}).get("managedFields") or ():
        if entry.get("manager") != _MANAGER:
            continue
        owned = ((entry.get("fieldsV1") or {}).get("f:spec") or {}).get("f:ephemeralContainers") or {}
        for field in owned:
            if field.startswith("k:"):
                yield codec.loads(field[2:])["name"]


def in_virtual_terms(text: str, *, names: Names, info: RequestInfo, pod: Obj, host: Obj) -> str:
    """What the host says of a pod, as its tenant may read it. That the host does not let the syncer is told in words of our own."""
    key = Key(info.namespace, info.name)
    if _is_ungranted(text):
        words = (
            f'pods "{info.name}" is forbidden: this virtual cluster has no right to {info.kind} in its host cluster; whoever runs that'
            " can grant it (`syncer rights --yaml` prints the rules)"
        )
        return codec.dumps(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": words,
                "reason": "Forbidden",
                "details": {"name": info.name, "kind": "pods"},
                "code": 403,
            }
        ).decode()
    address = (pod.get("status") or {}).get("hostIP") or "(host)"
    replacements = [(uid_of(host), uid_of(pod)), ((host.get("status") or {}).get("hostIP") or "", address)]
    return host_names_hidden(text, names=names, pairs=names_of_pod(names, key, pod), replacements=replacements)


def _is_ungranted(text: str) -> bool:
    """Whether that is a Status by which an authorizer refuses, and not admission."""
    try:
        status: Any = codec.loads(text)
    except ValueError:
        return False
    return isinstance(status, dict) and status.get("code") == 403 and " denied " not in str(status.get("message"))

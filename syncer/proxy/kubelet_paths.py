"""What the paths of a kubelet mean, who may ask for them, and what their parameters are called in the API."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from syncer.errors import Forbidden, NotFound
from syncer.kube.types import Key
from syncer.proxy.requests import RequestInfo
from syncer.translate.kubelets import PORT

TEXTS = frozenset(
    {
        "/metrics",
        "/metrics/cadvisor",
        "/metrics/probes",
        "/metrics/resource",
        "/metrics/resource/v1alpha1",
        "/metrics/resource/v1beta1",
    }
)
"""Metrics. The last two are of kubelets before Kubernetes 1.20."""
SERVED = (
    "/healthz, /metrics, /metrics/{cadvisor,probes,resource}, /stats/summary, /pods, /runningpods, "
    "/containerLogs, /exec, /attach and /portForward"
)

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES = {"containerLogs": "log", "exec": "exec", "attach": "attach", "portForward": "portforward"}
_RUNNING = frozenset({"exec", "attach", "portForward", "run", "cri"})
_FINE = {"pods": "pods", "runningpods": "pods", "healthz": "healthz", "configz": "configz", "statusz": "statusz"}
_COARSE = {"stats": "stats", "metrics": "metrics", "logs": "log", "checkpoint": "checkpoint", "spec": "spec"}
"""Subresources of nodes by the first part of a path: those of `_FINE` or else nodes/proxy, and those that nothing stands in for."""
_STREAMS = {"input": "stdin", "output": "stdout", "error": "stderr", "tty": "tty"}


@dataclass(frozen=True, slots=True)
class ContainerPath:
    """A path about one pod: what of it in the API's words, its UID if that was given, its container ("" for port-forward)."""

    subresource: str
    pod: Key
    uid: str
    container: str


def path_of(text: str) -> str:
    """A path in its one form."""
    return text.rstrip("/") or "/"


def about_containers(path: str) -> ContainerPath | None:
    """What a path says of a pod's containers; None if it is not about any. Raises NotFound for one that says too little or too much."""
    first, *parts = path.split("/")[1:]
    if (subresource := _SUBRESOURCES.get(first)) is None:
        return None
    match subresource, parts:
        case (("log" | "exec" | "attach"), [namespace, name, container]):
            return ContainerPath(subresource, Key(namespace, name), "", container)
        case (("exec" | "attach"), [namespace, name, uid, container]):
            return ContainerPath(subresource, Key(namespace, name), uid, container)
        case "portforward", [namespace, name]:
            return ContainerPath(subresource, Key(namespace, name), "", "")
        case "portforward", [namespace, name, uid]:
            return ContainerPath(subresource, Key(namespace, name), uid, "")
        case _:
            raise NotFound(404, "NotFound", f"a kubelet has nothing at {path}")


def runs_something(path: str) -> bool:
    """Whether a path is for running or reaching something, whatever the method: that of a WebSocket is GET."""
    return path.split("/")[1] in _RUNNING


def questions(node: str, method: str, path: str) -> list[RequestInfo]:
    """What a kubelet asks about who calls it; one of these has to be allowed (pkg/kubelet/server/auth.go of Kubernetes 1.33 on).

    Kubelets let whoever may only read run commands over a WebSocket. Here that is a creation, as it is of pods/exec.
    """
    first = path.split("/")[1]
    verb = "create" if runs_something(path) else _VERBS.get(method, method.lower())
    found = [_COARSE[first]] if first in _COARSE else [*([_FINE[first]] if first in _FINE else ()), "proxy"]
    return [RequestInfo(verb, path, "", "v1", "", "nodes", node, subresource) for subresource in found]


def options(about: ContainerPath, query: str) -> str:
    """The parameters of a path in the words of the API, as a query."""
    found: list[tuple[str, str]] = [("container", about.container)] if about.container else []
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        match about.subresource, name:
            case "log", "tail":
                found += [("tailLines", value)] if value != "all" else []
            case "log", _:
                found.append((name, value))
            case (("exec" | "attach"), ("input" | "output" | "error" | "tty")):
                found.append((_STREAMS[name], "true" if value == "1" else "false"))
            case "exec", "command":
                found.append((name, value))
            case "portforward", ("port" | "ports"):
                found.append(("ports", value))
            case _:
                pass
    return urlencode(found, errors="surrogateescape")


def is_node_proxy(info: RequestInfo) -> bool:
    """Whether a request to the API is for the kubelet of a node."""
    which = (info.group, info.version, info.namespace, info.kind)
    return which == ("", "v1", "", "nodes/proxy") and bool(info.name) and info.verb in _VERBS.values()


def node_of_proxy(name: str) -> str:
    """The node in `<node>`, `<node>:<port>` or `<scheme>:<node>:<port>`. Raises Forbidden for another port than the kubelet's."""
    match name.split(":"):
        case [node] | [node, ("" | "10250")] | [("" | "https"), node, ("" | "10250")]:
            return node
        case _:
            raise Forbidden(
                403, "Forbidden", f"{name} is not reached through the API: only the kubelets of virtual nodes are, at port {PORT}"
            )

"""What a request is: its parts, as the handlers and the fault rules see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from syncer.kube.types import NAMESPACES, Key, Resource

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    `verb` is Kubernetes' word (get, list, watch, create, update, patch, delete, deletecollection). `resource` is None
    for paths that are no resource's (then the verb goes by the method only). `key.name` is "" for collections.
    """

    method: str
    path: str
    verb: str
    resource: Resource | None = None
    key: Key = field(default_factory=lambda: Key("", ""))
    subresource: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


class Logged(NamedTuple):
    """A request that has been answered; code 0 if it never was (dropped, or the client went away)."""

    method: str
    path: str
    code: int


Match: TypeAlias = Callable[[Request], bool]


def on(verb: str = "", resource: Resource | None = None, *, name: str = "", namespace: str = "", subresource: str | None = None) -> Match:
    """Matches requests by what is given; the rest may be anything (`subresource=""`: the object itself only)."""

    def match(request: Request) -> bool:
        return (
            (not verb or request.verb == verb)
            and (resource is None or request.resource == resource)
            and (not name or request.key.name == name)
            and (not namespace or request.key.namespace == namespace)
            and (subresource is None or request.subresource == subresource)
        )

    return match


def is_write(request: Request) -> bool:
    """Matches everything but get, list and watch."""
    return request.verb not in ("get", "list", "watch")


def parse(
    method: str,
    path: str,
    params: Mapping[str, str],
    headers: Mapping[str, str],
    body: Any,
    resources: Mapping[tuple[str, str], Resource],
) -> Request:
    """Take the path apart. An unknown type gives a Request without a resource."""
    steps = path.strip("/").split("/")
    verb = _VERBS.get(method, "get")
    nowhere = Request(method=method, path=path, verb=verb, params=params, headers=headers, body=body)
    if steps[0] == "api" and len(steps) > 2:
        version, rest = steps[1], steps[2:]
    elif steps[0] == "apis" and len(steps) > 3:
        version, rest = f"{steps[1]}/{steps[2]}", steps[3:]
    else:
        return nowhere
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = resources.get((version, rest[0]))
    if resource is None or (namespace and not resource.namespaced):
        return nowhere
    name = rest[1] if len(rest) > 1 else ""
    if not name:
        verb = {"get": "watch" if params.get("watch") in ("1", "true") else "list", "delete": "deletecollection"}.get(verb, verb)
    key = Key(namespace, name)
    if resource == NAMESPACES and name:
        key = Key("", name)
    subresource = "/".join(rest[2:])
    return Request(
        method=method,
        path=path,
        verb=verb,
        resource=resource,
        key=key,
        subresource=subresource,
        params=params,
        headers=headers,
        body=body,
    )

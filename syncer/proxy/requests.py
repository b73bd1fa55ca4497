"""What a request to an API server is about, told from its method and path as kube-apiserver tells it (apiserver's RequestInfo)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_OF_NAMESPACE = frozenset({"status", "finalize"})
_UNCLEAR = re.compile(r"%(?:2f|5c|00|25|2e)|[#\\\x00-\x20\x7f]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """`verb` is Kubernetes' for a resource, else the method in small letters. What does not apply is "".

    `path` is decoded, without the query; `tail` is what follows the subresource, with its leading slash.
    """

    verb: str
    path: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    tail: str = ""

    @property
    def is_resource(self) -> bool:
        """Whether it is about objects, and not only about a path."""
        return bool(self.resource)

    @property
    def kind(self) -> str:
        """Resource and subresource, as RBAC names them; "" for a path."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def is_clear(raw_path: str) -> bool:
    """Whether nobody could read the path differently from us: absolute, nothing encoded that separates or is no text, no dots or gaps.

    Only what is clear may be answered by the host; all else is for the virtual API server to make sense of.
    """
    path = raw_path.partition("?")[0]
    if not path.startswith("/") or _UNCLEAR.search(path) or ("%" in path and "\ufffd" in unquote(path)):
        return False
    return all(segment not in ("", ".", "..") for segment in path.removesuffix("/").split("/")[1:]) or path == "/"


def parse(method: str, raw_path: str) -> RequestInfo:
    """What a request is about; one that makes no sense as a resource is one for a path."""
    encoded, _, query = raw_path.partition("?")
    path = unquote(encoded)
    plain = RequestInfo(method.lower(), path)
    parts = [part for part in path.split("/") if part]
    match parts:
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return plain
    verb = _VERBS.get(method, "")
    if rest[0] in ("watch", "proxy"):
        verb, rest = rest[0], rest[1:]  # old forms, still served (watch) or refused (proxy)
    if not verb or not rest:
        return plain
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _OF_NAMESPACE:
            rest = rest[2:]
    resource, name, subresource = (*rest, "", "")[:3] if len(rest) < 3 else rest[:3]
    tail = "".join(f"/{part}" for part in rest[3:]) + ("/" if len(rest) >= 3 and path.endswith("/") else "")
    if not name and verb in ("get", "delete"):
        verb = _of_many(verb, query)
    return RequestInfo(verb, path, group, version, namespace, resource, name, subresource, tail)


def _of_many(verb: str, query: str) -> str:
    if verb == "delete":
        return "deletecollection"
    watch = parse_qs(query).get("watch", ["false"])[0].lower()
    return "watch" if watch in ("true", "1", "t") else "list"

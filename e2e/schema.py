"""Objects drawn from an API server's own OpenAPI schema, by seed: bounded in depth, and of values that are mostly valid.

A schema tells types, enums and required fields; what is a name, a port or a path it does not tell, so fields are known by their
names (`_BY_NAME`). Which of what is drawn is valid only the API server knows.
"""

from __future__ import annotations

import base64
import copy
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from e2e.lab.api import Api

Obj = dict[str, Any]
Schema = Mapping[str, Any]

DEPTH = 5
_WORDS = ("web", "db", "a", "cache-1", "x1")
_TIMES = ("2026-01-02T03:04:05Z", "2031-12-31T23:59:59Z")
_BY_NAME: Mapping[str, Sequence[Any]] = {
    "name": _WORDS,
    "image": ("lab.local/none:1", "registry.example/team/app@sha256:" + "0" * 64),
    "key": ("app", "tier", "example.org/role", "data.txt"),
    "path": ("/healthz", "data/file", "a"),
    "mountPath": ("/mnt/one", "/mnt/two"),
    "devicePath": ("/dev/xvda",),
    "subPath": ("sub/dir",),
    "workingDir": ("/work",),
    "topologyKey": ("kubernetes.io/hostname", "topology.kubernetes.io/zone"),
    "weight": range(1, 101),
    "port": range(1, 65536),
    "containerPort": range(1, 65536),
    "targetPort": (80, 8080, "web"),
    "nodePort": range(30000, 32768),
    "number": range(1, 65536),
    "ip": ("10.1.2.3", "10.1.2.4"),
    "externalIPs": (["203.0.113.7"],),
    "loadBalancerSourceRanges": (["198.51.100.0/24"],),
    "nameservers": (["192.0.2.53"],),
    "searches": (["example.org"],),
    "hostnames": (["one.example", "two.example"],),
    "hostname": _WORDS,
    "subdomain": _WORDS,
    "externalName": ("elsewhere.example",),
    "host": ("shop.example", "*.example.org"),
    "fieldPath": ("metadata.name", "metadata.namespace", "metadata.labels['app']", "metadata.annotations", "spec.nodeName"),
    "operator": ("In", "NotIn", "Exists", "DoesNotExist", "Equal"),
    "defaultMode": (256, 420),
    "mode": (256, 420),
    "maxSkew": (1, 2, 3),
    "expirationSeconds": range(600, 7200),
    "timeoutSeconds": range(1, 3600),
    "serviceAccountName": ("default",),
    "schedulerName": ("default-scheduler",),
    "volumeDevices": ([],),
    "storageClassName": ("standard", ""),
    "accessModes": (["ReadWriteOnce"], ["ReadOnlyMany"]),
    "command": (["/bin/app", "$(HOME)"],),
    "args": (["--flag", "$$(X)"],),
    "tcpSocket": ({"port": 80},),
}
"""Values of fields by their names, whatever type they belong to."""


class Drawer:
    """Draws values of the types in an OpenAPI document (`components.schemas`)."""

    def __init__(self, schemas: Mapping[str, Schema], rng: random.Random) -> None:
        self._schemas = schemas
        self.rng = rng

    def field(self, kind: str, name: str) -> Any:
        """A value for one field of a type."""
        return self.value(self._schemas[kind]["properties"][name], name, 0)

    def fields(self, kind: str) -> list[str]:
        """The fields that a type has."""
        return sorted(self._schemas[kind]["properties"])

    def object(self, kind: str, depth: int = 0) -> Obj:
        """All required fields of a type, and some of the others."""
        schema = self._schemas[kind]
        required = set(schema.get("required", ()))
        share = 0.5 / (1 + depth)
        drawn = {}
        for name, inner in sorted(schema.get("properties", {}).items()):
            if name in required or (depth < DEPTH and self.rng.random() < share):
                drawn[name] = self.value(inner, name, depth + 1)
        if not drawn and schema.get("properties"):  # mostly a choice of sources, of which one has to be taken
            name = self.rng.choice(sorted(schema["properties"]))
            drawn[name] = self.value(schema["properties"][name], name, depth + 1)
        return drawn

    def value(self, schema: Schema, name: str, depth: int) -> Any:
        """A value that a field of that name may have."""
        for part in schema.get("allOf", ()):
            schema = {**schema, **part}
        if name in _BY_NAME and schema.get("type") != "object" and not schema.get("enum"):
            return copy.deepcopy(self.rng.choice(_BY_NAME[name]))
        if "$ref" in schema:
            return self._referred(schema["$ref"].rpartition("/")[2], depth)
        if schema.get("enum"):
            return self.rng.choice(schema["enum"])
        match schema.get("type"):
            case "array":
                found = [self.value(schema["items"], name, depth + 1) for _ in range(self.rng.choice((1, 1, 2)))]
                return _distinct(found)
            case "object" if "additionalProperties" in schema:
                keys = self.rng.sample(("app", "tier", "example.org/role"), self.rng.choice((1, 2)))
                return {key: self.value(schema["additionalProperties"], "", depth + 1) for key in keys}
            case "boolean":
                return self.rng.random() < 0.5
            case "integer":
                return self.rng.choice((0, 1, 2, 30, 1000))
            case "number":
                return self.rng.choice((0, 1.5))
            case "string" if schema.get("format") == "byte":
                return base64.b64encode(self.rng.randbytes(6)).decode()
            case "string" if schema.get("format") == "date-time":
                return self.rng.choice(_TIMES)
        return self.rng.choice(_WORDS)

    def _referred(self, kind: str, depth: int) -> Any:
        if kind.endswith(".Quantity"):
            return self.rng.choice(("100m", "1", "2Gi", "128974848", "1e3"))
        if kind.endswith(".IntOrString"):
            return self.rng.choice((80, "web"))
        if kind.endswith(("Time", ".MicroTime")):
            return self.rng.choice(_TIMES)
        return self.object(kind, depth)


def schemas(api: Api, *documents: str) -> Mapping[str, Schema]:
    """All types of these documents, e.g. `api/v1`, as the API server describes them."""
    found: dict[str, Schema] = {}
    for document in documents:
        found |= api.get(f"/openapi/v3/{document}")["components"]["schemas"]
    return found


def lost(sent: Any, kept: Any, translated: re.Pattern[str], path: str = "") -> Iterator[str]:
    """The paths of `sent`, like `spec.containers[].name`, that `kept` has not, or has otherwise, besides those that are `translated`."""
    if translated.fullmatch(path):
        return
    if isinstance(sent, dict) and isinstance(kept, dict):
        for name, value in sent.items():
            yield from lost(value, kept.get(name), translated, f"{path}.{name}".removeprefix("."))
    elif isinstance(sent, list) and isinstance(kept, list) and len(kept) >= len(sent):
        for number, value in enumerate(sent):
            yield from lost(value, kept[number], translated, f"{path}[]")
    elif (sent or None) != (kept or None):
        yield f"{path}: {sent!r}, on the host {kept!r}"


def _distinct(items: list[Any]) -> list[Any]:
    """Lists of Kubernetes are mostly sets by name or type."""
    seen: dict[Any, Any] = {}
    for item in items:
        identity = item.get("name", item.get("type", repr(item))) if isinstance(item, dict) else repr(item)
        seen.setdefault(identity, item)
    return list(seen.values())

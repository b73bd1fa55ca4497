"""Ingresses on the way down: every name in them, in the spec and in annotations, becomes that of the host object.

One walk is used both to rename and to collect. It knows the annotations of common controllers that name Services, Secrets or
ConfigMaps, as a bare name or as `namespace/name`. Names are renamed whether such an object exists or not, so that a tenant's Ingress
cannot reach what others have in the host namespace. All other annotations are passed on as they are, snippets too, and so are
names of objects that are never copied (middlewares, plugins, other custom resources; see `uncopied_names`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from hashlib import sha256
from typing import Any, NamedTuple, TypeAlias

from syncer.kube.types import Key, Obj, annotations_of, key_of
from syncer.naming import Names

_CLASS = "kubernetes.io/ingress.class"  # how classes were asked for before spec.ingressClassName
MAX_KEY = 63
"""Longest name in an annotation's key, what stands after the slash."""


class Kind(Enum):
    """What a name in an Ingress is the name of."""

    SERVICE = "Service"
    SECRET = "Secret"  # noqa: S105  a kind, not a password
    CONFIGMAP = "ConfigMap"
    OTHER = "resource"
    ACTION = "action"
    """Of nothing but an annotation of the same Ingress: AWS's backends with the port `use-annotation`."""


Rename: TypeAlias = Callable[[Kind, Key], Key]
"""Gets the kind and the key of what is named; answers the key to put in its place."""


class IngressReferences(NamedTuple):
    """What an Ingress needs besides Services."""

    secrets: frozenset[Key]
    configmaps: frozenset[Key]


def host_rename(names: Names, service_name: str) -> Rename:
    """Names on the host. `service_name` is the host Service in front of the virtual API server, for `default/kubernetes`."""

    def rename(kind: Kind, key: Key) -> Key:
        if kind is Kind.SERVICE and key == Key("default", "kubernetes"):
            return Key(names.host_namespace, service_name)
        host = names.host_key(key)
        return Key(host.namespace, _short(host.name)) if kind is Kind.ACTION else host

    return rename


def references(ingress: Obj) -> IngressReferences:
    """The Secrets and ConfigMaps that an Ingress names; of a host Ingress, by their host keys."""
    found: dict[Kind, set[Key]] = {kind: set() for kind in Kind}

    def collect(kind: Kind, key: Key) -> Key:
        found[kind].add(key)
        return key

    renamed_spec(ingress, collect)
    renamed_annotations(ingress, collect)
    return IngressReferences(frozenset(found[Kind.SECRET]), frozenset(found[Kind.CONFIGMAP]))


def renamed_spec(ingress: Obj, rename: Rename) -> Obj:
    """The spec with backends and TLS Secrets renamed; everything else, unknown fields too, as it is."""
    namespace, services = key_of(ingress).namespace, _services(ingress)

    def backend(given: Obj) -> Obj:
        result = dict(given)
        if (service := given.get("service")) and service.get("name"):
            kind = Kind.SERVICE if service["name"] in services else Kind.ACTION
            result["service"] = {**service, "name": rename(kind, Key(namespace, service["name"])).name}
        if (resource := given.get("resource")) and resource.get("name"):
            result["resource"] = {**resource, "name": rename(Kind.OTHER, Key(namespace, resource["name"])).name}
        return result

    spec: Obj = dict(ingress.get("spec") or {})
    if spec.get("defaultBackend"):
        spec["defaultBackend"] = backend(spec["defaultBackend"])
    if spec.get("rules"):
        spec["rules"] = [_rule(rule, backend) for rule in spec["rules"]]
    if spec.get("tls"):
        spec["tls"] = [
            {**item, "secretName": rename(Kind.SECRET, Key(namespace, item["secretName"])).name} if item.get("secretName") else item
            for item in spec["tls"]
        ]
    return spec


def renamed_annotations(ingress: Obj, rename: Rename) -> dict[str, str]:
    """All annotations that are passed on, those that name objects with the names replaced."""
    namespace, services = key_of(ingress).namespace, _services(ingress)
    result: dict[str, str] = {}
    for key, value in annotations_of(ingress).items():
        if key in _NOT_COPIED:
            continue
        if match := _ALB_KEY.fullmatch(key):
            kind = Kind.SERVICE if match[2] in services else Kind.ACTION
            result[match[1] + rename(kind, Key(namespace, match[2])).name] = _in_json(value, namespace, rename)
        else:
            form = _FORMS.get(key)
            result[key] = value if form is None else form(value, namespace, rename)
    return result


def overlong_key(ingress: Obj, rename: Rename) -> str | None:
    """An annotation that the host cannot take, because a Service's name in its key gets too long there."""
    for key in annotations_of(ingress):
        if _ALB_KEY.fullmatch(key):
            (renamed,) = renamed_annotations({"spec": ingress.get("spec"), "metadata": _only(ingress, key)}, rename)
            if len(renamed.rpartition("/")[2]) > MAX_KEY:
                return key
    return None


def uncopied_names(ingress: Obj) -> list[str]:
    """Annotations that name custom resources; these are not copied, so their names are looked up as they are, among the host's."""
    return sorted(key for key, value in annotations_of(ingress).items() if "@kubernetescrd" in value or key in _CUSTOM_RESOURCES)


def class_of(ingress: Obj) -> str:
    """The class that an Ingress asks for, "" for none."""
    return (ingress.get("spec") or {}).get("ingressClassName") or annotations_of(ingress).get(_CLASS) or ""


def _services(ingress: Obj) -> frozenset[str]:
    """Backends that are Services: all but those whose port says that an annotation is meant."""
    spec = ingress.get("spec") or {}
    backends = [spec.get("defaultBackend"), *(path.get("backend") for rule in spec.get("rules") or () for path in _paths(rule))]
    services = [backend["service"] for backend in backends if backend and backend.get("service")]
    return frozenset(service.get("name") or "" for service in services if (service.get("port") or {}).get("name") != "use-annotation")


def _paths(rule: Obj) -> list[Obj]:
    return (rule.get("http") or {}).get("paths") or []


def _rule(rule: Obj, backend: Callable[[Obj], Obj]) -> Obj:
    paths = [{**path, "backend": backend(path["backend"])} if path.get("backend") else path for path in _paths(rule)]
    return {**rule, "http": {**rule["http"], "paths": paths}} if paths else rule


def _only(ingress: Obj, key: str) -> Obj:
    metadata = ingress["metadata"]
    return {"namespace": metadata.get("namespace"), "name": metadata.get("name"), "annotations": {key: metadata["annotations"][key]}}


def _short(name: str) -> str:
    """At most 52 characters, so that there is room for `conditions.` before it in an annotation's key."""
    return name if len(name) <= 52 else f"{name[:41]}-{sha256(name.encode()).hexdigest()[:10]}"


_Form: TypeAlias = Callable[[str, str, Rename], str]
"""Gets an annotation's value and the Ingress's namespace."""

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_REFERENCE = re.compile(rf"(?:({_LABEL})/)?({_NAME})")
_IN_CLUSTER = re.compile(rf"(?<=[/@])({_LABEL})\.({_LABEL})(?=\.svc(?:\.cluster\.local)?\.?(?:[:/?$]|\Z))")
_SERVICE_URL = re.compile(rf"svc://(?:({_LABEL})/)?({_LABEL})(?=[:/]|\Z)")
_SERVICE_NAME = re.compile(rf"(?<=serviceName=)({_LABEL})")


def _reference(kind: Kind) -> _Form:
    """`name` or `namespace/name`. Controllers trim, so a name among blanks is one too. Anything else, `file://…`, names no object."""

    def form(value: str, namespace: str, rename: Rename) -> str:
        match = _REFERENCE.fullmatch(value.strip())
        if match is None:
            return value
        found = rename(kind, Key(match[1] or namespace, match[2]))
        return str(found) if match[1] else found.name

    return form


def _services_listed(value: str, namespace: str, rename: Rename) -> str:
    parts = (part.strip() for part in value.split(","))
    return ",".join(rename(Kind.SERVICE, Key(namespace, part)).name if part else "" for part in parts)


def _services_assigned(value: str, namespace: str, rename: Rename) -> str:
    """`serviceName=name rewrite=/path;…`."""
    return _SERVICE_NAME.sub(lambda match: rename(Kind.SERVICE, Key(namespace, match[1])).name, value)


def _url(value: str, namespace: str, rename: Rename) -> str:
    """A URL whose host may be a Service: `http://name.namespace.svc…`, or `svc://namespace/name:port`."""

    def in_cluster(match: re.Match[str]) -> str:
        found = rename(Kind.SERVICE, Key(match[2], match[1]))
        return f"{found.name}.{found.namespace}"

    def by_name(match: re.Match[str]) -> str:
        found = rename(Kind.SERVICE, Key(match[1] or namespace, match[2]))
        return f"svc://{found if match[1] else found.name}"

    return _IN_CLUSTER.sub(in_cluster, _SERVICE_URL.sub(by_name, value), count=1)


def _in_json(value: str, namespace: str, rename: Rename) -> str:
    """JSON with `serviceName` and `secretName` anywhere in it, in whatever case: its readers do not mind either."""
    kinds = {"servicename": Kind.SERVICE, "secretname": Kind.SECRET}

    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                key: rename(kinds[key.lower()], Key(namespace, inner)).name
                if key.lower() in kinds and isinstance(inner, str) and inner
                else walk(inner)
                for key, inner in part.items()
            }
        return [walk(inner) for inner in part] if isinstance(part, list) else part

    try:
        given = json.loads(value)
    except ValueError:
        return value
    walked = walk(given)
    return value if walked == given else json.dumps(walked, separators=(",", ":"), ensure_ascii=False)


_ALB = "alb.ingress.kubernetes.io/"
_ALB_KEY = re.compile(rf"({re.escape(_ALB)}(?:actions|conditions)\.)(.+)")
_NOT_COPIED = frozenset({"field.cattle.io/publicEndpoints"})  # Rancher keeps one on each side, about what it sees there
_CUSTOM_RESOURCES = frozenset({"konghq.com/plugins", "konghq.com/override", "haproxy.org/cr-backend", "nginx.org/policies"})

_SECRET, _CONFIGMAP, _SERVICE = (_reference(kind) for kind in (Kind.SECRET, Kind.CONFIGMAP, Kind.SERVICE))

_HAPROXY_INGRESS: Mapping[str, _Form] = {
    "auth-secret": _SECRET,
    "auth-tls-secret": _SECRET,
    "secure-crt-secret": _SECRET,
    "secure-verify-ca-secret": _SECRET,
    "auth-url": _url,
}
_BY_PREFIX: Mapping[str, Mapping[str, _Form]] = {
    "nginx.ingress.kubernetes.io/": {
        "auth-secret": _SECRET,
        "auth-tls-secret": _SECRET,
        "proxy-ssl-secret": _SECRET,
        "auth-proxy-set-headers": _CONFIGMAP,
        "custom-headers": _CONFIGMAP,
        "fastcgi-params-configmap": _CONFIGMAP,
        "default-backend": _SERVICE,
        "auth-url": _url,
        "mirror-target": _url,
    },
    "nginx.org/": {
        "basic-auth-secret": _SECRET,
        "ssl-services": _services_listed,
        "grpc-services": _services_listed,
        "websocket-services": _services_listed,
        "rewrites": _services_assigned,
    },
    "nginx.com/": {"jwt-key": _SECRET, "sticky-cookie-services": _services_assigned},
    _ALB: {"auth-idp-oidc": _in_json},
    "haproxy-ingress.github.io/": _HAPROXY_INGRESS,
    "ingress.kubernetes.io/": _HAPROXY_INGRESS,  # what the same controller, and the first ones of nginx and Traefik, read
    "haproxy.org/": dict.fromkeys(("auth-secret", "client-ca", "server-ca", "server-crt"), _SECRET),
    "route.openshift.io/": {"destination-ca-certificate-secret": _SECRET},
}
_FORMS: Mapping[str, _Form] = {prefix + name: form for prefix, forms in _BY_PREFIX.items() for name, form in forms.items()}

"""What a pod refers to by name in its own namespace: one walk over every place, used both to rename and to collect.

A reference that this walk did not know would reach into the host namespace, which other virtual clusters and the host's own
workloads may share; hence it covers all volume types, also those long out of use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import NamedTuple, TypeAlias

from syncer.kube.types import Obj, key_of

CONTAINER_FIELDS = ("initContainers", "containers", "ephemeralContainers")


class Kind(Enum):
    """What a name in a pod spec is the name of."""

    CONFIGMAP = "ConfigMap"
    SECRET = "Secret"  # noqa: S105  a kind, not a password
    PULL_SECRET = "pull Secret"  # noqa: S105  likewise
    CLAIM = "PersistentVolumeClaim"
    ENDPOINTS = "Endpoints"
    RESOURCE_CLAIM = "ResourceClaim"
    RESOURCE_CLAIM_TEMPLATE = "ResourceClaimTemplate"
    POD_GROUP = "PodGroup"


Rename: TypeAlias = Callable[[Kind, str, bool], str]
"""Gets kind, name and whether the reference is optional; answers the name to put in its place."""


class TokenProjection(NamedTuple):
    """One projected service account token of a pod."""

    data_key: str
    """Key in the Secret that stands in for the projection; valid, stable, and unique per volume and path."""
    audience: str
    """"" for the API server's own."""
    expiration_seconds: int
    volume: str
    path: str


_KINDS = tuple(Kind)  # iterating over an Enum is slow, and this is done for every event of a pod


@dataclass(frozen=True, slots=True)
class References:
    """Names in the pod's own namespace. A name is in `optional_*` when all references to it are optional."""

    configmaps: frozenset[str]
    secrets: frozenset[str]
    """Includes `pull_secrets`."""
    claims: frozenset[str]
    """Includes those of generic ephemeral volumes, `<pod>-<volume>`."""
    endpoints: frozenset[str]
    optional_configmaps: frozenset[str]
    optional_secrets: frozenset[str]
    """Includes pull Secrets, without which a kubelet starts the pod all the same."""
    pull_secrets: frozenset[str]
    tokens: tuple[TokenProjection, ...]


def references(pod: Obj) -> References:
    """Everything that the pod's spec refers to."""
    found: dict[Kind, dict[str, bool]] = {kind: {} for kind in _KINDS}

    def collect(kind: Kind, name: str, optional: bool) -> str:
        names = found[kind]
        names[name] = optional and names.get(name, True)
        return name

    renamed_spec(pod, collect)
    for field in CONTAINER_FIELDS:
        for container in (pod.get("spec") or {}).get(field) or ():
            renamed_container(container, collect)
    pull_secrets = found[Kind.PULL_SECRET]
    secrets = {**pull_secrets, **found[Kind.SECRET]}
    configmaps = found[Kind.CONFIGMAP]
    return References(
        configmaps=frozenset(configmaps),
        secrets=frozenset(secrets),
        claims=frozenset(found[Kind.CLAIM]),
        endpoints=frozenset(found[Kind.ENDPOINTS]),
        optional_configmaps=frozenset(name for name, optional in configmaps.items() if optional),
        optional_secrets=frozenset(name for name, optional in secrets.items() if optional),
        pull_secrets=frozenset(pull_secrets),
        tokens=token_sources(pod),
    )


def ephemeral_claims(pod: Obj) -> frozenset[str]:
    """Names of the claims that the virtual control plane makes for the pod's generic ephemeral volumes."""
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    return frozenset(_ephemeral_claim(key_of(pod).name, volume) for volume in volumes if volume.get("ephemeral") is not None)


def renamed_spec(pod: Obj, rename: Rename) -> Obj:
    """The pod's spec with every reference outside containers renamed; a generic ephemeral volume becomes a reference to its claim."""
    spec: Obj = dict(pod.get("spec") or {})
    if spec.get("volumes"):
        pod_name = key_of(pod).name
        spec["volumes"] = [_volume(volume, pod_name, rename) for volume in spec["volumes"]]
    if spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [_named(item, "name", Kind.PULL_SECRET, rename, optional=True) for item in spec["imagePullSecrets"]]
    if spec.get("resourceClaims"):
        spec["resourceClaims"] = [
            _named(
                _named(claim, "resourceClaimName", Kind.RESOURCE_CLAIM, rename),
                "resourceClaimTemplateName",
                Kind.RESOURCE_CLAIM_TEMPLATE,
                rename,
            )
            for claim in spec["resourceClaims"]
        ]
    for field, name in (("schedulingGroup", "podGroupName"), ("workloadRef", "name")):  # 1.36 and 1.35 of the same thing
        if spec.get(field):
            spec[field] = _named(spec[field], name, Kind.POD_GROUP, rename)
    return spec


def renamed_container(container: Obj, rename: Rename) -> Obj:
    """A container with the references of `env` and `envFrom` renamed."""
    env, env_from = container.get("env"), container.get("envFrom")
    if not env and not env_from:
        return container
    result = dict(container)
    if env:
        result["env"] = [_inside(variable, "valueFrom", _ENV_REFERENCES, rename) for variable in env]
    if env_from:
        result["envFrom"] = [_either(source, _ENV_FROM_REFERENCES, rename) for source in env_from]
    return result


_ENV_REFERENCES = (("configMapKeyRef", Kind.CONFIGMAP), ("secretKeyRef", Kind.SECRET))
_ENV_FROM_REFERENCES = (("configMapRef", Kind.CONFIGMAP), ("secretRef", Kind.SECRET))
_PROJECTED_REFERENCES = (("configMap", Kind.CONFIGMAP), ("secret", Kind.SECRET))

_IN_SOURCE = {
    "configMap": ("name", Kind.CONFIGMAP),
    "secret": ("secretName", Kind.SECRET),
    "persistentVolumeClaim": ("claimName", Kind.CLAIM),
    "azureFile": ("secretName", Kind.SECRET),
    "glusterfs": ("endpoints", Kind.ENDPOINTS),
}
_SECRET_OF_SOURCE = {
    "cephfs": "secretRef",
    "cinder": "secretRef",
    "csi": "nodePublishSecretRef",
    "flexVolume": "secretRef",
    "iscsi": "secretRef",
    "rbd": "secretRef",
    "scaleIO": "secretRef",
    "storageos": "secretRef",
}


def _volume(volume: Obj, pod_name: str, rename: Rename) -> Obj:
    result = volume
    for source, content in volume.items():
        if source == "name" or content is None:
            continue
        if source in _IN_SOURCE:
            field, kind = _IN_SOURCE[source]
            result = {**result, source: _named(content, field, kind, rename, optional=bool(content.get("optional")))}
        elif source in _SECRET_OF_SOURCE:
            field = _SECRET_OF_SOURCE[source]
            if content.get(field):
                result = {**result, source: {**content, field: _named(content[field], "name", Kind.SECRET, rename)}}
        elif source == "projected":
            sources = [_either(item, _PROJECTED_REFERENCES, rename) for item in content.get("sources") or ()]
            result = {**result, source: {**content, "sources": sources}}
        elif source == "ephemeral":
            # The virtual control plane makes the claim; the host only has to find its image.
            claim = rename(Kind.CLAIM, _ephemeral_claim(pod_name, volume), False)
            result = {key: value for key, value in result.items() if key != source}
            result["persistentVolumeClaim"] = {"claimName": claim}
    return result


def _ephemeral_claim(pod_name: str, volume: Obj) -> str:
    return f"{pod_name}-{volume.get('name')}"


def _inside(outer: Obj, field: str, kinds: tuple[tuple[str, Kind], ...], rename: Rename) -> Obj:
    inner = outer.get(field)
    if not inner:
        return outer
    result = _either(inner, kinds, rename)
    return outer if result is inner else {**outer, field: result}


def _either(holder: Obj, kinds: tuple[tuple[str, Kind], ...], rename: Rename) -> Obj:
    for field, kind in kinds:
        reference = holder.get(field)
        if reference:
            holder = {**holder, field: _named(reference, "name", kind, rename, optional=bool(reference.get("optional")))}
    return holder


def _named(reference: Obj, field: str, kind: Kind, rename: Rename, *, optional: bool = False) -> Obj:
    name = reference.get(field)
    return {**reference, field: rename(kind, name, optional)} if name else reference


_HASHED = "sha256-"
_READABLE_PATH = re.compile(r"(?!sha256-)[-._A-Za-z0-9]{1,128}\Z")
_DEFAULT_LIFETIME = 3600  # core/v1, ServiceAccountTokenProjection.expirationSeconds


def token_data_key(volume: str, path: str) -> str:
    """Key of a token in its Secret: `volume.path` where the path can be part of a key, else with a hash of the path.

    A volume's name has no dot, so what stands before the first dot is the volume, and no two projections meet.
    """
    if _READABLE_PATH.match(path):
        return f"{volume}.{path}"
    return f"{volume}.{_HASHED}{sha256(path.encode()).hexdigest()}"


def token_sources(pod: Obj) -> tuple[TokenProjection, ...]:
    """The projected service account tokens of a pod, in the order of its spec."""
    result = []
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            token = source.get("serviceAccountToken")
            if token:
                name, path = volume.get("name") or "", token.get("path") or ""
                lifetime = token.get("expirationSeconds") or _DEFAULT_LIFETIME
                result.append(TokenProjection(token_data_key(name, path), token.get("audience") or "", lifetime, name, path))
    return tuple(result)

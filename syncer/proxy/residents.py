"""What of this virtual cluster runs on a node: by which the texts of its kubelet are filtered, and put in virtual terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncer.kube.types import PODS, Key, key_of, uid_of
from syncer.translate.metadata import recorded_uid, virtual_key
from syncer.translate.references import CONTAINER_FIELDS, references

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from syncer.kube.types import Obj
    from syncer.naming import Names


@dataclass(frozen=True, slots=True)
class Resident:
    """A pod of this virtual cluster, as its tenant knows it, and the UID that its host pod has."""

    key: Key
    uid: str
    host_uid: str
    images: Mapping[str, str]
    """Of its containers by name, as the tenant wrote them. What was put into the host pod besides is not among them."""
    volumes: frozenset[str]
    shares_network: bool
    """Whether it is in the network of the node, whose traffic is everybody's."""


@dataclass(frozen=True, slots=True)
class Residents:
    """Of one node. `pods` and `claims` are found by their names in the host namespace."""

    node: str
    host_namespace: str
    pods: Mapping[str, Resident]
    claims: Mapping[str, Key]


def residents(names: Names, node: str, virtual: Iterable[Obj], host: Iterable[Obj]) -> Residents:
    """Those of the `virtual` pods on `node` whose host pods are among `host`: provably theirs, and made for the very pod."""
    pods: dict[str, Resident] = {}
    claims: dict[str, Key] = {}
    for pod, image in proven_pairs(names, (pod for pod in virtual if (pod.get("spec") or {}).get("nodeName") == node), host):
        namespace = key_of(pod).namespace
        pods[key_of(image).name] = _resident(pod, uid_of(image))
        claims |= {names.host_name(namespace, claim): Key(namespace, claim) for claim in references(pod).claims}
    return Residents(node, names.host_namespace, pods, claims)


def proven_pairs(names: Names, virtual: Iterable[Obj], host: Iterable[Obj]) -> Iterator[tuple[Obj, Obj]]:
    """Virtual pods with their host pods (metadata will do), where these are provably theirs, and were made for the very pod."""
    known = {key_of(pod): pod for pod in virtual if uid_of(pod)}
    for image in host:
        key = virtual_key(names, PODS, image)
        if key is not None and (pod := known.get(key)) is not None and recorded_uid(image) == uid_of(pod) and uid_of(image):
            yield pod, image


def container_names(pod: Mapping[str, Any]) -> list[str]:
    """Of the containers that the tenant has written, init containers and ephemeral ones among them, in kubectl's order."""
    spec = pod.get("spec") or {}
    return [item["name"] for field in CONTAINER_FIELDS for item in spec.get(field) or ()]


def _resident(pod: Obj, host_uid: str) -> Resident:
    spec = pod.get("spec") or {}
    return Resident(
        key=key_of(pod),
        uid=uid_of(pod),
        host_uid=host_uid,
        images={item["name"]: item.get("image") or "" for field in CONTAINER_FIELDS for item in spec.get(field) or ()},
        volumes=frozenset(volume["name"] for volume in spec.get("volumes") or ()),
        shares_network=bool(spec.get("hostNetwork")),
    )

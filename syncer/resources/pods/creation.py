"""A pod's way to the host: what has to be known or there first, and the host pod."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from syncer.kube.types import (
    CONFIGMAPS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICES,
    Key,
    Obj,
    Ref,
    Resource,
    Side,
    is_deleting,
    key_of,
    labels_of,
    uid_of,
)
from syncer.sync.front import api_service, cluster_address
from syncer.sync.intents import Create, Intent, Pair, Refuse, Wait, Warn
from syncer.sync.view import View
from syncer.translate.metadata import host_metadata, recorded_uid, virtual_key
from syncer.translate.owners import owner_annotations
from syncer.translate.podspec import host_pod_spec, uses_cluster_dns
from syncer.translate.podupdate import created_annotations
from syncer.translate.references import Kind, References, ephemeral_claims, references
from syncer.translate.selectors import matches
from syncer.translate.token_secret import token_pod, token_secret_key

COPIES_SECONDS = 5.0
"""After so long a wait for host copies of what a pod refers to, the pod gets an event that says so."""

_SYSTEM = "system-"
"""How the names of Kubernetes' own PriorityClasses begin: those are for what keeps a cluster alive."""
_KUBE_DNS = Key("kube-system", "kube-dns")
_RESOURCES = {Kind.CONFIGMAP: CONFIGMAPS, Kind.SECRET: SECRETS}


def create(pair: Pair, virtual: Obj, view: View) -> list[Intent]:
    """The host pod, or what it waits for."""
    found = references(virtual)
    if found.claims and PERSISTENT_VOLUME_CLAIMS not in view.policy.synced:
        return [_without_claims(found)]
    if runtime_class := _missing_runtime_class(virtual, view):
        return _until_runtime_class(pair, runtime_class)
    api_address = cluster_address(view.get(*api_service(view)))
    dns_address = dns_address_of(view)
    if api_address is None:
        ref = api_service(view)
        return [Wait(on=(ref,), reason=f"the host Service {ref.key.name} in front of the virtual API server has no address yet")]
    if dns_address is None and uses_cluster_dns(virtual):
        return [Wait(on=tuple(_dns_services(view)), reason="the cluster's DNS Service has no address yet")]
    if missing := _missing(virtual, found, view):
        return _until_there(pair, missing)
    spec = host_pod_spec(
        view.names,
        view.policy,
        virtual,
        api_address=api_address,
        dns_address=dns_address,
        services=services_beside(virtual, view),
        token_secret=token_secret_key(view.names, pair.key).name,
        namespaces_matching=lambda selector: _namespaces_matching(selector, view),
        data_keys=lambda kind, name: data_keys(virtual, kind, name, view),
        has_priority_class=lambda name: _is_for_tenants(name, view),
    )
    ours = {**created_annotations(virtual), **owner_annotations(virtual)}
    metadata = host_metadata(view.names, view.policy.owner, PODS, virtual, annotations=ours)
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return [Create(Side.HOST, PODS, body, settles=True, vacant=_absent(virtual, found, view))]


def dns_address_of(view: View) -> str | None:
    """Address of the virtual cluster's DNS: of the Service made for it or, where there is none, of the copy of kube-system/kube-dns."""
    made_for_it, copy = (view.get(*ref) for ref in _dns_services(view))
    if made_for_it is not None:
        return cluster_address(made_for_it)
    return cluster_address(copy) if copy is not None and virtual_key(view.names, SERVICES, copy) == _KUBE_DNS else None


def services_beside(pod: Obj, view: View) -> Iterable[Obj]:
    """The virtual Services of the pod's namespace."""
    for key in view.find(Side.VIRTUAL, SERVICES, "namespace", key_of(pod).namespace):
        if (service := view.get(Side.VIRTUAL, SERVICES, key)) is not None:
            yield service


def data_keys(pod: Obj, kind: Kind, name: str, view: View) -> list[str]:
    """Keys in the data of a ConfigMap or Secret in the pod's namespace, as its host copy has them."""
    copy = view.get(Side.HOST, _RESOURCES[kind], view.names.host_key(Key(key_of(pod).namespace, name))) or {}
    return [*(copy.get("data") or ())]


def _dns_services(view: View) -> list[Ref]:
    return [
        Ref(Side.HOST, SERVICES, Key(view.names.host_namespace, view.policy.dns_service)),
        Ref(Side.HOST, SERVICES, view.names.host_key(_KUBE_DNS)),
    ]


def _without_claims(found: References) -> Refuse:
    """What has the names of their copies on the host, if anything, is a stranger's."""
    claims = ", ".join(sorted(found.claims))
    return Refuse("ClaimsNotSynced", f"it uses PersistentVolumeClaim {claims}, but claims are not synced to the host cluster")


def _missing_runtime_class(virtual: Obj, view: View) -> str:
    """The name of the RuntimeClass that the pod asks for and the host has not got; "" if that is not so, or not known."""
    name: str = (virtual.get("spec") or {}).get("runtimeClassName") or ""
    known = str(RUNTIME_CLASSES) not in view.policy.lacking
    return name if name and known and view.get(Side.HOST, RUNTIME_CLASSES, Key("", name)) is None else ""


def _until_runtime_class(pair: Pair, name: str) -> list[Intent]:
    reason = f"the host cluster has no RuntimeClass {name}, and a pod that asks for one never runs without"
    on = Ref(Side.HOST, RUNTIME_CLASSES, Key("", name))
    return [Warn(Ref(Side.VIRTUAL, PODS, pair.key), "NoRuntimeClass", reason), Wait(on=(on,), reason=reason)]


def _is_for_tenants(priority_class: str, view: View) -> bool:
    if not priority_class or priority_class.startswith(_SYSTEM):
        return False
    return view.get(Side.HOST, PRIORITY_CLASSES, Key("", priority_class)) is not None


@dataclass(frozen=True, slots=True)
class _Missing:
    """Something that has to be on the host first: in words, and what tells that it has come."""

    words: str
    on: tuple[Ref, ...]


def _until_there(pair: Pair, missing: list[_Missing]) -> list[Intent]:
    """Waits however long it takes: what has the copy's name on the host meanwhile may be a stranger's, and the pod would read it."""
    reason = "not on the host cluster yet: " + ", ".join(item.words for item in missing)
    on = tuple(ref for item in missing for ref in item.on)
    if pair.waited < COPIES_SECONDS:
        return [Wait(on=on, reason=reason, at_most=COPIES_SECONDS)]
    return [Warn(Ref(Side.VIRTUAL, PODS, pair.key), "NotCopied", reason), Wait(on=on, reason=reason)]


def _missing(virtual: Obj, found: References, view: View) -> list[_Missing]:
    """What the pod refers to and that is not on the host yet.

    That is what exists; and claims, without which no scheduler would place it. For a ConfigMap or Secret that does not exist the kubelet
    waits, or does without. The Secret with its tokens is made at the same time as the pod, and with one token is there before a kubelet
    looks. Several take longer than that: a kubelet that looks in vain looks again only half a second later, and tells the tenant of a
    Secret that he does not know.
    """
    namespace = key_of(virtual).namespace
    missing = [
        _Missing(f"{resource.kind} {key.name}", _on_both_sides(resource, key, view))
        for resource, key in _data(virtual, found, view)
        if view.get(Side.VIRTUAL, resource, key) is not None and not _is_copied(resource, key, view)
    ]
    own = ephemeral_claims(virtual)
    for name in sorted(found.claims):
        claim = Key(namespace, name)
        if not _is_usable(claim, virtual if name in own else None, view):
            missing.append(_Missing(f"PersistentVolumeClaim {name}", _on_both_sides(PERSISTENT_VOLUME_CLAIMS, claim, view)))
    if len(found.tokens) > 1:
        secret = Ref(Side.HOST, SECRETS, token_secret_key(view.names, key_of(virtual)))
        if not _has_tokens(view.get(*secret), virtual, view):
            missing.append(_Missing("its service account tokens", (secret,)))
    return missing


def _on_both_sides(resource: Resource, key: Key, view: View) -> tuple[Ref, ...]:
    """The copy, and the object itself: it may go meanwhile, and a claim's copy says nothing yet of whose it is."""
    return Ref(Side.HOST, resource, view.names.host_key(key)), Ref(Side.VIRTUAL, resource, key)


def _has_tokens(secret: Obj | None, pod: Obj, view: View) -> bool:
    if secret is None or is_deleting(secret):
        return False
    return token_pod(view.names, secret) == key_of(pod) and recorded_uid(secret) == uid_of(pod)


def _absent(virtual: Obj, found: References, view: View) -> tuple[tuple[Ref, str], ...]:
    """The ConfigMaps and Secrets that do not exist: under the names of their copies the kubelet would find a stranger's."""
    return tuple(
        (Ref(Side.HOST, resource, view.names.host_key(key)), key.name)
        for resource, key in _data(virtual, found, view)
        if view.get(Side.VIRTUAL, resource, key) is None
    )


def _data(virtual: Obj, found: References, view: View) -> Iterator[tuple[Resource, Key]]:
    """The ConfigMaps and Secrets that the pod refers to, of the types that are synced."""
    namespace = key_of(virtual).namespace
    for resource, names in ((CONFIGMAPS, found.configmaps), (SECRETS, found.secrets)):
        if resource in view.policy.synced:
            for name in sorted(names):
                yield resource, Key(namespace, name)


def _is_usable(claim: Key, owner: Obj | None, view: View) -> bool:
    """Whether a claim is there and copied, and was made for that pod if it is to have an `owner`."""
    virtual = view.get(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, claim)
    if virtual is None or not _is_copied(PERSISTENT_VOLUME_CLAIMS, claim, view):
        return False
    owners = virtual["metadata"].get("ownerReferences") or ()
    return owner is None or any(item.get("controller") and item.get("uid") == uid_of(owner) for item in owners)


def _is_copied(resource: Resource, key: Key, view: View) -> bool:
    host = view.get(Side.HOST, resource, view.names.host_key(key))
    return host is not None and not is_deleting(host) and virtual_key(view.names, resource, host) == key


def _namespaces_matching(selector: Mapping[str, Any], view: View) -> list[str]:
    keys = view.find(Side.VIRTUAL, NAMESPACES, "everything", "all")
    return [key.name for key in keys if matches(selector, labels_of(view.get(Side.VIRTUAL, NAMESPACES, key) or {}))]

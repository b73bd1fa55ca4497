"""What tenants make of each type, and what the host's controllers, and persons with too many rights, do to it there."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from syncer.kube.types import CONFIGMAPS, INGRESSES, PODS, SECRETS, SERVICES, Key, Obj, Resource, Side, annotations_of, key_of, labels_of
from syncer.naming import (
    ANNOTATION_KIND,
    ANNOTATION_NAME,
    ANNOTATION_NAMESPACE,
    ANNOTATION_UID,
    LABEL_MANAGED_BY,
    LABEL_NAMESPACE,
    Names,
)
from syncer.sync.referenced import FORCE_SYNC
from syncer.translate.metadata import virtual_key
from syncer.translate.token_secret import token_pod
from tests.sync.harness import HOST_NAMESPACE, NAMES, World, host_event, named, pod, service

NAMESPACES_USED = ("default", "shop")
TAKEN = "d"
"""A virtual name whose host names strangers have, for the types in STRANGERS."""
STRANGERS = (PODS, SERVICES, CONFIGMAPS, SECRETS)


@dataclass(frozen=True)
class Part:
    """One type on the stage.

    `draw` is the object that a tenant makes, `change` a merge patch that a tenant sends, `spoil` one that a person sends to
    the host object, and `play` what a controller of the host does to it ({}: nothing).
    """

    resource: Resource
    draw: Callable[[random.Random, Key], Obj]
    change: Callable[[random.Random, Obj], Obj]
    spoil: Callable[[random.Random, Obj], Obj]
    play: Callable[[random.Random, Obj], Obj] = lambda _rng, _host: {}
    weight: int = 1


def _metadata(rng: random.Random) -> Obj:
    """Labels and annotations as tenants change them; None takes one away."""
    value = rng.choice(("x", "y", None))
    return {rng.choice(("labels", "annotations")): {rng.choice(("tenant.example/note", "app")): value}}


def _spoiled_metadata(rng: random.Random, host: Obj) -> Obj:
    """What the tenant wrote changed, one of ours dropped that no watch goes by, or one more, which is the host's own business."""
    ways: list[Obj] = [{"labels": {"host.example/cost-centre": "4711"}}, {"ownerReferences": []}]
    if token_pod(NAMES, host) is None:  # of a pod's tokens it is a part of the proof that they are ours
        ways.append({"annotations": {ANNOTATION_KIND: None}})
    for part, present in (("labels", labels_of(host)), ("annotations", annotations_of(host))):
        ways += [{part: {name: rng.choice(("spoiled", None))}} for name in ("app", "tenant.example/note") if name in present]
    return {"metadata": rng.choice(ways)}


def _pod(rng: random.Random, key: Key) -> Obj:
    mounts = {kind: rng.choice(("", "a", "b")) for kind in ("configmap", "secret")}
    made = pod(key.name, key.namespace, tokens=rng.random() < 0.5, **mounts)
    made["metadata"]["labels"] = {"app": rng.choice("xyz")}
    for volume in made["spec"].get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            source["serviceAccountToken"]["expirationSeconds"] = rng.choice((600, 3607))
    if rng.random() < 0.2:
        term = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
        made["spec"]["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return made


def _change_pod(rng: random.Random, have: Obj) -> Obj:
    if rng.random() < 0.3:
        containers = [{**have["spec"]["containers"][0], "image": f"nginx:{rng.randrange(1, 4)}"}]
        return {"spec": {"containers": containers}}
    return {"metadata": _metadata(rng)}


def _play_pod(rng: random.Random, host: Obj) -> Obj:
    """The kubelet reports: a container restarts, readiness comes and goes, the network changes."""
    status = host["status"]
    if status.get("phase") != "Running":
        return {}
    if rng.random() < 0.5:
        ready = rng.choice(("True", "False"))
        return {"status": {"conditions": [{**item, "status": ready} if item["type"] == "Ready" else item for item in status["conditions"]]}}
    first, *rest = status["containerStatuses"]
    message = f"back-off restarting failed container=app pod={host['metadata']['name']}_{HOST_NAMESPACE}"
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    return {"status": {"containerStatuses": [{**first, "restartCount": first["restartCount"] + 1, "state": state}, *rest]}}


def _copied(resource: Resource) -> Callable[[random.Random, Key], Obj]:
    def draw(rng: random.Random, key: Key) -> Obj:
        made = named(resource.kind, key.name, key.namespace, **_data(rng))
        if rng.random() < 0.1:
            made["immutable"] = True
        if rng.random() < 0.1:
            made["metadata"]["annotations"] = {FORCE_SYNC: "true"}
        return made

    return draw


def _data(rng: random.Random) -> Obj:
    return {"data": {rng.choice("xyz"): rng.choice(("MQ==", "Mg=="))}}


def _change_copied(rng: random.Random, have: Obj) -> Obj:
    if have.get("immutable") or rng.random() < 0.3:
        return {"metadata": {"annotations": {FORCE_SYNC: rng.choice(("true", None))}}}
    return _data(rng)


def _spoil_copied(rng: random.Random, host: Obj) -> Obj:
    return rng.choice((_data(rng), {"data": None}, _spoiled_metadata(rng, host)))


def _service(rng: random.Random, key: Key) -> Obj:
    kinds: tuple[Obj, ...] = ({}, {"type": "NodePort"}, {"clusterIP": "None"}, {"type": "LoadBalancer"})
    return service(key.name, key.namespace, **rng.choice(kinds))


def _change_service(rng: random.Random, have: Obj) -> Obj:
    return rng.choice(
        (
            {"spec": {"selector": {"app": rng.choice("xyz")}}},
            {"spec": {"sessionAffinity": rng.choice(("None", "ClientIP"))}},
            {"spec": {"ports": [{**have["spec"]["ports"][0], "targetPort": rng.choice((80, 8080))}]}},
            {"metadata": _metadata(rng)},
        )
    )


def _spoil_service(rng: random.Random, host: Obj) -> Obj:
    return rng.choice(
        ({"spec": {"selector": {"app": "everything"}}}, {"spec": {"sessionAffinity": "ClientIP"}}, _spoiled_metadata(rng, host))
    )


def _play_service(rng: random.Random, host: Obj) -> Obj:
    if host["spec"].get("type") != "LoadBalancer":
        return {}
    return {"status": {"loadBalancer": rng.choice(({}, {"ingress": [{"ip": "203.0.113.7"}]}, {"ingress": [{"hostname": "lb.example"}]}))}}


def _ingress(rng: random.Random, key: Key) -> Obj:
    metadata = {"name": key.name, "namespace": key.namespace}
    return {"apiVersion": INGRESSES.api_version, "kind": "Ingress", "metadata": metadata, "spec": _ingress_spec(rng)}


def _ingress_spec(rng: random.Random) -> Obj:
    paths = [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": rng.choice("abc"), "port": {"number": 80}}}}]
    tls = {"tls": [{"hosts": ["shop.example"], "secretName": rng.choice("abc")}]} if rng.random() < 0.5 else {}
    return {"rules": [{"host": "shop.example", "http": {"paths": paths}}], **tls}


def _change_ingress(rng: random.Random, _have: Obj) -> Obj:
    return rng.choice(({"spec": _ingress_spec(rng)}, {"metadata": _metadata(rng)}))


def _play_ingress(rng: random.Random, _host: Obj) -> Obj:
    return {"status": {"loadBalancer": rng.choice(({}, {"ingress": [{"ip": "203.0.113.8"}]}))}}


PARTS: tuple[Part, ...] = (
    Part(PODS, _pod, _change_pod, _spoiled_metadata, _play_pod, weight=3),
    Part(SERVICES, _service, _change_service, _spoil_service, _play_service, weight=2),
    Part(CONFIGMAPS, _copied(CONFIGMAPS), _change_copied, _spoil_copied),
    Part(SECRETS, _copied(SECRETS), _change_copied, _spoil_copied),
    Part(INGRESSES, _ingress, _change_ingress, _spoiled_metadata, _play_ingress),
)


def is_ours(resource: Resource, host: Obj) -> bool:
    """Whether a host object is the image of a virtual one, or holds a pod's tokens."""
    return virtual_key(NAMES, resource, host) is not None or (resource == SECRETS and token_pod(NAMES, host) is not None)


def furnish(world: World) -> None:
    """Puts objects of others on the stage whose names and markers invite a mistake; each has to be there, as it is, in the end."""
    other = Names("two", HOST_NAMESPACE)
    lookalikes = [
        _marked(_stranger(PODS, other.host_name("default", "a")), other, "a"),  # of another virtual cluster
        _marked(_stranger(PODS, f"{NAMES.host_name('default', 'b')}-copy"), NAMES, "b"),  # made after one of ours by some controller
        _marked(_stranger(SECRETS, NAMES.host_name("default", "e")), NAMES, "e", kind="/v1, Kind=ConfigMap"),  # the markers of another type
        _marked(_stranger(CONFIGMAPS, "b"), NAMES, "b", namespace="elsewhere"),  # labels and annotations contradict one another
        *[_stranger(resource, NAMES.host_name(namespace, TAKEN)) for resource in STRANGERS for namespace in NAMESPACES_USED],
    ]
    for obj in lookalikes:
        _place(world, Side.HOST, obj)
    world.host.create(named("Namespace", "other-ns", ""))
    neighbour = _marked(_stranger(PODS, NAMES.host_name("default", "a")), NAMES, "a")
    neighbour["metadata"]["namespace"] = "other-ns"
    _place(world, Side.HOST, neighbour)
    _place(world, Side.VIRTUAL, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "tenants-own"}, "spec": {}, "status": {}})
    labelled = {"vcluster.loft.sh/fake-node": "true"}  # but not ours: the annotation is missing
    _place(world, Side.VIRTUAL, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "look-alike", "labels": labelled}, "spec": {}})


def _stranger(resource: Resource, name: str) -> Obj:
    made = named(resource.kind, name, HOST_NAMESPACE)
    if resource == PODS:
        made |= {"spec": {"containers": [{"name": "app", "image": "nginx:1"}], "nodeName": "node-1"}, "status": {"phase": "Running"}}
    elif resource == SERVICES:
        made["spec"] = {"type": "ClusterIP", "clusterIP": "None", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}
    return made


def _marked(obj: Obj, names: Names, name: str, *, kind: str = "", namespace: str = "default") -> Obj:
    labels = {LABEL_MANAGED_BY: names.suffix, LABEL_NAMESPACE: "default"}
    annotations = {
        ANNOTATION_NAME: name,
        ANNOTATION_NAMESPACE: namespace,
        ANNOTATION_UID: f"of-{obj['metadata']['name']}",
        ANNOTATION_KIND: kind or f"/v1, Kind={obj['kind']}",
    }
    obj["metadata"] |= {"labels": labels, "annotations": annotations}
    return obj


def _place(world: World, side: Side, obj: Obj) -> None:
    server = world.servers[side]
    server.put(obj)
    world.protect(side, server.registry.resource_of(obj), key_of(obj), unchanged=True)


def said_of(rng: random.Random, host: Obj) -> Obj:
    """An event about a host object, in words that name it, as kubelets' and controllers' do."""
    key = key_of(host)
    messages = (
        "it happened",
        f'error syncing pod "{key.name}_{key.namespace}(uid)": back-off',
        f"{key.namespace}/{key.name} has no endpoints",
        f'configmap "{NAMES.host_name(labels_of(host)[LABEL_NAMESPACE], "a")}" not found',
    )
    return host_event(f"x.{rng.randrange(10**6):x}", host, rng.choice(messages))

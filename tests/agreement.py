"""What both sides of a virtual cluster agree on when nothing goes on any more: pure functions over the objects of both.

The end state that every run has to come to, whether on fake API servers or on real ones. Each function yields sentences, one a problem.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from syncer.kube.types import (
    CONFIGMAPS,
    EVENTS,
    INGRESSES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    Key,
    Obj,
    Resource,
    annotations_of,
    is_deleting,
    key_of,
    labels_of,
    uid_of,
)
from syncer.naming import LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.sync.referenced import FORCE_SYNC
from syncer.translate.metadata import recorded_uid, virtual_key
from syncer.translate.owners import controller_kind
from syncer.translate.references import References, references, token_sources
from syncer.translate.services import PENDING, is_excluded
from syncer.translate.status import is_finished
from syncer.translate.token_secret import token_pod

KUBERNETES = Key("default", "kubernetes")
COPIED: Mapping[Resource, Callable[[References], Iterable[str]]] = {
    CONFIGMAPS: lambda found: found.configmaps,
    SECRETS: lambda found: found.secrets,
}
"""What is on the host while a pod refers to it, and how a pod does."""

_OURS = "vcluster.loft.sh/"
_FAKE_NODE = "vcluster.loft.sh/fake-node"


class Sides:
    """All objects of both API servers (of the host: of the host namespace), as lists by resource; a missing one is empty.

    `without` are pairs that nothing is asked of: their name on the host is taken by a stranger, say.
    """

    def __init__(
        self,
        names: Names,
        virtual: Mapping[Resource, Iterable[Obj]],
        host: Mapping[Resource, Iterable[Obj]],
        *,
        without: Iterable[tuple[Resource, Key]] = (),
    ) -> None:
        self.names = names
        self.without = frozenset(without)
        self._virtual = {resource: {key_of(obj): obj for obj in objects} for resource, objects in virtual.items()}
        self._host = {resource: {key_of(obj): obj for obj in objects} for resource, objects in host.items()}
        self.images = {resource: self._images_of(resource) for resource in self._host}

    def virtual(self, resource: Resource) -> Mapping[Key, Obj]:
        return self._virtual.get(resource, {})

    def host(self, resource: Resource) -> Mapping[Key, Obj]:
        return self._host.get(resource, {})

    def image(self, resource: Resource, key: Key) -> Obj | None:
        """The host object that is provably that of a virtual one."""
        return self.images.get(resource, {}).get(key)

    def _images_of(self, resource: Resource) -> dict[Key, Obj]:
        return {key: obj for obj in self.host(resource).values() if (key := virtual_key(self.names, resource, obj)) is not None}


def disagreements(sides: Sides) -> list[str]:
    """Everything in which both sides differ although they should not."""
    return [
        *_pods(sides),
        *_services(sides),
        *_ingresses(sides),
        *_copies(sides),
        *_tokens(sides),
        *_nodes(sides),
        *selectors(sides),
        *leaks(sides),
    ]


def paired(sides: Sides, resource: Resource, wanted: Iterable[Key]) -> Iterator[str]:
    """Each of `wanted`, and nothing else, has its own host object, made for this very virtual object and not being deleted."""
    images = dict(sides.images.get(resource, {}))
    for key in wanted:
        if (resource, key) in sides.without:
            continue
        image = images.pop(key, None)
        if image is None:
            yield f"{resource} {key} has no host object"
            continue
        if recorded_uid(image) != uid_of(sides.virtual(resource)[key]):
            yield f"{resource} {key} has the host object of another one, {recorded_uid(image)}"
        if is_deleting(image) != is_deleting(sides.virtual(resource)[key]):
            yield f"{resource} {key} is being deleted on one side only"
    yield from (f"{resource} {key} has a host object that nothing asks for" for key in images if (resource, key) not in sides.without)


def same_labels(sides: Sides, resource: Resource) -> Iterator[str]:
    """The tenant's labels and annotations are on the host object, and only those besides the host's own and ours."""
    for key, image in sides.images.get(resource, {}).items():
        virtual = sides.virtual(resource).get(key)
        if virtual is None or (resource, key) in sides.without:
            continue
        for what, mine, theirs in (
            ("label", labels_of(virtual), labels_of(image)),
            ("annotation", annotations_of(virtual), annotations_of(image)),
        ):
            for name in sorted({name for name in (*mine, *theirs) if name.startswith(("tenant.example/", "app"))}):
                if mine.get(name) != theirs.get(name):
                    yield f"{resource} {key} has the {what} {name}={mine.get(name)}, on the host {theirs.get(name)}"


def _pods(sides: Sides) -> Iterator[str]:
    pods = sides.virtual(PODS)
    # A finished pod whose host pod somebody removed stays, as one of any cluster whose node is gone.
    wanted = [key for key, pod in pods.items() if not is_finished(pod) or sides.image(PODS, key) is not None]
    yield from paired(sides, PODS, wanted)
    yield from same_labels(sides, PODS)
    for key, pod in pods.items():
        image = sides.image(PODS, key)
        if image is not None and (ours := _told(pod)) != (theirs := _told(image)):
            differing = {field: (value, theirs[field]) for field, value in ours.items() if value != theirs[field]}
            yield f"the pod {key} tells otherwise than its host pod: {differing}"


def _told(pod: Obj) -> dict[str, Any]:
    """What a tenant sees of how a pod is."""
    spec, status = pod["spec"], pod.get("status", {})
    known = {container["name"] for container in spec["containers"]}
    return {
        "node": spec.get("nodeName"),
        "images": {container["name"]: container["image"] for container in spec["containers"]},
        **{field: status.get(field) for field in ("phase", "reason", "podIP", "podIPs", "hostIP", "startTime")},
        "conditions": {item["type"]: item["status"] for item in status.get("conditions") or ()},
        "containers": [
            [*(item.get(field) for field in ("name", "ready", "restartCount")), *map(_state, (item.get("state"), item.get("lastState")))]
            for item in status.get("containerStatuses") or ()
            if item["name"] in known
        ],
    }


def _state(state: Obj | None) -> Any:
    """A container's state without its message, which may speak of the host and is then told otherwise."""
    return {kind: {k: v for k, v in (details or {}).items() if k != "message"} for kind, details in (state or {}).items()}


def _services(sides: Sides) -> Iterator[str]:
    services = {key: obj for key, obj in sides.virtual(SERVICES).items() if key != KUBERNETES and not is_excluded(obj)}
    yield from paired(sides, SERVICES, services)
    yield from same_labels(sides, SERVICES)
    for key, service in services.items():
        image = sides.image(SERVICES, key)
        if image is None:
            continue
        if (ours := _offered(service)) != (theirs := _offered(image)):
            differing = {field: (value, theirs[field]) for field, value in ours.items() if value != theirs[field]}
            yield f"the Service {key} is another one on the host: {differing}"
        if PENDING in annotations_of(image):
            yield f"the host Service of {key} still has {PENDING}"


def _offered(service: Obj) -> dict[str, Any]:
    spec, status = service["spec"], service.get("status", {})
    ports = [[port.get(field) for field in ("name", "port", "protocol", "targetPort", "nodePort")] for port in spec.get("ports") or ()]
    balancer = status.get("loadBalancer") or {} if spec.get("type") == "LoadBalancer" else {}
    named = ("type", "clusterIP", "clusterIPs", "sessionAffinity", "externalName", "externalIPs", "externalTrafficPolicy")
    return {"ports": ports, "load balancer": balancer, **{field: spec.get(field) for field in named}}


def _ingresses(sides: Sides) -> Iterator[str]:
    ingresses = sides.virtual(INGRESSES)
    if INGRESSES not in sides.images:
        return
    yield from paired(sides, INGRESSES, ingresses)
    yield from same_labels(sides, INGRESSES)
    for key, ingress in ingresses.items():
        image = sides.image(INGRESSES, key)
        if image is None:
            continue
        ours, theirs = (((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [] for obj in (ingress, image))
        if ours != theirs:
            yield f"the Ingress {key} is reached at {ours}, on the host at {theirs}"
        yield from (f"the host Ingress of {key} sends to {wrong}" for wrong in _wrong_backends(sides.names, key, ingress, image))


def _wrong_backends(names: Names, key: Key, ingress: Obj, image: Obj) -> Iterator[str]:
    wanted, found = (_backends(obj) for obj in (ingress, image))
    for mine, theirs in zip(wanted, found, strict=False):
        if names.host_name(key.namespace, mine) != theirs:
            yield f"{theirs} instead of {mine}"
    if len(wanted) != len(found):
        yield f"{found} instead of {wanted}"


def _backends(ingress: Obj) -> list[str]:
    """Names of the Services and TLS Secrets, in order."""
    spec = ingress["spec"]
    paths = [path for rule in spec.get("rules") or () for path in (rule.get("http") or {}).get("paths") or ()]
    secrets = [tls["secretName"] for tls in spec.get("tls") or () if tls.get("secretName")]
    return [path["backend"]["service"]["name"] for path in paths if "service" in path["backend"]] + secrets


def _copies(sides: Sides) -> Iterator[str]:
    for resource, referred in COPIED.items():
        originals = sides.virtual(resource)
        # Host pods count too, whether the virtual ones are still there or not: they may start a container any time.
        alive = sides.virtual(PODS).items()
        needed = {Key(key.namespace, name) for key, pod in alive for name in referred(references(pod))}
        if resource == SECRETS:
            needed |= {
                Key(key.namespace, tls["secretName"])
                for key, ingress in sides.virtual(INGRESSES).items()
                for tls in ingress["spec"].get("tls") or ()
                if tls.get("secretName")
            }
        needed |= {key for key, obj in originals.items() if annotations_of(obj).get(FORCE_SYNC) == "true"}
        images = sides.images.get(resource, {})
        wanted = needed & originals.keys()
        yield from (f"{resource} {key} has no copy on the host" for key in wanted - images.keys() if (resource, key) not in sides.without)
        yield from (f"{resource} {key} is on the host although no pod needs it" for key in images.keys() - wanted)
        for key in wanted & images.keys():
            image, original = images[key], originals[key]
            for field in ("data", "binaryData", "immutable"):
                if (image.get(field) or None) != (original.get(field) or None):
                    yield f"{resource} {key} has other {field} on the host"


def _tokens(sides: Sides) -> Iterator[str]:
    """An ended pod's tokens may stay until it goes; those of one that is gone may not."""
    pods = {key: pod for key, pod in sides.virtual(PODS).items() if token_sources(pod)}
    kept = {key: secret for secret in sides.host(SECRETS).values() if (key := token_pod(sides.names, secret)) is not None}
    for key, secret in kept.items():
        if key not in pods or recorded_uid(secret) != uid_of(pods[key]):
            yield f"tokens on the host are of no pod: {key} ({recorded_uid(secret)})"
    for key, pod in pods.items():
        if key not in kept and not is_finished(pod) and (PODS, key) not in sides.without:
            yield f"the pod {key} has no tokens on the host"


def _nodes(sides: Sides) -> Iterator[str]:
    used = {
        node
        for key, pod in sides.virtual(PODS).items()
        if (node := pod["spec"].get("nodeName")) and controller_kind(pod) != "DaemonSet"
        if not is_finished(pod) or sides.image(PODS, key) is not None
    }
    present = {key.name for key, node in sides.virtual(NODES).items() if is_made_up(sides.names, node)}
    if used != present:
        yield f"there are the made-up nodes {sorted(present)}, and pods on {sorted(used)}"


def is_made_up(names: Names, node: Obj) -> bool:
    """Whether a virtual Node stands in for a host's, and not for one that the tenant has."""
    return labels_of(node).get(_FAKE_NODE) == "true" and annotations_of(node).get(LABEL_MANAGED_BY) == names.suffix


def selectors(sides: Sides) -> Iterator[str]:
    """Every selector on the host is narrowed to this virtual cluster and namespace, wherever it stands in an image of ours."""
    for resource, images in sides.images.items():
        for key, image in images.items():
            yield from (f"{resource} {key}: {problem}" for problem in wide_selectors(sides.names, key.namespace, image))


def wide_selectors(names: Names, namespace: str, host: Obj) -> Iterator[str]:
    """The selectors of one host object that could select what is not of its virtual cluster, or of none of its virtual namespaces."""
    spec = host.get("spec") or {}
    if host.get("kind") == "Service":
        selector = spec.get("selector") or {}
        if selector and (selector.get(LABEL_MANAGED_BY), selector.get(LABEL_NAMESPACE)) != (names.suffix, namespace):
            yield f"its selector is {selector}"
    if host.get("kind") != "Pod":
        return
    affinity = spec.get("affinity") or {}
    terms = [
        term.get("podAffinityTerm", term)
        for kind in ("podAffinity", "podAntiAffinity")
        for when in ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution")
        for term in (affinity.get(kind) or {}).get(when) or ()
    ]
    for term in (*terms, *(spec.get("topologySpreadConstraints") or ())):
        selector = term.get("labelSelector")
        if selector is None:
            continue  # selects nothing
        labels = selector.get("matchLabels") or {}
        expressed = {item["key"] for item in selector.get("matchExpressions") or () if item["operator"] in ("In", "DoesNotExist")}
        if labels.get(LABEL_MANAGED_BY) != names.suffix or LABEL_NAMESPACE not in {*labels, *expressed}:
            yield f"a term selects {selector}"
        if term.get("namespaces") not in (None, [], [names.host_namespace]) or term.get("namespaceSelector") is not None:
            yield f"a term selects in namespaces {term.get('namespaces')} {term.get('namespaceSelector')}"


def leaks(sides: Sides, resources: Iterable[Resource] = (PODS, SERVICES, EVENTS, NODES)) -> Iterator[str]:
    """Host names in what a tenant sees. Annotations of the family's own domain speak of the host by design."""
    for resource in resources:
        for key, obj in sides.virtual(resource).items():
            metadata = obj["metadata"]
            told = {k: v for k, v in (metadata.get("annotations") or {}).items() if not k.startswith(_OURS)}
            shown = {**obj, "metadata": {**metadata, "annotations": told, "managedFields": None}}
            yield from (f"{resource} {key} shows {name}" for name in host_names(sides.names, json.dumps(shown)))


def host_names(names: Names, text: str) -> list[str]:
    """The host names that a text contains: the namespace, and the ending of readable names."""
    return [name for name in (names.host_namespace, f"-x-{names.suffix}") if name in text]

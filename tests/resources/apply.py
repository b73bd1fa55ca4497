"""Two tiny API servers in memory, and the loop that decides a pair and carries the intents out until it is settled.

They know what decisions depend on: UIDs as preconditions, allocation of Service addresses and ports, graceful deletion of
pods, finalizers, what is immutable, and which subresource changes what. A request that a real API server would reject raises
`Rejected`; a name that is taken, or an object that has changed hands, raises `Stale`, which ends a round as in the executor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from itertools import count
from typing import Any

from syncer.kube.types import PODS, SECRETS, SERVICES, Key, Obj, Resource, Side, is_deleting, key_of, uid_of
from syncer.naming import Names
from syncer.sync.intents import Again, Bind, Create, Delete, Intent, MintToken, Pair, Patch, Refuse, Wait, Warn
from syncer.sync.spec import SyncSpec
from syncer.sync.view import IndexFunction, Policy, TableView
from syncer.translate import merge
from syncer.translate.metadata import TOKEN_EXPIRY

NAMES = Names("vc", "hostns")
OWNER: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "name": "vc-vc-owner", "uid": "owner-uid"}
POLICY = Policy(service_name="vc", dns_service="kube-dns-x-vc", owner=OWNER, virtual_version="v1.36.0")
NOW = 1_800_000_000.0

Write = Create | Patch | Delete | Bind | MintToken


class Rejected(AssertionError):
    """An API server would answer 422."""


class Stale(Exception):
    """The round ends, and the pair is decided again."""


class World:
    """Objects of both sides. `put` places one as it is, filling in what every stored object has."""

    def __init__(self, *specs: SyncSpec, policy: Policy = POLICY, now: float = NOW) -> None:
        self.names, self.policy, self.now = NAMES, policy, now
        self.objects: dict[tuple[Side, Resource], dict[Key, Obj]] = {}
        self.indexes: dict[tuple[Side, Resource], dict[str, IndexFunction]] = {}
        for spec in specs:
            for watch in spec.watches:
                self.objects.setdefault((watch.side, watch.resource), {})
            for place, functions in spec.indexes.items():
                self.indexes.setdefault(place, {}).update(functions)
        self._numbers = count(1)
        self.log: list[Write] = []
        self.taken: set[Any] = set()
        """Addresses and node ports that somebody else has on the host."""

    def put(self, side: Side, resource: Resource, obj: Obj) -> Obj:
        stored = {"apiVersion": resource.api_version, "kind": resource.kind, **deepcopy(obj)}
        number = next(self._numbers)
        stored["metadata"] = {"uid": f"{side}-uid-{number}", "resourceVersion": str(number), **stored["metadata"]}
        self.objects.setdefault((side, resource), {})[key_of(stored)] = stored
        return stored

    def get(self, side: Side, resource: Resource, key: Key) -> Obj | None:
        return self.objects.get((side, resource), {}).get(key)

    def view(self) -> TableView:
        tables: dict[Side, dict[Resource, Iterable[Obj]]] = {Side.VIRTUAL: {}, Side.HOST: {}}
        for (side, resource), objects in self.objects.items():
            tables[side][resource] = deepcopy(list(objects.values()))
        return TableView(
            names=self.names, policy=self.policy, virtual=tables[Side.VIRTUAL], host=tables[Side.HOST], indexes=self.indexes, now=self.now
        )

    def pair(self, spec: SyncSpec, key: Key, waited: float = 0.0) -> Pair:
        view = self.view()
        virtual_ref, host_ref = spec.virtual_ref(key), spec.host_ref(self.names, key)
        virtual = view.get(*virtual_ref) if virtual_ref else None
        host = view.get(*host_ref) if host_ref else None
        if host is not None and spec.virtual_key(host, view) != key:
            host = None
        return Pair(key, virtual, host, waited)

    def decide(self, spec: SyncSpec, key: Key, waited: float = 0.0) -> list[Intent]:
        return spec.decide(self.pair(spec, key, waited), self.view())

    def settle(self, spec: SyncSpec, key: Key, *, rounds: int = 8, waited: float = 0.0) -> list[Intent]:
        """Decide and carry out until nothing is written any more; returns what is still asked for, which then are no writes."""
        intents: list[Intent] = []
        for _ in range(rounds):
            intents = self.decide(spec, key, waited)
            if not any(isinstance(intent, Write) for intent in intents):
                return intents
            with suppress(Stale):
                self.carry_out(intents)
        raise AssertionError(f"not settled after {rounds} rounds, still asks for {told(intents)}")

    def carry_out(self, intents: Sequence[Intent]) -> None:
        for intent in intents:
            match intent:
                case Wait() | Again() | Warn():
                    continue
                case Refuse():
                    return
                case _:
                    self.log.append(intent)
                    self._write(intent)

    def _write(self, intent: Write) -> None:
        match intent:
            case Create():
                self._create_valid(intent)
            case Patch():
                self._patch(intent)
            case Delete():
                self.delete(intent.side, intent.resource, intent.key, intent.uid, intent.grace)
            case Bind():
                pod = self._of_uid(Side.VIRTUAL, PODS, intent.key, intent.uid)
                pod["spec"]["nodeName"] = intent.node
                conditions = pod.setdefault("status", {}).setdefault("conditions", [])
                conditions[:] = [c for c in conditions if c["type"] != "PodScheduled"] + [{"type": "PodScheduled", "status": "True"}]
            case MintToken():
                self._mint(intent)

    def _create_valid(self, intent: Create) -> None:
        bodies = (intent.obj, *intent.alternatives)
        valid = (body for body in bodies[:-1] if intent.side is Side.VIRTUAL or not self._is_taken(body))
        self._create(intent.side, intent.resource, next(valid, bodies[-1]))

    def _is_taken(self, obj: Obj) -> bool:
        """Whether the host would not give it its address or one of its node ports."""
        spec = obj.get("spec") or {}
        return not str(spec.get("clusterIP") or "10.96").startswith(("10.96", "None")) or bool(
            self.taken & {spec.get("clusterIP"), *(port.get("nodePort") for port in spec.get("ports") or ())}
        )

    def _create(self, side: Side, resource: Resource, obj: Obj) -> None:
        if self.get(side, resource, key_of(obj)) is not None:
            raise Stale
        stored = self.put(side, resource, obj)
        if resource == SERVICES:
            self._allocate(side, stored)
        elif resource == PODS:
            stored.setdefault("status", {"phase": "Pending", "qosClass": "BestEffort"})
        elif resource.kind == "Node":
            stored.setdefault("spec", {}).setdefault("taints", []).append({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"})

    def _allocate(self, side: Side, service: Obj) -> None:
        spec, number = service["spec"], next(self._numbers)
        spec.setdefault("type", "ClusterIP")
        if spec["type"] == "ExternalName":
            for field in ("clusterIP", "clusterIPs"):
                spec.pop(field, None)
        else:
            spec.setdefault("clusterIP", f"{'10.96' if side is Side.HOST else '10.43'}.{number >> 8}.{number & 255}")
            spec["clusterIPs"] = [spec["clusterIP"]]
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
            if spec["type"] in ("NodePort", "LoadBalancer"):
                port.setdefault("nodePort", 30000 + next(self._numbers))
            else:
                port.pop("nodePort", None)
        service.setdefault("status", {"loadBalancer": {}})

    def _patch(self, intent: Patch) -> None:
        have = self._of_uid(intent.side, intent.resource, intent.key, intent.uid)
        body = deepcopy(dict(intent.body))
        (body.get("metadata") or {}).pop("uid", None)
        if intent.subresource == "status":
            assert set(body) <= {"status", "metadata"}, "the status subresource changes nothing else"
        else:
            assert "status" not in body, "status changes through its subresource only"
        new = _strategic(have, body) if intent.strategy == "strategic" else merge.apply(have, body)
        self._check(intent, have, new)
        new["metadata"]["resourceVersion"] = str(next(self._numbers))
        self.objects[intent.side, intent.resource][intent.key] = new
        if intent.resource == SERVICES and not intent.subresource:
            self._allocate(intent.side, new)

    def _check(self, intent: Patch, have: Obj, new: Obj) -> None:
        changed = {field for field in {*have, *new} if have.get(field) != new.get(field)}
        if have.get("immutable") and changed & {"data", "binaryData", "immutable"}:
            raise Rejected("immutable")
        if intent.resource == SECRETS and "type" in changed:
            raise Rejected("a Secret's type")
        if intent.resource == SERVICES:
            old, now = have["spec"].get("clusterIP"), new["spec"].get("clusterIP")
            if old and now and old != now:
                raise Rejected("a Service's address")
        if intent.resource == PODS and have["spec"].get("nodeName") != new["spec"].get("nodeName"):
            raise Rejected("a pod's node")

    def delete(self, side: Side, resource: Resource, key: Key, uid: str, grace: int | None = None) -> None:
        obj = self.get(side, resource, key)
        if obj is None or uid_of(obj) != uid:
            return
        spec, metadata = obj.get("spec") or {}, obj["metadata"]
        seconds = 0
        if is_deleting(obj):
            current = metadata.get("deletionGracePeriodSeconds", 0)
            seconds = current if grace is None else min(current, grace)
        elif resource == PODS and spec.get("nodeName") and (obj.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            seconds = spec.get("terminationGracePeriodSeconds", 30) if grace is None else grace
        if not seconds and not metadata.get("finalizers"):
            del self.objects[side, resource][key]
            return
        metadata["deletionTimestamp"] = datetime.fromtimestamp(self.now + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata["deletionGracePeriodSeconds"] = seconds

    def _mint(self, intent: MintToken) -> None:
        expiry = {source.data_key: [int(self.now), int(self.now) + source.expiration_seconds] for source in intent.sources}
        data = {source.data_key: "dG9rZW4=" for source in intent.sources}
        pod = self.get(Side.VIRTUAL, PODS, intent.pod)
        if pod is None or uid_of(pod) != intent.pod_uid:
            raise Stale
        if intent.secret_uid:
            secret = self._of_uid(Side.HOST, SECRETS, key_of(intent.secret), intent.secret_uid)
            secret["metadata"]["annotations"][TOKEN_EXPIRY] = json.dumps(expiry)
            secret["data"] = {**secret.get("data", {}), **data}
            return
        body = deepcopy(intent.secret)
        body["metadata"]["annotations"][TOKEN_EXPIRY] = json.dumps(expiry)
        self._create(Side.HOST, SECRETS, {**body, "data": data})

    def _of_uid(self, side: Side, resource: Resource, key: Key, uid: str) -> Obj:
        obj = self.get(side, resource, key)
        if obj is None or uid_of(obj) != uid:
            raise Stale
        return obj


def told(intents: Iterable[Intent]) -> list[str]:
    """Each intent in a line, for tables: what is written where, and how; bodies are looked at by other tests."""
    return [_told(intent) for intent in intents]


def _told(intent: Intent) -> str:
    match intent:
        case Create(side=side, resource=resource, obj=obj):
            return f"create {side} {resource.plural} {key_of(obj)}"
        case Patch(side=side, resource=resource, key=key, body=body, subresource=subresource):
            fields = subresource or "+".join(sorted(body))
            return f"patch {side} {resource.plural} {key} {fields}"
        case Delete(side=side, resource=resource, key=key, grace=grace, unexplained=unexplained):
            return (
                f"delete {side} {resource.plural} {key}{'' if grace is None else f' grace={grace}'}{' unexplained' if unexplained else ''}"
            )
        case Bind(key=key, node=node):
            return f"bind {key} {node}"
        case MintToken(pod=pod, sources=sources, secret_uid=uid):
            return f"mint {pod} {','.join(source.data_key for source in sources)}{' again' if uid else ''}"
        case Wait(on=refs, at_most=at_most):
            refs_told = " ".join(f"{ref.side} {ref.resource.plural} {ref.key}" for ref in refs)
            return f"wait {refs_told}{'' if at_most is None else f' at most {at_most:g}'}"
        case Again(after=after):
            return f"again {after:g}"
        case Refuse(reason=reason):
            return f"refuse {reason}"
        case Warn(reason=reason):
            return f"warn {reason}"


_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "schedulingGates": "name",
    "conditions": "type",
    "podIPs": "ip",
    "hostIPs": "ip",
}


def _strategic(target: Any, patch: Any) -> Any:
    """A strategic merge patch, for the lists that are patched so."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _strategic(result.get(key) or {}, value)
        elif key in _MERGE_KEYS:
            identity = _MERGE_KEYS[key]
            replaced = {"$patch": "replace"} in value
            items = {} if replaced else {item[identity]: item for item in result.get(key) or ()}
            for item in value[1:] if replaced else value:
                if item.get("$patch") == "delete":
                    items.pop(item[identity], None)
                else:
                    items[item[identity]] = _strategic(items.get(item[identity]) or {}, item)
            result[key] = list(items.values())
        else:
            result[key] = value
    return result

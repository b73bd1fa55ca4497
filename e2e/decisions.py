"""Carries out decisions of the loops on two real API servers, one pair at a time. There is no cache: all is listed anew for each."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from e2e.lab.api import ApiFailure
from syncer.kube.types import Key, Obj, Resource, Side, key_of
from syncer.sync.intents import Bind, Create, Delete, Intent, Pair, Patch
from syncer.sync.view import Policy, TableView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from e2e.lab.api import Api
    from syncer.naming import Names
    from syncer.sync.spec import SyncSpec

_CONTENT_TYPES = {"merge": "application/merge-patch+json", "strategic": "application/strategic-merge-patch+json"}
_GONE_OR_CHANGED = (404, 409)
_INVALID = 422

Write = Create | Patch | Delete | Bind


@dataclass
class Cluster:
    """Both sides, and what was written to them in `log`."""

    apis: Mapping[Side, Api]
    names: Names
    policy: Policy
    log: list[Write] = field(default_factory=list)

    def settle(self, spec: SyncSpec, key: Key, *, rounds: int = 10, waited: float = 0.0) -> list[Intent]:
        """Decide and carry out until no write is asked for any more; returns what else is."""
        intents: list[Intent] = []
        for _ in range(rounds):
            view = self.view(spec)
            intents = spec.decide(self._pair(spec, key, view, waited), view)
            if not any(isinstance(intent, Write) for intent in intents):
                return intents
            with suppress(_Stale):
                for intent in intents:
                    if isinstance(intent, Write):
                        self.log.append(intent)
                        self._write(intent)
        raise AssertionError(f"{spec.name} {key} is not settled after {rounds} rounds, still asks for {intents}")

    def view(self, spec: SyncSpec) -> TableView:
        tables: dict[Side, dict[Resource, list[Obj]]] = {Side.VIRTUAL: {}, Side.HOST: {}}
        for watch in sorted(spec.watches, key=lambda watch: watch.after_others):
            objects = self._list(watch.side, watch.resource)
            if watch.slim is not None:
                view = TableView(names=self.names, policy=self.policy, virtual=tables[Side.VIRTUAL], host=tables[Side.HOST])
                objects = [kept for obj in objects if (kept := watch.slim(obj, view)) is not None]
            tables[watch.side][watch.resource] = objects
        return TableView(
            names=self.names,
            policy=self.policy,
            virtual=tables[Side.VIRTUAL],
            host=tables[Side.HOST],
            indexes=spec.indexes,
            now=time.time(),
        )

    def get(self, side: Side, resource: Resource, key: Key) -> Any:
        """The object, or None."""
        return self.apis[side].find(resource.path(*key))

    def create(self, side: Side, resource: Resource, obj: Obj) -> Obj:
        created: Obj = self.apis[side].request("POST", resource.path(key_of(obj).namespace), obj)
        return created

    def patch(self, side: Side, resource: Resource, key: Key, body: Obj, *, subresource: str = "", strategy: str = "merge") -> None:
        """What somebody else than the syncer changes."""
        self.apis[side].request("PATCH", resource.path(*key, subresource), body, content_type=_CONTENT_TYPES[strategy])

    def delete(self, side: Side, resource: Resource, key: Key, options: Obj | None = None) -> None:
        self.apis[side].request("DELETE", resource.path(*key), {"apiVersion": "v1", "kind": "DeleteOptions", **(options or {})})

    def _list(self, side: Side, resource: Resource) -> list[Obj]:
        namespace = self.names.host_namespace if side is Side.HOST else ""
        items: list[Obj] = self.apis[side].get(resource.path(namespace))["items"]
        for item in items:
            item |= {"apiVersion": resource.api_version, "kind": resource.kind}
            item["metadata"].pop("managedFields", None)
        return items

    def _pair(self, spec: SyncSpec, key: Key, view: TableView, waited: float) -> Pair:
        virtual_ref, host_ref = spec.virtual_ref(key), spec.host_ref(self.names, key)
        virtual = view.get(*virtual_ref) if virtual_ref else None
        host = view.get(*host_ref) if host_ref else None
        return Pair(key, virtual, host if host is not None and spec.virtual_key(host, view) == key else None, waited)

    def _write(self, intent: Write) -> None:
        try:
            match intent:
                case Create():
                    self._create_valid(intent)
                case Patch():
                    body = {**intent.body, "metadata": {**(intent.body.get("metadata") or {}), "uid": intent.uid}}
                    path = intent.resource.path(*intent.key, intent.subresource)
                    self.apis[intent.side].request("PATCH", path, body, content_type=_CONTENT_TYPES[intent.strategy])
                case Delete():
                    grace = {} if intent.grace is None else {"gracePeriodSeconds": intent.grace}
                    self.delete(intent.side, intent.resource, intent.key, {"preconditions": {"uid": intent.uid}, **grace})
                case Bind():
                    self._bind(intent)
        except ApiFailure as failure:
            if failure.status not in _GONE_OR_CHANGED:
                raise
            raise _Stale from failure

    def _create_valid(self, intent: Create) -> None:
        *bodies, last = (intent.obj, *intent.alternatives)
        for body in bodies:
            try:
                self.create(intent.side, intent.resource, body)
            except ApiFailure as failure:
                if failure.status != _INVALID:
                    raise
            else:
                return
        self.create(intent.side, intent.resource, last)

    def _bind(self, intent: Bind) -> None:
        metadata = {"name": intent.key.name, "uid": intent.uid}
        target = {"apiVersion": "v1", "kind": "Node", "name": intent.node}
        path = f"/api/v1/namespaces/{intent.key.namespace}/pods/{intent.key.name}/binding"
        self.apis[Side.VIRTUAL].request("POST", path, {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target})


class _Stale(Exception):
    """The object that was meant is gone or changed; the pair is decided again."""

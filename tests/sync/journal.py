"""What a fake API server was asked, request by request, held against the truth on both servers at that moment.

The truth is what the servers store, not what the syncer's caches say: a write that the truth does not bear out is a
violation, whatever led to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from syncer.kube.types import CONFIGMAPS, EVENTS, PODS, Key, Obj, Resource, Side, is_deleting, key_of, uid_of
from syncer.naming import Names
from syncer.sync.fence import owner_key
from syncer.translate.metadata import recorded_uid, virtual_key
from syncer.translate.token_secret import token_pod
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.requests import Request, is_write


class Entry(NamedTuple):
    """One request, `at` loop seconds."""

    at: float
    side: Side
    request: Request

    @property
    def name(self) -> str:
        """Of the object that it is about, also when it is being created."""
        request = self.request
        return request.key.name or (((request.body or {}).get("metadata") or {}).get("name") or "" if is_write(request) else "")

    def __str__(self) -> str:
        request = self.request
        return f"{self.at:.2f} {self.side} {request.verb} {request.path} {self.name}"


class Journal:
    """All requests to both servers from now on. To be made before any fault, as the oldest rule sees all requests."""

    def __init__(self, servers: dict[Side, FakeApiServer], names: Names, owner: Key) -> None:
        self.entries: list[Entry] = []
        self.violations: list[str] = []
        self.no_writes_after = float("inf")
        """Loop time from which on nothing but events may be written."""
        self._servers = servers
        self._names = names
        self._owner = owner
        for side, server in servers.items():
            server.fault(lambda request, side=side: self._note(side, request))  # type: ignore[misc]  # mypy takes the default for an argument

    def find(
        self,
        verb: str = "",
        resource: Resource | None = None,
        *,
        side: Side | None = None,
        name: str = "",
        subresource: str | None = None,
        since: float = 0.0,
    ) -> list[Entry]:
        """The requests that match what is given."""
        return [
            entry
            for entry in self.entries
            if entry.at >= since
            and (not verb or entry.request.verb == verb)
            and (resource is None or entry.request.resource == resource)
            and (side is None or entry.side is side)
            and (not name or entry.name == name)
            and (subresource is None or entry.request.subresource == subresource)
        ]

    def writes(self, *, since: float = 0.0) -> list[str]:
        """Everything that was not reading, in words."""
        return [str(entry) for entry in self.entries if entry.at >= since and is_write(entry.request)]

    def lively(self) -> int:
        """How many requests there were besides those that never end: watches, and the fence's look at both sides."""
        return sum(1 for entry in self.entries if not self._goes_on(entry.request))

    def _goes_on(self, request: Request) -> bool:
        return request.verb == "watch" or (request.verb == "get" and request.key in (Key("", "kube-system"), self._owner))

    def _note(self, side: Side, request: Request) -> bool:
        entry = Entry(asyncio.get_running_loop().time(), side, request)
        self.entries.append(entry)
        if is_write(request) and request.resource is not None:
            self.violations += [f"{entry}: {problem}" for problem in self._problems(entry)]
        return False

    def _problems(self, entry: Entry) -> Iterator[str]:
        request = entry.request
        resource = request.resource
        assert resource is not None
        if entry.at > self.no_writes_after and resource != EVENTS:
            yield "a write after the fence should have closed"
        if resource == EVENTS or request.key == self._owner or request.subresource in ("binding", "token"):
            return
        if request.verb == "delete" and not ((request.body or {}).get("preconditions") or {}).get("uid"):
            yield "a deletion without a UID"
        if request.verb == "patch" and not ((request.body or {}).get("metadata") or {}).get("uid"):
            yield "a patch without a UID"
        if request.verb == "create" and entry.side is Side.HOST and resource == PODS:
            yield from self._second_start(request)
        if request.verb not in ("delete", "patch"):
            return
        found = self._servers[entry.side].get(resource, request.key)
        if found is None:
            return
        if entry.side is Side.HOST:
            yield from self._host_problems(request, resource, found)
        elif request.verb == "delete" and resource == PODS:
            yield from self._virtual_problems(found)

    def _second_start(self, request: Request) -> Iterator[str]:
        key = virtual_key(self._names, PODS, request.body)
        virtual = None if key is None else self._servers[Side.VIRTUAL].get(PODS, key)
        if virtual is not None and uid_of(virtual) == recorded_uid(request.body) and virtual["status"].get("startTime"):
            yield "its virtual pod has been seen running"

    def _host_problems(self, request: Request, resource: Resource, found: Obj) -> Iterator[str]:
        meant = ((request.body or {}).get("preconditions") or (request.body or {}).get("metadata") or {}).get("uid")
        if meant != uid_of(found):
            return  # the server will not have it
        key = virtual_key(self._names, resource, found) or token_pod(self._names, found)
        if key is None:
            yield "it is not provably ours"
        elif request.verb == "delete" and resource == PODS:
            virtual = self._servers[Side.VIRTUAL].get(PODS, key)
            if virtual is not None and uid_of(virtual) == recorded_uid(found) and not is_deleting(virtual):
                yield "its virtual pod is alive"

    def _virtual_problems(self, found: Obj) -> Iterator[str]:
        host = self._servers[Side.HOST].get(PODS, self._names.host_key(key_of(found)))
        if host is None or is_deleting(host) or is_deleting(found) or recorded_uid(host) != uid_of(found):
            return
        nodes = [(pod.get("spec") or {}).get("nodeName") for pod in (found, host)]
        if nodes[0] in (None, nodes[1]):
            yield "its host pod is alive"


def owner_of(names: Names) -> Key:
    """Where the fence keeps its ConfigMap."""
    assert CONFIGMAPS.namespaced
    return owner_key(names.host_namespace, names.suffix)

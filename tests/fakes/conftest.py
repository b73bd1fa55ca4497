"""Each test here runs on the fake server and, if SYNCER_TEST_KUBECONFIG names one, on a real one (1.36): both have to pass."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from syncer.kube.config import Cluster, load_cluster
from syncer.kube.types import Obj
from tests.fakes.apiserver import FakeApiServer


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    code: int
    body: Any
    retry_after: str | None

    @property
    def refusal(self) -> tuple[int, str]:
        return self.code, self.body.get("reason", "")

    @property
    def meta(self) -> Obj:
        meta: Obj = self.body["metadata"]
        return meta

    @property
    def revision(self) -> int:
        return int(self.meta["resourceVersion"])


@dataclass(frozen=True)
class Probe:
    """A server under test, and a namespace in it. `{ns}` in a path stands for that; a path without a slash in front is within it."""

    session: aiohttp.ClientSession
    cluster: Cluster
    ns: str
    real: bool

    async def __call__(
        self, method: str, path: str, body: Any = None, *, patch: str = "merge", accept: str = "application/json", **params: str
    ) -> Answer:
        kind = "application/json"
        if method == "PATCH":
            kind = {
                "merge": "application/merge-patch+json",
                "strategic": "application/strategic-merge-patch+json",
                "json": "application/json-patch+json",
                "apply": "application/apply-patch+yaml",
            }.get(patch, patch)
        data = None if body is None else json.dumps(body)
        headers = {"Accept": accept, "Content-Type": kind}
        async with self.session.request(
            method, self.url(path), data=data, headers=headers, params=params, ssl=self.cluster.ssl or True
        ) as found:
            decoded = await found.json() if found.content_type == "application/json" else await found.text()
            return Answer(found.status, decoded, found.headers.get("Retry-After"))

    async def watch(
        self, path: str, *, until: Callable[[list[Obj]], bool] | None = None, accept: str = "application/json", **params: str
    ) -> tuple[int, list[Obj]]:
        """Code and events, up to and with the one that satisfies `until`, or to the end of the stream."""
        events: list[Obj] = []
        async with self.session.get(
            self.url(path), params={"watch": "1", **params}, headers={"Accept": accept}, ssl=self.cluster.ssl or True
        ) as found:
            while line := await found.content.readline():
                events.append(json.loads(line))
                if until and until(events):
                    break
            return found.status, events

    def url(self, path: str) -> str:
        if not path.startswith("/"):
            path = f"/api/v1/namespaces/{self.ns}/{path}"
        return self.cluster.server + path.replace("{ns}", self.ns)


PATIENT = aiohttp.ClientTimeout(total=100_000)
REAL = os.environ.get("SYNCER_TEST_KUBECONFIG")
SERVERS = [pytest.param("fake", marks=pytest.mark.looptime), *([pytest.param("real", marks=pytest.mark.apiserver)] if REAL else [])]


def named(name: str, **fields: Any) -> Obj:
    """An object with nothing but a name and these fields."""
    return {"metadata": {"name": name}, **fields}


def pod(name: str, *, finalizers: list[str] | None = None, **spec: Any) -> Obj:
    """A pod that a real server accepts."""
    return {"metadata": {"name": name, "finalizers": finalizers or []}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


def service(name: str, **spec: Any) -> Obj:
    """A Service that a real server accepts."""
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


STREAM = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"


@pytest.fixture(params=SERVERS)
async def api(request: pytest.FixtureRequest, virtual_api: FakeApiServer) -> AsyncIterator[Probe]:
    async with aiohttp.ClientSession(timeout=PATIENT) as session:
        if request.param == "fake":
            probe = Probe(session, Cluster(virtual_api.url), "mine", real=False)
            await probe("POST", "/api/v1/namespaces", {"metadata": {"name": probe.ns}})
            yield probe
            return
        probe = Probe(session, await load_cluster(REAL), f"fake-{uuid.uuid4().hex[:8]}", real=True)
        await probe("POST", "/api/v1/namespaces", {"metadata": {"name": probe.ns}})
        for _ in range(200):  # pods need it
            if (await probe("GET", "serviceaccounts/default")).code == 200:
                break
            await asyncio.sleep(0.05)
        yield probe
        await probe("DELETE", "/api/v1/namespaces/{ns}")


@pytest.fixture
async def call(virtual_api: FakeApiServer) -> AsyncIterator[Probe]:
    """Requests to `virtual_api`, namespace default."""
    async with aiohttp.ClientSession(timeout=PATIENT) as session:
        yield Probe(session, Cluster(virtual_api.url), "default", real=False)

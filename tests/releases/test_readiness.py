"""Waits on a host that does not answer all the time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from syncer.errors import ConfigError, Forbidden, TooLate
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, Key, Side
from syncer.releases.readiness import in_time, until
from syncer.releases.waiting import Progress
from tests.fakes.requests import on

if TYPE_CHECKING:
    from tests.fakes.apiserver import FakeApiServer

pytestmark = pytest.mark.looptime

THERE = Key("default", "there")


def progress(told: list[str], limit: float = 60) -> Progress:
    return Progress("waiting", told.append, asyncio.get_running_loop().time, limit)


@pytest.mark.parametrize(
    "fault",
    [{"drop": True}, {"status": 429, "retry_after": 1}, {"status": 410}, {"status": 500}, {"status": 503}, {"status": 504}],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
async def test_what_passes_is_waited_for(host_api: FakeApiServer, fault: dict[str, Any]) -> None:
    host_api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": THERE.name, "namespace": THERE.namespace}})
    struck = host_api.fault(on("get", CONFIGMAPS), times=40, **fault)
    said: list[str] = []
    async with Client(Cluster(host_api.url), Side.HOST) as client:

        async def look() -> str:
            await client.get(CONFIGMAPS, THERE)
            return ""

        await until(look, progress(said), "give up")
        assert struck.hits == 40
        assert (await in_time(lambda: client.get(CONFIGMAPS, THERE), progress(said), "give up"))["metadata"]["name"] == THERE.name
    assert said, "people are told"
    assert all(": a request failed: " in line for line in said)


async def test_but_not_for_ever(host_api: FakeApiServer) -> None:
    host_api.fault(on("get", CONFIGMAPS), status=503)
    async with Client(Cluster(host_api.url), Side.HOST) as client:
        with pytest.raises(TooLate, match=r"waited 5 s in vain: a request failed: 503 ServiceUnavailable: made to fail: .*; give up"):
            await in_time(lambda: client.get(CONFIGMAPS, THERE), progress([], 5), "give up")


async def test_what_does_not_pass_is_raised(host_api: FakeApiServer) -> None:
    host_api.fault(on("get", CONFIGMAPS), status=403)

    async def wrong() -> str:
        raise ConfigError("no")

    async with Client(Cluster(host_api.url), Side.HOST) as client:
        with pytest.raises(Forbidden):
            await in_time(lambda: client.get(CONFIGMAPS, THERE), progress([]), "give up")
    with pytest.raises(ConfigError):
        await until(wrong, progress([]), "give up")

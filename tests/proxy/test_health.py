from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest

from syncer.errors import ConfigError
from syncer.metrics import Measure, Metrics, Reading
from syncer.proxy.health import Check, HealthServer, LoopLag, is_from_inside, report
from syncer.values import Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from syncer.kube.types import Obj

FINE = Check("caches", True)
WARNED = Check("deletions", True, "3 pods are held")
BROKEN = Check("fence", False, "another control plane")


@pytest.mark.parametrize(
    ("checks", "verbose", "status", "body"),
    [
        ([], False, 200, "ok\n"),
        ([FINE], False, 200, "ok\n"),
        ([FINE], True, 200, "[+]caches ok\nreadyz check passed\n"),
        ([FINE, WARNED], False, 200, "ok\n[+]deletions ok, but 3 pods are held\n"),
        ([FINE, WARNED], True, 200, "[+]caches ok\n[+]deletions ok, but 3 pods are held\nreadyz check passed\n"),
        ([FINE, BROKEN], False, 503, "[+]caches ok\n[-]fence failed: another control plane\nreadyz check failed\n"),
        ([FINE, BROKEN], True, 503, "[+]caches ok\n[-]fence failed: another control plane\nreadyz check failed\n"),
        ([Check("x", False)], False, 503, "[-]x failed: no reason given\nreadyz check failed\n"),
    ],
)
def test_report(checks: list[Check], verbose: bool, status: int, body: str) -> None:
    assert report("/readyz", checks, verbose=verbose) == (status, body)


async def no_status(_loop: Check) -> Obj:
    return {}


@pytest.mark.parametrize(
    ("peer", "own", "called", "inside"),
    [
        ("127.0.0.1", "127.0.0.1", "localhost:8081", True),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:8081", True),
        ("::1", "::1", "[::1]:8081", True),
        ("::1", "::1", "[::1]", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", "localhost", True),
        ("10.0.0.9", "10.0.0.5", "10.0.0.5:8081", False),  # another pod
        ("10.0.0.5", "10.0.0.5", "10.0.0.5:8081", False),  # the virtual API server's proxies, sent to this pod's own address
        ("10.0.0.9", "127.0.0.1", "localhost:8081", False),  # a neighbour where the kernel routes the loopback
        ("127.0.0.1", "10.0.0.5", "localhost:8081", False),
        ("127.0.0.1", "127.0.0.1", "rebound.example:8081", False),  # a page in the browser of whoever forwards the port
        ("127.0.0.1", "127.0.0.1", "localhost.example", False),
        ("127.0.0.1", "127.0.0.1", "", False),
        ("", "", "localhost", False),
    ],
)
def test_who_is_inside(peer: str, own: str, called: str, inside: bool) -> None:
    assert is_from_inside(peer, own, called) is inside


class TestServer:
    @pytest.fixture
    def checks(self) -> list[Check]:
        """What the server's checks tell; tests change it."""
        return [FINE]

    @pytest.fixture
    def asked(self) -> list[Check]:
        """A check for each time that the status was made."""
        return []

    @pytest.fixture
    async def url(self, checks: list[Check], asked: list[Check]) -> AsyncIterator[str]:
        metrics = Metrics()
        metrics.register_source(lambda: [Reading(Measure.LEADER, (), 1.0)])

        async def status(loop: Check) -> Obj:
            asked.append(loop)
            return {"kind": "Status"}

        async with HealthServer(Address("127.0.0.1", 0), checks=lambda: checks, metrics=metrics, status=status) as server:
            yield f"http://127.0.0.1:{server.port}"

    @pytest.fixture
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        async with aiohttp.ClientSession() as session:
            yield session

    async def test_readiness_follows_the_checks(self, url: str, session: aiohttp.ClientSession, checks: list[Check]) -> None:
        async with session.get(f"{url}/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        checks.append(BROKEN)
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            assert "[-]fence failed: another control plane\n" in await answer.text()
        checks.remove(BROKEN)
        async with session.get(f"{url}/readyz?verbose") as answer:
            assert (answer.status, await answer.text()) == (200, "[+]event-loop ok\n[+]caches ok\nreadyz check passed\n")

    async def test_liveness_is_about_live_checks_only(self, url: str, session: aiohttp.ClientSession, checks: list[Check]) -> None:
        checks.append(BROKEN)
        async with session.get(f"{url}/healthz?verbose") as answer:
            assert (answer.status, await answer.text()) == (200, "[+]event-loop ok\nhealthz check passed\n")
        checks.append(Check("loop pods", False, "a worker is dead", live=True))
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 503
            assert "[-]loop pods failed: a worker is dead\n" in await answer.text()

    async def test_metrics(self, url: str, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            body = await answer.text()
        assert "\nsyncer_leader 1.0\n" in body
        assert "\nsyncer_event_loop_lag_seconds 0.0\n" in body

    async def test_status_is_made_when_somebody_asks(self, url: str, session: aiohttp.ClientSession, asked: list[Check]) -> None:
        for path in ("/healthz", "/readyz?verbose", "/metrics"):
            async with session.get(url + path):
                pass
        assert asked == []
        async with session.get(f"{url}/status") as answer:
            assert (answer.status, await answer.json()) == (200, {"kind": "Status"})
        assert asked == [Check("event-loop", True, live=True)]

    async def test_status_is_for_nobody_outside(self, url: str, session: aiohttp.ClientSession, asked: list[Check]) -> None:
        async with session.get(f"{url}/status", headers={"Host": "rebound.example"}) as answer:
            assert (answer.status, "port-forward" in await answer.text()) == (403, True)
        assert asked == []

    async def test_tells_nothing_of_the_software_beneath(self, url: str, session: aiohttp.ClientSession) -> None:
        for path in ("/readyz", "/metrics"):
            async with session.get(url + path) as answer:
                assert answer.headers["Server"] == "syncer"
                assert answer.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize(("method", "path", "status"), [("POST", "/readyz", 405), ("GET", "/", 404), ("HEAD", "/readyz", 200)])
    async def test_nothing_else_is_served(self, url: str, session: aiohttp.ClientSession, method: str, path: str, status: int) -> None:
        async with session.request(method, url + path) as answer:
            assert answer.status == status

    async def test_a_taken_port_is_a_mistake_in_the_settings(self, url: str) -> None:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"^--health-bind-address: cannot listen at 127.0.0.1:{port}: "):
            async with HealthServer(Address("127.0.0.1", port), checks=list, metrics=Metrics(), status=no_status):
                pass

    async def test_an_empty_host_is_every_interface(self) -> None:
        server = HealthServer(Address("", 0), checks=list, metrics=Metrics(), status=no_status)
        async with server, aiohttp.ClientSession() as session, session.get(f"http://127.0.0.2:{server.port}/healthz") as answer:
            assert answer.status == 200


class TestLoopLag:
    @pytest.mark.looptime
    async def test_a_free_loop_has_none(self) -> None:
        lag = LoopLag()
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(100)
        task.cancel()
        assert lag.worst() < 0.01
        assert lag.check() == Check("event-loop", True, live=True)

    async def test_a_held_up_loop_is_noticed(self) -> None:
        lag = LoopLag()
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(0)
        time.sleep(1.3)  # noqa: ASYNC251  to block is the point
        await asyncio.sleep(0.01)
        task.cancel()
        assert 0.25 < lag.worst() < 1.2
        assert lag.check().ok

    @pytest.mark.looptime
    async def test_turns_red_after_a_stall_and_recovers(self) -> None:
        lag = LoopLag()
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(10.5)
        lag._lags.appendleft(7.0)
        assert lag.check() == Check("event-loop", False, "it was held up for 7.0s", live=True)
        await asyncio.sleep(8)
        assert not lag.check().ok
        await asyncio.sleep(3)
        assert lag.check().ok
        assert lag.worst() == 7.0
        task.cancel()

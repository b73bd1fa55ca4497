"""The syncer's own health, not that of the virtual API server: /healthz, /readyz, /metrics and /status over plain HTTP.

Whoever can reach the pod can read it, tenants perhaps included. So the reasons of checks should say what is wrong and
what to do, and no more of the host than that needs. /status names objects: it is for whoever is inside the pod's network, by
`kubectl port-forward` for example, and nobody else.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Self

from aiohttp import web

from syncer.errors import ConfigError
from syncer.kube import codec
from syncer.metrics import CONTENT_TYPE, Measure, Reading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from syncer.kube.types import Obj
    from syncer.metrics import Metrics
    from syncer.values import Address

STALL = 5.0
"""An event loop that was lately held up for longer than so many seconds is not healthy."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be well.

    `reason` tells why it is not; with `ok` it is a warning, which turns nothing red. `live` checks decide /healthz too:
    they are about what only a restart mends.
    """

    name: str
    ok: bool
    reason: str = ""
    live: bool = False


def report(path: str, checks: list[Check], *, verbose: bool = False) -> tuple[int, str]:
    """HTTP status and body, in kube-apiserver's form: a line for each check when one failed or `verbose`, else `ok` and warnings."""
    failed = any(not check.ok for check in checks)
    lines = [] if failed or verbose else ["ok"]
    for check in checks:
        if not check.ok:
            lines.append(f"[-]{check.name} failed: {check.reason or 'no reason given'}")
        elif check.reason:
            lines.append(f"[+]{check.name} ok, but {check.reason}")
        elif failed or verbose:
            lines.append(f"[+]{check.name} ok")
    if failed or verbose:
        lines.append(f"{path.strip('/')} check {'failed' if failed else 'passed'}")
    return 503 if failed else 200, "\n".join(lines) + "\n"


def is_from_inside(peer: str, own: str, called: str) -> bool:
    """Whether a connection from the address `peer` to `own` stays on the loopback, and was made by who knows where it leads.

    `called` is the Host header: a browser that some page has sent here calls it by the page's name.
    """
    host = called.rpartition(":")[0] if called.rpartition(":")[2].isdigit() and not called.endswith("]") else called
    return all(map(_is_loopback, (peer, own))) and (host == "localhost" or _is_loopback(host.strip("[]")))


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


class LoopLag:
    """How late the event loop lately woke up who had asked to be woken; measured each second for a minute back."""

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=60)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            await asyncio.sleep(1.0)
            self._lags.appendleft(max(0.0, loop.time() - asked - 1.0))

    def worst(self, seconds: int = 60) -> float:
        """The longest delay of the last `seconds`; 0.0 before the first."""
        return max(islice(self._lags, seconds), default=0.0)

    def check(self) -> Check:
        """Red for some seconds after the loop was held up, if it was for longer than STALL."""
        worst = self.worst(10)
        ok = worst <= STALL
        return Check("event-loop", ok, "" if ok else f"it was held up for {worst:.1f}s", live=True)


class HealthServer:
    """Serves what `checks` tell whenever asked, /healthz the `live` ones of them and /readyz all, and `metrics` as /metrics.

    `status`, given the event loop's own check, makes the document of /status; it is awaited only when somebody asks, one at a time.
    Adds a check and a metric of the event loop. Answers 200 when all checks are ok, else 503. It is an async context
    manager; entering raises ConfigError when the address cannot be used.
    """

    def __init__(
        self, address: Address, *, checks: Callable[[], list[Check]], metrics: Metrics, status: Callable[[Check], Awaitable[Obj]]
    ) -> None:
        self._address = address
        self._checks = checks
        self._status = status
        self._telling = asyncio.Lock()
        self._metrics = metrics
        self._lag = LoopLag()
        metrics.register_source(lambda: [Reading(Measure.LOOP_LAG, (), self._lag.worst())])
        app = web.Application()
        app.on_response_prepare.append(_set_headers)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._health)
        app.router.add_get("/metrics", self._scrape)
        app.router.add_get("/status", self._tell)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._measuring: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that it really listens at."""
        return int(self._runner.addresses[0][1])

    async def __aenter__(self) -> Self:
        # No host means both IP families; but with a socket for each, "some free port" would be two.
        host = self._address.host or (None if self._address.port else "0.0.0.0")  # noqa: S104  as asked for
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, self._address.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"--health-bind-address: cannot listen at {self._address}: {error.strerror}; give another one") from error
        self._measuring = asyncio.create_task(self._lag.run(), name="event-loop-lag")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        checks = [self._lag.check(), *self._checks()]
        if request.path == "/healthz":
            checks = [check for check in checks if check.live]
        status, body = report(request.path, checks, verbose="verbose" in request.query)
        return web.Response(status=status, text=body)

    async def _scrape(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _tell(self, request: web.Request) -> web.Response:
        peer, own = (str((request.get_extra_info(name) or ("",))[0]) for name in ("peername", "sockname"))
        if not is_from_inside(peer, own, request.host):
            return web.Response(status=403, text="only for who is inside: `kubectl port-forward` to this pod, and ask localhost\n")
        async with self._telling:
            page = await self._status(self._lag.check())
        return web.Response(body=codec.dumps(page), content_type="application/json")


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    response.headers["Server"] = "syncer"  # aiohttp would tell its version and Python's

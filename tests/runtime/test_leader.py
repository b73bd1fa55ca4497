"""Leader election: on a scripted lease with every kind of trouble, then on the fake API server."""

from __future__ import annotations

import asyncio
import copy
import random
import re
from collections.abc import Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.errors import AlreadyExists, ApiError, ConfigError, Conflict, NotFound, NotLeading, SyncerError
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import LEASES, Key, Obj, Resource, Side
from syncer.runtime.leader import Elector, LeaseClient, seconds_since_boot
from tests.fakes.apiserver import FakeApiServer
from tests.runtime.virtual_time import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import EventDict

KEY = Key("ns", "lock")
DURATION, DEADLINE, PERIOD = 15.0, 10.0, 2.0


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """One lease, with resourceVersions and conflicts."""

    def __init__(self) -> None:
        self.lease: Obj | None = None
        self.metadata: Obj = {}
        self.rv = 0
        self.writes = 0

    def read(self) -> Obj:
        if self.lease is None:
            raise NotFound(404, "NotFound", "no such lease")
        return copy.deepcopy(self.lease)

    def write(self, spec: Mapping[str, Any], expected: str | None) -> Obj:
        if expected is None and self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "there is one")
        if expected is not None and self.read()["metadata"]["resourceVersion"] != expected:
            raise Conflict(409, "Conflict", "it has changed")
        self.rv += 1
        self.writes += 1
        old = self.lease["spec"] if self.lease else {}
        merged = {name: value for name, value in {**old, **spec}.items() if value is not None}
        self.lease = {"metadata": {"resourceVersion": str(self.rv)}, "spec": merged}
        return self.read()

    @property
    def spec(self) -> Obj:
        spec: Obj = self.read()["spec"]
        return spec


class Line:
    """A client's connection to it. `trouble` runs before and after each request takes effect; it may wait or raise."""

    def __init__(self, server: Server, trouble: Callable[[str], Coroutine[Any, Any, None]] | None = None) -> None:
        self.server = server
        self.hung = False
        self.never = asyncio.Event()
        self.trouble = trouble

    async def pass_through(self, when: str) -> None:
        if self.hung:
            await self.never.wait()
        if self.trouble:
            await self.trouble(when)

    async def call(self, effect: Callable[[], Obj]) -> Obj:
        await self.pass_through("before")
        result = effect()
        await self.pass_through("after")
        return result

    async def get(self, resource: Resource, key: Key) -> Obj:
        assert (resource, key) == (LEASES, KEY)
        return await self.call(self.server.read)

    async def create(self, resource: Resource, namespace: str, obj: Obj) -> Obj:
        assert (namespace, obj["metadata"]["name"]) == KEY
        self.server.metadata = obj["metadata"]
        return await self.call(lambda: self.server.write(obj["spec"], None))

    async def patch(self, resource: Resource, key: Key, body: Mapping[str, Any]) -> Obj:
        return await self.call(lambda: self.server.write(body["spec"], body["metadata"]["resourceVersion"]))


class Leader:
    """An elector and what it does while it leads."""

    def __init__(self, client: LeaseClient, name: str = "a", *, cleanup: float = 0.0, **options: Any) -> None:
        self.elector = Elector(client, KEY, **{"identity": name, "clock": now, "rng": random.Random(name), **options})
        self.cleanup = cleanup
        self.spans: list[list[float]] = []
        self.finish = asyncio.Event()
        self.task: asyncio.Task[None] = asyncio.create_task(self.elector.run(self.lead))

    async def lead(self) -> None:
        assert self.may_write()
        span = [now()]
        self.spans.append(span)
        try:
            await self.finish.wait()
        finally:
            if self.cleanup:
                await asyncio.sleep(self.cleanup)
            span.append(now())

    def leads(self) -> bool:
        return bool(self.spans) and len(self.spans[-1]) == 1

    def may_write(self) -> bool:
        return self.elector.is_leader

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def stopping(*leaders: Leader) -> AsyncIterator[None]:
    yield
    for leader in leaders:
        await leader.stop()


@pytest.mark.looptime
async def test_free_lease_is_taken_and_renewed(logs: list[EventDict]) -> None:
    server = Server()
    one = Leader(Line(server))
    async with stopping(one):
        await asyncio.sleep(0.1)
        assert one.leads()
        assert one.may_write()
        first = server.spec
        assert first["holderIdentity"].startswith("a_")
        assert (first["leaseDurationSeconds"], first["leaseTransitions"]) == (15, 0)
        for field in ("acquireTime", "renewTime"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first[field])
        await asyncio.sleep(100)
        assert one.spans == [[0.0]]
        assert server.spec["acquireTime"] == first["acquireTime"]
        assert server.writes == 51, "one write each retry period, and nothing is read"
    assert "holderIdentity" not in server.spec
    assert server.spec["leaseDurationSeconds"] == 1
    assert not one.may_write()
    assert [entry["event"] for entry in logs] == ["leader.acquired", "leader.released"], "heartbeats are not logged"


@pytest.mark.looptime
async def test_crashed_holder_is_followed_after_its_lease_ran_out_and_transitions_are_counted() -> None:
    server = Server()
    server.write({"holderIdentity": "dead", "leaseDurationSeconds": 15, "leaseTransitions": 7, "renewTime": "x"}, None)
    one = Leader(Line(server))
    async with stopping(one):
        await asyncio.sleep(14.9)
        assert not one.leads()
        await asyncio.sleep(3)
        assert one.leads()
        assert server.spec["leaseTransitions"] == one.elector.transitions == 8


@pytest.mark.looptime
@pytest.mark.parametrize("renewed", ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
async def test_clocks_of_other_machines_do_not_matter(renewed: str) -> None:
    server = Server()
    server.write({"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": renewed, "leaseTransitions": 0}, None)
    one = Leader(Line(server))
    async with stopping(one):
        for n in range(10):  # it lives: it renews, by its own odd clock
            await asyncio.sleep(10)
            server.write({"renewTime": renewed.replace("00Z", f"{n + 1:02}Z")}, str(server.rv))
            assert not one.leads()
        await asyncio.sleep(18)
        assert one.leads()


@pytest.mark.looptime
async def test_lease_promised_for_longer_is_respected() -> None:
    server = Server()
    server.write({"holderIdentity": "other", "leaseDurationSeconds": 60}, None)
    one = Leader(Line(server))
    async with stopping(one):
        await asyncio.sleep(59)
        assert not one.leads()
        await asyncio.sleep(4)
        assert one.leads()


@pytest.mark.looptime
async def test_hung_api_server_ends_leadership_in_time(logs: list[EventDict]) -> None:
    """Within the renew deadline of the last renewal, and before another could start."""
    server = Server()
    hangs = Line(server)
    one = Leader(hangs, "a", cleanup=DURATION - DEADLINE - 0.5)
    await asyncio.sleep(1)
    two = Leader(Line(server), "b")
    async with stopping(one, two):
        await asyncio.sleep(20)  # the last renewal went out at 20
        hangs.hung = True
        await asyncio.sleep(8.9)
        assert one.may_write()
        await asyncio.sleep(0.2)
        assert not one.may_write()
        assert one.leads(), "it is still cleaning up"
        assert not two.leads()
        await asyncio.sleep(20)
        assert one.spans == [[0.0, pytest.approx(20 + DEADLINE + one.cleanup)]]
        assert two.leads()
        assert two.spans[0][0] >= 20 + DURATION
        assert server.spec["leaseTransitions"] == 1
        hangs.hung = False
        await two.stop()
        await asyncio.sleep(5)
        assert len(one.spans) == 2, "it goes on taking part, and leads again"
    events = [entry["event"] for entry in logs if entry["lease"] == "ns/lock"]
    assert events.count("leader.lost") == 1
    assert events.count("leader.cannot_renew") == 1


@pytest.mark.looptime
async def test_deadline_counts_from_when_the_renewal_was_sent() -> None:
    """Others may have seen it that early, however late the answer came."""

    async def slow(when: str) -> None:
        if when == "after":
            await asyncio.sleep(3)

    line = Line(Server(), slow)
    one = Leader(line)
    async with stopping(one):
        await asyncio.sleep(7.5)  # taken at 0, answered at 3; renewed at 3 and 6, answered at 6 and 9
        line.hung = True
        await asyncio.sleep(6 + DEADLINE - 7.6)
        assert one.may_write()
        await asyncio.sleep(0.2)
        assert not one.may_write()
        assert one.spans == [[3.0, pytest.approx(6 + DEADLINE)]]


class Suspended:
    """A clock that has run on while the timers of this process stood still."""

    def __init__(self) -> None:
        self.missed = 0.0

    def __call__(self) -> float:
        return now() + self.missed


@pytest.mark.looptime
async def test_process_that_was_stopped_does_not_take_itself_for_the_leader() -> None:
    """Before any timer has had its turn; and it does not even if the others have let the lease be."""
    clock = Suspended()
    one = Leader(Line(Server()), clock=clock)
    async with stopping(one):
        await asyncio.sleep(1)
        one.elector.require_lead()
        clock.missed = DEADLINE
        assert not one.may_write()
        with pytest.raises(NotLeading):
            one.elector.require_lead()
        await asyncio.sleep(2 * PERIOD)
        assert len(one.spans) == 2, "what it did when it was stopped has ended, and it leads anew"
        one.elector.require_lead()


@pytest.mark.looptime
@pytest.mark.parametrize("cleanup", [0.0, DURATION - DEADLINE - 0.1])
async def test_stopped_for_longer_than_the_lease_it_gives_way_and_goes_on_as_a_candidate(cleanup: float) -> None:
    server, clock = Server(), Suspended()
    one = Leader(Line(server), cleanup=cleanup, clock=clock)
    async with stopping(one):
        await asyncio.sleep(1)
        clock.missed = 1000.0
        server.write({"holderIdentity": "other", "leaseDurationSeconds": 15}, str(server.rv))
        await asyncio.sleep(DURATION - 1)
        assert not one.task.done()
        assert not one.leads()
        assert one.elector.other == "other"


@pytest.mark.looptime
async def test_lease_that_another_had_in_between_is_lost() -> None:
    """By then the other has done what our caches do not show yet."""
    server = Server()
    one = Leader(Line(server))
    async with stopping(one):
        await asyncio.sleep(1)
        server.write({"holderIdentity": "other"}, str(server.rv))
        server.write({"holderIdentity": None}, str(server.rv))
        await asyncio.sleep(2 * PERIOD)
        assert len(one.spans) == 2
        assert server.spec["leaseTransitions"] == 1


def test_the_clock_does_not_stop_while_the_machine_sleeps() -> None:
    """As the kernel's uptime, and unlike time.monotonic."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert seconds_since_boot() == pytest.approx(uptime, abs=5)


@pytest.mark.looptime
async def test_what_does_not_stop_ends_the_run_before_another_may_start() -> None:
    server = Server()
    line = Line(server)
    one = Leader(line, cleanup=1000)
    await asyncio.sleep(1)
    line.hung = True
    with pytest.raises(SyncerError, match="did not stop"):
        await one.task
    assert now() <= 0 + DURATION + 0.01
    assert not one.may_write()


@pytest.mark.looptime
async def test_short_outage_changes_nothing(logs: list[EventDict]) -> None:
    server = Server()
    line = Line(server)
    one = Leader(line)
    async with stopping(one):
        for _ in range(5):
            await asyncio.sleep(20)
            line.hung = True
            await asyncio.sleep(6)
            line.hung = False
        await asyncio.sleep(20)
        assert one.spans == [[0.0]]
    events = [entry["event"] for entry in logs]
    assert events == ["leader.acquired", *["leader.cannot_renew", "leader.renewed"] * 5, "leader.released"]


@pytest.mark.looptime
async def test_renewal_whose_answer_was_lost_is_recognized_as_ours() -> None:
    server = Server()
    lost = 0

    async def lose_some(when: str) -> None:
        nonlocal lost
        if when == "after" and 10 < now() % 20 < 15:
            lost += 1
            raise OSError("connection reset")

    one = Leader(Line(server, lose_some))
    async with stopping(one):
        await asyncio.sleep(100)
        assert lost > 5
        assert one.spans == [[0.0]]
        assert server.spec["leaseTransitions"] == 0


@pytest.mark.looptime
async def test_lease_deleted_under_the_leader_is_made_again() -> None:
    server = Server()
    one = Leader(Line(server))
    async with stopping(one):
        await asyncio.sleep(5)
        server.lease = None
        await asyncio.sleep(10)
        assert one.spans == [[0.0]]
        assert server.spec["holderIdentity"] == one.elector.identity


@pytest.mark.looptime
async def test_deleted_lease_is_not_free_before_it_would_have_run_out() -> None:
    """Its holder may not have noticed, and cannot be reached."""
    server = Server()
    cut = Line(server)
    one = Leader(cut, "a")
    await asyncio.sleep(1)
    two = Leader(Line(server), "b")
    async with stopping(one, two):
        await asyncio.sleep(4.5)  # the last renewal of the one was at 4
        cut.hung = True
        server.lease = None
        await asyncio.sleep(DEADLINE - 2)
        assert one.may_write()
        assert not two.leads()
        await asyncio.sleep(DURATION - DEADLINE + 3)
        assert not one.may_write()
        assert two.leads()
        assert server.spec["leaseTransitions"] == 1


@pytest.mark.looptime
async def test_label_on_the_lease_is_no_trouble(logs: list[EventDict]) -> None:
    server = Server()
    one = Leader(Line(server))
    async with stopping(one):
        for _ in range(3):
            await asyncio.sleep(5)
            server.write({}, str(server.rv))
        assert one.spans == [[0.0]]
    assert [entry["event"] for entry in logs] == ["leader.acquired", "leader.released"]


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("duration", "deadline", "period"),
    [pytest.param(60, 40, 15, id="as the flags have it"), pytest.param(15, 10, 2, id="client-go's"), pytest.param(3, 2, 0.5, id="short")],
)
async def test_another_leads_two_seconds_after_the_lease_ran_out(duration: float, deadline: float, period: float) -> None:
    options = {"lease_duration": duration, "renew_deadline": deadline, "retry_period": period}
    for crash_at in (100.0, 101.0, 108.7, 119.9):
        server = Server()
        cut = Line(server)
        one = Leader(cut, "a", **options)
        await asyncio.sleep(1)
        two = Leader(Line(server), "b", **options)
        began = now()
        async with stopping(one, two):
            await asyncio.sleep(crash_at)
            cut.hung = True
            one.task.cancel()
            await asyncio.sleep(duration + 2)
            assert two.leads()
            assert two.spans[0][0] - began - crash_at > duration - period * 1.2 - 0.1


@pytest.mark.looptime
async def test_lease_given_to_another_by_hand_is_let_go_at_once() -> None:
    server = Server()
    one = Leader(Line(server))
    async with stopping(one):
        await asyncio.sleep(5)
        server.write({"holderIdentity": "other"}, str(server.rv))
        await asyncio.sleep(4.1)
        assert not one.leads()
        assert server.spec["holderIdentity"] == "other"


@pytest.mark.looptime
async def test_orderly_end_keeps_the_lease_until_the_work_is_done_and_then_releases_it() -> None:
    server = Server()
    one, two = Leader(Line(server), "a", cleanup=40), Leader(Line(server), "b")
    async with stopping(one, two):
        await asyncio.sleep(5)
        await one.stop()
        assert now() == pytest.approx(45)
        assert one.spans == [[0.0, 45.0]]
        assert not two.leads()
        await asyncio.sleep(2 * PERIOD)
        assert two.leads(), "without waiting for the lease to run out"


@pytest.mark.looptime
async def test_lease_lost_during_the_end_is_not_released() -> None:
    server = Server()
    one = Leader(Line(server), cleanup=8)
    await asyncio.sleep(1)
    one.task.cancel()
    await asyncio.sleep(1)
    server.write({"holderIdentity": "other", "leaseDurationSeconds": 15}, str(server.rv))
    await asyncio.wait({one.task})
    assert now() == pytest.approx(9)
    assert server.spec["holderIdentity"] == "other"


@pytest.mark.looptime
async def test_end_with_a_hung_api_server_takes_one_try_longer(logs: list[EventDict]) -> None:
    line = Line(Server())
    one = Leader(line)
    await asyncio.sleep(1)
    line.hung = True
    await one.stop()
    assert now() == pytest.approx(1 + DEADLINE / 3, abs=0.1)
    assert [entry["event"] for entry in logs] == ["leader.acquired", "leader.not_released"]


@pytest.mark.looptime
async def test_run_ends_as_the_work_does() -> None:
    server = Server()
    one = Leader(Line(server))
    await asyncio.sleep(3)
    one.finish.set()
    await one.task
    assert "holderIdentity" not in server.spec

    async def fail() -> None:
        raise OSError("broken")

    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    for lead, error in ((fail, OSError), (cancel_itself, RuntimeError)):
        elector = Elector(Line(server), KEY, identity="b", clock=now)
        with pytest.raises(error):
            await elector.run(lead)
        assert "holderIdentity" not in server.spec
        assert not elector.is_leader


@pytest.mark.looptime
async def test_ending_while_leadership_is_being_lost_still_waits_for_the_work() -> None:
    line = Line(Server())
    one = Leader(line, cleanup=3)
    await asyncio.sleep(1)
    line.hung = True
    await asyncio.sleep(DEADLINE)
    assert not one.may_write()
    await one.stop()
    assert one.spans == [[0.0, DEADLINE + 3]]
    assert one.task.cancelled()


@pytest.mark.looptime
async def test_error_while_ending_is_told(logs: list[EventDict]) -> None:
    async def lead() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            raise OSError("broken")

    task = asyncio.create_task(Elector(Line(Server()), KEY, identity="a", clock=now).run(lead))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry["event"] for entry in logs] == ["leader.acquired", "leader.released", "leader.stopped_badly"]


@pytest.mark.looptime
async def test_tells_since_when_it_is_held() -> None:
    server = Server()
    labels, owner = {"example.com/of": "a"}, {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "1"}
    first = Leader(Line(server), "a", labels=labels, owner=owner)
    assert first.elector.since == ""
    await asyncio.sleep(1)
    second = Leader(Line(server), "b")
    await asyncio.sleep(5)
    async with stopping(second, first):
        assert (server.metadata["labels"], server.metadata["ownerReferences"]) == (labels, [owner])
        assert first.elector.since == second.elector.since == server.spec["acquireTime"]


@pytest.mark.looptime
async def test_who_cannot_see_the_lease_knows_no_leader() -> None:
    server = Server()
    blind = Line(server)
    first = Leader(Line(server), "a")
    await asyncio.sleep(1)
    second = Leader(blind, "b")
    async with stopping(second, first):
        await asyncio.sleep(60)
        assert first.elector.leader == second.elector.leader == first.elector.identity
        blind.hung = True
        await asyncio.sleep(DURATION - PERIOD)
        assert second.elector.leader == first.elector.identity, "it may lead still"
        await asyncio.sleep(10)
        assert (first.elector.leader, second.elector.leader) == (first.elector.identity, "")
        blind.hung = False
        await asyncio.sleep(5)
        assert second.elector.leader == first.elector.identity


async def test_a_restarted_process_is_somebody_else() -> None:
    assert Elector(Line(Server()), KEY, identity="pod-0").identity != (Elector(Line(Server()), KEY, identity="pod-0").identity)


@pytest.mark.parametrize(("duration", "deadline", "period"), [(10, 10, 2), (15, 2.4, 2), (15, 10, 0), (15, 16, 2), (15, 10, -1)])
def test_times_that_cannot_work_are_refused(duration: float, deadline: float, period: float) -> None:
    with pytest.raises(ConfigError, match="leader election cannot work with a lease duration of"):
        Elector(
            Line(Server()),
            KEY,
            identity="a",
            lease_duration=duration,
            renew_deadline=deadline,
            retry_period=period,
        )


class Trouble:
    """Requests wait, fail, hang, take effect without an answer or long after their sender has given up."""

    def __init__(self, rng: random.Random, badness: float) -> None:
        self.rng = rng
        self.badness = badness

    async def __call__(self, _: str) -> None:
        if self.rng.random() > self.badness:
            await asyncio.sleep(self.rng.uniform(0, 0.3))
        elif self.rng.random() < 0.5:
            raise self.rng.choice([OSError("connection reset"), ApiError(500, "InternalError", "etcd is away")])
        else:
            await asyncio.sleep(self.rng.choice([1.0, 3.0, 8.0, 30.0]))


class Late(Line):
    """Giving up does not keep a request from taking effect."""

    async def call(self, effect: Callable[[], Obj]) -> Obj:
        sent = asyncio.ensure_future(super().call(effect))
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(sent)


@given(seed=st.integers(0, 2**32), badness=st.floats(0, 0.6))
@settings(deadline=None, max_examples=30)
def test_never_two_leaders_and_always_one_in_the_end(seed: int, badness: float) -> None:
    """While processes come, go and crash."""

    async def main() -> None:
        rng = random.Random(seed)
        server, trouble = Server(), Trouble(rng, badness)
        everybody: list[Leader] = []
        lines: dict[Leader, Line] = {}

        def start() -> Leader:
            line = rng.choice([Late, Line])(server, trouble)
            leader = Leader(line, f"p{len(everybody)}", cleanup=rng.uniform(0, DURATION - DEADLINE - 0.1))
            everybody.append(leader)
            lines[leader] = line
            return leader

        alive = [start() for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(rng.uniform(0, 30))
            if rng.random() < 0.5:
                gone = alive.pop(rng.randrange(3))
                lines[gone].hung = rng.random() < 0.5  # a crash releases nothing
                gone.task.cancel()
                alive.append(start())
        trouble.badness = 0.0
        await asyncio.sleep(60 + 2 * DURATION)
        assert sum(leader.may_write() for leader in everybody) == 1
        assert sum(leader.leads() for leader in everybody) == 1
        for leader in everybody:
            await leader.stop()
        spans = sorted(span for leader in everybody for span in leader.spans)
        assert all(len(span) == 2 for span in spans)
        for before, after in pairwise(spans):
            assert before[1] <= after[0], "two led at the same time"

    run(main)


@asynccontextmanager
async def client_of(api: FakeApiServer) -> AsyncIterator[Client]:
    async with Client(Cluster(api.url), Side.HOST) as client:
        yield client


@pytest.mark.looptime
async def test_on_an_api_server(host_api: FakeApiServer, logs: list[EventDict]) -> None:
    host_api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})
    async with client_of(host_api) as first, client_of(host_api) as second:
        one = Leader(first, "a")
        await asyncio.sleep(0.5)
        two = Leader(second, "b")
        async with stopping(one, two):
            await asyncio.sleep(30)
            assert one.leads()
            assert not two.leads()
            await one.stop()
            await asyncio.sleep(2 * PERIOD)
            assert two.leads()
            lease = host_api.get(LEASES, KEY)
            assert lease is not None
            assert lease["spec"]["leaseTransitions"] == 1
            host_api.pause()
            await asyncio.sleep(DEADLINE + 0.1)
            assert not two.may_write()
            assert not two.leads()
            host_api.resume()
            await asyncio.sleep(2 * PERIOD)
            assert two.leads()
            assert two.elector.transitions == 1, "it never changed hands"
        lease = host_api.get(LEASES, KEY)
        assert lease is not None
        assert not lease["spec"].get("holderIdentity")

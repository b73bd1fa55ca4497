from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from syncer.kube.limits import LONGEST_PAUSE, WINDOW_SECONDS, ConcurrencyLimit

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.looptime


def now() -> float:
    return asyncio.get_running_loop().time()


async def send(limit: ConcurrencyLimit, seconds: float = 0.0, kind: str = "") -> None:
    async with limit.slot(kind):
        await asyncio.sleep(seconds)


async def burst(limit: ConcurrencyLimit, count: int, latency: Callable[[], float]) -> None:
    async def one() -> None:
        async with limit.slot():
            await asyncio.sleep(latency())

    await asyncio.gather(*(one() for _ in range(count)))


async def test_no_more_than_the_limit_at_once_and_first_come_first_served() -> None:
    limit = ConcurrencyLimit(start=3, ceiling=3)
    order: list[int] = []
    peak = 0

    async def one(number: int) -> None:
        nonlocal peak
        async with limit.slot():
            order.append(number)
            peak = max(peak, limit.in_flight)
            await asyncio.sleep(1)

    await asyncio.gather(*(one(number) for number in range(10)))
    assert (order, peak, limit.in_flight, limit.waiting) == (list(range(10)), 3, 0, 0)
    assert now() == 4


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    limit = ConcurrencyLimit(start=1, ceiling=1)
    order: list[str] = []

    async def one(name: str) -> None:
        async with limit.slot():
            order.append(name)
            await asyncio.sleep(1)
        if name == "first":
            late.append(asyncio.create_task(one("late")))

    late: list[asyncio.Task[None]] = []
    await asyncio.gather(one("first"), one("second"))
    await asyncio.gather(*late)
    assert order == ["first", "second", "late"]


async def test_grows_by_one_a_round_trip_while_used_and_quick() -> None:
    limit = ConcurrencyLimit(start=10, ceiling=20)
    await burst(limit, 10 + 11 + 12, lambda: 0.05)
    assert 12 <= limit.current <= 13
    await burst(limit, 2000, lambda: 0.05)
    assert limit.current == 20


async def test_does_not_grow_while_unused() -> None:
    limit = ConcurrencyLimit(start=10)
    for _ in range(1000):
        await send(limit, 0.05)
    assert limit.current == 10


async def test_does_not_grow_while_answers_get_slow() -> None:
    limit = ConcurrencyLimit(start=10)
    await send(limit, 0.05)
    await burst(limit, 500, lambda: 0.101)
    assert limit.current == 10


async def test_differences_of_milliseconds_are_noise() -> None:
    limit = ConcurrencyLimit(start=10)
    await send(limit, 0.001)
    await burst(limit, 500, lambda: 0.009)
    assert limit.current > 10


async def test_kinds_have_latencies_of_their_own() -> None:
    limit = ConcurrencyLimit(start=2)
    await send(limit, 0.02, "get")
    await asyncio.gather(*(send(limit, 0.5, "list") for _ in range(100)))
    assert limit.current > 2


async def test_a_server_that_got_slower_for_good_is_believed_after_two_windows() -> None:
    limit = ConcurrencyLimit(start=4)
    await send(limit, 0.02)
    await asyncio.sleep(WINDOW_SECONDS)
    await burst(limit, 100, lambda: 0.2)
    assert limit.current == 4
    await asyncio.sleep(WINDOW_SECONDS)
    await burst(limit, 100, lambda: 0.2)
    assert limit.current > 4


async def test_halves_once_per_round_trip() -> None:
    limit = ConcurrencyLimit(start=16)

    async def throttled() -> None:
        async with limit.slot() as slot:
            await asyncio.sleep(1)
            slot.throttled(None)

    await asyncio.gather(*(throttled() for _ in range(16)))
    assert limit.current == 8
    await asyncio.sleep(1)
    await asyncio.gather(*(throttled() for _ in range(8)))
    assert limit.current == 4


async def test_never_below_the_floor() -> None:
    limit = ConcurrencyLimit(start=3)
    for _ in range(10):
        async with limit.slot() as slot:
            await asyncio.sleep(1)
            slot.throttled(None)
    assert limit.current == 1
    await send(limit)


async def test_a_timeout_halves_and_other_errors_do_not() -> None:
    limit = ConcurrencyLimit(start=16)
    with pytest.raises(ConnectionRefusedError):
        async with limit.slot():
            raise ConnectionRefusedError
    assert limit.current == 16
    await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        async with limit.slot():
            raise TimeoutError
    assert limit.current == 8


async def test_retry_after_stops_the_whole_lane() -> None:
    limit = ConcurrencyLimit(start=16)
    async with limit.slot() as slot:
        slot.throttled(7)
    assert limit.paused_until == 7
    starts: list[float] = []

    async def one() -> None:
        async with limit.slot():
            starts.append(now())

    await asyncio.gather(*(one() for _ in range(20)))
    assert set(starts) == {7.0}


async def test_the_longest_retry_after_counts() -> None:
    limit = ConcurrencyLimit(start=16)
    async with limit.slot() as one, limit.slot() as two, limit.slot() as three:
        one.throttled(3)
        two.throttled(9)
        three.throttled(5)
    await send(limit)
    assert now() == 9


async def test_an_absurd_retry_after_is_cut() -> None:
    limit = ConcurrencyLimit()
    async with limit.slot() as slot:
        slot.throttled(1e9)
    await send(limit)
    assert now() == LONGEST_PAUSE


async def test_cancelling_waiters_loses_no_turn() -> None:
    limit = ConcurrencyLimit(start=1, ceiling=1)
    holder = asyncio.create_task(send(limit, 10))
    await asyncio.sleep(1)
    waiters = [asyncio.create_task(send(limit, 1)) for _ in range(3)]
    await asyncio.sleep(1)
    waiters[0].cancel()
    await asyncio.gather(holder, *waiters, return_exceptions=True)
    assert (now(), limit.in_flight, limit.waiting) == (12, 0, 0)


async def test_cancelled_at_the_moment_of_its_turn() -> None:
    limit = ConcurrencyLimit(start=1)
    await limit.acquire()
    waiter = asyncio.create_task(limit.acquire())
    await asyncio.sleep(1)
    limit.release()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert limit.in_flight == 0


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_gets_lost_in_a_storm(seed: int) -> None:
    """Cancellations, pauses, halvings and timeouts in any order: every turn comes back and everybody gets one."""
    rng = random.Random(seed)
    limit = ConcurrencyLimit(start=4, ceiling=8)
    served = 0

    async def one() -> None:
        nonlocal served
        await asyncio.sleep(rng.random() * 20)
        async with limit.slot() as slot:
            assert limit.in_flight <= 8
            served += 1
            await asyncio.sleep(rng.random())
            match rng.randrange(6):
                case 0:
                    slot.throttled(rng.random() * 3)
                case 1:
                    slot.throttled(None)
                case 2:
                    raise TimeoutError
                case _:
                    pass

    tasks = [asyncio.create_task(one()) for _ in range(200)]
    for task in rng.sample(tasks, 50):
        asyncio.get_running_loop().call_later(rng.random() * 30, task.cancel)
    await asyncio.wait(tasks)
    assert (limit.in_flight, limit.waiting) == (0, 0)
    assert served >= 150

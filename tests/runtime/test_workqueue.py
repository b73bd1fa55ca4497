"""The queue's rules in tables and under random use; time is the loop's, compacted."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.runtime.workqueue import LOW_EVERY, NORMAL_EVERY, Closed, Priority, WorkQueue
from tests.runtime.virtual_time import run

URGENT, NORMAL, LOW = Priority


async def take(queue: WorkQueue[Any], only: Priority | None = None) -> Any:
    """A key that is ready now."""
    async with asyncio.timeout(0):
        key = await queue.get(only)
    queue.done(key)
    return key


async def drain(queue: WorkQueue[Any]) -> list[Any]:
    return [await take(queue) for _ in range(len(queue))]


async def test_added_twice_is_taken_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("b")
    queue.add("a")
    assert await drain(queue) == ["a", "b"]


async def test_added_while_held_is_taken_again_after_done_and_not_before() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a", LOW)
    queue.add("a", URGENT)
    assert len(queue) == 0
    queue.done("a")
    assert await take(queue, URGENT) == "a", "and in the most urgent lane it was added to"
    assert len(queue) == 0
    with pytest.raises(KeyError):
        queue.done("a")


async def test_moves_up_a_lane_but_never_down() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("low", LOW)
    queue.add("a", LOW)
    queue.add("a", NORMAL)
    queue.add("a", LOW)
    queue.add("last", LOW)
    assert await drain(queue) == ["a", "low", "last"]


@pytest.mark.looptime
async def test_the_earlier_of_two_delays_wins(looptime: float) -> None:
    for first, second in ((5.0, 2.0), (2.0, 5.0)):
        start = asyncio.get_running_loop().time()
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", first)
        queue.add_after("a", second)
        queue.done(await queue.get())
        assert asyncio.get_running_loop().time() - start == pytest.approx(2)
        await asyncio.sleep(10)
        assert len(queue) == 0


@pytest.mark.looptime
async def test_a_delay_is_moot_once_added_and_its_urgency_is_kept(looptime: float) -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 5, URGENT)
    queue.add("a", LOW)
    assert await take(queue, URGENT) == "a"
    queue.add_after("b", 0)
    queue.add_after("b", 60)
    assert await drain(queue) == ["b"]
    await asyncio.sleep(100)
    assert len(queue) == 0


@pytest.mark.looptime
async def test_a_delay_takes_the_higher_of_two_urgencies_whichever_is_due_first(looptime: float) -> None:
    for delays in ((5, 50), (50, 5)):
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", delays[0], LOW)
        queue.add_after("a", delays[1], URGENT)
        queue.add_after("a", 20, NORMAL)
        await asyncio.sleep(6)
        assert await take(queue, URGENT) == "a"


async def test_retries_back_off_per_key_and_stop_growing() -> None:
    queue: WorkQueue[str] = WorkQueue(base=0.05, cap=30, jitter=0)
    assert [queue.retry("a") for _ in range(12)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert queue.failures("a") == 12
    assert queue.retry("b") == 0.05
    queue.forget("a")
    assert queue.failures("a") == 0
    assert queue.retry("a") == 0.05
    queue.close()


async def test_jitter_adds_its_share_at_most() -> None:
    queue: WorkQueue[int] = WorkQueue(base=1, jitter=0.1, rng=random.Random(1))
    delays = [queue.retry(key) for key in range(200)]
    assert 1 <= min(delays) < 1.02 < 1.08 < max(delays) <= 1.1
    queue.close()


@pytest.mark.looptime
async def test_a_retry_returns_to_the_lane_it_was_taken_from(looptime: float) -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", LOW)
    await queue.get()
    queue.retry("a")
    queue.done("a")
    await asyncio.sleep(1)
    assert await take(queue, LOW) == "a"


async def test_lanes() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for n in range(30):
        queue.add(f"l{n}", LOW)
        queue.add(f"n{n}", NORMAL)
        queue.add(f"u{n}", URGENT)
    order = "".join(key[0] for key in await drain(queue))
    assert order.startswith("uuunuuunluunuuunul")
    assert order.endswith("l" * 10), "once the others are empty"
    assert Counter(order) == {"u": 30, "n": 30, "l": 30}


async def test_groups_take_turns() -> None:
    queue: WorkQueue[tuple[str, int]] = WorkQueue(group=lambda key: key[0])
    for n in range(100):
        queue.add(("big", n))
    for n in range(2):
        queue.add(("small", n))
    assert (await drain(queue))[:5] == [("big", 0), ("small", 0), ("big", 1), ("small", 1), ("big", 2)]


@pytest.mark.looptime
async def test_oldest_age(looptime: float) -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.oldest_age() == 0
    queue.add("a", LOW)
    await asyncio.sleep(3)
    queue.add("b")
    queue.add("a", URGENT)
    await asyncio.sleep(1)
    assert queue.oldest_age() == pytest.approx(4), "moving up a lane does not make it younger"
    await take(queue)
    assert queue.oldest_age() == pytest.approx(1)


async def test_a_cancelled_taker_passes_its_turn_on() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get(URGENT))
    third = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")  # wakes the first
    queue.add("b", URGENT)  # wakes the second
    first.cancel()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await third == "b"
    assert await queue.get() == "a"


async def test_takers_that_gave_up_leave_nothing_behind() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await take(queue)
    assert not queue._waiters[None]


async def test_reserved_takers_take_only_from_their_lane_and_are_woken_first() -> None:
    queue: WorkQueue[str] = WorkQueue()
    free, reserved = asyncio.create_task(queue.get()), asyncio.create_task(queue.get(URGENT))
    await asyncio.sleep(0)
    queue.add("a", URGENT)
    assert await reserved == "a"
    reserved = asyncio.create_task(queue.get(URGENT))
    queue.add("b", LOW)
    assert await free == "b"
    assert not reserved.done()
    queue.add("c", LOW)
    queue.add("c", URGENT)
    assert await reserved == "c", "a key that moves up wakes them too"


async def test_who_takes_what_another_was_woken_for_passes_his_own_turn_on() -> None:
    queue: WorkQueue[str] = WorkQueue()
    takers = [asyncio.create_task(queue.get(only)) for only in (None, URGENT, None)]
    await asyncio.sleep(0)
    queue.add("normal")  # wakes the first, who then takes the urgent key ...
    queue.add("urgent", URGENT)  # ... that the second was woken for, and who may not take the normal one
    for _ in range(5):
        await asyncio.sleep(0)
    assert takers[0].result() == "urgent"
    assert not takers[1].done()
    assert takers[2].done()
    assert takers[2].result() == "normal"
    takers[1].cancel()


@pytest.mark.parametrize(("lane", "takes"), [(NORMAL, 3), (LOW, 8)])
async def test_a_lane_that_is_due_but_was_emptied_by_a_reserved_taker_is_no_turn(lane: Priority, takes: int) -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("waits", lane)
    for number in range(takes + 1):
        queue.add(f"urgent {number}", URGENT)
    assert [await queue.get() for _ in range(takes)] == [f"urgent {number}" for number in range(takes)]
    assert await queue.get(lane) == "waits"
    assert await queue.get() == f"urgent {takes}"


@pytest.mark.looptime
async def test_closed_gives_out_what_is_ready_and_then_says_so(looptime: float) -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = [asyncio.create_task(queue.get(only)) for only in (URGENT, None)]
    await asyncio.sleep(0)
    queue.add_after("later", 1)
    queue.close()
    queue.add("late")
    for task in waiting:
        with pytest.raises(Closed):
            await task
    queue = WorkQueue()
    queue.add("a")
    queue.close()
    assert await queue.get() == "a"
    with pytest.raises(Closed):
        await queue.get()
    await asyncio.sleep(5)
    assert len(queue) == 0


async def test_keys_woken_early_again_and_again_leave_nothing_behind() -> None:
    """A key with a far timetable of its own that is decided each second must not leave an hour of timers."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("sooner", 60)
    for _ in range(5000):
        queue.add_after("token", 3600)
        queue.add("token")
        await take(queue)
    assert len(queue._heap) < 200
    queue.close()


KEYS = st.integers(0, 5)
LANES = st.sampled_from(Priority)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, LANES),
        st.tuples(st.just("add"), KEYS, LANES),
        st.tuples(st.just("add"), KEYS, LANES),
        st.tuples(st.just("after"), KEYS, st.floats(0.01, 5), LANES),
        st.tuples(st.just("busy"), st.floats(0, 2)),
        st.tuples(st.just("sleep"), st.floats(0, 3)),
        st.tuples(st.just("sleep"), st.just(5.0)),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
        st.tuples(st.just("fail"), KEYS),
    ),
    min_size=10,
    max_size=80,
)


class Crew:
    """Workers on a queue, and a model of everything that was asked of it."""

    def __init__(self, general: int, reserved: list[Priority]) -> None:
        self.queue: WorkQueue[int] = WorkQueue(group=lambda key: key % 2, jitter=0, cap=4)
        self.clock = asyncio.get_running_loop().time
        self.due: dict[int, float] = {}  # key → by when it must be ready; gone when it is taken
        self.asks: Counter[int] = Counter()
        self.takes: Counter[int] = Counter()
        self.held: set[int] = set()
        self.fails: set[int] = set()
        self.busy = 1.0
        self.idle: Counter[Priority | None] = Counter()
        self.workers = [self.start(only) for only in [*[None] * general, *reserved]]

    def start(self, only: Priority | None) -> tuple[Priority | None, asyncio.Task[None]]:
        return only, asyncio.create_task(self.work(only))

    def ask(self, key: int, at: float) -> None:
        self.asks[key] += 1
        self.due[key] = min(at, self.due.get(key, at))

    async def work(self, only: Priority | None) -> None:
        while True:
            self.idle[only] += 1
            try:
                key = await self.queue.get(only)
            except Closed:
                return
            finally:
                self.idle[only] -= 1
            assert key not in self.held, "two holders"
            assert key in self.due, "nobody asked for it"
            assert self.clock() >= self.due.pop(key) - 1e-6, "too early"
            self.held.add(key)
            self.takes[key] += 1
            try:
                await asyncio.sleep(self.busy)
            finally:
                self.held.discard(key)
                if key in self.fails:
                    self.fails.discard(key)
                    self.ask(key, self.clock() + self.queue.retry(key))
                self.queue.done(key)

    async def step(self, name: str, *args: Any) -> None:
        if name == "add":
            key, lane = args
            self.queue.add(key, lane)
            self.ask(key, self.clock())
        elif name == "after":
            key, delay, lane = args
            self.queue.add_after(key, delay, lane)
            self.ask(key, self.clock() + delay)
        elif name == "fail":
            self.fails.update(args)
        elif name == "busy":
            (self.busy,) = args
        elif name == "cancel":  # without letting the loop turn, so that the worker may have been woken just now
            only, task = self.workers.pop(args[0] % len(self.workers))
            task.cancel()
            self.workers.append(self.start(only))
        else:
            await self.check()
            await asyncio.sleep(*args)
            await self.check()

    async def check(self) -> None:
        """Once the loop has settled."""
        for _ in range(10):
            await asyncio.sleep(0)
        queue = self.queue
        ready = {priority for priority in Priority if queue._lanes[priority]}
        assert not (ready and self.idle[None]), "a key is ready and a worker idles"
        assert not any(self.idle[only] for only in ready), "nor may one that is reserved to its lane"
        for key, at in self.due.items():
            assert at > self.clock() - 1e-6 or key in queue._queued or key in self.held, "an ask was lost"
        assert all(self.takes[key] <= self.asks[key] for key in self.takes), "taken more often than asked for"
        assert self.held == queue._held.keys()

    async def finish(self) -> None:
        self.busy = 0.0
        await self.step("sleep", 100)
        assert not self.due
        assert not self.held
        assert not {**self.queue._queued, **self.queue._due, **self.queue._wanted}
        self.queue.close()
        await asyncio.gather(*(task for _, task in self.workers))


@given(steps=STEPS, general=st.integers(1, 4), reserved=st.lists(st.sampled_from([URGENT, NORMAL]), max_size=2))
@settings(max_examples=300)
def test_never_two_holders_nothing_lost_nothing_double_nobody_idle(
    steps: list[tuple[Any, ...]], general: int, reserved: list[Priority]
) -> None:
    async def main() -> None:
        crew = Crew(general, reserved)
        for step in steps:
            await crew.step(*step)
        await crew.finish()

    run(main)


@given(
    adds=st.lists(st.tuples(st.sampled_from(Priority), st.integers(0, 3), st.integers(0, 3)), max_size=200),
    reserved=st.lists(st.booleans(), min_size=1, max_size=10),
)
@settings(max_examples=150)
def test_no_lane_and_no_group_starves(adds: list[tuple[Priority, int, int]], reserved: list[bool]) -> None:
    """`adds`: keys in lanes and groups, with how many takes after each; every so many takes are by a reserved worker."""

    async def main() -> None:
        queue: WorkQueue[tuple[int, int]] = WorkQueue(group=lambda key: key[1])
        passed = {NORMAL: 0, LOW: 0}
        lane_of: dict[tuple[int, int], Priority] = {}
        turns: dict[tuple[Priority, int], Counter[int]] = {}  # (lane, waiting group) → takes of other groups while it waited

        async def take_one(only: Priority | None) -> None:
            waiting = set(lane_of.values())
            if only is not None and only not in waiting:
                return
            key = await take(queue, only)
            lane = lane_of.pop(key)
            if only is None:
                for each, limit in ((NORMAL, NORMAL_EVERY), (LOW, LOW_EVERY)):
                    passed[each] = passed[each] + 1 if each in waiting and each is not lane else 0
                    assert passed[each] < limit
                urgent_may_go = URGENT in waiting and lane is not URGENT
                assert not urgent_may_go or passed[NORMAL] == 0 or passed[LOW] == 0
            for (other, group), counts in turns.items():
                if other is lane and group != key[1]:
                    counts[key[1]] += 1
                    assert counts[key[1]] <= 1, "a group had two turns while another waited"
            still = {(lane_of[k], k[1]) for k in lane_of}
            turns.pop((lane, key[1]), None)
            if (lane, key[1]) in still:
                turns[lane, key[1]] = Counter()
            for gone in turns.keys() - still:
                del turns[gone]

        number = 0
        for lane, group, takes in adds:
            number += 1
            lane_of[number, group] = lane
            queue.add((number, group), lane)
            turns.setdefault((lane, group), Counter())
            for _ in range(takes):
                if len(queue):
                    number += 1
                    await take_one(URGENT if reserved[number % len(reserved)] else None)
        while len(queue):
            await take_one(None)
        assert not lane_of

    run(main)

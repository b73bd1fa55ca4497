"""The deletion guard: a few absences are ordinary, a burst is held, whatever was seen deleted passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from syncer.errors import FenceClosed
from syncer.sync.guard import Guard, Orphans

if TYPE_CHECKING:
    from structlog.typing import EventDict


class Bench:
    """A guard with a hand-moved clock, and what it announced."""

    def __init__(self, told: float | None = None) -> None:
        self.now = 1000.0
        self.announced: list[tuple[str, str]] = []
        self.fence_closed = False
        self.counted = 0
        self.guard = Guard(
            limit_count=25,
            limit_fraction=0.25,
            verify=self.verify,
            wall=lambda: self.now,
            announce=lambda reason, message: self.announced.append((reason, message)),
            told=told,
        )

    async def verify(self) -> None:
        if self.fence_closed:
            raise FenceClosed("another control plane")

    async def permit(self, count: int, total: int, *counterpart: object) -> str | None:
        async def orphans() -> Orphans:
            self.counted += 1
            return Orphans(count, total)

        return await self.guard.permit("pods", counterpart, orphans)


@pytest.mark.parametrize(
    ("count", "total", "held"),
    [
        pytest.param(1, 1, False, id="the last one of a small cluster"),
        pytest.param(25, 25, False, id="all, but not more than the count"),
        pytest.param(26, 26, True, id="all, and more than the count"),
        pytest.param(26, 1000, False, id="more than the count, but few of many"),
        pytest.param(250, 1000, False, id="exactly the fraction"),
        pytest.param(251, 1000, True, id="more than count and fraction"),
    ],
)
async def test_what_is_a_burst(count: int, total: int, held: bool) -> None:
    bench = Bench()
    assert (await bench.permit(count, total) is not None) is held
    assert bool(bench.guard.held()) is held
    assert [reason for reason, _ in bench.announced] == (["DeletionsHeld"] if held else [])


async def test_seen_deletions_pass_without_counting() -> None:
    bench = Bench()
    bench.guard.saw_deleted("uid-1", ("a", "ref"))
    assert await bench.permit(1000, 1000, "uid-1") is None
    assert await bench.permit(1000, 1000, ("a", "ref")) is None
    assert bench.counted == 0


async def test_an_object_that_came_back_is_no_longer_explained() -> None:
    bench = Bench()
    bench.guard.saw_deleted("ref")
    bench.guard.forget("ref")
    assert await bench.permit(1000, 1000, "ref") is not None


async def test_a_hold_is_announced_once_and_released_by_a_later_word_only() -> None:
    bench = Bench()
    assert "1000 of 1000 pods" in (await bench.permit(1000, 1000) or "")
    assert await bench.permit(900, 1000) is not None
    assert len(bench.announced) == 1
    bench.guard.release(999.0)  # said before the hold began: meant for an earlier one
    assert await bench.permit(1000, 1000) is not None
    bench.now = 1010.0
    bench.guard.release(1010.0)
    assert await bench.permit(1000, 1000) is None
    assert bench.guard.held() == {}


async def test_a_release_by_a_clock_that_is_ahead_lets_no_later_hold_go() -> None:
    bench = Bench()
    assert await bench.permit(1000, 1000) is not None
    bench.now = 1010.0
    bench.guard.release(2800.0)
    assert await bench.permit(1000, 1000) is None
    bench.guard.end("pods")
    bench.now = 1500.0
    assert await bench.permit(1000, 1000) is not None
    bench.guard.release(2800.0)  # as it is read again and again
    assert await bench.permit(1000, 1000) is not None
    bench.guard.release(2100.0)  # by another person, whose clock is less ahead
    assert await bench.permit(1000, 1000) is None


async def test_a_release_by_a_clock_that_is_behind_is_told_to_do_nothing(logs: list[EventDict]) -> None:
    bench = Bench()
    assert await bench.permit(1000, 1000) is not None
    for _ in range(2):
        bench.guard.release(700.0)
    assert await bench.permit(1000, 1000) is not None
    assert [entry["event"] for entry in logs].count("deletions.not_released") == 1


async def test_what_was_released_stays_so_after_a_release_by_a_clock_that_is_behind() -> None:
    bench = Bench()
    assert await bench.permit(1000, 1000) is not None
    bench.now = 1010.0
    bench.guard.release(1010.0)
    bench.guard.release(700.0)
    assert await bench.permit(1000, 1000) is None


async def test_a_release_that_was_there_at_the_start_is_of_holds_before_it() -> None:
    bench = Bench(told=2800.0)
    assert await bench.permit(1000, 1000) is not None
    bench.guard.release(2800.0)
    assert await bench.permit(1000, 1000) is not None
    bench.now = 1010.0
    bench.guard.release(1010.0)
    assert await bench.permit(1000, 1000) is None


async def test_a_hold_ends_by_itself_when_the_counterparts_are_back_and_the_next_one_needs_a_new_release() -> None:
    bench = Bench()
    assert await bench.permit(100, 100) is not None
    bench.now = 1005.0
    bench.guard.release(1005.0)
    assert await bench.permit(3, 100) is None
    bench.now = 2000.0
    assert await bench.permit(100, 100) is not None
    assert bench.guard.held() == {"pods": 100}


async def test_a_closed_fence_forbids_even_a_single_unexplained_deletion() -> None:
    bench = Bench()
    bench.fence_closed = True
    with pytest.raises(FenceClosed):
        await bench.permit(1, 1000)

from __future__ import annotations

import asyncio
import random

import pytest

from syncer.kube.backoff import Backoff


class Most(random.Random):
    """Leaves nothing to chance: always the longest pause."""

    def random(self) -> float:
        return 0.0


@pytest.mark.looptime
async def test_doubles_up_to_the_cap() -> None:
    backoff = Backoff(0.8, 30, rng=Most())
    assert [backoff.next() for _ in range(8)] == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30])


@pytest.mark.looptime
async def test_starts_over_after_health() -> None:
    backoff = Backoff(1, 30, reset_after=120, rng=Most())
    for _ in range(3):
        await asyncio.sleep(backoff.next())
    await asyncio.sleep(119.5)
    assert backoff.next() == 8
    await asyncio.sleep(8 + 120)
    assert backoff.next() == 1


@pytest.mark.looptime
async def test_a_long_pause_is_no_health() -> None:
    backoff = Backoff(1, 1000, reset_after=10, rng=Most())
    for _ in range(8):
        await asyncio.sleep(backoff.next())
    assert backoff.next() == 256


@pytest.mark.looptime
async def test_reset() -> None:
    backoff = Backoff(1, 30, rng=Most())
    backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == 1


@pytest.mark.looptime
async def test_jitter_spreads_within_bounds() -> None:
    pauses = [Backoff(10, 30, jitter=0.3, rng=random.Random(seed)).next() for seed in range(200)]
    assert 7 <= min(pauses) < 7.5
    assert 9.5 < max(pauses) <= 10

"""Both sides agree after any chaos, and nothing was lost, leaked, done twice or done in vain.

A failing seed is run again by itself: `pytest tests/sync/test_chaos.py -k "[17]"`, or `SYNCER_CHAOS_SEEDS=4711+1` for one
beyond the usual ones. SYNCER_CHAOS_SEEDS says which ones there are: how many, or `first+how many`. `make chaos SEEDS=5000`
runs many, on all cores.
"""

from __future__ import annotations

import os

import pytest

from tests.runtime import virtual_time
from tests.sync import chaos


def _seeds() -> range:
    first, plus, count = os.environ.get("SYNCER_CHAOS_SEEDS", "200").rpartition("+")
    return range(int(first or 0), int(first or 0) + int(count)) if plus else range(int(count))


@pytest.mark.parametrize("seed", _seeds())
def test_after_any_chaos_both_sides_agree(seed: int) -> None:
    virtual_time.run(lambda: chaos.run(seed))


@pytest.mark.looptime
@pytest.mark.parametrize("seed", _seeds()[:5])
async def test_it_is_the_same_over_http(seed: int) -> None:
    await chaos.run(seed, local=False)

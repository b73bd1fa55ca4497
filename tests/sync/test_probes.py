"""Who of the refused is tried when: nobody is forgotten, and nobody hurries."""

from __future__ import annotations

import heapq

from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.errors import Refused
from syncer.kube.types import Key
from syncer.sync.probes import Probes


class Bench:
    """A loop in small: visits in the order of their time; `free` is how many get through."""

    def __init__(self) -> None:
        self.now = 0.0
        self.free = 0
        self.tries: list[tuple[float, Key]] = []
        self.through: set[Key] = set()
        self._due: list[tuple[float, Key]] = []
        self.probes = Probes(lambda key, delay: heapq.heappush(self._due, (self.now + delay, key)), lambda: self.now)

    def attempt(self, key: Key, group: str = "g", again: float | None = 2.0) -> None:
        self.tries.append((self.now, key))
        if self.free > 0:
            self.free -= 1
            self.through.add(key)
            self.probes.accept(key, written=True)
        else:
            self.probes.refuse(key, Refused("R", "m", group=group, again=again))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, key = heapq.heappop(self._due)
            parked = self.probes.get(key)
            if parked is not None and parked.due:
                self.attempt(key, parked.refused.group, parked.refused.again)
        self.now = until


def key(number: int) -> Key:
    return Key("default", f"p{number}")


@settings(max_examples=25)
@given(count=st.integers(1, 200), groups=st.integers(1, 5), room=st.integers(0, 200))
def test_tries_are_few_and_room_is_used_within_moments(count: int, groups: int, room: int) -> None:
    bench = Bench()
    for number in range(count):
        bench.attempt(key(number), f"g{number % groups}")
    bench.run(600)
    late = [at for at, _ in bench.tries if at > 300]
    assert len(late) <= 300 / min(2.0, 300 / max(1, count // groups)) * groups + groups + count
    assert {who for at, who in bench.tries if at > 240} == {key(number) for number in range(count)}, "everybody has a turn"
    before = len(bench.tries)
    bench.free = room
    bench.run(605)
    assert len(bench.through) == min(room, count)
    assert len(bench.tries) - before <= 3 * len(bench.through) + 5 * groups * 4 + count // 20


def test_what_only_a_change_can_help_is_not_tried() -> None:
    bench = Bench()
    bench.attempt(key(1), again=None)
    bench.run(1000)
    assert len(bench.tries) == 1
    assert bench.probes.expected(key(1)) is None


def test_a_prober_that_goes_hands_its_turn_on() -> None:
    bench = Bench()
    for number in range(3):
        bench.attempt(key(number))
    bench.run(10)
    for number in range(2):
        bench.probes.accept(key(number), written=False)
        bench.tries.clear()
        bench.run(bench.now + 10)
        assert bench.tries


def test_a_prober_whose_try_came_to_nothing_has_another() -> None:
    """A network failure, say: the queue's own backoff brings it back, and then it must not be taken for one that waits for its turn."""
    bench = Bench()
    bench.attempt(key(1))
    parked = bench.probes.get(key(1))
    assert parked is not None
    assert parked.due


def test_one_who_changed_group_has_left_the_old_one() -> None:
    bench = Bench()
    bench.attempt(key(1), "a")
    bench.attempt(key(1), "b")
    bench.probes.accept(key(1), written=True)
    assert bench.probes.causes() == {}
    assert bench.probes._groups == {}

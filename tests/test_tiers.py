"""What `make test` makes of tests that fail, and of those that fail once only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.tiers import Tier, run, run_failed

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """
from pathlib import Path

def test_good(): pass
def test_bad(): raise ValueError("always")
def test_unsteady():
    before = Path(__file__).with_name("before")
    if not before.exists():
        before.touch()
        raise ValueError("at first")
"""
BAD, UNSTEADY = "test_it::test_bad", "test_it::test_unsteady"


@pytest.fixture
def tier(tmp_path: Path) -> Tier:
    (tmp_path / "test_it.py").write_text(TESTS)
    return Tier("sample", pytest=["--config-file=/dev/null", f"--rootdir={tmp_path}", str(tmp_path)])


def test_what_fails_once_only_is_unsteady_and_what_fails_again_has_failed(tier: Tier, tmp_path: Path) -> None:
    outcome = run(tier, tmp_path)
    assert (outcome.passed, sorted(outcome.failures), outcome.ok) == (1, [BAD, UNSTEADY], False)
    run_failed(tier, tmp_path, outcome)
    assert (outcome.passed, outcome.failures, outcome.ok) == (2, {BAD: "ValueError: always"}, False)
    assert outcome.unsteady == {UNSTEADY: "ValueError: at first"}
    (tmp_path / "test_it.py").write_text(TESTS.replace('raise ValueError("always")', "pass"))
    run_failed(tier, tmp_path, outcome)
    assert (outcome.passed, outcome.failures, outcome.ok) == (3, {}, True)


def test_a_run_that_breaks_in_between_takes_nothing_back(tier: Tier, tmp_path: Path) -> None:
    outcome = run(tier, tmp_path)
    (tmp_path / "test_it.py").write_text("no Python")
    run_failed(tier, tmp_path, outcome)
    assert sorted(outcome.failures) == [BAD, UNSTEADY]
    assert not outcome.ok

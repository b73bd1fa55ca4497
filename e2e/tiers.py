"""`python -m e2e.tiers [TIER ...]`: all checks, cheap ones first. A tier that fails does not keep the later ones from running.

Tests with API servers or a node wait more than they work, so both run beside all others; not more of them at a time, since each API server
and kubelet takes some of the 128 inotify instances that Linux gives a user. What fails of them is run once more when all else is over: if
it passes alone, the machine was too busy for it, or there is a race; either is told as UNSTEADY, and is to be mended. The last line is
`N passed, N failed, N skipped`, summed over the tests of all tiers; the exit code is 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from e2e.kubernetes.catalogue import OLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
_ERROR_LINES, _ERROR_LENGTH = 4, 600
_LEFT_OVER = 5
_FEW = 5
"""More failures than these in a tier are no accident, and not run again."""
_TOOLS = Path(sys.executable).parent
_CONTROL_PLANES = {"GOGC": "400"}
"""Their processes collect garbage less often: an API server, of which there are a hundred, starts with a third less CPU and 120 MB more."""


@dataclass(frozen=True)
class Tier:
    """A set of commands; `pytest` are the arguments of a pytest run, which counts its tests.

    Those that are `beside` wait for no other; the others run one after another, with the CPU that these leave.
    """

    name: str
    commands: Sequence[Sequence[str]] = ()
    pytest: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False


@dataclass
class Outcome:
    """What came of a tier. `broken` commands failed without a test that says so.

    `failures` are tests and their first words, `unsteady` those that passed when they were run again.
    """

    passed: int = 0
    skipped: int = 0
    broken: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    unsteady: dict[str, str] = field(default_factory=dict)
    skip_reasons: set[str] = field(default_factory=set)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def ok(self) -> bool:
        return not self.failures and not self.broken


TIERS = (
    Tier("lint", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell"]]),
    Tier("types", [["mypy"]]),
    Tier("contracts", [["lint-imports"], ["deptry", "."]]),
    Tier("unit", pytest=["tests", "-m", "not apiserver and not node and not long"]),
    Tier("apiserver", pytest=["tests", "e2e", "-m", "apiserver and not long"], beside=True),
    Tier("node", pytest=["tests", "e2e", "-m", "node and not long"], beside=True),
)
_SKEWED = ["e2e", "-m", "(apiserver and not long) or guestbook"]
LONG = (
    Tier("long", pytest=["tests", "e2e", "-m", "long"]),
    Tier("virtual-older", pytest=_SKEWED, environment={"VIRTUAL_KUBERNETES_VERSION": OLDER}),
    Tier("host-older", pytest=_SKEWED, environment={"HOST_KUBERNETES_VERSION": OLDER}),
)
"""What takes long: tests that do, and all that is about two Kubernetes versions at once."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.tiers", description=__doc__.partition("\n")[0])
    usual = ", ".join(tier.name for tier in TIERS)
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=f"default: {usual}; besides: {', '.join(tier.name for tier in LONG)}")
    wanted = parser.parse_args().tiers or [tier.name for tier in TIERS]
    if unknown := set(wanted) - {tier.name for tier in (*TIERS, *LONG)}:
        parser.error(f"no tier called {', '.join(sorted(unknown))}")
    chosen = [tier for tier in (*TIERS, *LONG) if tier.name in wanted]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directories = {tier.name: Path(name, tier.name) for tier in chosen}
        with ThreadPoolExecutor() as beside:
            running = {tier.name: beside.submit(run, tier, directories[tier.name]) for tier in chosen if tier.beside}
            ended = {tier.name: run(tier, directories[tier.name]) for tier in chosen if not tier.beside}
            ended |= {name: future.result() for name, future in running.items()}
        outcomes = {tier.name: ended[tier.name] for tier in chosen}
        for tier in chosen:
            if tier.beside and 0 < outcomes[tier.name].failed <= _FEW:
                run_failed(tier, directories[tier.name], outcomes[tier.name])
    report(outcomes, time.monotonic() - start)
    return 0 if all(outcome.ok for outcome in outcomes.values()) else 1


def run(tier: Tier, directory: Path) -> Outcome:
    """Run all commands of a tier, whichever of them fail; what `run_failed` has to know is kept in `directory`."""
    outcome = Outcome()
    start = time.monotonic()
    for program, *arguments in tier.commands:
        if _show(tier, [str(_TOOLS / program), *arguments]):
            outcome.broken.append(" ".join([program, *arguments]))
    if tier.pytest:
        _run_pytest(tier, directory, outcome)
    outcome.seconds = time.monotonic() - start
    return outcome


def run_failed(tier: Tier, directory: Path, outcome: Outcome) -> None:
    """Run the tests once more that failed in `outcome`, and change that."""
    start = time.monotonic()
    second = Outcome()
    _run_pytest(tier, directory, second, "--last-failed", "--last-failed-no-failures=none")
    outcome.broken += second.broken
    if second.passed + second.failed == outcome.failed:
        outcome.passed += second.passed
        outcome.unsteady = {name: words for name, words in outcome.failures.items() if name not in second.failures}
        outcome.failures = second.failures
    outcome.seconds += time.monotonic() - start


def _show(tier: Tier, command: Sequence[str]) -> int:
    """Run a command, show its lines as they come with the tier's name in front, and return its exit code."""
    environment = {**_CONTROL_PLANES, **os.environ, **tier.environment}
    command = [*([] if tier.beside else ["nice", f"--adjustment={_LEFT_OVER}"]), *command]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{tier.name:9} │ {line}", end="", flush=True)
    return process.returncode


def _run_pytest(tier: Tier, directory: Path, outcome: Outcome, *options: str) -> None:
    results = directory / "results.xml"
    kept = [f"--junitxml={results}", f"--override-ini=cache_dir={directory / 'cache'}"]
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "--quiet", "--durations=10", "--durations-min=1", *kept, *options, *tier.pytest]
    code = _show(tier, command)
    for case in ET.parse(results).iter("testcase") if results.exists() else ():
        skipped = case.find("skipped")
        problem = next((found for found in (case.find("failure"), case.find("error")) if found is not None), None)
        if problem is not None:
            words = problem.get("message", "").splitlines()[:_ERROR_LINES]
            outcome.failures[f"{case.get('classname')}::{case.get('name')}"] = " / ".join(words)[:_ERROR_LENGTH]
        elif skipped is not None:
            outcome.skipped += 1
            outcome.skip_reasons.add(skipped.get("message", ""))
        else:
            outcome.passed += 1
    if code and not outcome.failures:
        outcome.broken.append(f"pytest, exit code {code}")


def report(outcomes: dict[str, Outcome], seconds: float) -> None:
    """Print the table and the last line."""
    table = Table("tier", "result", "seconds", "remarks", caption=f"{seconds:.0f} s in all")
    for name, outcome in outcomes.items():
        tests = f"{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped"
        unsteady = [f"{len(outcome.unsteady)} unsteady"] if outcome.unsteady else []
        remarks = [*outcome.broken, *unsteady, *(f"skipped: {reason}" for reason in sorted(outcome.skip_reasons))]
        counted = outcome.passed or outcome.failed or outcome.skipped
        table.add_row(
            name,
            ("[green]ok" if outcome.ok else "[red]FAILED") + (f"[/] {tests}" if counted else ""),
            f"{outcome.seconds:.0f}",
            "\n".join(remarks),
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print()
    console.print(table)
    for name, outcome in outcomes.items():
        for word, named in (("UNSTEADY", outcome.unsteady), ("FAILED", outcome.failures)):
            for test, words in named.items():
                print(f"{word} {name}: {test}: {words}")
    # a pytest run that broke before it had results counts as one failure, so that the last line cannot look like success
    broken = sum(1 for outcome in outcomes.values() if any(remark.startswith("pytest") for remark in outcome.broken))
    total = [sum(getattr(outcome, what) for outcome in outcomes.values()) for what in ("passed", "failed", "skipped")]
    print(f"{total[0]} passed, {total[1] + broken} failed, {total[2]} skipped", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Each in a process of its own: signals are a process's."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import asyncio, os, sys
from syncer.releases.programs import run_program
sys.exit(asyncio.run(run_program(sys.argv[1:], os.environ)))
"""
ROOT = Path(__file__).parents[2]


def command(script: str) -> list[str]:
    return [sys.executable, "-c", RUN, "sh", "-c", script]


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_its_exit_code(script: str, code: int) -> None:
    assert subprocess.run(command(script), cwd=ROOT, check=False).returncode == code


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1"])
def test_a_signal_is_passed_on(name: str) -> None:
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(command(script), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.stdout.read() == f"got {name}\n"
        assert process.wait(20) == 5


COUNT = """
import signal, sys, time
found = []
signal.signal(signal.SIGINT, lambda *_: found.append(1))
print("ready", flush=True)
while not found:
    time.sleep(0.01)
time.sleep(1)
print("in all", len(found), flush=True)
sys.exit(4)
"""


def test_an_interrupt_from_the_terminal_comes_once() -> None:
    """The terminal sends it to both; many programs end at once at a second one."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", RUN, sys.executable, "-c", COUNT])
    shown = b""
    try:
        while b"ready" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        while b"in all" not in shown or not shown.endswith(b"\n"):
            shown += os.read(terminal, 4096)
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert b"in all 1" in shown
    assert os.waitstatus_to_exitcode(status) == 4

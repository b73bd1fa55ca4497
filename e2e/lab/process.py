"""Processes that outlive the command which started them.

Each is recorded in `<directory>/pids/<name>.json` as pid, start time and boot id, so that a reused pid is never taken for it, and is
ended only through that record. It runs inside the lab's fence, if the lab has one. Its output goes to `<directory>/logs/<name>.log`. As a
second line for crashes, every process carries the directory in its environment (`MARK`): `strays()` finds those whose record was lost.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.errors import LabError
from e2e.lab import fence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MARK = "SYNCER_LAB_DIR"
"""Environment variable of everything that a lab starts: the directory given to `spawn()`."""


def spawn(directory: Path, name: str, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Start `argv` as a daemon in its own session, unless it is alive. `env` is added to ours; `cwd` defaults to `directory`."""
    pid = pid_of(directory, name)
    if pid is not None and _is_ending(pid):
        _wait_gone(lambda: not alive(directory, name), 10)  # killed a moment ago: it still holds its ports and files
    if alive(directory, name):
        return
    for folder in ("pids", "logs"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    # posix_spawn keeps no Python object for the child, as the child is meant to outlive us.
    # env(1) changes the directory and becomes the program.
    fenced = fence.inside(directory, argv) if os.geteuid() == 0 else argv
    command = ["/usr/bin/env", "-C", str(cwd or directory), *map(str, fenced)]
    log = os.open(_log(directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            {**os.environ, **(env or {}), MARK: str(directory)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
    finally:
        os.close(log)
    record = {"pid": pid, "start": _start_time(pid), "boot": _boot_id()}
    _record(directory, name).write_text(json.dumps(record))


def pid_of(directory: Path, name: str) -> int | None:
    """The pid of the process, or None when it is not running. A process stopped by SIGSTOP is running."""
    try:
        record = json.loads(_record(directory, name).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    pid: int = record["pid"]
    if record["boot"] != _boot_id() or record["start"] is None or _start_time(pid) != record["start"]:
        return None
    return pid


def alive(directory: Path, name: str) -> bool:
    """Whether the recorded process, and not another one with its pid, is running."""
    return pid_of(directory, name) is not None


def send(directory: Path, name: str, number: signal.Signals) -> None:
    """Send a signal to the process, e.g. SIGSTOP and SIGCONT; a process that is not running is an error."""
    pid = pid_of(directory, name)
    if pid is None:
        raise LabError(f"{name} is not running, see {_log(directory, name)}")
    os.kill(pid, number)


def terminate(directory: Path, name: str) -> None:
    """Ask the process to end and return at once, so that several end side by side before `stop()` waits for each."""
    if (pid := pid_of(directory, name)) is not None:
        _kill(pid, signal.SIGTERM)
        _kill(pid, signal.SIGCONT)


def stop(directory: Path, name: str, grace: float = 5.0) -> None:
    """End the process: SIGTERM, after `grace` seconds SIGKILL (grace 0: SIGKILL at once). Does nothing if it is not running."""
    pid = pid_of(directory, name)
    if pid is not None and grace > 0:
        terminate(directory, name)
        _wait_gone(lambda: pid_of(directory, name) is None, grace)
    if pid is not None and alive(directory, name):
        _kill(pid, signal.SIGKILL)
        if not _wait_gone(lambda: pid_of(directory, name) is None, 10):
            raise LabError(f"{name} (pid {pid}) does not end on SIGKILL: it hangs in the kernel, see /proc/{pid}/stack")
    if pid is not None:
        _reap(pid)
    _record(directory, name).unlink(missing_ok=True)


def names(directory: Path) -> list[str]:
    """Names of all recorded processes, dead ones included."""
    return sorted(path.stem for path in (directory / "pids").glob("*.json"))


def strays(directory: Path) -> list[int]:
    """Pids of running processes that carry the mark of `directory` or of a directory below it, whether recorded or not."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile, or of another user
        marks = [part.removeprefix(f"{MARK}=".encode()) for part in environ.split(b"\0") if part.startswith(f"{MARK}=".encode())]
        if any(Path(os.fsdecode(mark)).is_relative_to(directory) for mark in marks) and _start_time(int(entry.name)) is not None:
            found.append(int(entry.name))
    return sorted(found)


def kill_strays(directory: Path, *, keep_recorded: bool = False) -> list[int]:
    """End what `strays()` finds, at once; gives back their pids. With `keep_recorded` those that a record of `directory` names stay."""
    kept = {pid_of(directory, name) for name in names(directory)} if keep_recorded else set()
    pids = [pid for pid in strays(directory) if pid not in kept]
    for pid in pids:
        _kill(pid, signal.SIGKILL)
    if not _wait_gone(lambda: all(_start_time(pid) is None for pid in pids), 10):
        raise LabError(f"processes {pids} of {directory} do not end on SIGKILL")
    for pid in pids:
        _reap(pid)
    return pids


def log_tail(directory: Path, name: str, lines: int = 15) -> str:
    """The last lines of the process's output."""
    try:
        with _log(directory, name).open("rb") as log:
            log.seek(max(0, _log(directory, name).stat().st_size - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def memory(directory: Path, name: str) -> int:
    """Resident memory of the process in bytes; 0 when it is not running."""
    pid = pid_of(directory, name)
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def wait_ready(directory: Path, name: str, ready: Callable[[], bool], timeout: float = 60.0) -> None:
    """Wait until `ready()` says so. If the process ends or the time is up: LabError with the end of its log."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not alive(directory, name):
            raise LabError(f"{name} has ended; its log {_log(directory, name)} says:\n{log_tail(directory, name)}")
        if time.monotonic() > deadline:
            raise LabError(f"{name} is not ready after {timeout:.0f} s; its log {_log(directory, name)} says:\n{log_tail(directory, name)}")
        time.sleep(0.05)


def _record(directory: Path, name: str) -> Path:
    return directory / "pids" / f"{name}.json"


def _log(directory: Path, name: str) -> Path:
    return directory / "logs" / f"{name}.log"


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended between the look and the signal


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # started by an earlier command: init reaps it


def _wait_gone(gone: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not gone():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _start_time(pid: int) -> int | None:
    """Start of the process in clock ticks since boot; None when it is not there or only waits to be reaped."""
    fields = _stat(pid)
    if fields is None or (fields[0] in "ZX" and _threads(pid) <= 1):
        return None
    return int(fields[19])


def _threads(pid: int) -> int:
    """Threads that are not gone yet: the first one is a zombie at once, while others still hold the ports."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _is_ending(pid: int) -> bool:
    fields = _stat(pid)
    return fields is None or bool(int(fields[6]) & 0x4)  # PF_EXITING


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the name before it may contain spaces and brackets


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

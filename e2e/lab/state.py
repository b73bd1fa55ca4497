"""A lab: its name, its directory, its ports, and the locks that keep two commands from working on it at once.

Everything of a lab lies in `${XDG_STATE_HOME:-~/.local/state}/syncer/lab/<name>`. Locks are taken on the directories
themselves, so there is no lock file to leave behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_NAME = "lab"
BRIDGE_ADDRESS = "172.30.0.1"  # on the node's bridge; pods reach API servers and the virtual DNS there
POD_RANGE = "10.244.0.0/16"
HOST_SERVICE_RANGE = "10.96.0.0/16"
VIRTUAL_SERVICE_RANGE = "10.97.0.0/16"  # unless a virtual cluster is started with another one; never the host's
_PORTS = range(17000, 20000)  # below the node ports (30000-32767) and below the ephemeral ports (32768-60999)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")


def labs_directory() -> Path:
    """Where the labs of this user live."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "syncer" / "lab"


def all_labs() -> list[Lab]:
    """Every lab that has a directory, by name."""
    return [Lab(path.parent.name) for path in sorted(labs_directory().glob("*/state.json"))]


@dataclass(frozen=True)
class Lab:
    """One lab. Making this object touches nothing; `create()` makes the directory."""

    name: str = DEFAULT_NAME

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(f"lab name {self.name!r}: lower case letters, digits and inner dashes, at most 42 characters")

    @classmethod
    def current(cls) -> Lab:
        """The lab that LAB_NAME names, or the default one."""
        return cls(os.environ.get("LAB_NAME") or DEFAULT_NAME)

    @property
    def dir(self) -> Path:
        return labs_directory() / self.name

    @property
    def exists(self) -> bool:
        return self._state_file.exists()

    def create(self) -> None:
        """Make the directory and the state file unless they are there."""
        self.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.exists:
            self._write({"ports": {}})

    @property
    def ports(self) -> dict[str, int]:
        """What each name got from `port()`."""
        ports: dict[str, int] = self.read().get("ports", {})
        return ports

    def port(self, name: str) -> int:
        """The port called `name`, e.g. "host/apiserver": free, unknown to every other lab, and the same again at the next call."""
        if name in (mine := self.ports):
            return mine[name]
        with _locked(labs_directory()):
            taken = {port for lab in all_labs() for port in lab.ports.values()}
            port = next((port for port in _PORTS if port not in taken and _is_free(port)), None)
            if port is None:
                raise LabError(
                    f"no free port in {_PORTS.start}-{_PORTS.stop - 1}: take down labs that are no longer used (python -m e2e.lab list)"
                )
            state = self.read()
            state.setdefault("ports", {})[name] = port
            self._write(state)
        return port

    def release_ports(self, prefix: str) -> None:
        """Forget every port whose name starts with `prefix`."""
        with _locked(labs_directory()):
            state = self.read()
            state["ports"] = {name: port for name, port in state.get("ports", {}).items() if not name.startswith(prefix)}
            self._write(state)

    def read(self) -> dict[str, Any]:
        """The state file; empty when there is none."""
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text())
        except FileNotFoundError:
            return {}
        return state

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key` in the state file; `read()[key]` gives it back."""
        with _locked(labs_directory()):
            self._write(self.read() | {key: value})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this lab against other commands; waits for the one that holds it. Not reentrant."""
        self.create()
        with _locked(self.dir):
            self.create()
            yield

    @property
    def _state_file(self) -> Path:
        return self.dir / "state.json"

    def _write(self, state: dict[str, Any]) -> None:
        new = self._state_file.with_suffix(".new")
        new.write_text(json.dumps(state, indent=1))
        new.replace(self._state_file)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    while True:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_still(directory, fd):
                yield
                return
        finally:
            os.close(fd)


def _is_still(directory: Path, fd: int) -> bool:
    """Whether the directory was not removed, and perhaps made anew, while we waited for its lock."""
    try:
        return directory.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(("", port))
            udp.bind(("", port))
        except OSError:
            return False
        return True

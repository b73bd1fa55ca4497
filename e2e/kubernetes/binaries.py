"""`ensure()`: the binaries of a Kubernetes, found or made.

Looked for in this order: `KUBEBUILDER_ASSETS` and `PATH` where the version fits (same minor version), our cache, the official release where
the network allows it, else built from Go modules. What is downloaded or built goes to the cache:
`~/.cache/syncer/kubernetes/<version>/bin` and `~/.cache/syncer/tools/<name>-<version>/bin`.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.kubernetes import golang
from e2e.kubernetes.catalogue import Folder, cache_directory, folder_of, kubernetes_version
from e2e.kubernetes.release import Downloads

if TYPE_CHECKING:
    from collections.abc import Iterator

_DOWNLOADS = Downloads()


def ensure(*names: str, version: str | None = None) -> dict[str, Path]:
    """Paths of the binaries, by name; those that are missing are downloaded or built, which is told on standard error.

    `version` is the Kubernetes version, e.g. "1.35.4"; without it KUBERNETES_VERSION, or the newest that this project knows. It applies to
    Kubernetes' own binaries. Safe to call from several processes: one builds, the others wait. LabError says what to install if that fails.
    """
    wanted = kubernetes_version(version)
    return {name: _ensure(folder_of(name), name, folder_of(name).version(wanted)) for name in names}


def _ensure(folder: Folder, name: str, version: str) -> Path:
    if (found := _installed(folder, name, version)) is not None:
        return found
    directory = _directory(folder, version)
    path = directory / name
    if not path.exists():
        with _locked(directory, name):
            if not path.exists():
                _obtain(folder, name, version, directory)
    return path


def _installed(folder: Folder, name: str, version: str) -> Path | None:
    """The binary in KUBEBUILDER_ASSETS or on PATH, if its minor version is the wanted one."""
    if not folder.version_command:
        return None
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for place in ([assets] if assets else []) + [os.environ.get("PATH", "")]:
        found = shutil.which(name, path=place)
        if found is not None and _minor_version(found, folder.version_command) == version.rpartition(".")[0]:
            return Path(found)
    return None


@functools.cache
def _minor_version(path: str, command: tuple[str, ...]) -> str:
    """What a binary says of itself, as "v1.36"; empty if it says nothing of the kind."""
    try:
        answer = subprocess.run([path, *command], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"\bv?(\d+\.\d+)\.\d+", answer.stdout + answer.stderr)
    return f"v{match[1]}" if match else ""


def _directory(folder: Folder, version: str) -> Path:
    place = f"kubernetes/{version}" if folder.is_kubernetes else f"tools/{folder.name}-{version}"
    return cache_directory() / place / "bin"


def _obtain(folder: Folder, name: str, version: str, directory: Path) -> None:
    label = f"{name} {version}"
    start = time.monotonic()
    if folder.release is not None and _DOWNLOADS.fetch(folder.release, [name], version, directory):
        how = "downloaded"
    else:
        _say(f"{label}: building from Go modules (the first time this takes seconds to minutes)")
        new = directory / f".{name}.new"
        golang.build(folder, name, version, new, tick=lambda seconds: _say(f"{label}: still building, {seconds:.0f} s"))
        new.replace(directory / name)
        how = "built"
    megabytes = (directory / name).stat().st_size / 1e6
    _say(f"{label}: {how} in {time.monotonic() - start:.0f} s, {megabytes:.0f} MB")


@contextmanager
def _locked(directory: Path, name: str) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{name}: waiting for another process that fills {directory}")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)

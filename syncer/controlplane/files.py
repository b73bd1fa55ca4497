"""Files that others read while they are replaced: each is as it was or as it is to be, never in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILE_MODE, _DIRECTORY_MODE = 0o640, 0o750
"""For the user and the group, which is that of the volume, and nobody else."""


def write_files(directory: Path, contents: Mapping[str, str]) -> list[str]:
    """Have `directory` hold these texts by relative path, in their order; the paths of those that were missing or different."""
    written = []
    for name, text in contents.items():
        path = directory / name
        if _read(path) != text:
            for above in reversed(path.relative_to(directory).parents):
                (directory / above).mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            _replace(path, text)
            written.append(name)
    return written


def read_files(directory: Path, names: list[str]) -> dict[str, str]:
    """Those of the files that are there and hold text."""
    found = {name: _read(directory / name) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def _read(path: Path) -> str | None:
    try:
        return path.read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # left by one that was killed
    with open(new, "x", encoding="ascii", opener=lambda name, flags: os.open(name, flags, _FILE_MODE)) as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)

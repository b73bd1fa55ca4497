"""Official releases, downloaded and checked against their published SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import sys
import tarfile
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from e2e.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from e2e.kubernetes.catalogue import Release

_CONNECT_TIMEOUT = 3.0


class Downloads:
    """Downloads of one run. After the first server that cannot be reached no other is tried."""

    def __init__(self) -> None:
        self._unreachable = False

    def fetch(self, release: Release, names: Iterable[str], version: str, directory: Path) -> bool:
        """Put the binaries `names` into `directory`; False when there is no network or no such release.

        A download that does not match its checksum is a LabError: it was tampered with or cut.
        """
        for name in names:
            if self._unreachable or (directory / name).exists():
                continue
            url, checksums_url = release.urls(name, version)
            checksums = self._get(checksums_url)
            if checksums is None:
                return False
            content = self._get(url)
            if content is None:
                return False
            if hashlib.sha256(content).hexdigest() != _digest(checksums.decode(errors="replace"), url):
                raise LabError(f"{url} does not match its checksum in {checksums_url}: try again, and do not use that file")
            if release.archive:
                _unpack(content, directory, set(names))
            else:
                _install(directory, name, content)
        return all((directory / name).exists() for name in names)

    def _get(self, url: str) -> bytes | None:
        if self._unreachable:
            return None
        try:
            with urllib.request.urlopen(url, timeout=_CONNECT_TIMEOUT) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            print(f"  {url}: HTTP {error.code}", file=sys.stderr)
        except (OSError, http.client.HTTPException) as error:
            self._unreachable = True
            print(f"  no downloads: {url.split('/')[2]} cannot be reached ({error}); building from Go modules", file=sys.stderr)
        return None


def _digest(checksums: str, url: str) -> str:
    """The digest that a checksum file gives for a download: the only one, or the one on the line that names it."""
    file = url.rpartition("/")[2]
    lines = [line for line in checksums.splitlines() if line.strip()]
    line = lines[0] if len(lines) == 1 else next((line for line in lines if line.split()[-1].lstrip("*") == file), "")
    match = re.match(r"[0-9a-fA-F]{64}\b", line.strip())
    return match[0].lower() if match else ""


def _unpack(content: bytes, directory: Path, names: set[str]) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            base = member.name.rpartition("/")[2]
            if member.isfile() and base in names and (file := archive.extractfile(member)) is not None:
                _install(directory, base, file.read())


def _install(directory: Path, name: str, content: bytes) -> None:
    new = directory / f".{name}.new"
    new.write_bytes(content)
    new.chmod(0o755)
    new.replace(directory / name)

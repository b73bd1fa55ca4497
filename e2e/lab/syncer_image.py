"""The syncer's image, made as the Dockerfile says, without Docker and without a registry: `python -m e2e.lab.syncer_image`.

Its layers are kept in `~/.cache/syncer/images/layers` under a digest of what they are made of. Debian's packages are not part of that: they
are those of the day when the layer was made.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.errors import LabError
from e2e.kubernetes.catalogue import ARCHITECTURE, cache_directory
from e2e.lab import dockerfile, images, node
from e2e.lab.images import Image, Link
from e2e.lab.state import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.dockerfile import Recipe

ROOT = Path(__file__).parents[2]
SYNCER = "lab.local/syncer:0"
"""The image's name on a lab's nodes. Its version is a label: whoever refers to the image need not know it."""


def recipe() -> Recipe:
    """What the project's Dockerfile says."""
    return dockerfile.parse((ROOT / "Dockerfile").read_text())


def build() -> Path:
    """The image as an OCI archive for `node.import_images()`; made unless there is one of the same content."""
    said = recipe()
    files: dict[str, Path | str | Link | None] = {}
    for layer in layers().values():
        files |= tree(layer)
    return images.build(
        Image(
            [SYNCER],
            dict(sorted(files.items())),
            entrypoint=said.entrypoint,
            environment=said.environment,
            ports=said.ports,
            user=said.user,
            directory=said.directory,
            labels=said.labels,
        )
    )


def layers() -> dict[str, Path]:
    """Directories of what is in the layers, in the order in which they lie upon each other. What is missing is made."""
    with _locked(cache_directory() / "images" / "layers") as cache, tempfile.TemporaryDirectory(dir=cache) as scratch:
        source, image = Path(scratch) / "source", Path(scratch) / "image"
        image.mkdir()
        made: dict[str, Path] = {}
        digest = hashlib.sha256(ARCHITECTURE.encode())
        for step in recipe().steps:
            for name in step.sources:
                digest.update(_copy(ROOT / name, source / name))
            digest.update(step.layer.encode())
            path = cache / f"{step.layer}-{digest.hexdigest()[:12]}"
            if not path.exists():
                print(f"making layer {step.layer} of the syncer's image", file=sys.stderr, flush=True)
                _run(source, step.layer, image)
                (image / step.layer).rename(path)
                for old in cache.glob(f"{step.layer}-????????????"):
                    if old != path:
                        shutil.rmtree(old)
            (image / step.layer).symlink_to(path)
            made[step.layer] = path
        return made


def _copy(source: Path, target: Path) -> bytes:
    """Copy a file or a directory, as Docker does with our .dockerignore; a digest of what was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
    found = hashlib.sha256()
    for path in sorted(target.rglob("*")) if target.is_dir() else [target]:
        if path.is_file():
            found.update(f"{path.relative_to(target.parent)}\0{os.access(path, os.X_OK)}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.digest()


def _run(source: Path, layer: str, image: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name != "VIRTUAL_ENV"}
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise LabError("uv is missing: make setup")
    environment["PATH"] = f"{Path(uv).parent}:{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    done = subprocess.run([dockerfile.SCRIPT, layer, image], cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{dockerfile.SCRIPT} {layer}: {done.stderr.strip()}")


def tree(directory: Path) -> dict[str, Path | str | Link | None]:
    """What is in a directory, as `Image.files` has it."""
    found: dict[str, Path | str | Link | None] = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = Link(os.readlink(path))
        else:
            found[name] = None if path.is_dir() else path
    return found


@contextmanager
def _locked(directory: Path) -> Iterator[Path]:
    """Nobody else makes layers there meanwhile."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield directory


def main() -> int:
    try:
        archive = build()
        for name, layer in layers().items():
            size = sum(path.lstat().st_size for path in layer.rglob("*") if not path.is_dir())
            print(f"{name:9} {size / 1e6:6.1f} MB")
        print(f"{'image':9} {archive.stat().st_size / 1e6:6.1f} MB, {SYNCER} in {archive}")
        if node.is_up(lab := Lab.current()):
            node.import_images(lab, archive)
            print(f"lab {lab.name!r} has it")
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""An image shaped like k3s': `/bin/k3s` and `/bin/sh`, and Kubernetes' own programs over kine. k3s itself can be neither pulled
nor built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from e2e.kubernetes import binaries
from e2e.kubernetes.catalogue import kubernetes_version
from e2e.lab import images, syncer_image
from e2e.lab.images import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.images import Link

_ROOT = Path(__file__).parents[2]
_OURS = "opt/k3s"
_START = f"""#!/usr/bin/python3
import sys

sys.path.insert(0, "/{_OURS}")

from e2e.lab.k3s.server import main

sys.exit(main(sys.argv[1:]))
"""
_MODULES = ("e2e/__init__.py", "e2e/lab/__init__.py", "e2e/lab/pki.py", "e2e/lab/kubeconfig.py")
_PROGRAMS = ("kine", "kube-apiserver", "kube-controller-manager")
_LIBRARIES = ("_cffi_backend", "_yaml", "cffi", "cryptography", "yaml")


def tag(version: str | None = None) -> str:
    """The image's name on a lab's nodes."""
    return f"lab.local/k3s:v{_version(version)}-k3s1"


def build(version: str | None = None) -> Path:
    """The image of a Kubernetes version as an OCI archive for `node.import_images()`; made unless there is one of the same content."""
    programs = binaries.ensure(*_PROGRAMS, version=_version(version))
    files: dict[str, Path | str | Link | None] = {
        **dict(_python()),
        **images.busybox().files,
        **{f"usr/local/bin/{name}": path for name, path in programs.items()},
        **{f"{_OURS}/{name}": _ROOT / name for name in (*_MODULES, *_package())},
        "bin/k3s": _START,
    }
    environment = [f"K3S_VERSION=v{_version(version)}+k3s1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONSAFEPATH=1", "PYTHONUNBUFFERED=1"]
    return images.build(Image([tag(version)], files, entrypoint=["/bin/k3s"], command=["agent"], environment=environment))


def _version(version: str | None) -> str:
    return kubernetes_version(version, side="VIRTUAL").removeprefix("v")


def _python() -> Iterator[tuple[str, Path | str | Link | None]]:
    """Python and what our program needs of libraries, as they are in the syncer's image."""
    layers = syncer_image.layers()
    yield from syncer_image.tree(layers["base"]).items()
    for name, source in syncer_image.tree(layers["packages"]).items():
        _, found, inside = name.partition("dist-packages/")
        if not found or inside.startswith(_LIBRARIES):
            yield name, source


def _package() -> list[str]:
    return sorted(str(path.relative_to(_ROOT)) for path in (_ROOT / "e2e" / "lab" / "k3s").glob("*.py"))

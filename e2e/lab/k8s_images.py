"""Images as Kubernetes' own, for `distro: k8s`: nothing but a program in each, so that whoever wants a shell in there does not work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.kubernetes import binaries
from e2e.kubernetes.catalogue import folder_of, kubernetes_version
from e2e.lab import images
from e2e.lab.images import Image

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")


def tag(program: str, version: str | None = None) -> str:
    """The image's name on a lab's nodes."""
    return f"lab.local/{program}:{folder_of(program).version(_version(version))}"


def build(version: str | None = None) -> list[Path]:
    """Those of a Kubernetes version as OCI archives for `node.import_images()`; made unless there are some of the same content."""
    found = binaries.ensure(*PROGRAMS, version=_version(version))
    return [images.build(Image([tag(name, version)], {f"usr/local/bin/{name}": found[name]})) for name in PROGRAMS]


def _version(version: str | None) -> str:
    return kubernetes_version(version, side="VIRTUAL")

"""containerd, with runc. Its files are where it has them by default: the node's /run and /var/lib are its own."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from e2e.kubernetes import binaries
from e2e.lab import namespaces, process

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "containerd"
SOCKET = "/run/containerd/containerd.sock"


def start(directory: Path, pause_image: str) -> None:
    """Start it on the node in `directory` and wait until it answers; `pause_image` holds a pod's namespaces."""
    found = binaries.ensure(NAME, "containerd-shim-runc-v2", "ctr")
    (directory / "cni").mkdir()  # it watches this directory only if it finds it
    config = directory / "containerd.toml"
    config.write_text(_config(directory, pause_image))
    path = f"{found['containerd-shim-runc-v2'].parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    namespaces.spawn(directory, NAME, [found[NAME], "--config", config], env={"PATH": path})
    process.wait_ready(directory, NAME, lambda: _answers(directory, found["ctr"]), 20)


def import_images(directory: Path, archives: Iterable[Path]) -> None:
    """Make images from OCI archives available to pods on the node in `directory`."""
    for archive in archives:
        namespaces.run(directory, binaries.ensure("ctr")["ctr"], "--namespace=k8s.io", "images", "import", archive)


def _answers(directory: Path, ctr: Path) -> bool:
    return subprocess.run([*namespaces.enter(directory), ctr, "version"], capture_output=True, check=False).returncode == 0


def _config(directory: Path, pause_image: str) -> str:
    cni = binaries.ensure("bridge", "loopback", "host-local", "portmap")["bridge"].parent
    return f"""\
version = 3
disabled_plugins = [
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause_image}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE it cannot be lowered, and every sandbox would die
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni}"]
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{shutil.which("runc")}"
        SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
"""

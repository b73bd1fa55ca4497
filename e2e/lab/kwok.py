"""Simulated nodes: kwok answers for kubelets, so pods are Running at once and nothing runs.

For machines without root, and for benchmarks. Its rules ("stages") are taken from kwok's own module.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.errors import LabError
from e2e.kubernetes import binaries, golang
from e2e.kubernetes.catalogue import cache_directory, folder_of
from e2e.lab import process
from e2e.lab.state import BRIDGE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from e2e.lab.cluster import ControlPlane

NAME = "kwok"
_MARK = "kwok.x-k8s.io/node"
_STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
_CAPACITY = {"cpu": "32", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti"}
_POD_RANGE = "10.245.0.0/16"  # addresses that no packet ever has


def start(cluster: ControlPlane, nodes: int = 1) -> list[str]:
    """Give the cluster `nodes` simulated nodes, each of room for 1000 pods, and wait until they are Ready; their names."""
    stages = [argument for path in _stage_files() for argument in ("--config", path)]
    process.spawn(
        cluster.dir,
        NAME,
        [
            binaries.ensure(NAME)[NAME],
            f"--kubeconfig={cluster.kubeconfig}",
            f"--manage-nodes-with-annotation-selector={_MARK}=fake",
            f"--cidr={_POD_RANGE}",
            f"--node-ip={BRIDGE_ADDRESS}",
            "--node-lease-duration-seconds=40",
            *stages,
        ],
    )
    names = [f"simulated-{number}" for number in range(1, nodes + 1)]
    for name in names:
        cluster.api.apply(node(name))
    process.wait_ready(cluster.dir, NAME, lambda: all(_is_ready(cluster, name) for name in names))
    return names


def stop(cluster: ControlPlane) -> None:
    """Take the simulated nodes away, with the pods on them."""
    process.stop(cluster.dir, NAME, grace=0)
    for node in cluster.api.get("/api/v1/nodes")["items"]:
        if _MARK in node["metadata"].get("annotations", {}):
            cluster.api.delete(f"/api/v1/nodes/{node['metadata']['name']}")


def node(name: str, capacity: Mapping[str, str] = _CAPACITY) -> dict[str, Any]:
    """A Node that kwok takes care of once it runs."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {_MARK: "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "type": "kwok"},
        },
        "status": {"allocatable": dict(capacity), "capacity": dict(capacity)},
    }


def _is_ready(cluster: ControlPlane, name: str) -> bool:
    node = cluster.api.get(f"/api/v1/nodes/{name}")
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))


def _stage_files() -> list[Path]:
    """Stages, copied beside the binaries so that Go and its module cache are needed once."""
    directory = cache_directory() / "tools" / f"kwok-{folder_of(NAME).checked_in_version}" / "stages"
    if not directory.exists():
        source = golang.module_source(NAME) / "kustomize" / "stage"
        found = [path for stage in _STAGES for path in sorted((source / stage).glob("*.yaml")) if path.name != "kustomization.yaml"]
        if not found:
            raise LabError(f"{source} has no stages: this kwok version keeps them elsewhere")
        directory.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=directory.parent))
        for path in found:
            (new / path.name).write_text(path.read_text())
        new.chmod(0o755)
        try:
            new.rename(directory)
        except OSError:  # another process was quicker, with the same files
            shutil.rmtree(new)
    return sorted(directory.glob("*.yaml"))

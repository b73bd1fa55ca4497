"""kube-scheduler; only a host cluster has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.lab import process

if TYPE_CHECKING:
    from e2e.lab.cluster import ControlPlane

NAME = "scheduler"


def start(cluster: ControlPlane) -> None:
    """Start it."""
    process.spawn(
        cluster.dir,
        NAME,
        [
            cluster.binary("kube-scheduler"),
            "--v=1",
            f"--kubeconfig={cluster.component_kubeconfig(NAME)}",
            f"--authentication-kubeconfig={cluster.component_kubeconfig(NAME)}",
            f"--authorization-kubeconfig={cluster.component_kubeconfig(NAME)}",
            "--bind-address=127.0.0.1",
            f"--secure-port={cluster.port(NAME)}",
            "--leader-elect=false",
            "--profiling=false",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ],
    )

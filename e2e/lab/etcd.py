"""etcd: the datastore of the host, and of a virtual cluster that asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.lab import process

if TYPE_CHECKING:
    from e2e.lab.cluster import ControlPlane

NAME = "etcd"


def start(cluster: ControlPlane) -> None:
    """Start it on the data of the cluster. It does not sync to disk: data survives the end of processes, not of the machine."""
    client, peer = endpoint(cluster), f"http://127.0.0.1:{cluster.port('etcd-peer')}"
    process.spawn(
        cluster.dir,
        NAME,
        [
            cluster.binary("etcd"),
            "--name=lab",
            f"--data-dir={cluster.data_dir}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=lab={peer}",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        ],
    )


def endpoint(cluster: ControlPlane) -> str:
    """Where its clients connect."""
    return f"http://127.0.0.1:{cluster.port('etcd')}"

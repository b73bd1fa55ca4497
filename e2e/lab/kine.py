"""kine with SQLite: the datastore that k3s uses, so what a virtual cluster has in the field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.lab import process

if TYPE_CHECKING:
    from e2e.lab.cluster import ControlPlane

NAME = "kine"
# The defaults of kine, which an explicit endpoint would lose: without the busy timeout concurrent first writes are dropped and the API
# server never becomes ready.
_SQLITE = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&cache=shared"


def start(cluster: ControlPlane) -> None:
    """Start it on the data of the cluster."""
    cluster.data_dir.mkdir(parents=True, exist_ok=True)
    process.spawn(
        cluster.dir,
        NAME,
        [
            cluster.binary("kine"),
            f"--endpoint=sqlite://{cluster.data_dir}/state.db?{_SQLITE}",
            f"--listen-address=tcp://127.0.0.1:{cluster.port('kine')}",
            "--metrics-bind-address=0",
        ],
    )


def endpoint(cluster: ControlPlane) -> str:
    """Where its clients connect."""
    return f"http://127.0.0.1:{cluster.port('kine')}"

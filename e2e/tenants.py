"""Pytest fixtures: virtual clusters with a running syncer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from e2e.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.fixtures import StartVirtual


class StartTenant(Protocol):
    """Starts the virtual cluster of a name and its syncer, with those flags; the namespace defaults to one of its own."""

    def __call__(self, name: str, *flags: str, namespace: str | None = None, cluster_rights: bool = False) -> Daemon: ...


@pytest.fixture(scope="module")
def tenant(virtual_cluster: StartVirtual) -> Iterator[StartTenant]:
    """Starts tenants; at the end of the module they go, with all that they left on the host. No other may have their names then."""
    started: list[Daemon] = []

    def start(name: str, *flags: str, namespace: str | None = None, cluster_rights: bool = False) -> Daemon:
        virtual = virtual_cluster(name, namespace=namespace) if namespace else virtual_cluster(name)
        daemon = Daemon(virtual, *flags, cluster_rights=cluster_rights)
        started.append(daemon)
        daemon.start()
        return daemon

    yield start
    for daemon in started:
        daemon.stop()
    for daemon in started:
        daemon.virtual.remove(wait=False)

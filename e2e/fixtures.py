"""Pytest fixtures: a lab of its own for each session, taken down at the end whatever happens.

Binaries that are missing are made before the first test, outside of its timeout. Tests on the real node run after the others, because the
simulated nodes of those go away then.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Unpack

import pytest

from e2e.kubernetes import binaries
from e2e.kubernetes.catalogue import kubernetes_version
from e2e.lab import kwok, node, nodes
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab, all_labs
from e2e.lab.teardown import down
from e2e.lab.virtual import VirtualCluster, VirtualOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT = 180.0
_NODE_BINARIES = (
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "bridge",
    "host-local",
    "loopback",
    "portmap",
    "coredns",
    "agnhost",
    "traefik",
    "local-path-provisioner",
    "metrics-server",
    "helm",
)
_VIRTUAL_BINARIES = ("kine", "kube-apiserver", "kube-controller-manager", "kubectl")
_BINARIES = ("etcd", "kine", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok", "informer", "promrules")


class StartVirtual(Protocol):
    """Starts the virtual cluster of a name, or gives the one that it started before."""

    def __call__(self, name: str, **options: Unpack[VirtualOptions]) -> VirtualCluster: ...


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_node = node.why_not()
    for item in items:
        if no_node and item.get_closest_marker("node"):
            item.add_marker(pytest.mark.skip(reason=no_node))
        if (item.get_closest_marker("apiserver") or item.get_closest_marker("node")) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_TIMEOUT))
    items.sort(key=lambda item: item.get_closest_marker("node") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    if any(item.get_closest_marker("apiserver") or item.get_closest_marker("node") for item in session.items):
        binaries.ensure(*_BINARIES, version=kubernetes_version(side="HOST"))
        binaries.ensure(*_VIRTUAL_BINARIES, version=kubernetes_version(side="VIRTUAL"))
    if node.why_not() is None and any(item.get_closest_marker("node") for item in session.items):
        binaries.ensure(*_NODE_BINARIES, version=kubernetes_version(side="HOST"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """An empty lab that no other session uses. Labs of sessions that were killed are taken down first."""
    for other in all_labs():
        owner = re.fullmatch(r"test-(\d+)(-.*)?", other.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            down(other)
    lab = Lab(f"test-{os.getpid()}")
    lab.create()
    yield lab
    down(lab)


@pytest.fixture(scope="session")
def host_cluster(lab: Lab) -> HostCluster:
    """The host cluster of the lab, with a scheduler and without nodes."""
    host = HostCluster(lab)
    host.up()
    return host


@pytest.fixture
def simulated_nodes(host_cluster: HostCluster) -> list[str]:
    """Names of two nodes on which pods are Running at once and nothing runs."""
    return kwok.start(host_cluster, 2)


@pytest.fixture(scope="session")
def real_node(host_cluster: HostCluster) -> HostCluster:
    """The host cluster, with the real node and its DNS; virtual clusters are reachable from pods."""
    nodes.start_real(host_cluster)
    return host_cluster


@pytest.fixture(scope="session")
def virtual_cluster(host_cluster: HostCluster) -> StartVirtual:
    """Starts virtual clusters by name: `virtual_cluster("blue", datastore="etcd")`. They live as long as the session."""

    def start(name: str, **options: Unpack[VirtualOptions]) -> VirtualCluster:
        virtual = VirtualCluster(host_cluster.lab, name)
        virtual.up(**options)
        return virtual

    return start

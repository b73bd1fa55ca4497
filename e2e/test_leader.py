"""Two replicas of a syncer: one syncs, and the other goes on when it dies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from e2e.daemon import Daemon
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.fixtures import StartVirtual

pytestmark = pytest.mark.apiserver

LEASE = 4
FLAGS = ("--leader-elect", f"--lease-duration={LEASE}s", "--renew-deadline=3s", "--retry-period=1s")


def test_the_other_goes_on_when_the_leader_is_killed(virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("pairwise")
    replicas = [Daemon(virtual, *FLAGS, name=f"replica-{number}") for number in (1, 2)]
    for replica in replicas:
        replica.start(ready=False)
    wait_until(lambda: sum(replica.metric("syncer_leader") for replica in replicas) == 1, "one of them leads")
    for replica in replicas:
        replica.wait_ready()
    leader, other = sorted(replicas, key=lambda replica: -replica.metric("syncer_leader"))
    leader.kill()
    killed = time.monotonic()
    container = {"name": "main", "image": "lab.local/none:1"}
    virtual.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"}, "spec": {"containers": [container]}})
    path = f"/api/v1/namespaces/{virtual.host_namespace}/pods/late-x-default-x-pairwise"
    wait_until(lambda: virtual.host.api.find(path) is not None, "the other one syncs", 30)
    assert time.monotonic() - killed < LEASE + 10, "lease, a retry, and the caches of a busy machine"
    assert other.metric("syncer_leader") == 1
    other.stop()
    virtual.remove()

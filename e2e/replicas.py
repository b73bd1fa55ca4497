"""Two syncers of one virtual cluster, each a user of its own on both sides, with a line to the host that can be cut."""

from __future__ import annotations

import functools
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from e2e.daemon import Daemon
from e2e.lab import audit, kubeconfig, pki
from e2e.lab.api import wait_until
from e2e.link import Link
from syncer.kube.types import LEASES
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.lab.api import Obj
    from e2e.lab.cluster import ControlPlane
    from e2e.lab.virtual import VirtualCluster

LEASE = 3.0
"""Seconds; the deadline is 2 and the retry period 0.5."""
_FLAGS = ("--leader-elect", f"--lease-duration={LEASE:g}s", "--renew-deadline=2s", "--retry-period=0.5s")
_NOT_THE_LEADERS = {"leases", "selfsubjectrulesreviews", "selfsubjectaccessreviews", "servicecidrs", "mutatingwebhookconfigurations"}
"""Who does not lead may write the Lease when it is free, ask about his rights, and install admission when he starts."""


class Replica(Daemon):
    """A syncer named `name`, who is the audited user of that name on both sides. It reaches the host through `link`."""

    def __init__(self, virtual: VirtualCluster, name: str) -> None:
        super().__init__(virtual, *_FLAGS, name=name)
        self.user = f"{name}-{virtual.name}"
        self.webhook_port = virtual.lab.port(f"{name}/{virtual.name}/webhook")
        self._link_port = virtual.lab.port(f"{name}/{virtual.name}/link")
        self.link = Link(self._link_port, virtual.host.port("apiserver"))

    @functools.cached_property
    def host_kubeconfig(self) -> Path:
        self.virtual.host.grant(self.virtual.host_namespace, self.user, rules(needed_rights(ALL, election=True)))
        return self._audited(self.virtual.host, f"https://127.0.0.1:{self._link_port}")

    @functools.cached_property
    def virtual_kubeconfig(self) -> Path:
        return self._audited(self.virtual, self.virtual.server, "system:masters")

    def command(self) -> list[str]:
        return [
            f"--kube-config={self.virtual_kubeconfig}" if argument.startswith("--kube-config=") else argument
            for argument in super().command()
        ]

    @property
    def leads(self) -> bool:
        return self.metric("syncer_leader") == 1

    def handshake(self, context: ssl.SSLContext) -> None:
        """Connect to its webhook as an API server does; ssl.SSLError when the context does not trust it."""
        with (
            socket.create_connection(("127.0.0.1", self.webhook_port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            pass

    def log_text(self) -> str:
        """All that it wrote."""
        return (self.virtual.dir / "logs" / f"{self.name}.log").read_text()

    def _audited(self, cluster: ControlPlane, server: str, *groups: str) -> Path:
        client = pki.Authority(cluster.tls, "client-ca").issue(f"user-{self.user}", self.user, [audit.GROUP, *groups])
        path = cluster.dir / "users" / f"{self.user}.kubeconfig"
        return kubeconfig.write(path, server, cluster.tls / "server-ca.crt", client.cert, client.key, cluster.name)


class Replicas:
    """Two replicas, and what the API servers know of what they wrote."""

    def __init__(self, virtual: VirtualCluster) -> None:
        self.virtual = virtual
        self.both = [Replica(virtual, f"replica-{number}") for number in (1, 2)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for cluster in (self.virtual.host, self.virtual):
            audit.start(cluster)
        for replica in self.both:
            self._stack.enter_context(replica.link)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.both:
            replica.stop()
        self._stack.close()

    def start(self) -> None:
        """Start who does not run, and wait until one leads and both are ready."""
        for replica in self.both:
            replica.start(ready=False)
        wait_until(lambda: sum(replica.leads for replica in self.both) == 1, "one of two replicas leads")
        for replica in self.both:
            replica.wait_ready()

    def roles(self) -> tuple[Replica, Replica]:
        """The leader, and the other one."""
        leader, other = sorted(self.both, key=lambda replica: not replica.leads)
        return leader, other

    def took_over_at(self, replica: Replica, since: float) -> float:
        """When that replica got the lease, in epoch seconds."""
        found: list[float] = []

        def look() -> bool:
            found[:] = [write.at for write in self.lease_writes() if write.user == replica.user and write.at > since]
            return bool(found)

        wait_until(look, f"{replica.name} takes over")
        return found[0]

    def first_write(self, replica: Replica, since: float) -> float:
        """When it first wrote something else, in epoch seconds."""
        found: list[float] = []

        def look() -> bool:
            found[:] = [write.at for write in self.writes() if write.user == replica.user and write.at > since]
            return bool(found)

        wait_until(look, f"{replica.name} writes")
        return found[0]

    def writes(self) -> list[audit.Request]:
        """What the two wrote on both sides as leaders."""
        found = audit.writes(self.virtual.host) + audit.writes(self.virtual)
        users = [replica.user for replica in self.both]
        return sorted(write for write in found if write.user in users and write.resource not in _NOT_THE_LEADERS)

    def intruders(self, since: float) -> list[tuple[audit.Request, audit.Request]]:
        """Writes that arrived after the other one had got the lease, each with that.

        Not judged by the answers: what was sent too late was wrong, whatever a precondition made of it.
        """
        holders = self.lease_writes()
        found = []
        for write in self.writes():
            before = [lease for lease in holders if lease.at <= write.at]
            if write.at > since and before and before[-1].user != write.user:
                found.append((write, before[-1]))
        return found

    def created_twice(self) -> list[str]:
        """Names of host pods that were created more than once."""
        created = [
            write.name for write in audit.writes(self.virtual.host) if (write.verb, write.resource, write.code) == ("create", "pods", 201)
        ]
        return sorted({name for name in created if created.count(name) > 1})

    @property
    def lease_path(self) -> str:
        return LEASES.path(self.virtual.host_namespace, f"vcluster-{self.virtual.name}-controller")

    def lease(self) -> Obj:
        """As it is now."""
        found: Obj = self.virtual.host.api.get(self.lease_path)
        return found

    def lease_writes(self) -> list[audit.Request]:
        """Each time that one got, kept, renewed or released the lease."""
        return [write for write in audit.writes(self.virtual.host) if write.resource == "leases" and write.code in (200, 201)]


@contextmanager
def churn(virtual: VirtualCluster, prefix: str) -> Iterator[None]:
    """A tenant who creates and deletes pods all the time. In the end, when he has stopped, both sides have the same pods."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        number = 0
        try:
            while not stop.wait(0.05):
                virtual.api.apply(_pod(f"{prefix}-{number}"))
                if number >= 10:
                    virtual.api.delete(f"/api/v1/namespaces/default/pods/{prefix}-{number - 10}")
                number += 1
        except BaseException as error:  # noqa: BLE001  told below, in the thread that waits
            failed.append(error)

    tenant = threading.Thread(target=work, daemon=True)
    tenant.start()
    try:
        yield
    finally:
        stop.set()
        tenant.join()
    assert not failed, failed
    wait_until(lambda: _running(virtual, prefix), f"all of {prefix} runs and nothing else is on the host", 60)


def _pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "lab.local/none:1"}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _running(virtual: VirtualCluster, prefix: str) -> bool:
    pods = [pod for pod in virtual.api.get("/api/v1/namespaces/default/pods")["items"] if pod["metadata"]["name"].startswith(prefix)]
    hosts = virtual.host.api.get(f"/api/v1/namespaces/{virtual.host_namespace}/pods")["items"]
    names = {f"{pod['metadata']['name']}-x-default-x-{virtual.name}" for pod in pods}
    return all(pod["status"]["phase"] == "Running" for pod in pods) and names == {
        pod["metadata"]["name"] for pod in hosts if pod["metadata"]["name"].startswith(f"{prefix}-")
    }

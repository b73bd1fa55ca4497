"""The application of the demo and of the tests: apply it, wait for it, use it, look at it from inside."""

from __future__ import annotations

import subprocess
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from e2e.errors import LabError
from e2e.lab import node
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.lab.api import Api
    from e2e.lab.host import HostCluster
    from e2e.lab.state import Lab

MANIFEST = Path(__file__).parent / "manifests" / "guestbook.yaml"
NAMESPACE = "guestbook"
PODS = 8
"""How many pods it has: primary, two replicas, three frontends, two peers."""


class Cluster(Protocol):
    """What is needed of any cluster."""

    @property
    def name(self) -> str: ...
    @property
    def kubeconfig(self) -> Path: ...
    @property
    def api(self) -> Api: ...
    def binary(self, name: str) -> Path: ...


class Virtual(Cluster, Protocol):
    """What is needed of a virtual cluster, however it came to be."""

    @property
    def lab(self) -> Lab: ...
    @property
    def host(self) -> Cluster: ...
    @property
    def host_namespace(self) -> str: ...


def kubectl(cluster: Cluster, *words: str, check: bool = True, timeout: float = 120.0) -> str:
    """What kubectl prints for a cluster of the lab; LabError with its complaint when it fails and `check` is set."""
    command = [str(cluster.binary("kubectl")), f"--kubeconfig={cluster.kubeconfig}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise LabError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout + (done.stderr if not check else "")


def apply(virtual: Virtual) -> None:
    """Apply the application in the virtual cluster."""
    kubectl(virtual, "apply", "-f", str(MANIFEST))


def pods(cluster: Cluster, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """The pods of a namespace."""
    found: list[dict[str, Any]] = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return found


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod is Ready and not being deleted."""
    conditions = pod.get("status", {}).get("conditions") or []
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def wait_ready(virtual: Virtual, count: int = PODS, timeout: float = 120.0) -> None:
    """Until exactly `count` pods are there, all Ready, as the virtual cluster shows it."""

    def enough() -> bool:
        found = pods(virtual)
        return len(found) == count and all(map(is_ready, found))

    wait_until(enough, f"{count} pods Ready in {virtual.name}", timeout)


def host_pods(virtual: Virtual) -> list[dict[str, Any]]:
    """Those pods of the host that belong to the virtual cluster."""
    path = f"/api/v1/namespaces/{virtual.host_namespace}/pods"
    found: list[dict[str, Any]] = virtual.host.api.get(path, labelSelector=f"vcluster.loft.sh/managed-by={virtual.name}")["items"]
    return found


def write_entry(virtual: Virtual, text: str) -> None:
    """Write a guestbook entry through the frontend, which hands it to the primary by its virtual DNS name.

    `text` must be one word: the frontend does not escape what it passes on.
    """
    path = f"/guestbook?cmd=set&key=messages&value={urllib.parse.quote(text)}"
    wait_until(lambda: "Updated" in _ask(virtual, path), "an entry written")


def read_entry(virtual: Virtual, text: str) -> str:
    """Read it back through the frontend, which asks a replica; waits until it has arrived there."""
    answers = [""]  # the one that has it: the next may come from a replica that does not

    def arrived() -> bool:
        answers.append(_ask(virtual, "/guestbook?cmd=get&key=messages"))
        return text in answers[-1]

    wait_until(arrived, f"the entry {text!r} read back")
    return answers[-1]


def in_pod(host: HostCluster, namespace: str, pod: str, *command: str) -> str:
    """What a command prints in a container of a host pod. (Through the virtual cluster it needs the syncer's front door.)"""
    return kubectl(host, "-n", namespace, "exec", pod, "--", *command)


def host_pod_name(virtual: Virtual, name: str, namespace: str = NAMESPACE) -> str:
    """The host pod of a virtual one."""
    for pod in host_pods(virtual):
        annotations = pod["metadata"]["annotations"]
        if (annotations["vcluster.loft.sh/object-namespace"], annotations["vcluster.loft.sh/object-name"]) == (namespace, name):
            found: str = pod["metadata"]["name"]
            return found
    raise LabError(f"{virtual.name}: {namespace}/{name} has no host pod")


def _ask(virtual: Virtual, path: str) -> str:
    """What the frontend answers, asked from the node: the host's ClusterIPs lead nowhere outside of it."""
    address = virtual.api.get(f"/api/v1/namespaces/{NAMESPACE}/services/frontend")["spec"]["clusterIP"]
    try:
        return node.run(virtual.lab, "busybox", "timeout", "5", "busybox", "wget", "-q", "-O", "-", f"http://{address}:80{path}")
    except LabError as error:
        return str(error)

"""Control planes of Kubernetes' own programs on the real node, and what tests do to their pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e2e.guestbook import is_ready
from e2e.kubernetes import binaries
from e2e.lab import k8s_images, node
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX

if TYPE_CHECKING:
    from e2e.installed import Installed
    from e2e.lab.api import Obj


def k8s_values() -> Obj:
    """What the chart has to be told of `distro: k8s` in a lab."""
    names = {"api": "kube-apiserver", "controller": "kube-controller-manager", "etcd": "etcd"}
    return {
        "distro": "k8s",
        **{part: {"image": k8s_images.tag(program), "imagePullPolicy": "Never"} for part, program in names.items()},
    }


def web(name: str) -> Obj:
    """A pod that serves its name."""
    script = f"echo serving; mkdir -p /tmp/www; echo {name} >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"
    spec = {"containers": [{"name": "web", "image": BUSYBOX, "command": ["sh", "-c", script]}], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}}, "spec": spec}


def run_web(release: Installed, name: str, timeout: float = 60) -> None:
    """Have the tenant make such a pod, and wait until it is ready."""
    release.api.apply(web(name))
    wait_until(lambda: is_ready(release.api.get(f"/api/v1/namespaces/default/pods/{name}")), f"the tenant's pod {name} is ready", timeout)


def etcd_pods(release: Installed) -> list[Any]:
    """On the host."""
    found: list[Any] = release.host.api.get(f"{release.path}/pods", labelSelector=f"app=vcluster-etcd,release={release.name}")["items"]
    return found


def restarts(pod: Any) -> dict[str, int]:
    """How often each container was started again."""
    return {status["name"]: status["restartCount"] for status in pod["status"]["containerStatuses"]}


def kill_container(release: Installed, pod: Any, name: str) -> None:
    """SIGKILL to all of a container's processes, as the kernel does when memory is short."""
    (status,) = (one for one in pod["status"]["containerStatuses"] if one["name"] == name)
    container = status["containerID"].removeprefix("containerd://")
    node.run(release.lab, binaries.ensure("ctr")["ctr"], "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", "--all", container)

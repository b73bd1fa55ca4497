"""The node of a lab: containerd, kubelet, kube-proxy and CoreDNS on this machine. Needs root; a machine has room for one.

Everything of it is in `<lab>/node` and in namespaces of its own, so `down()` is: end what is in its control group, remove the directory.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.errors import LabError
from e2e.lab import cni, containerd, coredns, fence, images, kubelet, kubeproxy, namespaces, process
from e2e.lab.api import wait_until
from e2e.lab.state import BRIDGE_ADDRESS, POD_RANGE, VIRTUAL_SERVICE_RANGE, Lab

if TYPE_CHECKING:
    from e2e.lab.host import HostCluster

NAME = kubelet.NODE_NAME
ADDRESS = namespaces.NODE_ADDRESS
PACKAGES = {
    "runc": "/usr/sbin/runc",
    "conntrack": "/usr/sbin/conntrack",
    "iptables": "/usr/sbin/iptables",
    "ebtables": "/usr/sbin/ebtables",
    "socat": "/usr/bin/socat",
    "busybox-static": "/usr/bin/busybox",
    "bash-static": "/usr/bin/bash-static",
    "iproute2": "/usr/sbin/ip",
}
"""Debian packages that a node needs, and the file by which each is known."""

_OWNER = Path("/run/syncer-lab-node.json")  # says which lab has the machine's one node
_COMPLETE = "complete"
_PROCESSES = (containerd.NAME, kubelet.NAME, kubeproxy.NAME)


@functools.cache
def why_not() -> str | None:
    """Why this machine cannot have a node, and its labs no fence, in words that say what to do; None if it can."""
    if os.geteuid() != 0:
        return "a node needs root"
    missing = [package for package, file in PACKAGES.items() if not Path(file).exists()]
    if missing:
        return f"a node needs Debian packages: apt-get install --no-install-recommends {' '.join(missing)}"
    if not fence.is_possible():
        how = "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified; in a container: start it privileged"
        return f"a node needs control groups version 2, if only beside version 1, and the right to change them ({how})"
    try:
        namespaces.probe()
    except LabError as error:
        return f"a node needs namespaces of its own; in a container: start it privileged ({error})"
    return None


def up(host: HostCluster) -> None:
    """Give the host cluster a node, with cluster DNS, and wait until both are ready. A node that runs is kept, a broken one made anew."""
    if reason := why_not():
        raise LabError(reason)
    lab, directory = host.lab, _directory(host.lab.dir)
    if is_up(lab):
        return
    _claim(lab)
    _clear(lab.dir)
    archives = images.standard()
    fence.up(lab.dir)
    fence.enclose(lab.dir, process.strays(lab.dir))
    namespaces.up(directory, {POD_RANGE, host.service_range, VIRTUAL_SERVICE_RANGE})
    forward(lab, host.port("apiserver"))
    containerd.start(directory, images.PAUSE)
    containerd.import_images(directory, archives)
    kubelet.start(host, directory, coredns.host_address(host))
    kubeproxy.start(host, directory)
    path = f"/api/v1/nodes/{NAME}"
    process.wait_ready(directory, kubelet.NAME, lambda: bool((host.api.find(path) or {}).get("spec", {}).get("podCIDR")), 30)
    cni.configure(directory, host.api.get(path)["spec"]["podCIDR"])
    wait_until(lambda: _is_ready(host), f"node {NAME} Ready (see {directory / 'logs'})", 60)
    coredns.deploy(host)
    (directory / _COMPLETE).touch()


def down(lab: Lab) -> None:
    """Remove the lab's node and all that runs on it; nothing of it is left on this machine. Does nothing if the lab has none."""
    if _owner() == lab.dir:
        _clear(lab.dir)
        _OWNER.unlink(missing_ok=True)


def is_up(lab: Lab) -> bool:
    """Whether the lab has a node that was brought up to the end and whose processes all run."""
    directory = _directory(lab.dir)
    whole = (directory / _COMPLETE).exists() and namespaces.alive(directory)
    return _owner() == lab.dir and whole and all(process.alive(directory, name) for name in _PROCESSES)


def forward(lab: Lab, port: int) -> None:
    """Let pods reach a TCP port of this machine's loopback, e.g. an API server's, as BRIDGE_ADDRESS:port. The node must be up."""
    directory = _directory(lab.dir)
    name = f"forward-{port}"
    listen = f"TCP-LISTEN:{port},bind={BRIDGE_ADDRESS},fork,reuseaddr,nodelay"
    process.spawn(directory, name, fence.inside(directory, ["socat", listen, f"TCP:127.0.0.1:{port},nodelay"], fence.NODE))
    process.wait_ready(directory, name, lambda: _accepts(port), 10)


def import_images(lab: Lab, *archives: Path) -> None:
    """Make images from OCI archives (`images.build()`) available to the lab's pods."""
    containerd.import_images(_directory(lab.dir), archives)


def run(lab: Lab, *argv: str | Path) -> str:
    """Run a command in the node's namespaces, e.g. `iptables-save`; what it printed."""
    return namespaces.run(_directory(lab.dir), *argv)


def refused(lab: Lab) -> int:
    """Packets that pods, and kubelet and its like, have sent to nowhere so far."""
    return fence.refused_pods(namespaces.enter(_directory(lab.dir)))


def status(lab: Lab) -> list[tuple[str, int | None, int]]:
    """Name, pid (None: dead) and resident bytes of each of the node's processes."""
    directory = _directory(lab.dir)
    return [(name, process.pid_of(directory, name), process.memory(directory, name)) for name in process.names(directory)]


def _directory(lab: Path) -> Path:
    return lab / "node"


def _owner() -> Path | None:
    """Directory of the lab that has the machine's node, running or not."""
    try:
        return Path(json.loads(_OWNER.read_text())["directory"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def _claim(lab: Lab) -> None:
    """Make the machine's one node ours; what a crashed lab left of its own is removed first."""
    while True:
        try:
            with _OWNER.open("x") as file:
                json.dump({"lab": lab.name, "directory": str(lab.dir)}, file)
        except FileExistsError:
            owner = _owner()
            if owner == lab.dir:
                return
            if owner is not None and namespaces.alive(_directory(owner)):
                how = f"python -m e2e.lab --lab {owner.name} down"
                raise LabError(f"lab {owner.name!r} ({owner}) has this machine's one node: take it down first ({how})") from None
            if owner is not None:
                _clear(owner)
            _OWNER.unlink(missing_ok=True)
        else:
            return


def _clear(lab: Path) -> None:
    directory = _directory(lab)
    fence.kill(fence.control_group(lab) / fence.NODE)
    namespaces.down()
    for name in process.names(directory):
        process.stop(directory, name, grace=0)
    shutil.rmtree(directory, ignore_errors=True)


def _is_ready(host: HostCluster) -> bool:
    node = host.api.get(f"/api/v1/nodes/{NAME}")
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((BRIDGE_ADDRESS, port)) == 0

"""The node's own machine: a mount namespace and a network namespace, held by one process.

Pods, bridges, routes, packet filter rules, conntrack, mounts and everything below /run, /var/lib and /var/log of the node exist in there
only: they go when the last process in there goes, whatever went wrong before. This machine sees one interface, BRIDGE.

```
  this machine                              the node
  BRIDGE 172.30.0.1 ────── cable ────── 172.30.0.2 uplink
    routes to pods and Services             cni0 10.244.x.1 ── pods
    through the cable                       nowhere: the default route, refused (see `fence`)
```
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from e2e.errors import LabError
from e2e.lab import fence, process
from e2e.lab.state import BRIDGE_ADDRESS, POD_RANGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

NODE_ADDRESS = "172.30.0.2"
"""The node's end of the cable: its InternalIP, where its kubelet and node ports are."""
CABLE = "172.30.0.0/30"
_PREFIX = CABLE.rpartition("/")[2]
_HOLDER = "namespaces"
_COVERED = {"/run": None, "/var/lib": "var-lib", "/var/log": "var-log"}  # by directories of the node, /run by memory

# What kubelet would set for the whole machine, e.g. a reboot on a kernel oops. It finds these values in files laid over the settings.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}

_SCRIPT = "\n".join(
    [
        "mount --make-rshared /",  # volumes may ask for mount propagation
        "mount -t tmpfs run /run",  # sockets: their paths must be short
        *[f'mount --bind "$0/{name}" {covered}' for covered, name in _COVERED.items() if name],
        *[f"mkdir -p $(dirname /run/sys/{name}); echo {value} >/run/sys/{name}" for name, value in _KERNEL_SETTINGS.items()],
        *[f"mount --bind /run/sys/{name} /proc/sys/{name}" for name in _KERNEL_SETTINGS],
        "ip link set lo up",
        'touch "$0/namespaces-ready"',
        "exec sleep infinity",
    ]
)


def up(directory: Path, ranges: Iterable[str]) -> None:
    """Make the namespaces of the node in `directory`, the cable and the routes to `ranges` of pods and Services."""
    for covered, name in _COVERED.items():
        if directory.is_relative_to(covered):
            raise LabError(f"{directory} is below {covered}, which the node hides from itself: set XDG_STATE_HOME to a directory elsewhere")
        (directory / (name or "")).mkdir(parents=True, exist_ok=True)
    holder: list[str | Path] = ["unshare", "--mount", "--net", "--", "/bin/sh", "-ec", _SCRIPT, directory]
    process.spawn(directory, _HOLDER, fence.inside(directory, holder, fence.NODE))
    process.wait_ready(directory, _HOLDER, (directory / "namespaces-ready").exists, 10)
    pid = process.pid_of(directory, _HOLDER)
    _run("ip", "link", "add", fence.BRIDGE, "type", "veth", "peer", "name", "uplink", "netns", str(pid))
    _run("sysctl", "-eqw", f"net.ipv6.conf.{fence.BRIDGE}.disable_ipv6=1")
    _run("ip", "address", "add", f"{BRIDGE_ADDRESS}/{_PREFIX}", "dev", fence.BRIDGE)
    _run("ip", "link", "set", fence.BRIDGE, "up")
    for command in (
        f"ip address add {NODE_ADDRESS}/{_PREFIX} dev uplink",
        "ip link set uplink up",
        # a bridge without ports: what is sent there goes nowhere
        f"ip link add {fence.DEAD_END} type bridge",
        f"ip link set {fence.DEAD_END} up",
        f"ip route add default dev {fence.DEAD_END}",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):
        _run(*enter(directory), *command.split())
    fence.fence_pods(enter(directory), (CABLE, POD_RANGE))
    for destination in ranges:
        route(destination)


def probe() -> None:
    """LabError if this machine does not let us make such namespaces."""
    _run("unshare", "--mount", "--net", "--", "/bin/sh", "-ec", "mount --make-rshared /; ip link set lo up; iptables -w -N LAB-PROBE")


def route(destination: str) -> None:
    """Send packets for a range of addresses to the node, so that none of them takes this machine's default route."""
    _run("ip", "route", "replace", destination, "via", NODE_ADDRESS)


def spawn(directory: Path, name: str, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
    """Start a process on the node in `directory`, as `process.spawn()` does."""
    process.spawn(directory, name, fence.inside(directory, [*enter(directory), *argv], fence.NODE), env=env)


def run(directory: Path, *argv: str | Path) -> str:
    """Run a command on the node in `directory`; what it printed, or LabError."""
    return _run(*enter(directory), *map(str, argv))


def enter(directory: Path) -> list[str]:
    """The prefix that makes a command run on the node in `directory`, which must be up."""
    pid = process.pid_of(directory, _HOLDER)
    if pid is None:
        raise LabError(f"the node in {directory} is not running")
    return ["nsenter", f"--target={pid}", "--mount", "--net", "--"]


def down() -> None:
    """Cut the cable at once; the kernel takes its time to remove the namespaces of processes that have ended."""
    subprocess.run(["ip", "link", "delete", fence.BRIDGE], capture_output=True, check=False)


def alive(directory: Path) -> bool:
    """Whether the namespaces exist."""
    return process.alive(directory, _HOLDER)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout

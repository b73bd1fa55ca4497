"""Nothing that a lab starts reaches an address outside this machine.

Two fences, both owned by one lab and gone with it:

- *Processes* (API servers, controllers, containerd, kubelet and what they start) live in a control group of the lab; the packet filter
  refuses whatever they send out by another interface than loopback and the node's cable. It needs root, as the node does. A lab
  without root has no such fence: it starts nothing that is told an address outside loopback.
- *Pods* live in the node's own network namespace (see `namespaces`), which has a cable to this machine and no route beyond it. What has
  no other way goes to `DEAD_END`, an interface that leads nowhere, and is refused in front of it at once. Should a rule of kube-proxy let a
  packet pass, it still ends there.

The control group is also how a lab is cleared away after a crash: the kernel ends all that is in it by one write.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.errors import LabError
from e2e.lab.state import BRIDGE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BRIDGE = "lab0"
"""This machine's end of the cable to the node; carries BRIDGE_ADDRESS."""
DEAD_END = "nowhere"
NODE = "node"
"""The part of a lab (see `inside()`) that can be ended alone."""
_IPTABLES = ("iptables", "ip6tables")


def up(directory: Path) -> None:
    """Make the control group and the rules of the lab in `directory`, unless they are there. Needs root."""
    group, chain = control_group(directory), _chain(directory)
    if group.is_dir() and chain in _run("iptables", "-S", "INPUT"):  # the last of what follows
        return
    _remove_rules(chain)
    (group / "processes").mkdir(parents=True, exist_ok=True)
    mark = ["-m", "comment", "--comment", chain]
    for program in _IPTABLES:
        _run(program, "-N", chain)
        for interface in ("lo", BRIDGE):
            _run(program, "-A", chain, "-o", interface, "-j", "RETURN")
        _reject([program], chain)
        _run(program, "-I", "OUTPUT", "-m", "cgroup", "--path", group.name, *mark, "-j", chain)
        # this machine may forward packets for other reasons: never the node's
        _run(program, "-I", "FORWARD", "-i", BRIDGE, *mark, "-j", chain)
        _run(program, "-I", "FORWARD", "-o", BRIDGE, *mark, "-j", "REJECT")
    _run("iptables", "-I", "INPUT", "-i", BRIDGE, "!", "-d", BRIDGE_ADDRESS, *mark, "-j", chain)


def down(directory: Path) -> None:
    """End every process inside the fence, then remove it. Does nothing if there is none."""
    kill(control_group(directory))
    _remove_rules(_chain(directory))


def is_possible() -> bool:
    """Whether this machine has the control groups that a fence is made of, and lets us change them."""
    return any(os.access(mount, os.W_OK) for mount in _mounts("cgroup2")[:1])


def is_up(directory: Path) -> bool:
    """Whether the lab in `directory` has a fence around its processes."""
    return control_group(directory).is_dir()


def inside(directory: Path, argv: Sequence[str | Path], part: str = "") -> list[str | Path]:
    """The command that runs `argv` under the same pid inside the fence of the lab that `directory` is, or is in; `argv` itself without one.

    `part` names a control group below the lab's, so that a part of the lab can be ended alone.
    """
    group = next((group for place in (directory, *directory.parents) if (group := control_group(place)).is_dir()), None)
    if group is None:
        return list(argv)
    leaf = group / part / "processes"  # version 2 allows processes in leaves only
    leaf.mkdir(parents=True, exist_ok=True)
    return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', leaf / "cgroup.procs", *argv]


def fence_pods(enter: Sequence[str], local_ranges: Iterable[str]) -> None:
    """Refuse, in the network namespace that the command prefix `enter` enters, all that would go to DEAD_END.

    Processes there may reach `local_ranges`. That is decided by address, as in OUTPUT -o still names the interface from before
    kube-proxy's rewrite.
    """
    program = [*enter, "iptables"]
    _run(*program, "-N", "LAB-FENCE")
    # to a Service whose endpoint is outside: a reset would come from the endpoint, as none is translated back on a bridge
    _run(*program, "-A", "LAB-FENCE", "-m", "conntrack", "--ctstate", "DNAT", "-j", "REJECT")
    _reject(program, "LAB-FENCE")
    _run(*program, "-A", "FORWARD", "-o", DEAD_END, "-j", "LAB-FENCE")
    _run(*program, "-A", "OUTPUT", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "ACCEPT")
    for destination in local_ranges:
        _run(*program, "-A", "OUTPUT", "-d", destination, "-j", "ACCEPT")
    _run(*program, "-A", "OUTPUT", "-j", "LAB-FENCE")


def refused(directory: Path) -> int:
    """Packets of the lab's processes that the fence has refused so far."""
    return sum(_rejected_packets([program], _chain(directory)) for program in _IPTABLES)


def refused_pods(enter: Sequence[str]) -> int:
    """Packets of pods that the fence has refused so far, in the network namespace that `enter` enters."""
    return _rejected_packets([*enter, "iptables"], "LAB-FENCE")


def control_group(directory: Path) -> Path:
    """Directory of the lab's control group; it has the same path in each hierarchy of version 1."""
    return _hierarchy() / f"syncer-lab-{_tag(directory)}"


def make_node_group(directory: Path) -> str:
    """Make the control group below which kubelet keeps its pods, in every hierarchy; its path as kubelet wants it."""
    group = control_group(directory) / NODE
    for mount in _mounts("cgroup", "cgroup2"):
        (mount / group.relative_to(_hierarchy())).mkdir(parents=True, exist_ok=True)
    return f"/{group.relative_to(_hierarchy())}"


def enclose(directory: Path, pids: Iterable[int]) -> None:
    """Put processes that were started outside into the fence of the lab in `directory`; connections that they have stay as they are."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            (control_group(directory) / "processes" / "cgroup.procs").write_text(str(pid))


def kill(group: Path) -> None:
    """End all processes below a control group and remove it, in every hierarchy."""
    if (group / "cgroup.kill").exists():
        (group / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + 20
        while "populated 1" in (group / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise LabError(f"processes in {group} do not end on SIGKILL: see /proc/<pid>/stack of those in cgroup.procs")
            time.sleep(0.02)
    for mount in _mounts("cgroup", "cgroup2"):
        _remove_tree(mount / group.relative_to(_hierarchy()))
        if mount != _hierarchy() and group.parent != _hierarchy():
            _remove_tree(mount / group.parent.relative_to(_hierarchy()))  # version 1 has nothing else in there


def _remove_tree(group: Path) -> None:
    if group.is_dir():
        for child in group.iterdir():
            if child.is_dir():
                _remove_tree(child)
        deadline = time.monotonic() + 5
        while True:
            try:
                group.rmdir()
            except OSError as error:  # a dying process is counted for a moment longer
                if time.monotonic() > deadline:
                    raise LabError(f"control group {group} cannot be removed: {error.strerror}") from error
                time.sleep(0.02)
            else:
                return


def _hierarchy() -> Path:
    """Mount point of control groups version 2, which "hybrid" machines have beside version 1."""
    mounts = _mounts("cgroup2")
    if not mounts:
        raise LabError("no control groups version 2 on this machine: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    return mounts[0]


def _mounts(*types: str) -> list[Path]:
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(fields[1]) for fields in lines if fields[2] in types]


def _tag(directory: Path) -> str:
    """Short name of a lab for the kernel: labs of two users, or of two state directories, may be named alike."""
    return hashlib.sha256(str(directory).encode()).hexdigest()[:8]


def _chain(directory: Path) -> str:
    return f"LAB-{_tag(directory)}"


def _reject(program: Sequence[str], chain: str) -> None:
    # a reset is immediate; the kernel limits how many ICMP refusals it sends to one peer
    _run(*program, "-A", chain, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
    _run(*program, "-A", chain, "-j", "REJECT")


def _has_chain(program: str, chain: str) -> bool:
    return subprocess.run([program, "-w", "-S", chain], capture_output=True, check=False).returncode == 0


def _remove_rules(chain: str) -> None:
    for program in _IPTABLES:
        for rule in _run(program, "-S").splitlines():
            verb, *specification = rule.split()
            if verb == "-A" and specification[0] != chain and chain in specification:
                _run(program, "-D", *specification)
        if _has_chain(program, chain):
            _run(program, "-F", chain)
            _run(program, "-X", chain)


def _rejected_packets(program: Sequence[str], chain: str) -> int:
    lines = _run(*program, "-nvxL", chain).splitlines()
    return sum(int(line.split()[0]) for line in lines if "REJECT" in line)


def _run(*argv: str) -> str:
    """Run a command of the packet filter, waiting for others that use it; what it printed."""
    at = next(i for i, word in enumerate(argv) if word in _IPTABLES) + 1
    done = subprocess.run([*argv[:at], "-w", *argv[at:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout

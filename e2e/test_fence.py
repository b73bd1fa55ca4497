"""Nothing of a lab reaches an address outside this machine.

Whatever the fence would let through is dropped, and counted, by a rule of the test behind it: nothing leaves even if the fence fails.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab import fence, node, process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.host import HostCluster

pytestmark = pytest.mark.node

DOCUMENTATION = ("192.0.2.1", "198.51.100.1", "203.0.113.1")  # RFC 5737: belong to nobody
DOCUMENTATION_6 = "2001:db8::1"
PORT = 9  # discard


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def gateway() -> list[str]:
    """The address behind which the outside begins; none on a machine without a network."""
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    found = [int(route[2], 16).to_bytes(4, "little") for route in routes if route[1] == "00000000" and route[2] != "00000000"]
    return [socket.inet_ntoa(address) for address in found[:1]]


def has_ipv6() -> bool:
    """Whether this machine has a way out by IPv6."""
    try:
        routes = [line.split() for line in Path("/proc/net/ipv6_route").read_text().splitlines()]
    except FileNotFoundError:
        return False
    return any(route[0] == "0" * 32 and route[1] == "00" and route[-1] != "lo" for route in routes)


def outside() -> list[str]:
    return sorted({*DOCUMENTATION, *gateway()})


@contextmanager
def tripwire(*addresses: str) -> Iterator[Tripwire]:
    """Drops and counts packets to port PORT of the addresses at the last place before they leave."""
    wire = Tripwire(addresses)
    try:
        wire.change("-I")
        yield wire
    finally:
        wire.change("-D")


class Tripwire:
    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses

    def change(self, verb: str) -> None:
        for address in self.addresses:
            for protocol in ("tcp", "udp"):
                rule = ["-d", address, "-p", protocol, "--dport", str(PORT), "-m", "comment", "--comment", "lab-tripwire", "-j", "DROP"]
                output(_iptables(address), "-w", "-t", "mangle", verb, "POSTROUTING", *rule)

    @property
    def packets(self) -> int:
        lines = [line for p in ("iptables", "ip6tables") for line in output(p, "-w", "-t", "mangle", "-nvxL", "POSTROUTING").splitlines()]
        return sum(int(line.split()[0]) for line in lines if "lab-tripwire" in line)


def _iptables(address: str) -> str:
    return "ip6tables" if ":" in address else "iptables"


def connect(directory: Path, address: str, *, udp: bool = False) -> tuple[str, float]:
    """What a process of the lab in `directory` is told when it sends to the address, and after how many seconds."""
    start = time.monotonic()
    # one byte by UDP, or a connection; bash has both, and no name is ever looked up
    script = f"exec 3>/dev/{'udp' if udp else 'tcp'}/{address}/{PORT} && echo x >&3 && echo sent"
    command = fence.inside(directory, ["timeout", "5", "/bin/bash", "-c", script])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, time.monotonic() - start


def is_refused(said: str) -> bool:
    """A process on the same machine as the fence is told "not permitted" when it sends UDP."""
    return "refused" in said.lower() or "not permitted" in said


@pytest.fixture
def fenced(tmp_path: Path) -> Iterator[Path]:
    fence.up(tmp_path)
    yield tmp_path
    fence.down(tmp_path)


class TestProcesses:
    @pytest.mark.parametrize("address", outside())
    @pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
    def test_what_they_send_outside_is_refused_at_once(self, fenced: Path, address: str, udp: bool) -> None:
        before = fence.refused(fenced)
        with tripwire(address) as wire:
            said, seconds = connect(fenced, address, udp=udp)
            assert wire.packets == 0
        assert is_refused(said), said
        assert seconds < 2
        assert fence.refused(fenced) > before

    @pytest.mark.skipif(not has_ipv6(), reason="this machine has no way out by IPv6")
    def test_ipv6_is_refused_too(self, fenced: Path) -> None:
        with tripwire(DOCUMENTATION_6) as wire:
            said, _ = connect(fenced, DOCUMENTATION_6)
            assert wire.packets == 0
        assert "refused" in said, said
        assert fence.refused(fenced) == 1

    def test_without_the_fence_the_packet_would_have_left(self, tmp_path: Path) -> None:
        """The tripwire does count: else the other tests here could not fail."""
        if not gateway():
            pytest.skip("this machine has no way out")
        with tripwire(DOCUMENTATION[1]) as wire:
            connect(tmp_path, DOCUMENTATION[1], udp=True)
            assert wire.packets == 1

    def test_loopback_is_open(self, fenced: Path) -> None:
        said, _ = connect(fenced, "127.0.0.1", udp=True)
        assert "sent" in said
        assert fence.refused(fenced) == 0

    def test_down_ends_what_is_inside_and_removes_the_rules(self, tmp_path: Path) -> None:
        before = rules()
        fence.up(tmp_path)
        assert rules() != before
        process.spawn(tmp_path, "sleeper", fence.inside(tmp_path, ["sleep", "600"]))
        process.wait_ready(tmp_path, "sleeper", lambda: len(pids_in(fence.control_group(tmp_path))) == 1, 5)
        fence.down(tmp_path)
        assert not process.alive(tmp_path, "sleeper")
        process.stop(tmp_path, "sleeper")
        assert rules() == before
        assert not fence.is_up(tmp_path)

    def test_two_labs_have_a_fence_each(self, fenced: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        other = tmp_path_factory.mktemp("other")
        fence.up(other)
        with tripwire(DOCUMENTATION[0]):
            connect(other, DOCUMENTATION[0])
        assert (fence.refused(fenced), fence.refused(other)) == (0, 1)
        fence.down(other)
        with tripwire(DOCUMENTATION[0]) as wire:
            connect(fenced, DOCUMENTATION[0])
            assert wire.packets == 0
        assert fence.refused(fenced) == 1


@pytest.fixture(scope="module")
def cluster(real_node: HostCluster) -> Iterator[HostCluster]:
    """The host cluster with a node and two pods that probe: `pod`, and `host` in the node's own network."""
    real_node.create_namespace("fence")
    for name, host_network in (("pod", False), ("host", True)):
        real_node.api.apply(prober(name, host_network=host_network))
    kubectl(real_node, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
    yield real_node
    real_node.api.delete("/api/v1/namespaces/fence")


def prober(name: str, *, host_network: bool) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "fence"},
        "spec": {
            "hostNetwork": host_network,
            "nodeSelector": {"kubernetes.io/hostname": node.NAME},
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "prober", "image": "registry.k8s.io/e2e-test-images/agnhost:2.63.0", "args": ["pause"]}],
        },
    }


def kubectl(cluster: HostCluster, *arguments: str) -> str:
    command = [str(cluster.binary("kubectl")), "--namespace=fence", *arguments]
    done = subprocess.run(command, env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def probe(cluster: HostCluster, pod: str, address: str, port: int = PORT, protocol: str = "tcp") -> str:
    """What agnhost says of a connection from the pod: REFUSED, TIMEOUT, OTHER, or nothing if it was made."""
    return kubectl(cluster, "exec", pod, "--", "/agnhost", "connect", "--timeout=5s", f"--protocol={protocol}", f"{address}:{port}")


def machine_address() -> list[str]:
    """This machine's own address outside, which is no business of pods either."""
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            udp.connect((DOCUMENTATION[1], PORT))  # asks for the route only: nothing is sent
        except OSError:
            return []
        return [udp.getsockname()[0]]


@pytest.mark.parametrize("pod", ["pod", "host"])
class TestPods:
    @pytest.mark.parametrize(
        "address",
        [*outside(), *machine_address(), "10.96.77.77", "10.97.77.77"],
        ids=lambda address: {"10.96.77.77": "unused ClusterIP", "10.97.77.77": "virtual ClusterIP"}.get(address, address),
    )
    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    def test_what_they_send_to_no_pod_is_refused_at_once(self, cluster: HostCluster, pod: str, address: str, protocol: str) -> None:
        before = node.refused(cluster.lab)
        with tripwire(address) as wire:
            said = probe(cluster, pod, address, protocol=protocol)
            assert wire.packets == 0
        assert is_refused(said), said
        assert node.refused(cluster.lab) > before

    def test_a_port_that_a_service_does_not_have_is_refused(self, cluster: HostCluster, pod: str) -> None:
        assert "REFUSED" in probe(cluster, pod, "10.96.0.10", 54)

    def test_a_service_whose_endpoint_is_outside_leads_nowhere(self, cluster: HostCluster, pod: str) -> None:
        address = outside_service(cluster)
        with tripwire(DOCUMENTATION[2]) as wire:
            said = probe(cluster, pod, address)
            assert wire.packets == 0
        assert is_refused(said), said


def outside_service(cluster: HostCluster) -> str:
    """The ClusterIP of a Service that somebody pointed at an address outside."""
    metadata: dict[str, Any] = {"name": "outside", "namespace": "fence"}
    service = cluster.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": PORT}]}})
    address: str = service["spec"]["clusterIP"]
    cluster.api.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": "outside"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [DOCUMENTATION[2]]}],
            "ports": [{"port": PORT}],
        }
    )
    deadline = time.monotonic() + 20
    while DOCUMENTATION[2] not in node.run(cluster.lab, "iptables-save", "-t", "nat"):
        assert time.monotonic() < deadline, "kube-proxy never heard of the endpoint"
        time.sleep(0.1)
    return address


def test_every_process_of_the_lab_is_inside(cluster: HostCluster) -> None:
    inside = pids_in(fence.control_group(cluster.lab.dir))
    assert {pid for pid in process.strays(cluster.lab.dir) if pid not in inside} == set()
    assert len(inside) > 5


def pids_in(group: Path) -> set[int]:
    return {int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()}


def rules() -> list[str]:
    return [line for program in ("iptables", "ip6tables") for line in output(program, "-w", "-S").splitlines()]

"""The real node does what a node does, is one a machine, and leaves nothing behind."""

from __future__ import annotations

import functools
import http.client
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.errors import LabError
from e2e.lab import fence, node, nodes, process
from e2e.lab.api import wait_until
from e2e.lab.host import HostCluster
from e2e.lab.images import AGNHOST, BUSYBOX
from e2e.lab.state import BRIDGE_ADDRESS, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.fixtures import StartVirtual

pytestmark = pytest.mark.node

NAMESPACE = "node-test"
WEB = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: BUSYBOX
    stdin: true
    env: [{name: data-1, value: kept}]
    command:
    - sh
    - -c
    - 'mkdir /w; hostname >/w/index.html; httpd -p 8080 -h /w; echo started; while read l; do echo "got:$l"; done; sleep 1d'
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tools}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: tools
    image: AGNHOST
    args: [pause]
    volumeMounts: [{name: kubectl, mountPath: /kubectl}]
  volumes: [{name: kubectl, hostPath: {path: KUBECTL, type: File}}]
"""


class Kubectl:
    """kubectl with a cluster-admin's rights in one namespace."""

    def __init__(self, cluster: HostCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """What it printed on standard output; the test fails unless it exits with `code`."""
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"kubectl {' '.join(arguments)}: exit code {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        return [
            str(self.cluster.binary("kubectl")),
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--namespace={self.namespace}",
            *arguments,
        ]

    def jsonpath(self, kind: str, name: str, path: str) -> str:
        return self("get", kind, name, "-o", f"jsonpath={{{path}}}")


def apply(cluster: HostCluster, namespace: str, manifests: str) -> None:
    cluster.create_namespace(namespace)
    words = {"AGNHOST": AGNHOST, "BUSYBOX": BUSYBOX, "KUBECTL": str(cluster.binary("kubectl"))}
    for word, value in words.items():
        manifests = manifests.replace(word, value)
    for obj in yaml.safe_load_all(manifests):
        obj["metadata"]["namespace"] = namespace
        cluster.api.apply(obj)


def fetch(address: str, port: int) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def kubectl(real_node: HostCluster) -> Iterator[Kubectl]:
    """kubectl in a namespace with the pods `web` (and its Service) and `tools`, both ready."""
    apply(real_node, NAMESPACE, WEB)
    kubectl = Kubectl(real_node, NAMESPACE)
    kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
    yield kubectl
    real_node.api.delete(f"/api/v1/namespaces/{NAMESPACE}")


class TestPods:
    def test_the_node_is_ready(self, kubectl: Kubectl) -> None:
        assert kubectl.jsonpath("node", node.NAME, '.status.conditions[?(@.type=="Ready")].status') == "True"
        assert kubectl.jsonpath("node", node.NAME, ".status.addresses[0].address") == node.ADDRESS

    def test_logs(self, kubectl: Kubectl) -> None:
        assert "started" in kubectl("logs", "web")

    def test_attach_and_followed_logs(self, kubectl: Kubectl) -> None:
        with subprocess.Popen(kubectl.command("logs", "--follow", "web"), stdout=subprocess.PIPE, text=True) as follow:
            with subprocess.Popen(kubectl.command("attach", "-i", "web"), stdin=subprocess.PIPE, text=True) as attach:
                assert attach.stdin is not None
                assert follow.stdout is not None
                attach.stdin.write("one\n")
                attach.stdin.flush()
                assert any(line == "got:one\n" for line in follow.stdout)
                attach.kill()
            follow.kill()

    @pytest.mark.parametrize("code", [0, 7])
    def test_exec_gives_the_exit_code(self, kubectl: Kubectl, code: int) -> None:
        kubectl("exec", "web", "--", "sh", "-c", f"exit {code}", code=code)

    def test_exec_carries_a_mebibyte(self, kubectl: Kubectl) -> None:
        assert kubectl("exec", "-i", "web", "--", "wc", "-c", stdin="x" * 2**20).strip() == str(2**20)

    def test_the_shell_keeps_odd_environment_variables(self, kubectl: Kubectl) -> None:
        assert "data-1=kept" in kubectl("exec", "web", "--", "sh", "-c", "env")

    def test_port_forward(self, kubectl: Kubectl) -> None:
        with subprocess.Popen(kubectl.command("port-forward", "pod/web", ":8080"), stdout=subprocess.PIPE, text=True) as forward:
            assert forward.stdout is not None
            port = int(forward.stdout.readline().split("127.0.0.1:")[1].split()[0])
            assert fetch("127.0.0.1", port) == "web\n"
            forward.kill()

    def test_the_api_server_as_proxy(self, kubectl: Kubectl) -> None:
        assert kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/services/web:80/proxy/") == "web\n"

    def test_an_ephemeral_container(self, kubectl: Kubectl) -> None:
        kubectl("debug", "web", f"--image={BUSYBOX}", "--profile=general", "-c", "debug", "--", "sh", "-c", "echo here; sleep 1d")
        kubectl("wait", "pod/web", "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running.startedAt}", "--timeout=30s")
        assert "here" in kubectl("logs", "web", "-c", "debug")

    def test_statistics(self, kubectl: Kubectl) -> None:
        assert f'"nodeName": "{node.NAME}"' in kubectl("get", "--raw", f"/api/v1/nodes/{node.NAME}/proxy/stats/summary")

    def test_nothing_is_pulled(self, kubectl: Kubectl) -> None:
        kubectl("run", "unknown", "--image=registry.k8s.io/e2e-test-images/never:1", "--restart=Never")
        events = ("get", "events", "--field-selector=involvedObject.name=unknown")
        wait_until(lambda: "ErrImagePull" in kubectl(*events), "the image cannot be pulled", 30)
        kubectl("delete", "pod", "unknown", "--now")


class TestServices:
    def test_a_cluster_ip_from_this_machine(self, kubectl: Kubectl) -> None:
        assert fetch(kubectl.jsonpath("service", "web", ".spec.clusterIP"), 80) == "web\n"

    def test_a_node_port_from_this_machine(self, kubectl: Kubectl) -> None:
        assert fetch(node.ADDRESS, int(kubectl.jsonpath("service", "web", ".spec.ports[0].nodePort"))) == "web\n"

    @pytest.mark.parametrize("pod", ["tools", "web"])  # web meets itself
    def test_a_cluster_ip_and_a_node_port_from_a_pod(self, kubectl: Kubectl, pod: str) -> None:
        address = kubectl.jsonpath("service", "web", ".spec.clusterIP")
        port = kubectl.jsonpath("service", "web", ".spec.ports[0].nodePort")
        for place in (address, f"{node.ADDRESS}:{port}"):
            assert kubectl("exec", pod, "--", "timeout", "5", "wget", "-qO-", f"http://{place}/") == "web\n"

    @pytest.mark.parametrize("name", ["web", f"web.{NAMESPACE}", f"web.{NAMESPACE}.svc.cluster.local"])
    def test_names(self, kubectl: Kubectl, name: str) -> None:
        assert kubectl("exec", "tools", "--", "timeout", "5", "wget", "-qO-", f"http://{name}/") == "web\n"

    def test_a_name_outside_is_refused_at_once(self, kubectl: Kubectl) -> None:
        start = time.monotonic()
        kubectl("exec", "tools", "--", "/agnhost", "connect", "--timeout=20s", "example.com:80", code=1)
        assert time.monotonic() - start < 5

    def test_the_api_from_a_pod_with_its_token(self, kubectl: Kubectl) -> None:
        assert f"system:serviceaccount:{NAMESPACE}:default" in kubectl("exec", "tools", "--", "/kubectl", "auth", "whoami")


def test_the_dns_of_a_virtual_cluster_knows_pods_of_a_statefulset(kubectl: Kubectl, virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("names")
    metadata: dict[str, Any] = {"name": "db", "namespace": "default"}
    virtual.api.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None", "ports": [{"port": 5432}]}}
    )
    virtual.api.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.77"], "hostname": "db-0", "conditions": {"ready": True}}],
            "ports": [{"port": 5432}],
        }
    )
    for server in (BRIDGE_ADDRESS + f":{virtual.dns_port}", virtual.dns_address):
        name = "db-0.db.default.svc.cluster.local"
        wait_until(functools.partial(knows, kubectl, name, server, "10.244.0.77"), f"{name} at {server}", 10)
    host_name = f"{virtual.name}.{virtual.host_namespace}.svc.cluster.local"
    assert virtual.service_address in lookup(kubectl, host_name, "10.96.0.10")
    assert virtual.service_address not in lookup(kubectl, host_name, virtual.dns_address)


def knows(kubectl: Kubectl, name: str, server: str, address: str) -> bool:
    return address in lookup(kubectl, name, server)


def lookup(kubectl: Kubectl, name: str, server: str) -> str:
    command = kubectl.command("exec", "tools", "--", "nslookup", "-type=a", name, server)
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


class TestLife:
    def test_another_lab_is_told_who_has_the_node(self, real_node: HostCluster) -> None:
        with pytest.raises(LabError, match=f"lab '{real_node.lab.name}' .* has this machine's one node: take it down first"):
            node.up(HostCluster(Lab(f"{real_node.lab.name}-other")))

    def test_up_again_keeps_the_node(self, real_node: HostCluster) -> None:
        before = node.status(real_node.lab)
        nodes.start_real(real_node)
        assert [pid for _, pid, _ in node.status(real_node.lab)] == [pid for _, pid, _ in before]

    @pytest.mark.long
    @pytest.mark.parametrize("killed", [["kubelet", "containerd"], ["namespaces"]], ids=" and ".join)
    def test_after_a_crash_up_cleans_first(self, kubectl: Kubectl, killed: list[str]) -> None:
        host = kubectl.cluster
        for name in killed:
            process.stop(host.lab.dir / "node", name, grace=0)
        assert not node.is_up(host.lab)
        nodes.start_real(host)
        address = kubectl.jsonpath("service", "web", ".spec.clusterIP")
        wait_until(lambda: fetch(address, 80) == "web\n", "the pod runs again")

    @pytest.mark.long
    def test_down_leaves_nothing(self, kubectl: Kubectl) -> None:
        """Last here: it takes the node away from under the pods of the other tests, and gives it back."""
        host = kubectl.cluster
        node.down(host.lab)
        before = traces(host.lab)
        try:
            nodes.start_real(host)
            kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
            assert traces(host.lab) != before
            node.down(host.lab)
            assert traces(host.lab) == before
        finally:
            nodes.start_real(host)


def traces(lab: Lab) -> dict[str, list[str]]:
    """All that a node may leave on this machine; other labs are left out."""
    ours = fence.control_group(lab.dir).name
    other = re.compile(rf"(LAB|syncer-lab)-(?!{ours.rpartition('-')[2]})")
    commands = {
        "links": "ip -o link show",
        "routes": "ip route show table all",
        "rules": "iptables-save",
        "rules for IPv6": "ip6tables-save",
        "settings": f"sysctl -e net.ipv4.ip_forward vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops {KEYS}",
    }
    found = {name: output(command) for name, command in commands.items()}
    found["mounts"] = Path("/proc/mounts").read_text().splitlines()
    found["control groups"] = sorted(str(path) for path in Path("/sys/fs/cgroup").glob("**/") if path.name != "processes")
    found["network namespaces"] = sorted(path.name for path in Path("/run/netns").glob("*"))
    found["processes"] = sorted(str(pid) for pid in process.strays(lab.dir / "node"))
    found["files"] = [str(path) for path in (lab.dir / "node", Path("/run/syncer-lab-node.json")) if path.exists()]
    found["files of others"] = [
        str(path) for top in ("/run", "/var/lib", "/var/log", "/etc", "/opt") for path in sorted(Path(top).glob("*")) if path.is_dir()
    ]
    return {name: [line for line in lines if not other.search(line)] for name, lines in found.items()}


KEYS = "kernel.keys.root_maxkeys kernel.keys.root_maxbytes"


def output(command: str) -> list[str]:
    """Lines of what a command prints, without counters, times and chains of the packet filter itself."""
    lines = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout.splitlines()
    return [re.sub(r"\s*\[[0-9:]+\]|qlen.*", "", line) for line in lines if not line.startswith(("#", "*", "COMMIT", ":INPUT", ":OUTPUT"))]

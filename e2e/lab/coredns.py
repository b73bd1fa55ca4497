"""CoreDNS: as a Deployment for the host cluster, as a process beside the API server of a virtual one."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Any

from e2e.kubernetes import binaries
from e2e.lab import images, process
from e2e.lab.api import wait_until
from e2e.lab.kubelet import NODE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.lab.host import HostCluster

NAME = "coredns"
_DOMAIN = "cluster.local"


def host_address(host: HostCluster) -> str:
    """The ClusterIP of the host's cluster DNS: the tenth of its range, as everywhere."""
    return str(ipaddress.ip_network(host.service_range.partition(",")[0])[10])


def deploy(host: HostCluster) -> None:
    """Give the host cluster its DNS and wait until it answers. The node must be up."""
    for obj in _manifests(host_address(host)):
        host.api.apply(obj)
    wait_until(lambda: _answers(host_address(host), 53), "cluster DNS of the host")


def start(directory: Path, kubeconfig: Path, address: str, port: int) -> None:
    """Start one in `directory` for the cluster of `kubeconfig`, on UDP and TCP `address:port`, and wait until it answers.

    It serves `cluster.local` and the reverse zones, pods of StatefulSets included, from that cluster's Services and EndpointSlices, and
    refuses every other name.
    """
    corefile = directory / "Corefile"
    corefile.write_text(_corefile(f".:{port}", f"bind {address}", f"kubeconfig {kubeconfig}"))
    process.spawn(directory, NAME, [binaries.ensure(NAME)[NAME], "-conf", corefile])
    process.wait_ready(directory, NAME, lambda: _answers(address, port), 30)


def _corefile(zone: str, place: str, source: str) -> str:
    lines = [
        f"{zone} {{",
        f"    {place}",
        "    errors",
        f"    kubernetes {_DOMAIN} in-addr.arpa ip6.arpa {{",
        f"        {source}",
        "        pods insecure",
        "        ttl 5",
        "    }",
        "}",
    ]
    return "\n".join(line for line in lines if line.strip()) + "\n"


def _answers(address: str, port: int) -> bool:
    """Whether it knows the Service that every cluster has."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in f"kubernetes.default.svc.{_DOMAIN}".split("."))
    query = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + name + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.2)
        try:
            udp.connect((address, port))
            udp.send(query)
            answer = udp.recv(4096)
        except OSError:
            return False
    flags, _, records = struct.unpack(">3H", answer[2:8])
    return bool(flags & 0xF == 0 and records > 0)


def _manifests(address: str) -> list[dict[str, Any]]:
    metadata = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    rbac = "rbac.authorization.k8s.io"
    container = {
        "name": "coredns",
        "image": images.COREDNS,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }
    pod = {
        "serviceAccountName": "coredns",
        "nodeSelector": {"kubernetes.io/hostname": NODE_NAME},  # not on a simulated node
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": _corefile(".:53", "ready", "")}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**metadata, "labels": labels},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": {
                "clusterIP": address,
                "selector": labels,
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
            },
        },
    ]

"""kube-proxy: ClusterIPs and node ports of the host cluster, by iptables rules in the node's network namespace."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import yaml

from e2e.lab import kubeconfig, namespaces, pki, process
from e2e.lab.kubelet import NODE_NAME
from e2e.lab.state import BRIDGE_ADDRESS, POD_RANGE

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.lab.host import HostCluster

NAME = "kube-proxy"
_HEALTH_PORT = 10256


def start(host: HostCluster, directory: Path) -> None:
    """Start it on the node in `directory` and wait until its rules are in place; node ports are on the node's address only."""
    server_ca, client_ca = pki.Authority(host.tls, "server-ca"), pki.Authority(host.tls, "client-ca")
    client = client_ca.issue("client-kube-proxy", "system:kube-proxy")
    server = f"https://{BRIDGE_ADDRESS}:{host.port('apiserver')}"
    credentials = kubeconfig.write(directory / "kube-proxy.kubeconfig", server, server_ca.cert, client.cert, client.key, host.name)
    config = directory / "kube-proxy.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "clientConnection": {"kubeconfig": str(credentials)},
                "hostnameOverride": NODE_NAME,
                "bindAddress": namespaces.NODE_ADDRESS,
                "healthzBindAddress": f"{namespaces.NODE_ADDRESS}:{_HEALTH_PORT}",
                "mode": "iptables",
                "clusterCIDR": POD_RANGE,
                "nodePortAddresses": [f"{namespaces.NODE_ADDRESS}/32"],
                # 0: leave the kernel's limits alone
                "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            }
        )
    )
    namespaces.spawn(directory, NAME, [host.binary(NAME), f"--config={config}"])
    process.wait_ready(directory, NAME, lambda: _healthy(namespaces.NODE_ADDRESS, _HEALTH_PORT), 30)


def _healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

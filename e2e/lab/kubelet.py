"""kubelet: joins the host cluster as node NAME, over the cable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from e2e.lab import containerd, fence, kubeconfig, namespaces, pki
from e2e.lab.state import BRIDGE_ADDRESS

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.lab.host import HostCluster

NAME = "kubelet"
NODE_NAME = "lab-node"


def start(host: HostCluster, directory: Path, dns_address: str) -> None:
    """Start it on the node in `directory`; pods resolve names at `dns_address`. The node registers itself within seconds."""
    server_ca, client_ca = pki.Authority(host.tls, "server-ca"), pki.Authority(host.tls, "client-ca")
    user = f"system:node:{NODE_NAME}"
    client = client_ca.issue("client-kubelet", user, ["system:nodes"])
    serving = server_ca.issue("serving-kubelet", user, ["system:nodes"], "server", [NODE_NAME, namespaces.NODE_ADDRESS])
    server = f"https://{BRIDGE_ADDRESS}:{host.port('apiserver')}"
    credentials = kubeconfig.write(directory / "kubelet.kubeconfig", server, server_ca.cert, client.cert, client.key, host.name)
    (directory / "resolv.conf").write_text(f"nameserver {BRIDGE_ADDRESS}\n")  # nothing answers there: pods have no names but the cluster's
    config = directory / "kubelet.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": namespaces.NODE_ADDRESS,
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(client_ca.cert)},
                },
                "authorization": {"mode": "Webhook"},
                "tlsCertFile": str(serving.cert),
                "tlsPrivateKeyFile": str(serving.key),
                "cgroupDriver": "cgroupfs",
                "cgroupRoot": fence.make_node_group(directory.parent),
                "failCgroupV1": False,  # kubelet 1.36 would not start on control groups version 1
                "failSwapOn": False,
                "clusterDNS": [dns_address],
                "clusterDomain": "cluster.local",
                "containerRuntimeEndpoint": f"unix://{containerd.SOCKET}",
                "volumePluginDir": "/var/lib/kubelet/volume-plugins",
                "resolvConf": str(directory / "resolv.conf"),
                "serializeImagePulls": False,
                # images cannot be pulled again, so none is ever collected, and a full disk evicts nothing before the last percent
                "imageGCHighThresholdPercent": 100,
                "imageGCLowThresholdPercent": 99,
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "maxPods": 200,
                "syncFrequency": "10s",
                "nodeStatusUpdateFrequency": "5s",
            }
        )
    )
    namespaces.spawn(
        directory,
        NAME,
        [
            host.binary(NAME),
            f"--config={config}",
            f"--kubeconfig={credentials}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={namespaces.NODE_ADDRESS}",
        ],
    )

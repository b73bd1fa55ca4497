"""metrics-server of the host cluster: asks the real node's kubelet what its pods use, and serves that as metrics.k8s.io.

A process beside the host's controllers, which the API server finds on the node's bridge.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from e2e.kubernetes import binaries
from e2e.lab import pki, process
from e2e.lab.state import BRIDGE_ADDRESS

if TYPE_CHECKING:
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

NAME = "metrics-server"
_NAMESPACE = "kube-system"
_API = "metrics.k8s.io"
_VERSION = "v1beta1"
_API_SERVICE = f"/apis/apiregistration.k8s.io/v1/apiservices/{_VERSION}.{_API}"
_SECONDS = 10
"""Between two looks at the kubelet, the fewest that it takes; a pod has to be seen twice."""


def start(host: HostCluster) -> None:
    """Start it unless it runs, and wait until it is served. The host needs its real node, of which it knows something 20 s later."""
    port = host.port(NAME)
    authority = pki.Authority(host.tls, "server-ca")
    serving = authority.issue("serving-metrics-server", NAME, usage="server", sans=[f"{NAME}.{_NAMESPACE}.svc"])
    process.spawn(
        host.dir,
        NAME,
        [
            binaries.ensure(NAME)[NAME],
            *(f"--{what}kubeconfig={host.kubeconfig}" for what in ("", "authentication-", "authorization-")),
            f"--bind-address={BRIDGE_ADDRESS}",
            f"--secure-port={port}",
            f"--tls-cert-file={serving.cert}",
            f"--tls-private-key-file={serving.key}",
            f"--kubelet-certificate-authority={authority.cert}",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-use-node-status-port",
            f"--metric-resolution={_SECONDS}s",
            f"--kubelet-request-timeout={_SECONDS - 1}s",  # has to be less
        ],
    )
    for obj in _registration(port, b64encode(authority.cert.read_bytes()).decode()):
        host.api.apply(obj)
    process.wait_ready(host.dir, NAME, lambda: _is_available(host))


def stop(host: HostCluster) -> None:
    """End it, and take its API away. Does nothing if it does not run."""
    host.api.delete(_API_SERVICE)
    process.stop(host.dir, NAME, grace=0)


def _is_available(host: HostCluster) -> bool:
    conditions = host.api.get(_API_SERVICE).get("status", {}).get("conditions") or []
    return any(condition["type"] == "Available" and condition["status"] == "True" for condition in conditions)


def _registration(port: int, ca: str) -> list[Obj]:
    metadata = {"name": NAME, "namespace": _NAMESPACE}
    ports = [{"name": "https", "protocol": "TCP", "port": port}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "lab"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [BRIDGE_ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{_VERSION}.{_API}"},
            "spec": {
                "group": _API,
                "version": _VERSION,
                "service": {**metadata, "port": port},
                "caBundle": ca,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    ]

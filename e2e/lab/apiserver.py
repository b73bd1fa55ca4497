"""kube-apiserver, on loopback only. Pods reach it through an address on the node's bridge that is forwarded there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.lab import audit, process
from e2e.lab.state import BRIDGE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.lab.cluster import ControlPlane

NAME = "apiserver"
PROXY_USER = "system:auth-proxy"


def start(cluster: ControlPlane, datastore: str, extra: Sequence[str] = ()) -> None:
    """Start it on a datastore endpoint; `extra` flags come last."""
    tls = cluster.tls
    process.spawn(
        cluster.dir,
        NAME,
        [
            cluster.binary("kube-apiserver"),
            "--v=1",
            f"--etcd-servers={datastore}",
            "--bind-address=127.0.0.1",
            f"--secure-port={cluster.port('apiserver')}",
            f"--advertise-address={BRIDGE_ADDRESS}",
            f"--tls-cert-file={tls}/serving-kube-apiserver.crt",
            f"--tls-private-key-file={tls}/serving-kube-apiserver.key",
            f"--client-ca-file={tls}/client-ca.crt",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth=true",
            "--allow-privileged=true",
            "--profiling=false",
            f"--service-cluster-ip-range={cluster.service_range}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={tls}/service.key",
            f"--service-account-signing-key-file={tls}/service.key",
            f"--kubelet-certificate-authority={tls}/server-ca.crt",
            f"--kubelet-client-certificate={tls}/client-kube-apiserver.crt",
            f"--kubelet-client-key={tls}/client-kube-apiserver.key",
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
            f"--requestheader-client-ca-file={tls}/request-header-ca.crt",
            f"--requestheader-allowed-names={PROXY_USER}",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={tls}/client-auth-proxy.crt",
            f"--proxy-client-key-file={tls}/client-auth-proxy.key",
            "--enable-aggregator-routing=true",
            *audit.flags(cluster),
            *extra,
        ],
    )

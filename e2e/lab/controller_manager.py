"""kube-controller-manager."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.lab import process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.lab.cluster import ControlPlane

NAME = "controller-manager"


def start(cluster: ControlPlane, *, controllers: str = "*", extra: Sequence[str] = ()) -> None:
    """Start it; `extra` flags come last."""
    tls = cluster.tls
    process.spawn(
        cluster.dir,
        NAME,
        [
            cluster.binary("kube-controller-manager"),
            "--v=1",
            f"--kubeconfig={cluster.component_kubeconfig(NAME)}",
            f"--authentication-kubeconfig={cluster.component_kubeconfig(NAME)}",
            f"--authorization-kubeconfig={cluster.component_kubeconfig(NAME)}",
            "--bind-address=127.0.0.1",
            f"--secure-port={cluster.port(NAME)}",
            "--leader-elect=false",
            "--profiling=false",
            f"--root-ca-file={tls}/server-ca.crt",
            f"--service-account-private-key-file={tls}/service.key",
            "--use-service-account-credentials=true",
            f"--cluster-signing-kube-apiserver-client-cert-file={tls}/client-ca.crt",
            f"--cluster-signing-kube-apiserver-client-key-file={tls}/client-ca.key",
            f"--cluster-signing-kubelet-client-cert-file={tls}/client-ca.crt",
            f"--cluster-signing-kubelet-client-key-file={tls}/client-ca.key",
            f"--cluster-signing-kubelet-serving-cert-file={tls}/server-ca.crt",
            f"--cluster-signing-kubelet-serving-key-file={tls}/server-ca.key",
            f"--cluster-signing-legacy-unknown-cert-file={tls}/server-ca.crt",
            f"--cluster-signing-legacy-unknown-key-file={tls}/server-ca.key",
            f"--requestheader-client-ca-file={tls}/request-header-ca.crt",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            f"--controllers={controllers}",
            *extra,
        ],
    )

"""The host cluster of a lab: etcd, API server, controller manager, scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from e2e.kubernetes.catalogue import kubernetes_version
from e2e.lab import fence, kubeconfig, node, pki
from e2e.lab.cluster import ControlPlane, Settings
from e2e.lab.state import HOST_SERVICE_RANGE, POD_RANGE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from pathlib import Path

    from e2e.lab.state import Lab


class HostCluster(ControlPlane):
    """The host cluster of a lab; there is one."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, "host", lab.dir / "host")

    def up(self, *, version: str | None = None, scheduler: bool | None = None, service_range: str | None = None) -> None:
        """Start it and wait until it is usable. Running or left over from a crash is fine: what is there is used.

        Where this machine can have a node, all that the lab starts is fenced from here on. Without a `scheduler` pods stay pending until
        something else binds them. A `service_range` of two, with a comma between, makes it dual-stack, which a node is not made for. What
        is not said stays as it was at the first start.
        """
        had = (
            self.settings if self.exists else Settings(kubernetes_version(version, side="HOST"), HOST_SERVICE_RANGE, "etcd", scheduler=True)
        )
        self.lab.create()
        self.save(
            replace(
                had,
                version=kubernetes_version(version) if version else had.version,
                scheduler=had.scheduler if scheduler is None else scheduler,
                service_range=service_range or had.service_range,
            )
        )
        if node.why_not() is None:
            fence.up(self.lab.dir)
            self.lab.remember("fenced", value=True)
        self.start()

    def create_namespace(self, name: str) -> None:
        """Make a namespace unless it exists."""
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def grant(self, namespace: str, user: str, rules: Sequence[dict[str, Any]], cluster_rules: Sequence[dict[str, Any]] = ()) -> Path:
        """The kubeconfig of a user who may do what `rules` (of a Role) say in `namespace`, `cluster_rules` everywhere, and nothing else.

        Called again for the same user it replaces the rules.
        """
        self.create_namespace(namespace)
        self._bind("Role", user, rules, namespace)
        self._bind("ClusterRole", user, cluster_rules)
        return self.client_kubeconfig(user, namespace=namespace)

    def _bind(self, kind: str, user: str, rules: Sequence[dict[str, Any]], namespace: str = "") -> None:
        """A Role or ClusterRole with these rules, bound to the user; both named like the user."""
        group = "rbac.authorization.k8s.io"
        metadata = {"name": user, **({"namespace": namespace} if namespace else {})}
        self.api.apply({"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": list(rules)})
        self.api.apply(
            {
                "apiVersion": f"{group}/v1",
                "kind": f"{kind}Binding",
                "metadata": metadata,
                "roleRef": {"apiGroup": group, "kind": kind, "name": user},
                "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
            }
        )

    def client_kubeconfig(
        self, user: str, organizations: Sequence[str] = (), *, namespace: str = "default", life: timedelta | None = None
    ) -> Path:
        """The kubeconfig of a user with a client certificate, which with a `life` is a new one; what it may do is RBAC's matter."""
        client = pki.Authority(self.tls, "client-ca", life=life).issue(f"user-{user}", user, organizations)
        path = self.dir / "users" / f"{user}.kubeconfig"
        return kubeconfig.write(path, self.server, self.tls / "server-ca.crt", client.cert, client.key, self.name, namespace=namespace)

    def _controller_flags(self) -> Sequence[str]:
        return (
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={POD_RANGE}",
            f"--service-cluster-ip-range={self.service_range}",
            "--node-monitor-period=2s",
        )

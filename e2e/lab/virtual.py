"""A virtual control plane: what k3s is in a virtual cluster's pod, on this machine's loopback.

It has the controllers that k3s keeps with --disable-agent --disable-scheduler, no scheduler and no node. Pods on the host reach it through
two Services without selector in its host namespace, both on the node's bridge: `<name>` (its API, which a syncer serves) and `<name>-dns`
(its CoreDNS).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from e2e.errors import LabError
from e2e.kubernetes.catalogue import kubernetes_version
from e2e.lab import coredns, namespaces, node, process
from e2e.lab.api import wait_until
from e2e.lab.cluster import ControlPlane, Settings
from e2e.lab.host import HostCluster
from e2e.lab.state import BRIDGE_ADDRESS, VIRTUAL_SERVICE_RANGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.lab.state import Lab

_K3S_LEAVES_OUT = (
    "nodeipam",
    "nodelifecycle",
    "persistentvolume-binder",
    "attachdetach",
    "persistentvolume-expander",
    "cloud-node-lifecycle",
    "ttl",
)


def virtual_clusters(lab: Lab) -> list[VirtualCluster]:
    """All virtual clusters of a lab, running or not."""
    return [VirtualCluster(lab, path.parent.name) for path in sorted((lab.dir / "virtual").glob("*/cluster.json"))]


class VirtualOptions(TypedDict, total=False):
    """How to start a virtual cluster; None is the same as leaving it out.

    Defaults: `namespace` of the host `vcluster-<name>`, `datastore` kine, Kubernetes `version` that of VIRTUAL_KUBERNETES_VERSION or
    KUBERNETES_VERSION, `service_range` 10.97.0.0/16.
    """

    namespace: str | None
    datastore: Literal["kine", "etcd"] | None
    version: str | None
    service_range: str | None


class VirtualCluster(ControlPlane):
    """The virtual cluster `name` of a lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        super().__init__(lab, name, lab.dir / "virtual" / name)
        self.host = HostCluster(lab)

    @property
    def host_namespace(self) -> str:
        """The namespace of the host that holds what this cluster runs."""
        return (self.dir / "namespace").read_text()

    @property
    def service_address(self) -> str:
        """ClusterIP, on the host, of its API (port 443)."""
        return self._host_address(self.name)

    @property
    def dns_address(self) -> str:
        """ClusterIP, on the host, of its CoreDNS."""
        return self._host_address(self._dns_service)

    @property
    def dns_port(self) -> int:
        """Where its CoreDNS listens, on the bridge."""
        return self.port("dns")

    @property
    def front_port(self) -> int:
        """Where pods find its API: the port, on loopback, at which its syncer is to serve it."""
        return self.port("front")

    def up(self, **options: Unpack[VirtualOptions]) -> None:
        """Start it and wait until it is usable. The host must be up; what is not said stays as it was at the first start."""
        if not self.host.running():
            raise LabError(f"the host cluster of lab {self.lab.name!r} is not running: python -m e2e.lab --lab {self.lab.name} up")
        version = options.get("version")
        first = kubernetes_version(version, side="VIRTUAL")
        had = self.settings if self.exists else Settings(first, VIRTUAL_SERVICE_RANGE, "kine", scheduler=False)
        self.save(
            replace(
                had,
                version=kubernetes_version(version) if version else had.version,
                service_range=options.get("service_range") or had.service_range,
                datastore=options.get("datastore") or had.datastore,
            )
        )
        self._choose_namespace(options.get("namespace"))
        self._make_host_services()
        self.start()

    def start(self) -> None:
        super().start()
        if node.is_up(self.lab):
            self.connect()

    def connect(self) -> None:
        """Let pods of the real node, which must be up, reach its API, and start the cluster's CoreDNS for them."""
        namespaces.route(self.service_range)
        node.forward(self.lab, self.front_port)
        coredns.start(self.dir, self.kubeconfig, BRIDGE_ADDRESS, self.dns_port)

    def remove(self, *, wait: bool = True) -> None:
        """End it, whatever else runs in its directory, and delete its files and its host namespace, which may take a while to `wait` for.

        A namespace that other virtual clusters live in stays, without the two Services.
        """
        self.stop(grace=0)
        process.kill_strays(self.dir)
        if self.host.running() and (self.dir / "namespace").exists():
            self._clear_host(wait=wait)
        shutil.rmtree(self.dir, ignore_errors=True)
        self.lab.release_ports(f"virtual/{self.name}/")

    def _clear_host(self, *, wait: bool) -> None:
        path = f"/api/v1/namespaces/{self.host_namespace}"
        if any(other.host_namespace == self.host_namespace for other in virtual_clusters(self.lab) if other.name != self.name):
            for service in (self.name, self._dns_service):
                self.host.api.delete(f"{path}/services/{service}")
                self.host.api.delete(f"/apis/discovery.k8s.io/v1/namespaces/{self.host_namespace}/endpointslices/{service}")
        else:
            self.host.api.delete(path)
            if wait:
                wait_until(lambda: self.host.api.find(path) is None, f"host namespace {self.host_namespace} is gone")

    @property
    def _dns_service(self) -> str:
        return f"{self.name}-dns"

    def _choose_namespace(self, namespace: str | None) -> None:
        file = self.dir / "namespace"
        if not file.exists():
            file.write_text(namespace or f"vcluster-{self.name}")
        elif namespace not in (None, self.host_namespace):
            raise LabError(f"virtual cluster {self.name!r} lives in host namespace {self.host_namespace}, not {namespace}: remove it first")

    def _make_host_services(self) -> None:
        self.host.create_namespace(self.host_namespace)
        self._make_host_service(self.name, [("https", "TCP", 443, self.front_port)])
        self._make_host_service(self._dns_service, [("dns", "UDP", 53, self.dns_port), ("dns-tcp", "TCP", 53, self.dns_port)])

    def _make_host_service(self, name: str, ports: Sequence[tuple[str, str, int, int]]) -> None:
        """A Service without selector, with one endpoint on the bridge; `ports` are name, protocol, port and target port."""
        labels = {"app": "vcluster", "release": self.name}
        metadata = {"name": name, "namespace": self.host_namespace, "labels": labels}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": [{"name": n, "protocol": p, "port": port, "targetPort": target} for n, p, port, target in ports]},
        }
        slice_labels = {**labels, "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "lab"}
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": slice_labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [BRIDGE_ADDRESS], "conditions": {"ready": True}}],
            "ports": [{"name": n, "protocol": p, "port": target} for n, p, _, target in ports],
        }
        self.host.api.apply(service)
        self.host.api.apply(endpoints)

    def _host_address(self, service: str) -> str:
        found: dict[str, Any] = self.host.api.get(f"/api/v1/namespaces/{self.host_namespace}/services/{service}")
        address: str = found["spec"]["clusterIP"]
        return address

    def _server_names(self) -> list[str]:
        service = f"{self.name}.{self.host_namespace}"
        return [*super()._server_names(), service, f"{service}.svc", self.service_address]

    def _apiserver_flags(self) -> Sequence[str]:
        # k3s does not route to aggregated APIs by endpoints either, where it has no agents (--egress-selector-mode=disabled).
        return ("--endpoint-reconciler-type=none", "--enable-aggregator-routing=false")

    def _controllers(self) -> str:
        return ",".join(["*", *(f"-{name}" for name in _K3S_LEAVES_OUT)])

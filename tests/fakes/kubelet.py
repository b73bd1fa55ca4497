"""What scheduler and kubelet do to pods, as far as it shows in the API: one call a step, nothing happens by itself."""

from __future__ import annotations

from syncer.kube.types import NODES, PODS, Key, Obj
from tests.fakes.apiserver import FakeApiServer


class Kubelet:
    """Runs the pods of a fake host."""

    def __init__(self, api: FakeApiServer, node: str = "node-1", address: str = "192.168.0.1") -> None:
        self._api = api
        self._node = node
        self._address = address
        self._given = 0

    def register(self) -> Obj:
        """Make the Node object."""
        addresses = [{"type": "InternalIP", "address": self._address}, {"type": "Hostname", "address": self._node}]
        status = {
            "addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True"}],
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        }
        return self._api.put(
            {"apiVersion": NODES.api_version, "kind": NODES.kind, "metadata": {"name": self._node}, "spec": {}, "status": status}
        )

    def bind(self, key: Key) -> None:
        """Schedule the pod here."""
        self._api.registry.bind(key, {"metadata": {"name": key.name}, "target": {"kind": "Node", "name": self._node}})

    def run(self, key: Key, *, ready: bool = True) -> Obj:
        """Start its containers; binds it first where nobody has."""
        pod = self._api.registry.get(PODS, key)
        if not pod["spec"].get("nodeName"):
            self.bind(key)
            pod = self._api.registry.get(PODS, key)
        now, truth = self._api.registry.timestamp(), str(ready)
        address = pod.get("status", {}).get("podIP") or self._next_address()
        started = {"running": {"startedAt": now}}
        containers = [
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "imageID": f"sha256:{container['name']}",
                "containerID": f"containerd://{container['name']}",
                "ready": ready,
                "started": True,
                "restartCount": 0,
                "state": started,
                "lastState": {},
            }
            for container in pod["spec"]["containers"]
        ]
        kept = [c for c in pod["status"].get("conditions") or [] if c["type"] == "PodScheduled"]
        conditions = [
            {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": now} for kind, status in _conditions(truth)
        ]
        status = {
            "phase": "Running",
            "hostIP": self._address,
            "hostIPs": [{"ip": self._address}],
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": pod["status"].get("startTime") or now,
            "containerStatuses": containers,
            "conditions": [*kept, *conditions],
        }
        return self._api.change(PODS, key, {"status": status})

    def finish(self, key: Key, phase: str = "Succeeded") -> Obj:
        """Its containers have ended for good."""
        return self._api.change(PODS, key, {"status": {"phase": phase}})

    def terminate(self, key: Key) -> None:
        """Its containers have ended after a graceful deletion: the object goes (unless a finalizer holds it)."""
        self._api.registry.delete(PODS, key, {"gracePeriodSeconds": 0})

    def _next_address(self) -> str:
        self._given += 1
        return f"10.244.0.{self._given}"


def _conditions(ready: str) -> tuple[tuple[str, str], ...]:
    return (("PodReadyToStartContainers", "True"), ("Initialized", "True"), ("Ready", ready), ("ContainersReady", ready))

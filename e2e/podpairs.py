"""The pods of a tenant as both sides show them, for tests that change one side and look at the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from e2e.lab.api import wait_until
from syncer.kube.types import EVENTS, PODS, Key, Side
from syncer.naming import Names

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.daemon import Daemon
    from e2e.lab.api import Api, Obj

NAMESPACE = "default"
IMAGE = "lab.local/none:1"
STRATEGIC = "application/strategic-merge-patch+json"


def pod(name: str, *, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, **spec: Any) -> Obj:
    """A pod without a token that ends at once, with `spec` over it."""
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}, "annotations": annotations or {}}
    base = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container()]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**base, **spec}}


def container(name: str = "main", **fields: Any) -> Obj:
    return {"name": name, "image": IMAGE, **fields}


def conditions(pod: Obj) -> dict[str, Obj]:
    """By type."""
    return {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or ()}


@dataclass(frozen=True)
class PodPairs:
    """Pods in the namespace `default` of a virtual cluster, by their virtual names."""

    daemon: Daemon

    @property
    def names(self) -> Names:
        return Names(self.daemon.virtual.name, self.daemon.virtual.host_namespace)

    def api(self, side: Side) -> Api:
        return self.daemon.virtual.api if side is Side.VIRTUAL else self.daemon.virtual.host.api

    def path(self, side: Side, name: str, subresource: str = "") -> str:
        key = Key(NAMESPACE, name)
        return PODS.path(*(key if side is Side.VIRTUAL else self.names.host_key(key)), subresource)

    def make(self, body: Obj) -> Obj:
        """Create it in the virtual cluster."""
        made: Obj = self.api(Side.VIRTUAL).request("POST", PODS.path(NAMESPACE), body)
        return made

    def run(self, body: Obj) -> Obj:
        """Create it, and wait until it is shown Running on its node, which may come a moment after its status; the virtual pod."""
        name: str = self.make(body)["metadata"]["name"]
        self.wait(Side.VIRTUAL, name, _runs, f"{name} runs")
        virtual: Obj = self.get(Side.VIRTUAL, name)
        return virtual

    def find(self, side: Side, name: str) -> Obj | None:
        return self.api(side).find(self.path(side, name))

    def get(self, side: Side, name: str) -> Any:
        """Fails when it is not there."""
        return self.api(side).get(self.path(side, name))

    def patch(self, side: Side, name: str, body: Obj, subresource: str = "") -> Any:
        return self.api(side).request("PATCH", self.path(side, name, subresource), body, content_type=STRATEGIC)

    def delete(self, side: Side, name: str, **options: Any) -> None:
        self.api(side).request("DELETE", self.path(side, name), {"apiVersion": "v1", "kind": "DeleteOptions", **options})

    def wait(self, side: Side, name: str, condition: Callable[[Any], bool], what: str, timeout: float = 30.0) -> None:
        """Until the pod is there and fulfils the condition."""

        def met() -> bool:
            found = self.find(side, name)
            return found is not None and condition(found)

        wait_until(met, what, timeout)

    def wait_gone(self, name: str, *sides: Side, timeout: float = 30.0) -> None:
        """Until neither side (or none of those) has it."""
        for side in sides or tuple(Side):
            wait_until(lambda side=side: self.find(side, name) is None, f"{side} pod {name} is gone", timeout)  # type: ignore[misc]

    def events(self, name: str, reason: str = "") -> list[Obj]:
        """Events on the virtual pod, all or those of a reason."""
        selector = f"involvedObject.name={name}" + (f",reason={reason}" if reason else "")
        found: list[Obj] = self.api(Side.VIRTUAL).get(EVENTS.path(NAMESPACE), fieldSelector=selector)["items"]
        return found

    def wait_event(self, name: str, reason: str, timeout: float = 30.0) -> str:
        """The message of the one event of that reason on the pod, once it is there."""
        wait_until(lambda: bool(self.events(name, reason)), f"an event {reason} on pod {name}", timeout)
        (event,) = self.events(name, reason)
        message: str = event["message"]
        return message

    def patches(self, side: Side) -> int:
        """How many patches of pods the syncer has sent to that side, subresources included."""
        return int(self.daemon.metrics_sum(f'syncer_api_requests_total{{code="200",resource="pods",side="{side}",verb="patch"}}'))

    def refusals(self) -> int:
        """How often the host has answered 403."""
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in self.daemon.get("/metrics")[1].splitlines()
            if line.startswith('syncer_api_requests_total{code="403"') and 'side="host"' in line
        )

    def assert_quiet(self, seconds: float = 1.5) -> None:
        """Nothing more is patched: the two sides are not fighting."""
        wait_until(self._still, "the syncer comes to rest", 30)
        before = [self.patches(side) for side in Side]
        time.sleep(seconds)
        assert [self.patches(side) for side in Side] == before

    def _still(self) -> bool:
        before = [self.patches(side) for side in Side]
        time.sleep(0.5)
        return before == [self.patches(side) for side in Side]


def _runs(pod: Obj) -> bool:
    return pod["status"].get("phase") == "Running" and "nodeName" in pod["spec"]

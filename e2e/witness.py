"""Sees every change to the pods of both sides of a virtual cluster, and remembers what must never happen.

- A virtual pod has one host pod in all its life.
- A host pod belongs to one virtual pod in all its life, and goes only after somebody has deleted that one.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from e2e.lab.api import UNREACHABLE, ApiFailure
from syncer.naming import ANNOTATION_NAME, ANNOTATION_NAMESPACE, ANNOTATION_UID, LABEL_MANAGED_BY

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.lab.api import Api, Obj
    from e2e.lab.virtual import VirtualCluster


@dataclass
class HostPod:
    """What was seen of one host pod."""

    name: str
    virtual_uid: str
    ending: bool = False
    restarts: int = 0


@dataclass
class Witness:
    """Use it as a context manager; what it has found is valid while it is entered and after."""

    virtual: VirtualCluster
    problems: list[str] = field(default_factory=list)
    """Sentences; empty when all is as it should be."""
    created: Counter[str] = field(default_factory=Counter)
    """How many virtual pods there have been, by namespace and workload, as in "shop/web"."""
    host_pods: dict[str, HostPod] = field(default_factory=dict)
    """By UID."""
    change: threading.Event = field(default_factory=threading.Event)
    """Set at each change to a host pod; whoever waits for the next one clears it."""
    _virtual_uids: set[str] = field(default_factory=set)
    _left: bool = False

    def __enter__(self) -> Self:
        host, selector = self.virtual.host, f"{LABEL_MANAGED_BY}={self.virtual.name}"
        self._follow(host.api, f"/api/v1/namespaces/{self.virtual.host_namespace}/pods", self._saw_host, labelSelector=selector)
        self._follow(self.virtual.api, "/api/v1/pods", self._saw_virtual)
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True

    @property
    def deletions(self) -> int:
        """How many host pods were deleted."""
        return sum(pod.ending for pod in self.host_pods.values())

    def restarts(self, uid: str) -> int:
        """How often containers of a host pod were seen to have restarted."""
        return self.host_pods[uid].restarts

    def _follow(self, api: Api, path: str, saw: Callable[[str, Obj], None], **params: str) -> None:
        """Have `saw` called with type and object of what is there and of each change, in a thread of its own from here on."""
        listed = api.get(path, **params)
        for obj in listed["items"]:
            saw("ADDED", obj)

        def follow() -> None:
            try:
                for event in api.watch(path, listed["metadata"]["resourceVersion"], **params):
                    saw(event["type"], event["object"])
            except (ApiFailure, *UNREACHABLE) as error:
                cause = f": {error}"
            else:
                cause = ""
            if not self._left:
                self.problems.append(f"the witness lost sight of {path} of {api.server}{cause}")

        threading.Thread(target=follow, name=f"witness {path}", daemon=True).start()

    def _saw_virtual(self, _kind: str, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._virtual_uids:
            self._virtual_uids.add(uid)
            self.created[f"{pod['metadata']['namespace']}/{_workload(pod)}"] += 1

    def _saw_host(self, kind: str, pod: Obj) -> None:
        metadata = pod["metadata"]
        uid, name, virtual_uid = metadata["uid"], metadata["name"], metadata["annotations"].get(ANNOTATION_UID, "")
        known = self.host_pods.get(uid)
        if known is None:
            twins = [other.name for other in self.host_pods.values() if other.virtual_uid == virtual_uid]
            if twins:
                self.problems.append(f"{name}: the virtual pod {virtual_uid} has had a host pod before, {twins}")
            known = self.host_pods[uid] = HostPod(name, virtual_uid)
        if virtual_uid != known.virtual_uid:
            self.problems.append(f"{name}: was the host pod of {known.virtual_uid} and became that of {virtual_uid}")
        if (kind == "DELETED" or metadata.get("deletionTimestamp")) and not known.ending:
            known.ending = True
            self._judge_end(pod, virtual_uid)
        statuses = pod.get("status", {}).get("containerStatuses") or ()
        known.restarts = max([known.restarts, *(status["restartCount"] for status in statuses)])
        self.change.set()

    def _judge_end(self, pod: Obj, virtual_uid: str) -> None:
        """Asked at once, so that nobody could have deleted the virtual pod because the host pod went."""
        annotations = pod["metadata"]["annotations"]
        path = f"/api/v1/namespaces/{annotations[ANNOTATION_NAMESPACE]}/pods/{annotations[ANNOTATION_NAME]}"
        virtual: dict[str, Any] = (self.virtual.api.find(path) or {}).get("metadata", {})
        if virtual.get("uid") == virtual_uid and not virtual.get("deletionTimestamp"):
            self.problems.append(f"{pod['metadata']['name']}: deleted although nobody has deleted its virtual pod")


def _workload(pod: Obj) -> str:
    """Name of the Deployment or other workload that made a pod; the pod's own if none did."""
    name: str = pod["metadata"]["name"]
    for owner in pod["metadata"].get("ownerReferences") or ():
        name = owner["name"].rpartition("-")[0] if owner["kind"] == "ReplicaSet" else owner["name"]
    return name

"""What the operator of the host allows: its nodes and tolerations, its rights, its names, its sizes. On real API servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab import kwok
from e2e.lab.api import wait_until
from e2e.podpairs import IMAGE, NAMESPACE, PodPairs, container, pod
from syncer.kube.types import CONFIGMAPS, Key, Side
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

VIRTUAL, HOST = Side.VIRTUAL, Side.HOST
BLUE = "blue-node"
ALLOWED = ("pods/ephemeralcontainers", "pods/resize", "pods/status")
"""Rights that the syncer can do without."""
SIZE = 1_600_000
"""More than etcd takes; the datastore of the virtual cluster, kine, takes it."""
FLAGS = ("--node-selector=lab.local/pool=blue", "--enforce-toleration=lab.local/dedicated=tenants:NoSchedule")


@pytest.fixture(scope="module")
def nodes(host_cluster: HostCluster) -> Iterator[None]:
    kwok.start(host_cluster, 2)
    blue = kwok.node(BLUE)
    blue["metadata"]["labels"]["lab.local/pool"] = "blue"
    blue["spec"] = {"taints": [{"key": "lab.local/dedicated", "value": "tenants", "effect": "NoSchedule"}]}
    host_cluster.api.apply(blue)
    yield
    host_cluster.api.delete(f"/api/v1/nodes/{BLUE}")


@pytest.fixture(scope="module")
def pairs(nodes: None, tenant: StartTenant) -> PodPairs:
    """A tenant on nodes of its own, without rights that are not necessary."""
    del nodes
    daemon = tenant("limits", *FLAGS)
    daemon.stop()
    granted = [right for right in needed_rights(ALL, election=True) if right.resource not in ALLOWED]
    daemon.virtual.host.grant(daemon.virtual.host_namespace, f"syncer-{daemon.virtual.name}", rules(granted))
    daemon.start()
    return PodPairs(daemon)


class TestNodes:
    """The classic syncer's "Sync and enforce NodeSelector"."""

    def test_pods_run_on_the_nodes_of_their_cluster_only(self, pairs: PodPairs) -> None:
        shown = pairs.run(pod("placed", nodeSelector={"kubernetes.io/os": "linux"}))
        assert shown["spec"]["nodeName"] == BLUE
        assert shown["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
        host = pairs.get(HOST, "placed")["spec"]
        assert host["nodeSelector"] == {"kubernetes.io/os": "linux", "lab.local/pool": "blue"}
        assert {"key": "lab.local/dedicated", "operator": "Equal", "value": "tenants", "effect": "NoSchedule"} in host["tolerations"]
        pairs.assert_quiet()

    def test_a_pod_cannot_ask_for_others(self, pairs: PodPairs) -> None:
        assert pairs.run(pod("elsewhere", nodeSelector={"lab.local/pool": "red"}))["spec"]["nodeName"] == BLUE

    def test_nor_can_one_that_is_held_back(self, pairs: PodPairs) -> None:
        pairs.make(pod("held", schedulingGates=[{"name": "lab.local/held"}]))
        pairs.wait(HOST, "held", lambda _found: True, "the host pod", 10)
        pairs.patch(VIRTUAL, "held", {"spec": {"nodeSelector": {"lab.local/pool": "red"}, "schedulingGates": None}})
        pairs.wait(VIRTUAL, "held", lambda found: "nodeName" in found["spec"], "it has its node", 20)
        assert pairs.get(VIRTUAL, "held")["spec"]["nodeName"] == BLUE
        pairs.assert_quiet()


class TestRights:
    CASES: list[tuple[str, str, dict[str, Any], str]] = [  # noqa: RUF012  never changed
        (
            "resize",
            "resize",
            {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "20m"}}}]}},
            "its containers keep the resources that they have",
        ),
        (
            "ephemeralcontainers",
            "ephemeralcontainers",
            {"spec": {"ephemeralContainers": [{"name": "debug", "image": IMAGE}]}},
            "its new ephemeral containers do not run",
        ),
        (
            "status",
            "status",
            {"status": {"conditions": [{"type": "lab.local/gate", "status": "True", "lastTransitionTime": "2099-01-01T00:00:00Z"}]}},
            "the conditions of its readiness gates are not passed on, and it does not get ready",
        ),
    ]

    @pytest.mark.parametrize(("right", "subresource", "body", "words"), CASES, ids=[case[0] for case in CASES])
    def test_what_is_not_granted_is_told_and_not_tried(
        self, pairs: PodPairs, right: str, subresource: str, body: dict[str, Any], words: str
    ) -> None:
        name = f"without-{right}"
        gates = [{"name": "lab.local/held"}] if right == "resize" else []  # of what runs, API servers want a kubelet's word on resources
        sized = [container(resources={"requests": {"cpu": "10m"}})]
        made = pod(name, containers=sized, readinessGates=[{"conditionType": "lab.local/gate"}], schedulingGates=gates)
        if gates:
            pairs.make(made)
            pairs.wait(HOST, name, lambda _found: True, "the host pod", 10)
        else:
            pairs.run(made)
        refusals = pairs.refusals()
        pairs.patch(VIRTUAL, name, body, subresource)
        message = pairs.wait_event(name, "RightMissing")
        assert message == f"{words}: the host cluster does not let the syncer patch pods/{right}"
        pairs.patch(VIRTUAL, name, {"metadata": {"labels": {"still": "synced"}}})
        pairs.wait(HOST, name, lambda found: found["metadata"]["labels"].get("still") == "synced", "the rest is synced", 10)
        pairs.assert_quiet()
        assert pairs.refusals() == refusals


class TestNames:
    @pytest.mark.parametrize("optional", [False, True], ids=["needed", "optional"])
    def test_a_strangers_object_under_the_name_of_what_does_not_exist(self, pairs: PodPairs, optional: bool) -> None:
        wanted, name = f"absent-{optional}".lower(), f"reads-absent-{optional}".lower()
        key = pairs.names.host_key(Key(NAMESPACE, wanted))
        metadata = {"name": key.name, "namespace": key.namespace}
        host = pairs.api(HOST)
        host.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"whose": "a stranger's"}})
        volume = {"name": "v", "configMap": {"name": wanted, "optional": optional}}
        pairs.make(pod(name, volumes=[volume]))
        message = pairs.wait_event(name, "NameTaken")
        assert f"ConfigMap {wanted}" in message
        assert key.namespace not in message
        assert pairs.find(HOST, name) is None
        host.delete(CONFIGMAPS.path(*key))
        pairs.delete(VIRTUAL, name)
        pairs.wait_gone(name)
        pairs.make(pod(name, volumes=[volume]))
        pairs.wait(HOST, name, lambda _found: True, "the host pod, now that nobody has the name", 10)


class TestSizes:
    """etcd takes 1.5 MiB. A host pod is larger than its virtual one: it tells more of itself."""

    def test_a_pod_whose_host_pod_would_not_fit_is_told(self, pairs: PodPairs) -> None:
        def of_size(name: str, size: int) -> dict[str, Any]:
            return pod(name, containers=[container(args=["x" * size])])

        pairs.make(of_size("near-the-limit", SIZE))
        message = pairs.wait_event("near-the-limit", "TooLarge")
        assert pairs.names.host_namespace not in message
        assert pairs.find(HOST, "near-the-limit") is None
        tries = pairs.daemon.metrics_sum('syncer_api_requests_total{code="500",resource="pods",side="host",verb="create"')
        wait_until(lambda: bool(pairs.events("near-the-limit")), "events", 5)
        assert tries <= 6, "it is not tried over and over"
        pairs.run(of_size("half-the-limit", SIZE // 2))

    def test_annotations_that_leave_no_room_for_ours(self, pairs: PodPairs) -> None:
        pairs.make(pod("annotated", annotations={"lab.local/large": "x" * (256 * 1024 - 300)}))
        assert pairs.names.host_namespace not in pairs.wait_event("annotated", "TooLarge")
        assert pairs.find(HOST, "annotated") is None

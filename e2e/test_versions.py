"""Two API servers of different versions: what one of them lacks is left out by name, told once, and never asked for again and again.

The tiers `virtual-older` and `host-older` run the tests of all resources so. The clusters here have their versions whatever the environment
says. Which fields and feature gates differ is read from the OpenAPI of both, and from what they answer.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from e2e.daemon import Daemon
from e2e.kubernetes import binaries
from e2e.kubernetes.catalogue import FOLDERS, OLDER
from e2e.lab import kwok
from e2e.lab.api import ApiFailure, wait_until
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab
from e2e.lab.teardown import down
from e2e.lab.virtual import VirtualCluster
from syncer.sync.contests import FUTILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from e2e.lab.api import Api

pytestmark = [pytest.mark.apiserver, pytest.mark.long, pytest.mark.timeout(180, func_only=True)]

NEWER = FOLDERS[0].checked_in_version
NAME = "versions"
PODS = "/api/v1/namespaces/default/pods"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
GPU = "example.com/gpu"
RULES = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]


class WithGroups(VirtualCluster):
    """Has switched on what makes it keep `spec.schedulingGroup` of pods."""

    def _apiserver_flags(self) -> Sequence[str]:
        return (*super()._apiserver_flags(), "--feature-gates=GenericWorkload=true", "--runtime-config=scheduling.k8s.io/v1alpha2=true")


def started(lab: Lab, kind: type[VirtualCluster], *flags: str, host: str, virtual: str) -> Iterator[Daemon]:
    """A syncer between a host and a virtual cluster of those versions, in a lab of their own."""
    binaries.ensure("kube-apiserver", "kube-controller-manager", "kube-scheduler", version=OLDER)
    own = Lab(f"{lab.name}-host-{host.replace('.', '-')}")
    own.create()
    try:
        cluster = HostCluster(own)
        cluster.up(version=host)
        kwok.start(cluster)
        side = kind(own, NAME)
        side.up(version=virtual)
        daemon = Daemon(side, *flags, cluster_rights=True)
        daemon.start()
        yield daemon
    finally:
        down(own)


@pytest.fixture(scope="class")
def older_host(lab: Lab) -> Iterator[Daemon]:
    yield from started(lab, WithGroups, host=OLDER, virtual=NEWER)


@pytest.fixture(scope="class")
def older_virtual(lab: Lab) -> Iterator[Daemon]:
    yield from started(lab, VirtualCluster, "--sync=nodes", host=NEWER, virtual=OLDER)


def pod(name: str, container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    main = {"name": "main", "image": "lab.local/none:1", **(container or {})}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [main], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def on_host(daemon: Daemon, name: str) -> str:
    return f"/api/v1/namespaces/{daemon.virtual.host_namespace}/pods/{name}-x-default-x-{NAME}"


def run(daemon: Daemon, body: dict[str, Any]) -> dict[str, Any]:
    """Make a pod, wait until it is Running; its host pod."""
    api, name = daemon.virtual.api, body["metadata"]["name"]
    api.apply(body)
    wait_until(lambda: api.get(f"{PODS}/{name}").get("status", {}).get("phase") == "Running", f"{name} runs")
    found: dict[str, Any] = daemon.virtual.host.api.get(on_host(daemon, name))
    return found


def told(daemon: Daemon, name: str) -> list[tuple[str, str]]:
    """The warnings on a virtual pod."""
    events = daemon.virtual.api.get("/api/v1/namespaces/default/events")["items"]
    return sorted((e["reason"], e["message"]) for e in events if e["involvedObject"]["name"] == name and e["type"] == "Warning")


def wait_told(daemon: Daemon, name: str) -> list[tuple[str, str]]:
    """The warnings on a virtual pod, as soon as there are any."""
    wait_until(lambda: told(daemon, name) != [], f"the tenant is told of {name}")
    return told(daemon, name)


def listed(daemon: Daemon, side: str) -> list[str]:
    """The fields that the log says are not kept; nothing is contested."""
    assert [line for line in daemon.log() if line.get("event") == "field.contested"] == []
    return [line["path"] for line in daemon.log() if line.get("event") == "field.not_kept" and line["side"] == side]


def assert_no_loop(daemon: Daemon, name: str) -> None:
    """However often the pair is decided, nothing is written."""
    host = daemon.virtual.host.api

    def writes() -> float:
        rows = [line for line in daemon.get("/metrics")[1].splitlines() if line.startswith("syncer_api_requests_total{")]
        about = [row for row in rows if 'resource="pods' in row or 'resource="services' in row or 'resource="nodes"' in row]
        return sum(float(row.rpartition(" ")[2]) for row in about if any(f'verb="{verb}"' in row for verb in ("create", "patch", "delete")))

    def quiet() -> bool:
        before = writes()
        time.sleep(2)
        return writes() == before

    def touch() -> float:
        for number in range(5):
            change = {"metadata": {"annotations": {"touched": f"{number} {time.time()}"}}}
            host.request("PATCH", on_host(daemon, name), change, content_type=MERGE)
            time.sleep(0.5)
        time.sleep(2)
        return writes()

    wait_until(quiet, "nothing is written any more")
    before = writes()
    learned = touch()
    assert learned - before < FUTILE, "what is dropped without a word is noticed soon"
    assert touch() == learned


def has(api: Api, schema: str, field: str) -> bool:
    """Whether the server's own schema of a core type has the field."""
    schemas = api.get("/openapi/v3/api/v1")["components"]["schemas"]
    return field in schemas[f"io.k8s.api.core.v1.{schema}"]["properties"]


def shows_disk(api: Api, path: str, size: str) -> bool:
    return bool(api.get(path)["status"]["capacity"].get("example.com/disk") == size)


class TestOlderHost:
    @pytest.mark.parametrize(
        ("body", "lost"),
        [
            pytest.param(pod("unknown", schedulingGroup={"podGroupName": "g"}), ["spec.schedulingGroup"], id="a field it does not know"),
            pytest.param(pod("gated", hostnameOverride="other.example"), ["spec.hostnameOverride"], id="a field that is switched off"),
            pytest.param(
                pod("rules", {"restartPolicy": "Never", "restartPolicyRules": RULES}),
                ["spec.containers[].restartPolicy", "spec.containers[].restartPolicyRules"],
                id="fields of a container",
            ),
            pytest.param(
                pod(
                    "elements",
                    {"volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("kept", "image")]},
                    volumes=[{"name": "kept", "emptyDir": {}}, {"name": "image", "image": {"reference": "lab.local/none:1"}}],
                ),
                ["spec.containers[].volumeMounts[]", "spec.volumes[]"],
                id="elements of lists",
            ),
        ],
    )  # fmt: skip
    def test_what_it_does_not_keep_is_told_by_name(self, older_host: Daemon, body: dict[str, Any], lost: list[str]) -> None:
        name = body["metadata"]["name"]
        run(older_host, body)
        wanted = ("FieldNotKept", f"the host cluster does not keep {', '.join(lost)}; it is made without")
        assert wait_told(older_host, name) == [wanted]
        assert [listed(older_host, "host").count(path) for path in lost] == [1] * len(lost)
        assert_no_loop(older_host, name)

    def test_a_second_pod_is_told_too_but_the_log_stays_as_it_is(self, older_host: Daemon) -> None:
        for name in ("first", "second"):
            run(older_host, pod(name, hostnameOverride="other.example"))
            wait_told(older_host, name)
        assert listed(older_host, "host").count("spec.hostnameOverride") == 1
        assert older_host.metric('syncer_pairs_drifting{resource="pods",side="host",why="not_kept"}') >= 2

    def test_what_makes_no_sense_without_is_refused_in_words(self, older_host: Daemon) -> None:
        reference = {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}
        mount = [{"name": "v", "mountPath": "/v"}]
        body = pod("file", {"env": [{"name": "A", "valueFrom": reference}], "volumeMounts": mount}, volumes=[{"name": "v", "emptyDir": {}}])
        older_host.virtual.api.apply(body)
        ((reason, message),) = wait_told(older_host, "file")
        assert reason == "Invalid"
        assert "valueFrom" in message
        assert older_host.virtual.host.api.find(on_host(older_host, "file")) is None

    def test_a_service_name_that_it_does_not_allow_is_refused_at_once(self, older_host: Daemon) -> None:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "1web"}, "spec": {"ports": [{"port": 80}]}}
        with pytest.raises(ApiFailure, match="DNS-1035"):
            older_host.virtual.api.apply(service)

    def test_the_tenants_restrictions_are_kept(self, older_host: Daemon) -> None:
        context = {
            "runAsNonRoot": True,
            "runAsUser": 7,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "procMount": "Default",
        }
        context |= {
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            "appArmorProfile": {"type": "RuntimeDefault"},
        }
        of_pod = {"supplementalGroupsPolicy": "Strict", "seLinuxChangePolicy": "Recursive", "fsGroup": 7, "supplementalGroups": [8]}
        host = run(older_host, pod("strict", {"securityContext": context}, securityContext=of_pod, hostUsers=False))
        assert host["spec"]["hostUsers"] is False
        assert host["spec"]["securityContext"] == of_pod
        assert host["spec"]["containers"][0]["securityContext"] == context
        assert told(older_host, "strict") == []


class TestOlderVirtual:
    def test_what_it_does_not_keep_of_a_status_is_listed_once(self, older_virtual: Daemon) -> None:
        virtual, host = older_virtual.virtual.api, older_virtual.virtual.host.api
        for field in ("resources", "allocatedResources"):
            assert (has(virtual, "PodStatus", field), has(host, "PodStatus", field)) == (False, True)
        (node,) = host.get("/api/v1/nodes")["items"]
        more = {GPU: "8"}
        path = f"/api/v1/nodes/{node['metadata']['name']}/status"
        host.request("PATCH", path, {"status": {"capacity": more, "allocatable": more}}, content_type=MERGE)
        limits = {"resources": {"requests": {GPU: "1"}, "limits": {GPU: "1"}}}
        made = run(older_virtual, pod("status", limits, resources={"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}))

        health = [{"name": GPU, "resources": [{"resourceID": "1", "health": "Unhealthy", "message": "hot"}]}]
        containers = [{**item, "allocatedResourcesStatus": health} for item in made["status"]["containerStatuses"]]
        newer = {
            "allocatedResources": {"cpu": "1"},
            "resources": {"requests": {"cpu": "1"}},
            "containerStatuses": containers,
            "message": "x",
        }
        host.request("PATCH", on_host(older_virtual, "status") + "/status", {"status": newer}, content_type=STRATEGIC)

        wait_until(lambda: virtual.get(f"{PODS}/status")["status"].get("message") == "x", "what it knows comes")
        assert_no_loop(older_virtual, "status")
        status = virtual.get(f"{PODS}/status")["status"]
        assert not {"resources", "allocatedResources"} & status.keys()
        assert "allocatedResourcesStatus" not in status["containerStatuses"][0]
        lost = [path for path in listed(older_virtual, "virtual") if path.startswith("status.") and "declaredFeatures" not in path]
        assert sorted(lost) == [
            "status.allocatedResources",
            "status.containerStatuses[].allocatedResourcesStatus",
            "status.containerStatuses[].allocatedResourcesStatus[].resources[].message",
            "status.resources",
        ]
        assert told(older_virtual, "status") == [], "nothing that a tenant could do about it"
        assert older_virtual.metric('syncer_pairs_drifting{resource="pods",side="virtual",why="not_kept"}') == 1

        host.request("PATCH", on_host(older_virtual, "status") + "/status", {"status": {"message": "y"}}, content_type=STRATEGIC)
        wait_until(lambda: virtual.get(f"{PODS}/status")["status"].get("message") == "y", "the rest goes on")
        assert_no_loop(older_virtual, "status")

    def test_what_it_does_not_keep_of_a_node_is_listed_once(self, older_virtual: Daemon) -> None:
        virtual, host = older_virtual.virtual.api, older_virtual.virtual.host.api
        assert (has(virtual, "NodeStatus", "declaredFeatures"), has(host, "NodeStatus", "declaredFeatures")) == (False, True)
        run(older_virtual, pod("node"))
        (node,) = host.get("/api/v1/nodes")["items"]
        path = f"/api/v1/nodes/{node['metadata']['name']}"
        for size, features in (("1", ["A"]), ("2", ["A", "B"])):
            newer = {"status": {"declaredFeatures": features, "capacity": {"example.com/disk": size}}}
            host.request("PATCH", f"{path}/status", newer, content_type=MERGE)
            wait_until(partial(shows_disk, virtual, path, size), "what it knows comes")
        assert "declaredFeatures" not in virtual.get(path)["status"]
        assert listed(older_virtual, "virtual").count("status.declaredFeatures") == 1
        assert_no_loop(older_virtual, "node")

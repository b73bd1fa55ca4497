"""What may change while a pod runs, on real API servers: what the tenant says goes down, what the host says comes up, and nobody fights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab import kwok
from e2e.lab.api import wait_until
from e2e.podpairs import IMAGE, PodPairs, conditions, container, pod
from syncer.kube.types import PODS, PRIORITY_CLASSES, RUNTIME_CLASSES, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.apiserver

VIRTUAL, HOST = Side.VIRTUAL, Side.HOST
LATER = "2099-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def nodes(host_cluster: HostCluster) -> list[str]:
    return kwok.start(host_cluster, 2)


@pytest.fixture(scope="module")
def pairs(nodes: list[str], tenant: StartTenant) -> PodPairs:
    assert nodes
    return PodPairs(tenant("pods", "--translate-image=lab.local/debug:1=lab.local/mirrored:1", cluster_rights=True))


def priority_class(name: str, value: int) -> Obj:
    return {"apiVersion": PRIORITY_CLASSES.api_version, "kind": "PriorityClass", "metadata": {"name": name}, "value": value}


def runtime_class(name: str, overhead: dict[str, str] | None = None) -> Obj:
    body = {"apiVersion": RUNTIME_CLASSES.api_version, "kind": "RuntimeClass", "metadata": {"name": name}, "handler": name}
    return {**body, **({"overhead": {"podFixed": overhead}} if overhead else {})}


@pytest.fixture(scope="module")
def classes(host_cluster: HostCluster, pairs: PodPairs) -> Iterator[None]:
    """Classes on both sides, under the same names but for one each."""
    virtual, host = pairs.api(VIRTUAL), host_cluster.api
    made = [
        (host, priority_class("tenants-high", 1000)),
        (host, runtime_class("sandboxed", {"cpu": "250m"})),
        (virtual, priority_class("tenants-high", 7)),
        (virtual, priority_class("only-here", 8)),
        (virtual, runtime_class("sandboxed", {"cpu": "1"})),
        (virtual, runtime_class("missing")),
    ]
    for api, body in made:
        api.apply(body)
    yield
    for api, body in made:
        api.delete(api.path_of(body))


class TestResize:
    def sized(self, cpu: str, name: str = "main") -> Obj:
        return {"name": name, "resources": {"requests": {"cpu": cpu, "memory": "32Mi"}, "limits": {"memory": "64Mi"}}}

    def requests(self, pairs: PodPairs, side: Side, name: str) -> Any:
        return pairs.get(side, name)["spec"]["containers"][0]["resources"]["requests"]

    def resize(self, pairs: PodPairs, side: Side, name: str, **requests: str) -> None:
        body = {"spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]}}
        pairs.patch(side, name, body, "resize")

    def run(self, pairs: PodPairs, body: Obj) -> None:
        """API servers let nobody resize a pod whose kubelet does not tell what resources its containers have; simulated ones do not."""
        name = pairs.run(body)["metadata"]["name"]
        host = pairs.get(HOST, name)
        (status,) = host["status"]["containerStatuses"]
        told = {**status, "resources": host["spec"]["containers"][0]["resources"]}
        pairs.patch(HOST, name, {"status": {"containerStatuses": [told]}}, "status")
        pairs.wait(VIRTUAL, name, lambda found: "resources" in found["status"]["containerStatuses"][0], "its resources are told", 10)

    def wait_cpu(self, pairs: PodPairs, name: str, cpu: str) -> None:
        wait_until(lambda: self.requests(pairs, HOST, name)["cpu"] == cpu, f"the host pod has {cpu} CPU", 10)

    def test_the_tenants_goes_down_and_the_kubelets_answer_comes_up(self, pairs: PodPairs) -> None:
        self.run(pairs, pod("resized", containers=[container() | self.sized("100m")]))
        self.resize(pairs, VIRTUAL, "resized", cpu="200m")
        self.wait_cpu(pairs, "resized", "200m")
        actual = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}
        generation = pairs.get(HOST, "resized")["metadata"]["generation"]
        statuses = pairs.get(HOST, "resized")["status"]["containerStatuses"]
        pending = {
            "type": "PodResizePending",
            "status": "True",
            "reason": "Deferred",
            "message": "no room",
            "observedGeneration": generation,
        }
        seen = {
            "conditions": [pending],
            "containerStatuses": [{**statuses[0], "resources": actual, "allocatedResources": actual["requests"]}],
        }
        pairs.patch(HOST, "resized", {"status": seen}, "status")
        pairs.wait(VIRTUAL, "resized", lambda found: "PodResizePending" in conditions(found), "the resize is pending", 10)
        shown = pairs.get(VIRTUAL, "resized")
        assert shown["status"]["containerStatuses"][0]["resources"] == actual
        assert shown["status"]["containerStatuses"][0]["allocatedResources"] == actual["requests"]
        assert conditions(shown)["PodResizePending"]["message"] == "no room"
        pairs.patch(HOST, "resized", {"status": {"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}}, "status")
        pairs.wait(VIRTUAL, "resized", lambda found: "PodResizePending" not in conditions(found), "it is over", 10)
        pairs.assert_quiet()

    def test_what_the_host_resizes_stays_until_the_tenant_speaks_of_it(self, pairs: PodPairs) -> None:
        self.run(pairs, pod("autoscaled", containers=[container() | self.sized("100m")]))
        self.resize(pairs, HOST, "autoscaled", cpu="400m")
        pairs.assert_quiet()
        assert self.requests(pairs, HOST, "autoscaled")["cpu"] == "400m"
        self.resize(pairs, VIRTUAL, "autoscaled", memory="48Mi")
        wait_until(lambda: self.requests(pairs, HOST, "autoscaled")["memory"] == "48Mi", "what the tenant resized", 10)
        assert self.requests(pairs, HOST, "autoscaled")["cpu"] == "400m"
        self.resize(pairs, VIRTUAL, "autoscaled", cpu="150m")
        self.wait_cpu(pairs, "autoscaled", "150m")
        pairs.assert_quiet()

    def test_a_sidecar(self, pairs: PodPairs) -> None:
        sidecar = {**container("side"), **self.sized("100m", "side"), "restartPolicy": "Always"}
        pairs.make(pod("sidecar", initContainers=[sidecar], schedulingGates=[{"name": "lab.local/held"}]))
        pairs.wait(HOST, "sidecar", lambda _found: True, "the host pod", 10)
        body = {"spec": {"initContainers": [{"name": "side", "resources": {"requests": {"cpu": "300m"}}}]}}
        pairs.patch(VIRTUAL, "sidecar", body, "resize")
        pairs.wait(
            HOST, "sidecar", lambda found: found["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] == "300m", "the sidecar's", 10
        )

    def test_a_refusal_is_told_and_tried_again(self, pairs: PodPairs) -> None:
        """The tenant's resize keeps the QoS class of the pod that he made, but not that of the one which the host made of it."""
        guaranteed = {"cpu": "100m", "memory": "32Mi"}
        limits = {"apiVersion": "v1", "kind": "LimitRange", "spec": {"limits": [{"type": "Container", "default": guaranteed}]}}
        limits["metadata"] = {"name": "defaults", "namespace": pairs.names.host_namespace}
        host = pairs.api(HOST)
        host.apply(limits)
        try:
            self.run(pairs, pod("refused", containers=[container(resources={"requests": guaranteed})]))
        finally:
            host.delete(host.path_of(limits))
        assert pairs.get(VIRTUAL, "refused")["status"]["qosClass"] == "Burstable"
        assert pairs.get(HOST, "refused")["status"]["qosClass"] == "Guaranteed"
        self.resize(pairs, VIRTUAL, "refused", cpu="50m")
        message = pairs.wait_event("refused", "Immutable")
        assert pairs.names.host_namespace not in message
        assert pairs.names.suffix not in message
        self.resize(pairs, VIRTUAL, "refused", cpu="100m")
        pairs.assert_quiet()


def test_everything_that_may_change(pairs: PodPairs) -> None:
    gates = [{"name": "lab.local/one"}, {"name": "lab.local/two"}]
    pairs.make(pod("changing", labels={"a": "1", "b": "1"}, annotations={"x": "1", "y": "1"}, schedulingGates=gates))
    pairs.wait(HOST, "changing", lambda found: len(found["spec"]["schedulingGates"]) == 2, "the host pod, gated", 10)
    uid = pairs.get(HOST, "changing")["metadata"]["uid"]
    observe(pairs, "changing")
    changes = {
        "containers": [{"name": "main", "image": "lab.local/none:2"}],
        "activeDeadlineSeconds": 600,
        "schedulingGates": [{"$patch": "delete", "name": "lab.local/one"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
    }
    metadata = {"labels": {"a": "2", "b": None, "c": "3"}, "annotations": {"x": "2", "y": None, "z": "3"}}
    pairs.patch(VIRTUAL, "changing", {"metadata": metadata, "spec": changes})
    more = [*pairs.get(VIRTUAL, "changing")["spec"]["tolerations"], {"key": "lab.local/t", "operator": "Exists", "effect": "NoSchedule"}]
    pairs.patch(VIRTUAL, "changing", {"spec": {"tolerations": more}})

    def arrived(found: Obj) -> bool:
        spec, meta = found["spec"], found["metadata"]
        return (
            spec["containers"][0]["image"] == "lab.local/none:2"
            and spec["activeDeadlineSeconds"] == 600
            and spec["schedulingGates"] == gates[1:]
            and spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
            and spec["tolerations"] == more
            and {key: meta["labels"].get(key) for key in "abc"} == {"a": "2", "b": None, "c": "3"}
            and {key: meta["annotations"].get(key) for key in "xyz"} == {"x": "2", "y": None, "z": "3"}
        )

    pairs.wait(HOST, "changing", arrived, "all changes on the host", 10)
    pairs.patch(VIRTUAL, "changing", {"spec": {"schedulingGates": None}})
    pairs.wait(VIRTUAL, "changing", lambda found: found["status"]["phase"] == "Running", "it runs once it is let go", 20)
    assert pairs.get(HOST, "changing")["metadata"]["uid"] == uid
    observe(pairs, "changing")
    pairs.assert_quiet()


def observe(pairs: PodPairs, name: str) -> None:
    """The kubelet has seen the newest spec; so shows the virtual pod."""
    generation = pairs.get(HOST, name)["metadata"]["generation"]
    pairs.patch(HOST, name, {"status": {"observedGeneration": generation}}, "status")
    pairs.wait(
        VIRTUAL,
        name,
        lambda found: found["status"].get("observedGeneration") == found["metadata"]["generation"],
        f"generation of {name}",
        10,
    )


class TestEphemeralContainers:
    def add(self, pairs: PodPairs, *containers: Obj) -> None:
        pairs.patch(VIRTUAL, "debugged", {"spec": {"ephemeralContainers": [*containers]}}, "ephemeralcontainers")

    def test_all_of_them_at_once_and_one_after_another(self, pairs: PodPairs) -> None:
        pairs.run(pod("debugged"))
        first = {"name": "d1", "image": "lab.local/debug:1", "targetContainerName": "main", "command": ["sh"], "stdin": True, "tty": True}
        self.add(
            pairs,
            first,
            {"name": "d2", "image": IMAGE, "env": [{"name": "SELF", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
        )
        self.wait(pairs, 2)
        self.add(pairs, {"name": "d3", "image": "lab.local/debug:1"})
        self.wait(pairs, 3)
        found = {item["name"]: item for item in pairs.get(HOST, "debugged")["spec"]["ephemeralContainers"]}
        assert {name: item["image"] for name, item in found.items()} == {
            "d1": "lab.local/mirrored:1",
            "d2": IMAGE,
            "d3": "lab.local/mirrored:1",
        }
        assert (found["d1"]["targetContainerName"], found["d1"]["command"], found["d1"]["tty"]) == ("main", ["sh"], True)
        assert {item["name"]: item.get("value") for item in found["d2"]["env"]}["SELF"] == "debugged"
        running = [
            {"name": name, "image": "i", "imageID": "i", "ready": False, "restartCount": 0, "state": {"running": {}}} for name in found
        ]
        pairs.patch(HOST, "debugged", {"status": {"ephemeralContainerStatuses": running}}, "status")
        pairs.wait(VIRTUAL, "debugged", lambda pod: len(pod["status"].get("ephemeralContainerStatuses") or ()) == 3, "their statuses", 10)
        pairs.assert_quiet()

    def wait(self, pairs: PodPairs, count: int) -> None:
        pairs.wait(HOST, "debugged", lambda pod: len(pod["spec"].get("ephemeralContainers") or ()) == count, f"{count} on the host", 10)


def test_readiness_gates_go_down_and_their_younger_state_is_shown(pairs: PodPairs) -> None:
    pairs.run(pod("gate", readinessGates=[{"conditionType": "lab.local/gate"}]))  # a simulated kubelet sets it, which a real one never does
    mine = {"type": "lab.local/gate", "status": "False", "reason": "Mine", "lastTransitionTime": LATER}
    pairs.patch(VIRTUAL, "gate", {"status": {"conditions": [mine]}}, "status")
    pairs.wait(HOST, "gate", lambda found: conditions(found)["lab.local/gate"].get("reason") == "Mine", "the tenant's word on the host", 10)
    assert conditions(pairs.get(VIRTUAL, "gate"))["lab.local/gate"]["status"] == "False"
    pairs.assert_quiet()


class TestClasses:
    @pytest.mark.usefixtures("classes")
    def test_a_priority_class_that_the_host_has_counts_there(self, pairs: PodPairs) -> None:
        virtual = pairs.run(pod("important", priorityClassName="tenants-high"))
        host = pairs.get(HOST, "important")["spec"]
        assert (host["priorityClassName"], host["priority"], virtual["spec"]["priority"]) == ("tenants-high", 1000, 7)

    @pytest.mark.usefixtures("classes")
    @pytest.mark.parametrize("name", ["only-here", "system-node-critical"])
    def test_another_one_is_left_out(self, pairs: PodPairs, name: str) -> None:
        pairs.run(pod(f"prio-{name}", priorityClassName=name))
        host = pairs.get(HOST, f"prio-{name}")["spec"]
        assert (host.get("priorityClassName"), host["priority"]) == (None, 0)

    @pytest.mark.usefixtures("classes")
    def test_a_runtime_class_brings_the_hosts_overhead(self, pairs: PodPairs) -> None:
        virtual = pairs.run(pod("sandboxed", runtimeClassName="sandboxed"))
        host = pairs.get(HOST, "sandboxed")["spec"]
        assert (host["runtimeClassName"], host["overhead"], virtual["spec"]["overhead"]) == ("sandboxed", {"cpu": "250m"}, {"cpu": "1"})

    @pytest.mark.usefixtures("classes")
    def test_without_its_runtime_class_a_pod_waits_and_says_so(self, pairs: PodPairs) -> None:
        pairs.make(pod("unsandboxed", runtimeClassName="missing"))
        message = pairs.wait_event("unsandboxed", "NoRuntimeClass")
        assert message == "the host cluster has no RuntimeClass missing, and a pod that asks for one never runs without"
        assert pairs.find(HOST, "unsandboxed") is None
        host = pairs.api(HOST)
        late = runtime_class("missing")
        host.apply(late)
        try:
            pairs.wait(HOST, "unsandboxed", lambda found: found["spec"]["runtimeClassName"] == "missing", "the host pod, sandboxed", 10)
        finally:
            host.delete(host.path_of(late))


class TestInjected:
    """A MutatingAdmissionPolicy of the host does what a service mesh's webhook does."""

    GROUP = "/apis/admissionregistration.k8s.io/v1"

    @pytest.fixture
    def injector(self, pairs: PodPairs) -> Iterator[None]:
        expression = """Object{spec: Object.spec{
            containers: [Object.spec.containers{name: "proxy", image: "mesh/proxy:1"},
              Object.spec.containers{name: "main", env: [Object.spec.containers.env{name: "MESH", value: "on"}]}],
            initContainers: [Object.spec.initContainers{name: "mesh-init", image: "mesh/init:1", restartPolicy: "Always"}],
            volumes: [Object.spec.volumes{name: "mesh", emptyDir: Object.spec.volumes.emptyDir{}}]
        }}"""
        api = pairs.api(HOST)
        if not api.serves("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy"):
            pytest.skip("the host's version has no MutatingAdmissionPolicy; 1.36 does")
        namespace = {"matchLabels": {"kubernetes.io/metadata.name": pairs.names.host_namespace}}
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        policy = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": "mesh"},
            "spec": {
                "matchConstraints": {"resourceRules": [rule], "namespaceSelector": namespace},
                "matchConditions": [{"name": "asked", "expression": "'mesh' in object.metadata.?labels.orValue({})"}],
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
            },
        }
        binding = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": "mesh"},
            "spec": {"policyName": "mesh"},
        }
        for body in (policy, binding):
            api.apply(body)
        probe = {
            **pod("probe", labels={"mesh": "on"}),
            "metadata": {"name": "probe", "namespace": pairs.names.host_namespace, "labels": {"mesh": "on"}},
        }

        def works() -> bool:
            tried = api.request("POST", PODS.path(pairs.names.host_namespace), probe, params={"dryRun": "All"})
            return len(tried["spec"]["containers"]) == 2

        wait_until(works, "the host injects sidecars", 30)
        yield
        for body in (binding, policy):
            api.delete(api.path_of(body))

    @pytest.mark.usefixtures("injector")
    def test_sidecars_are_hidden_and_not_fought(self, pairs: PodPairs) -> None:
        pairs.make(pod("meshed", labels={"mesh": "on"}))
        pairs.wait(VIRTUAL, "meshed", lambda found: found["status"].get("phase") == "Running", "it runs", 20)
        host = pairs.get(HOST, "meshed")
        assert {item["name"] for item in host["spec"]["containers"]} == {"main", "proxy"}
        assert len(host["status"]["containerStatuses"]) == 2
        shown = pairs.get(VIRTUAL, "meshed")
        assert [item["name"] for item in shown["status"]["containerStatuses"]] == ["main"]
        assert not shown["status"].get("initContainerStatuses")
        pairs.patch(VIRTUAL, "meshed", {"spec": {"containers": [{"name": "main", "image": "lab.local/none:2"}]}})
        pairs.wait(HOST, "meshed", lambda found: self.image(found, "main") == "lab.local/none:2", "the new image", 10)
        changed = pairs.get(HOST, "meshed")
        assert self.image(changed, "proxy") == "mesh/proxy:1"
        for field in ("initContainers", "volumes"):
            assert changed["spec"][field] == host["spec"][field]
        assert any(
            item["name"] == "MESH"
            for container in changed["spec"]["containers"]
            if container["name"] == "main"
            for item in container["env"]
        )
        pairs.assert_quiet()

    def image(self, found: Obj, name: str) -> str:
        (image,) = [item["image"] for item in found["spec"]["containers"] if item["name"] == name]
        return str(image)

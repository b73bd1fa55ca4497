from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.naming import Names
from syncer.translate.merge import apply
from syncer.translate.status import host_gate_conditions, status_patch, virtual_pod_status
from tests.fakes.patches import strategic

Call = Callable[..., Any]
GATE = "example.com/gate"


@pytest.fixture
def pair(pod: Call) -> Call:
    """A virtual pod and its host pod with the given statuses."""

    def make(virtual_status: Obj, host_status: Obj, **spec: Any) -> tuple[Obj, Obj]:
        virtual = pod(**spec)
        host = {
            "metadata": {"name": "web-0-x-default-x-vc", "namespace": "tenants", "uid": "h-1", "generation": 1},
            "spec": {"containers": [*virtual["spec"]["containers"], {"name": "sidecar"}], "readinessGates": spec.get("readinessGates")},
            "status": host_status,
        }
        return {**virtual, "status": virtual_status}, host

    return make


def condition(kind: str, status: str = "True", time: str | None = "2026-01-01T00:00:00Z", **more: Any) -> Obj:
    return {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": time, **more}


def stored(item: Obj) -> Obj:
    return {key: value for key, value in item.items() if value is not None}


def in_any_order(conditions: list[Obj]) -> dict[str, Obj]:
    return {item["type"]: stored(item) for item in conditions}


def test_the_hosts_status_is_shown(names: Names, pair: Call) -> None:
    host_status = {
        "phase": "Running",
        "hostIP": "192.0.2.1",
        "podIP": "10.2.0.3",
        "podIPs": [{"ip": "10.2.0.3"}],
        "startTime": "2026-01-01T00:00:00Z",
        "nominatedNodeName": "node-1",
        "resize": "InProgress",
        "qosClass": "Burstable",
        "conditions": [condition("Ready")],
        "containerStatuses": [{"name": "app", "ready": True, "imageID": "sha256:1", "containerID": "containerd://1"}],
        "futureField": {"a": [1]},
    }
    virtual, host = pair({}, host_status)
    before = copy.deepcopy((virtual, host))
    assert virtual_pod_status(names, virtual, host) == host_status
    assert (virtual, host) == before


def test_without_a_status_there_is_nothing_to_show(names: Names, pair: Call) -> None:
    virtual, host = pair({"phase": "Pending"}, {})
    assert virtual_pod_status(names, virtual, host) == {}
    del host["status"]
    assert virtual_pod_status(names, virtual, host) == {}
    assert status_patch(virtual, {}) is None


def test_containers_of_the_host_only_are_not_shown(names: Names, pair: Call) -> None:
    def statuses(*names_: str) -> list[Obj]:
        return [{"name": name, "ready": True} for name in names_]

    host_status = {
        "containerStatuses": statuses("app", "sidecar"),
        "initContainerStatuses": statuses("injected", "init"),
        "ephemeralContainerStatuses": statuses("debug", "host-debug"),
        "resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "host-claim"}],
    }
    virtual, host = pair({}, host_status, initContainers=[{"name": "init"}], ephemeralContainers=[{"name": "debug"}])
    assert virtual_pod_status(names, virtual, host) == {
        "containerStatuses": statuses("app"),
        "initContainerStatuses": statuses("init"),
        "ephemeralContainerStatuses": statuses("debug"),
    }


def test_qos_class_stays_what_the_virtual_api_server_computed(names: Names, pair: Call) -> None:
    assert virtual_pod_status(names, *pair({"qosClass": "BestEffort"}, {"qosClass": "Burstable"}))["qosClass"] == "BestEffort"


def test_what_the_host_has_dropped_goes(names: Names, pair: Call) -> None:
    virtual, host = pair({"nominatedNodeName": "n", "message": "m", "reason": "r", "phase": "Pending"}, {"phase": "Running"})
    status = virtual_pod_status(names, virtual, host)
    assert status == {"phase": "Running", "message": None, "reason": None, "nominatedNodeName": None}
    assert apply(virtual, status_patch(virtual, status))["status"] == {"phase": "Running"}


@pytest.mark.parametrize(
    ("mine", "theirs", "gates", "shown"),
    [
        ([], [condition("Ready")], [], [condition("Ready")]),
        ([condition("Ready", "False")], [condition("Ready")], [], [condition("Ready")]),
        # what the kubelet or the host's scheduler withdrew goes
        ([condition("PodResizePending"), condition("Ready")], [condition("Ready")], [], [condition("Ready")]),
        # the tenant's own stay
        ([condition("x.io/a")], [condition("Ready")], [], [condition("Ready"), condition("x.io/a")]),
        ([condition("NoDomain")], [condition("Ready")], ["NoDomain"], [condition("Ready"), condition("NoDomain")]),
        ([condition("DisruptionTarget")], [condition("Ready")], [], [condition("Ready"), condition("DisruptionTarget")]),
        # of a gate the younger version counts, on a tie the virtual one
        ([condition(GATE, "True")], [condition(GATE, "False")], [GATE], [condition(GATE, "True")]),
        ([condition(GATE, "True", None)], [condition(GATE, "False", None)], [GATE], [condition(GATE, "True", None)]),
        (
            [condition(GATE, "True", "2026-01-01T00:00:00Z")],
            [condition(GATE, "False", "2026-01-01T00:00:01Z")],
            [GATE],
            [condition(GATE, "False", "2026-01-01T00:00:01Z")],
        ),
        # what is no gate is the host's, whoever is younger
        ([condition("x.io/a", "True", "2027-01-01T00:00:00Z")], [condition("x.io/a", "False")], [], [condition("x.io/a", "False")]),
    ],
)
def test_conditions(names: Names, pair: Call, mine: list[Obj], theirs: list[Obj], gates: list[str], shown: list[Obj]) -> None:
    readiness_gates = [{"conditionType": kind} for kind in gates]
    virtual, host = pair({"conditions": mine}, {"conditions": theirs}, readinessGates=readiness_gates)
    status = virtual_pod_status(names, virtual, host)
    assert status == {"conditions": shown}
    patched = strategic(virtual, status_patch(virtual, status) or {})
    assert in_any_order(patched["status"]["conditions"]) == in_any_order(shown)
    assert status_patch(patched, status) is None


def test_a_gate_of_the_host_alone_goes_with_the_host(names: Names, pair: Call) -> None:
    virtual, host = pair({"conditions": [condition(GATE)]}, {"conditions": [condition("Ready")]})
    host["spec"]["readinessGates"] = [{"conditionType": GATE}]
    assert virtual_pod_status(names, virtual, host)["conditions"] == [condition("Ready")]


@pytest.mark.parametrize(
    ("mine", "theirs", "passed_on"),
    [
        ([], [], []),
        ([condition(GATE)], [], [condition(GATE)]),
        ([condition(GATE)], [condition(GATE)], []),
        ([condition(GATE)], [{key: value for key, value in condition(GATE).items() if value is not None}], []),
        ([condition(GATE, "False")], [condition(GATE, "True")], [condition(GATE, "False")]),
        ([condition(GATE, "False")], [condition(GATE, "True", "2026-01-01T00:00:01Z")], []),
        ([condition(GATE, observedGeneration=7)], [condition(GATE)], []),
        ([condition("x.io/no-gate")], [], []),
    ],
)
def test_readiness_gates_go_down(pair: Call, mine: list[Obj], theirs: list[Obj], passed_on: list[Obj]) -> None:
    virtual, host = pair({"conditions": mine}, {"conditions": theirs}, readinessGates=[{"conditionType": GATE}])
    patch = host_gate_conditions(virtual, host)
    assert patch == ({"status": {"conditions": passed_on}} if passed_on else None)
    if patch:
        assert host_gate_conditions(virtual, strategic(host, patch)) is None


def test_a_gate_that_the_host_pod_does_not_have_is_not_passed_on(pair: Call) -> None:
    virtual, host = pair({"conditions": [condition(GATE)]}, {}, readinessGates=[{"conditionType": GATE}])
    host["spec"]["readinessGates"] = []
    assert host_gate_conditions(virtual, host) is None


GENERATIONS = [
    # virtual generation, its status, host generation, host observed, applied, shown
    (5, {}, 2, 2, True, 5),
    (5, {}, 2, 1, True, None),
    (5, {"observedGeneration": 4}, 2, 1, True, 4),
    (5, {"observedGeneration": 4}, 2, 2, False, 4),
    (5, {"startTime": "t"}, 2, 2, True, None),  # an API server that drops it
    (None, {}, 2, 2, True, None),
]


@pytest.mark.parametrize(("generation", "present", "host_generation", "observed", "applied", "shown"), GENERATIONS)
def test_observed_generation(
    names: Names, pair: Call, generation: int | None, present: Obj, host_generation: int, observed: int, applied: bool, shown: int | None
) -> None:
    mine = {**present, "conditions": [condition("Ready", **{key: value for key, value in present.items() if key == "observedGeneration"})]}
    virtual, host = pair(
        mine, {"observedGeneration": observed, "conditions": [condition("Ready", observedGeneration=observed)], "startTime": "t"}
    )
    virtual["metadata"]["generation"] = generation
    host["metadata"]["generation"] = host_generation
    status = virtual_pod_status(names, virtual, host, spec_applied=applied)
    assert status.get("observedGeneration") == shown
    assert status["conditions"][0].get("observedGeneration") == shown
    assert None not in status.values()


def test_host_names_in_messages(names: Names, pair: Call) -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "s-x-default-x-vc" not found in tenants'}
    died = {"reason": "Error", "message": "tenants h-1", "exitCode": 1}
    started = {"reason": "ContainerCannotRun", "message": "pod web-0-x-default-x-vc_tenants(h-1)", "exitCode": 128}
    host_status = {
        "message": "Pod tenants/web-0-x-default-x-vc was evicted",
        "conditions": [condition("PodScheduled", "False", message="claim web-0-x-default-x-vc-data")],
        "containerStatuses": [{"name": "app", "state": {"waiting": waiting}, "lastState": {"terminated": died}}],
        "initContainerStatuses": [{"name": "init", "state": {"terminated": started}, "lastState": {}}],
    }
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    virtual, host = pair({}, host_status, containers=[{"name": "app", "env": env}], initContainers=[{"name": "init"}])
    before = copy.deepcopy(host)
    status = virtual_pod_status(names, virtual, host)
    assert status["message"] == "Pod default/web-0 was evicted"
    assert status["conditions"][0]["message"] == "claim web-0-data"
    state = status["containerStatuses"][0]
    assert state["state"]["waiting"]["message"] == 'secret "s" not found in default'
    assert state["lastState"]["terminated"] == died  # the container's own words
    assert status["initContainerStatuses"][0]["state"]["terminated"]["message"] == "pod web-0_default(u-1)"
    assert host == before


def test_status_patch_leaves_other_conditions_alone(pair: Call) -> None:
    ready = condition("Ready", "False", reason="ContainersNotReady", message="m")
    virtual, _ = pair({"conditions": [ready, condition("x.io/a")], "podIPs": [{"ip": "10.0.0.1"}]}, {})
    wanted = {"conditions": [condition("x.io/a"), condition("Ready")], "podIPs": [{"ip": "10.0.0.2"}]}
    patch = status_patch(virtual, wanted)
    assert patch == {
        "status": {
            "conditions": [{"reason": None, "message": None, **stored(condition("Ready"))}],
            "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
        }
    }
    meanwhile = strategic(virtual, {"status": {"conditions": [condition("x.io/b")]}})
    result = strategic(meanwhile, patch)["status"]
    assert result["podIPs"] == [{"ip": "10.0.0.2"}]
    assert in_any_order(result["conditions"]) == in_any_order([condition(kind) for kind in ("Ready", "x.io/a", "x.io/b")])


def test_the_order_of_conditions_is_no_difference(pair: Call) -> None:
    virtual, _ = pair({"conditions": [condition("A"), condition("B")]}, {})
    assert status_patch(virtual, {"conditions": [condition("B"), condition("A")]}) is None

"""Labels that a policy of the host insists upon: told of, then left alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Api
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAME = "unkept"
ADMISSION = "admissionregistration.k8s.io/v1"
MERGE = "application/merge-patch+json"
WEB = "/api/v1/namespaces/default/pods/web"
WRITES = 'syncer_api_requests_total{code="200",resource="pods",side="host",verb="patch"}'


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant(NAME)


@pytest.fixture
def insisting(daemon: Daemon) -> Iterator[Api]:
    """The host's administrators want a label `team` with their value on every pod of the host namespace."""
    api = daemon.virtual.host.api
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["pods"]}
    meant = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": daemon.virtual.host_namespace}}}
    metadata = {"name": NAME}
    expression = 'Object{metadata: Object.metadata{labels: {"team": "platform"}}}'
    mutation = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "mutations": [mutation], "reinvocationPolicy": "Never", "failurePolicy": "Fail"}
    if not api.serves(ADMISSION, "MutatingAdmissionPolicy"):
        pytest.skip("the host's version has no MutatingAdmissionPolicy; 1.36 does")
    api.apply({"apiVersion": ADMISSION, "kind": "MutatingAdmissionPolicy", "metadata": metadata, "spec": spec})
    binding = {"policyName": NAME, "matchResources": meant}
    api.apply({"apiVersion": ADMISSION, "kind": "MutatingAdmissionPolicyBinding", "metadata": metadata, "spec": binding})
    path = f"/api/v1/namespaces/{daemon.virtual.host_namespace}/pods"

    def in_force() -> bool:
        made = api.request("POST", path, pod("probe"), params={"dryRun": "All"})
        return bool(made["metadata"].get("labels", {}).get("team") == "platform")

    wait_until(in_force, "the policy is in force")
    yield api
    for plural in ("mutatingadmissionpolicybindings", "mutatingadmissionpolicies"):
        api.delete(f"/apis/{ADMISSION}/{plural}/{NAME}")


def pod(name: str, **labels: str) -> dict[str, Any]:
    container = {"name": "main", "image": "lab.local/none:1"}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def labels(api: Api, path: str) -> dict[str, str]:
    found: dict[str, str] = api.get(path)["metadata"].get("labels") or {}
    return found


def told(daemon: Daemon, reason: str) -> list[str]:
    events = daemon.virtual.api.get("/api/v1/namespaces/default/events")["items"]
    return [event["message"] for event in events if event["reason"] == reason]


def steady(value: Callable[[], float], seconds: float = 3.0) -> None:
    """It does not change any more."""
    before = value()
    time.sleep(seconds)
    assert value() == before


def test_a_label_that_a_policy_of_the_host_insists_upon(daemon: Daemon, insisting: Api) -> None:
    virtual = daemon.virtual.api
    on_host = f"/api/v1/namespaces/{daemon.virtual.host_namespace}/pods/web-x-default-x-{NAME}"
    virtual.apply(pod("web", team="mine", role="a"))
    wait_until(lambda: virtual.get(WEB)["status"].get("phase") == "Running", "it runs")
    wait_until(lambda: told(daemon, "FieldContested") != [], "the tenant is told")
    assert told(daemon, "FieldContested") == [
        "something on the host cluster keeps changing metadata.labels.team back; it is left as it is there"
    ]
    assert daemon.wait_log("field.contested")["path"] == "metadata.labels.team"
    assert daemon.metric('syncer_pairs_drifting{resource="pods",side="host",why="contested"}') == 1
    steady(lambda: daemon.metric(WRITES))
    assert labels(virtual, WEB)["team"] == "mine"

    virtual.request("PATCH", WEB, {"metadata": {"labels": {"role": "b"}}}, content_type=MERGE)
    wait_until(lambda: labels(insisting, on_host).get("role") == "b", "other labels go on")
    assert labels(insisting, on_host)["team"] == "platform"
    steady(lambda: daemon.metric(WRITES))

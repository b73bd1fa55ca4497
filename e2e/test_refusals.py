"""What the host refuses: the tenant reads why on the object and on its owner, nothing of the host, and it works as soon as it can."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import ApiFailure, wait_until
from syncer.resources import ALL
from syncer.sync.refusals import CONDITION
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Api
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAME = "refused"
ADMISSION = "admissionregistration.k8s.io/v1"
MERGE = "application/merge-patch+json"
SOON = 5.0


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant(NAME)


@pytest.fixture(scope="module")
def virtual(daemon: Daemon) -> Api:
    return daemon.virtual.api


@pytest.fixture(scope="module")
def host(daemon: Daemon) -> Api:
    return daemon.virtual.host.api


@pytest.fixture(autouse=True)
def nothing_left(daemon: Daemon) -> Iterator[None]:
    """Each test begins with a host that takes everything, and without pods."""
    yield
    api, namespace = daemon.virtual.host.api, daemon.virtual.host_namespace
    for plural in ("resourcequotas", "limitranges"):
        api.request("DELETE", f"/api/v1/namespaces/{namespace}/{plural}")
    label(daemon, None)
    for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        api.delete(f"/apis/{ADMISSION}/{plural}/{NAME}")
    daemon.virtual.api.request("DELETE", "/apis/apps/v1/namespaces/default/deployments")
    daemon.virtual.api.request("DELETE", "/api/v1/namespaces/default/pods")
    wait_until(lambda: pods(daemon) == [] and host_pods(daemon) == [], "all pods are gone")


def container(cpu: str = "10m") -> dict[str, Any]:
    return {"name": "main", "image": "lab.local/none:1", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}


def spec(cpu: str = "10m", **fields: Any) -> dict[str, Any]:
    return {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container(cpu)], **fields}


def pod(name: str, cpu: str = "10m", metadata: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **(metadata or {})}, "spec": spec(cpu, **fields)}


def deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec()}
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": body}


def quota(daemon: Daemon, **hard: str) -> None:
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "compute", "namespace": daemon.virtual.host_namespace}}
    api = daemon.virtual.host.api
    api.apply({**body, "spec": {"hard": hard}})
    path = f"/api/v1/namespaces/{daemon.virtual.host_namespace}/resourcequotas/compute"
    wait_until(lambda: (api.get(path).get("status") or {}).get("hard") == hard, "the quota controller has seen the quota")


def label(daemon: Daemon, level: str | None) -> None:
    """Pod Security of the host namespace."""
    labels = {"pod-security.kubernetes.io/enforce": level, "refused": "yes" if level is None else None}
    path = f"/api/v1/namespaces/{daemon.virtual.host_namespace}"
    daemon.virtual.host.api.request("PATCH", path, {"metadata": {"labels": labels}}, content_type=MERGE)


def policy(daemon: Daemon, resource: str, expression: str, message: str) -> None:
    """A rule of the host's administrators for the host namespace."""
    api = daemon.virtual.host.api
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}
    meant = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": daemon.virtual.host_namespace}}}
    metadata = {"name": NAME}
    constraints = {"resourceRules": [rule]}
    body = {"matchConstraints": constraints, "validations": [{"expression": expression, "message": message}]}
    api.apply({"apiVersion": ADMISSION, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": body})
    binding = {"policyName": NAME, "validationActions": ["Deny"], "matchResources": meant}
    api.apply({"apiVersion": ADMISSION, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata, "spec": binding})
    bad = {"apiVersion": "v1", "kind": resource[:-1].title().replace("map", "Map"), "metadata": {"name": "probe", "labels": {"bad": "yes"}}}
    path = f"/api/v1/namespaces/{daemon.virtual.host_namespace}/{resource}"
    wait_until(partial(denies, api, path, {**bad, **({"spec": spec()} if resource == "pods" else {})}), "the policy is in force")


def denies(api: Api, path: str, body: dict[str, Any]) -> bool:
    try:
        api.request("POST", path, body, params={"dryRun": "All"})
    except ApiFailure as failure:
        return "denied request" in str(failure)
    return False


def pods(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.virtual.api.get("/api/v1/namespaces/default/pods")["items"]
    return found


def host_pods(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.virtual.host.api.get(f"/api/v1/namespaces/{daemon.virtual.host_namespace}/pods")["items"]
    return found


def running(daemon: Daemon) -> int:
    return sum(1 for one in pods(daemon) if one["status"].get("phase") == "Running")


def condition(obj: dict[str, Any], kind: str) -> tuple[str, str] | None:
    """Status and reason."""
    for one in (obj.get("status") or {}).get("conditions") or ():
        if one["type"] == kind:
            return one["status"], one.get("reason") or ""
    return None


def shown(daemon: Daemon, name: str, kind: str = "PodScheduled") -> tuple[str, str] | None:
    return condition(daemon.virtual.api.get(f"/api/v1/namespaces/default/pods/{name}"), kind)


def events(daemon: Daemon, *, kind: str = "Pod", name: str = "", type_: str = "Warning") -> list[dict[str, Any]]:
    """The syncer's own ones about objects of that kind, on the virtual side; none tells of the host."""
    found = [
        event
        for event in daemon.virtual.api.get("/api/v1/namespaces/default/events")["items"]
        if (event.get("source") or {}).get("component") == "syncer"
        and event["involvedObject"]["kind"] == kind
        and event["involvedObject"]["name"].startswith(name)
        and event["type"] == type_
    ]
    for event in found:
        for secret in (daemon.virtual.host_namespace, f"-x-{NAME}", "syncer-", "system:", "used:"):
            assert secret not in event["message"], event["message"]
    return found


def wait_refused(daemon: Daemon, name: str, reason: str, kind: str = "PodScheduled") -> str:
    """Until the pod says so by condition and event; the event's message."""
    wait_until(lambda: shown(daemon, name, kind) == ("False", reason), f"{name} shows {reason}", 15)
    wait_until(lambda: any(event["reason"] == reason for event in events(daemon, name=name)), f"{name} has an event", 15)
    (event,) = (event for event in events(daemon, name=name) if event["reason"] == reason)
    assert "tried again" in event["message"]
    return str(event["message"])


def wait_running(daemon: Daemon, name: str, within: float = SOON) -> None:
    wait_until(lambda: shown(daemon, name) == ("True", ""), f"{name} is scheduled", within)
    wait_until(lambda: bool(events(daemon, name=name, type_="Normal")), f"{name} is told to be fine again")


def test_a_quota_that_is_raised_has_all_refused_pods_on_the_host_within_five_seconds(daemon: Daemon, virtual: Api) -> None:
    quota(daemon, pods="3", **{"requests.cpu": "2"})
    virtual.apply(deployment("many", 40))
    wait_until(lambda: running(daemon) == 3, "as many as there is room for run")
    wait_until(lambda: len(events(daemon, name="many-")) == 37, "each refused pod has its event")
    refused = [one for one in pods(daemon) if condition(one, "PodScheduled") == ("False", "ExceededQuota")]
    assert len(refused) == 37
    (of_owner,) = events(daemon, kind="Deployment", name="many")
    assert of_owner["reason"] == "ExceededQuota"
    assert of_owner["count"] == 1
    assert {event["count"] for event in events(daemon, name="many-")} == {1}
    assert events(daemon, kind="ReplicaSet") == []

    tries = 'syncer_api_requests_total{code="403",resource="pods",side="host",verb="create"}'
    before, since = daemon.metric(tries), time.monotonic()
    time.sleep(5)
    pace = (daemon.metric(tries) - before) / (time.monotonic() - since)
    assert pace < 2, "the refused ones take turns"

    quota(daemon, pods="50", **{"requests.cpu": "2"})
    began = time.monotonic()
    wait_until(lambda: len(host_pods(daemon)) == 40, "all are on the host", 10)
    assert time.monotonic() - began < SOON
    wait_until(lambda: running(daemon) == 40, "all run", 10)
    assert daemon.metric(tries) - before < 100
    wait_until(lambda: daemon.metric('syncer_pairs{resource="pods",state="refused"}') == 0, "the ledger is clean")
    assert [one for one in pods(daemon) if condition(one, "PodScheduled") != ("True", "")] == []


def test_the_room_that_one_pod_leaves_is_the_next_ones_within_five_seconds(daemon: Daemon, virtual: Api) -> None:
    quota(daemon, pods="1")
    virtual.apply(pod("first"))
    wait_until(lambda: shown(daemon, "first") == ("True", ""), "first is scheduled")
    virtual.apply(pod("second"))
    assert "asks for pods=1 of a quota that is limited to pods=1" in wait_refused(daemon, "second", "ExceededQuota")
    virtual.delete("/api/v1/namespaces/default/pods/first")
    wait_running(daemon, "second", SOON + 1)  # the host's own quota controller takes its time to notice


def test_a_pod_that_says_too_little_for_a_quota_is_told_what_to_say(daemon: Daemon, virtual: Api) -> None:
    quota(daemon, **{"limits.memory": "1Gi"})
    virtual.apply(pod("vague"))
    assert "must specify limits.memory for: main" in wait_refused(daemon, "vague", "OutsideLimits")


def test_limit_ranges(daemon: Daemon, host: Api, virtual: Api) -> None:
    limits = [{"type": "Container", "max": {"cpu": "1"}}]
    metadata = {"name": "limits", "namespace": daemon.virtual.host_namespace}
    host.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": limits}})
    virtual.apply(pod("big", "2"))
    assert "maximum cpu usage per Container is 1, but limit is 2" in wait_refused(daemon, "big", "OutsideLimits")


def test_pod_security(daemon: Daemon, virtual: Api) -> None:
    label(daemon, "baseline")
    virtual.apply(pod("rooted", hostNetwork=True))
    assert 'violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)' in wait_refused(daemon, "rooted", "PodSecurity")
    label(daemon, None)
    virtual.request("PATCH", "/api/v1/namespaces/default/pods/rooted", {"metadata": {"labels": {"a": "b"}}}, content_type=MERGE)
    wait_running(daemon, "rooted")


def test_a_policy_that_denies_pods(daemon: Daemon, virtual: Api) -> None:
    policy(daemon, "pods", "!('bad' in object.metadata.?labels.orValue({}))", "no bad pods here")
    virtual.apply(pod("denied", metadata={"labels": {"bad": "yes"}}))
    message = wait_refused(daemon, "denied", "AdmissionDenied")
    assert "no bad pods here" in message
    assert NAME not in message, "the policy's name is the host's"
    virtual.request("PATCH", "/api/v1/namespaces/default/pods/denied", {"metadata": {"labels": {"bad": None}}}, content_type=MERGE)
    wait_running(daemon, "denied")


def test_a_denied_change_of_a_running_pod_is_told_and_its_status_goes_on(daemon: Daemon, host: Api, virtual: Api) -> None:
    path = "/api/v1/namespaces/default/pods/changed"
    policy(daemon, "pods", "!('bad' in object.metadata.?labels.orValue({}))", "no bad pods here")
    virtual.apply(pod("changed"))
    wait_until(lambda: running(daemon) == 1, "it runs")
    virtual.request("PATCH", path, {"metadata": {"labels": {"bad": "yes"}}}, content_type=MERGE)
    wait_refused(daemon, "changed", "AdmissionDenied", CONDITION)
    assert shown(daemon, "changed") == ("True", "")
    (copy,) = host_pods(daemon)
    status = {"status": {"message": "still reported"}}
    host.request("PATCH", f"{copy_path(copy)}/status", status, content_type=MERGE)
    wait_until(
        lambda: virtual.get(path)["status"].get("message") == "still reported", "status comes up although the label does not go down"
    )
    assert shown(daemon, "changed", CONDITION) == ("False", "AdmissionDenied")
    virtual.request("PATCH", path, {"metadata": {"labels": {"bad": None}}}, content_type=MERGE)
    wait_until(lambda: shown(daemon, "changed", CONDITION) is None, "the condition is gone", SOON)


def copy_path(copy: dict[str, Any]) -> str:
    return f"/api/v1/namespaces/{copy['metadata']['namespace']}/pods/{copy['metadata']['name']}"


def test_a_policy_that_denies_what_a_pod_mounts(daemon: Daemon, virtual: Api) -> None:
    policy(daemon, "configmaps", "!('bad' in object.metadata.?labels.orValue({}))", "no bad settings here")
    virtual.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "labels": {"bad": "yes"}}, "data": {"a": "b"}})
    virtual.apply(pod("reader", volumes=[{"name": "settings", "configMap": {"name": "settings"}}]))
    wait_until(lambda: bool(events(daemon, kind="ConfigMap", name="settings")), "the ConfigMap says so")
    (event,) = events(daemon, kind="ConfigMap", name="settings")
    assert event["reason"] == "AdmissionDenied"
    assert "no bad settings here" in event["message"]
    virtual.request("PATCH", "/api/v1/namespaces/default/configmaps/settings", {"metadata": {"labels": None}}, content_type=MERGE)
    wait_until(lambda: shown(daemon, "reader") == ("True", ""), "the pod goes on", 10)
    virtual.delete("/api/v1/namespaces/default/configmaps/settings")


def test_a_pod_larger_than_the_host_takes(daemon: Daemon, virtual: Api) -> None:
    virtual.apply(pod("huge", metadata={"annotations": {"a": "x" * (256 * 1024 - 1)}}))
    wait_refused(daemon, "huge", "TooLarge")


def test_a_right_that_is_taken_away_and_given_back(daemon: Daemon, virtual: Api) -> None:
    cluster, namespace = daemon.virtual.host, daemon.virtual.host_namespace
    granted = rules(needed_rights(ALL, election=True))
    without = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]} if rule["resources"] == ["pods"] else rule
        for rule in granted
    ]
    assert without != granted
    cluster.grant(namespace, f"syncer-{NAME}", without)
    try:
        wait_until(partial(is_refused_by_rbac, daemon), "the right is gone")
        virtual.apply(pod("later"))
        wait_refused(daemon, "later", "MissingRight")
        line = daemon.wait_log("right.missing", verb="create", resource="pods")
        assert line["level"] == "error"
    finally:
        cluster.grant(namespace, f"syncer-{NAME}", granted)
    wait_until(lambda: not is_refused_by_rbac(daemon), "the right is back")
    virtual.request("PATCH", "/api/v1/namespaces/default/pods/later", {"metadata": {"labels": {"a": "b"}}}, content_type=MERGE)
    wait_running(daemon, "later")  # it would be within half a minute, but we need not wait for that


def is_refused_by_rbac(daemon: Daemon) -> bool:
    """Whether a pod that is made now would be refused; RBAC follows a change within moments."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"syncer-{NAME}",
            "resourceAttributes": {"namespace": daemon.virtual.host_namespace, "verb": "create", "resource": "pods"},
        },
    }
    answer = daemon.virtual.host.api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return not answer["status"]["allowed"]

"""What is refused, and how: code, reason and the beginning of the message."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from syncer.kube.types import Obj
from tests.fakes.conftest import LEASES, Probe, named, pod, service

REFUSED: list[tuple[str, str, Obj | None, int, str, str]] = [
    ("POST", "configmaps", named("a"), 409, "AlreadyExists", 'configmaps "a" already exists'),
    ("POST", LEASES, named("a"), 409, "AlreadyExists", 'leases.coordination.k8s.io "a" already exists'),
    ("POST", "/api/v1/namespaces/none/configmaps", named("a"), 404, "NotFound", 'namespaces "none" not found'),
    ("POST", "configmaps", {"metadata": {"name": "b", "namespace": "other"}}, 400, "BadRequest", "the namespace of the provided object"),
    ("POST", "configmaps", named("B_"), 422, "Invalid", 'ConfigMap "B_" is invalid: metadata.name: Invalid value: "B_"'),
    ("POST", "configmaps", {"metadata": {}}, 422, "Invalid", 'ConfigMap "" is invalid: metadata.name: Required value: name'),
    ("POST", "configmaps", {"metadata": {"name": "b", "labels": {"a": "b c"}}}, 422, "Invalid", 'ConfigMap "b" is invalid:'),
    ("POST", "configmaps", {"metadata": {"name": "b", "labels": {"a": "b" * 64}}}, 422, "Invalid", 'ConfigMap "b" is invalid:'),
    ("POST", "configmaps", {"metadata": {"name": "b", "annotations": {"a b": ""}}}, 422, "Invalid", 'ConfigMap "b" is invalid:'),
    ("POST", "configmaps", named("b", data={"a/b": "c"}), 422, "Invalid", 'ConfigMap "b" is invalid: data[a/b]: Invalid value: "a/b"'),
    ("POST", "services", service("a.b"), 422, "Invalid", 'Service "a.b" is invalid: metadata.name: Invalid value: "a.b"'),
    ("POST", "configmaps", {"metadata": {"name": "b", "resourceVersion": "5"}}, 500, "", "resourceVersion should not be set on objects"),
    ("POST", "configmaps", {"kind": "Secret", "apiVersion": "v1", **named("b")}, 400, "BadRequest", 'Secret in version "v1" cannot be'),
    ("POST", "configmaps/a", named("a"), 405, "MethodNotAllowed", "the server does not allow this method on the requested resource"),
    ("POST", "pods", {**pod("b"), "spec": {}}, 422, "Invalid", 'Pod "b" is invalid: spec.containers: Required value'),
    ("POST", "services", service("b", ports=[]), 422, "Invalid", 'Service "b" is invalid: spec.ports: Required value'),
    ("GET", "configmaps/none", None, 404, "NotFound", 'configmaps "none" not found'),
    ("GET", "nothings", None, 404, "NotFound", "the server could not find the requested resource"),
    ("GET", "configmaps/a/status", None, 404, "NotFound", "the server could not find the requested resource"),
    ("DELETE", "configmaps/none", None, 404, "NotFound", 'configmaps "none" not found'),
    ("PATCH", "configmaps/none", {"data": {}}, 404, "NotFound", 'configmaps "none" not found'),
    ("PUT", "configmaps/none", named("none"), 404, "NotFound", 'configmaps "none" not found'),
    ("PATCH", "configmaps/a/status", {"data": {}}, 404, "NotFound", "the server could not find the requested resource"),
    ("PATCH", "configmaps/a", named("b"), 400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)"),
    ("PUT", "configmaps/a", named("b"), 400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)"),
    ("PATCH", "configmaps/a", {"metadata": {"resourceVersion": "1"}}, 409, "Conflict", 'Operation cannot be fulfilled on configmaps "a"'),
    ("PUT", "configmaps/a", {"metadata": {"name": "a", "resourceVersion": "1"}}, 409, "Conflict", "Operation cannot be fulfilled on"),
    ("PATCH", "configmaps/a", {"metadata": {"uid": "wrong"}}, 422, "Invalid", 'ConfigMap "a" is invalid: metadata.uid: Invalid value:'),
    ("PATCH", "pods/a/status", {"metadata": {"uid": "wrong"}}, 422, "Invalid", 'Pod "a" is invalid: metadata.uid: Invalid value:'),
    ("PUT", "configmaps/a", {"metadata": {"name": "a", "uid": "wrong"}}, 409, "Conflict", "Operation cannot be fulfilled on configmaps"),
    ("PUT", LEASES + "/a", named("a"), 422, "Invalid", 'leases.coordination.k8s.io "a" is invalid: metadata.resourceVersion:'),
    ("DELETE", "configmaps/a", {"preconditions": {"uid": "wrong"}}, 409, "Conflict", 'Operation cannot be fulfilled on ConfigMap "a"'),
    ("DELETE", "pods/a", {"preconditions": {"uid": "wrong"}}, 409, "Conflict", 'Operation cannot be fulfilled on Pod "a": the UID in'),
    ("DELETE", "configmaps/a", {"preconditions": {"resourceVersion": "1"}}, 409, "Conflict", "Operation cannot be fulfilled on"),
    ("DELETE", "/api/v1/namespaces/default", None, 403, "Forbidden", 'namespaces "default" is forbidden: this namespace may not be'),
    ("PATCH", "pods/a", {"spec": {"hostNetwork": True}}, 422, "Invalid", 'Pod "a" is invalid: spec: Forbidden: pod updates may not'),
    ("PATCH", "services/a", {"spec": {"clusterIP": "10.0.0.9"}}, 422, "Invalid", 'Service "a" is invalid: spec.clusterIPs[0]:'),
    ("POST", "services", service("b", clusterIP="192.0.2.1"), 422, "Invalid", 'Service "b" is invalid: spec.clusterIPs: Invalid value:'),
    ("POST", "pods/a/binding", {**named("a"), "target": {"name": "n"}}, 409, "Conflict", "Operation cannot be fulfilled on pods/binding"),
    ("POST", "pods/none/binding", {**named("none"), "target": {"name": "n"}}, 404, "NotFound", 'pods "none" not found'),
    ("POST", "pods/u/binding", {"metadata": {"name": "u", "uid": "w"}, "target": {"name": "n"}}, 409, "Conflict", "Operation cannot be"),
    ("POST", "serviceaccounts/none/token", {"spec": {}}, 404, "NotFound", 'serviceaccounts "none" not found'),
    ("POST", "serviceaccounts/a/token", {"spec": {"expirationSeconds": 5}}, 422, "Invalid", 'TokenRequest.authentication.k8s.io "" is'),
    ("GET", "configmaps?fieldSelector=data.x=y", None, 400, "BadRequest", '"data.x" is not a known field selector: only "metadata.name"'),
    ("GET", "configmaps?labelSelector=a b c", None, 400, "BadRequest", "unable to parse requirement: "),
    ("GET", "configmaps?limit=x", None, 400, "BadRequest", "strconv.ParseInt: parsing"),
    ("GET", "configmaps?continue=abc", None, 400, "BadRequest", "invalid continue token: continue key is not valid"),
    ("GET", "configmaps?resourceVersion=abc", None, 400, "BadRequest", "invalid resource version: resourceVersion: Invalid value"),
    ("GET", "configmaps?watch=1&resourceVersion=abc", None, 500, "", "resourceVersion: Invalid value"),
    ("GET", "configmaps?watch=1&sendInitialEvents=true&allowWatchBookmarks=true", None, 422, "Invalid", "ListOptions.meta.k8s.io"),
    ("GET", "nothings?watch=1", None, 404, "NotFound", "the server could not find the requested resource"),
]


@pytest.mark.parametrize(("method", "path", "body", "code", "reason", "message"), REFUSED)
async def test_refusals(api: Probe, method: str, path: str, body: Obj | None, code: int, reason: str, message: str) -> None:
    await api("POST", "configmaps", named("a"))
    await api("POST", LEASES, named("a"))
    await api("POST", "pods", pod("a", nodeName="n"))
    await api("POST", "pods", pod("u"))
    await api("POST", "services", service("a"))
    await api("POST", "serviceaccounts", named("a"))
    path, _, query = path.partition("?")
    params = dict(parse_qsl(query))
    refused = await api(method, path, body, **params)
    assert refused.body["status"] == "Failure"
    assert (*refused.refusal, refused.body["code"]) == (code, reason, code)
    assert refused.body["message"].startswith(message)
    about = refused.body.get("details", {})
    if code in (404, 409, 422) and about.get("name"):
        assert f'"{about["name"]}"' in refused.body["message"]


async def test_details_name_the_plural_except_in_a_failed_precondition_and_in_invalid(api: Probe) -> None:
    await api("POST", LEASES, named("a"))
    stale = await api("PATCH", LEASES + "/a", {"metadata": {"resourceVersion": "1"}})
    doomed = await api("DELETE", LEASES + "/a", {"preconditions": {"uid": "wrong"}})
    broken = await api("PATCH", LEASES + "/a", {"metadata": {"uid": "wrong"}})
    assert stale.body["details"] == {"name": "a", "group": "coordination.k8s.io", "kind": "leases"}
    assert doomed.body["details"]["kind"] == "Lease"
    assert broken.body["details"]["kind"] == "Lease"
    assert {cause["field"] for cause in broken.body["details"]["causes"]} == {"metadata.uid"}

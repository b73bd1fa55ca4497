"""Texts of real API servers (1.36), and what a tenant reads of them."""

from __future__ import annotations

from typing import Any

import pytest

from syncer.errors import Refused, api_error
from syncer.kube.types import CONFIGMAPS, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES, Obj, Resource, Side
from syncer.sync.refusals import CONDITION, Cause, condition_patch, missing_right, refusal_of

POD = 'pods "web-x-default-x-one" is forbidden: '
USER = 'User "system:serviceaccount:host-ns:vc-one"'
POLICY = "ValidatingAdmissionPolicy 'tenants-of-acme' with binding 'acme' denied request: "
FROZEN = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`\n  core.PodSpec{…}"

CASES: dict[str, tuple[int, str, Cause | None, str]] = {
    "quota": (
        403,
        POD + "exceeded quota: of-acme, requested: pods=1,requests.cpu=2, used: pods=9,requests.cpu=7, limited: pods=9,requests.cpu=8",
        Cause.QUOTA,
        "asks for pods=1,requests.cpu=2 of a quota that is limited to pods=9,requests.cpu=8",
    ),
    "quota not reckoned yet": (403, POD + "status unknown for quota: of-acme, resources: pods", Cause.QUOTA, "cannot say yet"),
    "quota wants more": (403, POD + "failed quota: q: must specify limits.cpu for: a", Cause.LIMITS, "must specify limits.cpu for: a"),
    "limit range": (403, POD + "maximum cpu usage per Container is 1, but limit is 2", Cause.LIMITS, "but limit is 2"),
    "ratio": (403, POD + "cpu max limit to request ratio per Container is 2, but provided ratio is 4.0", Cause.LIMITS, "ratio is 4.0"),
    "pod security": (403, POD + 'violates PodSecurity "baseline:latest": host namespaces', Cause.POD_SECURITY, "host namespaces"),
    "policy": (422, POD + POLICY + "no: why", Cause.POLICY, "denies it: no: why"),
    "policy that says unauthorized": (401, POD + POLICY + "no", Cause.POLICY, "denies it: no"),
    "webhook": (400, 'admission webhook "w.acme.example" denied the request: no', Cause.POLICY, "denies it: no"),
    "webhook, wordless": (
        403,
        'admission webhook "w.acme.example" denied the request without explanation',
        Cause.POLICY,
        "without saying why",
    ),
    "webhook with a status of its own": (503, 'admission webhook "w.acme.example" denied the request: later', Cause.POLICY, "later"),
    "webhook that tells the user": (403, f'admission webhook "w" denied the request: {USER} may not', Cause.POLICY, '"(host)" may not'),
    "webhook down": (
        500,
        'failed calling webhook "w": Post "https://w.acme.svc:443": refused',
        Cause.POLICY_UNAVAILABLE,
        "webhook there fails",
    ),
    "right": (403, f'pods is forbidden: {USER} cannot create resource "pods" in API group ""', Cause.RIGHTS, "lacks a right"),
    "too large": (413, "Request entity too large: limit is 3145728", Cause.TOO_LARGE, "make it smaller"),
    "too large for etcd": (500, "etcdserver: request is too large", Cause.TOO_LARGE, "make it smaller"),
    "unknown type of value": (400, "json: cannot unmarshal string into Go struct field", Cause.INVALID, "cannot unmarshal"),
    "service account": (403, POD + "error looking up service account host-ns/a: not found", Cause.FORBIDDEN, "looking up service account"),
    "conflict": (409, "the object has been modified", None, ""),
    "failing": (500, "etcdserver: leader changed", None, ""),
    "credentials": (401, "Unauthorized", None, ""),
    "gone": (404, "not found", None, ""),
}


def hide(text: str) -> str:
    return text.replace("web-x-default-x-one", "web").replace("host-ns", "default")


@pytest.mark.parametrize(("status", "text", "cause", "words"), CASES.values(), ids=CASES)
def test_words_and_causes(status: int, text: str, cause: Cause | None, words: str) -> None:
    refusal = refusal_of(api_error(status, {"message": text}), Side.HOST, hide)
    assert (refusal.reason if refusal else None) == cause
    if refusal is None:
        return
    assert words in str(refusal)
    for secret in ("acme", "-x-one", "system:", "host-ns", "used:", "7"):
        assert secret not in str(refusal)
    assert text in refusal.internal


def test_an_overloaded_server_refuses_nothing() -> None:
    assert refusal_of(api_error(503, {"message": "request is too large"}, 1.0), Side.HOST, hide) is None


def test_of_an_invalid_object_the_causes_are_told_and_not_the_whole_object() -> None:
    causes = [{"field": "spec", "message": FROZEN, "reason": "FieldValueForbidden"}]
    body = {"reason": "Invalid", "message": f'Pod "x" is invalid: spec: {FROZEN}', "details": {"causes": causes}}
    refusal = refusal_of(api_error(422, body), Side.HOST, hide)
    assert refusal is not None
    assert refusal.reason == Cause.IMMUTABLE
    assert "may not change fields" in str(refusal)
    assert "PodSpec" not in str(refusal)


def test_those_who_ask_for_the_same_of_the_same_quota_are_a_group() -> None:
    def group(used: int, requested: int) -> str:
        text = f"{POD}exceeded quota: q, requested: pods={requested}, used: pods={used}, limited: pods=9"
        refusal = refusal_of(api_error(403, {"message": text}), Side.HOST, hide)
        assert refusal is not None
        return refusal.group

    assert group(9, 1) == group(8, 1)
    assert group(9, 1) != group(9, 2)


def test_the_missing_right_is_read_from_the_text() -> None:
    assert missing_right(f'403 Forbidden: pods is forbidden: {USER} cannot patch resource "pods/resize" in API group ""') == (
        "patch",
        "pods/resize",
    )
    assert missing_right("403 Forbidden: no") is None


def marked(resource: Resource, *conditions: Obj, **spec: Any) -> Obj:
    metadata = {"name": "a", "namespace": "b", "uid": "1"}
    return {"kind": resource.kind, "metadata": metadata, "spec": spec, "status": {"conditions": list(conditions)}}


SCHEDULED = {"type": "PodScheduled", "status": "True"}
FULL = {"type": "PodScheduled", "status": "False", "reason": "ExceededQuota", "message": "m", "lastTransitionTime": "then"}
OURS = {**FULL, "type": CONDITION}
REFUSED = Refused("ExceededQuota", "m")
INVALID = Refused("Invalid", "x")
CLAIM = marked(PERSISTENT_VOLUME_CLAIMS)
OURS_NOW = {**OURS, "lastTransitionTime": "now"}


@pytest.mark.parametrize(
    ("resource", "virtual", "host", "wanted", "changes"),
    [
        pytest.param(PODS, marked(PODS), None, REFUSED, [{**FULL, "lastTransitionTime": "now"}], id="a pod that the host never had"),
        pytest.param(PODS, marked(PODS, FULL), None, Refused("ExceededQuota", "other words"), None, id="told already"),
        pytest.param(PODS, marked(PODS, FULL), None, INVALID, [{**FULL, "reason": "Invalid", "message": "x"}], id="another cause"),
        pytest.param(PODS, marked(PODS, SCHEDULED), marked(PODS), REFUSED, [OURS_NOW], id="a change of a running pod"),
        pytest.param(PODS, marked(PODS, SCHEDULED, nodeName="n"), None, REFUSED, [OURS_NOW], id="bound by a scheduler"),
        pytest.param(PODS, marked(PODS, FULL), None, Refused("StaticPod", "s"), [
            {"$patch": "delete", "type": "PodScheduled"},
            {"type": CONDITION, "status": "False", "reason": "StaticPod", "message": "s", "lastTransitionTime": "now"},
        ], id="refused by us"),
        pytest.param(PODS, marked(PODS, SCHEDULED, OURS), marked(PODS), None, [{"$patch": "delete", "type": CONDITION}], id="cleared"),
        pytest.param(PODS, marked(PODS, {**FULL, "reason": "Unschedulable"}), marked(PODS), None, None, id="a scheduler's words stay"),
        pytest.param(PODS, marked(PODS, FULL), marked(PODS, FULL), None, None, id="a host that is a virtual cluster tells so"),
        pytest.param(PODS, marked(PODS, OURS), marked(PODS, OURS), None, None, id="of a change, too"),
        pytest.param(PODS, marked(PODS, FULL), marked(PODS, {**FULL, "reason": "Invalid"}), None, [
            {"$patch": "delete", "type": "PodScheduled"},
        ], id="the host tells of another cause"),
        pytest.param(SERVICES, marked(SERVICES), None, REFUSED, [OURS_NOW], id="a service"),
        pytest.param(PERSISTENT_VOLUME_CLAIMS, CLAIM, CLAIM, REFUSED, None, id="a claim's are the host's"),
        pytest.param(CONFIGMAPS, marked(CONFIGMAPS), None, REFUSED, None, id="no conditions"),
    ],
)  # fmt: skip
def test_conditions(resource: Resource, virtual: Obj, host: Obj | None, wanted: Refused | None, changes: list[Obj] | None) -> None:
    patch = condition_patch(resource, virtual, host, wanted, "now")
    assert (patch.body["status"]["conditions"] if patch else None) == changes

"""Pods: deletion in two steps, binding, tokens, defaults."""

from __future__ import annotations

from tests.fakes.conftest import Probe, named, pod


async def test_pods_are_deleted_gracefully(api: Probe) -> None:
    made = await api("POST", "pods", pod("a", nodeName="n", terminationGracePeriodSeconds=40))
    assert made.meta["generation"] == 1
    first = await api("DELETE", "pods/a")
    longer = await api("DELETE", "pods/a", {"gracePeriodSeconds": 50})
    default = await api("DELETE", "pods/a")
    shorter = await api("DELETE", "pods/a", {"gracePeriodSeconds": 10})
    gone = await api("DELETE", "pods/a", gracePeriodSeconds="0")
    assert [a.meta["deletionGracePeriodSeconds"] for a in (first, longer, default, shorter, gone)] == [40, 40, 40, 10, 0]
    assert [a.meta["generation"] for a in (first, shorter, gone)] == [2, 2, 2]
    assert first.revision == longer.revision == default.revision < shorter.revision < gone.revision
    assert shorter.meta["deletionTimestamp"] < first.meta["deletionTimestamp"]
    assert gone.body["kind"] == "Pod"
    assert (await api("GET", "pods/a")).code == 404


async def test_pods_that_go_at_once(api: Probe) -> None:
    await api("POST", "pods", pod("unbound"))
    await api("POST", "pods", pod("done", nodeName="n"))
    await api("PATCH", "pods/done/status", {"status": {"phase": "Failed"}})
    for name in ("unbound", "done"):
        gone = await api("DELETE", f"pods/{name}", {"gracePeriodSeconds": 30})
        assert gone.meta["deletionGracePeriodSeconds"] == 0
        assert (await api("GET", f"pods/{name}")).code == 404


async def test_a_finalizer_outlasts_grace_and_grace_outlasts_a_finalizer(api: Probe) -> None:
    await api("POST", "pods", pod("a", nodeName="n", finalizers=["x.y/z"]))
    assert (await api("DELETE", "pods/a", {"gracePeriodSeconds": 0})).meta["finalizers"] == ["x.y/z"]
    assert (await api("GET", "pods/a")).code == 200
    await api("PATCH", "pods/a", {"metadata": {"finalizers": None}})
    assert (await api("GET", "pods/a")).code == 404
    await api("POST", "pods", pod("b", nodeName="n", finalizers=["x.y/z"]))
    await api("DELETE", "pods/b")
    await api("PATCH", "pods/b", {"metadata": {"finalizers": None}})
    assert (await api("GET", "pods/b")).meta["deletionGracePeriodSeconds"] == 30
    await api("DELETE", "pods/b", {"gracePeriodSeconds": 0})
    assert (await api("GET", "pods/b")).code == 404


async def test_binding(api: Probe) -> None:
    made = await api("POST", "pods", pod("a"))
    binding = {"metadata": {"name": "a", "uid": made.meta["uid"], "annotations": {"x": "y"}}, "target": {"kind": "Node", "name": "n"}}
    bound = await api("POST", "pods/a/binding", binding)
    assert (bound.code, bound.body["kind"], bound.body["status"], bound.body["code"]) == (201, "Status", "Success", 201)
    found = await api("GET", "pods/a")
    assert found.body["spec"]["nodeName"] == "n"
    assert found.meta["annotations"] == {"x": "y"}
    assert [(c["type"], c["status"]) for c in found.body["status"]["conditions"]] == [("PodScheduled", "True")]
    assert found.body["status"]["phase"] == "Pending"
    await api("DELETE", "pods/a")
    late = await api("POST", "pods/a/binding", binding)
    assert late.refusal == (409, "Conflict")
    assert late.body["details"] == {"name": "a", "kind": "pods/binding"}
    await api("DELETE", "pods/a", {"gracePeriodSeconds": 0})


async def test_eviction_deletes(api: Probe) -> None:
    await api("POST", "pods", pod("a"))
    assert (await api("POST", "pods/a/eviction", named("a"))).body["status"] == "Success"
    assert (await api("GET", "pods/a")).code == 404


async def test_tokens(api: Probe) -> None:
    await api("POST", "serviceaccounts", named("a"))
    made = await api("POST", "pods", pod("a", serviceAccountName="a"))
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": made.meta["uid"]}
    token = await api("POST", "serviceaccounts/a/token", {"spec": {"audiences": ["x"], "expirationSeconds": 1200, "boundObjectRef": bound}})
    plain = await api("POST", "serviceaccounts/a/token", {"spec": {}})
    assert (token.code, token.body["kind"], token.body["spec"]["audiences"]) == (201, "TokenRequest", ["x"])
    assert token.body["spec"]["expirationSeconds"] == 1200
    assert plain.body["spec"]["expirationSeconds"] == 3600
    assert plain.body["spec"]["audiences"]
    assert token.body["status"]["token"] != plain.body["status"]["token"]
    assert plain.body["status"]["expirationTimestamp"] > token.body["status"]["expirationTimestamp"]
    wrong = await api("POST", "serviceaccounts/a/token", {"spec": {"boundObjectRef": {**bound, "uid": "wrong"}}})
    none = await api("POST", "serviceaccounts/a/token", {"spec": {"boundObjectRef": {**bound, "name": "none"}}})
    assert (wrong.refusal, none.refusal) == ((409, "Conflict"), (404, "NotFound"))


async def test_defaults_of_a_pod(api: Probe) -> None:
    made = await api("POST", "pods", {**pod("a", automountServiceAccountToken=False)})
    expected = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "automountServiceAccountToken": False,
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [
            {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for taint in ("not-ready", "unreachable")
        ],
        "containers": [
            {
                "name": "c",
                "image": "i",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "Always",
            }
        ],
    }
    assert made.body["spec"] == expected
    assert made.body["status"] == {"phase": "Pending", "qosClass": "BestEffort"}

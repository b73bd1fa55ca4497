"""Creating, patching and deleting objects of any type; Services, namespaces, discovery."""

from __future__ import annotations

import asyncio

import pytest

from syncer.kube.types import Obj
from tests.fakes.conftest import Probe, named, pod, service


async def test_create_sets_what_the_server_owns(api: Probe) -> None:
    given = {"metadata": {"name": "a", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7}, "data": {"k": "v"}}
    made = await api("POST", "configmaps", given)
    other = await api("POST", "configmaps", {"metadata": {"generateName": "some-"}})
    assert made.code == other.code == 201
    assert made.body["kind"] == "ConfigMap"
    assert made.body["data"] == {"k": "v"}
    assert made.meta["namespace"] == api.ns
    assert made.meta["uid"] not in ("mine", other.meta["uid"])
    assert made.meta["creationTimestamp"] > "2020"
    assert made.meta["generation"] == 7  # no server-side counting for this type
    assert other.meta["name"].startswith("some-")
    assert len(other.meta["name"]) == len("some-") + 5
    assert other.revision > made.revision


async def test_a_dry_run_leaves_nothing(api: Probe) -> None:
    made = await api("POST", "configmaps", named("a"), dryRun="All")
    assert made.code == 201
    assert made.meta["uid"]
    assert (await api("GET", "configmaps/a")).code == 404
    before = await api("POST", "configmaps", named("a"))
    assert (await api("PATCH", "configmaps/a", {"data": {"k": "v"}}, dryRun="All")).body["data"] == {"k": "v"}
    assert (await api("DELETE", "configmaps/a", dryRun="All")).code == 200
    assert (await api("GET", "configmaps/a")).revision == before.revision


async def test_a_patch_that_changes_nothing_is_not_written(api: Probe) -> None:
    made = await api("POST", "configmaps", named("a", data={"k": "v"}))
    uid = {"uid": made.meta["uid"]}
    same_things: list[Obj] = [{}, {"data": {"k": "v"}}, {"data": {"none": None}}, {"metadata": {"labels": {}}}, {"metadata": uid}]
    for body in same_things:
        same = await api("PATCH", "configmaps/a", body)
        assert (same.code, same.revision) == (200, made.revision)
    changed = await api("PATCH", "configmaps/a", {"data": {"k": None, "l": "w"}, "metadata": {"resourceVersion": str(made.revision)}})
    assert changed.revision > made.revision
    assert changed.body["data"] == {"l": "w"}


async def test_an_update_replaces_and_without_revision_wins(api: Probe) -> None:
    await api("POST", "configmaps", {"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}})
    put = await api("PUT", "configmaps/a", named("a", data={"l": "w"}))
    assert (put.code, put.body["data"], "labels" in put.meta) == (200, {"l": "w"}, False)


async def test_json_patches(api: Probe) -> None:
    await api("POST", "configmaps", {"metadata": {"name": "a", "annotations": {"a/b": "c"}}, "data": {"k": "v"}})
    good = [
        {"op": "test", "path": "/data/k", "value": "v"},
        {"op": "replace", "path": "/data/k", "value": "w"},
        {"op": "remove", "path": "/metadata/annotations/a~1b"},
    ]
    changed = await api("PATCH", "configmaps/a", good, patch="json")
    assert (changed.body["data"], "annotations" in changed.meta) == ({"k": "w"}, False)
    for bad in ({"op": "test", "path": "/data/k", "value": "v"}, {"op": "remove", "path": "/data/none"}):
        assert (await api("PATCH", "configmaps/a", [bad], patch="json")).refusal == (422, "Invalid")
    assert (await api("PATCH", "configmaps/a", {}, patch="application/json")).refusal == (415, "UnsupportedMediaType")


async def test_strategic_patches_merge_lists_by_their_keys(api: Probe) -> None:
    await api("POST", "pods", pod("a"))
    await api("PATCH", "pods/a/status", {"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}})
    changed = await api(
        "PATCH",
        "pods/a/status",
        {"status": {"conditions": [{"type": "B", "status": "False"}, {"type": "C", "status": "True"}]}},
        patch="strategic",
    )
    assert {(c["type"], c["status"]) for c in changed.body["status"]["conditions"]} == {("A", "True"), ("B", "False"), ("C", "True")}
    image = await api("PATCH", "pods/a", {"spec": {"containers": [{"name": "c", "image": "other"}]}}, patch="strategic")
    assert [(c["name"], c["image"]) for c in image.body["spec"]["containers"]] == [("c", "other")]


async def test_apply_creates_or_merges(api: Probe) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}
    assert (await api("PATCH", "configmaps/a", body, patch="apply")).refusal == (422, "Invalid")
    made = await api("PATCH", "configmaps/a", body, patch="apply", fieldManager="me")
    again = await api("PATCH", "configmaps/a", body, patch="apply", fieldManager="me")
    more = await api("PATCH", "configmaps/a", {**body, "data": {"k": "v", "l": "w"}}, patch="apply", fieldManager="me")
    assert (made.code, again.code, again.revision) == (201, 200, made.revision)
    assert more.body["data"] == {"k": "v", "l": "w"}
    for name, code in (("a", 200), ("b", 400)):
        assert (await api("PATCH", f"configmaps/{name}", {**body, "metadata": {}}, patch="apply", fieldManager="me")).code == code


async def test_status_is_separate_but_takes_labels_along(api: Probe) -> None:
    made = await api("POST", "pods", {**pod("a"), "status": {"phase": "Running"}})
    assert made.body["status"]["phase"] == "Pending"
    main = await api("PATCH", "pods/a", {"status": {"phase": "Running"}})
    assert (main.body["status"]["phase"], main.revision) == ("Pending", made.revision)
    status = await api(
        "PATCH", "pods/a/status", {"status": {"phase": "Running"}, "spec": {"priority": 4}, "metadata": {"labels": {"x": "y"}}}
    )
    assert (status.body["status"]["phase"], status.body["spec"]["priority"], status.meta["labels"]) == ("Running", 0, {"x": "y"})


async def test_deletion_answers(api: Probe) -> None:
    for plural, body in (("configmaps", named("a")), ("secrets", named("a")), ("services", service("a")), ("serviceaccounts", named("a"))):
        made = await api("POST", plural, body)
        gone = await api("DELETE", f"{plural}/a", {"preconditions": {"uid": made.meta["uid"]}})
        if plural in ("configmaps", "secrets"):
            assert gone.body["details"] == {"name": "a", "kind": plural, "uid": made.meta["uid"]}
            assert (gone.body["status"], "reason" in gone.body) == ("Success", False)
        else:
            assert (gone.meta["uid"], gone.body["kind"]) == (made.meta["uid"], made.body["kind"])
            assert gone.revision > made.revision
        assert gone.code == 200


async def test_finalizers_hold_an_object(api: Probe) -> None:
    await api("POST", "configmaps", {"metadata": {"name": "a", "finalizers": ["x.y/z"]}})
    marked = await api("DELETE", "configmaps/a")
    again = await api("DELETE", "configmaps/a")
    assert marked.body["kind"] == "ConfigMap"
    assert marked.meta["deletionTimestamp"]
    assert marked.meta["deletionGracePeriodSeconds"] == 0
    assert again.revision == marked.revision
    assert (await api("PATCH", "configmaps/a", {"metadata": {"finalizers": ["x.y/z", "k/l"]}})).refusal == (422, "Invalid")
    assert (await api("PATCH", "configmaps/a", {"data": {"k": "v"}})).code == 200
    last = await api("PATCH", "configmaps/a", {"metadata": {"finalizers": None}})
    assert last.code == 200
    assert "finalizers" not in last.meta
    assert (await api("GET", "configmaps/a")).code == 404


@pytest.mark.parametrize(("policy", "word"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
async def test_propagation_leaves_work_to_the_garbage_collector(api: Probe, policy: str, word: str) -> None:
    await api("POST", "configmaps", {"metadata": {"name": "a", "finalizers": ["x.y/z"]}})
    marked = await api("DELETE", "configmaps/a", {"propagationPolicy": policy})
    assert sorted(marked.meta["finalizers"]) == sorted(["x.y/z", word])
    await api("PATCH", "configmaps/a", {"metadata": {"finalizers": None}})


async def test_service_addresses(api: Probe) -> None:
    plain = (await api("POST", "services", service("a"))).body["spec"]
    assert plain["clusterIPs"] == [plain["clusterIP"]]
    assert plain["type"] == "ClusterIP"
    assert plain["ports"] == [{"protocol": "TCP", "port": 80, "targetPort": 80}]
    taken = await api("POST", "services", service("b", clusterIP=plain["clusterIP"]))
    assert taken.body["message"].endswith("provided IP is already allocated")
    assert (await api("POST", "services", service("headless", clusterIP="None"))).body["spec"]["clusterIPs"] == ["None"]
    port = (await api("POST", "services", service("port", type="NodePort"))).body["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    external = await api("POST", "services", {"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "a.b"}})
    assert "clusterIP" not in external.body["spec"]
    unset = await api("PATCH", "services/a", {"spec": {"clusterIP": ""}})
    assert unset.body["spec"]["clusterIP"] == plain["clusterIP"]
    moved = await api(
        "PATCH", "services/a", {"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": None, "clusterIPs": None}}
    )
    assert "clusterIP" not in moved.body["spec"]
    freed = await api("POST", "services", service("b", clusterIP=plain["clusterIP"]))
    assert freed.code == 201


async def test_a_namespace_that_is_going(api: Probe) -> None:
    path = f"/api/v1/namespaces/{api.ns}-2"
    made = await api("POST", "/api/v1/namespaces", named(f"{api.ns}-2"))
    assert (made.body["spec"], made.body["status"]) == ({"finalizers": ["kubernetes"]}, {"phase": "Active"})
    assert made.meta["labels"] == {"kubernetes.io/metadata.name": f"{api.ns}-2"}
    await api("POST", f"{path}/configmaps", {"metadata": {"name": "held", "finalizers": ["x.y/z"]}})
    gone = await api("DELETE", path)
    assert (gone.body["kind"], gone.body["status"]["phase"]) == ("Namespace", "Terminating")
    assert gone.meta["deletionTimestamp"]
    refused = await api("POST", f"{path}/configmaps", named("late"))
    assert refused.refusal == (403, "Forbidden")
    assert refused.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    for _ in range(100):
        if (await api("GET", f"{path}/configmaps/held")).meta.get("deletionTimestamp"):
            break
        await asyncio.sleep(0.1)
    await api("PATCH", f"{path}/configmaps/held", {"metadata": {"finalizers": None}})
    for _ in range(100):
        if (await api("GET", path)).code == 404:
            return
        await asyncio.sleep(0.2)
    pytest.fail("the namespace is still there")


async def test_delete_collection(api: Probe) -> None:
    for name in ("a", "b"):
        await api("POST", "secrets", {"metadata": {"name": name, "labels": {"x": name}}})
    gone = await api("DELETE", "secrets", labelSelector="x=a")
    assert [item["metadata"]["name"] for item in gone.body["items"]] == ["a"]
    assert [item["metadata"]["name"] for item in (await api("GET", "secrets")).body["items"]] == ["b"]


async def test_discovery(api: Probe) -> None:
    version = (await api("GET", "/version")).body
    assert version["gitVersion"].startswith(f"v{version['major']}.{version['minor']}.")
    assert (await api("GET", "/api")).body["versions"] == ["v1"]
    groups = (await api("GET", "/apis")).body["groups"]
    assert "coordination.k8s.io" in [group["name"] for group in groups]
    group = (await api("GET", "/apis/coordination.k8s.io")).body
    assert group["preferredVersion"] == {"groupVersion": "coordination.k8s.io/v1", "version": "v1"}
    leases = (await api("GET", "/apis/coordination.k8s.io/v1")).body["resources"]
    assert [(r["name"], r["kind"], r["namespaced"]) for r in leases if r["name"] == "leases"] == [("leases", "Lease", True)]
    assert (await api("GET", "/readyz")).body == "ok"
    assert (await api("GET", "/apis/no.such/v1/things")).code == 404


async def test_access_reviews(api: Probe) -> None:
    access = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": api.ns}}}
    review = await api("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", access)
    assert (review.code, review.body["status"]["allowed"]) == (201, True)
    rules = await api("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": api.ns}})
    assert {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]} in rules.body["status"]["resourceRules"]

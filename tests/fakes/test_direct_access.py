"""What tests do to a fake server without HTTP; its storage, patches and selectors on their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import CONFIGMAPS, NAMESPACES, PODS, SECRETS, SERVICES, Key, Obj, Resource, key_of
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.conftest import Probe, pod
from tests.fakes.kubelet import Kubelet
from tests.fakes.patches import PatchError, json_patch, merge, strategic
from tests.fakes.selectors import label_predicate
from tests.fakes.statuses import Failure
from tests.fakes.storage import Storage
from tests.fakes.watching import Watch

A = Key("default", "a")


def configmap(name: str, namespace: str = "default", **meta: object) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace, **meta}}


def fresh() -> FakeApiServer:
    return FakeApiServer(now=lambda: 1_800_000_000.0)


async def test_put_stores_what_it_is_given() -> None:
    api = fresh()
    made = api.put(configmap("a", namespace="new", managedFields=[{"manager": "x"}]))
    assert made["metadata"]["creationTimestamp"] == "2027-01-15T08:00:00Z"
    assert made["metadata"]["managedFields"] == [{"manager": "x"}]
    assert api.get(NAMESPACES, Key("", "new"))
    again = api.put({**configmap("a", namespace="new"), "data": {"k": "v"}})
    assert again["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(again["metadata"]["resourceVersion"]) == int(made["metadata"]["resourceVersion"]) + 1 == api.revision
    other = api.put(configmap("a", namespace="new", uid="chosen"))
    assert other["metadata"]["uid"] == "chosen"


async def test_what_comes_out_is_a_private_copy() -> None:
    api = fresh()
    given_in = {**configmap("a"), "data": {"k": "v"}}
    for out in (
        api.put(given_in),
        api.get(CONFIGMAPS, A),
        *api.objects(CONFIGMAPS),
        api.change(CONFIGMAPS, A, {"data": {"l": "w"}}),
        given_in,
    ):
        assert out
        out["data"]["k"] = "spoilt"
        out["metadata"]["uid"] = "spoilt"
    kept = api.get(CONFIGMAPS, A)
    assert kept
    assert kept["data"] == {"k": "v", "l": "w"}
    assert kept["metadata"]["uid"] != "spoilt"


async def test_create_completes_and_refuses_as_a_post_does() -> None:
    api = fresh()
    service: Obj = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"ports": [{"port": 1}]},
    }
    assert api.create(service)["spec"]["clusterIP"] == "10.96.0.2"
    with pytest.raises(Failure, match="AlreadyExists"):
        api.create(service)
    assert [key_of(obj) for obj in api.objects(SERVICES)] == [A]


async def test_remove_asks_nobody() -> None:
    api = fresh()
    api.put(configmap("a", finalizers=["x.y/z"]))
    api.remove(CONFIGMAPS, A)
    assert api.get(CONFIGMAPS, A) is None


async def test_garbage_is_collected_when_all_owners_are_gone() -> None:
    api = fresh()
    owners = [api.put(configmap(name))["metadata"]["uid"] for name in ("x", "y")]
    api.put(configmap("of-x", uid="u", ownerReferences=[{"uid": owners[0]}]))
    api.put(configmap("of-both", ownerReferences=[{"uid": uid} for uid in owners]))
    api.put(configmap("of-of-x", ownerReferences=[{"uid": "u"}]))
    assert api.collect_garbage() == []
    api.remove(CONFIGMAPS, Key("default", "x"))
    assert [key.name for key in api.collect_garbage()] == ["of-x", "of-of-x"]
    assert [key_of(obj).name for obj in api.objects(CONFIGMAPS)] == ["of-both", "y"]


@pytest.mark.looptime
async def test_a_registered_type_is_served(virtual_api: FakeApiServer, call: Probe) -> None:
    widgets = Resource("example.com", "v1", "widgets", "Widget")
    assert (await call("GET", widgets.path("default"))).code == 404
    virtual_api.register(widgets)
    made = await call("POST", widgets.path("default"), {"metadata": {"name": "a"}, "spec": {"size": 1}, "status": {"ready": True}})
    assert (made.body["kind"], made.body["apiVersion"], "status" in made.body) == ("Widget", "example.com/v1", False)
    assert (await call("PATCH", widgets.path("default", "a", "status"), {"status": {"ready": True}})).body["status"] == {"ready": True}
    assert (await call("PATCH", widgets.path("default", "a"), {}, patch="strategic")).code == 415  # as for custom resources
    assert [group["name"] for group in (await call("GET", "/apis")).body["groups"]].count("example.com") == 1


@pytest.mark.looptime
async def test_the_kubelet_runs_and_ends_pods(host_api: FakeApiServer) -> None:
    kubelet = Kubelet(host_api)
    node = kubelet.register()
    assert node["metadata"]["name"] == "node-1"
    for name in ("a", "b"):
        host_api.create({"apiVersion": "v1", "kind": "Pod", **pod(name)} | {"metadata": {"name": name, "namespace": "default"}})
    status = kubelet.run(A)["status"]
    other = kubelet.run(Key("default", "b"), ready=False)["status"]
    assert (status["phase"], status["podIP"], other["podIP"]) == ("Running", "10.244.0.1", "10.244.0.2")
    assert {c["type"]: c["status"] for c in other["conditions"]}["Ready"] == "False"
    assert [c["ready"] for c in status["containerStatuses"]] == [True]
    assert kubelet.run(A)["status"]["podIP"] == "10.244.0.1"
    host_api.registry.delete(PODS, A, {})
    assert host_api.get(PODS, A)
    kubelet.terminate(A)
    assert host_api.get(PODS, A) is None
    assert kubelet.finish(Key("default", "b"))["status"]["phase"] == "Succeeded"


operation = st.tuples(st.sampled_from("abc"), st.sampled_from(["x=1", "x=2", "gone"]))


@given(before=st.lists(operation, max_size=20), after=st.lists(operation, max_size=20), selector=st.sampled_from(["", "x=1", "!x"]))
def test_list_and_watch_give_the_same_as_a_later_list(before: list[tuple[str, str]], after: list[tuple[str, str]], selector: str) -> None:
    storage, matches = Storage(), label_predicate(selector)

    def listed(objects: list[Obj]) -> dict[Key, Obj]:
        return {key_of(obj): obj for obj in objects if matches(obj)}

    def carry_out(operations: list[tuple[str, str]]) -> None:
        for name, what in operations:
            key, (label, _, value) = Key("default", name), what.partition("=")
            if value:
                storage.write(SECRETS, {"metadata": {"name": name, "namespace": "default", "labels": {label: value}}})
            elif storage.get(SECRETS, key):
                storage.remove(SECRETS, key)

    carry_out(before)
    cache, revision = listed(storage.objects(SECRETS)), storage.revision
    carry_out(after)
    assert listed(storage.at(SECRETS, revision)) == cache
    watch = Watch(storage=storage, resource=SECRETS, namespace="default", matches=matches, revision=revision)
    for event in storage.since(revision):
        seen = watch.seen(event)
        if seen is None:
            continue
        key = key_of(seen["object"])
        assert (seen["type"] == "ADDED") == (key not in cache)
        assert seen["object"]["metadata"]["resourceVersion"] == str(event.revision)
        if seen["type"] == "DELETED":
            del cache[key]
        else:
            cache[key] = seen["object"]
    assert cache == listed(storage.objects(SECRETS))


RFC_7386 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
"""Appendix A of the RFC."""


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7386)
def test_merge(target: object, patch: object, result: object) -> None:
    assert merge(target, patch) == result


STRATEGIC = [
    ({"finalizers": ["a"]}, {"finalizers": ["b", "a"]}, {"finalizers": ["a", "b"]}),
    ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
    ({"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
    (
        {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}]},
        {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "b"}]},
        {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b"}]},
    ),
    ({"volumes": [{"name": "a"}, {"name": "b"}]}, {"volumes": [{"name": "a", "$patch": "delete"}]}, {"volumes": [{"name": "b"}]}),
    ({"volumes": [{"name": "a"}]}, {"volumes": [{"$patch": "replace"}, {"name": "b"}]}, {"volumes": [{"name": "b"}]}),
    ({"a": {"b": 1, "c": 2}}, {"a": {"$patch": "replace", "d": 3}}, {"a": {"d": 3}}),
    ({"a": {"b": 1}}, {"a": None}, {}),
]


@pytest.mark.parametrize(("target", "patch", "result"), STRATEGIC)
def test_strategic(target: Obj, patch: Obj, result: Obj) -> None:
    before = repr(target)
    assert strategic(target, patch) == result
    assert repr(target) == before


def test_strategic_needs_the_key() -> None:
    with pytest.raises(PatchError):
        strategic({}, {"containers": [{"image": "x"}]})


JSON = [
    ({"a": [1, 2]}, [{"op": "add", "path": "/a/1", "value": 9}], {"a": [1, 9, 2]}),
    ({"a": [1, 2]}, [{"op": "add", "path": "/a/-", "value": 9}], {"a": [1, 2, 9]}),
    ({"a": [1, 2]}, [{"op": "remove", "path": "/a/0"}], {"a": [2]}),
    ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
    ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
    ({"~/": 1}, [{"op": "replace", "path": "/~0~1", "value": 2}], {"~/": 2}),
    ({}, [{"op": "add", "path": "/a/b", "value": 1}], None),
    ({"a": [1]}, [{"op": "add", "path": "/a/5", "value": 1}], None),
    ({"a": [1]}, [{"op": "add", "path": "/a/x", "value": 1}], None),
    ({"a": 1}, [{"op": "replace", "path": "/b", "value": 1}], None),
    ({"a": 1}, [{"op": "add", "path": "/a/b", "value": 1}], None),
    ({"a": 1}, [{"op": "jump", "path": "/a"}], None),
    ({"a": 1}, [{"op": "replace", "path": "", "value": 1}], None),
]


@pytest.mark.parametrize(("target", "operations", "result"), JSON)
def test_json_patch(target: Obj, operations: list[Obj], result: Obj | None) -> None:
    if result is None:
        with pytest.raises(PatchError):
            json_patch(target, operations)
    else:
        assert json_patch(target, operations) == result

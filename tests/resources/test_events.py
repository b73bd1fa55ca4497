from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import (
    CONFIGMAPS,
    ENDPOINTS,
    EVENTS,
    INGRESSES,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SECRETS,
    SERVICES,
    Key,
    Lane,
    Obj,
    Resource,
    Side,
)
from syncer.naming import ANNOTATION_NAME, LABEL_MANAGED_BY
from syncer.resources import events
from syncer.resources.events import CROWD, HOST_VERSION, MIRRORED_AT, slim
from syncer.sync.intents import Create, Patch
from syncer.translate.merge import apply
from tests.resources.apply import NAMES, NOW, World, told
from tests.resources.objects import HOST, deleting, host_marks, pod, ready_world

HOST_WEB = "web-x-default-x-vc"
EVENT = Key("default", "web.17f1a2")
VERSION = "event-uid/7"


def host_event(changes: Obj | None = None) -> Obj:
    base = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{HOST_WEB}.17f1a2", "namespace": HOST, "uid": "event-uid", "resourceVersion": "7", "labels": {"x": "y"}},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": HOST,
            "name": HOST_WEB,
            "uid": "host-pod",
            "resourceVersion": "3",
            "fieldPath": "spec.containers{app}",
        },
        "reason": "FailedMount",
        "message": f'MountVolume failed for pod "{HOST}/{HOST_WEB}" (UID host-pod): secret "app-x-default-x-vc" not found in {HOST}',
        "source": {"component": "kubelet", "host": "n1"},
        "type": "Warning",
        "count": 2,
        "firstTimestamp": "2027-01-15T08:00:00Z",
        "lastTimestamp": "2027-01-15T08:00:01Z",
        "eventTime": None,
        "related": {"kind": "Node", "name": "n1"},
        "reportingComponent": "kubelet",
        "reportingInstance": "n1",
    }
    changed: Obj = apply(base, changes or {})
    return changed


def state(virtual: Obj | None, host: Obj | None) -> World:
    world = ready_world(events.SPEC)
    world.put(Side.VIRTUAL, PODS, pod({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "app"}}]}}))
    world.put(Side.HOST, PODS, {"metadata": {**host_marks("Pod", "web"), "uid": "host-pod"}})
    if virtual is not None:
        mirrored = {"metadata": {"name": EVENT.name, "namespace": "default", "annotations": {HOST_VERSION: VERSION}}}
        world.put(Side.VIRTUAL, EVENTS, apply(mirrored, virtual))
    if host is not None and (kept := slim(host_event(host), world.view())) is not None:
        world.put(Side.HOST, EVENTS, kept)
    return world


def written(at: float) -> Obj:
    return {"metadata": {"annotations": {MIRRORED_AT: f"{at:.0f}"}}}


NEWER = {"metadata": {"resourceVersion": "8"}, "count": 3}

RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("nothing at all", None, None, []),
    ("Create new", None, {}, ["create virtual events default/web.17f1a2"]),
    ("mirrored already, also after a restart", {}, {}, []),
    ("Update", {}, NEWER, ["patch virtual events default/web.17f1a2 " + "+".join(sorted({*events._KEPT, "involvedObject", "metadata"}))]),
    ("Update, a moment after the last one", written(NOW - 2), NEWER, ["again 3"]),
    (
        "Update, a while after the last one",
        written(NOW - 5),
        NEWER,
        ["patch virtual events default/web.17f1a2 " + "+".join(sorted({*events._KEPT, "involvedObject", "metadata"}))],
    ),
    (
        "Update, by a clock that went back",
        written(NOW + 60),
        NEWER,
        ["patch virtual events default/web.17f1a2 " + "+".join(sorted({*events._KEPT, "involvedObject", "metadata"}))],
    ),
    ("the host's ran out", {}, None, []),
    ("named by no recorder", None, {"metadata": {"name": "something"}}, []),
    ("named by no recorder, with more dots", None, {"metadata": {"name": f"{HOST_WEB}.a.b"}}, []),
]


@pytest.mark.parametrize(("virtual", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(virtual: Obj | None, host: Obj | None, expected: list[str]) -> None:
    world = state(virtual, host)
    assert told(world.decide(events.SPEC, EVENT)) == expected
    assert told(world.settle(events.SPEC, EVENT)) == [line for line in expected if line.startswith("again")]


NOT_MIRRORED: list[tuple[str, Obj]] = [
    ("another pod's", {"involvedObject": {"name": "other"}, "metadata": {"name": "other.1"}}),
    ("an earlier host pod's", {"involvedObject": {"uid": "before"}}),
    ("another kind's", {"involvedObject": {"kind": "Service"}}),
    ("a kind that is not synced", {"involvedObject": {"kind": "Node"}}),
    ("another group's Pod", {"involvedObject": {"apiVersion": "metrics.k8s.io/v1"}}),
    ("another namespace's", {"involvedObject": {"namespace": "other"}}),
    ("about nothing", {"involvedObject": None}),
]


@pytest.mark.parametrize("change", [case[1] for case in NOT_MIRRORED], ids=[case[0] for case in NOT_MIRRORED])
def test_events_that_are_dropped_as_they_arrive(change: Obj) -> None:
    assert slim(host_event(change), state(None, None).view()) is None


def test_an_event_of_a_host_pod_that_is_not_ours_is_dropped() -> None:
    world = state(None, None)
    world.put(Side.HOST, PODS, {"metadata": {**host_marks("Pod", "web"), "uid": "host-pod", "labels": {}}})
    assert slim(host_event(), world.view()) is None


def test_only_what_is_mirrored_is_kept() -> None:
    kept = slim(host_event(), state(None, None).view())
    assert kept is not None
    assert kept["related"] == {"kind": "Node", "name": "n1"}
    assert "labels" not in kept["metadata"]
    assert (kept["metadata"]["uid"], kept["metadata"]["resourceVersion"]) == ("event-uid", "7")


def test_ties_are_made_by_us_alone() -> None:
    forged = host_event({"metadata": {"annotations": {ANNOTATION_NAME: "other"}}})
    kept = slim(forged, state(None, None).view())
    assert kept is not None
    assert kept["metadata"]["annotations"][ANNOTATION_NAME] == "web"
    assert events.SPEC.virtual_key(host_event(), state(None, None).view()) is None


def test_the_virtual_event_speaks_of_virtual_things_only() -> None:
    (create,) = state(None, {}).decide(events.SPEC, EVENT)
    assert isinstance(create, Create)
    assert create.lane is Lane.EVENT
    assert create.obj["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "default",
        "name": "web",
        "uid": "uid-web",
        "fieldPath": "spec.containers{app}",
    }
    assert create.obj["message"] == 'MountVolume failed for pod "default/web" (UID uid-web): secret "app" not found in default'
    assert create.obj["metadata"]["labels"] == {LABEL_MANAGED_BY: NAMES.suffix}
    assert (create.obj["count"], create.obj["source"]["host"], create.obj["reportingInstance"]) == (2, "n1", "n1")
    assert HOST not in str(create.obj)
    assert "-x-" not in str(create.obj)
    assert "eventTime" not in create.obj


def test_an_update_removes_what_the_host_event_has_no_more() -> None:
    (patch,) = state({}, {**NEWER, "series": None, "count": None}).decide(events.SPEC, EVENT)
    assert isinstance(patch, Patch)
    assert patch.lane is Lane.EVENT
    assert (patch.body["count"], patch.body["series"]) == (None, None)


@pytest.mark.parametrize("namespace", [None, deleting(None)], ids=["gone", "terminating"])
def test_nothing_is_created_in_a_namespace_that_goes(namespace: Obj | None) -> None:
    world = state(None, {})
    del world.objects[Side.VIRTUAL, NAMESPACES][Key("", "default")]
    if namespace is not None:
        world.put(Side.VIRTUAL, NAMESPACES, apply({"metadata": {"name": "default"}}, namespace))
    assert world.decide(events.SPEC, EVENT) == []


def test_an_event_outlives_its_host_object() -> None:
    world = state(None, {"reason": "Killing"})
    world.objects[Side.HOST, PODS].clear()
    assert told(world.decide(events.SPEC, EVENT)) == ["create virtual events default/web.17f1a2"]


@pytest.mark.parametrize(
    "resource", [PODS, SERVICES, CONFIGMAPS, SECRETS, PERSISTENT_VOLUME_CLAIMS, INGRESSES, ENDPOINTS], ids=lambda resource: resource.kind
)
def test_every_synced_kind_has_events(resource: Resource) -> None:
    world = state(None, None)
    marks = host_marks("Service" if resource == ENDPOINTS else resource.kind, "v1-db")
    if resource.group:
        marks["annotations"]["vcluster.loft.sh/object-kind"] = f"{resource.group}/v1, Kind={resource.kind}"
    host = world.put(Side.HOST, SERVICES if resource == ENDPOINTS else resource, {"metadata": marks})
    world.put(Side.VIRTUAL, ENDPOINTS, {"metadata": {"name": "v1-db", "namespace": "default", "uid": "uid-v1-db"}})
    name = host["metadata"]["name"]
    about = {"apiVersion": resource.api_version, "kind": resource.kind, "name": name, "uid": host["metadata"]["uid"], "fieldPath": None}
    kept = slim(host_event({"metadata": {"name": f"{name}.abc"}, "involvedObject": about, "message": f"{HOST}/{name}: bad"}), world.view())
    assert kept is not None
    world.put(Side.HOST, EVENTS, kept)
    key = events.SPEC.virtual_key(kept, world.view())
    assert key == Key("default", "v1-db.abc")
    (create,) = world.decide(events.SPEC, key)
    assert isinstance(create, Create)
    reference = {"apiVersion": resource.api_version, "kind": resource.kind, "namespace": "default", "name": "v1-db", "uid": "uid-v1-db"}
    assert create.obj["involvedObject"] == reference
    assert create.obj["message"] == "default/v1-db: bad"


class TestWords:
    """What a message and the fields beside it may say."""

    def said(self, changes: Obj, world: World | None = None) -> Obj:
        kept = slim(host_event(changes), (world or state(None, None)).view())
        assert kept is not None
        return kept

    def test_another_object_of_another_virtual_namespace(self) -> None:
        world = state(None, None)
        long = "a-claim-with-a-name-that-is-far-too-long-to-be-kept"
        for resource, name in ((PERSISTENT_VOLUME_CLAIMS, long), (PODS, "db")):
            world.put(Side.HOST, resource, {"metadata": host_marks(resource.kind, name, "shop")})
        text = f"waits for {NAMES.host_name('shop', long)} and {NAMES.host_name('shop', 'db')}, not for a-stranger-x-shop-x-other"
        assert self.said({"message": text + "."}, world)["message"] == f"waits for {long} and db, not for a-stranger-x-shop-x-other."

    def test_a_pod_that_took_the_place(self) -> None:
        world = state(None, None)
        world.put(Side.HOST, PODS, {"metadata": {**host_marks("Pod", "vip"), "uid": "host-vip"}})
        related = {"kind": "Pod", "namespace": HOST, "name": "vip-x-default-x-vc", "uid": "host-vip"}
        kept = self.said({"related": related, "message": "Preempted by pod host-vip on node n1"}, world)
        assert kept["message"] == "Preempted by pod uid-vip on node n1"
        assert kept["related"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "vip", "uid": "uid-vip"}

    def test_a_stranger_that_took_the_place(self) -> None:
        related = {"kind": "Pod", "namespace": "elsewhere", "name": "secret-name", "uid": "0b5e-uid"}
        kept = self.said({"related": related, "message": "Preempted by pod 0b5e-uid on node n1"})
        assert kept["message"] == "Preempted by pod (host) on node n1"
        assert "related" not in kept

    @pytest.mark.parametrize(
        ("component", "instance", "shown"),
        [
            ("kubelet", "n1", "n1"),
            ("default-scheduler", "default-scheduler-master-7", "default-scheduler"),
            ("", "ingress-nginx-abc", "(host)"),
        ],
    )
    def test_which_instance_of_a_component_it_was(self, component: str, instance: str, shown: str) -> None:
        assert self.said({"reportingComponent": component, "reportingInstance": instance})["reportingInstance"] == shown

    def test_the_fields_of_events_k8s_io(self) -> None:
        fields = {
            "series": {"count": 3, "lastObservedTime": "2027-01-15T08:00:01.000000Z"},
            "action": "Binding",
            "eventTime": "2027-01-15T08:00:00.000000Z",
        }
        kept = self.said(fields)
        assert {field: kept[field] for field in fields} == fields

    def test_a_long_one(self) -> None:
        assert self.said({"message": f"{HOST_WEB} " * 2000})["message"] == "web " * 2000


class TestStorms:
    """Very many different events of one object."""

    def world(self, count: int, born: str) -> World:
        world = state(None, None)
        for number in range(count):
            metadata = {"name": f"{HOST_WEB}.{number:08x}", "uid": f"uid-{number}", "creationTimestamp": born}
            kept = slim(host_event({"metadata": metadata}), world.view())
            assert kept is not None
            world.put(Side.HOST, EVENTS, kept)
        return world

    @pytest.mark.parametrize(
        ("count", "number", "born", "expected"),
        [
            (CROWD, 0, "2027-01-15T08:00:00Z", ["create"]),
            (CROWD + 1, 0, "2027-01-15T08:00:00Z", []),
            (CROWD + 1, 1, "2027-01-15T08:00:00Z", ["again 10"]),
            (CROWD + 1, 1, "2027-01-15T07:59:52Z", ["again 2"]),
            (CROWD + 1, 1, "2027-01-15T07:59:50Z", ["create"]),
        ],
        ids=["no crowd yet", "the oldest", "among the newest", "a moment later", "still among the newest"],
    )
    def test_crowd(self, count: int, number: int, born: str, expected: list[str]) -> None:
        intents = told(self.world(count, born).decide(events.SPEC, Key("default", f"web.{number:08x}")))
        assert [line if line.startswith("again") else line.partition(" ")[0] for line in intents] == expected


LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,70}[a-z0-9])?", fullmatch=True).filter(lambda name: ".." not in name and ".-" not in name)


@given(name=LABELS, namespace=st.sampled_from(["default", "a-x-b"]), suffix=st.from_regex(r"[0-9a-f]{1,16}", fullmatch=True))
def test_host_events_and_virtual_ones_find_each_other(name: str, namespace: str, suffix: str) -> None:
    world = state(None, None)
    host = world.put(Side.HOST, PODS, {"metadata": host_marks("Pod", name, namespace)})
    about = {"name": host["metadata"]["name"], "uid": host["metadata"]["uid"]}
    kept = slim(host_event({"metadata": {"name": f"{about['name']}.{suffix}"}, "involvedObject": about}), world.view())
    assert kept is not None
    key = events.SPEC.virtual_key(kept, world.view())
    assert key == Key(namespace, f"{name}.{suffix}")
    ref = events.SPEC.host_ref(NAMES, key)
    assert ref is not None
    assert ref.key == Key(HOST, kept["metadata"]["name"])

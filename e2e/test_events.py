"""Events of the host on real API servers: each synced kind's reach the tenant, in his own words, and storms cost little."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until
from e2e.servicepairs import MERGE, ServicePairs, service
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
    Resource,
)
from syncer.resources.events import APART, CALM, CROWD
from syncer.translate.metadata import recorded_uid

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]  # where pods cannot be scheduled there are more events

TENANT = "told"
NEW_EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events"
FORCE = {"vcluster.loft.sh/force-sync": "true"}
MANY = pytest.mark.parametrize("number", [300, pytest.param(1000, marks=pytest.mark.long)])
_NUMBERS = itertools.count(0x17F1A2000)


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant(TENANT)


@pytest.fixture(scope="module")
def pairs(daemon: Daemon) -> ServicePairs:
    return ServicePairs(daemon)


BODIES: dict[Resource, Obj] = {
    PODS: {"spec": {"containers": [{"name": "app", "image": "nginx:1"}], "automountServiceAccountToken": False}},
    SERVICES: {"spec": {"ports": [{"port": 80}]}},
    ENDPOINTS: {"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]},
    CONFIGMAPS: {"metadata": {"annotations": FORCE}, "data": {"a": "b"}},
    SECRETS: {"metadata": {"annotations": FORCE}, "stringData": {"a": "b"}},
    PERSISTENT_VOLUME_CLAIMS: {
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": ""}
    },
    INGRESSES: {"spec": {"defaultBackend": {"service": {"name": "all", "port": {"number": 80}}}}},
}


def make(pairs: ServicePairs, resource: Resource, name: str, namespace: str = "default") -> Obj:
    """A virtual object, once its host object is there and tied to it; the latter."""
    body = BODIES[resource]
    metadata = {**body.get("metadata", {}), "name": name, "namespace": namespace}
    pairs.virtual.apply({**body, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata})
    path = resource.path(*pairs.names.host_key(Key(namespace, name)))
    wait_until(
        lambda: recorded_uid(pairs.host.get(path)) != "" or resource == ENDPOINTS, f"{resource.kind} {name} on the host", 20
    )  # Endpoints are tied to their Service
    found: Obj = pairs.host.get(path)
    return found


def about(resource: Resource, host: Obj) -> Obj:
    meta = host["metadata"]
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }


def say(pairs: ServicePairs, resource: Resource, host: Obj, message: str, **fields: Any) -> Key:
    """An event on a host object, as older recorders write them; its key."""
    meta = host["metadata"]
    key = Key(meta["namespace"], f"{meta['name']}.{next(_NUMBERS):x}")
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "involvedObject": about(resource, host),
        "reason": "Said",
        "message": message,
        "type": "Normal",
        "count": 1,
        "source": {"component": "test"},
        **fields,
    }
    pairs.host.request("POST", EVENTS.path(key.namespace), body)
    return key


def wait_event(pairs: ServicePairs, resource: Resource, name: str, reason: str = "Said") -> Obj:
    """The virtual event of that reason on a virtual object."""
    found: list[Obj] = []

    def look() -> bool:
        found[:] = [event for event in pairs.events(name, resource.kind) if event["reason"] == reason]
        return bool(found)

    wait_until(look, f"an event {reason} on {resource.kind} {name}", 20)
    return found[0]


@pytest.mark.parametrize("resource", list(BODIES), ids=lambda resource: resource.kind)
def test_every_synced_kind(pairs: ServicePairs, resource: Resource) -> None:
    if resource in (ENDPOINTS, INGRESSES):
        make(pairs, SERVICES, "all")
    host = make(pairs, resource, "all")
    name, namespace = host["metadata"]["name"], pairs.host_namespace
    say(pairs, resource, host, f"{namespace}/{name} ({host['metadata']['uid']}) in {namespace}: bad {name}")
    event = wait_event(pairs, resource, "all")
    virtual = pairs.virtual.get(resource.path("default", "all"))["metadata"]
    assert event["involvedObject"] == {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "namespace": "default",
        "name": "all",
        "uid": virtual["uid"],
    }
    assert event["message"].startswith("default/all (")
    hidden = (namespace, f"-x-{TENANT}", host["metadata"]["uid"])
    said = str({field: value for field, value in event.items() if field != "metadata"})
    assert not [word for word in hidden if word in said], event["message"]


def test_an_event_of_the_new_kind_with_a_series(pairs: ServicePairs) -> None:
    host, other = make(pairs, PODS, "series"), make(pairs, PODS, "related")
    path = NEW_EVENTS.format(pairs.host_namespace)
    name = f"{host['metadata']['name']}.{next(_NUMBERS):x}"
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": pairs.host_namespace},
        "regarding": about(PODS, host),
        "related": about(PODS, other),
        "reason": "Preempted",
        "note": f"Preempted by pod {other['metadata']['uid']} on node n1",
        "type": "Normal",
        "action": "Preempting",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "default-scheduler",
        "reportingInstance": "default-scheduler-control-plane-1",
    }
    pairs.host.request("POST", path, body)
    wait_event(pairs, PODS, "series", "Preempted")
    series = {"count": 7, "lastObservedTime": "2026-01-01T00:00:09.000000Z"}
    pairs.host.request("PATCH", f"{path}/{name}", {"series": series}, content_type=MERGE)
    virtual = NEW_EVENTS.format("default") + "/series." + name.rpartition(".")[2]
    wait_until(lambda: "series" in pairs.virtual.get(virtual), "the series goes up", 20)
    event = pairs.virtual.get(virtual)
    uid = pairs.virtual.get(PODS.path("default", "related"))["metadata"]["uid"]
    assert (event["series"]["count"], event["action"], event["reportingController"], event["eventTime"]) == (
        7,
        "Preempting",
        "default-scheduler",
        "2026-01-01T00:00:00.000000Z",
    )
    assert event["reportingInstance"] == "default-scheduler"
    assert event["note"] == f"Preempted by pod {uid} on node n1"
    assert (event["related"]["namespace"], event["related"]["name"], event["related"]["uid"]) == ("default", "related", uid)


def test_an_event_of_a_stranger_is_not_shown(pairs: ServicePairs) -> None:
    body = service("stranger")
    body["metadata"]["namespace"] = pairs.host_namespace
    stranger = pairs.host.request("POST", SERVICES.path(pairs.host_namespace), body)
    mine = make(pairs, SERVICES, "mine")
    say(pairs, SERVICES, stranger, "not for you")
    say(pairs, SERVICES, mine, "for you")
    wait_event(pairs, SERVICES, "mine")
    messages = [event["message"] for event in pairs.virtual.get(EVENTS.path())["items"]]
    assert "for you" in messages
    assert "not for you" not in messages


def event_writes(daemon: Daemon) -> float:
    """How many events the syncer has made or changed in the virtual cluster."""
    lines = daemon.get("/metrics")[1].splitlines()
    counted = [
        line for line in lines if line.startswith("syncer_api_requests_total{") and 'resource="events"' in line and 'side="virtual"' in line
    ]
    assert counted, "the metric has another name"
    return sum(float(line.rpartition(" ")[2]) for line in counted if 'verb="create"' in line or 'verb="patch"' in line)


@MANY
def test_many_updates_of_one_event_cost_few_writes(daemon: Daemon, pairs: ServicePairs, number: int) -> None:
    began = time.monotonic()
    name = f"again-{number}"
    key = say(pairs, PODS, make(pairs, PODS, name), "once more")
    wait_event(pairs, PODS, name)
    before = event_writes(daemon)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda count: pairs.host.request("PATCH", EVENTS.path(*key), {"count": count}, content_type=MERGE), range(2, number)))
    pairs.host.request("PATCH", EVENTS.path(*key), {"count": number}, content_type=MERGE)
    wait_until(lambda: wait_event(pairs, PODS, name)["count"] == number, "the last one is shown", 20)
    assert event_writes(daemon) - before <= 2 + (time.monotonic() - began) / APART


@MANY
def test_many_events_of_one_pod_cost_few_writes_and_do_not_delay_others(daemon: Daemon, pairs: ServicePairs, number: int) -> None:
    stormy, calm = f"storm-{number}", f"calm-{number}"
    storm, other = make(pairs, PODS, stormy), make(pairs, PODS, calm)
    began = time.monotonic()
    before = event_writes(daemon)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda which: say(pairs, PODS, storm, f"number {which}"), range(number)))
    say(pairs, PODS, other, "in between")
    wait_event(pairs, PODS, calm)
    last = say(pairs, PODS, storm, "the last one")
    path = EVENTS.path("default", f"{stormy}." + last.name.rpartition(".")[2])
    wait_until(lambda: pairs.virtual.find(path) is not None, "the newest is shown", 40)
    assert event_writes(daemon) - before <= 10 + CROWD * (1 + (time.monotonic() - began) / CALM)


def test_none_is_made_in_a_namespace_that_goes(daemon: Daemon, pairs: ServicePairs) -> None:
    pairs.virtual.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaving"}})
    wait_until(lambda: pairs.virtual.find("/api/v1/namespaces/leaving/serviceaccounts/default") is not None, "its service account")
    host = make(pairs, CONFIGMAPS, "last", "leaving")
    path = CONFIGMAPS.path("leaving", "last")
    pairs.virtual.request("PATCH", path, {"metadata": {"finalizers": ["example.test/kept"]}}, content_type=MERGE)
    pairs.virtual.delete(NAMESPACES.path("", "leaving"))
    wait_until(lambda: bool(pairs.virtual.get(NAMESPACES.path("", "leaving"))["metadata"].get("deletionTimestamp")), "it is terminating")
    say(pairs, CONFIGMAPS, host, "too late")
    say(pairs, SERVICES, make(pairs, SERVICES, "after"), "after it")
    wait_event(pairs, SERVICES, "after")
    assert [event["message"] for event in pairs.virtual.get(EVENTS.path("leaving"))["items"]] == []
    assert not [line for line in daemon.log() if line.get("resource") == "events" and line.get("level") in ("warning", "error")]
    pairs.virtual.request("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE)
    wait_until(lambda: pairs.virtual.find(NAMESPACES.path("", "leaving")) is None, "it is gone")

"""Tenant, host and machine do things at random on real API servers. Then there is peace: both sides agree, nothing is lost or done in vain.

`E2E_CHAOS_SEED` repeats what was done, one after the other; what the syncer was doing meanwhile is up to the machine. The same
on fake API servers, in hundreds: tests/sync/test_chaos.py.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from e2e.errors import LabError
from e2e.lab.api import UNREACHABLE, ApiFailure, wait_until
from e2e.parity import differences, sides, versions
from e2e.witness import Witness
from syncer.kube.types import CONFIGMAPS, PODS, SECRETS, SERVICES, Key, Resource
from syncer.naming import ANNOTATION_NAME, ANNOTATION_NAMESPACE, LABEL_MANAGED_BY, LABEL_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.daemon import Daemon
    from e2e.lab.cluster import ControlPlane
    from e2e.lab.virtual import VirtualCluster
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes"), pytest.mark.timeout(300)]

SHOP = "shop"
NAMESPACES = ("default", SHOP)
NAMES = ("a", "b", "c", "e")
SETTLED_SECONDS = 60.0
_MERGE = "application/merge-patch+json"
_WRITES = ("create", "patch", "delete", "update")
_NOT_OURS_TO_COUNT = ("mutatingwebhookconfigurations.", "servicecidrs.", "selfsubject", "leases.", "events")

Obj = dict[str, Any]


class Chaos:
    """Does one thing after another, by seed. What an API server refuses, or is not there to be asked for, is left undone."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.virtual: VirtualCluster = daemon.virtual
        self.rng = random.Random(seed)
        self.log: list[str] = []
        self.changes = 0
        self.troubles = 0
        self.tenant: list[Callable[[], object]] = [
            *[self.create_pod] * 5,
            *[self.put_copied] * 4,
            *[self.put_service] * 3,
            *[self.delete] * 6,
            *[self.label] * 3,
            self.recreate_namespace,
        ]
        self.host: list[Callable[[], object]] = [*[self.delete_on_host] * 2, *[self.spoil] * 2, self.evict, self.finish]
        self.trouble: list[Callable[[], object]] = [
            *[self.kill_syncer] * 3,
            self.leave_syncer_dead,
            self.freeze_syncer,
            *[self.hang] * 2,
            self.crash_apiserver,
            self.crash_datastore,
        ]

    def run(self, seconds: float) -> None:
        """For about so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            deed = self.rng.choice(self.rng.choices((self.tenant, self.host, self.trouble), (12, 5, 2))[0])
            began = time.monotonic()
            try:
                self.log.append(f"{deed.__name__}: {deed()}")
            except (ApiFailure, *UNREACHABLE) as error:
                self.log.append(f"{deed.__name__}: {type(error).__name__}: {error}"[:200])
            self.log[-1] = f"{seconds - deadline + began:6.1f} {self.log[-1]}"
            time.sleep(self.rng.choice((0, 0, 0.02, 0.1, 0.5)))

    # The tenant

    def create_pod(self) -> str:
        key = self._key()
        volumes: list[Obj] = []
        if self.rng.random() < 0.5:
            volumes.append({"name": "config", "configMap": {"name": self.rng.choice("ab"), "optional": True}})
        if self.rng.random() < 0.5:
            volumes.append({"name": "secret", "secret": {"secretName": self.rng.choice("ab"), "optional": True}})
        spec: Obj = {
            "containers": [{"name": "app", "image": "lab.local/none:1"}],
            "automountServiceAccountToken": self.rng.random() < 0.5,
            "terminationGracePeriodSeconds": self.rng.choice((0, 1, 30)),
            "volumes": volumes,
        }
        return self._create(PODS, key, {"spec": spec})

    def put_copied(self) -> str:
        resource, key = self.rng.choice((CONFIGMAPS, SECRETS)), self._key()
        content: Obj = {"data": {self.rng.choice("xyz"): self.rng.choice(("MQ==", "Mg=="))}}
        if self.rng.random() < 0.5:
            return self._create(resource, key, content)
        return self._patch(self.virtual, resource, key, content)

    def put_service(self) -> str:
        key = self._key()
        if self.rng.random() < 0.4:
            return self._patch(self.virtual, SERVICES, key, {"spec": {"selector": {"app": self.rng.choice("xyz")}}})
        kind: Obj = self.rng.choice(({}, {"type": "NodePort"}, {"clusterIP": "None"}, {"type": "LoadBalancer"}))
        return self._create(SERVICES, key, {"spec": {"ports": [{"port": 80}], "selector": {"app": "x"}, **kind}})

    def label(self) -> str:
        value = self.rng.choice(("x", "y", None))
        metadata = {self.rng.choice(("labels", "annotations")): {self.rng.choice(("app", "tenant.example/note")): value}}
        return self._patch(self.virtual, self.rng.choice((PODS, SERVICES)), self._key(), {"metadata": metadata})

    def delete(self) -> str:
        resource, options = self.rng.choice(
            ((PODS, {}), (PODS, {}), (PODS, {"gracePeriodSeconds": 0}), (SERVICES, {}), (CONFIGMAPS, {}), (SECRETS, {}))
        )
        key = self._key()
        self.virtual.api.request("DELETE", resource.path(*key), options, timeout=5)
        self.changes += 1
        return f"{resource} {key}"

    def recreate_namespace(self) -> str:
        """A namespace is there again some steps after it went, when somebody happens to come by."""
        self.changes += 10
        if self.rng.random() < 0.5:
            self.virtual.api.request("DELETE", f"/api/v1/namespaces/{SHOP}", timeout=5)
            return "gone"
        self.virtual.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": SHOP}}, timeout=5)
        return "made"

    # The host

    def delete_on_host(self) -> str:
        resource, name = self._host_object()
        self.virtual.host.api.request("DELETE", resource.path(self.virtual.host_namespace, name), timeout=5)
        self.changes += 2
        return f"{resource} {name}"

    def spoil(self) -> str:
        """Somebody edits what is ours."""
        resource, name = self._host_object()
        body: Obj = {CONFIGMAPS: {"data": {"x": "spoiled"}}, SECRETS: {"data": {"x": "c3BvaWxlZA=="}}}.get(
            resource, {"metadata": {"labels": {"host.example/cost-centre": "4711"}}}
        )
        return self._patch(self.virtual.host, resource, Key(self.virtual.host_namespace, name), body)

    def evict(self) -> str:
        _, name = self._host_object(PODS)
        path = PODS.path(self.virtual.host_namespace, name, "eviction")
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.virtual.host_namespace}}
        self.virtual.host.api.request("POST", path, eviction, timeout=5)
        self.changes += 2
        return name

    def finish(self) -> str:
        _, name = self._host_object(PODS)
        key = Key(self.virtual.host_namespace, name)
        return self._patch(self.virtual.host, PODS, key, {"status": {"phase": self.rng.choice(("Succeeded", "Failed"))}}, "status")

    # The machine

    def kill_syncer(self) -> str:
        self.troubles += 1
        self.daemon.kill()
        self.daemon.start(ready=False)
        return ""

    def leave_syncer_dead(self) -> str:
        self.troubles += 1
        self.daemon.kill()
        for _ in range(8):
            self.log.append(
                f"       meanwhile {self.rng.choice((self.create_pod, self.put_copied, self.label, self.delete_on_host)).__name__}"
            )
            try:
                self.rng.choice((self.create_pod, self.put_copied, self.label, self.delete_on_host))()
            except (ApiFailure, *UNREACHABLE):
                continue
        self.daemon.start(ready=False)
        return ""

    def freeze_syncer(self) -> str:
        self.daemon.send(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.2, 2))
        self.daemon.send(signal.SIGCONT)
        return ""

    def hang(self) -> str:
        self.troubles += 1
        cluster = self._cluster()
        cluster.pause()
        time.sleep(self.rng.uniform(0.5, 4))
        cluster.resume()
        return cluster.name

    def crash_apiserver(self) -> str:
        self.troubles += 1
        cluster = self._cluster()
        cluster.stop_apiserver()
        time.sleep(self.rng.uniform(0, 2))
        cluster.start()  # all of it: a controller manager that was just starting ends with the API server
        return cluster.name

    def crash_datastore(self) -> str:
        """etcd or kine goes, and the API server with it."""
        self.troubles += 1
        cluster = self._cluster()
        cluster.stop(grace=0)
        cluster.start()
        return cluster.name

    def _cluster(self) -> ControlPlane:
        return self.rng.choice((self.virtual, self.virtual.host))

    def _key(self) -> Key:
        return Key(self.rng.choice(NAMESPACES), self.rng.choice(NAMES))

    def _host_object(self, resource: Resource | None = None) -> tuple[Resource, str]:
        """One of ours, by its name: nobody asks whether it is there."""
        resource = resource or self.rng.choice((PODS, SERVICES, CONFIGMAPS, SECRETS))
        key = self._key()
        return resource, f"{key.name}-x-{key.namespace}-x-{self.virtual.name}"

    def _create(self, resource: Resource, key: Key, content: Obj) -> str:
        body = {"apiVersion": "v1", "kind": resource.kind, "metadata": {"name": key.name, "labels": {"app": "x"}}, **content}
        self.virtual.api.request("POST", resource.path(key.namespace), body, timeout=5)
        self.changes += 1
        return f"{resource} {key}"

    def _patch(self, cluster: ControlPlane, resource: Resource, key: Key, body: Obj, subresource: str = "") -> str:
        cluster.api.request("PATCH", resource.path(*key, subresource), body, content_type=_MERGE, timeout=5)
        self.changes += 1
        return f"{resource} {key} {body}"


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("chaos")


@pytest.fixture
def strangers(daemon: Daemon) -> Iterator[list[tuple[str, str]]]:
    """Path and resourceVersion of objects on the host that are not ours, with names and markers that invite a mistake."""
    virtual = daemon.virtual
    api, namespace = virtual.host.api, virtual.host_namespace
    marked = {
        "labels": {LABEL_MANAGED_BY: virtual.name, LABEL_NAMESPACE: "default"},
        "annotations": {ANNOTATION_NAME: "a", ANNOTATION_NAMESPACE: "default"},
    }
    made = []
    for resource, name, metadata in (
        (CONFIGMAPS, f"a-x-default-x-{virtual.name}-copy", marked),
        (SECRETS, "a-x-default-x-another", {}),
        (CONFIGMAPS, f"d-x-default-x-{virtual.name}", {}),
        (SERVICES, "frontend", {"labels": {LABEL_MANAGED_BY: "another"}}),
    ):
        path = resource.path(namespace, name)
        obj: Obj = {"apiVersion": "v1", "kind": resource.kind, "metadata": {"name": name, "namespace": namespace, **metadata}}
        if resource == SERVICES:
            obj["spec"] = {"ports": [{"port": 80}]}
        made.append((path, api.apply(obj)["metadata"]["resourceVersion"]))
    yield made
    for path, _ in made:
        api.delete(path)


def writes(daemon: Daemon) -> float:
    """How many there were since the syncer's start, but for events and what belongs to starting."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in daemon.get("/metrics")[1].splitlines()
        if line.startswith("syncer_api_requests_total")
        and any(f'verb="{verb}"' in line for verb in _WRITES)
        and not any(f'resource="{resource}' in line for resource in _NOT_OURS_TO_COUNT)
    )


def wait_agreed(virtual: VirtualCluster) -> None:
    """Until both sides agree and rest; AssertionError with the differences."""
    before: dict[str, str] = {}

    def at_rest() -> bool:
        nonlocal before
        last, before = before, versions(virtual)
        time.sleep(0.7)
        return last == before and not differences(virtual)

    try:
        wait_until(at_rest, "both sides agree and rest", SETTLED_SECONDS)
    except LabError as error:
        raise AssertionError(f"{error}: {differences(virtual)}") from None


def _without_events(virtual: VirtualCluster) -> dict[str, str]:
    """What there is; an event that was told while nobody listened is mirrored later."""
    return {place: version for place, version in versions(virtual).items() if not place.startswith("virtual events")}


def _rests(virtual: VirtualCluster) -> bool:
    before = _without_events(virtual)
    time.sleep(2)
    return before == _without_events(virtual)


def _stands(virtual: VirtualCluster) -> bool:
    """Whether the namespace is there and not on its way out; made again when it is gone."""
    namespace = virtual.api.find(f"/api/v1/namespaces/{SHOP}")
    if namespace is None:
        virtual.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}})
        return True
    return "deletionTimestamp" not in namespace["metadata"]


def judge(chaos: Chaos, strangers: list[tuple[str, str]]) -> None:
    daemon, virtual = chaos.daemon, chaos.virtual
    daemon.start()
    wait_until(lambda: _stands(virtual), f"namespace {SHOP} is there to stay", SETTLED_SECONDS)
    wait_agreed(virtual)
    for path, version in strangers:
        found = virtual.host.api.find(path)
        assert found is not None, f"{path} is gone"
        assert found["metadata"]["resourceVersion"] == version, f"{path} was touched"
    bugs = [line for line in daemon.log() if line["event"] in ("pair.bug", "deletions.held", "fence.closed")]
    assert not bugs, bugs[0]
    root_ca = CONFIGMAPS.path(SHOP, "kube-root-ca.crt")
    wait_until(lambda: virtual.api.find(root_ca) is not None, "the virtual cluster's own controllers are back", SETTLED_SECONDS)
    wait_until(lambda: _rests(virtual), "they have nothing to do either", SETTLED_SECONDS)
    then = _without_events(virtual)
    daemon.stop()
    daemon.start()
    time.sleep(2)
    assert writes(daemon) == 0, "a fresh look at everything gives nothing to do"
    assert _without_events(virtual) == then
    assert sides(virtual).virtual(PODS), "nothing is left that could be compared"


def live(daemon: Daemon, strangers: list[tuple[str, str]], seconds: float) -> None:
    seed = int(os.environ.get("E2E_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
    virtual = daemon.virtual
    virtual.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}})
    chaos = Chaos(daemon, seed)
    try:
        chaos.run(seconds)
        for _ in range(6):  # so that there is something to agree on
            chaos.log.append(f"last: {_undisturbed(chaos.create_pod)}")
        judge(chaos, strangers)
    except (AssertionError, LabError) as error:
        error.add_note(f"E2E_CHAOS_SEED={seed}")
        error.add_note("\n".join(chaos.log))
        raise
    print(f"E2E_CHAOS_SEED={seed}: {chaos.changes} changes, {chaos.troubles} troubles")


def _undisturbed(deed: Callable[[], str]) -> str:
    try:
        return deed()
    except ApiFailure as failure:
        return str(failure)


def test_after_some_chaos_both_sides_agree(daemon: Daemon, strangers: list[tuple[str, str]]) -> None:
    live(daemon, strangers, 12)


@pytest.mark.long
def test_after_much_chaos_both_sides_agree(daemon: Daemon, strangers: list[tuple[str, str]]) -> None:
    with Witness(daemon.virtual) as witness:
        live(daemon, strangers, 90)
    # API servers come and go here, and the host deletes pods too: who deleted what is the test's on the fake ones.
    expected = ("lost sight", "deleted although nobody")
    assert [problem for problem in witness.problems if not any(words in problem for words in expected)] == []

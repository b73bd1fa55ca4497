"""Two tenants and strangers in one host namespace: whatever they are called, none touches, selects or shows what is another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.guestbook import kubectl
from e2e.lab.api import ApiFailure, wait_until
from syncer.naming import ANNOTATION_KIND, ANNOTATION_NAME, ANNOTATION_NAMESPACE, ANNOTATION_UID, LABEL_MANAGED_BY, LABEL_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Api
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAMES = ("red", "redder")
SHARED = "shared"
APP = {"app": "web"}
SETTINGS = {"name": "settings", "configMap": {"name": "settings"}}


def obj(
    kind: str, name: str, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}


def pod(name: str, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    base = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "lab.local/none:1"}],
    }
    return obj("Pod", name, labels, annotations, spec={**base, **spec})


def contents(kind: str, whose: str) -> dict[str, Any]:
    """Of a ConfigMap or Secret."""
    return {"data" if kind == "ConfigMap" else "stringData": {"whose": whose}}


def markers(daemon: Daemon, kind: str, name: str) -> dict[str, Any]:
    """The labels and annotations that the syncer would put on the host object of default/`name`."""
    annotations = {ANNOTATION_NAME: name, ANNOTATION_NAMESPACE: "default", ANNOTATION_UID: "stolen", ANNOTATION_KIND: f"/v1, Kind={kind}"}
    labels = {LABEL_MANAGED_BY: daemon.virtual.name, LABEL_NAMESPACE: "default"}
    return {"labels": labels, "annotations": annotations}


class Strangers:
    """Objects of the host namespace that belong to nobody's virtual cluster."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._made: dict[str, str] = {}

    def make(self, body: dict[str, Any]) -> str:
        """Create it in the host namespace; its path."""
        body["metadata"]["namespace"] = SHARED
        path = self._api.path_of(body)
        self._made[path] = self._api.apply(body)["metadata"]["uid"]
        return path

    def remove(self, path: str) -> None:
        del self._made[path]
        self._api.delete(path)

    def remove_all(self) -> None:
        for path in [*self._made]:
            self.remove(path)

    def assert_untouched(self) -> None:
        """Each is as it was made but for what its controllers and the node do; the syncer's name is in no field manager."""
        for path, uid in self._made.items():
            found = self._api.get(path)
            assert found["metadata"]["uid"] == uid, f"{path} was made anew"
            assert not found["metadata"].get("deletionTimestamp"), f"{path} is being deleted"
            managers = {entry["manager"] for entry in found["metadata"]["managedFields"]}
            assert not any("syncer" in manager or "python" in manager.lower() for manager in managers), f"{path} was written by {managers}"


@pytest.fixture(scope="module")
def daemons(tenant: StartTenant) -> list[Daemon]:
    return [tenant(name, namespace=SHARED) for name in NAMES]


@pytest.fixture
def red(daemons: list[Daemon]) -> Daemon:
    return daemons[0]


@pytest.fixture
def strangers(red: Daemon) -> Iterator[Strangers]:
    strangers = Strangers(red.virtual.host.api)
    yield strangers
    strangers.assert_untouched()
    strangers.remove_all()


def host_path(daemon: Daemon, plural: str, name: str) -> str:
    return f"/api/v1/namespaces/{SHARED}/{plural}/{name}-x-default-x-{daemon.virtual.name}"


def host_uid(daemon: Daemon, plural: str, name: str) -> str:
    found = daemon.virtual.host.api.find(host_path(daemon, plural, name)) or {}
    uid: str = found.get("metadata", {}).get("uid", "")
    return uid


def endpoints(api: Api, namespace: str, service: str) -> set[str]:
    """Addresses that the Service leads to."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    slices = api.get(path, labelSelector=f"kubernetes.io/service-name={service}")["items"]
    return {address for item in slices for endpoint in item["endpoints"] or () for address in endpoint["addresses"]}


def warnings(daemon: Daemon, kind: str, name: str) -> list[str]:
    events = daemon.virtual.api.get("/api/v1/namespaces/default/events")["items"]
    return [
        e["message"]
        for e in events
        if e["type"] == "Warning" and (e["involvedObject"]["kind"], e["involvedObject"]["name"]) == (kind, name)
    ]


def wait_told(daemon: Daemon, kind: str, name: str, what: str = "is taken") -> None:
    """Until an event on the virtual object says so, in words that tell nothing of the host."""
    wait_until(lambda: any(what in text for text in warnings(daemon, kind, name)), f"an event on {kind} {name}", 15)
    for text in warnings(daemon, kind, name):
        assert SHARED not in text
        assert "-x-" not in text


def addresses(daemon: Daemon) -> set[str]:
    """Of the tenant's pods, as it sees them itself."""
    pods = daemon.virtual.api.get("/api/v1/namespaces/default/pods")["items"]
    return {item["status"].get("podIP", "") for item in pods} - {""}


def leads_to_its_own(daemon: Daemon, pods: int) -> bool:
    """Whether the Service `web` leads to the tenant's `pods` pods and to nothing else, on the host and in the virtual cluster."""
    own = addresses(daemon)
    host = endpoints(daemon.virtual.host.api, SHARED, f"web-x-default-x-{daemon.virtual.name}")
    return len(own) == pods and own == host == endpoints(daemon.virtual.api, "default", "web")


def uids(daemon: Daemon) -> list[str]:
    """Of what the first test makes, on the host."""
    return [host_uid(daemon, plural, name) for plural, name in (("pods", "web-0"), ("configmaps", "settings"), ("services", "web"))]


def test_the_same_names_in_two_tenants_lead_to_ones_own(daemons: list[Daemon], strangers: Strangers) -> None:
    one, other = daemons
    host = one.virtual.host.api
    paths = [strangers.make(pod("web", APP)), strangers.make(pod("copy-of-web-0", **markers(one, "Pod", "web-0")))]
    for daemon in daemons:
        api = daemon.virtual.api
        api.apply(obj("ConfigMap", "settings", data={"tenant": daemon.virtual.name}))
        api.apply(obj("Service", "web", APP, spec={"selector": APP, "ports": [{"port": 80}]}))
        for number in range(2):
            api.apply(pod(f"web-{number}", APP, volumes=[SETTINGS]))
    wait_until(lambda: all(host.get(path)["status"].get("podIP") for path in paths), "the strangers run")
    wait_until(lambda: all(leads_to_its_own(daemon, 2) for daemon in daemons), "each Service leads to its own pods alone", 15)
    strange = {host.get(path)["status"]["podIP"] for path in paths}
    assert len(addresses(one) | addresses(other) | strange) == 6
    for daemon in daemons:
        assert host.get(host_path(daemon, "configmaps", "settings"))["data"] == {"tenant": daemon.virtual.name}

    before = uids(other)
    kubectl(one.virtual, "delete", "pods,services,configmaps", "--all", "--wait=false")
    wait_until(lambda: not any(uids(one)), "what is one tenant's is gone", 20)
    assert uids(other) == before
    assert leads_to_its_own(other, 2)


def test_strangers_with_our_markers_are_neither_mirrored_nor_removed(red: Daemon, strangers: Strangers) -> None:
    """Such as a controller's copies of our objects, or what somebody restored from a backup under other names."""
    api = red.virtual.api
    api.apply(pod("anchor"))
    wait_until(lambda: bool(host_uid(red, "pods", "anchor")), "the anchor on the host")
    strangers.make(pod("copy-of-anchor", **markers(red, "Pod", "anchor")))
    strangers.make(pod("nobody", **markers(red, "Pod", "nobody")))
    strangers.make(obj("Secret", "anchor-x-default-x-red", **markers(red, "Pod", "anchor")))
    strangers.make(obj("ConfigMap", "settings", **markers(red, "ConfigMap", "settings")))
    strangers.make(obj("Service", "nobody", **markers(red, "Service", "nobody"), spec={"ports": [{"port": 80}]}))
    api.apply(pod("later"))
    wait_until(lambda: len(addresses(red)) == 2, "what came after the strangers is seen")
    kubectl(red.virtual, "delete", "pods", "--all", "--wait=false")
    wait_until(lambda: not api.get("/api/v1/nodes")["items"], "no node is left, as none runs a pod of ours")
    assert not host_uid(red, "pods", "anchor")
    assert api.get("/api/v1/pods")["items"] == []
    assert [item["metadata"]["name"] for item in api.get("/api/v1/services")["items"]] == ["kubernetes"]
    events = api.get("/api/v1/events")["items"]
    assert {item["involvedObject"]["name"] for item in events if item["involvedObject"]["kind"] == "Pod"} <= {
        "web-0",
        "web-1",
        "anchor",
        "later",
    }


def test_a_pod_whose_name_is_taken_waits_until_it_is_free(red: Daemon, strangers: Strangers) -> None:
    stranger = strangers.make(pod("taken-x-default-x-red", APP))
    uid = host_uid(red, "pods", "taken")
    red.virtual.api.apply(pod("taken"))
    wait_told(red, "Pod", "taken")
    assert host_uid(red, "pods", "taken") == uid
    assert not red.virtual.api.get("/api/v1/namespaces/default/pods/taken")["spec"].get("nodeName")
    strangers.remove(stranger)
    wait_until(lambda: host_uid(red, "pods", "taken") not in ("", uid), "the pod starts once its name is free", 10)


def test_a_pod_never_sees_a_strangers_data(red: Daemon, strangers: Strangers) -> None:
    """Of ConfigMap and Secret the host names are taken: pods that mount them do not start with the strangers' contents."""
    sources = {"ConfigMap": {"configMap": {"name": "taken"}}, "Secret": {"secret": {"secretName": "taken"}}}
    paths = [strangers.make(obj(kind, "taken-x-default-x-red", **contents(kind, "the host's"))) for kind in sources]
    for kind, source in sources.items():
        red.virtual.api.apply(obj(kind, "taken", **contents(kind, "the tenant's")))
        red.virtual.api.apply(pod(f"reads-{kind.lower()}", volumes=[{"name": "data", **source}]))

    def started() -> list[bool]:
        return [bool(host_uid(red, "pods", f"reads-{kind.lower()}")) for kind in sources]

    for kind in sources:
        wait_told(red, "Pod", f"reads-{kind.lower()}", f"not on the host cluster yet: {kind} taken")
        wait_told(red, kind, "taken")
    assert started() == [False, False]
    for path in paths:
        strangers.remove(path)
    wait_until(lambda: all(started()), "the pods start once the copies are made", 15)


def test_a_service_whose_name_is_taken_is_refused_in_words(red: Daemon, strangers: Strangers) -> None:
    strangers.make(obj("Service", "taken-x-default-x-red", APP, spec={"selector": APP, "ports": [{"port": 80}]}))
    with pytest.raises(ApiFailure, match="is taken by one that does not belong") as refused:
        red.virtual.api.apply(obj("Service", "taken", APP, spec={"selector": APP, "ports": [{"port": 80}]}))
    assert refused.value.status == 403
    assert SHARED not in str(refused.value)
    assert "-x-" not in str(refused.value)

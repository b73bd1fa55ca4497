"""`syncer status`, and the status page that it shows, on real API servers: whatever goes wrong is told there, in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from e2e.commands import Commands
from e2e.daemon import Daemon
from e2e.lab.api import ApiFailure, wait_until
from syncer.proxy.usage import features
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Api, Obj
    from e2e.lab.virtual import VirtualCluster

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAME = "told"
ADMISSION = "admissionregistration.k8s.io/v1"
ELECTION = ("--leader-elect", "--lease-duration=3s", "--renew-deadline=2s", "--retry-period=0.5s")


@pytest.fixture(scope="module")
def virtual(virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    found = virtual_cluster(NAME)
    yield found
    found.remove(wait=False)


@pytest.fixture(scope="module")
def daemon(virtual: VirtualCluster) -> Iterator[Daemon]:
    """It may do everything but with Ingresses."""
    needed = [right for right in needed_rights(ALL, election=True, features=features(metrics=False)) if right.resource != "ingresses"]
    kubeconfig = virtual.host.grant(virtual.host_namespace, "told", rules(needed))
    found = Daemon(virtual, *ELECTION, f"--host-kube-config={kubeconfig}")
    found.start()
    yield found
    found.stop()


def url(daemon: Daemon) -> str:
    (address,) = (argument for argument in daemon.command() if argument.startswith("--health-bind-address="))
    return f"http://{address.partition('=')[2]}"


def standing(daemon: Daemon) -> tuple[int, Obj]:
    """Exit code and document."""
    virtual = daemon.virtual
    return Commands.on(virtual.host).read("status", NAME, f"--namespace={virtual.host_namespace}", f"--url={url(daemon)}")


def page_when(daemon: Daemon, condition: Callable[[Obj], bool], what: str) -> tuple[int, Obj]:
    """Exit code and page once the page is as wanted."""
    wait_until(lambda: condition(_page(daemon)), f"the status page tells {what}")
    code, document = standing(daemon)
    return code, document["page"]


def _page(daemon: Daemon) -> Obj:
    status, body = daemon.get("/status")
    assert status == 200, body
    page: Obj = json.loads(body)
    return page


def pod(name: str, **labels: str) -> Obj:
    container = {"name": "main", "image": "lab.local/none:1"}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def item(page: Obj, state: str, name: str) -> Obj | None:
    return next((one for one in page[state]["items"] if one["name"] == name), None)


def test_all_is_well_and_a_loop_is_off_for_want_of_a_right(daemon: Daemon) -> None:
    daemon.virtual.api.apply(pod("web"))
    _, page = page_when(daemon, lambda page: any(loop["name"] == "pods" and loop["lastWrite"] for loop in page["loops"]), "of a write")
    code, document = standing(daemon)
    assert (code, document["healthy"], document["problems"]) == (0, True, [])
    loops = {loop["name"]: loop for loop in page["loops"]}
    assert loops["ingresses"]["on"] is False
    assert "Role lacks create, delete, get, list, patch, watch of ingresses.networking.k8s.io" in loops["ingresses"]["why"]
    assert loops["pods"] | {"lastWrite": ""} == {
        "name": "pods",
        "on": True,
        "why": loops["pods"]["why"],
        "kind": "Pod",
        "alive": True,
        "pairs": {"waiting": 0, "retrying": 0, "refused": 0, "held": 0},
        "drifting": 0,
        "queue": {"depth": 0, "oldestSeconds": 0.0},
        "behindSeconds": 0.0,
        "lastWrite": "",
    }
    assert loops["tokens"]["alive"], "the loops that are part of another one too"
    assert [(server["side"], server["reachable"], bool(server["version"])) for server in page["servers"]] == [
        ("host", True, True),
        ("virtual", True, True),
    ]
    assert {one["name"] for one in page["certificates"] if one["ends"] > page["time"]} == {
        "front door",
        "webhook for Services",
        "server-ca",
        "client-ca",
        "front-proxy client",
        "client at the host API server",
        "client at the virtual API server",
    }
    assert page["leader"]["leads"]
    assert page["leader"]["since"]
    assert page["fence"] == {"open": True, "reason": "", "owner": f"{daemon.virtual.host_namespace}/vc-{NAME}-owner"}


def test_for_a_person(daemon: Daemon) -> None:
    done = Commands.on(daemon.virtual.host).run("status", NAME, f"--url={url(daemon)}")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{NAME} in {daemon.virtual.host_namespace}: healthy\n")
    assert "\nLOOP  " in done.out
    other = Commands.on(daemon.virtual.host).run("status", "another", f"--url={url(daemon)}")
    assert (other.code, other.out) == (2, "")
    assert f"the syncer there is that of virtual cluster {NAME}" in other.err


def test_a_refusal(daemon: Daemon) -> None:
    host, namespace = daemon.virtual.host.api, daemon.virtual.host_namespace
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}},
    }
    host.apply(quota)
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/full"
    wait_until(lambda: bool((host.get(path).get("status") or {}).get("hard")), "the quota controller has seen the quota")
    daemon.virtual.api.apply(pod("toomuch"))
    code, page = page_when(daemon, lambda page: item(page, "refused", "toomuch") is not None, "of the refusal")
    assert code == 0, "a tenant who wants too much does not make his virtual cluster sick"
    refused = item(page, "refused", "toomuch")
    assert refused is not None
    assert (refused["kind"], refused["namespace"], refused["cause"]) == ("Pod", "default", "ExceededQuota")
    assert "exceeded quota: full" in refused["reason"]
    assert refused["since"] <= page["time"]
    assert refused["nextTry"]
    host.delete(path)
    page_when(daemon, lambda page: page["refused"]["count"] == 0, "that it is over")


@pytest.fixture
def insisting(daemon: Daemon) -> Iterator[Api]:
    """The host's administrators want a label `team` with their value on every pod of the host namespace."""
    api, namespace = daemon.virtual.host.api, daemon.virtual.host_namespace
    if not api.serves(ADMISSION, "MutatingAdmissionPolicy"):
        pytest.skip("the host's version has no MutatingAdmissionPolicy; 1.36 does")
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["pods"]}
    expression = 'Object{metadata: Object.metadata{labels: {"team": "platform"}}}'
    mutation = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "mutations": [mutation], "reinvocationPolicy": "Never", "failurePolicy": "Fail"}
    binding = {"policyName": NAME, "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}}
    for kind, body in (("MutatingAdmissionPolicy", spec), ("MutatingAdmissionPolicyBinding", binding)):
        api.apply({"apiVersion": ADMISSION, "kind": kind, "metadata": {"name": NAME}, "spec": body})
    path = f"/api/v1/namespaces/{namespace}/pods"

    def in_force() -> bool:
        made = api.request("POST", path, pod("probe"), params={"dryRun": "All"})
        return bool(made["metadata"].get("labels", {}).get("team") == "platform")

    wait_until(in_force, "the policy is in force")
    yield api
    for plural in ("mutatingadmissionpolicybindings", "mutatingadmissionpolicies"):
        api.delete(f"/apis/{ADMISSION}/{plural}/{NAME}")


@pytest.mark.usefixtures("insisting")
def test_a_contested_field(daemon: Daemon) -> None:
    daemon.virtual.api.apply(pod("fought-over", team="mine"))
    code, page = page_when(daemon, lambda page: page["drift"]["count"] > 0, "of the drift")
    assert code == 0
    assert page["drift"]["items"] == [
        {
            "loop": "pods",
            "kind": "Pod",
            "namespace": "default",
            "name": "fought-over",
            "side": "host",
            "path": "metadata.labels.team",
            "why": "contested",
        }
    ]


def test_a_standby(daemon: Daemon, virtual: VirtualCluster) -> None:
    standby = Daemon(virtual, *ELECTION, name="standby")
    standby.start()
    try:
        leader = standing(daemon)[1]["page"]["leader"]
        code, page = page_when(standby, lambda page: page["leader"]["identity"] == leader["identity"], "who leads")
        assert page["leader"] == {**leader, "leads": False}
        assert page["healthy"], "standing by is nothing wrong"
        assert all("pairs" not in loop for loop in page["loops"])
        assert code == 1, "but how the virtual cluster is doing only the leader knows"
    finally:
        standby.stop()


def test_tenants_cannot_have_the_virtual_api_server_fetch_it(daemon: Daemon, virtual: VirtualCluster) -> None:
    """It runs beside the syncer, so the page is at its loopback too."""
    port = int(url(daemon).rpartition(":")[2])
    virtual.api.apply({**pod("lure"), "spec": {**pod("lure")["spec"], "schedulingGates": [{"name": "example.com/never"}]}})
    path = "/api/v1/namespaces/default/pods/lure"
    for address in ("127.0.0.1", "0.0.0.0", "::1"):
        status = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
        virtual.api.request("PATCH", f"{path}/status", status, content_type="application/merge-patch+json")
        with pytest.raises(ApiFailure, match="address not allowed"):
            virtual.api.get(path.replace("/lure", f"/http:lure:{port}/proxy/status"))


def test_a_dead_virtual_api_server(daemon: Daemon, virtual: VirtualCluster) -> None:
    virtual.stop_apiserver()
    try:
        code, page = page_when(daemon, lambda page: not page["servers"][1]["reachable"], "that it is dead")
        assert (code, page["healthy"]) == (1, False)
        assert any(problem.startswith("the virtual API server does not answer: ") for problem in page["problems"])
        virtual.start_apiserver()
        virtual.pause()
        _, page = page_when(daemon, lambda page: "no answer within" in page["servers"][1]["reason"], "that it hangs")
        assert page["servers"][0]["reachable"], "the other one is asked at the same time"
    finally:
        virtual.resume()
        virtual.start_apiserver()
    page_when(daemon, lambda page: bool(page["healthy"]), "that all is well again")


def test_held_deletions_and_a_syncer_that_is_not_there(daemon: Daemon, virtual: VirtualCluster) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "precious"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Mi"}}},
    }
    virtual.api.apply(claim)
    host_claim = f"/api/v1/namespaces/{virtual.host_namespace}/persistentvolumeclaims/precious-x-default-x-{NAME}"
    wait_until(lambda: virtual.host.api.find(host_claim) is not None, "the host claim")
    daemon.stop()
    code, document = standing(daemon)
    assert (code, document["page"]) == (1, None)
    assert "its status page cannot be had: " in document["problems"][0]
    assert document["lease"]["holder"] == "", "it was given up"
    assert document["owner"]["virtualUID"] == virtual.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    path = "/api/v1/namespaces/default/persistentvolumeclaims/precious"
    virtual.api.delete(path)
    wait_until(lambda: virtual.api.find(path) is None, "the virtual claim is gone")
    daemon.start()
    code, page = page_when(daemon, lambda page: page["holds"] != [], "that a deletion is held")
    assert code == 1
    assert [(hold["loop"], hold["count"]) for hold in page["holds"]] == [("persistentvolumeclaims", 1)]
    held = item(page, "held", "precious")
    assert held is not None
    assert "syncer release-deletions" in held["reason"]
    namespace, host = virtual.host_namespace, virtual.host
    flags = (f"--name={NAME}", f"--target-namespace={namespace}", f"--host-kube-config={host.kubeconfig}")
    released = Commands.on(host).run("release-deletions", *flags)
    assert released.code == 0
    page_when(daemon, lambda page: page["holds"] == [] and page["held"]["count"] == 0, "that it was released")

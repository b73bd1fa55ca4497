"""Virtual clusters created, listed and deleted by command, on a host whose nodes are simulated."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest

from e2e.commands import Commands
from e2e.inventory import Where, differences, inventory
from e2e.lab.api import wait_until
from syncer.kube.types import CONFIGMAPS, PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS, SERVICES, Resource
from syncer.naming import Names
from syncer.releases.release import STATEFUL_SETS
from syncer.translate.metadata import host_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

WITHOUT_VOLUME = "--set=storage.persistence=false"
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
VIRTUAL_UID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def syncer(host_cluster: HostCluster, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(host_cluster.kubeconfig, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def namespace(host_cluster: HostCluster) -> Iterator[str]:
    """One that somebody made by hand."""
    path = "/api/v1/namespaces/by-hand"
    host_cluster.create_namespace("by-hand")
    for made in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
        wait_until(lambda made=made: host_cluster.api.find(f"{path}/{made}") is not None, f"{made} is made")  # type: ignore[misc]  # a default binds it
    yield "by-hand"
    host_cluster.api.delete(path)


def copy(host: HostCluster, release: str, namespace: str, resource: Resource, name: str, *, owned: bool = True, **fields: Any) -> Obj:
    """What the syncer makes on the host for a tenant's object."""
    reference = None
    if owned:
        owner = host.api.get(CONFIGMAPS.path(namespace, f"vc-{release}-owner"))["metadata"]
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["name"], "uid": owner["uid"]}
    virtual = {"metadata": {"name": name, "namespace": "default", "uid": VIRTUAL_UID}}
    metadata = host_metadata(Names(release, namespace), reference, resource, virtual)
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **fields}
    return dict(host.api.request("POST", resource.path(namespace), body))


def changes(host: HostCluster, before: dict[Where, str]) -> list[str]:
    """What of the host is new, and what of the namespaces that these tests share is another than before or gone.

    Namespaces of other tests may still be on their way out.
    """
    found = differences(before, inventory(host.api))
    return [line for line in found if line.startswith("+ ") or {"by-hand", "default"} & set(line.split()[2:-1])]


def pod_spec(**fields: Any) -> Obj:
    resources = {"requests": {"cpu": "250m", "memory": "64Mi"}}
    return {"containers": [{"name": "main", "image": "none", "resources": resources}], **fields}


def fill(host: HostCluster, release: str, namespace: str) -> None:
    """Some of all that a tenant can have on the host, and what the syncer makes for itself."""
    copy(host, release, namespace, PODS, "web", spec=pod_spec(), finalizers=None)
    copy(host, release, namespace, PODS, "unowned", owned=False, spec=pod_spec())
    copy(host, release, namespace, SECRETS, "token", data={})
    copy(host, release, namespace, SERVICES, "web", spec={"ports": [{"port": 80}], "selector": {"a": "b"}})
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    copy(host, release, namespace, PERSISTENT_VOLUME_CLAIMS, "data", spec=claim)
    host.api.apply(
        {
            "apiVersion": LEASE.api_version,
            "kind": "Lease",
            "metadata": {"name": f"vcluster-{release}-controller", "namespace": namespace},
            "spec": {"holderIdentity": "x"},
        }
    )
    labels = {"vcluster.loft.sh/vcluster-name": release, "vcluster.loft.sh/vcluster-namespace": namespace}
    for where in (namespace, "default"):
        host.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"vc-{release}", "namespace": where, "labels": labels}})


def test_create_list_delete_and_nothing_is_left(host_cluster: HostCluster, syncer: Commands) -> None:
    before = inventory(host_cluster.api)
    made = syncer.run("create", "demo", WITHOUT_VOLUME, "--set=rbac.clusterRole.create=true").succeeded()
    assert "demo in namespace vcluster-demo is ready after" in made.err
    assert host_cluster.api.get("/api/v1/namespaces/vcluster-demo")["metadata"]["annotations"]["vcluster.loft.sh/created"] == "true"
    fill(host_cluster, "demo", "vcluster-demo")
    (row,) = [row for row in json.loads(syncer.run("list", "--output=json").succeeded().out) if row["name"] == "demo"]
    own = {"cpu": "730m", "memory": "512Mi"}
    assert row.pop("created")
    assert row.pop("version").startswith("v1.")
    expected = {"name": "demo", "namespace": "vcluster-demo", "status": "Running", "pods": 2, "requests": own}
    assert row == expected
    table = syncer.run("list", "--namespace=vcluster-demo").succeeded().out.splitlines()
    assert table[0].split() == ["NAME", "NAMESPACE", "STATUS", "VERSION", "AGE", "PODS", "CPU", "MEMORY"]
    assert table[1].split()[:3] == ["demo", "vcluster-demo", "Running"]
    deleted = syncer.run("delete", "demo").succeeded()
    assert "StatefulSet demo deleted" in deleted.out
    assert "ClusterRole vc-demo-v-vcluster-demo deleted" in deleted.out
    assert "Namespace vcluster-demo deleted" in deleted.out
    assert changes(host_cluster, before) == []


def test_what_is_not_its_own_stays(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    for name in ("gone", "stays"):
        syncer.run("create", name, f"--namespace={namespace}", WITHOUT_VOLUME).succeeded()
        fill(host_cluster, name, namespace)
    strangers: list[Obj] = [
        {"labels": {"vcluster.loft.sh/managed-by": "gone"}, "name": "marked-by-hand"},
        {"labels": {"app": "vcluster", "release": "gone"}, "name": "labelled-by-hand"},
        {"labels": {"app": "vcluster", "release": "gone", "chart": "vcluster-0.19.10"}, "name": "of-another-chart"},
        {"name": "gone"},
    ]
    for metadata in strangers:
        host_cluster.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "namespace": namespace}})
    before = inventory(host_cluster.api)
    deleted = syncer.run("delete", "gone", "--delete-namespace").succeeded()
    assert "kept: other virtual clusters live in it: stays" in deleted.out
    removed = changes(host_cluster, before)
    assert f"- statefulsets.apps {namespace} gone" in removed
    assert [line for line in removed if not line.startswith("- ") or "stays" in line] == []
    assert {f"- configmaps {namespace} {one['name']}" for one in strangers} & set(removed) == set()
    deleted = syncer.run("delete", "stays", f"--namespace={namespace}", "--delete-namespace").succeeded()
    assert "kept: there are other things in it: ConfigMap" in deleted.out


def test_claims_are_kept_on_request(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    syncer.run("create", "kept", f"--namespace={namespace}", "--no-wait", "--set=autoDeletePersistentVolumeClaims=true").succeeded()
    path = PERSISTENT_VOLUME_CLAIMS.path(namespace, "data-kept-0")
    wait_until(lambda: host_cluster.api.find(path) is not None, "the StatefulSet's claim is there")
    fill(host_cluster, "kept", namespace)
    deleted = syncer.run("delete", "kept", f"--namespace={namespace}", "--keep-pvc", "--delete-namespace").succeeded()
    assert "PersistentVolumeClaim data-kept-0, data-x-default-x-kept kept" in deleted.out
    assert "Namespace by-hand kept: there are other things in it: " in deleted.out
    claims = [one for one in host_cluster.api.get(PERSISTENT_VOLUME_CLAIMS.path(namespace))["items"] if "kept" in one["metadata"]["name"]]
    assert [
        (one["metadata"]["name"], one["metadata"].get("ownerReferences"), one["metadata"].get("deletionTimestamp")) for one in claims
    ] == [
        ("data-kept-0", None, None),
        ("data-x-default-x-kept", None, None),
    ]


def test_a_release_whose_record_is_lost_goes_too(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    before = inventory(host_cluster.api)
    syncer.run("create", "lost", f"--namespace={namespace}", WITHOUT_VOLUME, "--set=rbac.clusterRole.create=true").succeeded()
    fill(host_cluster, "lost", namespace)
    host_cluster.api.delete(SECRETS.path(namespace, "sh.helm.release.v1.lost.v1"))
    syncer.run("delete", "lost").succeeded()
    assert changes(host_cluster, before) == []


def test_a_half_made_release_goes_too(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    before = inventory(host_cluster.api)
    syncer.run("create", "half", f"--namespace={namespace}", WITHOUT_VOLUME, "--no-wait").succeeded()
    fill(host_cluster, "half", namespace)
    for path in (STATEFUL_SETS.path(namespace, "half"), SERVICES.path(namespace, "half")):
        host_cluster.api.delete(path)
    refused = syncer.run("create", "half", f"--namespace={namespace}", WITHOUT_VOLUME)
    assert refused.code == 2
    assert "was half made" in refused.err
    syncer.run("delete", "half").succeeded()
    assert changes(host_cluster, before) == []
    gone = syncer.run("delete", "half")
    assert (gone.code, gone.out) == (3, "")
    assert syncer.run("delete", "half", f"--namespace={namespace}").code == 3


def test_what_a_killed_helm_left_can_be_completed(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    where = f"--namespace={namespace}"
    syncer.run("create", "killed", where, WITHOUT_VOLUME, "--no-wait").succeeded()
    path = SECRETS.path(namespace, "sh.helm.release.v1.killed.v1")
    record = json.loads(gzip.decompress(b64decode(b64decode(host_cluster.api.get(path)["data"]["release"]))))
    record["info"]["status"] = "pending-install"
    pending = {"release": b64encode(b64encode(gzip.compress(json.dumps(record).encode()))).decode()}
    patch = {"data": pending, "metadata": {"labels": {"status": "pending-install"}}}
    host_cluster.api.request("PATCH", path, patch, content_type="application/merge-patch+json")
    host_cluster.api.delete(STATEFUL_SETS.path(namespace, "killed"))
    told = [syncer.run("create", "killed", where, WITHOUT_VOLUME, *more) for more in ((), ("--upgrade",))]
    remedy = f"helm rollback killed 1 {where}"
    assert [(one.code, f"run `{remedy}`, or clear up with `syncer delete killed {where}`" in one.err) for one in told] == [(2, True)] * 2
    subprocess.run(remedy.split(), env=syncer.environment(), check=True, capture_output=True, timeout=90)
    syncer.run("create", "killed", where, "--upgrade").succeeded()
    syncer.run("delete", "killed", where).succeeded()


def test_of_two_that_make_the_same_at_once_one_is_refused(syncer: Commands, namespace: str) -> None:
    words = ("create", "twin", f"--namespace={namespace}", WITHOUT_VOLUME, "--no-wait")
    with syncer.start(*words) as one, syncer.start(*words) as other:
        said = [process.communicate(timeout=120)[1] for process in (one, other)]
    assert sorted((one.returncode, other.returncode)) == [0, 2], said
    syncer.run("delete", "twin", f"--namespace={namespace}").succeeded()


def test_a_finalizer_that_nobody_takes_off_is_named(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    syncer.run("create", "stuck", f"--namespace={namespace}", WITHOUT_VOLUME, "--no-wait").succeeded()
    held = copy(host_cluster, "stuck", namespace, SECRETS, "held", data={})["metadata"]["name"]
    path, merge = SECRETS.path(namespace, held), "application/merge-patch+json"
    host_cluster.api.request("PATCH", path, {"metadata": {"finalizers": ["example.com/hold"]}}, content_type=merge)
    late = syncer.run("delete", "stuck", "--timeout=4s")
    assert late.code == 4
    assert f"still there: Secret {held} (example.com/hold)" in late.err
    host_cluster.api.request("PATCH", path, {"metadata": {"finalizers": None}}, content_type=merge)
    gone = syncer.run("delete", "stuck")
    assert gone.code in (0, 3), gone.err  # the garbage collector may have been quicker
    assert host_cluster.api.find(path) is None


def test_refusals_are_in_words(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    where = f"--namespace={namespace}"
    assert "there is no namespace nowhere" in syncer.run("create", "one", "--namespace=nowhere", "--no-create-namespace").err
    bad = syncer.run("create", "one", where, "--set=syncer.colour=red")
    assert (bad.code, "colour" in bad.err) == (2, True)
    bad = syncer.run("create", "one", where, "--set=replicas=2")
    assert bad.err.startswith("syncer: helm install: replicas: more than one need a datastore that they share; ")
    assert bad.err.count("\n") == 1
    assert syncer.run("list", where).succeeded().err == f"there are no virtual clusters in namespace {namespace}\n"
    syncer.run("create", "one", where, WITHOUT_VOLUME).succeeded()
    again = syncer.run("create", "one", where, WITHOUT_VOLUME)
    assert (again.code, "there is a virtual cluster one in namespace" in again.err) == (2, True)
    syncer.run("create", "one", where, "--upgrade", "--set=syncer.extraArgs={--log-level=debug}").succeeded()
    stateful_set = host_cluster.api.get(STATEFUL_SETS.path(namespace, "one"))
    assert "volumeClaimTemplates" not in stateful_set["spec"], "the values that it had stay"
    assert "--log-level=debug" in stateful_set["spec"]["template"]["spec"]["containers"][0]["args"]
    no_helm = syncer.run("create", "two", where, environment={"PATH": "/nowhere"})
    assert (no_helm.code, "the program helm is not on PATH; install Helm" in no_helm.err) == (2, True)
    assert syncer.run("pause", "nobody").code == 3
    syncer.run("delete", "one", where).succeeded()


def test_isolation_labels_the_namespace(host_cluster: HostCluster, syncer: Commands) -> None:
    syncer.run("create", "walled", "--isolate", "--no-wait", WITHOUT_VOLUME, "--set=isolation.podSecurityStandard=restricted").succeeded()
    labels = host_cluster.api.get("/api/v1/namespaces/vcluster-walled")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert host_cluster.api.find("/api/v1/namespaces/vcluster-walled/resourcequotas/walled-quota") is not None
    syncer.run("delete", "walled").succeeded()
    assert host_cluster.api.find("/api/v1/namespaces/vcluster-walled") is None


@pytest.mark.long
def test_it_tells_why_it_waits(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    """No pod may have a volume, so the claim is what it waits for; then a quota is in the way."""
    late = syncer.run("create", "slow", f"--namespace={namespace}", "--timeout=7s")
    assert late.code == 4
    told = next(line for line in late.err.splitlines() if line.startswith("waiting for slow, "))
    assert "claim data-slow-0 (without a storage class) is pending: no persistent volumes available" in told
    assert late.err.splitlines()[-1].startswith("syncer: waited 7 s in vain: claim data-slow-0")
    hard = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}},
    }
    host_cluster.api.apply(hard)
    host_cluster.api.delete(PODS.path(namespace, "slow-0"))
    late = syncer.run("create", "slow", f"--namespace={namespace}", "--timeout=9s", "--upgrade")
    assert late.code == 4
    host_cluster.api.delete(f"/api/v1/namespaces/{namespace}/resourcequotas/none")
    assert 'the host refuses its pod: pods "slow-0" is forbidden: exceeded quota: none' in late.err
    syncer.run("delete", "slow", f"--namespace={namespace}").succeeded()


def test_expose_waits_for_an_address(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    with syncer.start("create", "open", f"--namespace={namespace}", WITHOUT_VOLUME, "--expose") as process:
        path = SERVICES.path(namespace, "open-lb")
        wait_until(lambda: host_cluster.api.find(path) is not None, "its load balancer is asked for")
        status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}
        host_cluster.api.request("PATCH", f"{path}/status", status, content_type="application/merge-patch+json")
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "at https://192.0.2.7" in err
    syncer.run("delete", "open").succeeded()


def test_rights_in_one_namespace_suffice(host_cluster: HostCluster, namespace: str, tmp_path: Path) -> None:
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    limited = Commands(host_cluster.grant(namespace, "platform", everything), tmp_path)
    where = f"--namespace={namespace}"
    limited.run("create", "own", where, WITHOUT_VOLUME).succeeded()
    fill(host_cluster, "own", namespace)
    assert [row["name"] for row in json.loads(limited.run("list", where, "-ojson").succeeded().out)] == ["own"]
    everywhere = limited.run("list")
    assert everywhere.code == 2
    assert "looking into all namespaces is not allowed" in everywhere.err
    refused = limited.run("pause", "own", where)
    assert (refused.code, "a pause would lose it" in refused.err) == (2, True)
    limited.run("resume", "own", where).succeeded()
    assert "StatefulSet own deleted" in limited.run("delete", "own", where).succeeded().out
    refused = limited.run("create", "other")
    assert (refused.code, "name one of your own with --namespace" in refused.err) == (2, True)
    host_cluster.api.delete(SECRETS.path("default", "vc-own"))  # which this user may not see


def test_an_interrupted_create_is_130(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    with syncer.start("create", "cut", f"--namespace={namespace}") as process:
        wait_until(lambda: host_cluster.api.find(STATEFUL_SETS.path(namespace, "cut")) is not None, "it waits")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False)
    syncer.run("delete", "cut", f"--namespace={namespace}").succeeded()


def test_a_namespace_stays_with_what_only_an_old_version_of_a_group_has(host_cluster: HostCluster, syncer: Commands) -> None:
    """The host prefers v1 of that group, which does not have all of its types."""
    group = "syncer-e2e.example.com"
    schema = {"openAPIV3Schema": {"type": "object"}}
    crds: list[Obj] = [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{kind.lower()}s.{group}"},
            "spec": {
                "group": group,
                "names": {"kind": kind, "plural": f"{kind.lower()}s"},
                "scope": "Namespaced",
                "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
            },
        }
        for kind, version in (("Widget", "v1"), ("Gauge", "v1alpha1"))
    ]
    for crd in crds:
        host_cluster.api.apply(crd)
    wait_until(lambda: host_cluster.api.serves(f"{group}/v1", "Widget"), "the new version is served")
    wait_until(lambda: host_cluster.api.serves(f"{group}/v1alpha1", "Gauge"), "the old version is served")
    syncer.run("create", "aged", "--no-wait", WITHOUT_VOLUME).succeeded()
    path = f"/apis/{group}/v1alpha1/namespaces/vcluster-aged/gauges"
    host_cluster.api.request("POST", path, {"apiVersion": f"{group}/v1alpha1", "kind": "Gauge", "metadata": {"name": "precious"}})
    deleted = syncer.run("delete", "aged").succeeded()
    assert "Namespace vcluster-aged kept: there are other things in it: Gauge precious" in deleted.out
    for gone in (f"{path}/precious", *map(host_cluster.api.path_of, crds), "/api/v1/namespaces/vcluster-aged"):
        host_cluster.api.delete(gone)


def test_a_virtual_cluster_of_another_chart_is_left_alone(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    labels = {"app": "vcluster", "release": "theirs", "chart": "vcluster-0.19.10"}
    template = {"metadata": {"labels": labels}, "spec": pod_spec()}
    metadata = {"name": "theirs", "namespace": namespace, "labels": labels}
    spec = {"serviceName": "theirs", "selector": {"matchLabels": labels}, "template": template}
    host_cluster.api.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec})
    assert [row["name"] for row in json.loads(syncer.run("list", f"--namespace={namespace}", "-ojson").succeeded().out)] == ["theirs"]
    for command in ("pause", "resume", "delete"):
        refused = syncer.run(command, "theirs", f"--namespace={namespace}")
        assert (refused.code, "was made by the chart vcluster-0.19.10; manage it with the program that made it" in refused.err) == (2, True)
    assert host_cluster.api.get(STATEFUL_SETS.path(namespace, "theirs"))["spec"]["replicas"] == 1


def test_one_of_another_chart_that_is_a_deployment_keeps_what_it_has(host_cluster: HostCluster, syncer: Commands, namespace: str) -> None:
    """Without a volume of its own the Go original is one; its copies cannot be told from ours."""
    labels = {"app": "vcluster", "release": "afar", "chart": "vcluster-0.20.0"}
    template = {"metadata": {"labels": labels}, "spec": pod_spec()}
    metadata = {"name": "afar", "namespace": namespace, "labels": labels}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    host_cluster.api.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    made = [
        copy(host_cluster, "afar", namespace, PODS, "web", owned=False, spec=pod_spec()),
        copy(host_cluster, "afar", namespace, SECRETS, "token", owned=False, data={}),
        copy(host_cluster, "afar", namespace, PERSISTENT_VOLUME_CLAIMS, "data", owned=False, spec=claim),
    ]
    refused = syncer.run("delete", "afar", f"--namespace={namespace}")
    assert (refused.code, refused.out) == (2, "")
    assert "was made by the chart vcluster-0.20.0; manage it with the program that made it" in refused.err
    for obj in made:
        assert "deletionTimestamp" not in host_cluster.api.get(host_cluster.api.path_of(obj))["metadata"]

"""`syncer orphans` on a real host: what a vanished virtual cluster left is found and removed, and nothing else, however it is labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.commands import Commands
from e2e.lab.api import wait_until
from syncer.naming import ANNOTATION_NAME, LABEL_CLUSTER, LABEL_MANAGED_BY, LABEL_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAMESPACE = "orphanage"
GONE, LIVE = "vanished", "neighbour"
RBAC = "rbac.authorization.k8s.io/v1"
KINDS = {
    "pods": "/api/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "endpoints": "/api/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "ingresses": "/apis/networking.k8s.io/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
}
HOSTILE = {
    LABEL_MANAGED_BY: GONE,
    LABEL_NAMESPACE: "default",
    LABEL_CLUSTER: GONE,
    "app": "vcluster",
    "release": GONE,
    "chart": "syncer-0.1.0",
}


def tenant_objects(labels: dict[str, str]) -> list[Obj]:
    """One of everything, as a tenant makes it."""
    container = {"name": "main", "image": "lab.local/none:1", "envFrom": [{"configMapRef": {"name": "settings"}}]}
    volumes = [{"name": "keys", "secret": {"secretName": "keys"}}]
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Mi"}}}
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    rule = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    bodies: list[tuple[str, str, str, Obj]] = [
        ("v1", "ConfigMap", "settings", {"data": {"a": "b"}}),
        ("v1", "Secret", "keys", {"stringData": {"a": "b"}}),
        ("v1", "Service", "web", {"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        ("v1", "PersistentVolumeClaim", f"data-{GONE}-0", {"spec": claim}),
        ("networking.k8s.io/v1", "Ingress", "web", {"spec": {"rules": [rule]}}),
        ("v1", "Pod", "web", {"spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}}),
    ]
    return [
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, **body} for version, kind, name, body in bodies
    ]


def objects(host: HostCluster) -> dict[str, Obj]:
    """All of the namespace that any syncer may have made, by UID."""
    found = {}
    for plural, root in KINDS.items():
        for one in host.api.get(f"{root}/namespaces/{NAMESPACE}/{plural}")["items"]:
            found[one["metadata"]["uid"]] = {"plural": plural, **one["metadata"]}
    return found


def of(host: HostCluster, name: str) -> dict[str, Obj]:
    """Those that a syncer's proof is on, by UID; not what controllers copied."""
    return {
        uid: one
        for uid, one in objects(host).items()
        if one.get("labels", {}).get(LABEL_MANAGED_BY) == name and ANNOTATION_NAME in one.get("annotations", {})
    }


def fill(daemon: Daemon, labels: dict[str, str]) -> None:
    for body in tenant_objects(labels):
        daemon.virtual.api.apply(body)
    # Pod, tokens, two ConfigMaps (kube-root-ca.crt is one), Secret, Service, claim, Ingress
    wait_until(lambda: len(of(daemon.virtual.host, daemon.virtual.name)) >= 8, f"all of {daemon.virtual.name} is on the host")


@pytest.fixture(scope="module")
def neighbour(tenant: StartTenant) -> Daemon:
    """Alive in the same host namespace. Its tenant claims that everything of his is the other one's."""
    daemon = tenant(LIVE, "--set-owner=false", namespace=NAMESPACE)
    fill(daemon, HOSTILE)
    return daemon


@pytest.fixture(scope="module")
def vanishing(tenant: StartTenant) -> Daemon:
    daemon = tenant(GONE, "--set-owner=false", "--leader-elect", namespace=NAMESPACE)
    fill(daemon, {"app": "web"})
    return daemon


def cluster_scoped(kind: str, name: str, labels: dict[str, str], **rest: Any) -> Obj:
    version = "scheduling.k8s.io/v1" if kind == "PriorityClass" else RBAC
    fields: Obj = {"value": 7} if kind == "PriorityClass" else {"rules": []}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels, **rest}, **fields}


LEFT_IN_CLUSTER_SCOPE = [
    cluster_scoped("ClusterRole", f"vc-{GONE}-v-{NAMESPACE}", {k: v for k, v in HOSTILE.items() if k in ("app", "release", "chart")}),
    cluster_scoped(
        "PriorityClass",
        f"vcluster-high-x-{NAMESPACE}-x-{GONE}",
        {LABEL_MANAGED_BY: f"{NAMESPACE}-x-{GONE}"},
        annotations={ANNOTATION_NAME: "high"},
    ),
]
"""The chart's, where somebody deleted the namespace and not the release; and the Go original's."""
FOREIGN_IN_CLUSTER_SCOPE = [
    cluster_scoped("ClusterRole", "orphanage-admins", HOSTILE),
    cluster_scoped("PriorityClass", "orphanage-high", HOSTILE, annotations={ANNOTATION_NAME: "high"}),
    cluster_scoped("ClusterRole", f"vc-{LIVE}-v-{NAMESPACE}", {"app": "vcluster", "release": LIVE, "chart": "syncer-0.1.0"}),
]


@pytest.fixture(scope="module")
def in_cluster_scope(host_cluster: HostCluster) -> Iterator[None]:
    both = [*LEFT_IN_CLUSTER_SCOPE, *FOREIGN_IN_CLUSTER_SCOPE]
    for body in both:
        host_cluster.api.apply(body)
    yield
    for body in both:
        host_cluster.api.delete(host_cluster.api.path_of(body))


def shown(host: HostCluster, *arguments: str) -> set[tuple[str, str, str]]:
    """Kind, namespace and name of the orphans."""
    code, found = Commands.on(host).read("orphans", *(arguments or (f"--namespace={NAMESPACE}",)))
    assert code == 0
    return {(one["kind"], one["namespace"], one["name"]) for one in found}


def own(kind: str, name: str, **rest: Any) -> Obj:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE, **rest}}


@pytest.mark.usefixtures("in_cluster_scope")
def test_left_behind(vanishing: Daemon, neighbour: Daemon) -> None:
    host = vanishing.virtual.host
    for app, claimed in (("vcluster", f"data-{GONE}-0"), ("vcluster-etcd", f"data-{GONE}-etcd-0")):
        claim = own("PersistentVolumeClaim", claimed, labels={"app": app, "release": GONE})
        claim["spec"] = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Mi"}}}
        host.api.apply(claim)
    host.api.apply(own("ConfigMap", "bystander", labels=HOSTILE))
    assert shown(host) == set(), "both live"

    vanishing.stop()
    vanishing.virtual.stop()
    assert shown(host) == set(), "a syncer that is stopped has left its owner ConfigMap: it may come back"
    host.api.delete(f"/api/v1/namespaces/{NAMESPACE}/configmaps/vc-{GONE}-owner")

    release = own("Secret", f"sh.helm.release.v1.{GONE}.v1", labels={"owner": "helm", "name": GONE, "status": "pending-install"})
    paused = _stateful_set(GONE)
    for sign in (release, paused):
        host.api.apply(sign)
        assert shown(host) == set(), f"half installed, or paused: {sign['kind']}"
        host.api.delete(host.api.path_of(sign))

    left = of(host, GONE)
    expected = {_kind(one["plural"], one["name"]) for one in left.values()} | {
        ("Secret", NAMESPACE, f"vc-{GONE}"),
        ("Secret", NAMESPACE, f"vc-{GONE}-webhook"),
        ("Lease", NAMESPACE, f"vcluster-{GONE}-controller"),
        ("PersistentVolumeClaim", NAMESPACE, f"data-{GONE}-0"),
        ("PersistentVolumeClaim", NAMESPACE, f"data-{GONE}-etcd-0"),
        *((body["kind"], "", body["metadata"]["name"]) for body in LEFT_IN_CLUSTER_SCOPE),
    }
    assert {kind for kind, _, _ in expected} >= {"Pod", "Service", "ConfigMap", "Secret", "PersistentVolumeClaim", "Ingress"}
    assert shown(host) == expected
    before = objects(host)

    told = Commands.on(host).run("orphans", f"--namespace={NAMESPACE}", "--delete", answer="n\n")
    assert (told.code, "nothing was deleted" in told.err) == (1, True)
    assert f"delete these {len(expected)} objects" in told.err
    assert f"web-x-default-x-{GONE}" in told.out
    assert objects(host).keys() == before.keys()

    done = Commands.on(host).run("orphans", f"--namespace={NAMESPACE}", "--delete", answer="yes\n")
    assert done.code == 0, done.err
    doomed = {uid for uid, one in before.items() if _kind(one["plural"], one["name"]) in expected}
    assert len(doomed) == len(expected) - len(LEFT_IN_CLUSTER_SCOPE)
    wait_until(lambda: not doomed & objects(host).keys(), "they are gone")
    after = objects(host)
    # Endpoints and their like go with their Service, by the host's controllers.
    kept = {uid for uid, one in before.items() if uid not in doomed and not one["name"].startswith(f"web-x-default-x-{GONE}")}
    assert kept <= after.keys(), "of the neighbour and the bystander nothing is missing"
    assert len(of(host, LIVE)) >= 8
    assert not any(one.get("deletionTimestamp") for one in after.values())
    for body in FOREIGN_IN_CLUSTER_SCOPE:
        assert host.api.find(host.api.path_of(body)) is not None
    for body in LEFT_IN_CLUSTER_SCOPE:
        assert host.api.find(host.api.path_of(body)) is None
    assert shown(host) == set()
    neighbour.virtual.api.apply(tenant_objects({"still": "works"})[0])
    assert neighbour.get("/readyz")[0] == 200


def _stateful_set(name: str) -> Obj:
    labels = {"app": "vcluster", "release": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "lab.local/none:1"}]}}
    spec = {"replicas": 0, "serviceName": name, "selector": {"matchLabels": labels}, "template": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    }


def _kind(plural: str, name: str) -> tuple[str, str, str]:
    kinds = {"endpoints": "Endpoints", "endpointslices": "EndpointSlice", "persistentvolumeclaims": "PersistentVolumeClaim"}
    singular = plural.removesuffix("es") if plural == "ingresses" else plural.removesuffix("s")
    return kinds.get(plural, "ConfigMap" if plural == "configmaps" else singular.title()), NAMESPACE, name


def test_of_a_namespace_that_is_gone_itself(host_cluster: HostCluster) -> None:
    role = cluster_scoped("ClusterRole", "vc-lost-v-nowhere", {"app": "vcluster", "release": "lost", "chart": "syncer-0.1.0"})
    host_cluster.api.apply(role)
    expected = ("ClusterRole", "", "vc-lost-v-nowhere")
    assert shown(host_cluster, "--namespace=nowhere") == {expected}
    assert expected in shown(host_cluster, "--all-namespaces")
    assert Commands.on(host_cluster).run("orphans", "--namespace=nowhere", "--delete", "--yes").code == 0
    assert host_cluster.api.find(host_cluster.api.path_of(role)) is None


def test_who_may_not_see_whether_a_cluster_lives_is_shown_nothing_of_it(host_cluster: HostCluster) -> None:
    host_cluster.create_namespace("dim")
    rules = [{"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["list"]}]
    kubeconfig = host_cluster.grant("dim", "dim", rules)
    secret = own("Secret", "vc-unseen", labels={LABEL_CLUSTER: "unseen"})
    secret["metadata"]["namespace"] = "dim"
    host_cluster.api.apply(secret)
    told = Commands.on(host_cluster).run("orphans", f"--kubeconfig={kubeconfig}", "--delete", "--yes")
    assert told.code == 0
    assert "whether unseen in dim still live cannot be told: " in told.err
    assert "not looked at, as listing them fails or is not allowed: " in told.err
    assert "there are no orphans of namespace dim" in told.err
    assert host_cluster.api.find("/api/v1/namespaces/dim/secrets/vc-unseen") is not None

"""What is a virtual cluster's own, and what only looks like it."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from syncer.kube.types import CONFIGMAPS, ENDPOINTS, LEASES, NODES, PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS, SERVICES, Obj, Resource
from syncer.naming import Names
from syncer.releases.belongings import Item, belongings, foreign, others
from syncer.releases.namespaces import why_kept
from syncer.releases.release import STATEFUL_SETS
from syncer.releases.survey import CLUSTER_ROLES
from syncer.translate.kubelets import node_service
from syncer.translate.metadata import host_metadata
from syncer.translate.token_secret import token_secret

NAMES = Names("demo", "team")
OWNER: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "name": "vc-demo-owner", "uid": "owner"}
CHART = {"app": "vcluster", "release": "demo", "chart": "syncer-0.1.0", "heritage": "Helm"}
NAME, SPACE_OF = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
HELM = {NAME: "demo", SPACE_OF: "team"}
_UIDS = count()


def item(resource: Resource, name: str, namespace: str = "team", **metadata: Any) -> Item:
    place = {"namespace": namespace} if resource.namespaced else {}
    return Item(resource, {"metadata": {"name": name, **place, "uid": f"uid-{next(_UIDS)}", **metadata}})


def copied(resource: Resource, owner: Obj | None = OWNER, names: Names = NAMES, **changes: Any) -> Item:
    virtual = {"metadata": {"name": "web", "namespace": "default", "uid": "v"}}
    return Item(resource, {"metadata": {**host_metadata(names, owner, resource, virtual), "uid": f"uid-{next(_UIDS)}", **changes}})


def made(body: Obj, resource: Resource) -> Item:
    return Item(resource, {**body, "metadata": {**body["metadata"], "uid": f"uid-{next(_UIDS)}"}})


VIRTUAL = {"metadata": {"name": "web", "namespace": "default", "uid": "v"}}
OWNER_ITEM = item(CONFIGMAPS, "vc-demo-owner", uid="owner")
CLUSTER, SPACE = "vcluster.loft.sh/vcluster-name", "vcluster.loft.sh/vcluster-namespace"

CASES: list[tuple[str, Item, bool]] = [
    ("the owner itself, whatever its labels", OWNER_ITEM, True),
    ("what it owns", item(SECRETS, "any", ownerReferences=[OWNER]), True),
    ("owned by another owner of that name", item(SECRETS, "any", ownerReferences=[{**OWNER, "uid": "else"}]), False),
    ("a copy", copied(PODS), True),
    ("a copy without owner", copied(PODS, None), True),
    ("a copy of another kind's object", Item(SECRETS, copied(CONFIGMAPS, None).obj), False),
    ("another virtual cluster's copy", copied(PODS, None, Names("demo2", "team")), False),
    ("a copy of a copy, as controllers make them", copied(SECRETS, None, name="copied-by-somebody"), False),
    ("a label alone", item(CONFIGMAPS, "x", labels={"vcluster.loft.sh/managed-by": "demo"}), False),
    ("tokens of a pod", made(token_secret(NAMES, None, VIRTUAL), SECRETS), True),
    ("a node's Service", made(node_service(NAMES, None, {"metadata": {"name": "n1", "uid": "n"}}, {"spec": {}}, 8443), SERVICES), True),
    ("its kubeconfig", item(SECRETS, "vc-demo", labels={CLUSTER: "demo", SPACE: "team"}), True),
    ("its kubeconfig in another namespace", item(SECRETS, "x", "elsewhere", labels={CLUSTER: "demo", SPACE: "team"}), True),
    ("a namesake's kubeconfig", item(SECRETS, "x", "elsewhere", labels={CLUSTER: "demo", SPACE: "elsewhere"}), False),
    ("its own authority", item(SECRETS, "x", labels={CLUSTER: "demo"}), True),
    ("its Lease", item(LEASES, "vcluster-demo-controller"), True),
    ("another Lease", item(LEASES, "vcluster-demo2-controller"), False),
    ("of the chart", item(SERVICES, "demo", labels=CHART, annotations=HELM), True),
    ("of the chart, made with kubectl", item(SERVICES, "demo", labels=CHART), True),
    ("of the chart, and of another release by Helm's word", item(SERVICES, "x", labels=CHART, annotations={**HELM, NAME: "b"}), False),
    ("of the chart, elsewhere", item(SERVICES, "x", "elsewhere", labels=CHART, annotations={NAME: "demo", SPACE_OF: "b"}), False),
    ("of another chart", item(SERVICES, "x", labels={**CHART, "chart": "vcluster-0.19.10"}), False),
    ("of a chart that begins alike", item(SERVICES, "x", labels={**CHART, "chart": "syncer-extras-1.0.0"}), False),
    ("of another release", item(SERVICES, "x", labels={**CHART, "release": "demo2"}), False),
    ("its ClusterRole", item(CLUSTER_ROLES, "vc-demo-v-team", labels=CHART, annotations=HELM), True),
    ("its ClusterRole, made with kubectl", item(CLUSTER_ROLES, "vc-demo-v-team", labels=CHART), True),
    ("a namesake's ClusterRole", item(CLUSTER_ROLES, "vc-demo-v-elsewhere", labels=CHART), False),
    ("its claim", item(PERSISTENT_VOLUME_CLAIMS, "data-demo-0", labels={"app": "vcluster", "release": "demo"}), True),
    ("its datastore's claim", item(PERSISTENT_VOLUME_CLAIMS, "data-demo-etcd-2", labels={"app": "vcluster-etcd", "release": "demo"}), True),
    ("its datastore", item(STATEFUL_SETS, "demo-etcd", labels={**CHART, "app": "vcluster-etcd"}), True),
    ("a claim that somebody labelled", item(PERSISTENT_VOLUME_CLAIMS, "mine", labels={"app": "vcluster", "release": "demo"}), False),
    ("a claim that is called so", item(PERSISTENT_VOLUME_CLAIMS, "data-demo-0"), False),
    ("something of a node", item(NODES, "n1"), False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "own"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_belongs(one: Item, own: bool) -> None:
    items = [one] if one is OWNER_ITEM else [OWNER_ITEM, one]
    assert (one in belongings(items, "demo", "team")) is own


def test_what_is_owned_by_its_own_is_its_own_at_any_depth() -> None:
    first = item(STATEFUL_SETS, "demo", labels=CHART, annotations=HELM)
    second = item(PODS, "demo-0", ownerReferences=[{"uid": first.uid}])
    third = item(CONFIGMAPS, "deep", ownerReferences=[{"uid": second.uid}])
    stranger = item(CONFIGMAPS, "stranger", ownerReferences=[{"uid": "unknown"}])
    assert belongings([third, stranger, second, first], "demo", "team") == [third, second, first]


def test_endpoints_follow_their_service() -> None:
    service, endpoints = item(SERVICES, "demo", labels=CHART), item(ENDPOINTS, "demo")
    assert belongings([endpoints, item(ENDPOINTS, "other"), service], "demo", "team") == [endpoints, service]


def test_of_a_name_that_is_the_end_of_another() -> None:
    """`data-a-demo-0` is a claim of a-demo, whose labels say so."""
    claim = item(PERSISTENT_VOLUME_CLAIMS, "data-a-demo-0", labels={"app": "vcluster", "release": "a-demo"})
    assert belongings([claim], "demo", "team") == []


def test_every_namespace_has_some() -> None:
    everywhere = [
        item(CONFIGMAPS, "kube-root-ca.crt"),
        item(Resource("", "v1", "serviceaccounts", "ServiceAccount"), "default"),
        item(SECRETS, "default-token-x", annotations={"kubernetes.io/service-account.name": "default"}),
    ]
    mine = item(CONFIGMAPS, "mine")
    assert foreign([*everywhere, mine]) == [mine]


def test_neighbours() -> None:
    items = [
        item(STATEFUL_SETS, "one", labels={"app": "vcluster", "release": "one"}),
        item(STATEFUL_SETS, "one-etcd", labels={"app": "vcluster", "release": "one"}),
        item(CONFIGMAPS, "vc-two-owner", labels={CLUSTER: "two"}),
        item(CONFIGMAPS, "vc-three-owner"),
        item(CONFIGMAPS, "x", labels={"app": "vcluster", "release": "four", "vcluster.loft.sh/managed-by": "four"}),
        item(CONFIGMAPS, "vc--owner"),
    ]
    assert others(items) == ["one", "two"]


def test_why_a_namespace_stays() -> None:
    mine, neighbour = item(CONFIGMAPS, "mine"), item(CONFIGMAPS, "vc-two-owner", labels={CLUSTER: "two"})
    assert why_kept([item(CONFIGMAPS, "kube-root-ca.crt")], ()) == ""
    assert why_kept([mine], ()) == "there are other things in it: ConfigMap mine"
    assert why_kept([mine, neighbour], ()) == "other virtual clusters live in it: two"
    assert why_kept([], ["b", "a"]) == "something else may be in it, of types that could not be looked at: a, b"

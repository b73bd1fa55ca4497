from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncer.kube.types import (
    CONFIGMAPS,
    ENDPOINT_SLICES,
    INGRESSES,
    LEASES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    PRIORITY_CLASSES,
    SECRETS,
    SERVICES,
    Obj,
    Resource,
)
from syncer.naming import ANNOTATION_NAME, DOMAIN, LABEL_CLUSTER, LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.releases.belongings import Item
from syncer.releases.orphans import DEPLOYMENTS, SELECTORS, Cluster, claimed, lines, made_on_hosts, orphans, signs_of_life, whose
from syncer.releases.release import STATEFUL_SETS
from syncer.releases.survey import CLUSTER_ROLES
from syncer.resources import ALL
from syncer.terminal import Terminal
from syncer.translate.kubelets import node_service
from syncer.translate.metadata import host_metadata
from syncer.translate.token_secret import token_secret
from tests.fakes.selectors import label_predicate

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""
GONE = Cluster("team", "gone")
NAMES = Names("gone", "team")
HOME = {LABEL_CLUSTER: "gone", f"{DOMAIN}/vcluster-namespace": "team"}
CHART = {"app": "vcluster", "release": "gone"}


def item(resource: Resource, name: str, labels: dict[str, str] | None = None, namespace: str = "team", **rest: Any) -> Item:
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2027-01-15T07:00:00Z", "labels": labels or {}}
    if resource.namespaced:
        metadata["namespace"] = namespace
    metadata |= rest.pop("metadata", {})
    return Item(resource, {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **rest})


def virtual(name: str, namespace: str, **labels: str) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"v-{name}", "labels": labels}}


def copied(resource: Resource, names: Names, name: str = "web", namespace: str = "default", **labels: str) -> Item:
    """As the syncer makes it on the host."""
    metadata = {**host_metadata(names, None, resource, virtual(name, namespace, **labels)), "uid": f"h-{resource}-{names.suffix}-{name}"}
    return Item(resource, {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata})


def changed(one: Item, change: Callable[[Obj], object]) -> Item:
    import copy

    obj = copy.deepcopy(one.obj)
    change(obj["metadata"])
    return Item(one.resource, obj)


TOKENS = Item(SECRETS, token_secret(NAMES, None, virtual("web", "default")))
NODE = Item(SERVICES, node_service(NAMES, None, {"metadata": {"name": "node-1", "uid": "n"}}, {"spec": {"selector": {"a": "b"}}}, 8443))
GO_VOLUME = item(
    PERSISTENT_VOLUMES,
    "vcluster-data-x-team-x-gone",
    {LABEL_MANAGED_BY: "team-x-gone"},
    metadata={"annotations": {ANNOTATION_NAME: "data"}},
)


@pytest.mark.parametrize(
    ("one", "cluster"),
    [
        (copied(PODS, NAMES), GONE),
        (copied(INGRESSES, NAMES), GONE),
        (copied(PERSISTENT_VOLUME_CLAIMS, NAMES, "n" * 60), GONE),
        (TOKENS, GONE),
        (NODE, GONE),
        (item(SECRETS, "vc-gone", HOME), GONE),
        (item(SECRETS, "vc-gone-webhook", {LABEL_CLUSTER: "gone"}), GONE),
        (item(CONFIGMAPS, "vc-gone-service-cidr", {LABEL_CLUSTER: "gone"}), GONE),
        (item(SECRETS, "admins", HOME, "elsewhere"), GONE),
        (item(LEASES, "vcluster-gone-controller", {LABEL_CLUSTER: "gone"}), GONE),
        (item(PERSISTENT_VOLUME_CLAIMS, "data-gone-0", CHART), GONE),
        (item(PERSISTENT_VOLUME_CLAIMS, "data-gone-etcd-0", {**CHART, "app": "vcluster-etcd"}), GONE),
        (item(CLUSTER_ROLES, "vc-gone-v-team", {**CHART, "chart": "syncer-0.1.0"}), GONE),
        (GO_VOLUME, GONE),
    ],
)
def test_whose_something_was(one: Item, cluster: Cluster) -> None:
    assert whose(one) == cluster
    assert any(label_predicate(selector)(one.obj) for selector in SELECTORS), "it is looked for"
    assert one.resource.namespaced is False or (one.resource.group, one.resource.plural) in made_on_hosts()


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(item(CONFIGMAPS, "vc-gone-owner", {LABEL_CLUSTER: "gone"}), id="the owner is a sign of life"),
        pytest.param(item(CONFIGMAPS, "settings", {"app": "vcluster", "release": "gone"}), id="a label alone"),
        pytest.param(item(CONFIGMAPS, "settings", {LABEL_MANAGED_BY: "gone", LABEL_NAMESPACE: "default"}), id="labels alone"),
        pytest.param(item(SECRETS, "vc-gone"), id="a name alone"),
        pytest.param(item(SECRETS, "passwords", {LABEL_CLUSTER: "gone"}), id="another name"),
        pytest.param(item(SECRETS, "vc-gonex", {LABEL_CLUSTER: "gone"}), id="a longer name"),
        pytest.param(item(SERVICES, "vc-gone", {LABEL_CLUSTER: "gone"}), id="another type"),
        pytest.param(item(LEASES, "vcluster-other-controller", {LABEL_CLUSTER: "gone"}), id="another Lease"),
        pytest.param(item(PERSISTENT_VOLUME_CLAIMS, "data-gone-0", {"app": "postgres", "release": "gone"}), id="another chart's claim"),
        pytest.param(
            item(PERSISTENT_VOLUME_CLAIMS, "data-gone-0", CHART, metadata={"annotations": {ANNOTATION_NAME: "data"}}), id="a tenant's claim"
        ),
        pytest.param(item(PERSISTENT_VOLUME_CLAIMS, "data-other-0", CHART), id="a claim of another name"),
        pytest.param(
            changed(copied(PODS, NAMES), lambda m: m.update(name="web-x-default-x-gone2")), id="another name than it recomputes to"
        ),
        pytest.param(changed(copied(PODS, NAMES), lambda m: m["labels"].pop(LABEL_MANAGED_BY)), id="without our label"),
        pytest.param(changed(copied(PODS, NAMES), lambda m: m["labels"].update({LABEL_MANAGED_BY: "other"})), id="with another's label"),
        pytest.param(changed(copied(PODS, NAMES), lambda m: m["annotations"].pop(ANNOTATION_NAME)), id="without our annotation"),
        pytest.param(Item(SERVICES, copied(PODS, NAMES).obj), id="a controller's copy of another type"),
        pytest.param(item(ENDPOINT_SLICES, "web-x1", {LABEL_MANAGED_BY: "gone", LABEL_NAMESPACE: "default"}), id="a controller's own"),
        pytest.param(item(CLUSTER_ROLES, "vc-gone-v-team", {**CHART, "chart": "other-1.0"}), id="another chart's"),
        pytest.param(item(CLUSTER_ROLES, "admin", {**CHART, "chart": "syncer-0.1.0"}), id="another name with the chart's labels"),
        pytest.param(changed(GO_VOLUME, lambda m: m.update(name="pvc-1")), id="cluster-scoped, by label alone"),
        pytest.param(changed(GO_VOLUME, lambda m: m.pop("annotations")), id="cluster-scoped, without a name"),
        pytest.param(
            item(PRIORITY_CLASSES, "x", {LABEL_MANAGED_BY: "a" * 60}, metadata={"annotations": {ANNOTATION_NAME: "x"}}),
            id="cluster-scoped, by a marker that cannot be taken apart",
        ),
    ],
)
def test_what_is_nobodys_for_all_we_know(one: Item) -> None:
    assert whose(one) is None


def control_plane(name: str, *words: str, resource: Resource = STATEFUL_SETS, namespace: str = "team", release: str = "") -> Item:
    spec = {"replicas": 0, "template": {"spec": {"containers": [{"args": list(words)}]}}}
    return item(resource, name, {"app": "vcluster", "release": release or name}, namespace, spec=spec)


def lease(renewed: str, holder: str | None = "a") -> Item:
    return item(LEASES, "vcluster-gone-controller", spec={"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15})


@pytest.mark.parametrize(
    ("one", "lives"),
    [
        (control_plane("gone"), True),
        (control_plane("gone", resource=DEPLOYMENTS), True),
        (control_plane("gone-etcd", release="gone"), True),
        (control_plane("other"), False),
        (control_plane("other", "--name=gone"), True),
        (control_plane("other", "--suffix", "gone"), True),
        (control_plane("gone", namespace="elsewhere"), False),
        (control_plane("gone", "--target-namespace=team", namespace="elsewhere"), True),
        (control_plane("gone", "--target-namespace", "team", namespace="elsewhere"), True),
        (control_plane("gone", "--target-namespace=third", namespace="elsewhere"), False),
        (item(PODS, "gone-0", CHART), True),
        (item(PODS, "gone-0", {**CHART, LABEL_MANAGED_BY: "outer"}), False),
        (item(PODS, "gone-0", CHART, "elsewhere"), False),
        (item(SECRETS, "sh.helm.release.v1.gone.v1", {"owner": "helm", "name": "gone", "status": "pending-install"}), True),
        (item(CONFIGMAPS, "gone.v1", {"owner": "helm", "name": "gone", "status": "deployed"}), True),
        (item(SECRETS, "sh.helm.release.v1.gone.v1", {"owner": "helm", "name": "gone", "status": "uninstalled"}), False),
        (item(SECRETS, "sh.helm.release.v1.other.v1", {"owner": "helm", "name": "other", "status": "deployed"}), False),
        (item(CONFIGMAPS, "vc-gone-owner"), True),
        (item(CONFIGMAPS, "vc-gone-owner", namespace="elsewhere"), False),
        (lease("2027-01-15T07:59:50Z"), True),
        (lease("2027-01-15T07:50:00Z"), False),
        (lease("2027-01-15T07:59:50Z", None), False),
        (lease("soon"), True),
    ],
)
def test_signs_of_life(one: Item, lives: bool) -> None:
    assert bool(list(signs_of_life(GONE, [one], NOW))) is lives


def test_what_a_living_owner_owns_is_no_orphan() -> None:
    reference = {"ownerReferences": [{"kind": "ConfigMap", "name": "vc-live-owner", "uid": "u"}]}
    (found,) = claimed([changed(copied(PODS, NAMES), lambda m: m.update(reference))])
    assert orphans([found], [], ["other"]) == [found]
    assert orphans([found], [], ["u"]) == []


def test_of_a_living_cluster_nothing_is_one() -> None:
    found = claimed([copied(PODS, NAMES), copied(PODS, Names("live", "team"))])
    assert [orphan.cluster for orphan in orphans(found, [], [])] == [GONE, Cluster("team", "live")]
    assert [orphan.cluster for orphan in orphans(found, [Cluster("team", "live"), Cluster("b", "gone")], [])] == [GONE]


def test_pods_go_first_and_claims_last() -> None:
    items = [copied(resource, NAMES) for resource in (PERSISTENT_VOLUME_CLAIMS, CONFIGMAPS, PODS)]
    assert [orphan.item.resource for orphan in orphans(claimed(items), [], [])] == [PODS, CONFIGMAPS, PERSISTENT_VOLUME_CLAIMS]


def test_how_they_are_shown() -> None:
    found = orphans(claimed([copied(PODS, NAMES), item(SECRETS, "admins", HOME, "elsewhere"), GO_VOLUME]), [], [])
    assert lines(found, NOW) == [
        "KIND              NAMESPACE  NAME                         CLUSTER    VIRTUAL OBJECT  AGE",
        "Pod               team       web-x-default-x-gone         gone       default/web",
        "Secret            elsewhere  admins                       team/gone                  60m",
        "PersistentVolume             vcluster-data-x-team-x-gone  team/gone  data            60m",
    ]
    assert found[0].document() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "team",
        "name": "web-x-default-x-gone",
        "uid": found[0].item.uid,
        "cluster": {"namespace": "team", "name": "gone"},
        "virtual": "default/web",
        "created": "",
        "deleting": False,
    }


def test_everything_that_a_loop_creates_is_looked_for() -> None:
    """`test_registry` shows that each loop asks for the rights that it needs."""
    assert made_on_hosts() >= {
        ("", "pods"),
        ("", "persistentvolumeclaims"),
        ("networking.k8s.io", "ingresses"),
        ("coordination.k8s.io", "leases"),
    }
    assert all("/" not in resource for _, resource in made_on_hosts())
    assert {(spec.kind.group, spec.kind.plural) for spec in ALL if spec.irreplaceable} <= made_on_hosts()


_PIECES = st.sampled_from(["a", "b", "x", "-", "-x-", "x-x", "0", "gone", "live", "vc-", "data-", "n" * 30])
_NAMES = st.lists(_PIECES, min_size=1, max_size=6).map(lambda parts: "".join(parts).strip("-")[:63].strip("-")).filter(bool)
_RESOURCES = st.sampled_from(
    [PODS, SERVICES, CONFIGMAPS, SECRETS, PERSISTENT_VOLUME_CLAIMS, INGRESSES, LEASES, CLUSTER_ROLES, PERSISTENT_VOLUMES]
)


@given(live=_NAMES, gone=_NAMES, hostname=_NAMES, name=_NAMES, namespace=_NAMES, resource=_RESOURCES)
def test_a_tenant_cannot_have_his_objects_taken_for_those_of_another(
    live: str, gone: str, hostname: str, name: str, namespace: str, resource: Resource
) -> None:
    """Whatever he calls them and writes on them: his syncer makes the host's."""
    assume(live != gone and resource.namespaced)
    marks = {
        LABEL_MANAGED_BY: gone,
        LABEL_NAMESPACE: namespace,
        LABEL_CLUSTER: gone,
        "app": "vcluster",
        "release": gone,
        "chart": "syncer-1",
    }
    one = copied(resource, Names(live, hostname), name, namespace, **marks)
    assert whose(one) in (Cluster(hostname, live), None)
    assert whose(copied(resource, Names(gone, hostname), name, namespace)) == Cluster(hostname, gone)


_LABELS = st.dictionaries(
    st.sampled_from(
        [LABEL_MANAGED_BY, LABEL_NAMESPACE, LABEL_CLUSTER, f"{DOMAIN}/vcluster-namespace", "app", "release", "chart", "owner", "name"]
    ),
    _NAMES | st.sampled_from(["vcluster", "helm", "syncer-1"]),
)
_METADATA = st.fixed_dictionaries(
    {"annotations": st.dictionaries(st.sampled_from([ANNOTATION_NAME, f"{DOMAIN}/object-namespace"]), _NAMES)}
)
_ITEMS = st.builds(
    item,
    _RESOURCES,
    _NAMES | st.sampled_from(["vc-gone", "vc-gone-owner", "data-gone-0"]),
    _LABELS,
    st.sampled_from(["team", "b"]),
    metadata=_METADATA,
)


@given(st.lists(_ITEMS, max_size=8, unique_by=lambda one: one.uid), st.sets(st.sampled_from(["gone", "live", "a"])))
def test_whatever_is_there(items: list[Item], living: set[str]) -> None:
    alive = {Cluster(namespace, name) for name in living for namespace in ("team", "b")}
    found = orphans(claimed(items), alive, [])
    assert {orphan.item.uid for orphan in found} <= {one.uid for one in items}
    for orphan in found:
        assert orphan.cluster not in alive
        assert orphan.cluster == whose(orphan.item)
        assert (orphan.item.resource, orphan.item.key.name) != (CONFIGMAPS, f"vc-{orphan.cluster.name}-owner")


@pytest.mark.parametrize(
    ("typed", "agrees"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False), ("", False), ("yessir\n", False)]
)
async def test_whether_the_user_agrees(typed: str, agrees: bool) -> None:
    reading, writing = os.pipe()
    os.write(writing, typed.encode())
    os.close(writing)
    asked = io.StringIO()
    with os.fdopen(reading) as answers:
        assert await Terminal(io.StringIO(), asked, answers).agrees("sure?") is agrees
    assert asked.getvalue() == "sure? [y/N] "
    assert await Terminal(io.StringIO(), io.StringIO(), io.StringIO(typed)).agrees("sure?") is agrees, "nor does a file block"

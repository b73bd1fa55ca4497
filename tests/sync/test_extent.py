"""What runs when the host allows less than everything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncer.kube.types import CONFIGMAPS, INGRESSES, PERSISTENT_VOLUME_CLAIMS, PODS, PRIORITY_CLASSES, Resource, Side
from syncer.resources import ALL
from syncer.sync.extent import Row, extent_of, host_resources
from syncer.sync.rights import needed_rights
from syncer.sync.spec import Feature, Right, SyncSpec, Watch

PODS_RIGHT = Right(group="", resource="pods", verbs=("get", "list"))
RESIZE = Right(group="", resource="pods/resize", verbs=("patch",), optional=True)
CLASSES = Right(group="scheduling.k8s.io", resource="priorityclasses", verbs=("list", "watch"), optional=True, cluster=True)
INGRESS_RIGHT = Right(group="networking.k8s.io", resource="ingresses", verbs=("get", "create"))


def loop(name: str, *rights: Right, watches: tuple[Watch, ...] = (), part_of: str = "", dispensable: bool = False) -> SyncSpec:
    return SyncSpec(
        name=name,
        kind=CONFIGMAPS,
        watches=watches,
        decide=lambda _pair, _view: [],
        virtual_ref=lambda _key: None,
        host_ref=lambda _names, _key: None,
        virtual_key=lambda _obj, _view: None,
        host_rights=rights,
        part_of=part_of,
        dispensable=dispensable,
    )


THINGS = loop(
    "pods",
    PODS_RIGHT,
    RESIZE,
    CLASSES,
    watches=(Watch(side=Side.HOST, resource=PODS), Watch(side=Side.HOST, resource=PRIORITY_CLASSES, optional=True)),
)
WEB = loop("ingresses", INGRESS_RIGHT, watches=(Watch(side=Side.HOST, resource=INGRESSES),), dispensable=True)
TOKENS = loop("tokens", PODS_RIGHT, part_of="pods")
PART = loop("ingress-parts", part_of="ingresses")


def test_all_is_allowed() -> None:
    extent = extent_of([TOKENS, THINGS, WEB, PART])
    assert {spec.name for spec in extent.specs} == {"pods", "tokens", "ingresses", "ingress-parts"}
    assert extent.rows == (Row("ingresses", on=True), Row("pods", on=True))
    assert (extent.waits, extent.lacking) == ((), frozenset())


@pytest.mark.parametrize(
    ("lacking", "waits"),
    [
        (replace(PODS_RIGHT, verbs=("list",)), ("pods: Role lacks list of pods", "tokens: Role lacks list of pods")),
        (Right(group="", resource="configmaps", verbs=("create",)), ("the syncer itself: Role lacks create of configmaps",)),
    ],
)
def test_what_is_waited_for(lacking: Right, waits: tuple[str, ...]) -> None:
    own = [Right(group="", resource="configmaps", verbs=("create", "get"))]
    assert extent_of([THINGS, TOKENS], own=own, lacking=[lacking]).waits == waits


@pytest.mark.parametrize(
    ("lacking", "unserved", "why"),
    [
        ([replace(INGRESS_RIGHT, verbs=("create",))], frozenset(), "Role lacks create of ingresses.networking.k8s.io"),
        ([], frozenset({INGRESSES}), "the host does not serve ingresses.networking.k8s.io"),
    ],
)
def test_what_is_switched_off(lacking: list[Right], unserved: frozenset[Resource], why: str) -> None:
    extent = extent_of([THINGS, WEB, PART], lacking=lacking, unserved=unserved)
    assert [spec.name for spec in extent.specs] == ["pods"]
    assert extent.rows == (Row("ingresses", on=False, why=why), Row("pods", on=True))
    assert not extent.waits
    named = extent_of([THINGS, WEB, PART], lacking=lacking, unserved=unserved, named=frozenset({"ingresses"}))
    assert named.waits == (f"ingresses: {why}",)


def test_what_is_done_without() -> None:
    extent = extent_of([THINGS], lacking=[RESIZE, replace(CLASSES, verbs=("watch",))])
    classes = "priorityclasses.scheduling.k8s.io"
    why = f"without pods/resize: Role lacks patch; without {classes}: ClusterRole lacks watch"
    assert extent.rows == (Row("pods", on=True, why=why),)
    assert extent.lacking == {"pods/resize", "priorityclasses.scheduling.k8s.io"}
    assert not extent.waits
    unserved = extent_of([THINGS], unserved=frozenset({PRIORITY_CLASSES}))
    assert unserved.rows[0].why == "without priorityclasses.scheduling.k8s.io: the host does not serve it"
    assert unserved.lacking == {"priorityclasses.scheduling.k8s.io"}


@pytest.mark.parametrize("missing", [item for item in needed_rights(ALL) if item not in needed_rights(ALL, optional=False)], ids=str)
def test_no_optional_right_is_waited_for(missing: Right) -> None:
    least = {(item.group, item.resource): item.verbs for item in needed_rights(ALL, optional=False)}
    verbs = tuple(verb for verb in missing.verbs if verb not in least.get((missing.group, missing.resource), ()))
    extent = extent_of(ALL, lacking=[replace(missing, verbs=verbs)])
    assert not extent.waits
    assert any(row.why for row in extent.rows)


def test_optional_watches_are_of_the_host_and_have_their_right() -> None:
    for spec in ALL:
        for watch in spec.watches:
            if watch.optional:
                assert watch.side is Side.HOST
                assert [
                    right for right in spec.host_rights if (right.group, right.resource) == (watch.resource.group, watch.resource.plural)
                ]


def test_host_resources_are_those_watched_there() -> None:
    assert {PODS, CONFIGMAPS} <= host_resources(ALL)
    assert PERSISTENT_VOLUME_CLAIMS not in host_resources([THINGS])


@pytest.mark.parametrize(
    ("lacking", "row"),
    [
        ((), Row("metrics", on=True)),
        ((CLASSES,), Row("metrics", on=True, why="without priorityclasses.scheduling.k8s.io: ClusterRole lacks list, watch")),
        (
            (CLASSES, RESIZE),
            Row(
                "metrics",
                on=False,
                why="without pods/resize: Role lacks patch; without priorityclasses.scheduling.k8s.io: ClusterRole lacks list, watch",
            ),
        ),
    ],
)
def test_a_feature_beside_the_loops(lacking: tuple[Right, ...], row: Row) -> None:
    feature = Feature("metrics", (RESIZE, CLASSES))
    extent = extent_of([loop("x")], lacking=lacking, features=[feature])
    assert extent.rows == (row, Row("x", on=True))
    assert extent.waits == ()
    assert {RESIZE.resource, CLASSES.resource} <= {right.resource for right in needed_rights([], features=[feature])}

"""Which rights on the host are asked for, and which of them an answer grants."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from syncer.kube.types import CONFIGMAPS, LEASES, PODS, Resource, Side
from syncer.resources import ALL
from syncer.sync.rights import OWN_RIGHTS, ask_lacking, ask_unserved, lacking, needed_rights, rules
from syncer.sync.spec import Right, SyncSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncer.kube.client import Client
    from tests.fakes.apiserver import FakeApiServer


def right(resource: str, *verbs: str, group: str = "", optional: bool = False) -> Right:
    return Right(group=group, resource=resource, verbs=verbs, optional=optional)


def loop(*host_rights: Right) -> SyncSpec:
    """A loop that needs these rights and does nothing."""
    return SyncSpec(
        name="things",
        kind=CONFIGMAPS,
        watches=(),
        decide=lambda _pair, _view: [],
        virtual_ref=lambda _key: None,
        host_ref=lambda _names, _key: None,
        virtual_key=lambda _obj, _view: None,
        host_rights=host_rights,
    )


def rule(resources: str, verbs: str, groups: str = "", **more: Any) -> dict[str, Any]:
    """A resource rule of a review; each argument has its items between spaces, and the group `core` is the empty one."""
    names = ["" if name == "core" else name for name in (groups or "core").split()]
    return {"apiGroups": names, "resources": resources.split(), "verbs": verbs.split(), **more}


class TestNeeded:
    @pytest.mark.parametrize(
        ("specs", "needed"),
        [
            pytest.param([], [], id="no loop"),
            pytest.param([loop(right("pods", "get"))], [right("pods", "get")], id="one"),
            pytest.param(
                [loop(right("pods", "watch", "get")), loop(right("pods", "get", "create"))],
                [right("pods", "create", "get", "watch")],
                id="two loops on one resource: the union, once and in order",
            ),
            pytest.param(
                [loop(right("pods/binding", "create"), right("pods", "get"))],
                [right("pods", "get"), right("pods/binding", "create")],
                id="a subresource stands for itself",
            ),
            pytest.param(
                [loop(right("ingresses", "get", group="networking.k8s.io"), right("ingresses", "get", group="extensions"))],
                [right("ingresses", "get", group="extensions"), right("ingresses", "get", group="networking.k8s.io")],
                id="and so does a group",
            ),
        ],
    )
    def test_union(self, specs: list[SyncSpec], needed: list[Right]) -> None:
        own = {item.resource for item in OWN_RIGHTS}
        assert [item for item in needed_rights(specs) if item.resource not in own] == needed

    @pytest.mark.parametrize("specs", [[], [loop()], [*ALL]])
    def test_the_syncers_own_are_always_there(self, specs: list[SyncSpec]) -> None:
        assert not lacking(OWN_RIGHTS, {"resourceRules": rules(needed_rights(specs))})

    def test_optional_ones_are_left_out_if_so_asked(self) -> None:
        specs = [
            loop(right("pods", "get"), right("pods", "create", optional=True), right("serviceaccounts/token", "create", optional=True))
        ]
        assert right("pods", "create", "get") in needed_rights(specs)
        assert right("serviceaccounts/token", "create") in needed_rights(specs)
        least = needed_rights(specs, optional=False)
        assert right("pods", "get") in least
        assert "serviceaccounts/token" not in [item.resource for item in least]

    def test_what_one_loop_needs_is_not_optional_because_another_could_do_without(self) -> None:
        specs = [loop(right("pods", "get", optional=True)), loop(right("pods", "get"))]
        assert right("pods", "get") in needed_rights(specs, optional=False)

    def test_nothing_is_asked_for_wholesale_or_outside_of_a_namespace(self) -> None:
        """What a platform team is asked to sign."""
        needed = needed_rights(ALL)
        assert not [item for item in needed if "*" in (item.group, item.resource, *item.verbs)]
        assert not {"nodes", "namespaces", "persistentvolumes", "clusterroles"} & {item.resource for item in needed if not item.cluster}
        assert {verb for item in needed if item.cluster for verb in item.verbs} <= {"get", "list", "watch"}
        assert not {"impersonate", "escalate", "bind", "deletecollection"} & {verb for item in needed for verb in item.verbs}


def test_rules_are_those_of_a_role() -> None:
    got = rules([right("pods", "create", "get"), right("ingresses", "get", group="networking.k8s.io")])
    assert got == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses"], "verbs": ["get"]},
    ]


class TestLacking:
    @pytest.mark.parametrize(
        ("wanted", "granted", "missing"),
        [
            pytest.param(right("pods", "get"), [], ["get"], id="nothing granted"),
            pytest.param(right("pods", "get", "list"), [rule("pods", "get list watch")], [], id="granted, and more"),
            pytest.param(right("pods", "get", "list"), [rule("pods", "get")], ["list"], id="only the verb that lacks"),
            pytest.param(right("pods", "get", "list"), [rule("pods", "get"), rule("pods", "list")], [], id="by two rules"),
            pytest.param(right("pods", "get"), [rule("services pods", "get", "apps core")], [], id="one of several"),
            pytest.param(right("pods", "get"), [rule("pods", "*")], [], id="every verb"),
            pytest.param(right("pods", "get"), [rule("*", "get")], [], id="every resource"),
            pytest.param(right("pods", "get"), [rule("pods", "get", "*")], [], id="every group"),
            pytest.param(right("pods", "get"), [rule("*", "*", "*")], [], id="everything"),
            pytest.param(right("pods", "get"), [rule("pods", "get", "apps")], ["get"], id="another group"),
            pytest.param(
                right("ingresses", "get", group="networking.k8s.io"), [rule("ingresses", "get")], ["get"], id="only the core group"
            ),
            pytest.param(right("pods", "get"), [rule("pod services", "get")], ["get"], id="another resource"),
            pytest.param(right("pods/binding", "create"), [rule("pods/binding", "create")], [], id="the subresource"),
            pytest.param(right("pods/binding", "create"), [rule("pods", "create")], ["create"], id="not by its resource"),
            pytest.param(right("pods", "create"), [rule("pods/binding", "create")], ["create"], id="not by its subresource"),
            pytest.param(right("pods/status", "patch"), [rule("*/status", "patch")], [], id="that subresource of all"),
            pytest.param(right("pods/status", "patch"), [rule("*/scale", "patch")], ["patch"], id="another one of all"),
            pytest.param(right("pods/status", "patch"), [rule("*", "patch")], [], id="every resource, so every subresource"),
            pytest.param(right("pods", "get"), [rule("*/status", "get")], ["get"], id="of all a subresource, but not the resource"),
            pytest.param(right("pods", "get"), [rule("pods", "get", resourceNames=["one"])], ["get"], id="only some by name"),
            pytest.param(right("pods", "get"), [rule("pods", "get", resourceNames=[])], [], id="no names are all"),
            pytest.param(
                right("pods", "get"), [rule("pods", "get", resourceNames=["one"]), rule("pods", "get")], [], id="some by name, and all"
            ),
            pytest.param(right("pods", "get"), [{"verbs": ["get"]}], ["get"], id="a rule with fields left out"),
            pytest.param(
                right("pods", "get"),
                [{"apiGroups": None, "resources": None, "verbs": ["get"], "resourceNames": None}],
                ["get"],
                id="and with nulls",
            ),
        ],
    )
    def test_one_right(self, wanted: Right, granted: list[dict[str, Any]], missing: list[str]) -> None:
        expected = [Right(group=wanted.group, resource=wanted.resource, verbs=tuple(missing))] if missing else []
        assert lacking([wanted], {"resourceRules": granted, "incomplete": False}) == expected

    @pytest.mark.parametrize("status", [{}, {"resourceRules": None}, {"resourceRules": []}])
    def test_an_answer_without_rules_grants_nothing(self, status: dict[str, Any]) -> None:
        assert lacking([right("pods", "get")], status) == [right("pods", "get")]

    def test_every_right_that_lacks_is_named_once_in_order(self) -> None:
        wanted = [right("configmaps", "get"), right("pods", "create", "get"), right("secrets", "get")]
        assert lacking(wanted, {"resourceRules": [rule("pods", "get")]}) == [
            right("configmaps", "get"),
            right("pods", "create"),
            right("secrets", "get"),
        ]

    def test_the_role_that_is_asked_for_is_enough(self) -> None:
        needed = [item for item in needed_rights(ALL) if not item.cluster]
        assert lacking(needed, {"resourceRules": rules(needed)}) == []

    @pytest.mark.parametrize("index", range(len([item for item in needed_rights(ALL) if not item.cluster])))
    def test_and_each_of_its_rules_is_needed(self, index: int) -> None:
        needed = [item for item in needed_rights(ALL) if not item.cluster]
        less = [*needed[:index], *needed[index + 1 :]]
        assert lacking(needed, {"resourceRules": rules(less)}) == [needed[index]]


async def test_one_question_is_enough_for_a_namespace(clients: Mapping[Side, Client], host_api: FakeApiServer) -> None:
    needed = [item for item in needed_rights(ALL) if not item.cluster]
    assert not await ask_lacking(clients[Side.HOST], "host-ns", needed)
    assert [path for method, path, code in host_api.requests if method == "POST" and code == 201] == [
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    ]


async def test_cluster_scoped_ones_are_asked_for_one_by_one(clients: Mapping[Side, Client], host_api: FakeApiServer) -> None:
    host_api.features.allows = lambda attributes: attributes["verb"] == "get" and "namespace" not in attributes
    nodes = Right(group="", resource="nodes", verbs=("get", "list", "watch"), cluster=True)
    assert await ask_lacking(clients[Side.HOST], "host-ns", [nodes]) == [replace(nodes, verbs=("list", "watch"))]


async def test_what_the_host_does_not_serve(clients: Mapping[Side, Client]) -> None:
    unheard = Resource("example.com", "v1", "things", "Thing")
    newer = Resource("coordination.k8s.io", "v7", "leases", "Lease")
    assert await ask_unserved(clients[Side.HOST], [PODS, LEASES, unheard, newer]) == {unheard, newer}

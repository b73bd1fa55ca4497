from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import ConfigError
from syncer.releases.contexts import (
    Entry,
    Origin,
    chosen_for,
    current,
    forgotten,
    host_of_current,
    hosts,
    left,
    names,
    origin,
    with_current,
    with_entry,
    without_entry,
)

if TYPE_CHECKING:
    from syncer.kube.types import Obj

NAME = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(NAME, NAME, st.text(min_size=1))
def test_a_name_tells_its_origin_whatever_the_host_s_context_is_called(name: str, namespace: str, host: str) -> None:
    known = Origin(name, namespace, host)
    assert origin(known.context) == known


@pytest.mark.parametrize(
    "context", ["", "vcluster", "vcluster_", "vcluster_a", "vcluster_a_b", "vcluster_a_b_", "vcluster__b_c", "a_b_c_d"]
)
def test_names_that_are_not_of_a_virtual_cluster(context: str) -> None:
    assert origin(context) is None


def test_hosts_below_one() -> None:
    assert hosts("vcluster_c_y_vcluster_b_x_kind_1") == ["vcluster_b_x_kind_1", "kind_1"]
    assert hosts("kind_1") == []


def entry(context: str, server: str = "https://127.0.0.1:1", namespace: str = "") -> Entry:
    return Entry(context, {"server": server}, {"token": "t"}, namespace)


DOCUMENT: Obj = {
    "current-context": "kind",
    "preferences": {"colors": True},
    "users": [{"name": "kind", "user": {"exec": {"command": "login"}}, "left": "alone"}],
    "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "kind"}}, {"name": "other", "context": {"cluster": "other"}}],
    "extensions": [{"name": "x", "extension": {"a": [1]}}],
    "clusters": [{"name": "kind", "cluster": {"server": "https://kind"}}, "what is this?"],
    "kind": "Config",
}


class TestEntry:
    def test_is_added_behind_the_others_and_nothing_else_changes(self) -> None:
        before = copy.deepcopy(DOCUMENT)
        after = with_entry(DOCUMENT, entry("new", namespace="n"))
        assert before == DOCUMENT
        assert list(after) == list(DOCUMENT)
        assert after["contexts"] == [*DOCUMENT["contexts"], {"name": "new", "context": {"cluster": "new", "user": "new", "namespace": "n"}}]
        assert after["clusters"] == [*DOCUMENT["clusters"], {"name": "new", "cluster": {"server": "https://127.0.0.1:1"}}]
        assert after["users"] == [*DOCUMENT["users"], {"name": "new", "user": {"token": "t"}}]
        assert {key: after[key] for key in ("preferences", "extensions", "current-context")} == {
            key: DOCUMENT[key] for key in ("preferences", "extensions", "current-context")
        }

    def test_takes_the_place_of_the_one_before_but_keeps_the_namespace_that_was_chosen(self) -> None:
        document = with_entry(DOCUMENT, entry("new"))
        document["contexts"][-1]["context"]["namespace"] = "chosen"
        document = with_entry(with_entry(document, entry("last")), entry("new", "https://127.0.0.1:2"))
        assert [one["name"] for one in document["contexts"]] == ["kind", "other", "new", "last"]
        assert document["contexts"][2]["context"]["namespace"] == "chosen"
        assert document["clusters"][2]["cluster"] == {"server": "https://127.0.0.1:2"}

    def test_is_taken_out_again(self) -> None:
        assert without_entry(with_entry(DOCUMENT, entry("new")), entry("new")) == DOCUMENT

    def test_of_somebody_else_by_now_stays(self) -> None:
        document = with_entry(DOCUMENT, entry("new", "https://127.0.0.1:2"))
        assert without_entry(document, entry("new", "https://127.0.0.1:1")) == document

    def test_alone(self) -> None:
        document = entry("new").standalone()
        assert document["current-context"] == "new"
        assert names([document]) == ["new"]

    @given(st.dictionaries(st.text(max_size=6).filter(lambda key: key not in ("clusters", "users", "contexts")), JSON), st.text(min_size=1))
    def test_twice_is_once_and_there_and_back_is_nothing(self, rest: Obj, name: str) -> None:
        document = {**rest, "clusters": [{"name": f"{name}."}], "users": None, "contexts": []}
        once = with_entry(document, entry(name))
        assert with_entry(once, entry(name)) == once
        assert without_entry(once, entry(name)) == {**document, "users": []}


A, B, C = Origin("a", "x", "kind").context, Origin("b", "y", "kind").context, Origin("a", "z", "other").context


def documents(here: str, *contexts: str) -> list[Obj]:
    document: Obj = {"contexts": [{"name": name, "context": {}} for name in contexts]}
    return [with_current(document, here)]


class TestChoice:
    @pytest.mark.parametrize(
        ("name", "namespace", "here", "chosen"),
        [("a", "z", "kind", C), ("b", "", "kind", B), ("a", "", "kind", A), ("a", "", B, A), ("a", "", "other", C), ("a", "", C, C)],
    )
    def test_by_name_namespace_and_the_host_that_one_works_with(self, name: str, namespace: str, here: str, chosen: str) -> None:
        assert chosen_for(documents(here, "kind", "other", A, B, C), name, namespace) == chosen

    @pytest.mark.parametrize(
        ("name", "namespace", "here", "words"),
        [("c", "", "kind", "`syncer connect c`"), ("b", "x", "kind", "of namespace x"), ("a", "", "else", "choose one")],
    )
    def test_none_or_several(self, name: str, namespace: str, here: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            chosen_for(documents(here, "kind", "other", A, B, C), name, namespace)

    def test_the_first_file_that_has_a_current_context_counts(self) -> None:
        assert current([{}, {"current-context": ""}, {"current-context": "a"}, {"current-context": "b"}]) == "a"
        assert current([]) == ""


class TestWayBack:
    def test_to_the_host_it_came_from(self) -> None:
        assert host_of_current(documents(A, "kind", A)) == "kind"
        nested = Origin("n", "y", A).context
        assert host_of_current(documents(nested, "kind", A, nested)) == A

    @pytest.mark.parametrize(("here", "words"), [("kind", "not one of a virtual cluster"), ("", "no context is current"), (C, "is gone")])
    def test_where_there_is_none(self, here: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            host_of_current(documents(here, "kind", A))


@pytest.mark.parametrize("entries", [None, [], ["text", None, 3, {"name": None}, {}]])
def test_entries_that_make_no_sense_are_passed_over(entries: Any) -> None:
    document = {"contexts": entries, "clusters": entries, "users": entries}
    assert names([document]) == []
    assert names([with_entry(document, entry("new"))]) == ["new"]


class TestLeaving:
    @pytest.mark.parametrize(
        ("former", "known", "back"),
        [
            ("kind", ["kind"], "kind"),
            (B, ["kind", B], B),
            (B, ["kind"], "kind"),
            (A, ["kind", A], "kind"),
            ("gone", ["other", "kind"], "kind"),
            ("", [], ""),
        ],
    )
    def test_leads_back(self, former: str, known: list[str], back: str) -> None:
        document = with_current(with_entry({}, entry(A)), A)
        after = left(document, entry(A), former, known)
        assert after["current-context"] == back
        assert names([after]) == []

    def test_somebody_went_elsewhere_meanwhile(self) -> None:
        document = with_current(with_entry({}, entry(A)), "elsewhere")
        assert left(document, entry(A), "kind", ["kind", "elsewhere"])["current-context"] == "elsewhere"

    def test_somebody_else_connected_meanwhile(self) -> None:
        document = with_current(with_entry({}, entry(A, "https://127.0.0.1:2")), A)
        assert left(document, entry(A), "kind", ["kind", A]) == document


def test_what_is_gone_is_forgotten_whoever_made_it() -> None:
    context = "vcluster_a_b_kind"
    here = with_current(with_entry(DOCUMENT, entry(context)), context)
    after = forgotten(here, context, names([here]))
    assert after == {**DOCUMENT, "current-context": "kind"}
    assert forgotten(after, context, names([after])) == after

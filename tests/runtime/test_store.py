"""The rules of the store, one by one, then all of them against a simulated API server with hypothesis."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from syncer.errors import SyncerError
from syncer.kube.types import CONFIGMAPS, PODS, Key, Obj, Side
from syncer.runtime.store import Change, Store

KEY = Key("ns", "a")


def thing(rv: int | str, *, name: str = "a", uid: str = "u1", **spec: Any) -> Obj:
    return {"metadata": {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(rv)}, "spec": spec}


def meta(rv: int, *, name: str = "a", uid: str = "u1") -> Obj:
    return {"metadata": {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(rv)}}


def refs(obj: Obj) -> Iterable[str]:
    values: list[str] = obj.get("spec", {}).get("refs", [])
    return values


def store_of(*objects: Obj, **indexes: Callable[[Obj], Iterable[str]]) -> Store:
    store = Store(Side.VIRTUAL, PODS, indexes=indexes)
    for obj in objects:
        store.apply(obj, watched=True)
    return store


def rv_of(store: Store, key: Key = KEY) -> int | None:
    record = store.record(key)
    return None if record is None else record.rv


def relist(store: Store, *objects: Obj, at: str = "", partial: bool = False) -> list[Change]:
    store.begin()
    for obj in objects:
        store.stage(obj, partial=partial)
    return store.commit(at)


def test_readers_get_private_copies() -> None:
    store = store_of(thing(1, labels={"a": "b"}))
    first = store.get(KEY)
    assert first == thing(1, labels={"a": "b"})
    first["spec"]["labels"]["a"] = "changed"
    assert store.get(KEY) == thing(1, labels={"a": "b"})
    assert store.get(Key("ns", "other")) is None


@pytest.mark.parametrize(
    ("have", "then", "kind"),
    [
        pytest.param(None, thing(5), "added", id="new"),
        pytest.param(thing(5), thing(6), "changed", id="newer"),
        pytest.param(thing(5), thing(5), None, id="own write comes back"),
        pytest.param(thing(9), thing(10), "changed", id="compared as numbers, not as text"),
        pytest.param(thing(10), thing(9), None, id="late event"),
        pytest.param(thing(5), thing(6, uid="u2"), "changed", id="replaced by a newer namesake"),
        pytest.param(thing(6, uid="u2"), thing(5), None, id="late event of a predecessor"),
    ],
)
@pytest.mark.parametrize("watched", [True, False])
def test_the_newest_wins(have: Obj | None, then: Obj, kind: str | None, watched: bool) -> None:
    store = store_of() if have is None else store_of(have)
    change = store.apply(then, watched=watched)
    assert (change and change.kind) == kind
    assert store.get(KEY) == (then if kind else have)


def test_full_form_of_the_same_version_is_news_and_the_metadata_of_it_is_not() -> None:
    store = store_of()
    store.apply(meta(5), partial=True, watched=True)
    full = store.apply(thing(5, data=1))
    assert full is not None
    assert full.kind == "changed"
    assert store.get(KEY) == thing(5, data=1)
    assert store.apply(meta(5), partial=True, watched=True) is None
    newer = store.apply(meta(6), partial=True, watched=True)
    assert newer is not None
    assert store.get(KEY) == meta(6), "old data must not be shown under new metadata"


def test_answers_to_writes_are_pruned_like_watch_events() -> None:
    store = store_of()
    answer = thing(5)
    answer["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.apply(answer)
    assert store.get(KEY) == thing(5)


def test_demote_keeps_metadata_and_tells_nobody() -> None:
    store = store_of(thing(5, refs=["x"]) | {"apiVersion": "v1", "kind": "Secret", "status": {}, "data": {}}, refs=refs)
    told: list[Change] = []
    store.listeners.append(told.append)
    store.demote(KEY)
    assert store.get(KEY) == meta(5) | {"apiVersion": "v1", "kind": "Secret"}
    assert store.find("refs", "x") == []
    record = store.record(KEY)
    assert record is not None
    assert record.partial
    store.demote(KEY)
    store.demote(Key("ns", "other"))
    assert not told
    assert store.bytes_kept == len(record.raw)


def test_late_answer_to_a_write_does_not_bring_back_what_the_watch_saw_go() -> None:
    store = store_of(thing(5))
    store.remove(KEY, "u1", resource_version="7")
    assert store.apply(thing(6)) is None, "our patch was answered after the deletion that followed it"
    assert store.apply(thing(8, uid="u2")) is not None, "but a successor that the watch has not reached yet is real"


def test_late_answer_to_a_write_after_a_bookmark_or_a_list_that_passed_it() -> None:
    store = store_of()
    store.mark("10")
    assert store.apply(thing(9)) is None
    relist(store, at="20")
    assert store.apply(thing(15)) is None
    assert store.apply(thing(15), watched=True) is not None, "the watch itself is always believed"


def test_what_we_deleted_for_good_stays_deleted_until_the_watch_says_so() -> None:
    store = store_of(thing(5))
    gone = store.remove(KEY, "u1", gone_for_good=True)
    assert gone is not None
    assert (gone.kind, gone.vanished) == ("gone", False)
    assert store.apply(thing(6), watched=True) is None
    assert store.remove(KEY, "u1", resource_version="7") is None
    assert not store._gone


def test_a_predecessor_that_the_watch_still_has_to_tell_of_stays_deleted_too() -> None:
    store = store_of()
    store.apply(thing(5, uid="u2"))
    store.remove(KEY, "u2", gone_for_good=True)
    assert store.apply(thing(3), watched=True) is None
    assert store.remove(KEY, "u1", resource_version="4") is None
    assert store.apply(thing(5, uid="u2"), watched=True) is None
    assert store.apply(thing(7, uid="u3"), watched=True) is not None
    assert not store._gone, "a successor proves that the watch is past the deletion"


def test_deletion_answered_after_the_watch_told_leaves_no_trace() -> None:
    store = store_of(thing(5))
    assert store.remove(KEY, "u1", resource_version="6") is not None
    assert store.remove(KEY, "u1", gone_for_good=True) is None
    assert not store._gone


def test_removal_of_another_uid_or_of_an_older_version_changes_nothing() -> None:
    store = store_of(thing(5, uid="u2"))
    assert store.remove(KEY, "u1", resource_version="4") is None
    assert store.remove(KEY, "u2", resource_version="4") is None, "it left the selector, and came back by a write of ours"
    assert rv_of(store) == 5
    assert store.remove(KEY, "u2", resource_version="5") is not None
    assert len(store) == 0


def test_list_replaces_everything_at_once() -> None:
    store = store_of(thing(1), thing(2, name="b", uid="u2"), thing(3, name="c", uid="u3"))
    seen: list[tuple[str, str, bool, list[Key]]] = []
    store.listeners.append(lambda c: seen.append((c.key.name, c.kind, c.vanished, store.keys())))
    relist(store, thing(1), thing(9, name="b", uid="u2"), thing(8, name="d", uid="u4"), at="10")
    after = [Key("ns", name) for name in ("a", "b", "d")]
    assert seen == [("b", "changed", False, after), ("d", "added", False, after), ("c", "gone", True, after)]
    assert all(change.listed for change in relist(store, at="11"))


def test_old_content_stays_until_commit_and_after_abort() -> None:
    store = store_of(thing(1))
    store.begin()
    store.stage(thing(5, name="b", uid="u2"))
    assert store.keys() == [KEY]
    store.abort()
    assert store.keys() == [KEY]
    store.begin()
    store.stage(thing(6, name="c", uid="u3"))
    store.begin()
    store.stage(thing(1))
    assert store.commit("7") == [], "a list that starts over forgets its first try"


def test_what_is_newer_than_the_list_survives_it() -> None:
    store = store_of(thing(5))
    store.begin()
    store.stage(thing(5))
    store.apply(thing(12, patched=True))
    store.apply(thing(11, name="b", uid="u2"))
    assert store.commit("10") == []
    assert store.keys() == [KEY, Key("ns", "b")]
    assert store.get(KEY) == thing(12, patched=True)


@pytest.mark.parametrize("answered_first", [True, False])
def test_what_we_deleted_while_the_list_was_on_its_way_is_not_brought_back_by_it(answered_first: bool) -> None:
    store = store_of(thing(5))
    if answered_first:
        store.remove(KEY, "u1", gone_for_good=True)
    store.begin()
    store.stage(thing(5))
    if not answered_first:
        store.remove(KEY, "u1", gone_for_good=True)
    assert store.commit("8") == []
    assert len(store) == 0
    assert store.apply(thing(9), watched=True) is None, "the watch goes on from before the deletion"
    store.remove(KEY, "u1", resource_version="10")
    assert not store._gone


def test_a_later_list_is_right_about_what_we_took_for_gone() -> None:
    store = store_of(thing(5))
    store.remove(KEY, "u1", gone_for_good=True)
    assert relist(store, thing(6), at="8") == [], "the list may have been on its way already"
    assert [c.kind for c in relist(store, thing(6), at="9")] == ["added"]
    assert not store._gone


def test_history_that_went_back_is_believed() -> None:
    """A control plane restored from a backup lists old versions of old objects; nothing newer of ours exists any more."""
    store = store_of(thing(500, spec="new"), thing(501, name="b", uid="u2"))
    store.apply(thing(600, name="c", uid="u3"))
    changes = relist(store, thing(100, spec="old"), at="110")
    assert {(c.key.name, c.kind) for c in changes} == {("a", "changed"), ("b", "gone"), ("c", "gone")}
    assert store.get(KEY) == thing(100, spec="old")
    assert store.apply(thing(111, spec="goes on"), watched=True) is not None


def test_a_version_that_a_restored_server_gave_out_again_is_news() -> None:
    store = store_of(thing(5, spec="lost"), thing(4, name="b", uid="u2", spec="same"))
    before = store.record(Key("ns", "b"))
    again = dict(reversed(thing(4, name="b", uid="u2", spec="same").items()))  # servers do not promise an order
    (change,) = relist(store, thing(5, spec="after the restore"), again, at="5")
    assert (change.kind, store.get(KEY)) == ("changed", thing(5, spec="after the restore"))
    assert store.record(Key("ns", "b")) is before, "no second copy of what is as it was"


def test_relist_of_metadata_keeps_full_objects_that_did_not_change() -> None:
    store = store_of()
    relist(store, meta(5), meta(6, name="b", uid="u2"), at="7", partial=True)
    store.apply(thing(5, data=1))
    store.apply(thing(6, name="b", uid="u2", data=1))
    before = store.record(KEY)
    changes = relist(store, meta(5), meta(9, name="b", uid="u2"), at="9", partial=True)
    assert [(c.key.name, c.kind) for c in changes] == [("b", "changed")]
    assert store.record(KEY) is before
    assert store.get(Key("ns", "b")) == meta(9, name="b", uid="u2")


def test_indexes() -> None:
    store = store_of(thing(1, refs=["x", "y", "x"]), thing(2, name="b", uid="u2", refs=["x"]), refs=refs)
    assert store.find("refs", "x") == [Key("ns", "a"), Key("ns", "b")]
    assert store.find("refs", "y") == [Key("ns", "a")]
    store.apply(thing(3, refs=["z"]))
    assert store.find("refs", "x") == [Key("ns", "b")]
    assert store.find("refs", "y") == []
    assert store.find("refs", "z") == [KEY]
    with pytest.raises(KeyError):
        store.find("undeclared", "x")


def test_change_shows_both_forms_and_keeps_neither() -> None:
    store = store_of(thing(1, n=1))
    seen: list[tuple[Obj | None, Obj | None]] = []
    store.listeners.append(lambda c: seen.append((c.old, c.new)))
    change = store.apply(thing(2, n=2))
    assert seen == [(thing(1, n=1), thing(2, n=2))]
    assert change is not None
    assert change._old is None
    assert change._new is None
    assert (change.old, change.new) == (thing(1, n=1), thing(2, n=2))


@pytest.mark.parametrize("bad", ["abc", "", "-1", "1.5", "\u0661", None])
def test_versions_that_are_no_numbers_are_refused_in_words(bad: str | None) -> None:
    obj = thing(1)
    obj["metadata"]["resourceVersion"] = bad
    with pytest.raises(SyncerError, match=r"virtual API server gave pods ns/a the resourceVersion .* not a whole number"):
        store_of().apply(obj)


def test_cluster_scoped_objects_have_no_namespace() -> None:
    store = Store(Side.HOST, CONFIGMAPS)
    store.apply({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}})
    assert store.keys() == [Key("", "n")]
    assert Key("", "n") in store


def test_kept_objects_form_no_cycles_and_no_dicts() -> None:
    store = store_of(*(thing(n + 1, name=f"p{n}", uid=f"u{n}", refs=["x"]) for n in range(50)), refs=refs)
    store.apply(thing(100, name="p1", uid="u1", refs=["y"]))
    gc.collect()
    gc.disable()
    try:
        relist(store, at="200")
        assert gc.collect() == 0
    finally:
        gc.enable()

"""The store against a simulated API server: any order of foreign writes, own writes, late answers, watch events, relists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncer.kube.codec import pack
from syncer.kube.types import PODS, Key, Obj, Side, key_of, uid_of
from syncer.runtime.store import Change, Store

NAMES = st.sampled_from(["a", "b", "c"])
REFS = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3)


def rv_of(obj: Obj) -> int:
    return int(obj["metadata"]["resourceVersion"])


def refs(obj: Obj) -> Iterable[str]:
    values: list[str] = obj["refs"]
    return values


def owner(obj: Obj) -> Iterable[str]:
    return [uid_of(obj)]


class Machine(RuleBasedStateMachine):
    """`history` is what happened on the server, `position` how much of it the watch has delivered."""

    indexes: ClassVar[dict[str, Any]] = {"refs": refs, "owner": owner}

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(Side.VIRTUAL, PODS, indexes=self.indexes)
        self.store.listeners.append(self.mirror_change)
        self.mirror: dict[Key, Obj] = {}
        self.history: list[tuple[str, Obj]] = []
        self.position = 0
        self.uids = 0
        self.answers: list[tuple[str, Obj]] = []
        self.listing: list[Obj] | None = None  # begun; holds the snapshot once it is taken
        self.list_rv = 0
        self.begun = False
        self.dead: set[str] = set()  # uids that the store has been told are gone
        self.known: dict[str, int] = {}  # uid → newest rv that the store has been told

    # The server.

    def state(self, upto: int | None = None) -> dict[str, Obj]:
        objects: dict[str, Obj] = {}
        for kind, obj in self.history[:upto]:
            if kind == "deleted":
                objects.pop(obj["metadata"]["name"], None)
            else:
                objects[obj["metadata"]["name"]] = obj
        return objects

    def write(self, name: str, values: list[str]) -> Obj:
        have = self.state().get(name)
        if have is None:
            self.uids += 1
        uid = uid_of(have) if have else f"u{self.uids}"
        obj: Obj = {
            "metadata": {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(len(self.history) + 1)},
            "refs": values,
        }
        self.history.append(("applied", obj))
        return obj

    def erase(self, name: str) -> Obj | None:
        have = self.state().get(name)
        if have is None:
            return None
        obj = {**have, "metadata": have["metadata"] | {"resourceVersion": str(len(self.history) + 1)}}
        self.history.append(("deleted", obj))
        return obj

    @rule(name=NAMES, values=REFS)
    def foreign_write(self, name: str, values: list[str]) -> None:
        self.write(name, values)

    @rule(name=NAMES)
    def foreign_delete(self, name: str) -> None:
        self.erase(name)

    @rule(name=NAMES, values=REFS)
    def own_write(self, name: str, values: list[str]) -> None:
        self.answers.append(("applied", self.write(name, values)))

    @rule(name=NAMES)
    def own_get(self, name: str) -> None:
        if have := self.state().get(name):
            self.answers.append(("applied", have))

    @rule(name=NAMES)
    def own_delete(self, name: str) -> None:
        """As all deletions of ours, of a uid that the store has."""
        have, record = self.state().get(name), self.store.record(Key("ns", name))
        if have and record and record.uid == uid_of(have) and (obj := self.erase(name)):
            self.answers.append(("deleted", obj))

    # What reaches the store.

    def tell(self, obj: Obj) -> None:
        self.known[uid_of(obj)] = max(self.known.get(uid_of(obj), 0), rv_of(obj))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        kind, obj = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
        if kind == "deleted":
            self.store.remove(key_of(obj), uid_of(obj), gone_for_good=True)
            self.dead.add(uid_of(obj))
        else:
            self.store.apply({**obj, "metadata": dict(obj["metadata"])})
            self.tell(obj)

    @precondition(lambda self: not self.begun and self.position < len(self.history))
    @rule(many=st.integers(1, 4))
    def deliver(self, many: int) -> None:
        for kind, obj in self.history[self.position : self.position + many]:
            if kind == "deleted":
                self.store.remove(key_of(obj), uid_of(obj), resource_version=obj["metadata"]["resourceVersion"])
                self.dead.add(uid_of(obj))
            else:
                self.store.apply(obj, watched=True)
                self.tell(obj)
            self.position += 1

    @precondition(lambda self: not self.begun)
    @rule()
    def bookmark(self) -> None:
        self.store.mark(str(self.position))

    @precondition(lambda self: not self.begun or self.listing is not None)
    @rule()
    def begin(self) -> None:
        self.store.begin()
        self.begun, self.listing = True, None

    @precondition(lambda self: self.begun and self.listing is None)
    @rule()
    def take_snapshot(self) -> None:
        self.listing, self.list_rv = list(self.state().values()), len(self.history)
        for obj in self.listing:
            self.store.stage(obj)

    @precondition(lambda self: self.listing is not None)
    @rule()
    def commit(self) -> None:
        assert self.listing is not None
        if went_back := self.list_rv < self.store.seen:
            self.known.clear()  # nothing told before counts any more, not even of the new history: the watch will tell it again
        changes = self.store.commit(str(self.list_rv))
        for change in changes:
            assert change.listed
            if change.before and (change.after is None or change.after.uid != change.before.uid):
                self.dead.add(change.before.uid)
        if went_back:
            self.dead.clear()
        for obj in self.listing:
            self.tell(obj)
        self.position = self.list_rv
        self.begun, self.listing = False, None

    @precondition(lambda self: len(self.history) > 12 and self.nothing_is_ahead_of_the_watch())
    @rule(data=st.data())
    def restore_backup(self, data: st.DataObject) -> None:
        """The server forgets its newest history. Answers of the old one are lost with their connections; the watch breaks."""
        del self.history[data.draw(st.integers(0, len(self.history) - 1)) :]
        self.answers.clear()
        self.dead.clear()
        self.known.clear()
        self.begin()

    def nothing_is_ahead_of_the_watch(self) -> bool:
        """Else a restored server whose new history is longer than what the watch has seen cannot be told from the old one."""
        return not self.store._gone and all(record.rv <= self.store.seen for record in self.store.records())

    # What must hold at any time.

    def mirror_change(self, change: Change) -> None:
        assert self.mirror.get(change.key) == change.old
        if change.new is None:
            del self.mirror[change.key]
        else:
            self.mirror[change.key] = change.new
        assert change.kind == ("gone" if change.new is None else "added" if change.old is None else "changed")

    @invariant()
    def changes_tell_everything(self) -> None:
        assert {record.key: self.store.get(record.key) for record in self.store.records()} == self.mirror

    @invariant()
    def indexes_equal_a_recomputation(self) -> None:
        for name, function in self.indexes.items():
            want: dict[str, set[Key]] = {}
            for key, obj in self.mirror.items():
                for value in function(obj):
                    want.setdefault(value, set()).add(key)
            for value in {*want, "x", "y", "z", *(f"u{n}" for n in range(self.uids + 1))}:
                assert self.store.find(name, value) == sorted(want.get(value, ()))
                assert self.store.has(name, value) is bool(want.get(value))
            assert self.store._indexes[name]._keys.keys() == want.keys(), "no empty entry is left behind"

    @invariant()
    def bytes_kept_is_exact(self) -> None:
        assert self.store.bytes_kept == sum(len(pack(obj)) for obj in self.mirror.values())

    @invariant()
    def nothing_is_resurrected(self) -> None:
        assert not self.dead & {record.uid for record in self.store.records()}

    @invariant()
    def newest_known_form_is_shown(self) -> None:
        for record in self.store.records():
            assert record.rv >= self.known.get(record.uid, 0)

    def teardown(self) -> None:
        """Once everything has arrived, the store is the server."""
        if self.begun:
            if self.listing is None:
                self.take_snapshot()
            self.commit()
        for kind, obj in self.answers:
            if kind == "deleted":
                self.store.remove(key_of(obj), uid_of(obj), gone_for_good=True)
            else:
                self.store.apply(obj)
        self.answers.clear()
        if self.position < len(self.history):
            self.deliver(len(self.history) - self.position)
        assert {record.key.name: self.store.get(record.key) for record in self.store.records()} == self.state()
        assert not self.store._gone, "no tombstone outlives what it was for"
        self.changes_tell_everything()
        self.indexes_equal_a_recomputation()
        self.bytes_kept_is_exact()


TestStoreModel = Machine.TestCase
TestStoreModel.settings = settings(max_examples=150, stateful_step_count=50)

"""The newest known form of every object of one resource on one side, kept as JSON bytes.

Three sources feed a store, in no particular order: watch events, answers to our own writes, and lists. The rules that
make them agree rest on resourceVersions of one resource being comparable numbers (KEP-5504):

- the newest resourceVersion of a key wins; an older or equal one changes nothing;
- `seen` is how far the watch has come. What is not in the store although the watch has passed it was deleted, so a late
  answer to a write cannot bring it back;
- an object that our own delete removed for good is remembered until the watch says so too, so a late watch event
  cannot bring it back either;
- a list replaces everything at once, except what is newer than the list;
- a list older than `seen` means that the server's history went back (a restored backup): then the list is right. It is
  also right about the content of a resourceVersion that it shares with us: history that was lost is written anew.

Readers get private copies and may change them. Nothing decoded is kept: a pod costs 3 KiB as bytes, 15 to 30 as a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Literal, TypeAlias

from syncer.errors import SyncerError
from syncer.kube.codec import loads, pack, prune
from syncer.kube.types import Key, Obj, Resource, Side

IndexFunction: TypeAlias = Callable[[Obj], Iterable[str]]
"""The values under which an object is found in an index; pure, called once when the object enters the store."""


@dataclass(slots=True, eq=False)
class Record:
    """One object as it is kept. Immutable by convention: a change makes a new one."""

    key: Key
    uid: str
    rv: int
    """resourceVersion as a number."""
    raw: bytes
    partial: bool
    """Whether `raw` is metadata only."""
    values: tuple[tuple[str, ...], ...]
    """For each index, in the store's order, the values under which the object is found."""


@dataclass(slots=True, eq=False)
class _Tombstone:
    """What our own delete removed, while the watch has not come that far."""

    uid: str
    rv: int
    listed: bool = False
    """Whether a list has contained it since."""

    def covers(self, uid: str, rv: int) -> bool:
        """Whether that form is of the removed object or of a predecessor."""
        return uid == self.uid or rv <= self.rv


class Change:
    """What happened to one key.

    `old` and `new` are decoded when first asked for, and shared by all listeners of the change: read, do not modify.
    `before` and `after` are the records, for a look at uid or rv that costs nothing.
    """

    __slots__ = ("_new", "_old", "after", "before", "key", "listed", "vanished")

    def __init__(self, before: Record | None, after: Record | None, *, listed: bool = False) -> None:
        some = after or before
        assert some is not None
        self.key = some.key
        self.before = before
        self.after = after
        self.listed = listed
        """Told by a list; False when by a watch event or by the answer to a write of ours."""
        self.vanished = listed and after is None
        """Missing from a list: nobody saw the deletion itself."""
        self._old: Obj | None = None
        self._new: Obj | None = None

    @property
    def kind(self) -> Literal["added", "changed", "gone"]:
        """`changed` also when an object was replaced by another of the same name: then the uids differ."""
        if self.after is None:
            return "gone"
        return "added" if self.before is None else "changed"

    @property
    def old(self) -> Obj | None:
        """The object as it was."""
        if self._old is None and self.before is not None:
            self._old = loads(self.before.raw)
        return self._old

    @property
    def new(self) -> Obj | None:
        """The object as it is now."""
        if self._new is None and self.after is not None:
            self._new = loads(self.after.raw)
        return self._new

    def shed(self) -> None:
        """Drop the decoded forms; asked for again, they are decoded again."""
        self._old = self._new = None

    def __repr__(self) -> str:
        return f"<{self.kind} {self.key}>"


Listener: TypeAlias = Callable[[Change], None]


class Index:
    """Value to keys. Most values of most indexes have a single key, so that one is kept without a set around it."""

    __slots__ = ("_keys", "function")

    def __init__(self, function: IndexFunction) -> None:
        self.function = function
        self._keys: dict[str, Key | set[Key]] = {}

    def values(self, obj: Obj) -> tuple[str, ...]:
        """The values of an object, each once."""
        return tuple(dict.fromkeys(map(intern, self.function(obj))))

    def find(self, value: str) -> list[Key]:
        """Keys under a value, sorted."""
        held = self._keys.get(value)
        if held is None:
            return []
        return sorted(held) if isinstance(held, set) else [held]

    def has(self, value: str) -> bool:
        """Whether there is any key under a value."""
        return value in self._keys

    def move(self, key: Key, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """Put a key that was under `before` under `after`."""
        for value in before:
            if value not in after:
                self._discard(value, key)
        for value in after:
            if value not in before:
                self._add(value, key)

    def _add(self, value: str, key: Key) -> None:
        held = self._keys.get(value)
        if held is None:
            self._keys[value] = key
        elif isinstance(held, set):
            held.add(key)
        else:
            self._keys[value] = {held, key}

    def _discard(self, value: str, key: Key) -> None:
        held = self._keys[value]
        if isinstance(held, set):
            held.remove(key)
            if len(held) == 1:
                self._keys[value] = held.pop()
        else:
            del self._keys[value]


class Store:
    """All objects of `resource` on `side`. One writer of watch events (the informer); any number of readers.

    `listeners` are called with every change, in order, after the store has it; they must not raise and must not write
    to this store.
    """

    def __init__(self, side: Side, resource: Resource, *, indexes: Mapping[str, IndexFunction] | None = None) -> None:
        self.side = side
        self.resource = resource
        self.listeners: list[Listener] = []
        self.bytes_kept = 0
        """Sum of the sizes of all `raw`."""
        self.seen = 0
        """The watch has delivered everything up to this resourceVersion."""
        self._records: dict[Key, Record] = {}
        self._indexes = {name: Index(function) for name, function in (indexes or {}).items()}
        self._positions = {name: at for at, name in enumerate(self._indexes)}
        self._gone: dict[Key, _Tombstone] = {}
        self._staged: dict[Key, Record] | None = None

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[Key]:
        """Over a sorted copy of the keys."""
        return iter(self.keys())

    def get(self, key: Key) -> Obj | None:
        """A private copy; metadata only when `record(key).partial`."""
        record = self._records.get(key)
        return None if record is None else loads(record.raw)

    def record(self, key: Key) -> Record | None:
        """The object as it is kept."""
        return self._records.get(key)

    def records(self) -> Iterator[Record]:
        """All of them, in no order; the store must not change meanwhile."""
        return iter(self._records.values())

    def keys(self) -> list[Key]:
        """All keys, sorted."""
        return sorted(self._records)

    def find(self, index: str, value: str) -> list[Key]:
        """Keys of the objects that carry `value` in that index, sorted. KeyError for an index that was not declared."""
        return self._indexes[index].find(value)

    def has(self, index: str, value: str) -> bool:
        """Whether any object carries `value` in that index. KeyError for an index that was not declared."""
        return self._indexes[index].has(value)

    def moved(self, index: str, change: Change) -> set[str]:
        """The values of an index under which a change puts the object anew, or takes it away."""
        at = self._positions[index]
        before = change.before.values[at] if change.before else ()
        after = change.after.values[at] if change.after else ()
        return set() if before is after or before == after else set(before) ^ set(after)

    def apply(self, obj: Obj, *, partial: bool = False, watched: bool = False) -> Change | None:
        """Take in the form of an object that a watch event (`watched`), a write of ours or a GET gave us.

        None when it is not news. A `partial` object is metadata only; the full form of the same resourceVersion is
        news. `obj` is pruned in place (watch events come pruned). SyncerError when the resourceVersion is not a number.
        """
        if not watched:
            prune(obj)
        key, uid, rv = self._identify(obj)
        old = self._records.get(key)
        passed = rv <= self.seen and not watched
        if watched and rv > self.seen:
            self.seen = rv
        if tombstone := self._gone.get(key):
            if tombstone.covers(uid, rv):
                return None
            if watched:
                del self._gone[key]  # a successor: the watch is past the deletion
        if passed if old is None else not _newer(old, uid, rv, partial):
            return None
        change = Change(old, self._pack(obj, key, uid, rv, partial, old))
        change._new = obj  # noqa: SLF001 -- the form that the listeners would otherwise decode once more
        self._swap(change)
        self._notify(change)
        return change

    def remove(self, key: Key, uid: str, *, resource_version: str = "", gone_for_good: bool = False) -> Change | None:
        """The object with that uid is gone: by a watch event at `resource_version`, or because our delete's answer said so.

        `gone_for_good` is for the latter: late watch events of that uid are ignored until the one that tells of its end.
        None when the store has no such object, or has a newer form of it (it only left the watch's selector for a while).
        """
        old = self._records.get(key)
        if old is not None and old.uid != uid:
            old = None
        tombstone = self._gone.get(key)
        if gone_for_good:
            if old is not None:
                self._gone[key] = _Tombstone(uid, old.rv)
        elif tombstone and tombstone.uid == uid:
            del self._gone[key]
        if resource_version:
            rv = self._number(resource_version, key)
            self.seen = max(self.seen, rv)
            if old is not None and old.rv > rv:
                return None
        if old is None:
            return None
        change = Change(old, None)
        self._swap(change)
        self._notify(change)
        return change

    def mark(self, resource_version: str) -> None:
        """The watch has delivered everything up to there (a bookmark)."""
        self.seen = max(self.seen, self._number(resource_version, None))

    def demote(self, key: Key) -> None:
        """Keep metadata only. The object itself has not changed, so nobody is told."""
        old = self._records.get(key)
        if old is None or old.partial:
            return
        obj: Obj = loads(old.raw)
        slim: Obj = {name: obj[name] for name in ("apiVersion", "kind", "metadata") if name in obj}
        self._swap(Change(old, self._pack(slim, key, old.uid, old.rv, True, old)))

    # A list in progress: the old content stays until `commit`.

    def begin(self) -> None:
        """A list starts; what an earlier one had staged is dropped."""
        self._staged = {}

    def stage(self, obj: Obj, *, partial: bool = False) -> None:
        """One object of the list."""
        assert self._staged is not None, "stage() needs a begin()"
        key, uid, rv = self._identify(obj)
        old = self._records.get(key)
        new = self._pack(obj, key, uid, rv, partial, old)
        self._staged[key] = old if old and _same(old, new) else new  # a list after a short break costs no second copy

    def abort(self) -> None:
        """Throw away what was staged."""
        self._staged = None

    def commit(self, resource_version: str = "") -> list[Change]:
        """Replace the content by what was staged, a list as of `resource_version` (default: the newest thing known).

        Content is swapped as a whole before the first listener is called. Kept whatever the list says: what is newer
        than the list. Left out although listed, once: what we deleted for good, as the list may be of before that.
        """
        staged = self._staged
        assert staged is not None, "commit() needs a begin()"
        as_of = self._number(resource_version, None) if resource_version else max((self.seen, *(r.rv for r in staged.values())))
        went_back = as_of < self.seen
        for key, tombstone in list(self._gone.items()):
            new = staged.get(key)
            older = new is not None and tombstone.covers(new.uid, new.rv)
            if went_back or (tombstone.rv <= as_of and (tombstone.listed or not older)):
                del self._gone[key]
            elif new is not None:
                tombstone.listed = True
                del staged[key]

        changes: list[Change] = []
        for key in (*staged, *(key for key in self._records if key not in staged)):
            old, new = self._records.get(key), staged.get(key)
            ahead = old is not None and old.rv > as_of and not went_back
            if not ahead and new is not old and not (old and new and _same(old, new)):
                changes.append(Change(old, new, listed=True))

        self._staged = None
        self.seen = as_of
        for change in changes:
            self._swap(change)
        for change in changes:
            self._notify(change)
        return changes

    def _identify(self, obj: Obj) -> tuple[Key, str, int]:
        meta = obj["metadata"]
        key = Key(intern(meta.get("namespace") or ""), meta["name"])
        return key, meta.get("uid") or "", self._number(meta.get("resourceVersion"), key)

    def _number(self, resource_version: object, key: Key | None) -> int:
        if isinstance(resource_version, str) and resource_version.isascii() and resource_version.isdecimal():
            return int(resource_version)
        what = f"{self.resource} {key}" if key else f"a list or bookmark of {self.resource}"
        raise SyncerError(
            f"the {self.side} API server gave {what} the resourceVersion {resource_version!r}, which is not a whole number; "
            "the syncer orders versions by it, so it needs a server that conforms to KEP-5504 (kube-apiserver on etcd or kine does)"
        )

    def _pack(self, obj: Obj, key: Key, uid: str, rv: int, partial: bool, old: Record | None) -> Record:
        values = tuple(index.values(obj) for index in self._indexes.values())
        if old is not None:  # share what is equal, so that the strings of each decoded form can go
            key = old.key
            uid = old.uid if old.uid == uid else uid
            values = old.values if old.values == values else values
        return Record(key, uid, rv, pack(obj), partial, values)

    def _swap(self, change: Change) -> None:
        before, after = change.before, change.after
        if after is None:
            del self._records[change.key]
        else:
            self._records[change.key] = after
            self.bytes_kept += len(after.raw)
        if before is not None:
            self.bytes_kept -= len(before.raw)
        if before is None or after is None or before.values is not after.values:
            for at, index in enumerate(self._indexes.values()):
                index.move(change.key, before.values[at] if before else (), after.values[at] if after else ())

    def _notify(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)
        change.shed()


def _newer(old: Record, uid: str, rv: int, partial: bool) -> bool:
    """Whether that form is to replace `old`."""
    return rv > old.rv or (rv == old.rv and uid == old.uid and old.partial and not partial)


def _same(old: Record, new: Record) -> bool:
    """Whether a listed form tells nothing that `old` does not.

    The content counts too: a server that was restored from a backup gives the resourceVersions of its lost history out again.
    """
    if new.rv != old.rv or new.uid != old.uid:
        return False
    if new.partial != old.partial:
        return new.partial
    return new.raw == old.raw or loads(new.raw) == loads(old.raw)

"""What a resource module declares: one `SyncSpec` per loop. The engine reads nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from syncer.kube.types import Key, Obj, Ref, Resource, Side
from syncer.naming import Names
from syncer.sync.intents import Intent, Pair
from syncer.sync.view import Indexes, View


class Scope(Enum):
    """Which objects of a resource are watched."""

    ALL = "all"
    """On the virtual side every namespace; on the host the whole host namespace."""
    MANAGED = "managed"
    """Only those with our marker label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """An informer that a loop needs. Loops that need the same one share it; the wider scope and the fuller form win."""

    side: Side
    resource: Resource
    scope: Scope = Scope.ALL
    metadata_only: bool = False
    slim: Callable[[Obj, View], Obj | None] | None = None
    """Cuts an object down to what is needed before it is kept; None drops it altogether. At most one loop may set it."""
    awaits: Callable[[Obj, View], Ref | None] | None = None
    """Of what `slim` drops: the object that would have had it kept, if that may be on its way. It is asked again when that comes."""
    after_others: bool = False
    """Start once every other informer has synced (its `slim` looks into their caches)."""
    optional: bool = False
    """Where the host does not serve or grant it, the loop works without: the cache stays empty, and `Policy.lacking` names it."""


@dataclass(frozen=True, slots=True)
class Wake:
    """When an object of (`side`, `resource`) appears, changes or goes, decide `keys(obj, view)` of this loop.

    On a change it is called for the object as it was and as it is, so that a dropped reference is noticed too.
    """

    side: Side
    resource: Resource
    keys: Callable[[Obj, View], Iterable[Key]]


@dataclass(frozen=True, slots=True)
class IndexWake:
    """When an object of (`side`, `resource`) comes under a value of an index or leaves it, decide `key(value, view)` of this loop.

    Cheaper than a Wake where the values tell all: a change that leaves them as they are costs nothing.
    """

    side: Side
    resource: Resource
    index: str
    key: Callable[[str, View], Key | None]


Decide: TypeAlias = Callable[[Pair, View], list[Intent]]


@dataclass(frozen=True, kw_only=True)
class Right:
    """Verbs on a host resource (or `resource/subresource`) that the loop cannot work without, or, if `optional`, only one feature of it."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    optional: bool = False
    """`Policy.lacking` names the resource where one of the verbs is not granted; decisions then leave that feature out."""
    cluster: bool = False
    """Of a cluster-scoped resource, so that a ClusterRole has to grant it."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that is done beside the loops when a flag asks for it, and the (optional) rights that it goes without if it has to."""

    name: str
    rights: tuple[Right, ...]


@dataclass(frozen=True, kw_only=True)
class SyncSpec:
    """One loop over pairs of a virtual and a host object.

    The queue holds virtual keys. `host_ref` names the host counterpart of a virtual key (None: the loop has none, and
    `pair.host` is always None); `virtual_key` is the way back and returns None for objects that are not provably ours
    or none of this loop's. Both are pure. `virtual_ref` likewise names the virtual object; by default the key itself.
    `indexes` are built over watched objects, whichever loop watches them.
    `hydrate` tells, for a type watched as metadata only, whether the full virtual object is needed for this key now.
    """

    name: str
    """The word of --sync and --disable-sync-resources, and the `resource` label of metrics."""
    kind: Resource
    """The type that events, messages and metrics speak of."""
    watches: tuple[Watch, ...]
    decide: Decide
    virtual_ref: Callable[[Key], Ref | None]
    host_ref: Callable[[Names, Key], Ref | None]
    virtual_key: Callable[[Obj, View], Key | None]
    wakes: tuple[Wake, ...] = ()
    index_wakes: tuple[IndexWake, ...] = ()
    follows: frozenset[Side] = frozenset(Side)
    """Sides on which every change of a pair's object has the pair decided; on the others only wakes do."""
    indexes: Indexes = field(default_factory=dict)
    hydrate: Callable[[Key, View], bool] | None = None
    host_rights: tuple[Right, ...] = ()
    part_of: str = ""
    """Name of the loop without which this one makes no sense; it runs exactly when that one does, and is no word of --sync."""
    deletes_virtual: bool = False
    """Whether the loop may delete virtual objects because the host object vanished (then the guard watches that way too)."""
    irreplaceable: bool = False
    """Whether data goes with its host objects: then not one of them is deleted unexplained before a person agrees."""
    default: bool = True
    """Whether it runs without being named in --sync."""
    dispensable: bool = False
    """Where the host does not serve its types, or does not grant its rights, it is off, and the table at start says why; others
    are waited for. One that --sync names is waited for as well."""
    replaces: str = ""
    """Name of the loop that does not run when this one does."""

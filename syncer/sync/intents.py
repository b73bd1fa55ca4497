"""What a decision may ask for. `decide` returns these; only `sync.executor` carries them out.

Intents of one decision are carried out in order; the first that fails ends the round, and the key is decided again
from the newest caches. Every intent is safe to carry out twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from syncer.kube.types import Key, Lane, Obj, Ref, Resource, Side


@dataclass(frozen=True, slots=True)
class Create:
    """Make `obj` (full body, with name and namespace). A host object of that name that is not provably ours is left alone and reported.

    `settles` promises that the answer gives this pair nothing more to decide, which saves deciding it once more.
    `alternatives` are tried in turn where the API server finds the one before invalid: whether an address is free, only it knows.
    `vacant` are objects that `obj` refers to and that do not exist, with their virtual names: if a stranger has one, nothing is made.
    """

    side: Side
    resource: Resource
    obj: Obj
    lane: Lane = Lane.SPEC
    settles: bool = False
    alternatives: tuple[Obj, ...] = ()
    vacant: tuple[tuple[Ref, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Patch:
    """Send only the difference. `uid` guards against patching a successor of the same name (it goes into the body as metadata.uid)."""

    side: Side
    resource: Resource
    key: Key
    uid: str
    body: Mapping[str, Any]
    subresource: Literal["", "status", "ephemeralcontainers", "resize"] = ""
    strategy: Literal["merge", "strategic"] = "merge"
    lane: Lane = Lane.SPEC
    follows: bool = False
    """Records what was written before it: not sent when any of that was refused."""
    settles: bool = False
    """Promises that the answer gives this pair nothing more to decide, if it shows no change but this one."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object with that UID, always as a precondition.

    `grace` is in seconds, None for the type's default. `unexplained` is True when the only reason is that the
    counterpart is not there; then the deletion guard has to agree, and may hold it.
    """

    side: Side
    resource: Resource
    key: Key
    uid: str
    why: str
    grace: int | None = None
    unexplained: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind the virtual pod with that UID to a node, through its binding subresource."""

    key: Key
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One projected service account token: `data_key` in the Secret, audience ("" for the API server's own), lifetime in seconds."""

    data_key: str
    audience: str
    expiration_seconds: int


@dataclass(frozen=True, slots=True)
class MintToken:
    """Ask the virtual API server for tokens bound to a pod, and keep them in a host Secret.

    `secret` is the wanted host Secret without `data`; when `secret_uid` is "" it is created, else `data` and the
    expiry annotation of the existing one are patched. Expiry goes into annotation `translate.metadata.TOKEN_EXPIRY`,
    a JSON object `{data_key: [issued, expires]}` in whole epoch seconds; tokens themselves never reach a log or an event.
    """

    pod: Key
    pod_uid: str
    service_account: str
    sources: tuple[TokenSource, ...]
    secret: Obj
    secret_uid: str = ""


@dataclass(frozen=True, slots=True)
class Warn:
    """Put a Warning event on a virtual object. Says nothing of host names. Repeated ones collapse; they never delay other work."""

    on: Ref
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not ready, which is no error: decide again as soon as one of `on` changes, at the latest after `at_most` seconds (None: no limit)."""

    on: tuple[Ref, ...]
    reason: str
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Decide again in `after` seconds: the object has a timetable of its own (a token that has to be renewed)."""

    after: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """This object cannot be synced as it is: tell the tenant why, in words, and try again only when it changes."""

    reason: str
    message: str


Intent: TypeAlias = Create | Patch | Delete | Bind | MintToken | Warn | Wait | Again | Refuse


@dataclass(frozen=True, slots=True)
class Pair:
    """What is being decided: the virtual object and its host object, either may be missing.

    Both are private copies. `waited` tells for how many seconds this key has been answering `Wait`, 0.0 at first.
    """

    key: Key
    virtual: Obj | None
    host: Obj | None
    waited: float = field(default=0.0)

"""An endless stream of what happens to the objects of one type: lists, watches, and mends itself.

```
            ┌───────── 410, replaced data, garbage ──────────┐
            ▼                                                │
  EMPTY ─▶ LISTING ──── InitDone ────▶ WATCHING ◀──────▶ LISTED
   Init     InitApply…                 Apply, Delete,     connection ended: resume from the
            fails: back to EMPTY       Bookmark           last resourceVersion delivered
```

Guarantees:
- A relist is data: `Init`, an `InitApply` for each object, `InitDone`. A consumer keeps what it has until `InitDone`; another
  `Init` before that voids what came since the first one.
- Between two lists no change is left out: a watch resumes from the last delivered resourceVersion, never from an older one.
  Only the newest state of an object is certain to be seen, not each in between.
- Errors are events (`Failed`), each followed by a pause that grows from 0.8 s to 30 s and starts over after two minutes of
  health. The stream ends only when its client was closed.
- A server that goes silent is left: after 60 s while listing, else 10 s after it should have ended the watch by itself.

Lists are streamed (KEP-3157: sendInitialEvents), which spares both sides the large answer, and paged where that is not served.
A watch from a resourceVersion that the server has yet to reach is not an error to it, just silent: after a wipe or restore of
its data it would stay silent, for hours or until it has caught up, and then carry on with other objects. So whenever a
connection ended other than by its own time limit, the server first has to show that its data are the same: it has reached our
resourceVersion, and an object that we know is there with the uid that we know. If not, or if we know of none, we list again.
(What this cannot tell: data restored from a backup and written past our resourceVersion before we are back.)
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, Expired, WatchError, api_error
from syncer.kube import codec
from syncer.kube.backoff import Backoff
from syncer.kube.limits import LONGEST_PAUSE
from syncer.kube.types import Key, Obj, Resource, key_of, uid_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from syncer.kube.answers import WatchResponse
    from syncer.kube.client import Client

log = structlog.get_logger("syncer.kube")

FIRST_PAUSE, LONGEST_BACKOFF = 0.8, 30.0
SHORTEST_WATCH, LONGEST_WATCH = 240, 290
"""Seconds after which the server is asked to end a watch; chance in between spreads the reconnects."""
LISTING_SECONDS = 60.0
"""Silence that is borne while a list is streamed."""
RECONNECT_SECONDS = 1.0
"""Least time between connections that brought no change."""
RELIST_SECONDS = 30.0
"""Lists that follow each other faster than this are paced by the backoff."""
EVENTS_PER_TURN = 100
"""Events after which other tasks get a turn, since reading what is buffered does not wait."""
STREAM_TRIES = 3
"""Streamed lists that may fail in the server before they are taken for not working there."""
_NOT_SERVED = (400, 405, 406, 415, 422, 501)
"""How a server answers parameters it does not know or does not want."""
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Init:
    """A list begins."""


@dataclass(frozen=True, slots=True)
class InitApply:
    """An object of the list."""

    obj: Obj


@dataclass(frozen=True, slots=True)
class InitDone:
    """The list is complete: what it did not hold does not exist."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An object was created or changed."""

    obj: Obj


@dataclass(frozen=True, slots=True)
class Delete:
    """An object is gone, or no longer matches the selectors; this is its last state."""

    obj: Obj


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing happened up to this resourceVersion."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Something went wrong: an ApiError, a WatchError or a network error. A pause follows, then another try."""

    error: Exception


WatchEvent: TypeAlias = Init | InitApply | InitDone | Apply | Delete | Bookmark | Failed


class State(StrEnum):
    """What the watcher knows."""

    EMPTY = "empty"
    """Nothing to resume from."""
    LISTING = "listing"
    """A list is under way."""
    LISTED = "listed"
    """A resourceVersion to resume from, but no connection."""
    WATCHING = "watching"
    """Connected and up to date."""


class Watcher:
    """Watches the objects of `resource`, in one namespace or (by "") in all, that match the selectors.

    `restarts` counts connections that ended in an error and lists that had to be repeated; `last_activity` is the loop
    time of the last sign of life. To be consumed once, under `contextlib.aclosing`.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        rng: random.Random | None = None,
        page_size: int = 500,
    ) -> None:
        self.resource = resource
        self.state = State.EMPTY
        self.restarts = 0
        self.last_activity = float("-inf")
        self._client = client
        self._namespace = namespace
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._metadata_only = metadata_only
        self._rng = rng or random.Random()  # noqa: S311 (spreads load, guards nothing)
        self._page_size = page_size
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_BACKOFF, rng=self._rng)
        self._version = ""
        self._witness: tuple[Key, str] | None = None
        self._doubtful = False
        self._streams = True
        self._stream_failures = 0
        self._listing_since = float("-inf")

    async def events(self) -> AsyncGenerator[WatchEvent, None]:
        """What happens, without end; see the module's guarantees."""
        while self._alive():
            try:
                async with aclosing(self._step()) as step:
                    async for event in step:
                        yield event
            except (ApiError, WatchError, *NETWORK_ERRORS) as error:
                failure: Exception = error
            else:
                continue
            if self._alive() and self._recover(failure):
                self.restarts += 1
                yield Failed(failure)
                asked = failure.retry_after if isinstance(failure, ApiError) else None
                await self._client.closes_within(max(self._backoff.next(), min(asked or 0.0, LONGEST_PAUSE)))

    def _alive(self) -> bool:
        return not self._client.closed

    async def _step(self) -> AsyncGenerator[WatchEvent, None]:
        """From one state to the next."""
        if self.state is State.EMPTY:
            steps = self._watch(listing=True) if self._streams else self._list_pages()
        else:
            if self._doubtful:
                await self._check_identity()
            steps = self._watch(listing=False)
        async with aclosing(steps):
            async for event in steps:
                yield event

    async def _list_pages(self) -> AsyncGenerator[WatchEvent, None]:
        version = continue_ = ""
        yield self._begin_list()
        while True:
            items, page_version, continue_ = await self._client.list_page(
                self.resource,
                self._namespace,
                label_selector=self._selectors["labelSelector"],
                field_selector=self._selectors["fieldSelector"],
                limit=self._page_size,
                continue_=continue_,
                metadata_only=self._metadata_only,
            )
            self.last_activity = _now()
            version = version or page_version
            for number, item in enumerate(items):
                event = InitApply(item)
                self._remember(event)
                yield event
                if number % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
            if not continue_:
                break
        yield self._end_list(version, State.LISTED)

    async def _watch(self, *, listing: bool) -> AsyncGenerator[WatchEvent, None]:
        """One connection, from its start to its orderly end."""
        began, limit = _now(), self._rng.randint(SHORTEST_WATCH, LONGEST_WATCH)
        params = {
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(limit),
            **{key: value for key, value in self._selectors.items() if value},
        }
        if listing:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            params["resourceVersion"] = self._version
        lines = changes = 0
        late: list[WatchEvent] = []
        async with self._client.watch(self.resource, self._namespace, params=params, metadata_only=self._metadata_only) as response:
            self.last_activity = _now()
            if listing:
                yield self._begin_list()
            else:
                self.state, self._doubtful = State.WATCHING, False
            while line := await self._line(response):
                self.last_activity = _now()
                event = self._event(line)
                if isinstance(event, InitDone):
                    self._stream_failures = 0
                    yield self._end_list(event.resource_version, State.WATCHING)
                    for held in late:
                        self._advance(held)
                        yield held
                elif self.state is not State.LISTING:
                    self._advance(event)
                    changes += not isinstance(event, Bookmark)
                    yield event
                elif isinstance(event, Apply) and not late:
                    first = InitApply(event.obj)
                    self._remember(first)
                    yield first
                elif not isinstance(event, Bookmark):
                    # A list has no deletions: this one, and what follows it, is told after the list.
                    late.append(event)
                lines += 1
                if lines % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
        if self.state is State.LISTING:
            raise WatchError("the server ended the watch before its initial list was complete")
        self.state = State.LISTED
        self._doubtful = _now() - began < limit - RECONNECT_SECONDS
        if not changes:
            await self._client.closes_within(began + RECONNECT_SECONDS - _now())

    async def _line(self, response: WatchResponse) -> bytes:
        if self.state is not State.LISTING:
            return await response.readline()
        try:
            async with asyncio.timeout(LISTING_SECONDS):
                return await response.readline()
        except TimeoutError:
            self._give_up_streaming("the initial list never ended")
            raise

    def _event(self, line: bytes) -> WatchEvent:
        """What a line says; ERROR is raised. While listing, the bookmark that ends the list is InitDone."""
        try:
            document = codec.loads(line)
            kind, obj = document["type"], document["object"]
            if kind == "ERROR":
                raise api_error(obj.get("code") or 500, obj)
            metadata = obj["metadata"]
            if kind == "BOOKMARK":
                ends = (metadata.get("annotations") or {}).get(INITIAL_EVENTS_END) == "true"
                version = metadata["resourceVersion"]
                return InitDone(version) if ends and self.state is State.LISTING else Bookmark(version)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WatchError(f"a watch event cannot be read: {error!r}") from None
        if self._metadata_only:
            obj = {"apiVersion": self.resource.api_version, "kind": self.resource.kind, "metadata": metadata}
        if kind in ("ADDED", "MODIFIED"):
            return Apply(codec.prune(obj))
        if kind == "DELETED":
            return Delete(codec.prune(obj))
        raise WatchError(f"a watch event has the unknown type {kind!r}")

    def _advance(self, event: WatchEvent) -> None:
        """Resume after this event, unless the server (a lagging one behind a load balancer) went back."""
        if isinstance(event, Bookmark):
            version = event.resource_version
        elif isinstance(event, Apply | Delete):
            version = event.obj["metadata"].get("resourceVersion") or ""
            self._remember(event)
        else:
            return
        if _number(version) >= _number(self._version):
            self._version = version

    def _remember(self, event: InitApply | Apply | Delete) -> None:
        """Keep one object in mind that exists, by which to know the server's data again."""
        if self._witness is None:
            if not isinstance(event, Delete):
                self._witness = key_of(event.obj), uid_of(event.obj)
        elif isinstance(event, Delete) and uid_of(event.obj) == self._witness[1]:
            self._witness = None

    async def _check_identity(self) -> None:
        """Raise Expired unless the server shows that its data are those that we know."""
        if self._witness is None:
            raise Expired(410, "Expired", "the connection broke and no object is known by which to tell the server's data")
        key, uid = self._witness
        items, version, _ = await self._client.list_page(
            self.resource, key.namespace, field_selector=f"metadata.name={key.name}", limit=1, metadata_only=True
        )
        self.last_activity = _now()
        if _number(version) < _number(self._version):
            raise Expired(410, "Expired", f"the server is at resourceVersion {version}, we were at {self._version}: its data were replaced")
        if [uid_of(item) for item in items] != [uid]:
            raise Expired(410, "Expired", f"{self.resource} {key} is not the one it was: it was deleted, or the server's data replaced")

    def _begin_list(self) -> Init:
        self.state, self._version, self._witness, self._listing_since = State.LISTING, "", None, _now()
        return Init()

    def _end_list(self, version: str, state: State) -> InitDone:
        if not version:
            raise WatchError("the list came without a resourceVersion, so it cannot be followed by a watch")
        self.state, self._version, self._doubtful = state, version, False
        return InitDone(version)

    def _recover(self, error: Exception) -> bool:
        """Choose where to go on after an error; whether that is to be told, and paused for, first."""
        if self._without_streaming(error):
            return False
        if isinstance(error, Expired | WatchError) or _is_ahead(error):
            log.info("watch.list_again", side=str(self._client.side), resource=str(self.resource), reason=str(error))
            self.state, self._version = State.EMPTY, ""
            return not isinstance(error, Expired) or _now() - self._listing_since < RELIST_SECONDS
        # Resume where there is something to resume from, but not blindly.
        self.state, self._doubtful = State.LISTED if self._version else State.EMPTY, True
        return True

    def _without_streaming(self, error: Exception) -> bool:
        """Whether a list failed to be streamed, so that a paged one is worth a try at once."""
        if not self._streams or self.state not in (State.EMPTY, State.LISTING):
            return False
        refused = isinstance(error, ApiError) and error.status in _NOT_SERVED
        self._stream_failures += isinstance(error, WatchError) or (isinstance(error, ApiError) and error.status >= 500)
        if refused or self._stream_failures >= STREAM_TRIES:
            self._give_up_streaming(str(error))
            self.state = State.EMPTY
            return True
        return False

    def _give_up_streaming(self, reason: str) -> None:
        log.info("watch.lists_by_pages", side=str(self._client.side), resource=str(self.resource), reason=reason)
        self._streams = False


def _is_ahead(error: Exception) -> bool:
    """Whether the server said that our resourceVersion lies in its future ("Too large resource version")."""
    if not isinstance(error, ApiError):
        return False
    causes = error.details.get("causes") or ()
    return "Too large resource version" in error.message or any(cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)


def _number(version: Any) -> int:
    """A resourceVersion, which is a number (KEP-5504); -1 for what is none, which is then never compared."""
    return int(version) if isinstance(version, str) and version.isascii() and version.isdigit() else -1


def _now() -> float:
    return asyncio.get_running_loop().time()

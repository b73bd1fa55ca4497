"""Carries out intents: the only place that writes to either API server on behalf of a decision.

What a write answers goes into the cache at once, so the next decision sees it. Failures are sorted into what the loop
does about them: Stale (decide again), Refused (tell the tenant), Held (ask a person), or the error as it is (back off).
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from syncer.errors import AlreadyExists, ApiError, Conflict, Forbidden, Held, Invalid, NotFound, Refused, Stale
from syncer.kube import codec
from syncer.kube.types import PODS, SECRETS, SERVICE_ACCOUNTS, Key, Obj, Ref, Side, is_deleting, key_of, uid_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.contests import Contests, Drift, Why
from syncer.sync.fields import dropped, same_besides, text_of, unmet
from syncer.sync.intents import Again, Bind, Create, Delete, Intent, MintToken, Patch, Refuse, Wait, Warn
from syncer.sync.recorder import Notice, Recorder
from syncer.sync.refusals import Cause, refusal_of
from syncer.translate.messages import host_names_hidden
from syncer.translate.metadata import TOKEN_EXPIRY, recorded_uid, virtual_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from syncer.kube.client import Client
    from syncer.sync.caches import Caches
    from syncer.sync.fence import Fence
    from syncer.sync.guard import Guard, Orphans
    from syncer.sync.spec import SyncSpec


_REGARDING = frozenset({"name", "namespace", "uid", "ownerReferences"})


@dataclass(slots=True)
class Outcome:
    """What a round of intents came to: how many writes it made, what to wait for, when to look again."""

    writes: int = 0
    waits: list[Wait] = field(default_factory=list)
    again: float | None = None

    def look_again(self, after: float) -> None:
        """At the latest in so many seconds."""
        self.again = after if self.again is None else min(self.again, after)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose intents are carried out: the loop, its pair, and a way to count pairs that lack one side."""

    spec: SyncSpec
    key: Key
    orphans: Callable[[Side], Awaitable[Orphans]]
    quiet: Callable[[bool], None]
    """While told True, changes in the caches do not have this pair decided again."""
    drift: Callable[[Drift], None]
    """Told of fields that one side does not keep."""


def _aloud(_on: bool) -> None:
    """What is written has the pair decided again, as any change does."""


class Executor:
    """Writes through `clients`, minding the fence before each write and the guard before each unexplained deletion."""

    def __init__(self, clients: Mapping[Side, Client], caches: Caches, fence: Fence, guard: Guard, recorder: Recorder) -> None:
        self._clients = clients
        self._caches = caches
        self._fence = fence
        self._guard = guard
        self._recorder = recorder
        self._contests = Contests(lambda: asyncio.get_running_loop().time())

    async def carry_out(self, subject: Subject, intents: Sequence[Intent]) -> Outcome:
        """All intents in order, up to the first that fails; only further patches that stand for themselves follow one that is refused.

        Raises Stale, Refused, Held, FenceClosed, ApiError or a network error; what was done before stays done.
        """
        outcome = Outcome()
        refused: Refused | None = None
        if any(isinstance(intent, Wait) for intent in intents):
            subject = replace(subject, quiet=_aloud)  # what is waited for may come during a write, before anybody listens
        for intent in intents:
            if refused is not None and (not isinstance(intent, Patch | Warn) or (isinstance(intent, Patch) and intent.follows)):
                break
            match intent:
                case Wait():
                    outcome.waits.append(intent)
                case Again(after=after):
                    outcome.look_again(after)
                case Warn(on=ref, reason=reason, message=message):
                    self.warn(ref, reason, message)
                case Refuse(reason=reason, message=message):
                    raise Refused(reason, message, again=None)
                case _:
                    self._fence.require_open()
                    try:
                        await self._write(subject, intent, outcome)
                    except Refused as error:
                        if not isinstance(intent, Patch):
                            raise
                        refused = refused or error
        if refused is not None:
            raise refused
        return outcome

    def warn(self, ref: Ref, reason: str, message: str, *, topic: str = "", for_controller: str = "") -> None:
        """Have a Warning event put on an object, if it is still there (and on its controller, see Notice)."""
        if (regarding := self._regarding(ref)) is not None:
            self._recorder.warn(Notice(ref.side, regarding, reason, message, topic=topic, for_controller=for_controller))

    def tell(self, ref: Ref, reason: str, message: str) -> None:
        """Have a Normal event put on an object, if it is still there."""
        if (regarding := self._regarding(ref)) is not None:
            self._recorder.warn(Notice(ref.side, regarding, reason, message, "Normal"))

    async def mark(self, patch: Patch, quiet: Callable[[bool], None]) -> None:
        """Write a patch that nothing is to be decided upon; raises as `carry_out`, but never Refused."""
        self._fence.require_open()
        self._keep(patch, await self._send(patch, patch.body, []), quiet)

    def _regarding(self, ref: Ref) -> Obj | None:
        obj = self._caches.stores[ref.side, ref.resource].get(ref.key)
        if obj is None:
            return None
        metadata = {field: value for field, value in obj["metadata"].items() if field in _REGARDING}
        return {"apiVersion": ref.resource.api_version, "kind": ref.resource.kind, "metadata": metadata}

    async def _write(self, subject: Subject, intent: Create | Patch | Delete | Bind | MintToken, outcome: Outcome) -> None:
        """Raises Refused for what an API server refuses."""
        with self._refusals(subject, intent.side if isinstance(intent, Create | Patch | Delete) else Side.VIRTUAL):
            match intent:
                case Create():
                    await self._create(subject, intent)
                case Patch():
                    await self._patch(subject, intent, outcome)
                    return
                case Delete():
                    await self._delete(subject, intent)
                case Bind():
                    await self._bind(intent)
                case MintToken():
                    await self._mint(subject, intent)
        outcome.writes += 1

    @contextmanager
    def _refusals(self, subject: Subject, side: Side) -> Iterator[None]:
        """Raises Refused for a refusal of that side's API server."""
        try:
            yield
        except ApiError as error:
            refusal = refusal_of(error, side, lambda text: self._hide(subject, text))
            if refusal is None:
                raise
            raise refusal from error

    async def _create(self, subject: Subject, intent: Create) -> None:
        key = key_of(intent.obj)
        warnings: list[str] = []
        for ref, name in intent.vacant:
            await self._require_vacant(ref, name)
        try:
            made = await self._create_valid(intent, key.namespace, warnings)
        except AlreadyExists as error:
            await self._look_again(subject, intent, key, error)
        except NotFound:
            if intent.side is Side.HOST:
                raise
            raise Stale(f"the virtual namespace {key.namespace} is gone") from None
        except Conflict as error:
            raise Stale(str(error)) from None  # several writers of one quota
        except Forbidden as error:
            if _is_terminating(error):
                raise Stale(f"the {intent.side} namespace {key.namespace} is terminating") from None
            raise
        else:
            drifts = self._contests.warned(intent.side, intent.resource, warnings)
            told = {drift.path for drift in drifts}
            silent = [path for path in dropped(intent.obj, made) if text_of(path) not in told] if not intent.alternatives else []
            drifts += [self._contests.tell(intent.side, intent.resource, path, Why.NOT_KEPT) for path in silent]
            self._tell(subject, drifts, made=True)
            self._keep(intent, made, subject.quiet if intent.settles else _aloud)

    def _keep(self, intent: Create | Patch, answered: Obj, quiet: Callable[[bool], None]) -> None:
        quiet(True)
        try:
            self._caches.keep(intent.side, intent.resource, answered)
        finally:
            quiet(False)

    async def _create_valid(self, intent: Create, namespace: str, warnings: list[str]) -> Obj:
        """The first of the intent's objects that the API server finds valid; the last one's error if it finds none."""
        client = self._clients[intent.side]
        *bodies, last = (intent.obj, *intent.alternatives)
        for body in bodies:
            with suppress(Invalid):
                return await client.create(intent.resource, namespace, body, lane=intent.lane, warnings=warnings)
        return await client.create(intent.resource, namespace, last, lane=intent.lane, warnings=warnings)

    async def _require_vacant(self, ref: Ref, name: str) -> None:
        """Ask the API server itself: what is not ours is in no cache."""
        try:
            found = await self._clients[ref.side].get(ref.resource, ref.key, metadata_only=True)
        except NotFound:
            return
        if virtual_key(self._caches.names, ref.resource, found) is None:
            raise Refused(
                Cause.NAME_TAKEN,
                f"it refers to the {ref.resource.kind} {name}, which does not exist, and whose name on the host cluster is taken by "
                "an object that does not belong to this virtual cluster; use another name",
                group=f"{Cause.NAME_TAKEN} {ref}",
            )

    async def _look_again(self, subject: Subject, intent: Create, key: Key, error: AlreadyExists) -> None:
        """A name is taken: by our own object that the cache has not seen yet, or by somebody else's."""
        try:
            found = await self._clients[intent.side].get(intent.resource, key)
        except NotFound:
            raise Stale(f"{intent.side} {intent.resource} {key} came and went") from error
        if intent.side is Side.HOST and subject.spec.virtual_key(found, self._caches.view()) != subject.key:
            raise Refused(
                Cause.NAME_TAKEN,
                "the name that this object needs on the host cluster is taken by an object that does not belong to this virtual cluster; "
                "rename one of them",
            ) from error
        self._caches.keep(intent.side, intent.resource, found)
        raise Stale(f"{intent.side} {intent.resource} {key} was there already") from error

    async def _patch(self, subject: Subject, intent: Patch, outcome: Outcome) -> None:
        """Send what is not known to come to nothing."""
        wish, again = self._contests.worth_asking(intent.side, intent.resource, intent.uid, intent.body)
        if again is not None:
            outcome.look_again(again)
        if wish is not intent.body and not (wish := self._unmet(intent, wish)):
            return
        warnings: list[str] = []
        changed = await self._send(intent, wish, warnings)
        outcome.writes += 1
        drifts = self._contests.warned(intent.side, intent.resource, warnings)
        drifts += self._contests.answered(intent.side, intent.resource, intent.uid, wish, changed)
        self._tell(subject, drifts)
        alone = intent.settles and not drifts and self._is_only_change(intent, changed)
        self._keep(intent, changed, subject.quiet if alone else _aloud)

    async def _send(self, intent: Patch, wish: Mapping[str, Any], warnings: list[str]) -> Obj:
        body = {**wish, "metadata": {**(wish.get("metadata") or {}), "uid": intent.uid}}
        client = self._clients[intent.side]
        try:
            return await client.patch(
                intent.resource,
                intent.key,
                body,
                strategy=intent.strategy,
                subresource=intent.subresource,
                lane=intent.lane,
                warnings=warnings,
            )
        except (NotFound, Conflict) as error:
            raise Stale(str(error)) from None
        except Invalid as error:
            if any(str(cause.get("field")) == "metadata.uid" for cause in error.details.get("causes") or ()):
                raise Stale(str(error)) from None
            raise

    def _is_only_change(self, intent: Patch, answered: Obj) -> bool:
        """Whether the answer shows the object as the cache has it but for the patch: what others changed meanwhile has to be decided."""
        store = self._caches.stores.get((intent.side, intent.resource))
        before = store.get(intent.key) if store is not None else None
        return before is not None and same_besides(before, answered, intent.body)

    def _unmet(self, intent: Patch, wish: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of a patch of which something was left out is not so already; asking for it again would look like a fight."""
        store = self._caches.stores.get((intent.side, intent.resource))
        return unmet((store.get(intent.key) if store is not None else None) or {}, wish)

    def _tell(self, subject: Subject, drifts: Iterable[Drift], *, made: bool = False) -> None:
        """The tenant hears what the host does with his object; what the virtual side does not keep of a status only the operator."""
        by_reason: dict[str, list[str]] = {}
        for drift in drifts:
            subject.drift(drift)
            if drift.side is Side.HOST:
                by_reason.setdefault("FieldContested" if drift.why is Why.CONTESTED else "FieldNotKept", []).append(drift.path)
        ref = subject.spec.virtual_ref(subject.key)
        for reason, paths in by_reason.items():
            what = ", ".join(sorted(set(paths)))
            if reason == "FieldContested":
                message = f"something on the host cluster keeps changing {what} back; it is left as it is there"
            else:
                message = f"the host cluster does not keep {what}; {'it is made' if made else 'it goes on'} without"
            if ref is not None:
                self.warn(ref, reason, message)

    async def _delete(self, subject: Subject, intent: Delete) -> None:
        if intent.unexplained:
            await self._permit(subject, intent)
            self._fence.require_open()
        client = self._clients[intent.side]
        try:
            answer = await client.delete(intent.resource, intent.key, uid=intent.uid, grace=intent.grace)
        except NotFound:
            self._caches.drop(intent.side, intent.resource, intent.key, intent.uid)
            return
        except Conflict as error:
            # Mostly a successor has the name. But API servers say so too when something changed in between: then it is still there.
            if await self._exists(intent):
                raise Stale(str(error)) from None
            self._caches.drop(intent.side, intent.resource, intent.key, intent.uid)
            return
        if uid_of(answer) == intent.uid and _lingers(answer):
            self._caches.keep(intent.side, intent.resource, answer)
        else:
            self._caches.drop(intent.side, intent.resource, intent.key, intent.uid)

    async def _exists(self, intent: Delete) -> bool:
        try:
            found = await self._clients[intent.side].get(intent.resource, intent.key, metadata_only=True)
        except NotFound:
            return False
        return uid_of(found) == intent.uid

    async def _permit(self, subject: Subject, intent: Delete) -> None:
        counterpart: tuple[object, ...] = ()
        if intent.side is Side.HOST:
            host = self._caches.stores[Side.HOST, intent.resource].get(intent.key)
            if host is not None and recorded_uid(host):
                counterpart = (recorded_uid(host),)
        elif (ref := subject.spec.host_ref(self._caches.names, subject.key)) is not None:
            await self._require_gone(ref)
            counterpart = (ref,)
        irreplaceable = subject.spec.irreplaceable and intent.side is Side.HOST
        held = await self._guard.permit(subject.spec.name, counterpart, lambda: subject.orphans(intent.side), irreplaceable=irreplaceable)
        if held is not None:
            raise Held(held)

    async def _require_gone(self, ref: Ref) -> None:
        """Ask the API server itself: an object that lost our label has left the watch just as a deleted one does."""
        try:
            found = await self._clients[ref.side].get(ref.resource, ref.key)
        except NotFound:
            return
        self._caches.keep(ref.side, ref.resource, found)
        raise Stale(f"{ref.side} {ref.resource} {ref.key} is still there; if it lost its label {LABEL_MANAGED_BY}, put that back")

    async def _bind(self, intent: Bind) -> None:
        body: Obj = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": intent.key.name, "namespace": intent.key.namespace, "uid": intent.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": intent.node},
        }
        client = self._clients[Side.VIRTUAL]
        try:
            await client.create(PODS, intent.key.namespace, body, name=intent.key.name, subresource="binding")
        except (NotFound, Conflict) as error:
            raise Stale(str(error)) from None

    async def _mint(self, subject: Subject, intent: MintToken) -> None:
        client = self._clients[Side.VIRTUAL]
        data: dict[str, str] = {}
        expiry: dict[str, list[int]] = {}
        for source in intent.sources:
            request: Obj = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": [source.audience] if source.audience else [],
                    "expirationSeconds": source.expiration_seconds,
                    "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": intent.pod.name, "uid": intent.pod_uid},
                },
            }
            try:
                answer = await client.create(
                    SERVICE_ACCOUNTS, intent.pod.namespace, request, name=intent.service_account, subresource="token"
                )
            except (NotFound, Conflict) as error:
                raise Stale(str(error)) from None  # the pod or its service account is being replaced
            data[source.data_key] = b64encode(answer["status"]["token"].encode()).decode()
            # The life that was granted, by our own clock: the API server's may differ by more than a short token's life.
            issued = int(self._caches.view().now)
            expiry[source.data_key] = [issued, issued + int(answer["spec"]["expirationSeconds"])]
        with self._refusals(subject, Side.HOST):
            await self._store_tokens(subject, intent, data, {TOKEN_EXPIRY: codec.dumps(expiry).decode()})

    async def _store_tokens(self, subject: Subject, intent: MintToken, data: dict[str, str], annotation: dict[str, str]) -> None:
        if not intent.secret_uid:
            metadata = intent.secret["metadata"]
            body = {
                **intent.secret,
                "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), **annotation}},
                "data": data,
            }
            await self._create(subject, Create(Side.HOST, SECRETS, body))
            return
        key = key_of(intent.secret)
        patch = Patch(Side.HOST, SECRETS, key, intent.secret_uid, {"metadata": {"annotations": annotation}, "data": data})
        self._keep(patch, await self._send(patch, patch.body, []), _aloud)

    def _hide(self, subject: Subject, text: str) -> str:
        ref = subject.spec.host_ref(self._caches.names, subject.key)
        return host_names_hidden(text, names=self._caches.names, pairs=((ref.key.name, subject.key),) if ref is not None else ())


def _is_terminating(error: ApiError) -> bool:
    causes: list[dict[str, Any]] = error.details.get("causes") or []
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _lingers(obj: Obj) -> bool:
    """Whether an object that a DELETE answered with is still there: it waits for its grace period or for finalizers."""
    metadata = obj["metadata"]
    return is_deleting(obj) and bool(metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds"))

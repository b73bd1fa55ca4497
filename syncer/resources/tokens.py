"""Service account tokens of pods: minted by the virtual API server, kept in one host Secret per pod, renewed in time.

The host pod mounts the Secret in place of its projected tokens. Both are made side by side, so that the kubelet finds the
Secret when it first looks (with several tokens the Secret comes first, see pods.creation); waiting for the host pod, to have it own the
Secret, would cost each pod a failed mount. Tokens are renewed at 80 % of their life, at the latest after a day, by the timetable that
an annotation of the Secret keeps, so a restart of the syncer renews nothing early. A finished pod's tokens run out. All tokens of a
pod are renewed together.
"""

from __future__ import annotations

from syncer.kube.types import PODS, SECRETS, Key, Obj, Ref, Side, is_deleting, key_of, uid_of
from syncer.sync.intents import Again, Delete, Intent, MintToken, Pair, TokenSource, Wait
from syncer.sync.spec import IndexWake, Right, Scope, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.metadata import recorded_uid, virtual_key
from syncer.translate.references import token_sources
from syncer.translate.status import is_finished
from syncer.translate.token_secret import renewal_times, token_pod, token_secret, token_secret_key


def decide(pair: Pair, view: View) -> list[Intent]:
    """What the token Secret (`pair.host`) of a pod (`pair.virtual`) needs now."""
    pod, secret = pair.virtual, pair.host
    if pod is None:
        return _delete(secret, "the virtual pod is gone", unexplained=True)
    sources = tuple(TokenSource(item.data_key, item.audience, item.expiration_seconds) for item in token_sources(pod))
    if not sources or is_finished(pod):
        return [] if sources else _delete(secret, "the pod has no projected tokens")
    if secret is not None and is_deleting(secret):
        return [_until_gone(secret)]
    if secret is not None and recorded_uid(secret) != uid_of(pod):
        return [*_delete(secret, "the tokens are those of a pod that is gone", unexplained=True), _until_gone(secret)]
    if is_deleting(pod) and not _runs(pair.key, pod, view):
        return _delete(secret, "the host pod is gone")
    return _minted(pair.key, pod, secret, sources, view)


def _runs(key: Key, pod: Obj, view: View) -> bool:
    host_pod = view.get(Side.HOST, PODS, view.names.host_key(key))
    return host_pod is not None and virtual_key(view.names, PODS, host_pod) == key and recorded_uid(host_pod) == uid_of(pod)


def _minted(key: Key, pod: Obj, secret: Obj | None, sources: tuple[TokenSource, ...], view: View) -> list[Intent]:
    times = renewal_times(secret, view.now) if secret is not None else {}
    due = min(times.get(source.data_key, 0.0) for source in sources)
    if due > view.now:
        return [Again(after=due - view.now)]
    if secret is None and is_deleting(pod):
        return []
    account = (pod.get("spec") or {}).get("serviceAccountName") or "default"
    wanted = token_secret(view.names, view.policy.owner, pod)
    return [MintToken(key, uid_of(pod), account, sources, wanted, uid_of(secret) if secret is not None else "")]


def _delete(secret: Obj | None, why: str, *, unexplained: bool = False) -> list[Intent]:
    if secret is None or is_deleting(secret):
        return []
    return [Delete(Side.HOST, SECRETS, key_of(secret), uid_of(secret), why, unexplained=unexplained)]


def _until_gone(secret: Obj) -> Wait:
    return Wait(on=(Ref(Side.HOST, SECRETS, key_of(secret)),), reason="the old tokens have to go first")


def _stages(pod: Obj) -> list[str]:
    """A pod with tokens, and what of its state the decision looks at: it has to be looked at again only when that changes."""
    if not token_sources(pod):
        return []
    ended = is_finished(pod)
    return [f"{key_of(pod)}/{uid_of(pod)}/{'ended' if ended else 'ending' if is_deleting(pod) else 'running'}"]


def _pod_of_stage(value: str, _view: View) -> Key:
    namespace, name = value.split("/")[:2]
    return Key(namespace, name)


SPEC = SyncSpec(
    name="tokens",
    kind=PODS,
    part_of="pods",
    watches=(
        Watch(side=Side.VIRTUAL, resource=PODS),
        Watch(side=Side.HOST, resource=PODS, scope=Scope.MANAGED),
        Watch(side=Side.HOST, resource=SECRETS, scope=Scope.MANAGED, metadata_only=True),
    ),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, PODS, key),
    host_ref=lambda names, key: Ref(Side.HOST, SECRETS, token_secret_key(names, key)),
    virtual_key=lambda host, view: token_pod(view.names, host),
    follows=frozenset({Side.HOST}),
    index_wakes=(IndexWake(Side.VIRTUAL, PODS, "tokens", _pod_of_stage),),
    indexes={(Side.VIRTUAL, PODS): {"tokens": _stages}},
    host_rights=(
        Right(group="", resource="pods", verbs=("get", "list", "watch")),
        Right(group="", resource="secrets", verbs=("get", "list", "watch", "create", "patch", "delete")),
    ),
)

"""What a pod's pair needs; the rules are told in the package's docstring."""

from __future__ import annotations

from datetime import datetime

from syncer.kube.types import NODES, PODS, Key, Lane, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.resources.pods.creation import create
from syncer.resources.pods.pauses import as_new, was_paused
from syncer.resources.pods.update import down, status_up
from syncer.sync.intents import Again, Bind, Delete, Intent, Pair, Patch, Refuse, Wait
from syncer.sync.view import View
from syncer.translate.metadata import recorded_uid
from syncer.translate.status import is_finished

STUCK_SECONDS = 30.0
"""How long after the end of its grace period a host pod whose virtual pod is gone is taken for stuck on a lost node."""

_MIRROR = "kubernetes.io/config.mirror"
_DEFAULT_GRACE = 30  # core/v1, PodSpec.terminationGracePeriodSeconds
_SHORTEST_GRACE = 1
"""Seconds: what a kubelet gives the containers of a pod that was deleted by force."""


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a pod's pair needs now."""
    virtual, host = pair.virtual, pair.host
    if virtual is None:
        return [] if host is None else _host_only(host, "the virtual pod is gone", view.now)
    if host is None:
        return _virtual_only(pair, virtual, view)
    if recorded_uid(host) != uid_of(virtual):
        return _after_predecessor(pair.key, virtual, host, view.now)
    deletion = _deletion(pair.key, virtual, host)
    if is_deleting(virtual) or is_deleting(host):
        return status_up(virtual, host, view) + deletion
    changes = down(virtual, host, view)
    status = status_up(virtual, host, view, spec_applied=changes.spec_applied)
    return _binding(pair.key, virtual, host, view, status) + changes.intents


def _host_only(host: Obj, why: str, now: float) -> list[Intent]:
    if not is_deleting(host):
        return [_delete_host(host, why, unexplained=True)]
    if not host["metadata"].get("deletionGracePeriodSeconds"):
        return []
    remaining = datetime.fromisoformat(host["metadata"]["deletionTimestamp"]).timestamp() + STUCK_SECONDS - now
    if remaining > 0:
        return [Again(after=remaining)]
    return [_delete_host(host, f"{why}, and the node does not confirm that the host pod has ended", grace=0, unexplained=True)]


def _virtual_only(pair: Pair, virtual: Obj, view: View) -> list[Intent]:
    if is_deleting(virtual):
        return _end(pair.key, virtual, "it is being deleted and has no host pod", unexplained=False)
    if is_finished(virtual):
        return []
    if had_host_pod(virtual):
        if was_paused(virtual, view.policy.paused_at):
            return [as_new(virtual), *create(pair, virtual, view)]
        return _end(pair.key, virtual, "its host pod is gone, and a pod is never started a second time", unexplained=True)
    if _MIRROR in annotations_of(virtual):
        return [Refuse("StaticPod", "the mirror of a static pod cannot be synced: only the kubelet that reads its manifest can run it")]
    return create(pair, virtual, view)


def _after_predecessor(key: Key, virtual: Obj, host: Obj, now: float) -> list[Intent]:
    intents = _host_only(host, "it belongs to an earlier virtual pod of the same name", now)
    if is_deleting(virtual):
        return intents + _end(key, virtual, "it is being deleted and has no host pod", unexplained=False)
    gone = Wait(on=(Ref(Side.HOST, PODS, key_of(host)),), reason="the host pod of an earlier pod of the same name has to end first")
    return [*intents, gone]


def had_host_pod(virtual: Obj) -> bool:
    """Whether a host pod must have existed: a kubelet has seen it, or we bound it (no scheduler runs in the virtual cluster)."""
    spec, status = virtual.get("spec") or {}, virtual.get("status") or {}
    if status.get("startTime"):
        return True
    if not spec.get("nodeName") or (spec.get("schedulerName") or "default-scheduler") != "default-scheduler":
        return False
    return any(item.get("type") == "PodScheduled" and item.get("status") == "True" for item in status.get("conditions") or ())


def _end(key: Key, virtual: Obj, why: str, *, unexplained: bool) -> list[Intent]:
    """Removes a virtual pod that has no host pod. With finalizers it stays, marked failed, until their owners let go."""
    intents: list[Intent] = []
    if not (is_deleting(virtual) and virtual["metadata"].get("deletionGracePeriodSeconds") == 0):
        intents.append(Delete(Side.VIRTUAL, PODS, key, uid_of(virtual), why, grace=0, unexplained=unexplained))
    if virtual["metadata"].get("finalizers") and not is_finished(virtual):
        body = {"status": {"phase": "Failed"}}
        intents.append(Patch(Side.VIRTUAL, PODS, key, uid_of(virtual), body, subresource="status", lane=Lane.STATUS))
    return intents


def _deletion(key: Key, virtual: Obj, host: Obj) -> list[Intent]:
    """Deletion passed on, either way; once both are being deleted, the shorter grace period counts.

    Never by force on the host, whatever was asked: that would free the node's room there while the containers still run.
    """
    asked, given = _asked_grace(virtual), host["metadata"].get("deletionGracePeriodSeconds")
    if is_deleting(virtual) and not is_deleting(host):
        return [_delete_host(host, "the virtual pod is being deleted", grace=None if asked is None else max(asked, _SHORTEST_GRACE))]
    if is_deleting(host) and not is_deleting(virtual):
        own = (host.get("spec") or {}).get("terminationGracePeriodSeconds")
        grace = given if given is not None else own if own is not None else _DEFAULT_GRACE
        return [Delete(Side.VIRTUAL, PODS, key, uid_of(virtual), "the host pod is being deleted", grace=grace)]
    if not is_deleting(host) or asked is None or given is None:
        return []
    if (wanted := max(asked, _SHORTEST_GRACE)) < given:
        return [_delete_host(host, "the virtual pod's grace period was shortened", grace=wanted)]
    if asked <= given:
        return []
    return [Delete(Side.VIRTUAL, PODS, key, uid_of(virtual), "the host pod's grace period was shortened", grace=given)]


def _asked_grace(virtual: Obj) -> int | None:
    """The grace period that somebody asked for; that of an unbound pod is always 0, whatever was asked, and says nothing."""
    if not (virtual.get("spec") or {}).get("nodeName"):
        return None
    grace: int | None = virtual["metadata"].get("deletionGracePeriodSeconds")
    return grace


def _binding(key: Key, virtual: Obj, host: Obj, view: View, status: list[Intent]) -> list[Intent]:
    """Status and node. Bound first, so that nobody sees a pod run nowhere; but a missing virtual Node holds no status up."""
    node, bound = ((pod.get("spec") or {}).get("nodeName") or "" for pod in (host, virtual))
    if not node or bound == node:
        return status
    if bound:
        return [*status, Delete(Side.VIRTUAL, PODS, key, uid_of(virtual), "the host runs it on another node, and a pod cannot be moved")]
    if view.get(Side.VIRTUAL, NODES, Key("", node)) is not None:
        return [Bind(key, uid_of(virtual), node), *status]
    return [*status, Wait(on=(Ref(Side.VIRTUAL, NODES, Key("", node)),), reason=f"the virtual Node {node} is not there yet")]


def _delete_host(host: Obj, why: str, *, grace: int | None = None, unexplained: bool = False) -> Delete:
    return Delete(Side.HOST, PODS, key_of(host), uid_of(host), why, grace=grace, unexplained=unexplained)

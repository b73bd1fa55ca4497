"""What goes up and down while both pods exist."""

from __future__ import annotations

from dataclasses import dataclass

from syncer.kube.types import PODS, Lane, Obj, Ref, Side, key_of, uid_of
from syncer.resources.pods.creation import data_keys, services_beside
from syncer.sync.front import api_service, cluster_address
from syncer.sync.intents import Intent, Patch, Warn
from syncer.sync.view import View
from syncer.translate.downward import pod_annotations
from syncer.translate.metadata import metadata_patch
from syncer.translate.owners import owner_annotations
from syncer.translate.podupdate import host_ephemeral_update, host_pod_update, host_resize, resize_record
from syncer.translate.status import host_gate_conditions, status_patch, virtual_pod_status


def status_up(virtual: Obj, host: Obj, view: View, *, spec_applied: bool = True) -> list[Intent]:
    """The virtual status as the host's; `spec_applied`: the virtual spec has reached the host pod."""
    patch = status_patch(virtual, virtual_pod_status(view.names, virtual, host, spec_applied=spec_applied))
    if patch is None:
        return []
    return [Patch(Side.VIRTUAL, PODS, key_of(virtual), uid_of(virtual), patch, "status", "strategic", Lane.STATUS, settles=True)]


@dataclass(frozen=True, slots=True)
class Down:
    """What goes down, and whether the virtual spec has reached the host pod without it."""

    intents: list[Intent]
    spec_applied: bool


def down(virtual: Obj, host: Obj, view: View) -> Down:
    """Metadata, readiness gates, and what may change of a running pod's spec; last what a host is most likely to refuse."""
    key, uid = key_of(host), uid_of(host)
    intents: list[Intent] = []
    ours = {**pod_annotations(virtual), **owner_annotations(virtual)}
    if metadata := metadata_patch(view.names, view.policy.owner, PODS, virtual, host, annotations=ours):
        intents.append(Patch(Side.HOST, PODS, key, uid, metadata))
    if gates := host_gate_conditions(virtual, host):
        patch = Patch(Side.HOST, PODS, key, uid, gates, "status", "strategic", Lane.STATUS)
        intents += _if_granted(virtual, patch, "the conditions of its readiness gates are not passed on, and it does not get ready", view)
    changes: list[Intent] = []
    if spec := host_pod_update(view.policy, virtual, host):
        changes.append(Patch(Side.HOST, PODS, key, uid, spec, strategy="strategic"))
    if ephemeral := _ephemeral(virtual, host, view):
        patch = Patch(Side.HOST, PODS, key, uid, ephemeral, "ephemeralcontainers", "strategic")
        changes += _if_granted(virtual, patch, "its new ephemeral containers do not run", view)
    resize = host_resize(virtual, host)
    if resize:
        patch = Patch(Side.HOST, PODS, key, uid, resize, "resize", "strategic")
        changes += _if_granted(virtual, patch, "its containers keep the resources that they have", view)
    spec_applied = not changes
    record = resize_record(virtual, host)
    if record and not (resize and _right("resize") in view.policy.lacking):
        changes.append(Patch(Side.HOST, PODS, key, uid, record, follows=True))
    return Down([*intents, *changes], spec_applied)


def _if_granted(virtual: Obj, patch: Patch, otherwise: str, view: View) -> list[Intent]:
    """The patch, or where the host does not grant it, what that means in words."""
    right = _right(patch.subresource)
    if right not in view.policy.lacking:
        return [patch]
    reason = f"{otherwise}: the host cluster does not let the syncer patch {right}"
    return [Warn(Ref(Side.VIRTUAL, PODS, key_of(virtual)), "RightMissing", reason)]


def _right(name: str) -> str:
    return f"{PODS.plural}/{name}"


def _ephemeral(virtual: Obj, host: Obj, view: View) -> Obj | None:
    if not (virtual.get("spec") or {}).get("ephemeralContainers"):
        return None
    api_address = cluster_address(view.get(*api_service(view)))
    if api_address is None:
        return None  # whoever debugs a pod waits for that, as new pods do; the Service's change comes with the next scan
    return host_ephemeral_update(
        view.names,
        view.policy,
        virtual,
        host,
        api_address=api_address,
        services=services_beside(virtual, view),
        data_keys=lambda kind, name: data_keys(virtual, kind, name, view),
    )

"""What goes up and down while both pods exist."""

from __future__ import annotations

from syncer.kube.types import PODS, Lane, Obj, Side, key_of, uid_of
from syncer.resources.pods.creation import api_service, cluster_address, data_keys, services_beside
from syncer.sync.intents import Intent, Patch
from syncer.sync.view import View
from syncer.translate.downward import pod_annotations
from syncer.translate.metadata import metadata_patch
from syncer.translate.owners import owner_annotations
from syncer.translate.podupdate import host_ephemeral_update, host_pod_update
from syncer.translate.status import host_gate_conditions, status_patch, virtual_pod_status


def status_up(virtual: Obj, host: Obj, view: View, *, spec_applied: bool = True) -> list[Intent]:
    """The virtual status as the host's; `spec_applied`: the virtual spec has reached the host pod."""
    patch = status_patch(virtual, virtual_pod_status(view.names, virtual, host, spec_applied=spec_applied))
    if patch is None:
        return []
    return [Patch(Side.VIRTUAL, PODS, key_of(virtual), uid_of(virtual), patch, "status", "strategic", Lane.STATUS)]


def down(virtual: Obj, host: Obj, view: View) -> list[Patch]:
    """Metadata and what may change of a running pod's spec; last what needs rights that a host may not give."""
    key, uid = key_of(host), uid_of(host)
    intents: list[Patch] = []
    ours = {**pod_annotations(virtual), **owner_annotations(virtual)}
    if metadata := metadata_patch(view.names, view.policy.owner, PODS, virtual, host, annotations=ours):
        intents.append(Patch(Side.HOST, PODS, key, uid, metadata))
    if spec := host_pod_update(view.policy, virtual, host):
        intents.append(Patch(Side.HOST, PODS, key, uid, spec, strategy="strategic"))
    if ephemeral := _ephemeral(virtual, host, view):
        intents.append(Patch(Side.HOST, PODS, key, uid, ephemeral, "ephemeralcontainers", "strategic"))
    if gates := host_gate_conditions(virtual, host):
        intents.append(Patch(Side.HOST, PODS, key, uid, gates, "status", "strategic", Lane.STATUS))
    return intents


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

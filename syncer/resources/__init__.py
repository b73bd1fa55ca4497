"""One module per Kubernetes type, and the registry of their loops."""

from __future__ import annotations

from syncer.resources import configmaps, events, kubernetes_service, nodes, pods, secrets, services, tokens
from syncer.sync.spec import SyncSpec

ALL: tuple[SyncSpec, ...] = (
    pods.SPEC,
    tokens.SPEC,
    services.SPEC,
    kubernetes_service.SPEC,
    configmaps.SPEC,
    secrets.SPEC,
    nodes.SPEC,
    events.SPEC,
)
"""Every loop there is; all are on by default."""

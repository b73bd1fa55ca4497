"""One module per Kubernetes type, and the registry of their loops."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from syncer.resources import (
    configmaps,
    endpoints,
    endpointslices,
    events,
    ingressclasses,
    ingresses,
    kubernetes_endpoints,
    kubernetes_service,
    nodes,
    persistentvolumeclaims,
    persistentvolumes,
    pods,
    secrets,
    services,
    storageclasses,
    tokens,
)
from syncer.sync.spec import SyncSpec

ALL: tuple[SyncSpec, ...] = (
    pods.SPEC,
    tokens.SPEC,
    services.SPEC,
    kubernetes_service.SPEC,
    kubernetes_endpoints.SPEC,
    endpoints.SPEC,
    endpointslices.SPEC,
    configmaps.SPEC,
    secrets.SPEC,
    persistentvolumeclaims.SPEC,
    persistentvolumes.SPEC,
    storageclasses.SPEC,
    ingresses.SPEC,
    ingressclasses.SPEC,
    nodes.MADE_UP,
    nodes.REAL,
    nodes.SERVICES_OF_MADE_UP,
    nodes.SERVICES_OF_REAL,
    nodes.ENDPOINTS_OF_MADE_UP,
    nodes.ENDPOINTS_OF_REAL,
    events.SPEC,
)
"""Every loop there is."""


def known() -> dict[str, bool]:
    """The words of --sync, with whether each is on without being named."""
    return {spec.name: spec.default for spec in ALL if not spec.part_of}


def unwanted(specs: Iterable[SyncSpec]) -> list[str]:
    """The words of --sync whose loops are not among `specs`."""
    return sorted(known().keys() - {spec.name for spec in specs})


def chosen(enabled: Collection[str]) -> list[SyncSpec]:
    """The loops behind the `enabled` words, without those that another one replaces."""
    found = [spec for spec in ALL if (spec.part_of or spec.name) in enabled]
    replaced = {spec.replaces for spec in found}
    return [spec for spec in found if (spec.part_of or spec.name) not in replaced]

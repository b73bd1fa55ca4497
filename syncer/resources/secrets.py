"""Secrets: down, while a virtual pod refers to them. See sync.referenced for the rules."""

from __future__ import annotations

from syncer.kube.types import SECRETS, Obj
from syncer.sync.referenced import referenced_spec

_SERVICE_ACCOUNT_TOKEN = "kubernetes.io/service-account-token"  # noqa: S105  the name of a Secret type, not a secret


def content(virtual: Obj) -> Obj:
    """What the host copy holds besides metadata.

    A service account token becomes Opaque: the host's token controller would delete a Secret of that type whose service
    account it does not know. Its keys and the virtual cluster's token stay as they are.
    """
    secret_type = virtual.get("type") or "Opaque"
    return {
        "data": virtual.get("data") or {},
        "immutable": virtual.get("immutable"),
        "type": "Opaque" if secret_type == _SERVICE_ACCOUNT_TOKEN else secret_type,
    }


SPEC = referenced_spec(SECRETS, names=lambda found: found.secrets, content=content, unchangeable=frozenset({"type"}))

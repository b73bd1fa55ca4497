"""Secrets: down, while a pod or an Ingress refers to them. See sync.referenced for the rules.

The host's cert-manager, asked by the copy of an Ingress, keeps a Secret under the name that the copy gives. Mostly the virtual cluster
has none of that name, and the host's is not ours to touch. Where it has one, cert-manager takes over what we have copied, and
we let it: two writers of one certificate would never end.
"""

from __future__ import annotations

from syncer.kube.types import SECRETS, Obj, annotations_of, key_of
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


def taken_over(host: Obj) -> str:
    """Whether the host's cert-manager writes the copy: its Certificate for an Ingress is named as the Secret, so has a host name."""
    if annotations_of(host).get("cert-manager.io/certificate-name") != key_of(host).name:
        return ""
    return "the host cluster's cert-manager keeps the certificate of this Secret, as an Ingress asks it to; what is here has no effect"


SPEC = referenced_spec(
    SECRETS,
    names=lambda found: found.secrets,
    keys=lambda found: found.secrets,
    content=content,
    unchangeable=frozenset({"type"}),
    taken_over=taken_over,
)

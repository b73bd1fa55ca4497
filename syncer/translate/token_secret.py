"""The host Secret that holds a pod's service account tokens: its name, its markers, and when the tokens are due.

It is the image of no virtual Secret. Its name has a shape of its own with a hash over a text that no name can contain, and its
kind marker names a kind that does not exist, so neither the loop of Secrets nor anything else takes it for a copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from syncer.kube.types import Key, Obj, annotations_of, key_of, labels_of, uid_of
from syncer.naming import (
    ANNOTATION_KIND,
    ANNOTATION_NAME,
    ANNOTATION_NAMESPACE,
    ANNOTATION_UID,
    LABEL_MANAGED_BY,
    LABEL_NAMESPACE,
    Names,
)
from syncer.translate.metadata import TOKEN_EXPIRY

KIND = "/v1, Kind=PodToken"
"""Value of the kind annotation."""

_RENEWED_AT = 0.8
"""Part of a token's life after which it is renewed, as kubelets do."""
_RENEWED_AFTER = 24 * 3600
"""Seconds after which any token is renewed, as kubelets do (pkg/kubelet/token, maxTTL): so those of a service account that was made anew
are good again within a day."""
_CLOCKS_APART = 60
"""Seconds by which the clocks of two machines may well differ: the tokens were minted by another replica."""


def token_secret_key(names: Names, pod: Key) -> Key:
    """Where the tokens of the virtual pod `pod` are kept on the host."""
    readable = names.host_name(pod.namespace, pod.name)[:45]
    digest = sha256(f"token/{pod.name}/{pod.namespace}/{names.suffix}".encode()).hexdigest()[:10]
    return Key(names.host_namespace, f"{readable}-token-{digest}".replace(".-", "-"))


def token_secret(names: Names, owner: Obj | None, pod: Obj) -> Obj:
    """The Secret to create, without its data; `owner` becomes its ownerReference."""
    key = key_of(pod)
    host_key = token_secret_key(names, key)
    secret: Obj = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": host_key.name,
            "namespace": host_key.namespace,
            "labels": {LABEL_MANAGED_BY: names.suffix, LABEL_NAMESPACE: key.namespace},
            "annotations": {
                ANNOTATION_NAME: key.name,
                ANNOTATION_NAMESPACE: key.namespace,
                ANNOTATION_UID: uid_of(pod),
                ANNOTATION_KIND: KIND,
            },
        },
    }
    if owner is not None:
        secret["metadata"]["ownerReferences"] = [owner]
    return secret


def token_pod(names: Names, secret: Obj) -> Key | None:
    """Key of the virtual pod whose tokens a host Secret provably holds; None for any other Secret."""
    annotations, labels = annotations_of(secret), labels_of(secret)
    key = Key(annotations.get(ANNOTATION_NAMESPACE) or "", annotations.get(ANNOTATION_NAME) or "")
    ours = (
        secret.get("kind") == "Secret"
        and annotations.get(ANNOTATION_KIND) == KIND
        and labels.get(LABEL_MANAGED_BY) == names.suffix
        and labels.get(LABEL_NAMESPACE) == key.namespace
    )
    return key if ours and token_secret_key(names, key) == key_of(secret) else None


def renewal_times(secret: Obj, now: float) -> Mapping[str, float]:
    """When each token in the Secret is to be renewed, in epoch seconds, by data key.

    Left out are unreadable entries, and those from the future: the clock was put back, and nobody knows how old they are.
    """
    try:
        entries: Any = json.loads(annotations_of(secret).get(TOKEN_EXPIRY) or "{}")
        return {
            str(key): issued + min(_RENEWED_AT * (expires - issued), _RENEWED_AFTER)
            for key, (issued, expires) in entries.items()
            if issued <= now + _CLOCKS_APART
        }
    except (ValueError, TypeError, AttributeError):
        return {}

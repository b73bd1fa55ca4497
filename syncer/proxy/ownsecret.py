"""A Secret of the host in which the syncer keeps what is its own, and which several replicas may write."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING

from syncer.errors import NotFound, SyncerError
from syncer.kube.types import SECRETS, Key, Obj, labels_of
from syncer.naming import LABEL_CLUSTER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncer.kube.client import Client


class OwnSecret:
    """The Secret `key` of the virtual cluster `name`."""

    def __init__(self, host: Client, key: Key, *, name: str) -> None:
        self.key = key
        self._host = host
        self._name = name

    async def read(self) -> Obj | None:
        """As it is now, None if there is none. Raises SyncerError if it is somebody else's, ApiError or a network error."""
        try:
            secret = await self._host.get(SECRETS, self.key)
        except NotFound:
            return None
        if labels_of(secret).get(LABEL_CLUSTER) != self._name:
            raise SyncerError(
                f"the Secret {self.key} on the host is not the syncer's own, as its label {LABEL_CLUSTER} would tell; rename it"
            )
        return secret

    async def write(self, data: Mapping[str, bytes], had: Obj | None, owners: Sequence[Obj]) -> None:
        """Have it hold `data` and go with its `owners` (ownerReferences; none: as before), unless it has changed since it was `had`.

        Then raises AlreadyExists, Conflict or NotFound; else ApiError or a network error.
        """
        encoded = {name: b64encode(content).decode() for name, content in data.items()}
        metadata: Obj = {"ownerReferences": [*owners]} if owners else {}
        if had is not None:
            metadata |= {name: had["metadata"][name] for name in ("uid", "resourceVersion")}
            await self._host.patch(SECRETS, self.key, {"metadata": metadata, "data": encoded})
            return
        metadata |= {"name": self.key.name, "namespace": self.key.namespace, "labels": {LABEL_CLUSTER: self._name}}
        await self._host.create(
            SECRETS, self.key.namespace, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}
        )


def goes_with(secret: Obj, owners: Sequence[Obj]) -> bool:
    """Whether these, if any, are its ownerReferences already."""
    found = secret["metadata"].get("ownerReferences") or ()
    return not owners or {reference["uid"] for reference in found} == {reference["uid"] for reference in owners}


def content_of(secret: Obj) -> dict[str, bytes]:
    """The data of a Secret; what is not base64 is left out."""
    found: dict[str, bytes] = {}
    for name, text in (secret.get("data") or {}).items():
        try:
            found[name] = b64decode(text or "", validate=True)
        except (Base64Error, TypeError, ValueError):
            continue
    return found

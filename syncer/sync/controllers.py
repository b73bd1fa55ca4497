"""Who controls an object: of a pod its Deployment, its Job, whatever kind that is. Only metadata is read."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from syncer.errors import Forbidden, NotFound
from syncer.kube.discovery import Discovery
from syncer.kube.types import Key, Obj, uid_of

if TYPE_CHECKING:
    from syncer.kube.client import Client

_LEVELS = 3
"""A CronJob's pod is two levels below it; operators put one more on top."""
_REMEMBERED = 1000


class Controllers:
    """Answers from one API server's objects, remembering them: siblings ask one after another."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._discovery = Discovery(client)
        self._above: OrderedDict[str, Obj | None] = OrderedDict()

    async def outermost(self, obj: Obj) -> Obj | None:
        """The controller of the controller of … an object, as apiVersion, kind and metadata; None when nothing controls it.

        Raises ApiError or a network error.
        """
        found = None
        for _ in range(_LEVELS):
            above = await self._controller(obj)
            if above is None:
                break
            found = obj = above
        return found

    async def _controller(self, obj: Obj) -> Obj | None:
        references = obj["metadata"].get("ownerReferences") or ()
        reference = next((item for item in references if item.get("controller")), None)
        if reference is None:
            return None
        uid = reference["uid"]
        if uid not in self._above:
            self._above[uid] = await self._metadata(reference, obj["metadata"].get("namespace") or "")
            if len(self._above) > _REMEMBERED:
                self._above.popitem(last=False)
        return self._above[uid]

    async def _metadata(self, reference: Obj, namespace: str) -> Obj | None:
        """None for one that is gone or not served: owner references are words, nobody checks them."""
        try:
            resource = await self._discovery.find(reference["apiVersion"], reference["kind"])
            if resource is None:
                return None
            key = Key(namespace if resource.namespaced else "", reference["name"])
            found = await self._client.get(resource, key, metadata_only=True)
        except (NotFound, Forbidden):
            return None
        return found if uid_of(found) == reference["uid"] else None

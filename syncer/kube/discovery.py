"""Which types an API server serves, by what objects call them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from syncer.errors import NotFound, SyncerError
from syncer.kube.types import Resource

if TYPE_CHECKING:
    from syncer.kube.client import Client


class Discovery:
    """Asks the API server of `client`, for each API version as often as something is missing there."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kinds: dict[str, dict[str, Resource]] = {}

    async def find(self, api_version: str, kind: str) -> Resource | None:
        """The type of that apiVersion and kind, None while it is not served. Raises SyncerError or a network error."""
        if kind not in self._kinds.get(api_version, ()):
            try:
                self._kinds[api_version] = await self._ask(api_version)
            except NotFound:
                return None
        return self._kinds[api_version].get(kind)

    async def _ask(self, api_version: str) -> dict[str, Resource]:
        group, _, version = api_version.rpartition("/")
        root = f"/apis/{quote(api_version)}" if group else f"/api/{quote(version)}"
        answer = await self._client.request_json("GET", root)
        try:
            return {
                item["kind"]: Resource(group, version, item["name"], item["kind"], item["namespaced"])
                for item in answer.get("resources") or ()
                if "/" not in item["name"]
            }
        except (AttributeError, KeyError, TypeError):  # whoever may register an API service may answer anything
            raise SyncerError(f"the API server's list of the types of {api_version} cannot be read") from None

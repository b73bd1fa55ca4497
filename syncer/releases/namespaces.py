"""The namespace of a virtual cluster, when that goes: whether it may go too, and its end."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from syncer.errors import Conflict, Forbidden, NotFound
from syncer.kube.types import NAMESPACES, Key, annotations_of, key_of, uid_of
from syncer.releases.belongings import CREATED, foreign, others
from syncer.releases.readiness import until

if TYPE_CHECKING:
    from collections.abc import Collection

    from syncer.kube.client import Client
    from syncer.kube.types import Obj
    from syncer.releases.belongings import Item
    from syncer.releases.waiting import Progress

_SHOWN = 5


async def to_go(host: Client, name: str, wish: bool | None) -> Obj | None:
    """The namespace if it is to go: as the user wishes, by default if `create` made it."""
    try:
        namespace = await host.get(NAMESPACES, Key("", name))
    except (NotFound, Forbidden):
        return None
    wanted = CREATED in annotations_of(namespace) if wish is None else wish
    return namespace if wanted else None


def why_kept(items: Collection[Item], unseen: Collection[str]) -> str:
    """Why a namespace in which that is left has to stay; "" if it need not. `unseen` are types that could not be looked at."""
    if neighbours := others(items):
        return f"other virtual clusters live in it: {', '.join(neighbours)}"
    if strangers := foreign(items):
        return f"there are other things in it: {', '.join(map(str, strangers[:_SHOWN]))}"
    if unseen:
        return f"something else may be in it, of types that could not be looked at: {', '.join(sorted(unseen))}"
    return ""


async def delete(host: Client, namespace: Obj) -> None:
    """Begin with it."""
    with suppress(NotFound, Conflict):
        await host.delete(NAMESPACES, key_of(namespace), uid=uid_of(namespace))


async def wait_gone(host: Client, namespace: Obj, progress: Progress) -> None:
    """Until it is gone. Raises TooLate."""
    key = key_of(namespace)

    async def there() -> str:
        try:
            found = await host.get(NAMESPACES, key)
        except NotFound:
            return ""
        if uid_of(found) != uid_of(namespace):
            return ""
        conditions = (found.get("status") or {}).get("conditions") or ()
        why = [item.get("message") or "" for item in conditions if item.get("status") == "True"]
        return f"namespace {key.name} is still ending: {'; '.join(why)}".rstrip(": ")

    await until(there, progress, f"see kubectl get namespace {key.name} -o yaml; the virtual cluster itself is gone")

"""Everything that an API server has: to be compared with what it has later."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from e2e.errors import LabError
from e2e.lab.api import ApiFailure, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.api import Api, Obj

_NAMESPACES = "/api/v1/namespaces"
_PASSING = frozenset({"events"})
"""They tell what has been, and go by their own clock."""
_BEATING = {("", "nodes"), ("coordination.k8s.io", "leases")}
"""Written all the time for no other reason than to say that somebody lives; of them only the metadata counts."""
_IDENTITY = "apiserver.kubernetes.io/identity"
"""Label of the Lease by which an API server is known, as long as it runs."""
_ANSWERS = frozenset({"metadata", "status", "apiVersion", "kind"})


class Where(NamedTuple):
    """Which object: an object that was deleted and made again is another one."""

    group: str
    plural: str
    namespace: str
    name: str
    uid: str


def inventory(api: Api) -> dict[Where, str]:
    """Every object of every type in every namespace and in none, but for events, with a digest of what somebody wants of it.

    That is all but the status, and what the API server writes into the metadata by itself. Namespaces that are on their way out are
    waited for.
    """
    wait_until(lambda: not any("deletionTimestamp" in one["metadata"] for one in _objects(api, _NAMESPACES)), "namespaces are gone")
    return {
        Where(group, plural, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], obj["metadata"]["uid"]): _digest(
            obj, beating=(group, plural) in _BEATING
        )
        for path, group, plural in _types(api)
        for obj in _objects(api, f"{path}/{plural}")
    }


def differences(before: dict[Where, str], after: dict[Where, str]) -> list[str]:
    """What was removed (-), added (+) and changed (~)."""
    return [
        *(f"- {_text(one)}" for one in sorted(before.keys() - after.keys())),
        *(f"+ {_text(one)}" for one in sorted(after.keys() - before.keys())),
        *(f"~ {_text(one)}" for one in sorted(before.keys() & after.keys()) if before[one] != after[one]),
    ]


def wait_same(api: Api, before: dict[Where, str], timeout: float = 60.0) -> None:
    """Until everything is as it was; LabError with what is not."""
    found: list[str] = []

    def is_same() -> bool:
        found[:] = differences(before, inventory(api))
        return not found

    try:
        wait_until(is_same, f"{api.server} has what it had", timeout)
    except LabError as error:
        raise LabError("\n  ".join([str(error), *found])) from error


def _types(api: Api) -> Iterator[tuple[str, str, str]]:
    """Path, group and plural of each type that can be listed, in the version that its group prefers."""
    versions = [("/api/v1", "")]
    versions += [(f"/apis/{group['preferredVersion']['groupVersion']}", group["name"]) for group in api.get("/apis")["groups"]]
    for path, group in versions:
        for resource in api.get(path)["resources"]:
            if "list" in resource["verbs"] and resource["name"] not in _PASSING:
                yield path, group, resource["name"]


def _objects(api: Api, path: str) -> list[Obj]:
    try:
        found: list[Obj] = api.get(path)["items"] or []
    except ApiFailure as failure:
        if failure.status in (404, 405):  # some can be listed in part only, such as component statuses
            return []
        raise
    return [obj for obj in found if obj["metadata"].get("uid") and _IDENTITY not in obj["metadata"].get("labels", {})]


def _digest(obj: Obj, *, beating: bool) -> str:
    metadata = {key: obj["metadata"].get(key) for key in ("labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp")}
    wanted = {} if beating else {key: value for key, value in obj.items() if key not in _ANSWERS}
    return hashlib.sha256(json.dumps([metadata, wanted], sort_keys=True).encode()).hexdigest()


def _text(where: Where) -> str:
    kind = f"{where.plural}.{where.group}" if where.group else where.plural
    return " ".join(filter(None, (kind, where.namespace, where.name)))

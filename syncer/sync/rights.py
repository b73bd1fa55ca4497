"""Which verbs on the host the enabled loops need, and which of them this service account lacks.

Asked with one SelfSubjectRulesReview, which every authenticated user may make
(https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncer.sync.spec import Right

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncer.kube.client import Client
    from syncer.sync.spec import SyncSpec

OWN_RIGHTS = (
    Right(group="", resource="configmaps", verbs=("create", "get", "patch")),
    Right(group="", resource="events", verbs=("create", "get", "patch")),
)
"""What the syncer needs for itself: the owner ConfigMap of the fence, and events on it."""

ELECTION_RIGHTS = (Right(group="coordination.k8s.io", resource="leases", verbs=("create", "get", "patch")),)
"""What leader election needs besides."""


def needed_rights(specs: Iterable[SyncSpec], *, optional: bool = True, election: bool = False) -> list[Right]:
    """The union of what the loops and the syncer itself need, one entry a resource, sorted; without the `optional` ones if so asked."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for right in (*OWN_RIGHTS, *(ELECTION_RIGHTS if election else ()), *(right for spec in specs for right in spec.host_rights)):
        if optional or not right.optional:
            verbs.setdefault((right.group, right.resource), set()).update(right.verbs)
    return [Right(group=group, resource=resource, verbs=tuple(sorted(verbs[group, resource]))) for group, resource in sorted(verbs)]


def rules(rights: Iterable[Right]) -> list[dict[str, Any]]:
    """The same as the `rules` of an RBAC Role."""
    return [{"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)} for right in rights]


def lacking(rights: Iterable[Right], review: Mapping[str, Any]) -> list[Right]:
    """The rights that the `status` of a SelfSubjectRulesReview does not grant; empty when it is incomplete, for then nothing is known."""
    if review.get("incomplete"):
        return []
    granted = [
        (rule.get("apiGroups") or [], rule.get("resources") or [], rule.get("verbs") or [])
        for rule in review.get("resourceRules") or []
        if not rule.get("resourceNames")
    ]

    def has(group: str, resource: str, verb: str) -> bool:
        subresource = resource.partition("/")[2]
        names = {resource, "*", f"*/{subresource}" if subresource else "*"}
        return any(
            (group in groups or "*" in groups) and names.intersection(resources) and (verb in verbs or "*" in verbs)
            for groups, resources, verbs in granted
        )

    missing = []
    for right in rights:
        verbs = tuple(verb for verb in right.verbs if not has(right.group, right.resource, verb))
        if verbs:
            missing.append(Right(group=right.group, resource=right.resource, verbs=verbs))
    return missing


async def ask_rights(host: Client, namespace: str) -> Mapping[str, Any]:
    """The `status` of a SelfSubjectRulesReview for that namespace."""
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = await host.request_json("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body=body)
    status: Mapping[str, Any] = answer.get("status") or {}
    return status

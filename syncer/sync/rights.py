"""Which verbs and types the enabled loops need on the host, and which of them the host lacks for this service account.

Rights in the host namespace are asked for with one SelfSubjectRulesReview, those of cluster-scoped types one by one with
SelfSubjectAccessReviews: every authenticated user may make both
(https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from syncer.errors import NotFound
from syncer.kube.types import Resource
from syncer.sync.spec import Right

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from syncer.kube.client import Client
    from syncer.sync.spec import Feature, SyncSpec

_REVIEWS = "/apis/authorization.k8s.io/v1"

OWN_RIGHTS = (
    Right(group="", resource="configmaps", verbs=("create", "get", "patch")),
    Right(group="", resource="events", verbs=("create", "get", "patch")),
    Right(group="", resource="secrets", verbs=("create", "get", "patch")),
)
"""What the syncer needs for itself: the owner ConfigMap of the fence, events on it, and the Secret of the webhook's authority."""

ELECTION_RIGHTS = (Right(group="coordination.k8s.io", resource="leases", verbs=("create", "get", "patch")),)
"""What leader election needs besides."""


def needed_rights(
    specs: Iterable[SyncSpec], *, optional: bool = True, election: bool = False, features: Iterable[Feature] = ()
) -> list[Right]:
    """The union of what loops, features and the syncer itself need, one entry a resource, sorted; the `optional` ones only if so asked."""
    verbs: dict[tuple[bool, str, str], set[str]] = {}
    parts = [OWN_RIGHTS, ELECTION_RIGHTS if election else (), *(spec.host_rights for spec in specs), *(one.rights for one in features)]
    for right in (right for part in parts for right in part):
        if optional or not right.optional:
            verbs.setdefault((right.cluster, right.group, right.resource), set()).update(right.verbs)
    return [
        Right(group=group, resource=resource, verbs=tuple(sorted(verbs[cluster, group, resource])), cluster=cluster)
        for cluster, group, resource in sorted(verbs)
    ]


def rules(rights: Iterable[Right], *, cluster: bool = False) -> list[dict[str, Any]]:
    """The same as the `rules` of an RBAC Role; with `cluster`, what is to be in a ClusterRole."""
    return [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)}
        for right in rights
        if right.cluster is cluster
    ]


def lacking(rights: Iterable[Right], review: Mapping[str, Any]) -> list[Right]:
    """The rights that the `status` of a SelfSubjectRulesReview does not grant."""
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

    return _without(rights, lambda right, verb: has(right.group, right.resource, verb))


async def ask_lacking(host: Client, namespace: str, rights: Iterable[Right]) -> list[Right]:
    """Those of `rights` that this service account lacks, in the host namespace or, if they are of the cluster, everywhere."""
    rights = list(rights)
    review = await _review(host, "selfsubjectrulesreviews", "SelfSubjectRulesReview", {"namespace": namespace})
    # An authorizer that cannot list its rules, such as a webhook, makes the answer incomplete: then each right is asked for.
    open_questions = [right for right in rights if right.cluster]
    if review.get("incomplete"):
        open_questions += lacking((right for right in rights if not right.cluster), review)
    asked = [(right, verb) for right in open_questions for verb in right.verbs]
    answers = await asyncio.gather(*(_allowed(host, namespace, right, verb) for right, verb in asked))
    allowed = {(right.group, right.resource, verb) for (right, verb), yes in zip(asked, answers, strict=True) if yes}
    missing = _without(open_questions, lambda right, verb: (right.group, right.resource, verb) in allowed)
    if not review.get("incomplete"):
        missing += lacking((right for right in rights if not right.cluster), review)
    return missing


async def ask_unserved(host: Client, resources: Iterable[Resource]) -> frozenset[Resource]:
    """Those of the types that the host does not serve. Core types are always served."""
    wanted = [resource for resource in resources if resource.group]
    versions = sorted({resource.api_version for resource in wanted})
    served = dict(zip(versions, await asyncio.gather(*(_plurals(host, version) for version in versions)), strict=True))
    return frozenset(resource for resource in wanted if resource.plural not in served[resource.api_version])


async def _plurals(host: Client, api_version: str) -> frozenset[str]:
    try:
        answer = await host.request_json("GET", f"/apis/{api_version}")
    except NotFound:
        return frozenset()
    return frozenset(item["name"] for item in answer.get("resources") or ())


async def _allowed(host: Client, namespace: str, right: Right, verb: str) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"group": right.group, "resource": resource, "subresource": subresource, "verb": verb}
    if not right.cluster:
        attributes["namespace"] = namespace
    status = await _review(host, "selfsubjectaccessreviews", "SelfSubjectAccessReview", {"resourceAttributes": attributes})
    return bool(status.get("allowed"))


async def _review(host: Client, plural: str, kind: str, spec: dict[str, Any]) -> Mapping[str, Any]:
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = await host.request_json("POST", f"{_REVIEWS}/{plural}", body=body)
    status: Mapping[str, Any] = answer.get("status") or {}
    return status


def _without(rights: Iterable[Right], has: Callable[[Right, str], bool]) -> list[Right]:
    missing = []
    for right in rights:
        verbs = tuple(verb for verb in right.verbs if not has(right, verb))
        if verbs:
            missing.append(Right(group=right.group, resource=right.resource, verbs=verbs, cluster=right.cluster))
    return missing

"""What a refusal of an API server means: its cause, and words for the tenant that tell nothing of the host's other users. Pure.

API servers tell causes apart by HTTP status and by text only. A webhook or policy may answer with any status, RBAC and a
dozen admission plugins all answer 403. The texts matched here are those of Kubernetes 1.30 to 1.36:
RBAC (apiserver/pkg/endpoints/handlers/responsewriters/errors.go), quota (admission/plugin/resourcequota/controller.go),
LimitRange (plugin/pkg/admission/limitranger), webhooks (admission/plugin/webhook/errors/statuserror.go) and policies
(admission/plugin/policy/validating/dispatcher.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from syncer.errors import ApiError, Refused, Throttled
from syncer.kube.types import PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES, Lane, Obj, Resource, Side, key_of, uid_of
from syncer.naming import DOMAIN
from syncer.sync.intents import Patch

CONDITION = DOMAIN + "/Synced"
"""Condition that a refused object has as long as it is refused, with status False. A pod that the host has never had gets
PodScheduled instead, which everything that looks at pods knows."""


class Cause(StrEnum):
    """Why something was refused; the reason of events and conditions."""

    QUOTA = "ExceededQuota"
    LIMITS = "OutsideLimits"
    POD_SECURITY = "PodSecurity"
    POLICY = "AdmissionDenied"
    POLICY_UNAVAILABLE = "AdmissionUnavailable"
    RIGHTS = "MissingRight"
    NAME_TAKEN = "NameTaken"
    TOO_LARGE = "TooLarge"
    IMMUTABLE = "Immutable"
    INVALID = "Invalid"
    FORBIDDEN = "Forbidden"


SOON = 2.0
"""Seconds between two tries where what is missing may be freed at any time by others."""
LATER = 30.0
"""Seconds between two tries where a person has to change something."""

_AGAIN = {Cause.QUOTA: SOON}
_TEXT_BYTES = 500
_ADMITTED_BY_NOBODY = frozenset({400, 403, 405, 406, 413, 415, 422})
"""Statuses that mean no, whoever says so; others pass, unless the text tells of an admission plugin."""

_RBAC = re.compile(r'forbidden: User "[^"]*" cannot (?P<verb>\w+) (?:resource "(?P<resource>[^"]*)"|path)')
_WEBHOOK = re.compile(r'admission webhook "[^"]*" denied the request(?:: (?P<text>.*)| without explanation)', re.DOTALL)
_POLICY = re.compile(r"AdmissionPolicy '[^']*' with binding '[^']*' denied request:? ?(?P<text>.*)", re.DOTALL)
_WEBHOOK_DOWN = re.compile(r"failed calling webhook|failed to call webhook|webhook \"[^\"]*\" attempted to modify")
_QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<requested>.*?), used: .*?, limited: (?P<limited>.*)", re.DOTALL)
_QUOTA_WANTS = re.compile(r"failed quota: [^:]+: (?P<text>must specify .*)", re.DOTALL)
_QUOTA_OTHER = re.compile(r"status unknown for quota|insufficient quota|exceeded quota")
_LIMITS = re.compile(r"(?:minimum|maximum) \S+ usage per \S+ is|limit to request ratio per")
_POD_SECURITY = re.compile(r'violates PodSecurity "')
_TOO_LARGE = re.compile(r"request is too large|Request entity too large|larger than max|Too long: may not be more than", re.IGNORECASE)
_IMMUTABLE = re.compile(r"immutable|may not change|may not be changed|cannot be changed|cannot change", re.IGNORECASE)
_PREFIX = re.compile(r'^\S+ "[^"]*" is (?:forbidden|invalid): ')
_ACCOUNT = re.compile(r"system:(?:serviceaccount|node):[^\s\"',)\]]+")


def refusal_of(error: ApiError, side: Side, hide: Callable[[str], str]) -> Refused | None:
    """The refusal that an API server's answer is, None for a failure that passes by itself.

    `hide` puts host names in virtual terms. The message says what happened and what to do; of other users of the host it tells
    nothing: not what is used of a quota, nor which account lacks a right, nor the name of a policy. The whole text is in `internal`.
    """
    cause = cause_of(error)
    if cause is None:
        return None
    where = "the host cluster" if side is Side.HOST else "the API server of the virtual cluster"
    message, group = _words(cause, error, where, lambda text: _ACCOUNT.sub("(host)", hide(text)))
    return Refused(cause, message, group=group, again=_AGAIN.get(cause, LATER), internal=str(error))


def cause_of(error: ApiError) -> Cause | None:
    """Why an API server refused, None when it did not: it was overloaded, failing, or the object had changed."""
    text = error.message
    if isinstance(error, Throttled):
        return None
    for pattern, cause in (
        (_RBAC, Cause.RIGHTS),
        (_WEBHOOK, Cause.POLICY),
        (_POLICY, Cause.POLICY),
        (_WEBHOOK_DOWN, Cause.POLICY_UNAVAILABLE),
        (_TOO_LARGE, Cause.TOO_LARGE),
    ):
        if pattern.search(text):
            return cause
    if error.status not in _ADMITTED_BY_NOBODY:
        return None
    if error.status == 413:
        return Cause.TOO_LARGE
    if error.status == 403:
        for pattern, cause in (
            (_QUOTA_WANTS, Cause.LIMITS),
            (_QUOTA_OTHER, Cause.QUOTA),
            (_LIMITS, Cause.LIMITS),
            (_POD_SECURITY, Cause.POD_SECURITY),
        ):
            if pattern.search(text):
                return cause
        return Cause.FORBIDDEN
    return Cause.IMMUTABLE if error.status == 422 and _IMMUTABLE.search(text) else Cause.INVALID


def missing_right(error: str) -> tuple[str, str] | None:
    """Verb and resource that RBAC did not grant, by the text of its refusal."""
    match = _RBAC.search(error)
    return (match["verb"], match["resource"] or "") if match else None


def _words(cause: Cause, error: ApiError, where: str, hide: Callable[[str], str]) -> tuple[str, str]:
    """The message, and what tells this refusal's group from others of its cause."""
    text = hide(error.message)
    match cause:
        case Cause.QUOTA if quota := _QUOTA.search(text):
            message = (
                f"{where} has no room for it: it asks for {quota['requested']} of a quota that is limited to {quota['limited']}, "
                "and less than that is free; delete something, or have the quota raised"
            )
            return message, f"{cause} {quota['name']} {quota['requested']}"
        case Cause.QUOTA:
            return f"{where} cannot say yet whether its quota has room for it", cause
        case Cause.LIMITS:
            wants = _QUOTA_WANTS.search(text)
            said = f"its quota wants containers that say more: {wants['text']}" if wants else _excerpt(text)
            return f"it is outside of the limits that {where} sets: {said}; change it to fit", cause
        case Cause.POD_SECURITY:
            return f"{where} does not allow such pods: {_excerpt(text)}; change it to comply", cause
        case Cause.POLICY:
            match = _WEBHOOK.search(text) or _POLICY.search(text)
            said = (match["text"] if match else None) or "without saying why"
            return f"a policy of {where} denies it: {_excerpt(said)}", cause
        case Cause.POLICY_UNAVAILABLE:
            return f"{where} cannot judge it now: an admission webhook there fails", cause
        case Cause.RIGHTS:
            return f"the syncer lacks a right on {where}; who runs this virtual cluster has to grant it, and has been told which", cause
        case Cause.TOO_LARGE:
            return f"it is larger than {where} takes; make it smaller", cause
        case Cause.IMMUTABLE:
            return f"{where} does not let it be changed: {_excerpt(hide(_causes(error)))}; undo the change, or make it anew", cause
        case _:
            return f"{where} does not take it: {_excerpt(hide(_causes(error)))}", cause


def _causes(error: ApiError) -> str:
    """Of an Invalid the single causes; its message may hold the whole object, once as it was and once as it should be."""
    causes: list[dict[str, Any]] = error.details.get("causes") or []
    found = [f"{cause['field']}: {cause.get('message') or ''}".partition("\n")[0] for cause in causes if cause.get("field")]
    return "; ".join(dict.fromkeys(found)) or error.message


def _excerpt(text: str) -> str:
    text = _PREFIX.sub("", text).partition("\n")[0].strip()
    return text if len(text) <= _TEXT_BYTES else text[: _TEXT_BYTES - 1] + "…"


def condition_patch(resource: Resource, virtual: Obj, host: Obj | None, wanted: Refused | None, timestamp: str) -> Patch | None:
    """The patch that has the virtual object tell of the refusal, or no longer; None where it does, or its type has no conditions.

    `host` is the object that the host has already, if only a change of it was refused.
    """
    if resource not in (PODS, SERVICES, PERSISTENT_VOLUME_CLAIMS):
        return None
    if resource == PERSISTENT_VOLUME_CLAIMS and host is not None and wanted is not None:
        return None  # its conditions are the host's, all of them
    bound = bool((virtual.get("spec") or {}).get("nodeName"))
    unplaced = resource == PODS and host is None and not bound and wanted is not None and wanted.reason in _REASONS
    kind = "PodScheduled" if unplaced else CONDITION
    changes: list[Obj] = [
        {"$patch": "delete", "type": condition["type"]}
        for condition in conditions(virtual)
        if _is_ours(condition, host) and (wanted is None or condition["type"] != kind)
    ]
    if wanted is not None:
        present = next((condition for condition in conditions(virtual) if condition.get("type") == kind), {})
        if (present.get("status"), present.get("reason")) != ("False", wanted.reason):
            since = present["lastTransitionTime"] if present.get("status") == "False" and "lastTransitionTime" in present else timestamp
            changes.append({"type": kind, "status": "False", "reason": wanted.reason, "message": str(wanted), "lastTransitionTime": since})
    if not changes:
        return None
    body = {"status": {"conditions": changes}}
    return Patch(Side.VIRTUAL, resource, key_of(virtual), uid_of(virtual), body, "status", "strategic", Lane.STATUS)


def conditions(obj: Obj) -> list[Obj]:
    """`status.conditions`, never None; do not modify."""
    return (obj.get("status") or {}).get("conditions") or []


def is_marked(virtual: Obj, host: Obj | None) -> bool:
    """Whether the object tells of a refusal of ours."""
    return any(_is_ours(condition, host) for condition in conditions(virtual))


def _is_ours(condition: Obj, host: Obj | None) -> bool:
    """Whether we wrote it. A host that is a virtual cluster itself has such of its own, which are shown as all of its conditions are."""
    kind, reason = condition.get("type"), condition.get("reason")
    if kind != CONDITION and not (kind == "PodScheduled" and condition.get("status") == "False" and reason in _REASONS):
        return False
    return not any((other.get("type"), other.get("reason")) == (kind, reason) for other in conditions(host or {}))


_REASONS = frozenset(cause.value for cause in Cause)

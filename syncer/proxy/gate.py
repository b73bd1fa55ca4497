"""What a caller may do in the virtual cluster, asked of its API server with the caller's own credentials.

A SelfSubjectAccessReview so sent answers at once who calls (a wrong token is a 401), whether he may be taken for whom he
impersonates, and whether that one may do what is asked: kube-apiserver's own rules, and nothing of it is remembered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncer.errors import ApiError, Forbidden
from syncer.proxy.requests import RequestInfo

if TYPE_CHECKING:
    from syncer.kube.types import Obj
    from syncer.proxy.callers import Caller
    from syncer.proxy.relay import Relay
    from syncer.proxy.server import VirtualServers

_ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SUBJECT = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


class Gate:
    """Asks the virtual API server as the caller; what `relay` raises, ApiError or a network error, its methods raise."""

    def __init__(self, relay: Relay, servers: VirtualServers) -> None:
        self._relay = relay
        self._servers = servers

    async def require(self, caller: Caller, info: RequestInfo) -> None:
        """Return if the caller may do that. Raises Unauthorized, or Forbidden in kube-apiserver's words; ApiError if nobody can tell."""
        try:
            review = await self._ask(caller, _ACCESS, {**_kind("SelfSubjectAccessReview"), "spec": _attributes(info)})
        except Forbidden as error:
            if "selfsubjectaccessreviews" not in error.message:
                raise  # he may not impersonate whom he wants to
            # Anonymous callers may not even ask.
            raise _forbidden(info, "system:anonymous" if not caller.credentials else caller.user, "") from None
        status = review.get("status") or {}
        if status.get("allowed") is True and not status.get("denied"):
            return
        raise _forbidden(info, (await self.who(caller)).get("username") or "", status.get("reason") or "")

    async def who(self, caller: Caller) -> Obj:
        """The caller as the virtual API server knows him: authentication.k8s.io UserInfo. Raises as `require`."""
        review = await self._ask(caller, _SUBJECT, {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
        found: Obj = (review.get("status") or {}).get("userInfo") or {}
        return found

    async def _ask(self, caller: Caller, path: str, body: Obj) -> Any:
        return await self._relay.ask(self._servers.of(caller), path, caller.credentials, body)


def _kind(kind: str) -> Obj:
    return {"apiVersion": "authorization.k8s.io/v1", "kind": kind}


def _attributes(info: RequestInfo) -> Obj:
    if not info.is_resource:
        return {"nonResourceAttributes": {"verb": info.verb, "path": info.path}}
    attributes = {
        "verb": info.verb,
        "group": info.group,
        "version": info.version,
        "namespace": info.namespace,
        "resource": info.resource,
        "subresource": info.subresource,
        "name": info.name,
    }
    return {"resourceAttributes": {name: value for name, value in attributes.items() if value}}


def _forbidden(info: RequestInfo, user: str, reason: str) -> ApiError:
    """As kube-apiserver words it (responsewriters.Forbidden and apierrors.NewForbidden)."""
    tail = f": {reason}" if reason else ""
    if not info.is_resource:
        return Forbidden(403, "Forbidden", f'forbidden: User "{user}" cannot {info.verb} path "{info.path}"{tail}')
    where = f' in the namespace "{info.namespace}"' if info.namespace else " at the cluster scope"
    what = f'User "{user}" cannot {info.verb} resource "{info.kind}" in API group "{info.group}"{where}{tail}'
    qualified = f"{info.resource}.{info.group}" if info.group else info.resource
    name = f' "{info.name}"' if info.name else ""
    return Forbidden(403, "Forbidden", f"{qualified}{name} is forbidden: {what}", {"name": info.name, "kind": info.resource})

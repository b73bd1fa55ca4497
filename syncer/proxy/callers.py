"""Who calls, in the words in which the virtual API server is told.

A client certificate was verified by the TLS handshake; the front-proxy certificate asserts its subject to the virtual API server
(kubernetes.io, "Authenticating Proxy"). Tokens are passed on as they are, and whoever has
neither is for the virtual API server to know. What a client asserts of itself in `X-Remote-*` never passes.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from syncer.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from multidict import MultiMapping

ASSERTED = "x-remote-"
"""Prefix of the headers by which a front proxy tells whom it has authenticated."""
IMPERSONATED = "impersonate-"
"""Prefix of the headers by which a caller asks to be taken for another, if the virtual cluster's RBAC lets him."""

_BEARER_PROTOCOL = "base64url.bearer.authorization.k8s.io."
"""A WebSocket subprotocol that carries a token, as browsers cannot set headers (kube-apiserver's websocket authenticator)."""
_CREDENTIAL_ID = "X-Remote-Extra-Authentication.kubernetes.io%2Fcredential-Id"


@dataclass(frozen=True, slots=True)
class Caller:
    """`user` and `groups` are those of a client certificate, "" where the virtual API server has to find out.

    `credentials` are the headers that tell the virtual API server, those that ask for impersonation among them.
    """

    user: str
    groups: tuple[str, ...]
    credentials: CIMultiDict[str]

    @property
    def asserted(self) -> bool:
        """Whether the front-proxy certificate has to vouch for the credentials."""
        return bool(self.user)


def caller_of(headers: MultiMapping[str], certificate: Mapping[str, Any] | None, der: bytes | None) -> Caller:
    """Who sends these headers over a connection with that peer certificate (as `ssl` decodes it, and in DER), if it has one.

    Raises Unauthorized for a subject that no header can tell.
    """
    credentials: CIMultiDict[str] = CIMultiDict((name, value) for name, value in headers.items() if name.lower().startswith(IMPERSONATED))
    user, groups = _subject(certificate) if certificate else ("", ())
    if not user:
        if token := headers.get("Authorization") or _subprotocol_token(headers):
            credentials["Authorization"] = token
        return Caller("", (), credentials)
    if not all(text.isprintable() for text in (user, *groups)):
        raise Unauthorized(401, "Unauthorized", "the client certificate's subject has characters that cannot be passed on")
    credentials["X-Remote-User"] = user
    for group in groups:
        credentials.add("X-Remote-Group", group)
    if der:
        credentials[_CREDENTIAL_ID] = f"X509SHA256={sha256(der).hexdigest()}"
    return Caller(user, groups, credentials)


def without_token(protocols: Iterable[str]) -> list[str]:
    """WebSocket subprotocols without those that carry a token, for a server that is not to see it."""
    return [protocol for protocol in protocols if not protocol.startswith(_BEARER_PROTOCOL)]


def subprotocols(headers: MultiMapping[str]) -> list[str]:
    """What the client offers in Sec-WebSocket-Protocol, in order."""
    offered = ",".join(headers.getall("Sec-WebSocket-Protocol", []))
    return [protocol.strip() for protocol in offered.split(",") if protocol.strip()]


def _subprotocol_token(headers: MultiMapping[str]) -> str:
    for protocol in subprotocols(headers):
        if protocol.startswith(_BEARER_PROTOCOL):
            encoded = protocol.removeprefix(_BEARER_PROTOCOL)
            try:
                return f"Bearer {urlsafe_b64decode(encoded + '=' * (-len(encoded) % 4)).decode('ascii')}"
            except ValueError:
                return ""
    return ""


def _subject(certificate: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The common name is the user, each organization a group: the rule of kube-apiserver's x509 authenticator."""
    fields = [pair for part in certificate.get("subject", ()) for pair in part]
    user = next((value for name, value in fields if name == "commonName"), "")
    return user, tuple(value for name, value in fields if name == "organizationName")

"""Who calls, in the words in which the virtual API server is told.

A client certificate was verified by the TLS handshake; the front-proxy certificate asserts its subject to the virtual API server
(kubernetes.io, "Authenticating Proxy"). Tokens are passed on as they are, and whoever has
neither is for the virtual API server to know. What a client asserts of itself in `X-Remote-*` never passes.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import dataclass
from hashlib import sha256
from ssl import cert_time_to_seconds
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
class Identity:
    """Whom a client certificate names; `expires` is its end in epoch seconds."""

    user: str
    groups: tuple[str, ...]
    credential_id: str
    expires: float


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


def caller_of(headers: MultiMapping[str], identity: Identity | None, now: float) -> Caller:
    """Who sends these headers over a connection with that client certificate, if it has one.

    Raises Unauthorized for a certificate that has expired since the handshake, and for a subject that no header can tell as it is.
    """
    credentials: CIMultiDict[str] = CIMultiDict((name, value) for name, value in headers.items() if name.lower().startswith(IMPERSONATED))
    if identity is None:
        if token := headers.get("Authorization") or _subprotocol_token(headers):
            credentials["Authorization"] = token
        return Caller("", (), credentials)
    if identity.expires <= now:
        raise Unauthorized(401, "Unauthorized", "the client certificate has expired")
    if not all(text.isprintable() and text == text.strip() for text in (identity.user, *identity.groups)):
        raise Unauthorized(401, "Unauthorized", "the client certificate's subject has characters that cannot be passed on")
    credentials["X-Remote-User"] = identity.user
    for group in identity.groups:
        credentials.add("X-Remote-Group", group)
    credentials[_CREDENTIAL_ID] = identity.credential_id
    return Caller(identity.user, identity.groups, credentials)


def identity_of(certificate: Mapping[str, Any], der: bytes) -> Identity | None:
    """Whom a verified certificate (as `ssl` decodes it, and in DER) names: the rules of kube-apiserver's x509 authenticator.

    The common name, of several the last one as Go reads them, is the user, and each organization a group. None for one without a
    common name.
    """
    fields = [pair for part in certificate.get("subject", ()) for pair in part]
    user = next((value for name, value in reversed(fields) if name == "commonName"), "")
    if not user:
        return None
    groups = tuple(value for name, value in fields if name == "organizationName")
    return Identity(user, groups, f"X509SHA256={sha256(der).hexdigest()}", cert_time_to_seconds(certificate["notAfter"]))


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

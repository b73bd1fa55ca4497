"""Issues certificates: `python -m syncer.proxy.authority`. A process of its own (see `certificates`), since the library it needs
is large; nothing else imports it.

Reads one JSON object from standard input:

- `{ca, ca_key, life}` (PEM texts of an authority to go on with) or `{life}`: for the webhook on this machine's loopback. Prints
  `{ca, ca_key, certificate, key, issued, expires}`. `ca` is what to trust: after the authority itself come its predecessors,
  whose certificates may be served until they end.
- `{ca, ca_key, names, life}`: for the API server of a virtual cluster, whose authority is given. Prints
  `{certificate, key, issued, expires, last}`, or `{refused, why}` with which of `ca` and `ca_key` cannot be used. `last` tells
  that the certificate ends with its authority, so that another one would last no longer.

`life` is seconds. All but the times, which are seconds since the epoch, are PEM texts.
"""

from __future__ import annotations

import ipaddress
import json
import math
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

CA_LIFE = timedelta(days=3650)
_LIVES = 4
"""Of its certificates that a new authority of the webhook lasts at least. One with less than two left is replaced."""
RENEW_AFTER = 0.8
"""Of the life of a control plane's certificate: then there is time left to find out why there is no other."""
_SKEW = timedelta(minutes=5)
"""Certificates begin that long ago, for clocks that were set back since."""
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_Authority = tuple[x509.Certificate, _Key]


class Unusable(ValueError):
    """The `field` of the request is none to issue certificates with."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def issue(request: dict[str, Any], now: datetime) -> dict[str, Any]:
    """What to print for a request."""
    if "wanted" in request:
        return issue_identities(request, datetime.fromtimestamp(request["now"], UTC))
    if "keys" in request:
        return make_authorities(request, now)
    if "names" not in request:
        return issue_loopback(request, now)
    try:
        return issue_front(request, now)
    except Unusable as error:
        return {"refused": error.field, "why": str(error)}


def issue_loopback(request: dict[str, Any], now: datetime) -> dict[str, Any]:
    """A serving certificate of the authority in `request`, or of a new one when that is missing or near its end."""
    life = timedelta(seconds=request["life"])
    ca, ca_key = _given(request, now + 2 * life) or _new_authority("syncer admission webhook CA", now, max(CA_LIFE, _LIVES * life))
    trusted = [ca, *(older for older in _trusted(request) if older != ca and older.not_valid_after_utc > now)]
    return {
        **_served(_subject("syncer admission webhook"), ["localhost", "127.0.0.1"], (ca, ca_key), now, now + life),
        "ca": "".join(_text(authority) for authority in trusted),
        "ca_key": _pem(ca_key),
    }


def issue_front(request: dict[str, Any], now: datetime) -> dict[str, Any]:
    """A serving certificate of exactly the authority in `request`; Unusable if that can issue none."""
    chain, key = _chain(request["ca"]), _private_key(request["ca_key"])
    ca = chain[0]
    if ca.public_key() != key.public_key():
        raise Unusable("ca_key", "is not the key of that certificate")
    if ca.not_valid_after_utc <= now:
        raise Unusable("ca", f"has expired at {ca.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    wanted = now + timedelta(seconds=request["life"])
    issued = _served(_subject("kube-apiserver"), request["names"], (ca, key), now, min(wanted, ca.not_valid_after_utc))
    # Clients trust roots; what is between has to come with the certificate.
    issued["certificate"] += "".join(_text(above) for above in chain if above.subject != above.issuer)
    return {**issued, "last": wanted >= ca.not_valid_after_utc}


def make_authorities(request: dict[str, Any], now: datetime) -> dict[str, Any]:
    """New authorities and keys of these names."""
    made = {name: _new_authority(name, now) for name in request["authorities"]}
    return {
        "authorities": {name: {"certificate": _text(ca), "key": _pem(key)} for name, (ca, key) in made.items()},
        # kube-apiserver takes the public part out of a private key of this form only.
        "keys": {name: _pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.TraditionalOpenSSL) for name in request["keys"]},
    }


def issue_identities(request: dict[str, Any], now: datetime) -> dict[str, Any]:
    """What is wanted and not had yet, and when to ask again."""
    authorities = {name: (_chain(pair["certificate"])[0], _private_key(pair["key"])) for name, pair in request["authorities"].items()}
    life = timedelta(seconds=request["life"])
    issued: dict[str, Any] = {}
    renewals = []
    for name, wanted in request["wanted"].items():
        ca, ca_key = authorities[wanted["authority"]]
        certificate, key = _had(request["had"].get(name))
        if certificate is None or not _fits(certificate, wanted, ca, key) or now.timestamp() >= (_renewal(certificate, ca) or math.inf):
            end = min(now + life, ca.not_valid_after_utc)
            subject, usages = _subject(wanted["common_name"], wanted["organizations"]), wanted["usages"]
            certificate = _issue(subject, wanted["names"], usages, key, (ca, ca_key), now, end)
            issued[name] = {"certificate": _text(certificate), "key": _pem(key)}
        renewals.append(_renewal(certificate, ca))
    return {"issued": issued, "renew_at": min((at for at in renewals if at is not None), default=None)}


def _had(pair: dict[str, str] | None) -> tuple[x509.Certificate | None, ec.EllipticCurvePrivateKey]:
    """The certificate that is there, if it can be read, and the key that is there or a new one."""
    try:
        key = load_pem_private_key((pair or {})["key"].encode(), None)
    except (KeyError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None, ec.generate_private_key(ec.SECP256R1())
    try:
        return x509.load_pem_x509_certificate((pair or {})["certificate"].encode()), key
    except (KeyError, ValueError):
        return None, key


def _fits(had: x509.Certificate, wanted: dict[str, Any], ca: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    leaf = [extension.value for extension in had.extensions]
    alike = all(extension in leaf for extension in _particulars(wanted["names"], wanted["usages"]))
    more = bool(wanted["names"]) != any(isinstance(value, x509.SubjectAlternativeName) for value in leaf)
    subject = _subject(wanted["common_name"], wanted["organizations"])
    return alike and not more and had.subject == subject and had.public_key() == key.public_key() and _has_issued(ca, had)


def _renewal(certificate: x509.Certificate, ca: x509.Certificate) -> float | None:
    """When another one should take its place; None if that would last no longer."""
    begin, end = certificate.not_valid_before_utc + _SKEW, certificate.not_valid_after_utc
    return None if end >= ca.not_valid_after_utc else begin.timestamp() + RENEW_AFTER * (end - begin).total_seconds()


def _served(subject: x509.Name, names: list[str], authority: _Authority, now: datetime, end: datetime) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _issue(subject, names, ["server"], key, authority, now, end)
    return {
        "certificate": _text(certificate),
        "key": _pem(key),
        "issued": now.timestamp(),
        "expires": certificate.not_valid_after_utc.timestamp(),
    }


def _issue(
    subject: x509.Name,
    names: list[str],
    usages: list[str],
    key: ec.EllipticCurvePrivateKey,
    authority: _Authority,
    now: datetime,
    end: datetime,
) -> x509.Certificate:
    ca, ca_key = authority
    builder = (
        _builder(subject, key, now, end)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(_identifier(ca), critical=False)
    )
    for extension in _particulars(names, usages):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _particulars(names: list[str], usages: list[str]) -> list[x509.ExtensionType]:
    """The extensions in which certificates of one authority differ."""
    named = [x509.SubjectAlternativeName([_general_name(one) for one in names])] if names else []
    return [x509.ExtendedKeyUsage([_USAGES[usage] for usage in usages]), *named]


def _subject(common_name: str, organizations: Iterable[str] = ()) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """As the authority names its key itself: there are several ways, and OpenSSL wants both to be equal."""
    try:
        own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]  # RSA or EC, as its private key is
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _chain(text: str) -> list[x509.Certificate]:
    """The authority, and what vouches for it: the certificates of the file that each are the issuer of the one before."""
    try:
        first, *others = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise Unusable("ca", "holds no certificate in PEM form") from None
    try:
        is_authority = first.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise Unusable("ca", "is no certificate of an authority")
    chain = [first]
    while above := next((other for other in others if other not in chain and _has_issued(other, chain[-1])), None):
        chain.append(above)
    return chain


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _private_key(text: str) -> _Key:
    try:
        key = load_pem_private_key(text.encode(), None)
    except TypeError:
        raise Unusable("ca_key", "is protected by a passphrase") from None
    except ValueError:
        raise Unusable("ca_key", "holds no private key in PEM form") from None
    if not isinstance(key, _Key):
        raise Unusable("ca_key", "is neither an RSA nor an EC key")
    return key


def _given(request: dict[str, Any], until: datetime) -> _Authority | None:
    if not (trusted := _trusted(request)):
        return None
    ca = trusted[0]
    key = load_pem_private_key(request["ca_key"].encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or ca.public_key() != key.public_key():
        raise ValueError("the authority's certificate and key do not belong together")
    return (ca, key) if ca.not_valid_after_utc > until else None


def _trusted(request: dict[str, Any]) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(request["ca"].encode()) if request.get("ca") else []


def _new_authority(name: str, now: datetime, life: timedelta = CA_LIFE) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = (
        _builder(_subject(name), key, now, now + life)
        .issuer_name(_subject(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(digital_signature=True, key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return ca, key


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _pem(key: _Key, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


if __name__ == "__main__":
    json.dump(issue(json.load(sys.stdin), datetime.now(UTC)), sys.stdout)

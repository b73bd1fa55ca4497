"""Issues a certificate for this machine's loopback: `python -m syncer.proxy.authority`.

Reads one JSON object from standard input, `{ca, ca_key}` (PEM texts of an authority to go on with) or `{}`, and prints
`{ca, ca_key, certificate, key, expires}`: PEM texts, and seconds since the epoch. `ca` is what to trust: after the
authority itself come its predecessors, whose certificates may be served until they end. It is a process of its own (see
`certificates`), since the library it needs is large; nothing else imports it.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE = timedelta(days=3650)
LIFE = timedelta(days=365)
_SKEW = timedelta(minutes=5)
"""Certificates begin that long ago, for clocks that were set back since."""

_Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def issue(request: dict[str, str], now: datetime) -> dict[str, str | float]:
    """A serving certificate of the authority in `request`, or of a new one when that is missing or near its end."""
    ca, ca_key = _given(request, now) or _new_authority(now)
    trusted = [ca, *(older for older in _trusted(request) if older != ca and older.not_valid_after_utc > now)]
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("syncer admission webhook", key, now, LIFE)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return {
        "ca": "".join(authority.public_bytes(Encoding.PEM).decode() for authority in trusted),
        "ca_key": _pem(ca_key),
        "certificate": certificate.public_bytes(Encoding.PEM).decode(),
        "key": _pem(key),
        "expires": certificate.not_valid_after_utc.timestamp(),
    }


def _given(request: dict[str, str], now: datetime) -> _Authority | None:
    if not (trusted := _trusted(request)):
        return None
    ca = trusted[0]
    key = load_pem_private_key(request["ca_key"].encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or ca.public_key() != key.public_key():
        raise ValueError("the authority's certificate and key do not belong together")
    return (ca, key) if ca.not_valid_after_utc - now > 2 * LIFE else None


def _trusted(request: dict[str, str]) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(request["ca"].encode()) if request.get("ca") else []


def _new_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("syncer admission webhook CA", key, now, CA_LIFE)
    ca = (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "syncer admission webhook CA")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(digital_signature=True, key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return ca, key


def _builder(name: str, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
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


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


if __name__ == "__main__":
    json.dump(issue(json.load(sys.stdin), datetime.now(UTC)), sys.stdout)

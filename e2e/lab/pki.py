"""Certificate authorities and certificates, in files named as k3s names them.

A `tls` directory holds three authorities (`server-ca`, `client-ca`, `request-header-ca`), what they issued, and `service.key`, which signs
service account tokens. What exists and still fits is kept, so a restarted component has the same certificate.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_LIFE = dt.timedelta(days=3650)
_USAGE = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in `<directory>/<name>.crt` and `.key`; made when it is not there.

    With a `life` all that it issues is made anew, and lasts that long.
    """

    def __init__(self, directory: Path, name: str, *, life: dt.timedelta | None = None) -> None:
        self._life = life
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self.name = name
        self.cert = directory / f"{name}.crt"
        self.key = directory / f"{name}.key"
        if not (self.cert.exists() and self.key.exists()):
            key = _make_key(self.key)
            _write(
                self.cert, _sign(_subject(name, ()), key, issuer=_subject(name, ()), issuer_key=key, extensions=_authority_extensions(key))
            )

    def issue(
        self,
        name: str,
        common_name: str,
        organizations: Sequence[str] = (),
        usage: Literal["client", "server"] = "client",
        sans: Iterable[str] = (),
    ) -> Certificate:
        """`<directory>/<name>.crt` and `.key` for a subject; `sans` are host names and IP addresses.

        An existing one is kept if it is of this authority, subject, usage and has these names; else it is made anew.
        """
        issued = Certificate(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        authority = x509.load_pem_x509_certificate(self.cert.read_bytes())
        extensions = _leaf_extensions(authority, usage, sorted(set(sans)))
        if self._life is None and issued.key.exists() and issued.cert.exists():
            had = x509.load_pem_x509_certificate(issued.cert.read_bytes())
            same = had.subject == _subject(common_name, organizations) and [e.value for e in had.extensions] == [e for e, _ in extensions]
            if same and _is_issued_by(had, authority):
                return issued
        authority_key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        key = _make_key(issued.key)
        _write(
            issued.cert,
            _sign(
                _subject(common_name, organizations),
                key,
                issuer=authority.subject,
                issuer_key=authority_key,
                extensions=extensions,
                life=self._life or _LIFE,
            ),
        )
        return issued


def service_account_key(directory: Path) -> Path:
    """The key that signs service account tokens, `service.key`; made when it is not there. An API server verifies with the same file."""
    path = directory / "service.key"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_key(path)
    return path


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


_Extensions = list[tuple[x509.ExtensionType, bool]]


def _authority_extensions(key: ec.EllipticCurvePrivateKey) -> _Extensions:
    return [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (_key_usage(sign=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]


def _leaf_extensions(authority: x509.Certificate, usage: str, sans: list[str]) -> _Extensions:
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    extensions: _Extensions = [
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(sign=False), True),
        (x509.ExtendedKeyUsage([_USAGE[usage]]), False),
    ]
    if sans:
        extensions.append((x509.SubjectAlternativeName([_general_name(san) for san in sans]), False))
    return extensions


def _general_name(san: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(san))
    except ValueError:
        return x509.DNSName(san)


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=sign,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 - InvalidSignature, ValueError or TypeError: each says that it is another authority's
        return False
    return True


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: _Extensions,
    life: dt.timedelta = _LIFE,
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - dt.timedelta(minutes=5),  # clocks of containers may lag
        not_valid_after=now + life,
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    _write(
        path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    return key


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
    new.replace(path)

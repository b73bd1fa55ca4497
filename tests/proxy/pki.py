"""Certificate authorities as a virtual control plane might have them, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def ec_key(curve: ec.EllipticCurve | None = None) -> Key:
    return ec.generate_private_key(curve or ec.SECP256R1())


def rsa_key() -> Key:
    return rsa.generate_private_key(65537, 2048)


@dataclass(frozen=True)
class Pki:
    """An authority: its certificate and key."""

    certificate: x509.Certificate
    key: Key

    @classmethod
    def make(cls, name: str = "server CA", *, key: Key | None = None, above: Pki | None = None, days: float = 3650, ca: bool = True) -> Pki:
        """`above` is who issues it; `days` is when it ends from now."""
        key = key or ec_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            above.certificate.subject if above else subject,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(days=4000),
            now + timedelta(days=days),
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        # An identifier of its own kind, as Go since 1.25 makes it; what it is made of is nobody else's business.
        builder = builder.add_extension(x509.SubjectKeyIdentifier(name.encode()), critical=False)
        return cls(builder.sign((above or cls(None, key)).key, hashes.SHA256()), key)  # type: ignore[arg-type]  # only its key is used

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, form: PrivateFormat = PrivateFormat.TraditionalOpenSSL, password: bytes = b"") -> str:
        hidden = BestAvailableEncryption(password) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, form, hidden).decode()

    def client(self, user: str) -> str:
        """A client certificate and its key."""
        key = ec_key()
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            self.certificate.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)]),
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(hours=1),
        )
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode() + Pki(self.certificate, key).key_pem()


@dataclass(frozen=True)
class Files:
    """Where a virtual control plane keeps its authorities."""

    directory: Path

    @property
    def ca_cert(self) -> Path:
        return self.directory / "server-ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.directory / "server-ca.key"

    @property
    def client_ca(self) -> Path:
        return self.directory / "client-ca.crt"

    def write_server(self, authority: Pki) -> None:
        self.ca_cert.write_text(authority.pem)
        self.ca_key.write_text(authority.key_pem())

    def write_client(self, *authorities: Pki) -> None:
        self.client_ca.write_text("".join(authority.pem for authority in authorities))

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from syncer.errors import SyncerError
from syncer.proxy import authority
from syncer.proxy.certificates import Certificates, issue_certificates

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def parsed(pem: object) -> x509.Certificate:
    return x509.load_pem_x509_certificate(str(pem).encode())


def test_the_certificate_is_for_loopback_servers_only() -> None:
    issued = authority.issue({}, NOW)
    ca, certificate = parsed(issued["ca"]), parsed(issued["certificate"])
    certificate.verify_directly_issued_by(ca)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_lives() -> None:
    issued = authority.issue({}, NOW)
    ca, certificate = parsed(issued["ca"]), parsed(issued["certificate"])
    assert certificate.not_valid_after_utc == NOW + timedelta(days=365)
    assert issued["expires"] == certificate.not_valid_after_utc.timestamp()
    assert ca.not_valid_after_utc == NOW + timedelta(days=3650)
    assert certificate.not_valid_before_utc < NOW


@pytest.mark.parametrize(("years", "same"), [(0, True), (7, True), (9, False), (11, False)])
def test_an_authority_is_kept_while_it_outlives_what_it_issues(years: int, same: bool) -> None:
    first = authority.issue({}, NOW)
    request = {"ca": str(first["ca"]), "ca_key": str(first["ca_key"])}
    second = authority.issue(request, NOW + timedelta(days=365 * years))
    assert (second["ca"] == first["ca"]) is same
    assert second["certificate"] != first["certificate"]
    parsed(second["certificate"]).verify_directly_issued_by(parsed(second["ca"]))


def test_a_key_of_another_authority_is_refused() -> None:
    one, other = authority.issue({}, NOW), authority.issue({}, NOW)
    with pytest.raises(ValueError, match="do not belong together"):
        authority.issue({"ca": str(one["ca"]), "ca_key": str(other["ca_key"])}, NOW)


async def test_issued_by_another_process() -> None:
    first = await issue_certificates()
    assert first.expires_at == pytest.approx(time.time() + 365 * 86400, abs=300)
    assert first.renew_at == first.expires_at - 30 * 86400
    second = await issue_certificates(first)
    assert second.ca == first.ca
    assert second.certificate != first.certificate


async def test_a_failure_is_told_in_one_line() -> None:
    garbled = Certificates(ca=b"x", ca_key=b"y", certificate=b"", key=b"", expires_at=0.0)
    with pytest.raises(SyncerError, match=r"^issuing the certificate of the admission webhook failed: ValueError: .*\Z"):
        await issue_certificates(garbled)


async def test_no_patience() -> None:
    with pytest.raises(SyncerError, match=r"took longer than 0\.001 s"):
        await issue_certificates(patience=0.001)


def test_keys_are_not_in_the_text_of_the_object() -> None:
    assert "hidden" not in repr(Certificates(ca=b"", ca_key=b"hidden", certificate=b"", key=b"hidden", expires_at=0.0))

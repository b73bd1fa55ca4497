from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from syncer.errors import SyncerError
from syncer.proxy import authority
from syncer.proxy.certificates import LIFE, Certificates, Served, Unusable, issue_certificates, issue_served
from tests.proxy.pki import Pki, ec_key, rsa_key

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def parsed(pem: object) -> x509.Certificate:
    return x509.load_pem_x509_certificate(str(pem).encode())


def test_the_certificate_is_for_loopback_servers_only() -> None:
    issued = authority.issue({"life": LIFE}, NOW)
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
    issued = authority.issue({"life": LIFE}, NOW)
    ca, certificate = parsed(issued["ca"]), parsed(issued["certificate"])
    assert certificate.not_valid_after_utc == NOW + timedelta(days=365)
    assert issued["expires"] == certificate.not_valid_after_utc.timestamp()
    assert ca.not_valid_after_utc == NOW + timedelta(days=3650)
    assert certificate.not_valid_before_utc < NOW


@pytest.mark.parametrize(("years", "same"), [(0, True), (7, True), (9, False), (11, False)])
def test_an_authority_is_kept_while_it_outlives_what_it_issues(years: int, same: bool) -> None:
    first = authority.issue({"life": LIFE}, NOW)
    request = {"ca": str(first["ca"]), "ca_key": str(first["ca_key"]), "life": LIFE}
    second = authority.issue(request, NOW + timedelta(days=365 * years))
    assert (second["ca"] == first["ca"]) is same
    assert second["certificate"] != first["certificate"]
    parsed(second["certificate"]).verify_directly_issued_by(parsed(second["ca"]))


@pytest.mark.parametrize("years", [4.9, 5, 6, 30, 100])
def test_an_authority_outlives_certificates_of_any_life(years: float) -> None:
    """Else each replica would make one of its own whenever it issues."""
    life = 365 * 86400.0 * years
    first = authority.issue({"life": life}, NOW)
    second = authority.issue({"ca": first["ca"], "ca_key": first["ca_key"], "life": life}, NOW + timedelta(seconds=0.8 * life))
    assert second["ca"] == first["ca"]
    assert parsed(second["certificate"]).not_valid_after_utc < parsed(second["ca"]).not_valid_after_utc


def test_an_authority_that_is_too_short_for_a_longer_life_is_replaced_once() -> None:
    first = authority.issue({"life": LIFE}, NOW)
    second, third = first, first
    for later in (1, 2):
        request = {"ca": second["ca"], "ca_key": second["ca_key"], "life": 6 * LIFE}
        second, third = authority.issue(request, NOW + timedelta(days=later)), second
    assert second["ca"] == third["ca"] != first["ca"]
    assert str(second["ca"]).count("BEGIN") == 2, "the former one is trusted until it ends"


def test_a_key_of_another_authority_is_refused() -> None:
    one, other = authority.issue({"life": LIFE}, NOW), authority.issue({"life": LIFE}, NOW)
    with pytest.raises(ValueError, match="do not belong together"):
        authority.issue({"ca": str(one["ca"]), "ca_key": str(other["ca_key"]), "life": LIFE}, NOW)


async def test_issued_by_another_process() -> None:
    first = await issue_certificates()
    assert first.expires_at == pytest.approx(time.time() + 365 * 86400, abs=300)
    assert first.renew_at == pytest.approx(time.time() + 0.8 * 365 * 86400, abs=300)
    second = await issue_certificates(first)
    assert second.ca == first.ca
    assert second.certificate != first.certificate


async def test_a_failure_is_told_in_one_line() -> None:
    garbled = Certificates(b"", b"", 0.0, 0.0, ca=b"x", ca_key=b"y")
    with pytest.raises(SyncerError, match=r"^issuing the certificate of the admission webhook failed: ValueError: .*\Z"):
        await issue_certificates(garbled)


async def test_no_patience() -> None:
    with pytest.raises(SyncerError, match=r"took longer than 0\.001 s"):
        await issue_certificates(patience=0.001)


NAMES = ["*.nodes.vcluster.com", "::1", "10.96.0.7", "kubernetes"]


def front(made: Pki, key: str = "", *, ca: str = "", life: float = 3600.0) -> dict[str, object]:
    return authority.issue_front({"ca": ca or made.pem, "ca_key": key or made.key_pem(), "names": NAMES, "life": life}, datetime.now(UTC))


class TestFront:
    def test_the_certificate_is_for_servers_of_these_names(self) -> None:
        made = Pki.make()
        certificate = parsed(front(made)["certificate"])
        certificate.verify_directly_issued_by(made.certificate)
        assert certificate.subject.rfc4514_string() == "CN=kube-apiserver"
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["*.nodes.vcluster.com", "kubernetes"]
        assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["::1", "10.96.0.7"]
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == b"server CA"
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"

    @pytest.mark.parametrize("key", [ec_key(), ec_key(ec.SECP384R1()), rsa_key()], ids=["P-256", "P-384", "RSA"])
    @pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
    def test_keys_of_the_authority(self, key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> None:
        made = Pki.make(key=key)
        parsed(front(made, made.key_pem(form))["certificate"]).verify_directly_issued_by(made.certificate)

    def test_parameters_before_the_key(self) -> None:
        made = Pki.make()
        parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        assert front(made, parameters + made.key_pem())["certificate"]

    def test_what_is_between_it_and_the_root_comes_along(self) -> None:
        root, other = Pki.make("root"), Pki.make("other")
        between = Pki.make("between", above=root)
        made = Pki.make(above=between)
        text = front(made, ca=made.pem + other.pem + root.pem + between.pem)["certificate"]
        leaf, *above = x509.load_pem_x509_certificates(str(text).encode())
        leaf.verify_directly_issued_by(made.certificate)
        assert above == [made.certificate, between.certificate]

    @pytest.mark.parametrize(("days", "expected", "last"), [(30, 10, False), (10.5, 10, False), (9, 9, True)])
    def test_it_never_outlives_the_authority(self, days: float, expected: float, last: bool) -> None:
        issued = front(Pki.make(days=days), life=10 * 86400.0)
        end = parsed(issued["certificate"]).not_valid_after_utc
        assert (end - datetime.now(UTC)).total_seconds() == pytest.approx(expected * 86400, abs=120)
        assert (issued["expires"], issued["last"]) == (end.timestamp(), last)

    async def test_issued_by_another_process(self) -> None:
        made = Pki.make()
        issued = await issue_served(made.pem, made.key_pem(), NAMES, life=600)
        parsed(issued.certificate.decode()).verify_directly_issued_by(made.certificate)
        assert issued.renew_at == pytest.approx(time.time() + 480, abs=120)
        assert issued.renew_at == pytest.approx(issued.issued_at + 480, abs=1)

    async def test_what_is_wrong_with_the_authority_is_told(self) -> None:
        made = Pki.make()
        with pytest.raises(Unusable, match="is not the key of that certificate") as caught:
            await issue_served(made.pem, Pki.make().key_pem(), NAMES)
        assert caught.value.field == "ca_key"

    def test_one_that_ends_with_its_authority_is_not_renewed(self) -> None:
        assert Served(b"", b"", 0.0, 100.0).renew_at == 80.0
        assert Served(b"", b"", 0.0, 100.0, last=True).renew_at == float("inf")


def test_keys_are_not_in_the_text_of_the_object() -> None:
    assert "hidden" not in repr(Certificates(b"", b"hidden", 0.0, 0.0, ca=b"", ca_key=b"hidden"))

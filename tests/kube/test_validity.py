from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.validity import Validity, validities

AUTHORITY = trustme.CA()
PEM = AUTHORITY.cert_pem.bytes()


def parsed(pem: bytes) -> Validity:
    certificate = x509.load_pem_x509_certificate(pem)
    return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


@pytest.mark.parametrize("year", [1985, 2031, 2049, 2050, 3000])
def test_as_the_library_reads_it(year: int) -> None:
    """Before 2050 years have two digits."""
    leaf = AUTHORITY.issue_cert(
        "a.example", not_after=datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC), not_before=datetime(1980, 1, 1, tzinfo=UTC)
    )
    pem = leaf.cert_chain_pems[0].bytes()
    assert validities(pem) == [parsed(pem)]
    assert datetime.fromtimestamp(validities(pem)[0].ends, UTC) == datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_all_of_a_bundle_and_only_certificates() -> None:
    leaf = AUTHORITY.issue_cert("b.example")
    bundle = b"# comment\n" + leaf.cert_chain_pems[0].bytes() + leaf.private_key_pem.bytes() + b"\n" + PEM
    assert validities(bundle) == [parsed(leaf.cert_chain_pems[0].bytes()), parsed(PEM)]


@pytest.mark.parametrize("text", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----"])
def test_of_what_is_none_nothing_is_told(text: bytes) -> None:
    assert validities(text) == []


@given(st.binary(max_size=80))
def test_no_bytes_break_it(der: bytes) -> None:
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    assert validities(pem + PEM)[-1] == parsed(PEM)


@given(st.integers(0, 400), st.integers(0, 255))
def test_nor_does_a_broken_certificate(at: int, byte: int) -> None:
    der = bytearray(x509.load_pem_x509_certificate(PEM).public_bytes(Encoding.DER))
    der[at % len(der)] = byte
    validities(b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n")

"""From when until when certificates are good, read out of PEM. Nothing else of them is looked at, and nothing is verified.

The library for certificates would cost the daemon 9 MB for good (see proxy.certificates); `ssl` tells this only of authorities and peers.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from datetime import UTC, datetime
from typing import NamedTuple

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


class Validity(NamedTuple):
    """Epoch seconds."""

    begins: float
    ends: float


def validities(pem: bytes) -> list[Validity]:
    """Of each certificate in `pem`, in order; those that cannot be read are left out."""
    found = []
    for block in _PEM.findall(pem):
        try:
            found.append(_validity(a2b_base64(block)))
        except (Base64Error, ValueError, IndexError):
            continue
    return found


def _validity(der: bytes) -> Validity:
    """RFC 5280, 4.1: Certificate { tbsCertificate { [0] version?, serialNumber, signature, issuer, validity { begin, end }, … } … }."""
    _, certificate, _ = _element(der, _SEQUENCE)
    _, rest, _ = _element(certificate, _SEQUENCE)
    tag, _, after = _element(rest)
    if tag == _VERSION:
        _, _, after = _element(after)
    for _ in ("signature", "issuer"):
        _, _, after = _element(after, _SEQUENCE)
    _, times, _ = _element(after, _SEQUENCE)
    begin_tag, begin, more = _element(times)
    end_tag, end, _ = _element(more)
    return Validity(_seconds(begin_tag, begin), _seconds(end_tag, end))


def _element(der: bytes, expected: int | None = None) -> tuple[int, bytes, bytes]:
    """The first element's tag and content, and what comes after it."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if (expected is not None and tag != expected) or start + length > len(der):
        raise ValueError("not DER, or not what was expected there")
    return tag, der[start : start + length], der[start + length :]


def _seconds(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()

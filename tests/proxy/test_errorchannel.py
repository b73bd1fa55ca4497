from __future__ import annotations

import random

import pytest

from syncer.proxy.errorchannel import LONGEST, ErrorChannel


def frame(payload: bytes, *, first: int = 0x82) -> bytes:
    """As a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload


def shown(text: str) -> str:
    return text.replace("web-x-default-x-blue", "web")


ERROR = b'{"message":"no container in web-x-default-x-blue"}'
SHOWN = b'{"message":"no container in web"}'
PASSED = [
    frame(b""),
    frame(b"\1out web-x-default-x-blue"),
    frame(b"\2" + b"x" * 200),
    frame(b"\1" + b"\3" * 70_000),
    frame(b"\1begins", first=0x02),
    frame(b"\3is the middle of an output", first=0x00),
    frame(b"\3and the end", first=0x80),
    frame(b"\x03\xe8bye", first=0x88),
    frame(b"", first=0x89),
    frame(b"\3ping", first=0x89),
]
SENT = [
    *((part, part) for part in PASSED),
    (frame(b"\3" + ERROR), frame(b"\3" + SHOWN)),
    (frame(b"\3"), frame(b"\3")),
    (frame(b"\3" + ERROR, first=0x81), frame(b"\3" + SHOWN)),
    (frame(b"\3" + b" " * 120 + ERROR), frame(b"\3" + b" " * 120 + SHOWN)),
    (frame(b"\3" + b" " * 70_000 + ERROR), frame(b"\3" + b" " * 70_000 + SHOWN)),
    (frame(b"\1last"), frame(b"\1last")),
]


@pytest.mark.parametrize("longest", [1, 2, 3, 7, 100, 65536, 10**7])
def test_errors_are_rewritten_and_nothing_else(longest: int) -> None:
    chance = random.Random(longest)
    sent, expected = b"".join(a for a, _ in SENT), b"".join(b for _, b in SENT)
    channel, passed, at = ErrorChannel(shown), b"", 0
    while at < len(sent):
        piece = sent[at : at + chance.randint(1, longest)]
        passed += channel.feed(piece)
        at += len(piece)
    assert passed == expected


def test_outputs_do_not_wait_for_their_end() -> None:
    channel, whole = ErrorChannel(shown), frame(b"\1" + b"x" * 100_000)
    assert channel.feed(whole[:50_000]) == whole[:50_000]
    assert channel.feed(b"") == b""
    assert channel.feed(whole[50_000:]) == whole[50_000:]


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"\3" + ERROR, first=0xC2),
        frame(b"\1out", first=0xA2),
        bytes([0x82, 0x85]) + b"mask" + b"\3text",
        frame(b"\3half of an err", first=0x02),
        frame(b"\3" + b"x" * LONGEST),
        bytes([0x82, 127]) + b"\xff" * 8 + b"\3",
    ],
    ids=["compressed", "another bit", "masked", "in parts", "too long", "far too long"],
)
def test_what_cannot_be_read_does_not_pass(sent: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(a frame that is masked|an error in several)"):
        ErrorChannel(shown).feed(sent)

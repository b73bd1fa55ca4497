from __future__ import annotations

import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import SyncerError
from syncer.releases import spdy

PING = bytes.fromhex("8003000600000004 00000002")
RESET = bytes.fromhex("8003000300000008 00000003 00000005")
GOAWAY = bytes.fromhex("8003000700000008 00000003 00000000")
REPLY = bytes.fromhex("8003000200000006 00000003 ffff")


def frame(stream: int, content: bytes, *, last: bool = False) -> bytes:
    return stream.to_bytes(4, "big") + bytes([last]) + len(content).to_bytes(3, "big") + content


def headers(packed: bytes, unpacker: zlib._Decompress) -> dict[str, str]:
    block, texts = unpacker.decompress(packed), []
    at = 4
    while at < len(block):
        length = int.from_bytes(block[at : at + 4], "big")
        texts.append(block[at + 4 : at + 4 + length].decode())
        at += 4 + length
    assert int.from_bytes(block[:4], "big") * 2 == len(texts)
    return dict(zip(texts[::2], texts[1::2], strict=True))


def test_both_streams_are_opened_with_headers_of_one_compression() -> None:
    opening, unpacker, found = spdy.opening(8443), zlib.decompressobj(), []
    while opening:
        length = int.from_bytes(opening[5:8], "big")
        head, content, opening = opening[:5], opening[8 : 8 + length], opening[8 + length :]
        found.append((head, int.from_bytes(content[:4], "big"), content[4:10], headers(content[10:], unpacker)))
    rest = {"port": "8443", "requestid": "0"}
    assert found == [
        (bytes.fromhex("80030001 01"), 1, bytes(6), {"streamtype": "error", **rest}),
        (bytes.fromhex("80030001 00"), 3, bytes(6), {"streamtype": "data", **rest}),
    ]


def test_what_is_sent() -> None:
    assert spdy.data(b"abc") == frame(3, b"abc")
    assert spdy.end_of_data() == frame(3, b"", last=True)


def merged(frames: list[spdy.Data | spdy.Reset | spdy.Ping]) -> list[object]:
    """Pieces of one frame as one."""
    found: list[object] = []
    for one in frames:
        before = found[-1] if found else None
        if isinstance(one, spdy.Data) and isinstance(before, spdy.Data) and before.stream == one.stream and not before.last:
            found[-1] = spdy.Data(one.stream, before.content + one.content, one.last)
        else:
            found.append(one)
    return found


@given(st.lists(st.integers(0, 90)), st.binary(min_size=1, max_size=40))
def test_frames_come_in_any_pieces(cuts: list[int], content: bytes) -> None:
    whole = REPLY + frame(3, content) + PING + frame(3, b"") + frame(1, content, last=True) + frame(3, b"", last=True) + RESET + GOAWAY
    edges = [0, *sorted({cut for cut in cuts if cut < len(whole)}), len(whole)]
    reader = spdy.Reader()
    found = [one for start, end in itertools.pairwise(edges) for one in reader.feed(whole[start:end])]
    data = spdy.Data(3, content, last=False)
    last = [spdy.Data(1, content, last=True), spdy.Data(3, b"", last=True)]
    assert merged(found) == [data, spdy.Ping(PING), *last, spdy.Reset(3), spdy.Reset(0)]


@pytest.mark.parametrize("piece", [bytes.fromhex("8002000600000004"), b"\x80\x00\x00\x00HTTP", b"\xff" * 8])
def test_something_else_is_refused(piece: bytes) -> None:
    with pytest.raises(SyncerError, match="not SPDY 3"):
        spdy.Reader().feed(piece)

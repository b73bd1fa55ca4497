"""The part of SPDY 3.1 in which Kubernetes forwards a connection to a pod: a stream of data, and one of what went wrong.

Bytes in, bytes out. Kubernetes' implementation (moby/spdystream) has no flow control of its own, so each connection gets a tunnel of
its own: what one does not take must not hold up another. Headers are compressed without SPDY's dictionary, which a zlib stream need
not use; those of answers say nothing, and are not read.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from syncer.errors import SyncerError

if TYPE_CHECKING:
    from collections.abc import Mapping

ERRORS, DATA = 1, 3
"""Identifiers of the two streams; those that a client opens are odd."""
LONGEST = 1 << 24
"""Bytes that a frame's length, of 24 bits, stays below."""

_FIN = 0x01
_CONTROL = 0x8003_0000
_HEAD = 8


class _Kind(IntEnum):
    SYN_STREAM = 1
    RST_STREAM = 3
    PING = 6
    GOAWAY = 7


class Data(NamedTuple):
    """Bytes of a stream, the last ones if `last`."""

    stream: int
    content: bytes
    last: bool


@dataclass(frozen=True)
class Reset:
    """A stream broke off; 0 for all of them."""

    stream: int


@dataclass(frozen=True)
class Ping:
    """To be sent back as it is."""

    frame: bytes


def opening(port: int) -> bytes:
    """What asks for a connection to a pod's port: the stream of errors, on which nothing will be sent, and that of data."""
    compressor = zlib.compressobj()
    found = b""
    for stream, kind in ((ERRORS, "error"), (DATA, "data")):
        block = _headers({"streamtype": kind, "port": str(port), "requestid": "0"})
        packed = compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
        content = stream.to_bytes(4, "big") + bytes(6) + packed
        found += _control(_Kind.SYN_STREAM, content, flags=_FIN if stream == ERRORS else 0)
    return found


def data(content: bytes) -> bytes:
    """Bytes for the pod, fewer than LONGEST."""
    return _frame(DATA, 0, content)


def end_of_data() -> bytes:
    """Nothing more will be sent to the pod; what it sends is still wanted."""
    return _frame(DATA, _FIN, b"")


class Reader:
    """Takes frames apart that come in pieces. Data is passed on as it comes, before its frame is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stream = 0
        self._left = 0
        self._last = False

    def feed(self, piece: bytes) -> list[Data | Reset | Ping]:
        """What came with that piece. Raises SyncerError for what is not SPDY 3."""
        self._buffer += piece
        found: list[Data | Reset | Ping] = []
        while True:
            if self._left:
                taken = bytes(self._buffer[: self._left])
                if not taken:
                    return found
                del self._buffer[: len(taken)]
                self._left -= len(taken)
                found.append(Data(self._stream, taken, self._last and not self._left))
                continue
            if len(self._buffer) < _HEAD:
                return found
            first, length = int.from_bytes(self._buffer[:4], "big"), int.from_bytes(self._buffer[5:8], "big")
            flags = self._buffer[4]
            if not first >> 31:
                del self._buffer[:_HEAD]
                self._stream, self._left, self._last = first, length, bool(flags & _FIN)
                if self._last and not length:
                    found.append(Data(first, b"", last=True))
                continue
            if first >> 16 != _CONTROL >> 16:
                raise SyncerError(f"the host's API server sent something that is not SPDY 3: {bytes(self._buffer[:_HEAD])!r}")
            if len(self._buffer) < _HEAD + length:
                return found
            frame = bytes(self._buffer[: _HEAD + length])
            del self._buffer[: _HEAD + length]
            kind = first & 0xFFFF
            if kind == _Kind.RST_STREAM:
                found.append(Reset(int.from_bytes(frame[_HEAD : _HEAD + 4], "big")))
            elif kind == _Kind.GOAWAY:
                found.append(Reset(0))
            elif kind == _Kind.PING:
                found.append(Ping(frame))


def _headers(headers: Mapping[str, str]) -> bytes:
    block = len(headers).to_bytes(4, "big")
    for text in (text for pair in headers.items() for text in pair):
        block += len(text).to_bytes(4, "big") + text.encode()
    return block


def _control(kind: _Kind, content: bytes, flags: int) -> bytes:
    return _frame(_CONTROL | kind, flags, content)


def _frame(first: int, flags: int, content: bytes) -> bytes:
    return first.to_bytes(4, "big") + bytes([flags]) + len(content).to_bytes(3, "big") + content

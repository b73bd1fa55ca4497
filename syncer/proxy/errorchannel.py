"""WebSockets of exec and attach, read far enough to take the host out of what it says went wrong.

An API server that speaks SPDY with its kubelets (before Kubernetes 1.36, or with older nodes) has switched protocols before it
connects to them. What goes wrong then it tells in a message on the error channel, a Status in the words of the kubelet, which names
the pod (apiserver's StreamTranslatorHandler, KEP 4006; RFC 6455, 5.2 for the frames).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOLS = frozenset({"v4.channel.k8s.io", "v5.channel.k8s.io"})
"""Subprotocols in which the first byte of a message is its channel."""
LONGEST = 1 << 20
"""Bytes of a message about an error."""

_ERROR = 3
_TEXT, _BINARY = 1, 2


class ErrorChannel:
    """What a server sends, with the text of its errors as `hide` leaves it."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        self._head = bytearray()
        self._left = 0
        self._held: bytearray | None = None

    def feed(self, data: bytes) -> bytes:
        """What can be passed on of it, and of what came before. Raises ValueError for what could not be read here, or by no client."""
        if self._held is None and self._left >= len(data):
            self._left -= len(data)
            return data
        passed = bytearray()
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if self._held is None:
                    passed += piece
                else:
                    self._held += piece
            else:
                missing = _head_length(self._head) - len(self._head)
                self._head += data[at : at + missing]
                at += missing
                if len(self._head) == _head_length(self._head):
                    passed += self._begin()
            if self._held is not None and not self._left:
                passed += self._rewritten(self._held)
                self._held = None
        return bytes(passed)

    def _begin(self) -> bytes:
        """A head is complete, and so is the first byte of what follows: what can be passed on of that."""
        head, length = bytes(self._head), _payload_length(self._head)
        self._head.clear()
        if head[0] & 0x70 or head[1] & 0x80:
            raise ValueError("a frame that is masked, or of an extension that was not agreed upon")
        self._left = length - 1 if length else 0
        if head[0] & 0x0F not in (_TEXT, _BINARY) or not length or head[-1] != _ERROR:
            return head
        if not head[0] & 0x80 or length > LONGEST:
            raise ValueError("an error in several frames, or too long a one")
        self._held = bytearray()
        return b""

    def _rewritten(self, message: bytearray) -> bytes:
        content = bytes([_ERROR]) + self._hide(message.decode(errors="replace")).encode()
        size = len(content)
        if size < 126:
            head = bytes([0x80 | _BINARY, size])
        elif size < 1 << 16:
            head = bytes([0x80 | _BINARY, 126]) + size.to_bytes(2, "big")
        else:
            head = bytes([0x80 | _BINARY, 127]) + size.to_bytes(8, "big")
        return head + content


def _head_length(head: bytearray) -> int:
    """How long a head is that begins so, with the first byte of its payload if it has one; no more than can be told yet."""
    if len(head) < 2:
        return 2
    plain = 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
    return plain if len(head) < plain else plain + (_payload_length(head) > 0)


def _payload_length(head: bytearray) -> int:
    match head[1] & 0x7F:
        case 126:
            return int.from_bytes(head[2:4], "big")
        case 127:
            return int.from_bytes(head[2:10], "big")
        case length:
            return length

"""How the text of a flag becomes a value. Every function raises ValueError with words for a person."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PIECE = re.compile(rf"({_NUMBER})(ns|us|µs|ms|s|m|h)")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Address(NamedTuple):
    """Where a server listens; host "" is every interface, port 0 a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def duration(text: str) -> float:
    """Seconds from what Go's flags take (`1h30m`, `1.5s`, `200ms`) or from a plain number of seconds; more than nothing."""
    if re.fullmatch(_NUMBER, text):
        seconds = float(text)
    elif re.fullmatch(rf"({_PIECE.pattern})+", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(text))
    else:
        raise ValueError(f"{text!r} is not a duration; write 15s, 1m30s or a number of seconds")
    if seconds <= 0:
        raise ValueError(f"{text!r} must be longer than nothing")
    return seconds


def truth(text: str) -> bool | None:
    """A boolean as Go's flags take it (1, t, true, 0, f, false, in any case), None when it is none."""
    return {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}.get(text.lower())


def boolean(text: str) -> bool:
    """As `truth`, but anything else is an error."""
    if (value := truth(text)) is None:
        raise ValueError(f"{text!r} is neither true nor false")
    return value


def dns_label(text: str) -> str:
    """A name of RFC 1123 that Kubernetes takes for namespaces, services and label values."""
    if len(text) > 63 or not _LABEL.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a name: use at most 63 lower case letters, digits and '-', and begin and end with one of the former"
        )
    return text


def dns_subdomain(text: str) -> str:
    """DNS labels joined by dots, at most 253 characters."""
    if len(text) > 253 or not all(_LABEL.fullmatch(part) for part in text.split(".")):
        raise ValueError(f"{text!r} is not a DNS name: use lower case letters, digits, '-' and '.', at most 253 characters")
    return text


def address(text: str) -> Address:
    """`host:port`, `[v6]:port` or `:port`; the host has to be an IP address."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon:
        raise ValueError(f"{text!r} is not an address; write host:port, for example 0.0.0.0:8081")
    if host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IP address; write for example 127.0.0.1:{port}") from None
    return Address(host, tcp_port(port))


def tcp_port(text: str) -> int:
    """A port number; 0 picks a free one."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port; write a number from 0 (pick a free one) to 65535")
    return int(text)


def cidr(text: str) -> str:
    """An IP range in its canonical form."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IP range ({error}); write for example 10.96.0.0/12") from None


def image_pair(text: str) -> tuple[str, str]:
    """`image=other` as (image, other)."""
    image, equals, other = text.partition("=")
    if not (image and equals and other):
        raise ValueError(f"{text!r} is not of the form image=other")
    return image, other


def count(text: str) -> int:
    """A whole number, not negative."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    if not re.fullmatch(_NUMBER, text) or float(text) > 1:
        raise ValueError(f"{text!r} is not a number from 0 to 1")
    return float(text)


def choice(*values: str) -> Callable[[str], str]:
    """A parser of one of these words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError(f"{text!r} is none of {', '.join(values)}")
        return text.lower()

    return parse

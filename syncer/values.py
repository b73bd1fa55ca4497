"""The types of settings: what values they have, and how the text of a flag becomes one.

A text that cannot is answered with words for a person, which tell what to write.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from syncer.kube.types import Obj
from syncer.translate.selectors import parse_selector

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PIECE = re.compile(rf"({_NUMBER})(ns|us|µs|ms|s|m|h)")
_SHORTEST_LIFE = 600.0
_LONGEST_LIFE = 100 * 365 * 86400.0
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


def _text(parse: Callable[[str], Any]) -> BeforeValidator:
    """Reads a text; what is none is left to the type."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _else(words: str) -> WrapValidator:
    """Answers whatever the type refuses with the value and these words."""

    def validate(value: Any, accept: ValidatorFunctionWrapHandler) -> Any:
        try:
            return accept(value)
        except ValidationError:
            raise ValueError(f"{str(value)!r} {words}") from None

    return WrapValidator(validate)


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


def _sensible(seconds: float) -> float:
    if seconds < _SHORTEST_LIFE:
        raise ValueError("certificates have to last 10m at least, so that there is time to renew them")
    if seconds > _LONGEST_LIFE:
        raise ValueError("certificates may last 876000h at most, which is a hundred years")
    return seconds


def _whole(seconds: float) -> float:
    if seconds != int(seconds):
        raise ValueError("a Lease knows whole seconds only")
    return seconds


def _address(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon:
        raise ValueError(f"{text!r} is not an address; write host:port, for example 0.0.0.0:8081")
    return host, port


def _ip(text: str) -> str:
    try:
        return text and str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address; write for example 127.0.0.1") from None


def _cidr(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IP range ({error}); write for example 10.96.0.0/12") from None


def _one_of_each_family(cidrs: tuple[str, ...]) -> tuple[str, ...]:
    families = [ipaddress.ip_network(text).version for text in cidrs]
    if len(set(families)) != len(families):
        raise ValueError("takes one range of each IP family; give one that covers all of the host's")
    return cidrs


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _images(text: str) -> dict[str, str]:
    pairs = {}
    for item in _items(text):
        image, _, other = item.partition("=")
        if not (image and other):
            raise ValueError(f"{item!r} is not of the form image=other")
        pairs[image] = other
    return pairs


def _tolerations(text: str) -> tuple[Obj, ...]:
    return tuple(_toleration(item) for item in _items(text))


def _toleration(text: str) -> Obj:
    """`key=value:Effect`, any part of which may be left out, or `*` for everything."""
    found = re.fullmatch(r"(?P<key>\*|[\w./-]+)(=(?P<value>[\w.-]*))?(:(?P<effect>\w+))?", text)
    if found is None:
        raise ValueError(f"{text!r} is not a toleration; write key=value:Effect, key:Effect, key=value, key or *")
    key, value, effect = found["key"], found["value"], found["effect"]
    if effect not in (None, "NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ValueError(f"{text!r}: there is no effect {effect!r}; it is NoSchedule, PreferNoSchedule or NoExecute")
    if key == "*" and value is not None:
        raise ValueError(f"{text!r}: * tolerates every taint, so no value can be given")
    toleration: Obj = {} if key == "*" else {"key": key}
    toleration |= {"operator": "Exists"} if value is None else {"operator": "Equal", "value": value}
    return {**toleration, "effect": effect} if effect else toleration


def _selector(text: str) -> str:
    parse_selector(text)
    return text


Switch = Annotated[bool, _else("is neither true nor false")]
Label = Annotated[
    str,
    StringConstraints(pattern=f"^{_LABEL}$", max_length=63),
    _else("is not a name: use at most 63 lower case letters, digits and '-', and begin and end with one of the former"),
]
"""A name of RFC 1123 that Kubernetes takes for namespaces, services and label values."""
Subdomain = Annotated[
    str,
    StringConstraints(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=253),
    _else("is not a DNS name: use lower case letters, digits, '-' and '.', at most 253 characters"),
]
"""Labels joined by dots."""
Count = Annotated[int, Field(ge=0), _else("is not a whole number from 0 up")]
Fraction = Annotated[float, Field(ge=0, le=1), _else("is not a number from 0 to 1")]
Port = Annotated[int, Field(ge=0, le=65535), _else("is not a port; write a number from 0 (pick a free one) to 65535")]
"""A TCP port, 0 picks a free one."""
Duration = Annotated[float, Field(gt=0), _text(duration)]
"""Seconds."""
CertificateLife = Annotated[Duration, AfterValidator(_sensible)]
LeaseDuration = Annotated[Duration, AfterValidator(_whole)]
LogFormat = Annotated[Literal["auto", "json", "console"], _text(str.lower), _else("is none of auto, json, console")]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], _text(str.lower), _else("is none of debug, info, warning, error")]
Names = Annotated[tuple[str, ...], _text(_items)]
Ranges = Annotated[tuple[Annotated[str, _text(_cidr)], ...], AfterValidator(_one_of_each_family), _text(_items)]
"""IP ranges in their canonical form, at most one of each family."""
Images = Annotated[Mapping[str, str], _text(_images)]
"""By the image to replace, the one to use."""


class Address(NamedTuple):
    """Where a server listens; host "" is every interface, port 0 a free one."""

    host: Annotated[str, AfterValidator(_ip)]
    port: Port

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


IPAddress = Annotated[str, AfterValidator(_ip)]
File = Annotated[Path, _text(Path)]
BindAddress = Annotated[Address, _text(_address)]
"""`host:port`, `[v6]:port` or `:port`; the host has to be an IP address."""

Tolerations = Annotated[tuple[Obj, ...], _text(_tolerations)]
"""As in a pod's spec."""
Selector = Annotated[str, AfterValidator(_selector)]
"""A label selector as `kubectl --selector` takes it."""

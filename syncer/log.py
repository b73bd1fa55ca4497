"""Structured logs on standard error: JSON lines in a pod, colour in a terminal.

`structlog.get_logger("syncer.part")` and one event name per state change is all that callers need. Values that are no
JSON become text, values under a secret's name are struck out, and errors that are part of ordinary operation are told
in one line, without a traceback. Records of libraries that log through the standard library join in from warning upwards.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from syncer.errors import NETWORK_ERRORS, SyncerError
from syncer.kube import codec

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_SECRETS = ("token", "data", "stringdata", "secret", "password", "authorization", "kubeconfig")
_SECRET_ENDINGS = ("_token", "_secret", "_password")
_STRUCK_OUT = "[redacted]"
_JSON_TYPES = frozenset({str, int, float, bool, type(None)})


def configure(style: str, level: str, stream: TextIO | None = None) -> None:
    """Set up logging of the whole process.

    `style` is json, console, or auto (console if `stream`, by default standard error, is a terminal); `level` is the lowest
    one to be written: debug, info, warning or error.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    json = style == "json" or (style == "auto" and not terminal)
    console = structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        explain_error,
        make_plain,
    ]
    structlog.configure(
        processors=[*shared, encode if json else console],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(stream.buffer) if json else structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    foreign = logging.StreamHandler(stream)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _encode_text if json else console],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[foreign], force=True)
    logging.captureWarnings(True)


def explain_error(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: `exc_info` becomes one line, `error`, for what belongs to ordinary operation, and a traceback, `exception`, for a bug."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, (SyncerError, *NETWORK_ERRORS)):
        event["error"] = _one_line(error)
    elif isinstance(error, BaseException):
        event["exception"] = "".join(traceback.format_exception(error)).rstrip()
    return event


def make_plain(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: strikes out the values of keys that name a secret, at any depth, and makes text of what is not JSON."""
    for name, value in event.items():
        if _is_secret(name):
            event[name] = _STRUCK_OUT
        elif type(value) not in _JSON_TYPES:
            event[name] = _plain(value)
    return event


def encode(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    """Renderer: one line of JSON that begins with timestamp, level and event."""
    line = {"timestamp": event.pop("timestamp", None), "level": event.pop("level", None), "event": event.pop("event", None), **event}
    try:
        return codec.dumps(line)
    except TypeError:  # an integer beyond 64 bits, or text with a lone surrogate: no reason to lose the line
        return codec.dumps({name: ascii(value) for name, value in line.items()})


def _encode_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return encode(logger, method, event).decode()


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    name = name.lower().replace("-", "_")
    return name in _SECRETS or name.endswith(_SECRET_ENDINGS)


def _plain(value: Any) -> Any:
    if type(value) in _JSON_TYPES:
        return value
    if isinstance(value, Mapping):
        return {str(name): _STRUCK_OUT if _is_secret(str(name)) else _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and not hasattr(value, "_fields"):  # a named tuple has words of its own
        return [_plain(part) for part in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return _one_line(value) if isinstance(value, BaseException) else str(value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

from __future__ import annotations

import io
import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from syncer import log
from syncer.errors import ConfigError, api_error
from syncer.kube.types import PODS, Key, Side

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stream() -> Iterator[io.TextIOWrapper]:
    """What standard error is for these tests; the process's logging is put back afterwards."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    logging.captureWarnings(False)
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


def written(stream: io.TextIOWrapper) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text(stream).splitlines()]


def text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def test_a_line_is_json_that_begins_with_when_how_grave_and_what(stream: io.TextIOWrapper) -> None:
    log.configure("auto", "info", stream)
    structlog.get_logger("syncer.test").info("pod.synced", resource="pods", key=Key("a", "b"), side=Side.HOST, writes=2)
    (line,) = written(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "info", "event": "pod.synced", "resource": "pods", "key": "a/b", "side": "host", "writes": 2}


@pytest.mark.parametrize(("level", "events"), [("debug", ["d", "i", "w", "e"]), ("info", ["i", "w", "e"]), ("error", ["e"])])
def test_level(stream: io.TextIOWrapper, level: str, events: list[str]) -> None:
    log.configure("json", level, stream)
    logger = structlog.get_logger()
    logger.debug("d")
    logger.info("i")
    logger.warning("w")
    logger.error("e")
    assert [line["event"] for line in written(stream)] == events


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("token", "abc", "[redacted]"),
        ("Password", "abc", "[redacted]"),
        ("access_token", "abc", "[redacted]"),
        ("client-secret", "abc", "[redacted]"),
        ("data", {"k": "abc"}, "[redacted]"),
        ("secret", None, "[redacted]"),
        ("body", {"kind": "Secret", "data": {"k": "abc"}}, {"kind": "Secret", "data": "[redacted]"}),
        ("list", [{"token": "abc"}, {"tokens": 2}], [{"token": "[redacted]"}, {"tokens": 2}]),
        ("data_key", "tls.crt", "tls.crt"),
        ("resource", PODS, "pods"),
        ("verbs", ("get", "list"), ["get", "list"]),
        ("raw", b"abc", "<3 bytes>"),
        ("cause", ValueError("one\n two"), "one two"),
        ("cause", ValueError(), "ValueError"),
        ("number", 1.5, 1.5),
        ("odd", {1: object}, {"1": "<class 'object'>"}),
    ],
)  # fmt: skip
def test_values(stream: io.TextIOWrapper, name: str, value: object, shown: object) -> None:
    log.configure("json", "info", stream)
    structlog.get_logger().info("event", **{name: value})
    assert written(stream)[0][name] == shown


def test_what_json_cannot_say_does_not_lose_the_line(stream: io.TextIOWrapper) -> None:
    log.configure("json", "info", stream)
    structlog.get_logger().info("event", name="\udcff", number=2**70)
    (line,) = written(stream)
    assert line["name"] == r"'\udcff'"
    assert line["number"] == str(2**70)


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            ConfigError("--name: is wrong"),
            api_error(409, {"reason": "Conflict", "message": "changed"}),
            TimeoutError("no answer"),
            ConnectionRefusedError(111, "refused"),
        ],
    )
    def test_expected_ones_are_one_line(self, stream: io.TextIOWrapper, error: Exception) -> None:
        log.configure("json", "info", stream)
        logger = structlog.get_logger()
        logger.error("given", exc_info=error)
        try:
            raise error
        except type(error):
            logger.exception("caught")
        for line in written(stream):
            assert line["error"] == str(error)
            assert "exception" not in line

    def test_bugs_have_a_traceback(self, stream: io.TextIOWrapper) -> None:
        log.configure("json", "info", stream)
        try:
            raise KeyError("oops")
        except KeyError:
            structlog.get_logger().exception("bug")
        (line,) = written(stream)
        assert line["exception"].startswith("Traceback (most recent call last):")
        assert line["exception"].endswith("KeyError: 'oops'")

    def test_a_call_outside_of_any_error_is_fine(self, stream: io.TextIOWrapper) -> None:
        log.configure("json", "info", stream)
        structlog.get_logger().error("event", exc_info=True)
        assert written(stream)[0].keys() == {"timestamp", "level", "event"}


class TestForeignRecords:
    def test_join_in_from_warning_upwards(self, stream: io.TextIOWrapper) -> None:
        log.configure("json", "debug", stream)
        logging.getLogger("aiohttp.access").info("GET /")
        logging.getLogger("aiohttp.server").warning("odd %s", "thing")
        (line,) = written(stream)
        assert line.pop("timestamp")
        assert line == {"level": "warning", "event": "odd thing", "logger": "aiohttp.server"}

    def test_have_a_traceback_only_for_bugs(self, stream: io.TextIOWrapper) -> None:
        log.configure("json", "info", stream)
        for error in (ValueError("bug"), ConnectionResetError("gone")):
            logging.getLogger("asyncio").error("failed", exc_info=error)
        bug, ordinary = written(stream)
        assert bug["exception"].endswith("ValueError: bug")
        assert ordinary["error"] == "gone"
        assert "Traceback" not in text(stream).splitlines()[1]

    def test_warnings_of_python_are_among_them(self, stream: io.TextIOWrapper) -> None:
        log.configure("json", "info", stream)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)
            logging.captureWarnings(True)
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        assert "DeprecationWarning: old" in written(stream)[0]["event"]


@pytest.mark.parametrize(
    ("style", "terminal", "json_lines"), [("console", False, False), ("auto", True, False), ("auto", False, True), ("json", True, True)]
)
def test_style(stream: io.TextIOWrapper, style: str, terminal: bool, json_lines: bool) -> None:
    stream.isatty = lambda: terminal  # type: ignore[method-assign]  # a terminal, as far as anybody can tell
    log.configure(style, "info", stream)
    structlog.get_logger().info("pod.synced", key=Key("a", "b"), token="abc")
    logging.getLogger("foreign").warning("hello")
    lines = text(stream).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("{") for line in lines) is json_lines
    assert "pod.synced" in lines[0]
    assert "a/b" in lines[0]
    assert "abc" not in lines[0]
    assert ("\x1b[" in lines[0]) is (terminal and not json_lines)


def test_console_shows_the_traceback_of_a_bug(stream: io.TextIOWrapper) -> None:
    log.configure("console", "info", stream)
    try:
        raise KeyError("oops")
    except KeyError:
        structlog.get_logger().exception("bug")
    assert "Traceback (most recent call last):" in text(stream)
    assert "KeyError: 'oops'" in text(stream)

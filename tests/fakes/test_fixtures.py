"""The fixtures of tests/conftest.py do what they promise."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import structlog
from blockbuster import BlockingError
from structlog.typing import EventDict

import syncer

BLOCKING = compile("time.sleep(0)", str(Path(syncer.__file__).with_name("somewhere.py")), "exec")
"""Code that pretends to be of this project."""


async def test_code_that_blocks_the_loop_fails() -> None:
    with pytest.raises(BlockingError):
        exec(BLOCKING, {"time": time})


def test_the_same_code_may_block_without_a_loop() -> None:
    exec(BLOCKING, {"time": time})


def test_logs_are_captured(logs: list[EventDict]) -> None:
    structlog.get_logger("syncer.test").warning("thing.happened", key="a")
    assert logs == [{"event": "thing.happened", "log_level": "warning", "key": "a"}]

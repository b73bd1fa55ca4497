"""What the documents say of tests is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`((?:tests|e2e)/\S+?\.py)::(\w+)`", (ROOT / "docs" / "compatibility.md").read_text())


def test_there_are_some() -> None:
    assert len(NAMED) > 50


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)), ids=lambda part: part)
def test_the_named_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE)

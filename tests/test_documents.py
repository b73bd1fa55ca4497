"""What the documents say of tests is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = {
    document: re.findall(r"`((?:tests|e2e)/\S+?\.py)::(\w+)`", (ROOT / "docs" / document).read_text())
    for document in ("compatibility.md", "threat-model.md")
}
THREATS = [line for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines() if line.count(" | ") == 3]
"""Lines of the tables of what could go wrong, their headings left out."""


def test_there_are_some() -> None:
    assert all(len(named) > 50 for named in NAMED.values())


@pytest.mark.parametrize("line", [line for line in THREATS if not line.startswith("| surface |")])
def test_each_threat_has_a_test(line: str) -> None:
    assert "::test_" in line.rpartition(" | ")[2]


@pytest.mark.parametrize(("file", "name"), sorted({found for named in NAMED.values() for found in named}), ids=lambda part: part)
def test_the_named_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE)

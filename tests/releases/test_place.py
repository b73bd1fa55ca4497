from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from syncer.commands.connect import Place
from syncer.releases.contexts import Entry, Origin, names

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = Origin("demo", "ns", "kind").context


def entry(port: int, certificate: str = "first") -> Entry:
    return Entry(CONTEXT, {"server": f"https://127.0.0.1:{port}"}, {"client-certificate-data": certificate})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "config"
    found.write_text(yaml.safe_dump({"current-context": "kind", "contexts": [{"name": "kind", "context": {}}]}))
    return found


def certificate(file: Path) -> str:
    return str(yaml.safe_load(file.read_text())["users"][0]["user"]["client-certificate-data"])


def current(file: Path) -> str:
    return str(yaml.safe_load(file.read_text())["current-context"])


def test_there_renewed_and_back(file: Path) -> None:
    place = Place([file], current=True)
    assert place.enter(entry(1)) == "kind"
    assert current(file) == CONTEXT
    place.enter(entry(1, "second"))
    assert certificate(file) == "second"
    assert place.leave("kind") == "kind"
    assert names([yaml.safe_load(file.read_text())]) == ["kind"]


def test_a_renewal_makes_nothing_current(file: Path) -> None:
    place = Place([file], current=True)
    place.enter(entry(1))
    file.write_text(file.read_text().replace(f"current-context: {CONTEXT}", "current-context: kind"))
    place.enter(entry(1, "second"))
    assert (current(file), certificate(file)) == ("kind", "second")


def test_two_that_are_connected_to_the_same_do_not_disturb_each_other(file: Path) -> None:
    first, second = Place([file], current=True), Place([file], current=True)
    first.enter(entry(1))
    assert second.enter(entry(2)) == CONTEXT
    first.enter(entry(1, "second"))
    assert certificate(file) == "first"
    assert first.leave("kind") == CONTEXT
    assert second.leave(CONTEXT) == "kind"


def test_a_context_that_is_not_made_current(file: Path) -> None:
    place = Place([file], current=False)
    place.enter(entry(1))
    assert current(file) == "kind"
    assert place.leave("kind") == "kind"

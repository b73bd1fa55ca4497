from __future__ import annotations

import json

import pytest
import yaml

from syncer.releases.forms import FORMS, age, plain, rendered, table

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""


@pytest.mark.parametrize(
    ("then", "shown"),
    [
        ("", ""),
        ("2027-01-15T08:00:00Z", "0s"),
        ("2027-01-15T07:58:01Z", "119s"),
        ("2027-01-15T07:58:00.000000Z", "2m"),
        ("2027-01-15T06:00:01Z", "119m"),
        ("2027-01-15T05:55:00Z", "2h05m"),
        ("2027-01-13T08:00:01Z", "47h59m"),
        ("2027-01-13T08:00:00Z", "2d"),
        ("2027-01-15T08:00:20Z", "-20s"),
        ("2027-01-15T08:00:00.500000Z", "0s"),
    ],
)
def test_age(then: str, shown: str) -> None:
    assert age(then, NOW) == shown


def test_a_table() -> None:
    assert table(("NAME", "WHY"), [("a", ""), ("longer", "two\nlines")]) == ["NAME    WHY", "a", "longer  two lines"]
    assert table(("NAME",), []) == ["NAME"]


def test_nothing_but_text_reaches_a_terminal() -> None:
    assert plain("a\x1b[2Jb\r\n  c\u202e\x00 \u00fc") == "a?[2Jb c?? \u00fc"
    assert table(("N",), [("\x1b]0;x\x07",)])[1] == "?]0;x?"


@pytest.mark.parametrize("form", FORMS)
def test_a_document_is_read_back_as_it_was(form: str) -> None:
    document = {"b": [1, None, "ü: no"], "a": {"since": "2027-01-15T08:00:00Z", "long": "x " * 200}}
    text = rendered(document, form)
    read = json.loads(text) if form == "json" else yaml.safe_load(text)
    assert read == document
    assert list(read) == ["b", "a"]

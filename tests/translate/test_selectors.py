from __future__ import annotations

from typing import Any

import pytest

from syncer.translate.selectors import equalities, matches, parse_selector, selector_text

WEB = {"app": "web", "tier": "front", "example.com/zone": "a"}


@pytest.mark.parametrize(
    ("text", "matched", "equal"),
    [
        ("", True, {}),
        ("app=web", True, {"app": "web"}),
        ("app==web, tier = front", True, {"app": "web", "tier": "front"}),
        ("app=db", False, {"app": "db"}),
        ("example.com/zone=a", True, {"example.com/zone": "a"}),
        ("empty=", False, {"empty": ""}),
        ("app=web,app=db", False, None),
        ("app!=db", True, None),
        ("other!=db", True, None),
        ("app in (db, web),tier=front", True, None),
        ("app in (web)", True, {"app": "web"}),
        ("app notin (db,web)", False, None),
        ("app", True, None),
        ("!app", False, None),
        ("! other", True, None),
    ],
)
def test_text(text: str, matched: bool, equal: dict[str, str] | None) -> None:
    selector = parse_selector(text)
    assert matches(selector, WEB) is matched
    assert equalities(selector) == equal
    assert parse_selector(selector_text(selector)) == selector


@pytest.mark.parametrize("text", ["a b", "=web", "app in web", "app in (a", "a>1", "app=web;tier=x"])
def test_no_selector(text: str) -> None:
    with pytest.raises(ValueError, match="is not a label requirement"):
        parse_selector(text)


@pytest.mark.parametrize(
    ("selector", "matched"),
    [
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["back"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "Unheard"}]}, False),
    ],
)
def test_object(selector: dict[str, Any], matched: bool) -> None:
    assert matches(selector, WEB) is matched


def test_text_of_both_parts() -> None:
    expressions = [{"key": "tier", "operator": "NotIn", "values": ["back", "middle"]}, {"key": "x", "operator": "DoesNotExist"}]
    assert selector_text({"matchLabels": {"app": "web"}, "matchExpressions": expressions}) == "app=web,tier notin (back,middle),!x"

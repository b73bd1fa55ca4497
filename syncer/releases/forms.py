"""How results look: columns for a person, JSON or YAML for a program, ages as kubectl tells them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

FORMS = ("json", "yaml")


def add_form_argument(parser: argparse.ArgumentParser) -> None:
    """`-o`; without it `arguments.output` is "", for a person."""
    parser.add_argument("-o", "--output", choices=FORMS, default="", help="print everything, for a program")


def rendered(document: Any, form: str) -> str:
    """A document in one of FORMS."""
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False)
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.rstrip("\n")


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as what is in them, but for the last one."""
    cells = [tuple(heading), *(tuple(map(plain, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def plain(text: str) -> str:
    """On one line, and without what would make a terminal do more than show it: tenants choose some of the words."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def age(then: str, now: float) -> str:
    """How long ago an RFC 3339 time was, in one or two units; "" for none, "-" in front of what is yet to come."""
    if not then:
        return ""
    seconds = now - datetime.fromisoformat(then).timestamp()
    sign, left = ("-" if seconds <= -1 else ""), int(abs(seconds))
    if left < 120:
        return f"{sign}{left}s"
    if left < 2 * 3600:
        return f"{sign}{left // 60}m"
    if left < 48 * 3600:
        return f"{sign}{left // 3600}h{left % 3600 // 60:02}m"
    return f"{sign}{left // 86400}d"

"""The Helm chart in `deploy/chart`: what of it is made from other files, and how it is rendered.

`python -m e2e.chart` writes the files that are made: the table of values in its README and `values.schema.json` from the comments in
`values.yaml`, and `files/rights.yaml`, from which its Role comes, from the registry of loops.

A comment above a key tells what it is for. A line of it that begins with `@schema` is merged into the schema of the value, which else
follows from the default; `free: true` there lets a map or list have any content.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from e2e.kubernetes import binaries, catalogue
from syncer import resources
from syncer.proxy.usage import FEATURE
from syncer.sync.rights import ELECTION_RIGHTS, OWN_RIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from syncer.sync.spec import Right

Obj = dict[str, Any]

CHART = Path(__file__).parents[1] / "deploy" / "chart"
NAMESPACE = "team-blue"
_DIRECTIVE = "@schema "
_TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


@dataclass(frozen=True)
class Value:
    """A key of values.yaml: its dotted path, its default, what its comment says, and what that adds to the schema.

    A key `enabled` may do without a comment: it has the words of what it switches.
    """

    path: str
    default: Any
    words: str
    extra: Obj
    parts: tuple[Value, ...] = ()

    def leaves(self) -> Iterator[Value]:
        """The values below it that are set as a whole; itself if there are none."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


def values(text: str | None = None) -> list[Value]:
    """What can be set, as values.yaml (or `text`) has it. ValueError for a key without a comment."""
    text = (CHART / "values.yaml").read_text() if text is None else text
    return _values(yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text), text.splitlines(), "", "On or off.")


def _values(node: Any, defaults: Obj, lines: Sequence[str], above: str, words_above: str) -> list[Value]:
    found = []
    for key, content in node.value:
        path = f"{above}.{key.value}".lstrip(".")
        words, extra = _comment(lines, key.start_mark.line, path)
        default = defaults[key.value]
        nested = isinstance(default, dict) and default and not extra.get("free")
        parts = _values(content, default, lines, path, words) if nested else []
        if not words and key.value != "enabled":
            raise ValueError(f"values.yaml: {path} has no comment")
        found.append(Value(path, default, words or words_above, extra, tuple(parts)))
    return found


def _comment(lines: Sequence[str], line: int, path: str) -> tuple[str, Obj]:
    """What the lines above say: in words, and to the schema."""
    first = line
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    said = [text.strip().removeprefix("#").strip() for text in lines[first:line]]
    extra: Obj = {}
    for text in said:
        if text.startswith(_DIRECTIVE):
            extra |= yaml.safe_load(text.removeprefix(_DIRECTIVE))
    if not all(isinstance(key, str) for key in extra):
        raise ValueError(f"values.yaml: {path}: an @schema line is a map")
    return " ".join(text for text in said if not text.startswith(_DIRECTIVE)), extra


def schema() -> str:
    """values.schema.json: nothing but what values.yaml has, the classic charts' other values (see templates/_checks.tpl), and `global`."""
    top: Obj = {"$schema": "https://json-schema.org/draft-07/schema#", **_schema(values())}
    top["properties"]["global"] = {"description": "Helm's own.", "type": "object"}
    for path, words in unsupported().items():
        *parents, last = path.split(".")
        place = top
        for parent in parents:
            place = place["properties"][parent]
        place["properties"].setdefault(last, {"description": f"Not supported: {words}."})
    return json.dumps(top, indent=2) + "\n"


def unsupported() -> dict[str, str]:
    """Values of the classic charts that this one does not have, and what to do instead."""
    words: dict[str, str] = yaml.safe_load((CHART / "files" / "unsupported.yaml").read_text())
    return words


def _schema(parts: Iterable[Value]) -> Obj:
    properties = {value.path.rpartition(".")[2]: {"description": value.words, **_schema_of(value)} for value in parts}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema_of(value: Value) -> Obj:
    if value.parts:
        return _schema(value.parts)
    extra = {name: rule for name, rule in value.extra.items() if name != "free"}
    return {"type": _TYPES[type(value.default)], **extra}


def readme() -> str:
    """README.md: what is written by hand there, and the table."""
    text = (CHART / "README.md").read_text()
    marker = next(line for line in text.splitlines() if line.startswith("<!-- From here on"))
    rows = ["| value | default | what |", "|---|---|---|"]
    for value in values():
        if value.parts:
            rows.append(f"| **`{value.path}`** | | **{value.words.replace('|', chr(92) + '|')}** |")
        rows += [f"| `{leaf.path}` | {_shown(leaf.default)} | {_described(leaf)} |" for leaf in value.leaves()]
    return text.partition(marker)[0] + "\n".join([marker, "", *rows, ""])


def _shown(default: Any) -> str:
    text = json.dumps(default, ensure_ascii=False)
    return "see values.yaml" if len(text) > 60 else f"`{text}`" if default not in ("", [], {}) else ""


def _described(leaf: Value) -> str:
    words = leaf.words.replace("|", "\\|")
    if choices := [f"`{choice}`" for choice in leaf.extra.get("enum", ()) if choice]:
        words += f" One of {', '.join(choices)}."
    return words


def rights() -> str:
    """files/rights.yaml: what each word of --sync needs on the host, and what is needed besides."""
    words: dict[str, Obj] = {}
    for word, default in sorted(resources.known().items()):
        specs = [spec for spec in resources.ALL if (spec.part_of or spec.name) == word]
        # A loop that is dispensable is off where it lacks something, see sync.extent.
        needed = (replace(right, optional=right.optional or spec.dispensable) for spec in specs for right in spec.host_rights)
        words[word] = {"default": default, "rights": _distinct(needed)}
        if replaced := [spec.replaces for spec in specs if spec.replaces]:
            words[word]["replaces"] = replaced[0]
    table = {
        "own": _distinct(OWN_RIGHTS),
        "election": _distinct(ELECTION_RIGHTS),
        "metrics": _distinct(FEATURE.rights),
        "sync": words,
    }
    head = "# Made by python -m e2e.chart from the registry of the syncer's loops: which rights it needs on the host for what.\n"
    return head + yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=140)


def _distinct(needed: Iterable[Right]) -> list[Obj]:
    """Each resource once with the verbs that cannot be done without, and once with those that can."""
    verbs: dict[tuple[bool, bool, str, str], set[str]] = {}
    for right in needed:
        verbs.setdefault((right.cluster, right.optional, right.group, right.resource), set()).update(right.verbs)
    return [
        {"group": group, "resource": resource, "verbs": sorted(found)}
        | ({"optional": True} if optional else {})
        | ({"cluster": True} if cluster else {})
        for (cluster, optional, group, resource), found in sorted(verbs.items())
    ]


def made() -> dict[Path, str]:
    """The files that are made, and what is to be in them."""
    return {CHART / "README.md": readme(), CHART / "values.schema.json": schema(), CHART / "files" / "rights.yaml": rights()}


class ChartError(Exception):
    """Helm refuses; its words."""


def helm(*arguments: str, stdin: str = "") -> str:
    """What helm prints. Raises ChartError."""
    command = [str(binaries.ensure("helm")["helm"]), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise ChartError(done.stdout + done.stderr)
    return done.stdout


def render(given: Mapping[str, Any] | None = None, *, release: str = "blue") -> str:
    """The chart's objects as YAML, for the values that are given. Raises ChartError."""
    where = (f"--namespace={NAMESPACE}", f"--kube-version={catalogue.kubernetes_version()}")
    return helm("template", release, str(CHART), *where, "--values=-", stdin=json.dumps(given or {}))


def objects(given: Mapping[str, Any] | None = None, *, release: str = "blue") -> dict[tuple[str, str], Obj]:
    """The same by kind and name."""
    found = [obj for obj in yaml.safe_load_all(render(given, release=release)) if obj]
    named = {(obj["kind"], obj["metadata"]["name"]): obj for obj in found}
    if len(named) != len(found):
        raise ChartError("two objects of one kind and name")
    return named


if __name__ == "__main__":
    for path, content in made().items():
        path.write_text(content)

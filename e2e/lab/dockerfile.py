"""What our Dockerfile says, for machines without Docker.

It knows the few instructions that the Dockerfile keeps to, and refuses any other: what is made from a `Recipe` is then what Docker makes.

- A stage `build`, whose base, tools (`RUN apt-get …`, `COPY --from=…`) and working directory are this machine's own matter. It copies files
  of the project to where they are in the project, and makes layers by `RUN deploy/image.sh LAYER /image`.
- A stage from scratch that copies these layers, and says how to run what is in them.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from e2e.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = "deploy/image.sh"
_DIRECTORY = "/image"


@dataclass(frozen=True)
class Step:
    """One run of SCRIPT: the layer that it makes, and the files of the project that were copied since the step before."""

    layer: str
    sources: tuple[str, ...]


@dataclass
class Recipe:
    """The `steps` to make an image, and how it is run. `layers` are in the order in which they lie upon each other."""

    steps: list[Step] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    environment: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    user: str = ""
    directory: str = ""


def parse(text: str) -> Recipe:
    """What a Dockerfile says; LabError names the first instruction that is none of the known ones."""
    recipe = Recipe()
    pending: list[str] = []
    stage = ""
    for instruction, value in _instructions(text):
        if instruction == "FROM":
            stage = {"scratch": "final"}.get(value) or value.partition(" AS ")[2]
            known = stage in ("build", "final")
        elif stage == "build":
            known = _build(recipe, pending, instruction, value)
        else:
            known = stage == "final" and _final(recipe, instruction, value)
        if not known:
            raise LabError(f"Dockerfile: {instruction} {value}: not known in stage {stage!r}; teach {__name__} what Docker makes of it")
    if pending:
        raise LabError(f"Dockerfile: copies {', '.join(pending)}, which no step uses")
    if recipe.layers != [step.layer for step in recipe.steps]:
        raise LabError(f"Dockerfile: makes {[step.layer for step in recipe.steps]}, but the image has {recipe.layers}")
    return recipe


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, _, value = line.strip().partition(" ")
        yield instruction.upper(), value.strip()


def _build(recipe: Recipe, pending: list[str], instruction: str, value: str) -> bool:
    words = value.split()
    match instruction, words:
        case ("WORKDIR", _) | ("RUN", ["apt-get", *_]) | ("COPY", [_, _, _]) if _DIRECTORY not in value:
            return instruction != "COPY" or words[0].startswith("--from=")
        case "COPY", [source, target] if source == target and not re.search(r"[*?\[]", source):
            pending.append(source)
            return True
        case "RUN", [script, layer, directory] if (script, directory) == (SCRIPT, _DIRECTORY):
            recipe.steps.append(Step(layer, tuple(pending)))
            pending.clear()
            return True
    return False


def _final(recipe: Recipe, instruction: str, value: str) -> bool:
    if instruction == "COPY" and (layer := re.fullmatch(rf"--from=build {_DIRECTORY}/(\w+) /", value)):
        recipe.layers.append(layer[1])
        return True
    simple: dict[str, Callable[[], object]] = {
        "LABEL": lambda: recipe.labels.update([_pair(value)]),
        "ENV": lambda: recipe.environment.append("=".join(_pair(value))),
        "EXPOSE": lambda: recipe.ports.append(int(value)),
        "ENTRYPOINT": lambda: recipe.entrypoint.extend(json.loads(value)),
        "USER": lambda: setattr(recipe, "user", value),
        "WORKDIR": lambda: setattr(recipe, "directory", value),
    }
    if instruction not in simple:
        return False
    simple[instruction]()
    return True


def _pair(text: str) -> tuple[str, str]:
    (word,) = shlex.split(text)
    name, _, value = word.partition("=")
    return name, value

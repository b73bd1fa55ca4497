"""The two ways to make the image are one: what the Dockerfile says is all that is done without Docker too."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from e2e.errors import LabError
from e2e.lab import dockerfile

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD = f"FROM debian AS build\nCOPY a a\nRUN {dockerfile.SCRIPT} base /image\n"
FINAL = "FROM scratch\nCOPY --from=build /image/base /\n"


@pytest.fixture(scope="module")
def recipe() -> dockerfile.Recipe:
    """LabError where the Dockerfile has an instruction that would be done by Docker only."""
    return dockerfile.parse((ROOT / "Dockerfile").read_text())


def test_docker_is_given_what_it_copies_and_nothing_else(recipe: dockerfile.Recipe) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {source for step in recipe.steps for source in step.sources}
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert [line for line in lines if not line.startswith(("!", "#"))] == ["*", "**/__pycache__"], "as e2e.lab.syncer_image does it"
    assert all((ROOT / source).exists() for source in copied)


def test_a_change_of_code_leaves_the_large_layers_as_they_are(recipe: dockerfile.Recipe) -> None:
    assert [step.layer for step in recipe.steps] == ["base", "packages", "syncer"]
    assert all("syncer" not in step.sources for step in recipe.steps[:-1])


def test_it_is_run_as_somebody_by_number(recipe: dockerfile.Recipe) -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", recipe.user), "kubelet cannot tell of a name that it is not root's (runAsNonRoot)"


def test_arguments_are_flags(recipe: dockerfile.Recipe) -> None:
    assert recipe.entrypoint == ["syncer", "start"]


def test_labels_say_what_the_project_says(recipe: dockerfile.Recipe) -> None:
    prefix = "org.opencontainers.image."
    said = {"title": PROJECT["name"], **{name: PROJECT[name] for name in ("description", "version")}, "licenses": PROJECT["license"]}
    assert recipe.labels == {prefix + name: value for name, value in said.items()}


def test_a_recipe() -> None:
    text = "# a\nFROM debian AS build\nRUN apt-get update && \\\n  apt-get install x\nCOPY --from=uv:1 /uv /bin/uv\nWORKDIR /s\nCOPY a a\n"
    text += f"RUN {dockerfile.SCRIPT} base /image\nCOPY b/c b/c\nCOPY d d\nRUN {dockerfile.SCRIPT} syncer /image\n"
    text += 'FROM scratch\nCOPY --from=build /image/base /\nCOPY --from=build /image/syncer /\nLABEL x.y="a b"\nENV A=1\nENV B="2 3"\n'
    text += 'USER 5:6\nWORKDIR /w\nEXPOSE 8443\nENTRYPOINT ["a", "b c"]\n'
    assert dockerfile.parse(text) == dockerfile.Recipe(
        steps=[dockerfile.Step("base", ("a",)), dockerfile.Step("syncer", ("b/c", "d"))],
        layers=["base", "syncer"],
        labels={"x.y": "a b"},
        environment=["A=1", "B=2 3"],
        entrypoint=["a", "b c"],
        ports=[8443],
        user="5:6",
        directory="/w",
    )


@pytest.mark.parametrize(
    "text",
    [
        BUILD + "RUN pip install more\n" + FINAL,
        BUILD + "RUN apt-get download x && mv x /image/base\n" + FINAL,
        BUILD + "COPY --from=other /x /image/base/x\n" + FINAL,
        BUILD + "COPY b elsewhere\n" + FINAL,
        BUILD + "COPY *.py *.py\n" + FINAL,
        BUILD + "COPY b b\n" + FINAL,
        BUILD + f"RUN {dockerfile.SCRIPT} more /image\n" + FINAL,
        BUILD + f"RUN {dockerfile.SCRIPT} more /elsewhere\n" + FINAL,
        BUILD + FINAL + "COPY b b\n",
        BUILD + FINAL + "COPY --from=other /image/more /\n",
        BUILD + FINAL + "RUN rm -r /usr\n",
        BUILD + FINAL + "VOLUME /data\n",
        BUILD + "FROM debian\nCOPY --from=build /image/base /\n",
        BUILD + FINAL.replace("scratch", "debian:12 AS other"),
    ],
)
def test_what_only_docker_would_do_is_refused(text: str) -> None:
    assert dockerfile.parse(BUILD + FINAL).layers == ["base"]
    with pytest.raises(LabError, match="Dockerfile: "):
        dockerfile.parse(text)


def test_what_builds_the_wheel_is_locked_too() -> None:
    """Another hatchling would write another file into the image."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = re.findall(r"^(\S+)==\S+ \\\n    --hash=sha256:", (ROOT / "deploy" / "build-requirements.txt").read_text(), re.MULTILINE)
    assert {re.split(r"[<>=~]", name)[0] for name in wanted} <= set(locked)

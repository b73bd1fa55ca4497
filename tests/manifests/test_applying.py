"""Manifests as they are applied to a virtual API server. What server-side apply itself does is shown on a real one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from syncer.errors import FenceClosed
from syncer.kube.client import Client
from syncer.kube.config import Cluster
from syncer.kube.types import CONFIGMAPS, SECRETS, Key, Resource, Side
from syncer.manifests.applying import Manifests
from tests.fakes.requests import on
from tests.patience import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from structlog.typing import EventDict

    from tests.fakes.apiserver import FakeApiServer

COLOURS = Resource("lab.test", "v1", "colours", "Colour")


def config_map(name: str, value: str = "1", namespace: str = "") -> str:
    place = f", namespace: {namespace}" if namespace else ""
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}{place}}}\ndata: {{value: '{value}'}}\n---\n"


class World:
    """A directory and what is made of it."""

    def __init__(self, api: FakeApiServer, client: Client, directory: Path) -> None:
        self.api = api
        self.directory = directory
        self.closed = ""
        self.required = 0
        self.announced: list[tuple[str, str]] = []
        self.manifests = Manifests(
            client, directory, require=self.require, announce=lambda reason, message: self.announced.append((reason, message)), every=0.02
        )

    def require(self) -> None:
        self.required += 1
        if self.closed:
            raise FenceClosed(self.closed)

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def value(self, name: str, namespace: str = "default") -> str | None:
        found = self.api.get(CONFIGMAPS, Key(namespace, name))
        return str(found["data"]["value"]) if found else None

    def asked(self, method: str) -> int:
        return len([line for line in self.api.requests if line.method == method])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.manifests.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world(virtual_api: FakeApiServer, tmp_path: Path) -> AsyncIterator[World]:
    async with Client(Cluster(virtual_api.url), Side.VIRTUAL) as client:
        yield World(virtual_api, client, tmp_path)


async def test_all_documents_once(world: World, logs: list[EventDict]) -> None:
    namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: new}\n"
    world.write("a.yaml", config_map("one") + config_map("two", namespace="new") + namespace)
    world.write("b.txt", config_map("three"))
    world.write(".c.yaml", config_map("four"))
    async with world.running():
        await until(lambda: world.manifests.applied == 3)
    assert (world.value("one"), world.value("two", "new")) == ("1", "1")
    assert (world.manifests.waiting, world.manifests.problem, world.announced) == (0, "", [])
    assert [line["documents"] for line in logs if line["event"] == "manifests.applied"] == [3]
    assert world.asked("PATCH") == 3


async def test_again_when_the_files_change(world: World) -> None:
    """As the kubelet changes a mounted ConfigMap: the names stay, what they lead to is replaced at once."""
    first, second = world.directory / "..1", world.directory / "..2"
    for place, value in ((first, "1"), (second, "2")):
        place.mkdir()
        (place / "a.yaml").write_text(config_map("one", value))
    (world.directory / "..data").symlink_to(first)
    (world.directory / "a.yaml").symlink_to("..data/a.yaml")
    async with world.running():
        await until(lambda: world.value("one") == "1")
        (world.directory / "..new").symlink_to(second)
        (world.directory / "..new").rename(world.directory / "..data")
        await until(lambda: world.value("one") == "2" and world.manifests.applied == 1)
        (world.directory / "a.yaml").unlink()
        await until(lambda: world.manifests.applied == 0)
    assert world.value("one") == "2"  # nothing is deleted


async def test_what_is_not_served_yet_is_waited_for(world: World) -> None:
    world.write("a.yaml", config_map("one") + "apiVersion: lab.test/v1\nkind: Colour\nmetadata: {name: red}\n")
    async with world.running():
        await until(lambda: world.announced)
        assert (world.manifests.applied, world.manifests.waiting) == (1, 1)
        words = "Colour red of a.yaml: the virtual API server serves no Colour in lab.test/v1"
        assert world.manifests.problem == words
        assert world.announced == [("ManifestNotApplied", words)]
        world.api.register(COLOURS)
        await until(lambda: world.api.get(COLOURS, Key("default", "red")))
        await until(lambda: world.manifests.waiting == 0)
    assert world.manifests.problem == ""
    assert len(world.announced) == 1


async def test_a_matter_of_order_is_not_told(world: World) -> None:
    world.api.fault(on("patch", CONFIGMAPS), status=404, message='namespaces "a" not found', times=1)
    world.write("a.yaml", config_map("one"))
    async with world.running():
        await until(lambda: world.manifests.applied == 1)
    assert world.announced == []


async def test_what_is_refused_does_not_keep_the_others(world: World, logs: list[EventDict]) -> None:
    world.api.fault(on("patch", CONFIGMAPS, name="bad"), status=422, message="value: Too long")
    world.write("a.yaml", config_map("bad") + config_map("good"))
    world.write("b.yaml", "{")
    async with world.running():
        await until(lambda: len(world.announced) == 2)
    assert world.value("good") == "1"
    assert (world.manifests.applied, world.manifests.waiting) == (1, 2)
    assert "b.yaml is not YAML" in world.manifests.problem
    assert "(and 1 more)" in world.manifests.problem
    told = [line["error"] for line in logs if line["event"] == "manifests.not_applied"]
    assert told[1] == "ConfigMap bad of a.yaml: 422 Invalid: value: Too long"


async def test_nothing_of_a_secret_is_told(world: World) -> None:
    world.api.fault(on("patch", SECRETS), status=422, message="the value hunter2 is wrong")
    world.write("a.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: one}\nstringData: {password: hunter2}\n")
    async with world.running():
        await until(lambda: world.announced)
    assert "422 Invalid" in world.manifests.problem
    assert "hunter2" not in f"{world.manifests.problem}{world.announced}"


async def test_nothing_is_written_behind_the_fence(world: World) -> None:
    world.closed = "another control plane"
    world.write("a.yaml", config_map("one"))
    async with world.running():
        await until(lambda: world.required > 1)
        assert world.asked("PATCH") == 0
        world.closed = ""
        await until(lambda: world.value("one") == "1")


async def test_an_api_server_that_is_away_is_asked_once_a_round(world: World) -> None:
    await world.api.stop()
    world.write("a.yaml", "".join(config_map(f"m{number}") for number in range(50)))
    async with world.running():
        await until(lambda: world.manifests.problem)
        assert "cannot be reached" in world.manifests.problem
        await world.api.start()
        await until(lambda: world.manifests.applied == 50)
    assert world.manifests.problem == ""


async def test_a_directory_that_comes_later(world: World) -> None:
    world.directory.rmdir()
    async with world.running():
        await until(lambda: world.manifests.problem)
        assert world.manifests.problem.startswith(f"--init-manifests: {world.directory} cannot be read: ")
        assert world.manifests.waiting == 1
        world.directory.mkdir()
        world.write("a.yaml", config_map("one"))
        await until(lambda: world.manifests.applied == 1)
    assert (world.manifests.problem, len(world.announced)) == ("", 1)


async def test_what_the_tenant_changes_meanwhile_stays(world: World) -> None:
    world.write("a.yaml", config_map("one") + "apiVersion: lab.test/v1\nkind: Colour\nmetadata: {name: red}\n")
    async with world.running():
        await until(lambda: world.manifests.applied == 1)
        world.api.change(CONFIGMAPS, Key("default", "one"), {"data": {"value": "mine"}})
        rounds = world.asked("GET")
        await until(lambda: world.asked("GET") > rounds + 1)
    assert (world.value("one"), world.asked("PATCH")) == ("mine", 1)

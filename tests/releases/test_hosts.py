from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest
import yaml

from syncer.errors import ConfigError
from syncer.releases.hosts import Host, host_of

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, current: str, *contexts: str) -> Path:
    document = {
        "current-context": current,
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": name, "context": {"cluster": "c", "namespace": f"of-{name}"}} for name in contexts],
    }
    path.write_text(yaml.safe_dump(document))
    return path


async def ask(environ: dict[str, str], kubeconfig: str | None = None, context: str | None = None) -> Host:
    return await host_of(argparse.Namespace(kubeconfig=kubeconfig, context=context), environ)


async def test_the_file_that_has_the_context(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", "one", "one"), write(tmp_path / "b", "two", "two", "three")
    environ = {"KUBECONFIG": f"{tmp_path / 'missing'}:{a}:{b}:"}
    assert await ask(environ) == Host(a, "one", "of-one")
    assert await ask(environ, context="three") == Host(b, "three", "of-three")
    assert await ask(environ, kubeconfig=str(b)) == Host(b, "two", "of-two")


async def test_the_current_context_of_one_file_may_be_in_another(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", "three", "one"), write(tmp_path / "b", "two", "two", "three")
    assert await ask({"KUBECONFIG": f"{a}:{b}"}) == Host(b, "three", "of-three")
    assert await ask({"KUBECONFIG": f"{write(tmp_path / 'none', '', 'one')}:{b}"}) == Host(b, "two", "of-two")


@pytest.mark.parametrize(("name", "words"), [("missing", "no kubeconfig at .*missing"), ("a", "no entry called 'gone'")])
async def test_none(tmp_path: Path, name: str, words: str) -> None:
    write(tmp_path / "a", "gone", "one")
    with pytest.raises(ConfigError, match=words):
        await ask({"KUBECONFIG": str(tmp_path / name)})

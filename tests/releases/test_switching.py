from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from syncer import cli
from syncer.releases.contexts import Origin

if TYPE_CHECKING:
    from pathlib import Path

A, B = Origin("a", "x", "kind").context, Origin("b", "y", "kind").context


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump({"current-context": "kind", "contexts": [{"name": name, "context": {}} for name in ("kind", A, B)]}))
    return file


def run(kubeconfig: Path, *argv: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(argv, {"KUBECONFIG": str(kubeconfig)})
    assert isinstance(left.value.code, int)
    return left.value.code


def current(kubeconfig: Path) -> str:
    return str(yaml.safe_load(kubeconfig.read_text())["current-context"])


def test_there_and_back(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, context in (("a", A), ("b", B)):
        assert run(kubeconfig, "use", name) == 0
        assert current(kubeconfig) == context
        assert context in capsys.readouterr().err
    assert run(kubeconfig, "disconnect") == 0
    assert current(kubeconfig) == "kind"


@pytest.mark.parametrize(
    ("argv", "words"), [(("use", "c"), "syncer connect c"), (("use", "a", "-n", "y"), "namespace y"), (("disconnect",), "nothing to leave")]
)
def test_what_cannot_be(kubeconfig: Path, argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = kubeconfig.read_bytes()
    assert run(kubeconfig, *argv) == 2
    assert words in capsys.readouterr().err
    assert kubeconfig.read_bytes() == before

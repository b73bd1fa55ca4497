from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.errors import ConfigError, TooLate
from syncer.releases import kubeconfigs

if TYPE_CHECKING:
    from pathlib import Path

    from syncer.kube.types import Obj

TRICKY = """\
current-context: on
contexts:
- name: 2024-01-01
  context: {cluster: "007", last-update: 2024-01-01T00:00:00Z, started: 1:30, user: "no"}
  extensions: [{name: minikube, extension: {version: v1.30.0, port: 8443, ratio: 1.50, none: ~}}]
clusters: []
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def add(key: str, value: Any = 1) -> Any:
    return lambda document: {**document, key: value}


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)


@given(st.dictionaries(st.text(max_size=8), ANYTHING, max_size=4))
@settings(max_examples=50)
def test_what_is_written_is_what_is_read(document: Obj) -> None:
    document = {f"x-{key}": value for key, value in document.items()}
    assert kubeconfigs.load(kubeconfigs.dump(document), "file") == document


@pytest.mark.parametrize(
    "value",
    [
        "1e3",
        "12e4567",
        "1.5e3",
        ".5e3",
        "1e+06",
        "0o17",
        "08",
        "1_0",
        "0X1f",
        "1:30",
        "2024-01-01",
        "007",
        "0x1F",
        "1.50",
        ".inf",
        "y",
        "N",
    ],
)
def test_what_go_and_python_read_differently_is_written_as_it_was(value: str) -> None:
    """Numbers, truth values and texts for the one or for the other: kubectl refuses a kubeconfig whose context's name is a number."""
    content = f"a: {value}\nb: '{value}'\n{value}: c\n"
    document = kubeconfigs.load(content, "file")
    assert document == {"a": value, "b": value, value: "c"}
    assert kubeconfigs.dump(document) == content


def test_values_that_look_like_something_else_keep_their_meaning() -> None:
    document = kubeconfigs.load(TRICKY, "file")
    assert document["contexts"][0]["name"] == "2024-01-01"
    assert document["contexts"][0]["context"]["last-update"] == "2024-01-01T00:00:00Z"
    assert document["contexts"][0]["extensions"][0]["extension"]["port"] == 8443
    assert kubeconfigs.load(kubeconfigs.dump(document), "file") == document
    assert list(document) == ["current-context", "contexts", "clusters"]


@pytest.mark.parametrize("content", ["[]", "a: [", "text", "contexts: {a: 1}", "users: text", "!!python/object:os.system {}", "\x00"])
def test_what_is_no_kubeconfig_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(ConfigError, match="nothing is changed"):
        kubeconfigs.change(file, add("a"))
    assert file.read_text() == content
    assert os.listdir(tmp_path) == ["config"]


class TestChange:
    def test_makes_a_file_for_its_owner_only(self, tmp_path: Path) -> None:
        file = tmp_path / "new" / "config"
        kubeconfigs.change(file, add("a"))
        assert mode(file) == 0o600
        assert mode(file.parent) == 0o700
        assert yaml.safe_load(file.read_text())["a"] == 1
        assert yaml.safe_load(file.read_text())["kind"] == "Config"

    @pytest.mark.parametrize("permissions", [0o600, 0o640, 0o644])
    def test_keeps_mode_and_link(self, tmp_path: Path, permissions: int) -> None:
        real, link = tmp_path / "real", tmp_path / "config"
        real.write_text("a: 1")
        real.chmod(permissions)
        link.symlink_to(real)
        kubeconfigs.change(link, add("b"))
        assert link.is_symlink()
        assert mode(real) == permissions
        assert yaml.safe_load(real.read_text()) == {"a": 1, "b": 1}

    def test_that_is_none_does_not_write(self, tmp_path: Path) -> None:
        file = tmp_path / "config"
        file.write_text("# a comment\na: 1\n")
        kubeconfigs.change(file, lambda document: dict(document))
        assert file.read_text() == "# a comment\na: 1\n"

    def test_that_fails_leaves_everything_as_it_was(self, tmp_path: Path) -> None:
        file = tmp_path / "config"
        file.write_text("a: 1")
        with pytest.raises(yaml.YAMLError):
            kubeconfigs.change(file, add("b", object()))
        assert file.read_text() == "a: 1"
        assert os.listdir(tmp_path) == ["config"]

    def test_many_at_once_lose_nothing(self, tmp_path: Path) -> None:
        file = tmp_path / "config"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: kubeconfigs.change(file, add(f"n{number}")), range(24)))
        assert {f"n{number}" for number in range(24)} <= set(yaml.safe_load(file.read_text()))

    @pytest.mark.parametrize("locked", ["config.lock", "real/file.lock"])
    def test_waits_for_a_lock_of_the_file_and_of_the_link_to_it(self, tmp_path: Path, locked: str) -> None:
        """kubectl locks by the name that it was given, and empties the file before it writes."""
        file, lock = tmp_path / "config", tmp_path / locked
        lock.parent.mkdir(exist_ok=True)
        file.symlink_to(tmp_path / "real" / "file")
        lock.touch()
        waiting = threading.Thread(target=kubeconfigs.change, args=(file, add("a")))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert not file.exists()
        lock.unlink()
        waiting.join(30)
        assert file.exists()
        assert not list(tmp_path.rglob("*.lock"))

    def test_in_a_directory_with_two_names_does_not_wait_for_itself(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        kubeconfigs.change(tmp_path / "link" / "config", add("a"))
        assert os.listdir(tmp_path / "real") == ["config"]

    def test_tells_of_a_lock_that_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kubeconfigs, "LOCK_SECONDS", 0.1)
        (tmp_path / "config.lock").touch()
        with pytest.raises(TooLate, match=r"config\.lock is there"):
            kubeconfigs.change(tmp_path / "config", add("a"))

    def test_where_nothing_can_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="--print"):
            kubeconfigs.change(tmp_path / "file" / "config", add("a"))


def test_temporary_ones_are_their_owner_s_and_go(tmp_path: Path) -> None:
    with kubeconfigs.temporary({"a": 1}) as file:
        assert mode(file) == 0o600
        assert mode(file.parent) == 0o700
        assert yaml.safe_load(file.read_text()) == {"a": 1}
    assert not file.parent.exists()


def test_which_file_is_written(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    assert kubeconfigs.to_write([first, second]) == second
    second.touch()
    assert kubeconfigs.to_write([first, second, third]) == second

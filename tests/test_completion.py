from __future__ import annotations

import asyncio
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from syncer.commands import SUMMARIES
from syncer.commands.completion import SCRIPTS, wanted_for
from syncer.releases.contexts import Origin
from syncer.releases.release import STATEFUL_SETS
from tests.fakes.apiserver import FakeApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ([], {"connect", "list", "version"}),
        ([""], {"connect", "start"}),
        (["co"], {"connect", "completion"}),
        (["-"], {"--help"}),
        (["connect", "--"], {"--print", "--service-account", "--namespace", "--help"}),
        (["connect", "demo", "--kube"], {"--kubeconfig", "--kube-config"}),
        (["create", "new", "--distro", ""], {"k3s", "k8s"}),
        (["create", "new", "--distro", "=", "k"], {"k3s", "k8s"}),
        (["create", "--distro", "="], {"k3s", "k8s"}),
        (["connect", "demo", "--update-current", "="], {"true", "false"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["start", "--sync-"], {"--sync-all-secrets"}),
    ],
)
def test_words_that_are_known(words: list[str], some: set[str]) -> None:
    wanted = wanted_for(words)
    assert some <= set(wanted.known)
    assert wanted.asked == ""
    assert "words" not in wanted.known


def test_a_value_behind_an_equals_sign_keeps_what_is_before_it() -> None:
    wanted = wanted_for(["create", "new", "--distro=k8"])
    assert (wanted.before, wanted.begun) == ("--distro=", "k8")


@pytest.mark.parametrize(
    ("words", "asked", "given"),
    [
        (["connect", ""], "name", {}),
        (["connect", "-n", "ns", "de"], "name", {"namespace": "ns"}),
        (["connect", "--namespace=ns", "--print", "de"], "name", {"namespace": "ns"}),
        (["connect", "demo", "-n", ""], "namespace", {"name": "demo"}),
        (["connect", "demo", "--namespace="], "namespace", {"name": "demo"}),
        (["list", "--context", "k"], "context", {}),
        (["connect", "--kubeconfig", "=", "file", "--context", "c", ""], "name", {"kubeconfig": "file", "context": "c"}),
        (["use", ""], "name", {}),
    ],
)
def test_what_has_to_be_asked(words: list[str], asked: str, given: dict[str, str]) -> None:
    wanted = wanted_for(words)
    assert (wanted.asked, wanted.given) == (asked, given)
    assert wanted.known == {}


@pytest.mark.parametrize(
    "words",
    [
        ["connect", "demo", ""],
        ["connect", "demo", "--", "kub"],
        ["create", ""],
        ["no-such", ""],
        ["connect", "--kube-config", ""],
        ["version", ""],
    ],
)
def test_what_is_left_to_the_shell(words: list[str]) -> None:
    wanted = wanted_for(words)
    assert (wanted.known, wanted.asked) == ({}, "")


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_s_flags_have_a_line_each(name: str) -> None:
    known = wanted_for([name, "--"]).known
    assert "--help" in known
    assert all("\n" not in about and "\t" not in about for about in known.values())


@pytest.fixture
async def environ(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Of a user whose host has the virtual clusters demo and delta."""
    async with FakeApiServer(resources=[STATEFUL_SETS]) as api:
        for namespace, name in (("a", "demo"), ("b", "delta")):
            api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            labels = {"app": "vcluster", "release": name}
            api.create(
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": namespace, "labels": labels}}
            )
        document = {
            "current-context": "kind",
            "clusters": [{"name": "kind", "cluster": {"server": api.url}}],
            "contexts": [{"name": name, "context": {"cluster": "kind"}} for name in ("kind", Origin("demo", "a", "kind").context)],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(document))
        yield {"PATH": f"{BIN}:{os.environ['PATH']}", "KUBECONFIG": str(tmp_path / "config"), "HOME": str(tmp_path), "TERM": "dumb"}


async def ask(environ: dict[str, str], *words: str) -> tuple[list[str], str]:
    child = await asyncio.create_subprocess_exec(
        *words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    out, err = await child.communicate()
    assert child.returncode == 0
    return out.decode().splitlines(), err.decode()


async def test_names_are_asked_from_the_host(environ: dict[str, str]) -> None:
    program = (str(BIN / "syncer"), "completion", "words", "--")
    assert await ask(environ, *program, "connect", "d") == (["delta\tin namespace b", "demo\tin namespace a"], "")
    assert await ask(environ, *program, "connect", "-n", "a", "") == (["demo\tin namespace a"], "")
    assert await ask(environ, *program, "delete", "delta", "--namespace=") == (["--namespace=b"], "")
    assert await ask(environ, *program, "use", "") == (["demo\tin namespace a of kind"], "")
    assert (await ask(environ, *program, "list", "--context", "k"))[0] == ["kind"]
    assert await ask({**environ, "KUBECONFIG": "/nowhere"}, *program, "connect", "") == ([], "")


async def test_kubectl_is_answered_in_its_way(environ: dict[str, str]) -> None:
    program = str(BIN / "kubectl_complete-syncer")
    assert await ask(environ, program, "connect", "dem") == (["demo\tin namespace a", ":4"], "")
    assert (await ask(environ, program, "us"))[0] == [f"use\t{SUMMARIES['use']}", ":4"]


def typed(environ: dict[str, str], keys: str, until: str) -> str:
    """What a terminal shows when these keys are typed into a bash that has the script."""
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**environ, "PS1": "$ "})
    try:
        os.write(terminal, b"source <(syncer completion bash); echo lo''aded\n")
        shown = read_until(terminal, "loaded")
        os.write(terminal, keys.encode())
        return shown + read_until(terminal, until)
    finally:
        os.kill(pid, 9)
        os.close(terminal)
        os.waitpid(pid, 0)


def read_until(terminal: int, text: str) -> str:
    shown, deadline = "", time.monotonic() + 25
    while text not in shown:
        readable, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"no {text!r} in {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


@pytest.mark.parametrize(
    ("keys", "until"),
    [
        ("syncer conn\tdem\t", "syncer connect demo "),
        ("syncer create new --dis\tk3\t", "--distro k3s "),
        ("syncer create new --distro=k3\t", "--distro=k3s "),
        ("syncer connect demo --kube-config=$HOME/conf\t", "/config "),
    ],
)
async def test_bash(environ: dict[str, str], keys: str, until: str) -> None:
    await asyncio.to_thread(typed, environ, keys, until)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_are_right(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    flag = "--no-execute" if shell == "fish" else "-n"
    assert subprocess.run([shell, flag], input=SCRIPTS[shell], capture_output=True, text=True, check=False).stderr == ""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from syncer.errors import ConfigError, SyncerError
from syncer.releases.helm import Helm, Record, complaint, records, version_of
from syncer.releases.hosts import Host
from tests.patience import until

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST = Host(Path("/x/config"), "here", "default")

COMPLAINTS = [
    ("", "it does not say why"),
    ("Error: release: not found\n", "release: not found"),
    ("Error: INSTALLATION FAILED: execution error at (syncer/templates/statefulset.yaml:1:4): replicas: too many\n", "replicas: too many"),
    ("WARNING: Kubernetes configuration file is group-readable. Location: /x\nError: UPGRADE FAILED: no\n", "no"),
    ('I1122 02:00:00.000000   1 warnings.go:110] "Warning: old"\nError: two\nlines\n', "two\nlines"),
]


@pytest.mark.parametrize(("text", "words"), COMPLAINTS)
def test_complaint(text: str, words: str) -> None:
    assert complaint(text) == words


@pytest.mark.parametrize(("text", "version"), [("v3.22.0", (3, 22)), ("v4.0.1+g1", (4, 0)), ("nonsense", None), ("", None)])
def test_version(text: str, version: tuple[int, int] | None) -> None:
    assert version_of(text) == version


def test_records() -> None:
    listed = '[{"name":"a","namespace":"n","revision":"1","status":"failed","chart":"syncer-0.1.0"},{"name":"a","namespace":"m"}]'
    one, other = records(listed)
    assert one == Record("a", "n", "failed", "syncer-0.1.0", "1")
    assert (one.ours, other.ours) == (True, False)
    assert records("") == records("null") == []
    assert not Record("a", "n", "", "syncer-operator-1.0.0").ours


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("deployed", ""),
        ("failed", ""),
        ("pending-install", "`helm rollback a 3 --namespace=n`, or clear up with `syncer delete a --namespace=n`"),
        ("pending-upgrade", "`helm rollback a --namespace=n`, or"),
        ("pending-rollback", "`helm rollback a --namespace=n`, or"),
    ],
)
def test_what_to_do_where_helm_was_killed(status: str, words: str) -> None:
    told = Record("a", "n", status, "syncer-0.1.0", "3").blocked
    assert words in told
    assert bool(told) is bool(words)


def program(directory: Path, body: str) -> Mapping[str, str]:
    """An environment with a helm that is a few lines of Python; `arguments` are its own."""
    path = directory / "helm"
    path.write_text(f"#!{sys.executable}\nimport sys, time\narguments = sys.argv[1:]\n{body}\n")
    path.chmod(0o755)
    return {"PATH": str(directory), "A": "1"}


async def test_it_is_told_where_the_host_is(tmp_path: Path) -> None:
    helm = await Helm.find(HOST, program(tmp_path, "print(*arguments)"))
    assert (await helm.run("version")).split() == ["version"]
    with pytest.raises(ValueError, match="Expecting value"):
        await helm.records("a.b", "n")
    (tmp_path / "helm").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps({{'given': sys.argv[1:]}}))\n")
    given = (await helm.values("a", "n"))["given"]
    assert given == ["get", "values", "a", "--kubeconfig=/x/config", "--kube-context=here", "--namespace=n", "--all", "--output=json"]


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("sys.exit('Error: UPGRADE FAILED: values: no')", ConfigError, "helm upgrade: values: no"),
        ("sys.exit('Error: Kubernetes cluster unreachable: Get x: dial tcp: connection refused')", SyncerError, "helm upgrade: Kubernetes"),
    ],
)
async def test_what_a_person_can_mend_is_told_from_what_he_cannot(tmp_path: Path, body: str, error: type[SyncerError], words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        await (await Helm.find(HOST, program(tmp_path, body))).apply("a", "n", [], upgrade=True)
    assert type(raised.value) is error


async def test_who_does_not_upgrade_changes_nothing_that_was_made_meanwhile(tmp_path: Path) -> None:
    taken = "sys.exit(arguments[0] == 'install' and 'Error: INSTALLATION FAILED: cannot re-use a name that is still in use')"
    with pytest.raises(ConfigError, match=r"a release a in namespace n by now: somebody else made it at the same time, or .*; --upgrade"):
        await (await Helm.find(HOST, program(tmp_path, taken))).apply("a", "n", [], upgrade=False)
    failed = "sys.exit('Error: INSTALLATION FAILED: values: no')"
    with pytest.raises(ConfigError, match="helm install: values: no"):
        await (await Helm.find(HOST, program(tmp_path, failed))).apply("a", "n", [], upgrade=False)


async def test_one_that_is_missing_or_too_old(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"helm is not on PATH; install Helm 3\.14 or newer, see https://"):
        await Helm.find(HOST, {"PATH": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"is v3\.13\.9, which is too old; install"):
        await (await Helm.find(HOST, program(tmp_path, "print('v3.13.9')"))).check()
    await (await Helm.find(HOST, program(tmp_path, "print('v3.14.0')"))).check()


async def test_it_ends_with_us(tmp_path: Path) -> None:
    helm = await Helm.find(HOST, program(tmp_path, f"open({str(tmp_path / 'began')!r}, 'w').close(); time.sleep(600)"))
    running = asyncio.create_task(helm.run("list"))
    await until((tmp_path / "began").exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from syncer import cli
from syncer.flags import join_negations
from syncer.kube import codec
from syncer.kube.types import CONFIGMAPS, Key, annotations_of
from syncer.resources import ALL, known
from syncer.settings import flags, variable
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.apiserver import FakeApiServer


def run(*argv: str, environ: dict[str, str] | None = None) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as left:
        cli.main(argv, {} if environ is None else environ)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    assert re.fullmatch(r"syncer \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_python_m_is_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "syncer", "version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("syncer ")


class TestHelp:
    def test_lists_the_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--help") == 0
        out = capsys.readouterr().out
        for command in ("start", "rights", "release-deletions", "version"):
            assert f"    {command}" in out

    def test_has_every_flag_with_group_default_and_variable(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("start", "--help") == 0
        words = " ".join(capsys.readouterr().out.split())
        for name, flag in flags().items():
            assert f"--{name} {f'[{flag.metavar}]' if flag.metavar == 'BOOL' else flag.metavar} " in words
            assert f"[{variable(name)}]" in words
            assert f"{flag.group}:" in words
        for default in ("(default: 60s)", "(default: 0.0.0.0:8081)", "(default: true)", "(default: --name)", "(default: cluster.local)"):
            assert default in words

    def test_names_what_can_be_synced(self) -> None:
        assert flags()["sync"].default == "on are: " + ", ".join(sorted(name for name, on in known().items() if on))

    def test_says_nothing_of_flags_that_are_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        run("start", "--help")
        assert "--multi-namespace-mode" not in capsys.readouterr().out

    def test_of_release_has_only_what_it_needs(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("release-deletions", "--help") == 0
        out = capsys.readouterr().out
        assert "--target-namespace" in out
        assert "--lease-duration" not in out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("start", "--target-namespace=a", "--lease-duration=soon"), "syncer: --lease-duration: 'soon' is not a duration; write "),
        (("start", "--target-namespace", "a", "--retry-period", "x"), "syncer: --retry-period: 'x' is not a duration; write "),
        (("start",), "syncer: --target-namespace: not running in a pod, so say which host namespace to sync into"),
        (
            ("start", "--target-namespace=a", "--multi-namespace-mode"),
            "syncer: --multi-namespace-mode: not supported by this version with ",
        ),
        (("start", "--fast"), "syncer: unrecognized arguments: --fast; see --help"),
        (("start", "--lease=5s"), "syncer: unrecognized arguments: --lease=5s; see --help"),
        (("start", "extra"), "syncer: unrecognized arguments: extra; see --help"),
        (("version", "--", "extra"), "syncer: version takes no command after --; see --help"),
        (("create", "Demo"), "syncer: 'Demo' cannot be a virtual cluster's name, which is that of a Service: use up to 52 small "),
        (("create", "demo", "--", "ls"), "syncer: a command after -- is for --connect"),
        (("create", "demo", "--timeout=soon"), "syncer: argument --timeout: 'soon' is not a duration; write 15s, 1m30s or "),
        (("delete", "demo", "--grace-period=0"), "syncer: argument --grace-period: '0' is not a whole number of seconds, one at "),
        (("start", "--name"), "syncer: argument --name: expected one argument; see --help"),
        (("stop",), "syncer: argument COMMAND: invalid choice: 'stop' (choose from "),
        ((), "syncer: the following arguments are required: COMMAND; see --help"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(argv: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(line)


def test_every_mistake_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("start", "--target-namespace=a", "--plugins=x", "--log-level=loud", environ={"SYNCER_WEBHOOK_PORT": "x"}) == 2
    sources = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert sources == ["--plugins", "SYNCER_WEBHOOK_PORT", "--log-level"]


@pytest.mark.parametrize(
    ("argv", "joined"),
    [
        (["start", "--sync", "-pods,events", "--name", "a"], ["start", "--sync=-pods,events", "--name", "a"]),
        (["start", "--sync", "pods"], ["start", "--sync", "pods"]),
        (["start", "--sync", "--name", "a"], ["start", "--sync", "--name", "a"]),
        (["start", "--sync=-pods", "--sync", "-events"], ["start", "--sync=-pods", "--sync=-events"]),
    ],
)
def test_a_leading_dash_after_sync_belongs_to_it(argv: list[str], joined: list[str]) -> None:
    assert join_negations(argv) == joined


@pytest.fixture
def host_flags(host_api: FakeApiServer, tmp_path: Path) -> list[str]:
    """Which virtual cluster, on a host that is a fake."""
    kubeconfig = {
        "current-context": "host",
        "contexts": [{"name": "host", "context": {"cluster": "host", "user": "me"}}],
        "clusters": [{"name": "host", "cluster": {"server": host_api.url}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_bytes(codec.dumps(kubeconfig))
    return ["--name=blue", "--target-namespace=default", f"--host-kube-config={file}"]


class TestRights:
    async def test_table(self, host_flags: list[str], host_api: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        host_api.features.allows = lambda attributes: attributes["resource"] != "priorityclasses"
        assert await asyncio.to_thread(run, "rights", *host_flags) == 0
        first, *lines = capsys.readouterr().out.splitlines()
        assert first.split() == ["LOOP", "STATE", "WHY"]
        rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines if not line.startswith(" ")}
        assert set(rows) == {spec.name for spec in ALL if not spec.part_of}
        assert rows["nodes"] == ["off", "not asked for (see --sync)"]
        assert rows["configmaps"] == ["on"]
        assert "without priorityclasses.scheduling.k8s.io: ClusterRole lacks" in " ".join(rows["pods"])

    async def test_no_kubeconfig(self, host_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        file = next(flag for flag in host_flags if flag.startswith("--host-kube-config")).partition("=")[2]
        assert await asyncio.to_thread(run, "rights", *host_flags, f"--host-kube-config={file}.not") == 2
        assert "syncer: " in capsys.readouterr().err

    def test_yaml_asks_nobody(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("rights", "--yaml", "--name=blue", "--target-namespace=team", "--leader-elect") == 0
        role, cluster_role = yaml.safe_load_all(capsys.readouterr().out)
        assert (role["kind"], role["metadata"]) == ("Role", {"name": "vc-blue", "namespace": "team"})
        assert role["rules"] == rules(needed_rights([spec for spec in ALL if spec.default], election=True))
        assert (cluster_role["kind"], cluster_role["metadata"]) == ("ClusterRole", {"name": "vc-blue-v-team"})
        assert run("rights", "--yaml", "--target-namespace=team", "--sync=-pods") == 0
        less = next(yaml.safe_load_all(capsys.readouterr().out))
        assert "pods/ephemeralcontainers" not in str(less)
        assert "metrics.k8s.io" not in str(role), "it is not asked for"

    def test_yaml_of_what_a_flag_asks_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("rights", "--yaml", "--target-namespace=team", "--proxy-metrics-server") == 0
        for role, plural in zip(yaml.safe_load_all(capsys.readouterr().out), ("pods", "nodes"), strict=True):
            (rule,) = [rule for rule in role["rules"] if rule["apiGroups"] == ["metrics.k8s.io"]]
            assert (rule["resources"], rule["verbs"]) == ([plural], ["get", "list"])


class TestReleaseDeletions:
    @pytest.fixture
    def arguments(self, host_flags: list[str]) -> list[str]:
        return ["release-deletions", *host_flags]

    async def test_writes_the_time_on_the_owner(
        self, arguments: list[str], host_api: FakeApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        metadata = {"name": "vc-blue-owner", "namespace": "default", "annotations": {"kept": "yes"}}
        host_api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        host_api.registry.now = lambda: 1_900_000_000.5  # whose clock counts: the syncer's is about the same, ours may be anything
        assert await asyncio.to_thread(run, *arguments) == 0
        owner = host_api.get(CONFIGMAPS, Key("default", "vc-blue-owner"))
        assert owner is not None
        annotations = annotations_of(owner)
        assert annotations["kept"] == "yes"
        assert annotations["vcluster.loft.sh/release-deletions"] == "2030-03-17T17:46:41Z", "what is held since .1 too"
        assert "are released" in capsys.readouterr().out

    async def test_tells_when_there_is_no_such_virtual_cluster(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert await asyncio.to_thread(run, *arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("syncer: there is no ConfigMap default/vc-blue-owner on the host")
        assert err.count("\n") == 1

    async def test_tells_what_the_host_refused(
        self, arguments: list[str], host_api: FakeApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        host_api.fault(lambda request: request.method == "PATCH", status=403)
        assert await asyncio.to_thread(run, *arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("syncer: 403")
        assert err.count("\n") == 1

    async def test_tells_that_there_are_no_credentials(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("release-deletions", "--target-namespace=a", f"--host-kube-config={tmp_path / 'none'}")
        assert await asyncio.to_thread(run, *arguments) == 2
        err = capsys.readouterr().err
        assert str(tmp_path / "none") in err
        assert err.count("\n") == 1

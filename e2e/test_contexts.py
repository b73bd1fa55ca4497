"""`syncer connect`, `use` and `disconnect` between real API servers, and what kubectl thinks of the kubeconfig that they leave.

No node runs anything: that the control planes are ready, and where their load balancers are, is written by hand.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.commands import Commands
from e2e.lab.api import wait_until
from syncer.kube.types import PODS, SECRETS, SERVICES
from syncer.releases.release import PAUSED, STATEFUL_SETS

if TYPE_CHECKING:
    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.lab.virtual import VirtualCluster

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("virtual")]

NAMESPACE = "team-contexts"
BIN = Path(sys.executable).parent


@dataclass
class User:
    """Somebody with a kubeconfig of their own."""

    host: HostCluster
    commands: Commands

    @property
    def file(self) -> Path:
        return self.commands.kubeconfig

    @property
    def current(self) -> str:
        return self.kubectl("config", "current-context").strip()

    def kubectl(self, *words: str, check: bool = True, files: str = "") -> str:
        environment = {**self.commands.environment(), "PATH": f"{BIN}:{os.environ['PATH']}", "KUBECONFIG": files or str(self.file)}
        command = [str(self.host.binary("kubectl")), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if check else done.stdout + done.stderr

    def connect(self, *words: str) -> str:
        """The context that is current then."""
        self.commands.run("connect", *words).succeeded()
        return self.current


@pytest.fixture
def user(host_cluster: HostCluster, tmp_path: Path) -> User:
    file = tmp_path / "config"
    file.write_bytes(host_cluster.kubeconfig.read_bytes())
    file.chmod(0o600)
    return User(host_cluster, Commands(file, tmp_path))


def objects(name: str, virtual: VirtualCluster) -> list[Obj]:
    """What the host has of a virtual cluster."""
    labels = {"app": "vcluster", "release": name}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    containers = [{"name": "syncer", "image": "none"}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers, "nodeSelector": {"there-is": "none"}}}
    config = b64encode(virtual.kubeconfig.read_bytes()).decode()
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata,
            "spec": {"replicas": 1, "serviceName": name, "selector": {"matchLabels": labels}, "template": template},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {**metadata, "name": f"vc-{name}"}, "data": {"config": config}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**metadata, "name": f"{name}-lb"},
            "spec": {"type": "LoadBalancer", "selector": labels, "ports": [{"name": "https", "port": virtual.port("apiserver")}]},
        },
    ]


def patch_status(host: HostCluster, path: str, status: Obj) -> None:
    host.api.request("PATCH", f"{path}/status", {"status": status}, content_type="application/merge-patch+json")


def set_ready(host: HostCluster, name: str, ready: bool) -> None:
    condition = {"type": "Ready", "status": str(ready)}
    wait_until(lambda: host.api.find(PODS.path(NAMESPACE, f"{name}-0")) is not None, f"the pod of {name}")
    patch_status(host, PODS.path(NAMESPACE, f"{name}-0"), {"phase": "Running" if ready else "Pending", "conditions": [condition]})


@pytest.fixture(scope="module")
def virtual(host_cluster: HostCluster, virtual_cluster: StartVirtual) -> VirtualCluster:
    """The control plane behind both alpha and beta."""
    host_cluster.create_namespace(NAMESPACE)
    found = virtual_cluster("contexts")
    for name in ("alpha", "beta"):
        for obj in objects(name, found):
            host_cluster.api.apply(obj)
        set_ready(host_cluster, name, ready=True)
        patch_status(host_cluster, SERVICES.path(NAMESPACE, f"{name}-lb"), {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}})
    return found


class TestContexts:
    def test_from_one_to_the_other_and_back(self, user: User, virtual: VirtualCluster) -> None:
        host = user.current
        alpha = user.connect("alpha")
        assert alpha == f"vcluster_alpha_{NAMESPACE}_{host}"
        uid = virtual.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
        assert user.kubectl("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}") == uid
        # alpha's own API server, which is asked first now, has no virtual clusters.
        beta = user.connect("beta")
        assert beta == f"vcluster_beta_{NAMESPACE}_{host}"
        told = user.commands.run("status", "beta")
        assert (told.code, "beta" in told.out) == (1, True), "it has no syncer here, but it is found from within"
        user.commands.run("use", "alpha").succeeded()
        assert user.current == alpha
        user.commands.run("disconnect").succeeded()
        assert user.current == host
        assert user.kubectl("get", "namespace", NAMESPACE, "--output=name")
        assert set(user.kubectl("config", "get-contexts", "--output=name").split()) == {host, alpha, beta}
        assert stat.S_IMODE(user.file.stat().st_mode) == 0o600
        assert user.commands.run("disconnect").code == 2

    def test_kubectl_finds_all_else_as_it_was(self, user: User) -> None:
        document = yaml.safe_load(user.file.read_text())
        document["contexts"][0]["context"]["extensions"] = [{"name": "note", "extension": {"since": "2026-01-01", "answer": 42}}]
        document["users"].append(
            {"name": "on", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x", "interactiveMode": "Never"}}}
        )
        document["contexts"].append({"name": "007", "context": {"cluster": "1.10", "user": "on"}})
        document["clusters"].append({"name": "1.10", "cluster": {"server": "https://ten.test"}})
        document["contexts"] += [{"name": name, "context": {"cluster": "1.10", "user": "on"}} for name in ("1e3", "0o17", "08", "y")]
        user.file.write_text(json.dumps(document))  # all texts in quotes
        before = json.loads(user.kubectl("config", "view", "--raw", "--output=json"))
        alpha = user.connect("alpha", "--update-current=false")
        assert alpha == before["current-context"]
        after = json.loads(user.kubectl("config", "view", "--raw", "--output=json"))
        for part in ("clusters", "users", "contexts"):
            added = [entry for entry in after[part] if entry not in before[part]]
            assert [entry["name"] for entry in added] == [f"vcluster_alpha_{NAMESPACE}_{alpha}"]
            assert len(after[part]) == len(before[part]) + 1
        again = user.file.read_bytes()
        user.connect("alpha", "--update-current=false")
        assert user.file.read_bytes() == again

    def test_one_that_does_not_answer_is_asked_about_itself_only(self, user: User) -> None:
        host, alpha = user.current, user.connect("alpha")
        document = yaml.safe_load(user.file.read_text())
        next(one for one in document["clusters"] if one["name"] == alpha)["cluster"]["server"] = "https://127.0.0.1:1"
        user.file.write_text(json.dumps(document))
        for command in ("pause", "resume", "delete", "status"):
            done = user.commands.run(command, "beta")
            assert done.code == 1
            assert f"context {alpha}: cannot connect to 127.0.0.1:1 " in done.err
            assert f"; if beta is not in there, write --context={host}" in done.err
        assert user.commands.run("status", "alpha").out
        assert "manage it with the program that made it" in user.commands.run("pause", "alpha").err
        assert user.connect("beta").startswith("vcluster_beta_")

    def test_of_several_files_the_first_is_written(self, user: User, tmp_path: Path) -> None:
        first = tmp_path / "first"
        first.write_text("kind: Config\napiVersion: v1\n")
        files = f"{first}:{user.file}"
        both = {"KUBECONFIG": files}
        before, host = user.file.read_bytes(), user.current
        user.commands.run("connect", "alpha", environment=both).succeeded()
        assert user.file.read_bytes() == before
        assert user.kubectl("config", "current-context", files=files).startswith("vcluster_alpha_")
        assert "kube-system" in user.kubectl("get", "namespaces", files=files)
        user.commands.run("disconnect", environment=both).succeeded()
        assert user.kubectl("config", "current-context", files=files).strip() == host

    def test_a_server_of_one_s_own_choice(self, user: User) -> None:
        out = user.commands.run("connect", "alpha", "--server=vc.example.test:6443", "--print").succeeded().out
        assert yaml.safe_load(out)["clusters"][0]["cluster"]["server"] == "https://vc.example.test:6443"


class TestLimitedAccess:
    def kubeconfig(self, user: User, *words: str) -> Path:
        file = user.file.with_name(f"limited-{len(list(user.file.parent.iterdir()))}")
        user.commands.run("connect", "alpha", f"--kube-config={file}", *words).succeeded()
        return file

    def can(self, user: User, file: Path, verb: str, what: str) -> bool:
        return user.kubectl(f"--kubeconfig={file}", "auth", "can-i", verb, what, check=False).startswith("yes")

    def test_by_a_role_and_another_one_the_next_time(self, user: User, virtual: VirtualCluster) -> None:
        view = self.kubeconfig(user, "--service-account=default/robot", "--cluster-role=view", "--token-expiration=900")
        assert "system:serviceaccount:default:robot" in user.kubectl(f"--kubeconfig={view}", "auth", "whoami")
        assert "client-key" not in view.read_text()
        assert stat.S_IMODE(view.stat().st_mode) == 0o600
        assert [self.can(user, view, verb, "pods") for verb in ("list", "create")] == [True, False]
        self.kubeconfig(user, "--service-account=default/robot", "--cluster-role=edit")
        assert [self.can(user, view, verb, "pods") for verb in ("list", "create")] == [True, True]
        self.kubeconfig(user, "--service-account=default/robot", "--cluster-role=view")
        assert not self.can(user, view, "create", "pods")
        assert [one["metadata"]["name"] for one in bindings(virtual)] == ["syncer:connect:default:robot"]

    def test_an_account_without_a_role_keeps_what_it_has(self, user: User, virtual: VirtualCluster) -> None:
        assert not self.can(user, self.kubeconfig(user, "--service-account=default/plain"), "list", "pods")
        assert all("plain" not in one["metadata"]["name"] for one in bindings(virtual))

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("--service-account=no-such/robot",), "no namespace 'no-such'"),
            (("--service-account=default/robot", "--cluster-role=no-such"), "no ClusterRole 'no-such'"),
            (("--cluster-role=view",), "--service-account"),
            (("--service-account=a/b/c",), "NAMESPACE/NAME"),
            (("--service-account=robot", "--token-expiration=10"), "from 600 on"),
        ],
    )
    def test_what_cannot_be(self, user: User, words: tuple[str, ...], told: str) -> None:
        done = user.commands.run("connect", "alpha", "--print", *words)
        assert (done.code, done.out) == (2, "")
        assert told in done.err


def bindings(virtual: VirtualCluster) -> list[Any]:
    found = virtual.api.get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings")["items"]
    return [one for one in found if one["metadata"]["name"].startswith("syncer:connect:")]


class TestWaiting:
    def test_there_is_none(self, user: User) -> None:
        done = user.commands.run("connect", "gamma")
        assert (done.code, done.out) == (3, "")
        assert "`syncer list` shows" in done.err

    def test_it_is_not_ready_in_time(self, user: User) -> None:
        set_ready(user.host, "beta", ready=False)
        try:
            done = user.commands.run("connect", "beta", "--timeout=7s")
        finally:
            set_ready(user.host, "beta", ready=True)
        assert done.code == 4
        assert done.err.count("waiting for beta") >= 1
        assert "--timeout" in done.err

    def test_it_is_paused(self, user: User) -> None:
        path = STATEFUL_SETS.path(NAMESPACE, "beta")
        for value in ("true", None):
            patch = {"metadata": {"annotations": {PAUSED: value}}}
            user.host.api.request("PATCH", path, patch, content_type="application/merge-patch+json")
            done = user.commands.run("connect", "beta", "--print")
            assert (done.code, "syncer resume beta" in done.err) == ((2, True) if value else (0, False))

    def test_a_secret_that_wants_a_program_to_be_run(self, user: User, tmp_path: Path, virtual: VirtualCluster) -> None:
        document = yaml.safe_load(virtual.kubeconfig.read_text())
        proof = tmp_path / "proof"
        document["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [str(proof)]}}
        path = SECRETS.path(NAMESPACE, "vc-beta")
        before = user.host.api.get(path)["data"]
        for data in ({"config": b64encode(yaml.safe_dump(document).encode()).decode()}, before):
            user.host.api.request("PATCH", path, {"data": data}, content_type="application/merge-patch+json")
            done = user.commands.run("connect", "beta", "--print")
            assert done.code == (0 if data is before else 2)
        assert not proof.exists()


class TestPlugin:
    def test_kubectl_finds_it(self, user: User) -> None:
        assert "alpha" in user.kubectl("syncer", "list")
        assert "usage: kubectl syncer connect" in user.kubectl("syncer", "connect", "--help")

    def test_kubectl_completes_it(self, user: User) -> None:
        assert user.kubectl("__complete", "syncer", "disc").startswith("disconnect\t")
        assert user.kubectl("__complete", "syncer", "connect", "al").startswith(f"alpha\tin namespace {NAMESPACE}\n")

"""The syncer's image on a real node, as strictly confined as a pod can be, and what is in it."""

from __future__ import annotations

import json
import random
import re
import subprocess
import tomllib
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.guestbook import is_ready, kubectl
from e2e.lab import kubeconfig, node, syncer_image
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX
from e2e.lab.state import BRIDGE_ADDRESS
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.lab.virtual import VirtualCluster

pytestmark = pytest.mark.node

NAMESPACE = "packed"
STRICT = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
SITE = "usr/local/lib/python3.11/dist-packages"


@pytest.fixture(scope="module")
def layers() -> dict[str, Path]:
    return syncer_image.layers()


@pytest.fixture(scope="module")
def host(real_node: HostCluster) -> HostCluster:
    """With the image on its node, and a namespace where no pod may be less confined than "restricted"."""
    node.import_images(real_node.lab, syncer_image.build())
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    real_node.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    return real_node


@pytest.fixture(scope="module")
def virtual(host: HostCluster, virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    """A control plane whose syncer runs in a pod of the host, by a service account and the flags that have to be."""
    virtual = virtual_cluster("packed", namespace=NAMESPACE)
    node.forward(host.lab, virtual.port("apiserver"))
    for obj in (*service_account(), data(virtual)):
        host.api.apply(obj)
    mounts = [{"name": "data", "mountPath": "/data/server"}]
    flags = [f"--name={virtual.name}", f"--target-namespace={NAMESPACE}"]
    probe = {"httpGet": {"path": "/readyz", "port": 8081}, "periodSeconds": 1}
    apply_pod(host, "syncer", args=flags, volumeMounts=mounts, readinessProbe=probe)
    wait_until(lambda: is_ready(host.api.get(pod_path("syncer"))), f"the syncer is ready: {log(host, 'syncer')}", 60)
    yield virtual
    virtual.remove(wait=False)


def pod_path(name: str) -> str:
    return f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"


def apply_pod(host: HostCluster, name: str, **container: Any) -> None:
    """A pod of the image, as a user that nobody knows, which can write nothing on its file system."""
    context = {**STRICT, "runAsNonRoot": True, "runAsUser": random.randint(100_000, 2_000_000_000), "readOnlyRootFilesystem": True}
    item = {"name": "syncer", "image": syncer_image.SYNCER, "imagePullPolicy": "Never", "securityContext": context, **container}
    data = {"name": "data", "secret": {"secretName": "packed-data", "optional": True}}
    data["secret"] |= {"items": [{"key": name, "path": path} for name, path in FILES.items()]}  # type: ignore[operator]  # a dict
    spec = {"containers": [item], "volumes": [data], "restartPolicy": "Never", "terminationGracePeriodSeconds": 5}
    labels = {"app": "vcluster", "release": "packed"}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    host.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, "serviceAccountName": "packed"}})


def log(host: HostCluster, pod: str) -> str:
    return kubectl(host, "-n", NAMESPACE, "logs", pod, check=False)


def run(host: HostCluster, name: str, *command: str) -> tuple[int, str]:
    """Exit code and output of a command in a pod of the image."""
    apply_pod(host, name, command=list(command))

    def state() -> Obj:
        found = host.api.get(pod_path(name))["status"].get("containerStatuses") or [{}]
        return dict(found[0].get("state", {}).get("terminated") or {})

    wait_until(lambda: bool(state()), f"{name} ends", 60)
    return int(state()["exitCode"]), log(host, name)


FILES = {
    "admin.kubeconfig": "cred/admin.kubeconfig",
    **{
        name: f"tls/{name}"
        for name in (
            "server-ca.crt",
            "server-ca.key",
            "client-ca.crt",
            "request-header-ca.crt",
            "client-auth-proxy.crt",
            "client-auth-proxy.key",
        )
    },
}
"""Keys of the Secret, and where k3s has these files below /data/server."""


def data(virtual: VirtualCluster) -> Obj:
    """What k3s would leave in its volume."""
    tls, server = virtual.tls, f"https://{BRIDGE_ADDRESS}:{virtual.port('apiserver')}"
    admin = kubeconfig.write(
        virtual.dir / "packed.kubeconfig", server, tls / "server-ca.crt", tls / "client-admin.crt", tls / "client-admin.key", "packed"
    )
    files = {name: admin if name == "admin.kubeconfig" else tls / name for name in FILES}
    content = {name: b64encode(path.read_bytes()).decode() for name, path in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "packed-data", "namespace": NAMESPACE}, "data": content}


def service_account() -> list[Obj]:
    """One that may do what the syncer's flags need."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "packed", "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules(needed_rights(ALL, election=True))},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "packed"},
            "subjects": [{"kind": "ServiceAccount", "name": "packed"}],
        },
    ]


def front(virtual: VirtualCluster) -> Path:
    """A kubeconfig for what the syncer's pod serves."""
    address = virtual.host.api.get(pod_path("syncer"))["status"]["podIP"]
    config = json.loads(kubectl(virtual, "config", "view", "--raw", "-o", "json"))
    config["clusters"][0]["cluster"] |= {"server": f"https://{address}:8443", "tls-server-name": "localhost"}
    path = virtual.dir / "front.kubeconfig"
    path.write_text(json.dumps(config))
    return path


def test_it_runs_as_anybody_with_nothing_to_write_to(host: HostCluster) -> None:
    host.api.apply(service_account()[0])
    version = tomllib.loads((syncer_image.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(host, "version", "syncer", "version") == (0, f"syncer {version}\n")
    code, text = run(host, "help", "syncer", "start", "--help")
    assert (code, text.partition("\n")[0]) == (0, "usage: syncer start [FLAG…]")


def test_it_syncs_and_serves_from_a_pod_of_the_host(virtual: VirtualCluster) -> None:
    security = {**STRICT, "runAsNonRoot": True, "runAsUser": 1000}
    container = {"name": "app", "image": BUSYBOX, "command": ["sh", "-c", "echo in here; sleep 1d"], "securityContext": security}
    metadata = {"name": "app", "namespace": "default"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    virtual.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    wait_until(lambda: is_ready(virtual.api.get("/api/v1/namespaces/default/pods/app")), "the tenant's pod is ready", 60)
    command = [str(virtual.binary("kubectl")), f"--kubeconfig={front(virtual)}", "logs", "app"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "in here\n"
    status = virtual.host.api.get(pod_path("syncer"))["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["ready"]) == (0, True)


def files(layer: Path) -> list[Path]:
    return [path for path in layer.rglob("*") if not path.is_dir() and not path.is_symlink()]


def test_no_shell_and_no_package_manager(layers: dict[str, Path]) -> None:
    programs = {path.relative_to(layer) for layer in layers.values() for path in layer.rglob("*") if path.parent.name in ("bin", "sbin")}
    expected = {"usr/bin/python3", "usr/bin/python3.11", "usr/local/bin/syncer"}
    assert {str(program) for program in programs} == expected
    assert not list(layers["packages"].rglob("pip"))


def test_nothing_of_development(layers: dict[str, Path]) -> None:
    project = tomllib.loads((syncer_image.ROOT / "pyproject.toml").read_text())

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=~]", requirement)[0].lower().replace("-", "_") for requirement in requirements}

    found = {path.name.partition("-")[0] for path in (layers["packages"] / SITE).glob("*.dist-info")}
    assert names(project["project"]["dependencies"]) <= found
    assert names(project["dependency-groups"]["dev"]) & found == {"urllib3"}, "which kubernetes_asyncio needs too"
    assert {path.name for path in (layers["syncer"] / SITE).iterdir()} == {"syncer", f"syncer-{project['project']['version']}.dist-info"}


def test_what_is_recorded_as_installed_is_there(layers: dict[str, Path]) -> None:
    records = [path for layer in layers.values() for path in (layer / SITE).glob("*.dist-info/RECORD")]
    assert len(records) > 20
    for record in records:
        missing = [
            name for name in re.findall(r"^\"?([^\",]+)", record.read_text(), re.MULTILINE) if not (record.parents[1] / name).exists()
        ]
        assert not missing, record


def test_everybody_may_read_it_and_nobody_gains_rights(layers: dict[str, Path]) -> None:
    for layer in layers.values():
        for path in layer.rglob("*"):
            mode = path.lstat().st_mode
            if path.is_symlink():
                continue
            assert mode & 0o444 == 0o444, path
            assert not mode & 0o6000, path
            assert not mode & 0o022 or path == layer / "tmp", path
            assert mode & 0o111 == 0o111 or not path.is_dir(), path


def test_all_code_is_compiled_and_the_same_wherever_it_was_made(layers: dict[str, Path]) -> None:
    seen = 0
    for layer in layers.values():
        for path in files(layer):
            assert path.stat().st_mtime == 0, path
            if path.suffix == ".py" and (path.is_relative_to(layer / SITE) or path.is_relative_to(layer / "usr/lib/python3.11")):
                code = (path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc").read_bytes()
                assert code[4:8] == b"\x01\0\0\0", f"{path}: looked at its source before it is believed (PEP 552)"
                assert str(layer.parent).encode() not in code
                seen += 1
    assert seen > 1000


def test_no_library_is_missing(layers: dict[str, Path]) -> None:
    base = layers["base"]
    (loader,) = base.glob("lib/*/ld-linux-*.so.*")
    places = f"{loader.parent}:{base / 'usr' / loader.parent.relative_to(base)}"
    programs = [path for layer in layers.values() for path in files(layer) if path.read_bytes()[:4] == b"\x7fELF" and path != loader]
    for program in programs:
        listed = subprocess.run(
            [loader, "--inhibit-cache", "--library-path", places, "--list", program], capture_output=True, text=True, check=False
        )
        used = re.findall(r"=> (\S+) ", listed.stdout)
        assert listed.returncode == 0, f"{program}: {listed.stderr}"
        strays = [one for one in used if not any(Path(one).is_relative_to(layer) for layer in layers.values())]
        assert not strays, f"{program} wants {strays}"
    assert len(programs) > 50

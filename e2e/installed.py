"""Virtual clusters as users install them: the chart, with Helm, in pods of the real node.

The control plane is the lab's k3s-shaped image, which takes a moment to make the first time. Without a word about it the data is in an
emptyDir; a test that wants a volume says `storage.persistence` and starts `e2e.lab.provisioner`.
"""

from __future__ import annotations

import functools
import json
import subprocess
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import yaml

from e2e.chart import CHART
from e2e.errors import LabError
from e2e.guestbook import Cluster
from e2e.kubernetes import binaries
from e2e.lab import installation
from e2e.lab.api import Api, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster
    from e2e.lab.state import Lab

_PATIENCE = 120.0
_LINES = 15


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> Obj:
    """Values upon values, as Helm lays them."""
    found = dict(base)
    for key, value in more.items():
        under = found.get(key)
        found[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return found


class Host(Cluster, Protocol):
    """Where a release can be: the host cluster of a lab, or a virtual cluster."""

    @property
    def lab(self) -> Lab: ...


@dataclass
class Release:
    """A release of the chart. What can be asked of a virtual cluster of the lab can be asked of it too; it answers through its syncer."""

    host: Host
    name: str
    host_namespace: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lab(self) -> Lab:
        return self.host.lab

    @property
    def path(self) -> str:
        """Of the host namespace."""
        return f"/api/v1/namespaces/{self.host_namespace}"

    @property
    def directory(self) -> Path:
        found = self.lab.dir / "installed" / f"{self.host_namespace}-{self.name}"
        found.mkdir(parents=True, exist_ok=True, mode=0o700)
        return found

    @property
    def kubeconfig(self) -> Path:
        """Of the tenant's administrator, as `connect()` wrote it last."""
        return self.directory / "kubeconfig"

    @functools.cached_property
    def api(self) -> Api:
        """The virtual cluster, through its syncer."""
        return Api(self.kubeconfig)

    def binary(self, name: str) -> Path:
        """A binary of the host's version."""
        return self.host.binary(name)

    def install(self, chart: Path = CHART, *flags: str) -> None:
        """`helm upgrade --install`, and return at once: see `wait_ready()`."""
        self.helm(
            "upgrade",
            "--install",
            self.name,
            str(chart),
            "--create-namespace",
            "--values=-",
            *flags,
            stdin=json.dumps(merged(installation.values(), self.values)),
        )

    def helm(self, *words: str, stdin: str = "") -> str:
        """What helm prints for the host, in the release's namespace. LabError with its complaint."""
        command = [
            str(binaries.ensure("helm")["helm"]),
            *words,
            f"--namespace={self.host_namespace}",
            f"--kubeconfig={self.host.kubeconfig}",
        ]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        if done.returncode:
            raise LabError(f"helm {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def wait_ready(self, replicas: int = 1, timeout: float = _PATIENCE) -> None:
        """Until so many replicas are ready, all of them of the release's last revision, and the virtual cluster answers through the syncer.

        LabError with what the pods, their events and their logs say when that does not come.
        """
        path = f"/apis/apps/v1/namespaces/{self.host_namespace}/statefulsets/{self.name}"

        def rolled_out() -> bool:
            found = self.host.api.get(path)
            status, wanted = found["status"], found["spec"]["replicas"]
            current = status.get("observedGeneration") == found["metadata"]["generation"]
            updated = status.get("updateRevision") == status.get("currentRevision")
            return bool(current and updated and wanted == replicas == status.get("readyReplicas", 0))

        try:
            wait_until(rolled_out, f"{replicas} replicas of {self.host_namespace}/{self.name} are ready", timeout)
            self.connect()
            wait_until(self._answers, f"{self.host_namespace}/{self.name} answers", timeout)
        except LabError as error:
            raise LabError(f"{error}\n{self.troubles()}") from error

    def connect(self) -> None:
        """Take the kubeconfig from its Secret, and lead it to the Service."""
        secret = f"{self.path}/secrets/vc-{self.name}"
        wait_until(lambda: self.host.api.find(secret) is not None, f"the Secret vc-{self.name} is written")
        config = yaml.safe_load(b64decode(self.host.api.get(secret)["data"]["config"]))
        config["clusters"][0]["cluster"]["server"] = f"https://{self.address}"
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self.__dict__.pop("api", None)

    @property
    def address(self) -> str:
        """Of the Service in front, to which this machine has a route."""
        found: str = self.host.api.get(f"{self.path}/services/{self.name}")["spec"]["clusterIP"]
        return found

    def kubectl(self, *words: str, check: bool = True, stdin: str | None = None, timeout: float = 60.0) -> str:
        """What kubectl prints to the tenant; LabError with its complaint when it fails and `check` is set."""
        command = [str(self.binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise LabError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout + ("" if check else done.stderr)

    def pods(self) -> list[Obj]:
        """Those of the control plane, on the host."""
        return self._pods(f"app=vcluster,release={self.name}")

    def tenant_pods(self) -> list[Obj]:
        """Those of the tenant, on the host."""
        return self._pods(f"vcluster.loft.sh/managed-by={self.name}")

    def logs(self, container: str = "syncer", pod: str | None = None, *, previous: bool = False) -> str:
        """What a container of the control plane has said."""
        words = ["--previous"] if previous else []
        return self._host_kubectl("logs", pod or f"{self.name}-0", f"--container={container}", *words)

    def uninstall(self, timeout: float = _PATIENCE) -> None:
        """`helm uninstall`, and wait until nothing of it runs and nothing that it made for the tenant is left. The namespace stays."""
        self.helm("uninstall", self.name, "--ignore-not-found")

        def left() -> list[str]:
            kinds = "pods,services,configmaps,secrets,persistentvolumeclaims,endpointslices.discovery.k8s.io,ingresses.networking.k8s.io"
            return self._host_kubectl("get", kinds, f"--selector=vcluster.loft.sh/managed-by={self.name}", "--output=name").split()

        wait_until(lambda: not self.pods() and not left(), f"{self.host_namespace}/{self.name} has gone", timeout)

    def troubles(self) -> str:
        """What could explain why it does not work: the state of its pods, their events and the ends of their logs."""
        found = []
        for pod in self.pods():
            name, status = pod["metadata"]["name"], pod["status"]
            wrong = [one for one in status.get("conditions", ()) if one["status"] != "True"]
            found.append(f"pod {name}: {status.get('phase')} {json.dumps(wrong)}")
            for container in status.get("containerStatuses", ()):
                facts = {key: container[key] for key in ("ready", "restartCount", "state", "lastState")}
                found.append(f"  {container['name']}: {json.dumps(facts)}")
                for previous in (True, False) if container["restartCount"] else (False,):
                    log = self.logs(container["name"], name, previous=previous).splitlines()[-_LINES:]
                    found.append("\n".join(f"    {line}" for line in log))
        found.append(self._host_kubectl("get", "events", "--sort-by=.lastTimestamp"))
        return "\n".join(found)

    def _answers(self) -> bool:
        return self.api.find("/api/v1/namespaces/default/serviceaccounts/default") is not None  # without which no pod can be made

    def _pods(self, selector: str) -> list[Obj]:
        found: list[Obj] = self.host.api.get(f"{self.path}/pods", labelSelector=selector)["items"]
        return found

    def _host_kubectl(self, *words: str) -> str:
        command = [str(self.binary("kubectl")), f"--kubeconfig={self.host.kubeconfig}", f"--namespace={self.host_namespace}", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout or done.stderr


@dataclass
class Installed(Release):
    """A release on the host cluster itself."""

    host: HostCluster


class Install(Protocol):
    """Installs the chart and waits until it is ready; the namespace, unless given, is one of its own."""

    def __call__(self, name: str, namespace: str | None = None, values: Mapping[str, Any] = ..., *, ready: bool = True) -> Installed: ...


@pytest.fixture(scope="session")
def prepared_node(real_node: HostCluster) -> HostCluster:
    """The host with its real node, which has the images."""
    installation.prepare(real_node.lab)
    return real_node


@pytest.fixture(scope="module")
def install(prepared_node: HostCluster) -> Iterator[Install]:
    """Installs releases; at the end of the module they go, with their namespaces, though not at once."""
    made: list[Installed] = []

    def install(name: str, namespace: str | None = None, values: Mapping[str, Any] = {}, *, ready: bool = True) -> Installed:
        release = Installed(prepared_node, name, namespace or f"vcluster-{name}", values)
        made.append(release)
        release.install()
        if ready:
            release.wait_ready()
        return release

    yield install
    for release in made:
        release.helm("uninstall", release.name, "--ignore-not-found")
    for release in made:
        prepared_node.api.delete(release.path)

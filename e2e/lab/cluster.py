"""What a host and a virtual control plane have in common: a datastore, an API server and controllers on loopback.

Files of one: `tls/` (named as k3s names them), `kubeconfig` (cluster-admin), `cluster.json` (how it was started), `data/`, `logs/` and
`pids/`.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import shutil
import signal
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from e2e.errors import LabError
from e2e.kubernetes import binaries
from e2e.lab import apiserver, controller_manager, etcd, kine, kubeconfig, pki, process, scheduler
from e2e.lab.api import Api, wait_until
from e2e.lab.state import BRIDGE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from pathlib import Path
    from types import ModuleType

    from e2e.lab.state import Lab

_DATASTORES = {"etcd": etcd, "kine": kine}
_SERVERS = (scheduler.NAME, controller_manager.NAME, apiserver.NAME)
_STOP_GRACE = 3.0  # an API server would wait up to 60 s for its watches to end


@dataclass(frozen=True)
class Settings:
    """How a control plane is started; kept, so that it starts again the same way."""

    version: str
    service_range: str
    datastore: Literal["etcd", "kine"]
    scheduler: bool


class ControlPlane:
    """A control plane of a lab. `start()` is idempotent; ports, certificates and data outlive `stop()`."""

    def __init__(self, lab: Lab, name: str, directory: Path) -> None:
        self.lab = lab
        self.name = name
        self.dir = directory

    @property
    def exists(self) -> bool:
        """Whether it was ever started, and not removed since."""
        return self._settings_file.exists()

    @property
    def settings(self) -> Settings:
        """How it is started; LabError if it does not exist."""
        try:
            return Settings(**json.loads(self._settings_file.read_text()))
        except FileNotFoundError:
            raise LabError(
                f"there is no cluster {self.name!r} in lab {self.lab.name!r}: start it first (python -m e2e.lab --help)"
            ) from None

    @property
    def version(self) -> str:
        return self.settings.version

    @property
    def service_range(self) -> str:
        return self.settings.service_range

    @property
    def tls(self) -> Path:
        return self.dir / "tls"

    @property
    def data_dir(self) -> Path:
        return self.dir / "data"

    @property
    def kubeconfig(self) -> Path:
        """Cluster-admin, for use on this machine."""
        return self.dir / "kubeconfig"

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port('apiserver')}"

    @functools.cached_property
    def api(self) -> Api:
        """A client with the rights of a cluster-admin."""
        return Api(self.kubeconfig)

    def port(self, component: str) -> int:
        """The port of a component; the same for the life of this cluster."""
        return self.lab.port(f"{self.dir.relative_to(self.lab.dir)}/{component}")

    def binary(self, name: str) -> Path:
        """A binary of this cluster's Kubernetes version."""
        return binaries.ensure(name, version=self.version)[name]

    def component_kubeconfig(self, component: str) -> Path:
        return self.dir / f"{component}.kubeconfig"

    def running(self) -> bool:
        """Whether all of its processes are alive."""
        return self.exists and all(process.alive(self.dir, name) for name in self._process_names())

    def start(self) -> None:
        """Start what is not running and wait until it is usable: the API server is ready, and there are service accounts.

        What a crash left, processes without a record, ends first.
        """
        process.kill_strays(self.dir, keep_recorded=True)
        self._start_datastore()
        self.issue_certificates()
        self.start_apiserver()
        self.start_controllers()
        wait_until(
            lambda: self.api.find("/api/v1/namespaces/default/serviceaccounts/default") is not None, f"{self.name}: default ServiceAccount"
        )

    def stop(self, grace: float = _STOP_GRACE) -> None:
        """End the control plane's own processes; files stay, and so does what else runs in its directory, such as a syncer."""
        if grace > 0:
            for name in _SERVERS:
                process.terminate(self.dir, name)
        for name in (*_SERVERS, *_DATASTORES):
            process.stop(self.dir, name, grace)

    def wipe(self) -> None:
        """A new, empty cluster under the same address, certificates and keys: what a lost volume looks like to its clients."""
        self.stop(grace=0)
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.start()

    def start_apiserver(self, *extra: str) -> None:
        """Start the API server unless it runs, with `extra` flags for once, and wait until it is ready."""
        if process.alive(self.dir, apiserver.NAME):
            self.resume()  # a test that crashed may have left it paused
        apiserver.start(self, self._datastore.endpoint(self), [*self._apiserver_flags(), *extra])
        process.wait_ready(self.dir, apiserver.NAME, self.api.ready)

    def stop_apiserver(self, grace: float = 0.0) -> None:
        """End the API server, by default as a crash does; `start_apiserver()` brings it back on the same port and data."""
        process.stop(self.dir, apiserver.NAME, grace)

    def pause(self) -> None:
        """Stop the API server in its tracks (SIGSTOP): connections stay open and nothing answers, as when a network is cut."""
        process.send(self.dir, apiserver.NAME, signal.SIGSTOP)

    def resume(self) -> None:
        """End `pause()`."""
        process.send(self.dir, apiserver.NAME, signal.SIGCONT)

    def start_controllers(self) -> None:
        """Start the controller manager, and the scheduler if there is to be one, unless they run."""
        controller_manager.start(self, controllers=self._controllers(), extra=self._controller_flags())
        if self.settings.scheduler:
            scheduler.start(self)

    def stop_controllers(self) -> None:
        """End the controller manager and the scheduler; `start_controllers()` brings them back."""
        process.stop(self.dir, controller_manager.NAME, grace=0)
        process.stop(self.dir, scheduler.NAME, grace=0)

    def issue_certificates(self, life: timedelta | None = None) -> None:
        """Make what is missing in `tls/`, and the kubeconfigs; with a `life` all of it anew, but for the authorities."""
        server_ca = pki.Authority(self.tls, "server-ca", life=life)
        client_ca = pki.Authority(self.tls, "client-ca", life=life)
        request_header_ca = pki.Authority(self.tls, "request-header-ca", life=life)
        pki.service_account_key(self.tls)
        server_ca.issue("serving-kube-apiserver", "kube-apiserver", usage="server", sans=self._server_names())
        client_ca.issue("client-kube-apiserver", "system:apiserver", ["system:masters"])
        request_header_ca.issue("client-auth-proxy", apiserver.PROXY_USER)
        admin = client_ca.issue("client-admin", "system:admin", ["system:masters"])
        kubeconfig.write(self.kubeconfig, self.server, server_ca.cert, admin.cert, admin.key, self.name)
        for component in (controller_manager.NAME, scheduler.NAME):
            client = client_ca.issue(f"client-{component}", f"system:kube-{component}")
            kubeconfig.write(self.component_kubeconfig(component), self.server, server_ca.cert, client.cert, client.key, self.name)

    def status(self) -> list[tuple[str, int | None, int]]:
        """Name, pid (None: dead) and resident bytes of each of its processes."""
        return [(name, process.pid_of(self.dir, name), process.memory(self.dir, name)) for name in process.names(self.dir)]

    def save(self, settings: Settings) -> None:
        """Keep the settings of a new cluster; LabError if it exists with others."""
        if self.exists:
            if self.settings != settings:
                raise LabError(f"cluster {self.name!r} exists with {self.settings}, not {settings}: take it down first")
            return
        scheduler_binary = ["kube-scheduler"] if settings.scheduler else []
        binaries.ensure(settings.datastore, "kube-apiserver", "kube-controller-manager", *scheduler_binary, version=settings.version)
        self.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settings_file.write_text(json.dumps(asdict(settings)))

    def _start_datastore(self) -> None:
        self._datastore.start(self)

    @property
    def _datastore(self) -> ModuleType:
        return _DATASTORES[self.settings.datastore]

    @property
    def _settings_file(self) -> Path:
        return self.dir / "cluster.json"

    def _process_names(self) -> list[str]:
        names = [self._datastore.NAME, apiserver.NAME, controller_manager.NAME]
        return [*names, scheduler.NAME] if self.settings.scheduler else names

    def _server_names(self) -> list[str]:
        names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            self.name,
        ]
        first = ipaddress.ip_network(self.service_range.partition(",")[0])[1]  # the ClusterIP of the Service "kubernetes"
        return [*names, "127.0.0.1", BRIDGE_ADDRESS, str(first)]

    def _apiserver_flags(self) -> Sequence[str]:
        return ()

    def _controllers(self) -> str:
        return "*"

    def _controller_flags(self) -> Sequence[str]:
        return ()

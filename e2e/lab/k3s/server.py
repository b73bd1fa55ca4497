"""`k3s server`: files and flags as k3s has them, around kine, kube-apiserver and kube-controller-manager.

Certificates are made anew at each start, authorities and data are kept.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from e2e.lab import kubeconfig, pki
from e2e.lab.k3s import arguments
from e2e.lab.k3s.arguments import ArgumentError, Arguments
from e2e.lab.k3s.bootstrap import KEY, BootstrapError, Etcd, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SQLITE = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&cache=shared"  # as e2e.lab.kine
_SHARED = (*(f"{name}-ca.{end}" for name in ("server", "client", "request-header") for end in ("crt", "key")), "service.key")
_PROXY_USER = "system:auth-proxy"
_CONTROLLER_PORT = 10257
_GRACE = 3.0  # an API server would wait up to 60 s for its watches to end
_PATIENCE = 120.0


class Stopped(Exception):
    """Somebody wants it to end."""


class Server:
    """A server in its data directory."""

    def __init__(self, given: Arguments) -> None:
        self.given = given
        self.directory = Path(given["data-dir"]).absolute() / "server"
        self.tls = self.directory / "tls"
        self.ending = threading.Event()
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.given['https-listen-port']}"

    def run(self) -> int:
        """Until it is told to end (0), or a part of it ends by itself (1)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ending.set())
        try:
            self._start()
            while not self.ending.wait(0.5):
                self._check()
        except Stopped:
            pass
        except (BootstrapError, OSError) as error:
            say(f"fatal: {error}")
            return 1
        finally:
            self._end()
        return 0

    def _start(self) -> None:
        self.tls.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.given["datastore-endpoint"]:
            self._share()
            datastore = self.given["datastore-endpoint"]
        else:
            datastore = self._kine()
        self._issue()
        self._spawn("kube-apiserver", self._apiserver(datastore), self.given.all("kube-apiserver-arg"))
        self._wait(self._ready, "kube-apiserver is ready")
        self._spawn("kube-controller-manager", self._controller_manager(), self.given.all("kube-controller-manager-arg"))
        say("k3s is up and running")

    def _kine(self) -> str:
        """SQLite behind a socket."""
        database = self.directory / "db" / "state.db"
        database.parent.mkdir(exist_ok=True, mode=0o700)
        kine = self.directory / "kine.sock"
        kine.unlink(missing_ok=True)
        flags = {"endpoint": f"sqlite://{database}?{_SQLITE}", "listen-address": f"unix://{kine}", "metrics-bind-address": "0"}
        self._spawn("kine", flags)
        self._wait(lambda: _listens(kine), "kine listens")
        return f"unix://{kine}"

    def _share(self) -> None:
        """Have what the other servers on the datastore have; the first one says what."""
        file = self.directory / "token"
        token = self.given["token"]
        if path := self.given["token-file"]:
            token = token or Path(path).read_text().strip()
        if not token:
            token = file.read_text() if file.exists() else secrets.token_hex(16)
        store = Etcd.at(
            self.given["datastore-endpoint"],
            self.given["datastore-cafile"],
            self.given["datastore-certfile"],
            self.given["datastore-keyfile"],
        )
        answer: list[bytes] = []

        def agreed() -> bool:
            try:
                found = store.get(KEY)
                if found is None:
                    self._authorities()
                    store.create(KEY, seal({name: (self.tls / name).read_bytes() for name in _SHARED}, token))
                    return False  # perhaps another one was first
            except OSError as error:
                say(f"waiting for the datastore: {error}")
                self.ending.wait(1)
                return False
            answer[:] = [found]
            return True

        self._wait(agreed, "the datastore answers")
        for name, content in unseal(answer[0], token).items():
            if name in _SHARED:
                _write(self.tls / name, content)
        _write(file, token.encode())

    def _authorities(self) -> list[pki.Authority]:
        pki.service_account_key(self.tls)
        return [pki.Authority(self.tls, f"{name}-ca") for name in ("server", "client", "request-header")]

    def _issue(self) -> None:
        """New certificates, and the kubeconfigs with them."""
        server, client, request_header = self._authorities()
        for leaf in self.tls.glob("*.crt"):
            if not leaf.name.endswith("-ca.crt"):
                leaf.unlink()
        server.issue("serving-kube-apiserver", "kube-apiserver", usage="server", sans=server_names(self.given))
        client.issue("client-kube-apiserver", "system:apiserver", ["system:masters"])
        request_header.issue("client-auth-proxy", _PROXY_USER)
        admin = client.issue("client-admin", "system:admin", ["system:masters"])
        controller = client.issue("client-controller", "system:kube-controller-manager")
        credentials = self.directory / "cred"
        kubeconfig.write(credentials / "controller.kubeconfig", self.url, server.cert, controller.cert, controller.key, "local")
        for path in (credentials / "admin.kubeconfig", Path(self.given["write-kubeconfig"])):
            kubeconfig.write(path, self.url, server.cert, admin.cert, admin.key, "default")
        Path(self.given["write-kubeconfig"]).chmod(int(self.given["write-kubeconfig-mode"], 8))

    def _apiserver(self, datastore: str) -> dict[str, str]:
        given, tls = self.given, self.tls
        external = {"cafile": "etcd-cafile", "certfile": "etcd-certfile", "keyfile": "etcd-keyfile"}
        issuer = f"https://kubernetes.default.svc.{given['cluster-domain']}"
        return {
            "v": given["v"] or "0",
            "etcd-servers": datastore,
            **{flag: given[f"datastore-{name}"] for name, flag in external.items() if given[f"datastore-{name}"]},
            "bind-address": given["bind-address"],
            "secure-port": given["https-listen-port"],
            **{flag: given[flag] for flag in ("advertise-address",) if given[flag]},
            "cert-dir": str(tls / "temporary-certs"),
            "tls-cert-file": f"{tls}/serving-kube-apiserver.crt",
            "tls-private-key-file": f"{tls}/serving-kube-apiserver.key",
            "client-ca-file": f"{tls}/client-ca.crt",
            "anonymous-auth": "false",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "enable-bootstrap-token-auth": "true",
            "allow-privileged": "true",
            "profiling": "false",
            "service-cluster-ip-range": ",".join(given.all("service-cidr")),
            "service-node-port-range": given["service-node-port-range"],
            "service-account-issuer": issuer,
            "api-audiences": f"{issuer},k3s",
            "service-account-key-file": f"{tls}/service.key",
            "service-account-signing-key-file": f"{tls}/service.key",
            "kubelet-certificate-authority": f"{tls}/server-ca.crt",
            "kubelet-client-certificate": f"{tls}/client-kube-apiserver.crt",
            "kubelet-client-key": f"{tls}/client-kube-apiserver.key",
            "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
            "requestheader-client-ca-file": f"{tls}/request-header-ca.crt",
            "requestheader-allowed-names": _PROXY_USER,
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": f"{tls}/client-auth-proxy.crt",
            "proxy-client-key-file": f"{tls}/client-auth-proxy.key",
        }

    def _controller_manager(self) -> dict[str, str]:
        tls, config = self.tls, str(self.directory / "cred" / "controller.kubeconfig")
        signing = {"kube-apiserver-client": "client", "kubelet-client": "client", "kubelet-serving": "server", "legacy-unknown": "server"}
        return {
            "v": self.given["v"] or "0",
            "kubeconfig": config,
            "authentication-kubeconfig": config,
            "authorization-kubeconfig": config,
            "bind-address": "127.0.0.1",
            "secure-port": str(_CONTROLLER_PORT),
            "cert-dir": str(tls / "kube-controller-manager"),
            "leader-elect": "true" if self.given["datastore-endpoint"] else "false",
            "profiling": "false",
            "controllers": "*,tokencleaner",
            "allocate-node-cidrs": "true",
            "cluster-cidr": ",".join(self.given.all("cluster-cidr")),
            "service-cluster-ip-range": ",".join(self.given.all("service-cidr")),
            "root-ca-file": f"{tls}/server-ca.crt",
            "service-account-private-key-file": f"{tls}/service.key",
            "use-service-account-credentials": "true",
            **{f"cluster-signing-{signer}-cert-file": f"{tls}/{ca}-ca.crt" for signer, ca in signing.items()},
            **{f"cluster-signing-{signer}-key-file": f"{tls}/{ca}-ca.key" for signer, ca in signing.items()},
            "requestheader-client-ca-file": f"{tls}/request-header-ca.crt",
        }

    def _spawn(self, name: str, flags: Mapping[str, str], extra: Sequence[str] = ()) -> None:
        self.children[name] = subprocess.Popen([name, *arguments.flags(flags, extra)])

    def _check(self) -> None:
        for name, child in self.children.items():
            if (code := child.poll()) is not None:
                raise OSError(f"{name} has ended with {code}")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if self.ending.wait(0.05):
                raise Stopped
            self._check()
            if time.monotonic() > deadline:
                raise OSError(f"{what}: not so after {_PATIENCE:.0f} s")

    def _ready(self) -> bool:
        context = ssl.create_default_context(cafile=self.tls / "server-ca.crt")
        context.load_cert_chain(self.tls / "client-admin.crt", self.tls / "client-admin.key")
        connection = http.client.HTTPSConnection("127.0.0.1", int(self.given["https-listen-port"]), timeout=2, context=context)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _end(self) -> None:
        """The datastore last, so that nothing is lost."""
        for names in (("kube-controller-manager", "kube-apiserver"), ("kine",)):
            parts = [self.children[name] for name in names if name in self.children]
            for part in parts:
                part.terminate()
            deadline = time.monotonic() + _GRACE
            for part in parts:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    part.wait(max(0.0, deadline - time.monotonic()))
                part.kill()
                part.wait()


def server_names(given: Arguments) -> list[str]:
    """What the API server may be called."""
    domain = given["cluster-domain"]
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{domain}"]
    first = [str(ipaddress.ip_network(one, strict=False)[1]) for one in given.all("service-cidr")]
    return [*names, "127.0.0.1", "::1", *first, *given.all("tls-san")]


def say(text: str) -> None:
    """A line of the log."""
    print(text, file=sys.stderr, flush=True)


def read_config(path: Path) -> list[dict[str, object]]:
    """The configuration file, and those of the directory beside it, in the order in which they count."""
    files = [path] if path.is_file() else []
    found = []
    for file in [*files, *sorted(path.with_name(f"{path.name}.d").glob("*.yaml"))]:
        content = yaml.safe_load(file.read_text()) or {}
        if not isinstance(content, dict):
            raise ArgumentError(f"{file}: not a map of flags")
        found.append(content)
    return found


def main(words: Sequence[str]) -> int:
    """What the command line says; the exit code."""
    os.umask(0o077)
    match words:
        case ["server", *rest]:
            try:
                files = read_config(Path(arguments.config_file(rest, os.environ)))
                given = arguments.parse(rest, os.environ, files)
            except (ArgumentError, yaml.YAMLError) as error:
                say(f"Incorrect Usage: {error}")
                return 1
            return Server(given).run()
        case ["--version" | "-v"]:
            print(f"k3s version {os.environ.get('K3S_VERSION', 'unknown')} (shaped like it)", flush=True)
            return 0
        case _:
            pass
    say(f"No help topic for {' '.join(words) or 'nothing'!r}: this image knows k3s server and k3s --version")
    return 3


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)

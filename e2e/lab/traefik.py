"""Traefik, an ingress controller of the host cluster: a process on this machine's loopback, which reaches pods over the node's cable.

It serves what asks for its class, over HTTP and HTTPS, and writes where it is found into the status of Ingresses.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2e.kubernetes import binaries
from e2e.lab import process

if TYPE_CHECKING:
    from e2e.lab.host import HostCluster

NAME = "traefik"
CLASS = "traefik"
ADDRESS = "127.0.0.1"
"""What it tells in the status of an Ingress."""


@dataclass(frozen=True)
class Traefik:
    """One that runs."""

    http: int
    https: int

    def ask(self, host: str, path: str, *, ca: str) -> tuple[int, str]:
        """Status and body of a GET over HTTPS, as a browser asks that host. ssl.SSLError if `ca` has not issued its certificate."""
        context = ssl.create_default_context(cadata=ca)
        connection = http.client.HTTPConnection(host, timeout=5)
        connection.sock = context.wrap_socket(socket.create_connection((ADDRESS, self.https), timeout=5), server_hostname=host)
        return _get(connection, path)

    def ask_openly(self, host: str, path: str) -> tuple[int, str]:
        """Likewise over plain HTTP."""
        connection = http.client.HTTPConnection(host, timeout=5)
        connection.sock = socket.create_connection((ADDRESS, self.http), timeout=5)
        return _get(connection, path)


def start(host: HostCluster) -> Traefik:
    """Start it unless it runs, with its IngressClass, and wait until it listens."""
    found = Traefik(host.port(f"{NAME}-http"), host.port(f"{NAME}-https"))
    host.api.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": CLASS},
            "spec": {"controller": "traefik.io/ingress-controller"},
        }
    )
    process.spawn(
        host.dir,
        NAME,
        [
            binaries.ensure(NAME)[NAME],
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--providers.kubernetesingress",
            f"--providers.kubernetesingress.ingressendpoint.ip={ADDRESS}",
            f"--entrypoints.web.address={ADDRESS}:{found.http}",
            f"--entrypoints.websecure.address={ADDRESS}:{found.https}",
            "--entrypoints.websecure.http.tls=true",
            "--ping.entrypoint=web",
        ],
        env={"KUBECONFIG": str(host.kubeconfig), "KUBERNETES_SERVICE_HOST": ""},  # the latter would win
    )
    process.wait_ready(host.dir, NAME, lambda: _answers(found), 30)
    return found


def stop(host: HostCluster) -> None:
    """End it, and remove its class. Does nothing if it does not run."""
    process.stop(host.dir, NAME)
    host.api.delete(f"/apis/networking.k8s.io/v1/ingressclasses/{CLASS}")


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _answers(traefik: Traefik) -> bool:
    try:
        return traefik.ask_openly("localhost", "/ping")[0] == 200
    except OSError:
        return False

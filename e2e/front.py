"""Whether a front door can be told from the API server behind it: the same kubectl commands at both, output by output.

`python -m e2e.front [--lab LAB] NAME` does that for a virtual cluster whose syncer runs, and tells of each command whether it is the same.
"""

from __future__ import annotations

import argparse
import difflib
import http.client
import os
import re
import shlex
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import yaml

from e2e.lab import kubeconfig, pki
from e2e.lab.api import wait_until
from e2e.lab.state import Lab
from e2e.lab.virtual import VirtualCluster
from syncer.kube.types import CONFIGMAPS, NAMESPACES, SERVICE_ACCOUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PATIENCE = 60.0
_SECONDS = 120.0
_CHANCES = 4
_CERTIFICATES = {"admin": ("system:admin", ["system:masters"]), "jane": ("jane", ["devs"]), "mallory": ("mallory", [])}
_OWN_WORDS = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"/tmp/(LIVE|MERGED)-\d+/(\S+)(\t.*)?", r"/\1/\2"),
    (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+]0000", "<time>"),
    (r"(\\\"managedFields\\\":)\[.*?\](?=\})", r"\1<managers>"),  # in the order of their seconds, if these differ
    (r"(resourceVersion\\?\"?: ?\\?\"?)\d+", r"\1<version>"),
    (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "<token>"),
    (r"\bweb-[0-9a-f]{8,10}(-[0-9a-z]{5})?\b", "web-<hash>"),  # pods and replica sets of a deployment
    (r"pod-template-hash([\"=: ]+)[0-9a-f]{8,10}\b", r"pod-template-hash\1<hash>"),
    (r"\b10\.\d+\.\d+\.\d+\b", "<address>"),
    (r"\bsimulated-\d\b", "<node>"),
    (r":3[0-2]\d{3}/", ":<port>/"),
    (r"\b(\d+(m|s|ms))+\b|<invalid>", "<age>"),
    (r"(?<=\S) {2,}", "  "),  # columns are as wide as what is in them
    (r" +$", ""),
)


@dataclass(frozen=True)
class Command:
    """Words for kubectl, in which `{ns}` is the namespace to work in, and how it has to end at both.

    A `patient` command is given again until it ends so: API servers take a moment for new rights and types.
    """

    words: str
    stdin: str = ""
    user: str = "admin"
    code: int = 0
    patient: bool = False

    @property
    def only_reads(self) -> bool:
        """Such a command is given to both again when they differ: what it reads may have changed between one and the other."""
        return self.words.startswith(("get ", "describe ", "explain ", "api-"))


@dataclass(frozen=True)
class Outcome:
    """What came of a command, with all that may differ replaced by a word for it."""

    code: int
    out: str
    err: str

    def lines(self) -> list[str]:
        return [f"exit code {self.code}", "standard output:", *self.out.splitlines(), "standard error:", *self.err.splitlines()]


class Way:
    """One way to the same API server: kubectl with a kubeconfig for each user, and a namespace of its own to work in."""

    def __init__(self, virtual: VirtualCluster, name: str, server: str, token: str) -> None:
        self.namespace = f"by-{name}"
        self.server = server
        self._authority = (virtual.tls / "server-ca.crt").read_text()
        self._certificates: dict[str, pki.Certificate] = {}
        self._kubectl = virtual.binary("kubectl")
        self._directory = virtual.dir / self.namespace
        ca, authority = virtual.tls / "server-ca.crt", pki.Authority(virtual.tls, "client-ca")
        for user, (common_name, organizations) in _CERTIFICATES.items():
            issued = self._certificates[user] = authority.issue(f"user-{user}", common_name, organizations)
            kubeconfig.write(self.kubeconfig(user), server, ca, issued.cert, issued.key, user)
        for user, credentials in (("robot", {"token": token}), ("stale", {"token": "wrong"})):
            content = yaml.safe_load(self.kubeconfig("admin").read_text())
            content["users"][0]["user"] = credentials
            self.kubeconfig(user).write_text(yaml.safe_dump(content))

    def kubeconfig(self, user: str) -> Path:
        """That of jane (of the group devs), mallory (who may nothing), robot (a service account), stale (with a wrong token), or admin."""
        return self._directory / f"{user}.kubeconfig"

    def connection(self, user: str) -> http.client.HTTPSConnection:
        """One of that user's own, by certificate; nobody's for who has none."""
        context = ssl.create_default_context(cadata=self._authority)
        if issued := self._certificates.get(user):
            context.load_cert_chain(issued.cert, issued.key)
        return http.client.HTTPSConnection("127.0.0.1", urlsplit(self.server).port or 0, context=context, timeout=60)

    def argv(self, command: Command) -> list[str]:
        words = shlex.split(command.words.replace("{ns}", self.namespace))
        return [str(self._kubectl), f"--kubeconfig={self.kubeconfig(command.user)}", f"--namespace={self.namespace}", *words]

    @property
    def environment(self) -> dict[str, str]:
        """What kubectl remembers of a server is kept apart; its editor makes what is red blue."""
        own = {"HOME": str(self._directory), "KUBECACHEDIR": str(self._directory / "cache"), "KUBE_EDITOR": "sed -i s/red/blue/"}
        return {**os.environ, **own}

    def run(self, command: Command) -> Outcome:
        deadline = time.monotonic() + _PATIENCE
        while True:
            done = self.done(command)
            if not command.patient or done.returncode == command.code or time.monotonic() > deadline:
                return Outcome(done.returncode, self.without_own(done.stdout), self.without_own(done.stderr))

    def done(self, command: Command) -> subprocess.CompletedProcess[str]:
        """It is given once, and what came of it is as it is."""
        return subprocess.run(
            self.argv(command),
            input=command.stdin.replace("{ns}", self.namespace),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def without_own(self, text: str) -> str:
        """A text with words for what is this way's, or this moment's."""
        text = text.replace(self.server, "<server>").replace(self.namespace, "<namespace>")
        for pattern, word in _OWN_WORDS:
            text = re.sub(pattern, word, text, flags=re.MULTILINE)
        return text


class Ways:
    """Through the front door of a virtual cluster, and directly to its API server."""

    def __init__(self, virtual: VirtualCluster, front_port: int) -> None:
        metadata = {"name": "robot", "namespace": "default"}
        virtual.api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        token = virtual.api.request("POST", SERVICE_ACCOUNTS.path("default", "robot", "token"), request)["status"]["token"]
        self.virtual = virtual
        self.front = Way(virtual, "front", f"https://127.0.0.1:{front_port}", token)
        self.plain = Way(virtual, "plain", virtual.server, token)
        for way in (self.front, self.plain):
            self._make_namespace(way.namespace)

    def _make_namespace(self, name: str) -> None:
        """An empty one."""
        api, path = self.virtual.api, NAMESPACES.path("", name)
        api.delete(path)
        wait_until(lambda: api.find(path) is None, f"the namespace {name} of an earlier run is gone", 120)
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        wait_until(lambda: api.find(CONFIGMAPS.path(name, "kube-root-ca.crt")) is not None, f"{name} has what is put into each namespace")
        wait_until(lambda: api.find(SERVICE_ACCOUNTS.path(name, "default")) is not None, f"{name} has its service account")

    def difference(self, command: Command) -> str:
        """What differs between both, or from how the command has to end; "" if nothing does."""
        front, plain = self._outcomes(command)
        for _ in range(_CHANCES if command.only_reads else 0):
            if front != plain:
                front, plain = self._outcomes(command)
        if front == plain and front.code == command.code:
            return ""
        title = f"kubectl {command.words} (as {command.user}, exit code {command.code} expected)"
        lines = difflib.unified_diff(plain.lines(), front.lines(), "directly", "through the front door", lineterm="", n=2)
        return "\n".join([title, *(lines if front != plain else front.lines())])

    def _outcomes(self, command: Command) -> list[Outcome]:
        with ThreadPoolExecutor(2) as both:
            return list(both.map(lambda way: way.run(command), (self.front, self.plain)))

    def differences(self, commands: Sequence[Command]) -> list[str]:
        """Those of commands that are given one after the other."""
        return [found for command in commands if (found := self.difference(command))]


def main() -> int:
    from e2e.frontcommands import ALL

    parser = argparse.ArgumentParser(prog="python -m e2e.front", description=__doc__.partition("\n")[0])
    parser.add_argument("--lab", default=os.environ.get("LAB_NAME", "lab"), help="name of the lab (default: $LAB_NAME, else 'lab')")
    parser.add_argument("name", help="the virtual cluster")
    arguments = parser.parse_args()
    virtual = VirtualCluster(Lab(arguments.lab), arguments.name)
    ways = Ways(virtual, virtual.front_port)
    different = 0
    for command in (command for group in ALL.values() for command in group):
        found = ways.difference(command)
        different += bool(found)
        print(f"DIFFERS  {found}" if found else f"same     kubectl {command.words}", flush=True)
    for way in (ways.front, ways.plain):
        virtual.api.delete(NAMESPACES.path("", way.namespace))
    print(f"{different} commands differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

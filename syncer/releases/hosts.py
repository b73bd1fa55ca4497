"""The host cluster that a command works on: the one that kubectl would take."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from syncer.errors import ConfigError
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.kubeconfig import read_kubeconfig
from syncer.kube.types import Side
from syncer.releases import contexts, kubeconfigs
from syncer.values import duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

DEFAULT_KUBECONFIG = Path("~/.kube/config")


@dataclass(frozen=True)
class Host:
    """A kubeconfig's context."""

    kubeconfig: Path
    context: str
    namespace: str
    """That of the context, which -n overrides."""

    async def connect(self) -> Client:
        """A client, to be entered. Raises ConfigError."""
        return Client(await load_cluster(str(self.kubeconfig), context=self.context), Side.HOST)


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """`--kubeconfig` and `--context`, as kubectl has them."""
    group = parser.add_argument_group("Host cluster")
    group.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig of the host [KUBECONFIG, else ~/.kube/config]")
    group.add_argument("--context", metavar="NAME", help="its context (default: the current one)")


def add_release_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, `-n`, and the host: which virtual cluster is meant."""
    parser.add_argument("name", metavar="NAME", help="the virtual cluster")
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", default="", help="its host namespace (default: wherever it is)")
    add_host_arguments(parser)


def add_timeout_argument(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    """`--timeout`; `arguments.timeout` is seconds."""
    words = f"for how long to wait {what} (default: {default})"
    parser.add_argument("--timeout", metavar="DURATION", type=_duration, default=duration(default), help=words)


async def host_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Host:
    """The host that was chosen. Raises ConfigError, in words, if there is none."""
    return await asyncio.to_thread(_host, arguments.kubeconfig, arguments.context or "", environ)


async def hosts_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> list[Host]:
    """Where to look: on the host that was named; else on the current one, and if that is a virtual cluster, on those below it."""
    first = await host_of(arguments, environ)
    found = [first]
    for context in contexts.hosts(first.context) if not arguments.context else ():
        try:
            found.append(await asyncio.to_thread(_host, arguments.kubeconfig, context, environ))
        except ConfigError:
            continue  # that context is gone
    return found


def kubeconfig_files(environ: Mapping[str, str], given: str | None = None) -> list[Path]:
    """The files that kubectl would read: the one given by --kubeconfig, or those of KUBECONFIG, or else the default."""
    if given:
        return [Path(given)]
    named = [Path(part) for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [DEFAULT_KUBECONFIG.expanduser()]


def _duration(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _host(kubeconfig: str | None, context: str, environ: Mapping[str, str]) -> Host:
    files = [file for file in kubeconfig_files(environ, kubeconfig) if file.exists() or kubeconfig]
    if not files:
        missing = ", ".join(map(str, kubeconfig_files(environ)))
        raise ConfigError(f"there is no kubeconfig at {missing}; name one by --kubeconfig or KUBECONFIG")
    if len(files) > 1:
        context = context or contexts.current(kubeconfigs.read(files))
    problems: list[ConfigError] = []
    for file in files:
        try:
            access = read_kubeconfig(file, context)
        except ConfigError as error:
            problems.append(error)
        else:
            return Host(file, access.context, access.namespace)
    raise problems[0]

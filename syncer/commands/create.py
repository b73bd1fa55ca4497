"""`syncer create`: a virtual cluster in a namespace of the host, until it is ready."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncer.releases.creation import Wanted
    from syncer.releases.hosts import Host
    from syncer.terminal import Terminal

USAGE = "syncer create NAME [FLAG…] [--connect [-- COMMAND…]]"
TAKES_PROGRAM = True
DESCRIPTION = """\
Make a virtual cluster in a namespace of the host, and wait until it is ready. It is a Helm release of the chart that comes with this
program; --set and --values are Helm's, for whatever the chart's README lists, and win over the other flags."""
EPILOG = """\
After 5 s it tells what it waits for. When that takes longer than --timeout it exits with 4, and the virtual cluster goes on starting.

For example:
  syncer create demo
  syncer create demo --namespace=team-demo --isolate --set=storage.size=10Gi
  syncer create demo --connect -- kubectl get namespaces
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, where, and what it is to be like."""
    from syncer.releases.hosts import add_host_arguments, add_timeout_argument

    switch = argparse.BooleanOptionalAction
    parser.add_argument("name", metavar="NAME", help="its name, which is the Helm release's, too")
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", default="", help="its host namespace (default: vcluster-NAME)")
    parser.add_argument("--create-namespace", action=switch, default=True, help="make the namespace if there is none")
    parser.add_argument("--set", metavar="VALUE=…", action="append", default=[], help="a value of the chart, as Helm takes it")
    parser.add_argument("-f", "--values", metavar="FILE", action="append", default=[], help="a file of values of the chart")
    parser.add_argument("--isolate", action="store_true", help="limits for a tenant who is not to be trusted")
    parser.add_argument("--expose", action="store_true", help="by a load balancer; waits until it has an address")
    parser.add_argument("--distro", metavar="NAME", default="", choices=("k3s", "k8s"), help="the control plane: k3s or k8s")
    parser.add_argument("--kubernetes-version", metavar="VERSION", default="", help="such as 1.36.3 (default: the chart's)")
    parser.add_argument("--upgrade", action="store_true", help="change one that exists; values that it has stay, unless given anew")
    parser.add_argument("--chart", metavar="DIRECTORY", default="", help="another chart than the one that comes with this program")
    parser.add_argument("--wait", action=switch, default=True, help="return only when it is ready")
    parser.add_argument("--connect", action="store_true", help="as `syncer connect` when it is ready; what follows -- is run with it")
    add_timeout_argument(parser, "5m", "until it is ready")
    add_host_arguments(parser)


def wanted(arguments: argparse.Namespace) -> Wanted:
    """What the arguments say. Raises ConfigError for what does not go together."""
    from syncer.errors import ConfigError
    from syncer.releases.creation import Wanted

    if arguments.program and not arguments.connect:
        raise ConfigError("a command after -- is for --connect")
    if arguments.connect and not arguments.wait:
        raise ConfigError("--connect needs it to be ready; drop --no-wait")
    if arguments.expose and not arguments.wait:
        raise ConfigError("--expose waits for an address; with --no-wait write --set=service.type=LoadBalancer instead")
    return Wanted(
        name=arguments.name,
        namespace=arguments.namespace or f"vcluster-{arguments.name}",
        create_namespace=arguments.create_namespace,
        values=tuple(arguments.values),
        sets=tuple(arguments.set),
        isolate=arguments.isolate,
        expose=arguments.expose,
        distro=arguments.distro,
        kubernetes_version=arguments.kubernetes_version,
        upgrade=arguments.upgrade,
        wait=arguments.wait,
    )


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Make it, tell how to reach it, or go on as `connect`."""
    import time

    from syncer.releases.chart import chart_directory
    from syncer.releases.creation import create, require_name
    from syncer.releases.helm import Helm
    from syncer.releases.hosts import host_of
    from syncer.releases.waiting import Progress

    name: str = arguments.name
    require_name(name)
    chosen, chart = wanted(arguments), await asyncio.to_thread(chart_directory, arguments.chart)
    host = await host_of(arguments, environ)
    helm = await Helm.find(host, environ)
    progress = Progress(f"waiting for {name}", terminal.say, time.monotonic, arguments.timeout)
    async with await host.connect() as client:
        address = await create(client, helm, chosen, chart, progress)
    where = f"{name} in namespace {chosen.namespace}"
    if not chosen.wait:
        terminal.say(f"made {where}, which is starting; `syncer connect {name}` waits for it")
        return 0
    terminal.say(f"{where} is ready after {progress.elapsed:.0f} s" + (f", at https://{address}" if address else ""))
    if arguments.connect:
        return await _connect(host, chosen, arguments, environ, terminal)
    terminal.say(f"`syncer connect {name} --namespace={chosen.namespace}` leads to it")
    return 0


async def _connect(host: Host, made: Wanted, given: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """As if it had been typed."""
    from syncer.commands import command

    connect = command("connect")
    parser = argparse.ArgumentParser(prog="syncer connect", allow_abbrev=False)
    connect.add_arguments(parser)
    words = [made.name, f"--namespace={made.namespace}", f"--context={host.context}"]
    if given.kubeconfig:  # else the context goes where kubectl would write it
        words.append(f"--kubeconfig={given.kubeconfig}")
    return await connect.run(parser.parse_args(words, argparse.Namespace(program=given.program)), environ, terminal)

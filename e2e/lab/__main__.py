"""`python -m e2e.lab`: a Kubernetes on this machine, from the shell."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from e2e.errors import LabError
from e2e.kubernetes import binaries
from e2e.lab import installation, node, nodes
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab, all_labs
from e2e.lab.teardown import down
from e2e.lab.virtual import VirtualCluster, virtual_clusters


def main() -> int:
    arguments = _parser().parse_args()
    try:
        lab = Lab(arguments.lab) if arguments.lab else Lab.current()
        command = {
            "up": _up,
            "node": _node,
            "down": _down,
            "status": _status,
            "virtual": _virtual,
            "remove": _remove,
            "list": _list,
            "packages": _packages,
            "env": _env,
        }[arguments.command]
        command(lab, arguments)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `down` clears away what was started", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.lab", description="A real Kubernetes on this machine, for tests and demos.")
    parser.add_argument("--lab", help="name of the lab; several may run side by side (default: $LAB_NAME, else 'lab')")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start the host cluster and a node; after a crash, mend it")
    _add_version(up)
    up.add_argument("--no-scheduler", action="store_true", help="leave the scheduler out")
    up.add_argument("--simulated-nodes", type=int, metavar="N", help="simulate N nodes (kwok) instead of starting a real one")

    commands.add_parser("node", help="start the real node; simulated nodes go away (needs root)")
    commands.add_parser("down", help="end everything of the lab and delete its files")
    commands.add_parser("status", help="clusters, processes and memory")
    commands.add_parser("list", help="all labs of this user")

    virtual = commands.add_parser("virtual", help="start a virtual control plane, with its Services on the host")
    virtual.add_argument("name")
    virtual.add_argument("--namespace", help="host namespace (default: vcluster-NAME)")
    virtual.add_argument("--datastore", choices=("kine", "etcd"), help="default: kine with SQLite, as k3s has it")
    virtual.add_argument("--service-range", metavar="CIDR", help="default: 10.97.0.0/16")
    _add_version(virtual)

    remove = commands.add_parser("remove", help="end a virtual control plane and delete its files and its host namespace")
    remove.add_argument("name")

    commands.add_parser("env", help="what a shell has to export to install the chart; for eval")
    commands.add_parser("packages", help="the Debian packages that a node needs and that are not installed")
    return parser


def _add_version(command: argparse.ArgumentParser) -> None:
    command.add_argument("--version", metavar="X.Y.Z", help="Kubernetes version (default: $KUBERNETES_VERSION, else the newest known)")


def _up(lab: Lab, arguments: argparse.Namespace) -> None:
    start = time.monotonic()
    host = HostCluster(lab)
    with lab.locked():
        host.up(version=arguments.version, scheduler=False if arguments.no_scheduler else None)
        print(f"host cluster, Kubernetes {host.version}: usable after {time.monotonic() - start:.1f} s")
        for virtual in virtual_clusters(lab):
            if not virtual.running():
                virtual.start()
                print(f"virtual cluster {virtual.name}: mended")
        start = time.monotonic()
        simulated = nodes.start(host, simulated=arguments.simulated_nodes)
        print(simulated or f"node {node.NAME}: Ready after {time.monotonic() - start:.1f} s")
    print(f"kubectl: {host.binary('kubectl')}")
    print(f"export KUBECONFIG={host.kubeconfig}")


def _node(lab: Lab, _: argparse.Namespace) -> None:
    start = time.monotonic()
    host = HostCluster(lab)
    with lab.locked():
        host.up()
        nodes.start_real(host)
    print(f"node {node.NAME}: Ready after {time.monotonic() - start:.1f} s")


def _virtual(lab: Lab, arguments: argparse.Namespace) -> None:
    start = time.monotonic()
    virtual = VirtualCluster(lab, arguments.name)
    with lab.locked():
        virtual.up(
            namespace=arguments.namespace,
            datastore=arguments.datastore,
            version=arguments.version,
            service_range=arguments.service_range,
        )
    print(f"virtual cluster {virtual.name}, Kubernetes {virtual.version}: usable after {time.monotonic() - start:.1f} s")
    print(f"host namespace {virtual.host_namespace}, API {virtual.service_address}:443, DNS {virtual.dns_address}:53")
    print(f"export KUBECONFIG={virtual.kubeconfig}")


def _remove(lab: Lab, arguments: argparse.Namespace) -> None:
    virtual = VirtualCluster(lab, arguments.name)
    if not virtual.exists:
        raise LabError(f"there is no virtual cluster {arguments.name!r} in lab {lab.name!r}")
    with lab.locked():
        virtual.remove()


def _env(lab: Lab, _: argparse.Namespace) -> None:
    host = HostCluster(lab)
    if not node.is_up(lab):
        raise LabError(f"lab {lab.name!r} has no real node: python -m e2e.lab --lab {lab.name} up")
    installation.prepare(lab)
    values = lab.dir / "values.yaml"
    values.write_text(yaml.safe_dump(installation.values(), sort_keys=False))
    programs = [str(path.parent) for path in (binaries.ensure("helm")["helm"], host.binary("kubectl"), Path(sys.executable))]
    print(f"export KUBECONFIG={host.kubeconfig}")
    print(f"export PATH={os.pathsep.join(programs)}{os.pathsep}$PATH")
    print(f"export VALUES={values}")


def _down(lab: Lab, _: argparse.Namespace) -> None:
    start = time.monotonic()
    if not lab.exists:
        print(f"lab {lab.name!r} does not exist")
        return
    down(lab)
    print(f"lab {lab.name!r} is gone after {time.monotonic() - start:.1f} s")


def _list(_: Lab, __: argparse.Namespace) -> None:
    for lab in all_labs():
        print(f"{lab.name}\t{'running' if HostCluster(lab).running() else 'not running'}\t{lab.dir}")


def _packages(_: Lab, __: argparse.Namespace) -> None:
    print(" ".join(package for package, file in node.PACKAGES.items() if not Path(file).exists()))


def _status(lab: Lab, _: argparse.Namespace) -> None:
    if not lab.exists:
        raise LabError(f"lab {lab.name!r} does not exist: python -m e2e.lab --lab {lab.name} up")
    table = Table("cluster", "version", "process", "pid", "MiB", "kubeconfig")
    parts = [
        (cluster.name, cluster.version, str(cluster.kubeconfig), cluster.status())
        for cluster in (HostCluster(lab), *virtual_clusters(lab))
        if cluster.exists
    ]
    for title, version, kubeconfig, processes in (*parts, (node.NAME, "", "", node.status(lab))):
        for number, (name, pid, size) in enumerate(processes):
            row = [name, str(pid) if pid else "[red]dead", f"{size / 2**20:.0f}"]
            table.add_row(*([title, version, *row, kubeconfig] if number == 0 else ["", "", *row, ""]))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    sys.exit(main())

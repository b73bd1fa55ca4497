"""`make demo`: two virtual clusters in one host namespace, the same application in both, and a look at both sides.

`python -m e2e.demo up` leaves everything running, for going on by hand; `python -m e2e.demo down` ends it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from e2e import guestbook
from e2e.daemon import Daemon
from e2e.errors import LabError
from e2e.lab import nodes, teardown
from e2e.lab.api import wait_until
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab
from e2e.lab.virtual import VirtualCluster

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("blue", "green")
HOST_NAMESPACE = "tenants"

console = Console(width=None if sys.stdout.isatty() else 160)
_started = time.monotonic()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything that is claimed was seen."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("what", choices=("up", "down"), nargs="?", default="up")
    what = parser.parse_args(argv).what
    lab = Lab("demo")
    try:
        if what == "down":
            teardown.down(lab)
            say("the demo is gone: no process, mount, bridge or rule of it is left")
        else:
            up(lab)
    except LabError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    return 0


def say(text: str) -> None:
    """A line of progress, with the seconds since the start."""
    console.print(f"[dim]{time.monotonic() - _started:6.1f} s[/dim]  {text}", highlight=False)


def up(lab: Lab) -> None:
    """Start everything and use it."""
    host = HostCluster(lab)
    say("host cluster: etcd, API server, controller manager, scheduler …")
    host.up()
    simulated = nodes.start(host)
    say(
        f"[yellow]{simulated}[/yellow]"
        if simulated
        else "node is Ready: containerd, kubelet, kube-proxy, CNI, CoreDNS; nothing of it leaves this machine"
    )
    clusters = [VirtualCluster(lab, name) for name in NAMES]
    for virtual in clusters:
        virtual.up(namespace=HOST_NAMESPACE)
        say(f"virtual cluster [bold]{virtual.name}[/bold]: own API server {virtual.version} on kine, in host namespace {HOST_NAMESPACE}")
    daemons = [Daemon(virtual) for virtual in clusters]
    for daemon in daemons:
        daemon.start()
        say(f"syncer of [bold]{daemon.virtual.name}[/bold] is ready (pid {daemon.pid})")
    for virtual in clusters:
        guestbook.apply(virtual)
        say(f"{virtual.name}: kubectl apply -f {guestbook.MANIFEST.relative_to(guestbook.MANIFEST.parents[2])}")
    for virtual in clusters:
        guestbook.wait_ready(virtual)
        say(f"{virtual.name}: all {guestbook.PODS} pods are Ready")
    if not simulated:
        for virtual in clusters:
            use(virtual)
    show(clusters)
    tell(host, clusters)


def use(virtual: VirtualCluster) -> None:
    """Write an entry, read it back, and look into the containers."""
    text = f"greetings-from-{virtual.name}"
    guestbook.write_entry(virtual, text)
    answer = guestbook.read_entry(virtual, text)
    say(f"{virtual.name}: wrote an entry through the frontend, read it back from a replica: {answer.strip()}")
    seen = front(
        virtual,
        "exec",
        "peers-0",
        "--",
        "sh",
        "-c",
        'echo "GREETING=$GREETING password=$(cat /credentials/password) "'
        '$(wget -qO- http://peers-1.peers.guestbook.svc.cluster.local:8080/hostname) "hostname=$(hostname) hostname -f=$(hostname -f)"',
    )
    say(f"{virtual.name}: kubectl exec peers-0, through the syncer: {seen.strip()}")
    started = front(virtual, "logs", "peers-0").splitlines()[-1]
    say(f"{virtual.name}: kubectl logs peers-0, through the syncer: {started}")
    if "peers-1" not in seen or "hello from the ConfigMap" not in seen or "s3cret-of-the-demo" not in seen:
        raise LabError(f"{virtual.name}: peers-0 does not see what it should: {seen}")


def tenants_kubeconfig(virtual: VirtualCluster) -> Path:
    """The kubeconfig that its syncer keeps in a Secret of the host, which leads to the syncer's own port."""
    secret = f"/api/v1/namespaces/{virtual.host_namespace}/secrets/vc-{virtual.name}"
    wait_until(lambda: virtual.host.api.find(secret) is not None, f"the Secret vc-{virtual.name} is written")
    path = virtual.dir / "tenant.kubeconfig"
    path.touch(mode=0o600)
    path.write_bytes(b64decode(virtual.host.api.get(secret)["data"]["config"]))
    return path


def front(virtual: VirtualCluster, *words: str) -> str:
    """What kubectl prints to the tenant, about the application."""
    command = [str(virtual.binary("kubectl")), f"--kubeconfig={tenants_kubeconfig(virtual)}", f"--namespace={guestbook.NAMESPACE}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise LabError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def show(clusters: Sequence[VirtualCluster]) -> None:
    """Both sides next to each other."""
    table = Table(title="What the tenants see, and what runs on the host", title_justify="left")
    for column in ("cluster", "virtual pod", "phase", "node", "pod IP", "host pod", "phase"):
        table.add_column(column, overflow="fold")
    for virtual in clusters:
        images = {pod["metadata"]["annotations"]["vcluster.loft.sh/object-uid"]: pod for pod in guestbook.host_pods(virtual)}
        for pod in guestbook.pods(virtual):
            image = images.pop(pod["metadata"]["uid"])
            status = pod["status"]
            table.add_row(
                virtual.name,
                pod["metadata"]["name"],
                status["phase"],
                pod["spec"]["nodeName"],
                status.get("podIP", ""),
                image["metadata"]["name"],
                image["status"]["phase"],
            )
        if images:
            raise LabError(
                f"{virtual.name}: host pods without a virtual one: {', '.join(image['metadata']['name'] for image in images.values())}"
            )
        table.add_section()
    console.print(table)
    virtual = clusters[0]
    events = guestbook.kubectl(virtual, "-n", guestbook.NAMESPACE, "get", "events", "--field-selector=involvedObject.name=peers-0")
    console.print(f"[bold]kubectl get events[/bold] in {virtual.name}, about peers-0:\n{events}", highlight=False)


def tell(host: HostCluster, clusters: Sequence[VirtualCluster]) -> None:
    """How to go on by hand."""
    console.print("[bold]Go on by hand:[/bold]", highlight=False)
    for virtual in clusters:
        print(f"  export KUBECONFIG={tenants_kubeconfig(virtual)}   # {virtual.name}")
    print(f"  export KUBECONFIG={host.kubeconfig}   # the host")
    print(f"  {clusters[0].binary('kubectl')} -n guestbook get pods   # or logs, exec, port-forward, apply, …")
    print("  make demo-down   # ends it")


if __name__ == "__main__":
    sys.exit(main())

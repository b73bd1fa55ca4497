"""`make bench-scale`: thousands of pods of one virtual cluster on simulated nodes, and whether a big namespace delays small ones.

For each size: how long it takes until all pods are Running in the virtual cluster, what that costs the syncer, what it costs
at rest, how long a restart takes until everything is in sync again, and a full scan. Writes `bench/results/<name>.{json,md}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.run import HOST_NAMESPACE, RESULTS, production
from e2e.daemon import Daemon
from e2e.errors import LabError
from e2e.lab import kwok, teardown
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab
from e2e.lab.virtual import VirtualCluster
from syncer.errors import NotFound
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import NAMESPACES, PODS, SERVICE_ACCOUNTS, Key, Side, annotations_of
from syncer.kube.watch import Apply, Watcher
from syncer.naming import ANNOTATION_NAME, ANNOTATION_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from e2e.lab.cluster import ControlPlane

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_SCAN_INTERVAL = 45.0
_IDLE = 40.0
"""Seconds of rest that are measured; shorter than the scan interval, which begins with the syncer."""
_PODS_ON_A_NODE = 900
_PARALLEL = 48
_TIMEOUT = 1800.0


@dataclass
class Size:
    """What so many pods cost. Times in seconds, memory in MiB; CPU is the syncer's."""

    pods: int
    added: int
    running_s: float
    cpu_ms_per_pod: float
    rss_mib: float
    cache_kib_per_pod: float
    idle_cpu_percent: float
    restart_s: float
    restart_cpu_s: float
    scan_s: float
    scan_cpu_s: float


class Meter:
    """CPU seconds and memory of the syncer, and what its /metrics say."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def cpu(self) -> float:
        fields = Path(f"/proc/{self._daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss(self) -> float:
        return int(Path(f"/proc/{self._daemon.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    def metric(self, prefix: str) -> float:
        return self._daemon.metrics_sum(prefix)

    def reconciled(self) -> float:
        """How many times a pod was found, or brought, in sync."""
        return self.metric('syncer_reconciles_total{outcome="synced",resource="pods"}')

    async def settled(self) -> bool:
        """Ready, nothing queued, nothing on its way."""
        if self._daemon.get("/readyz")[0] != 200:
            return False
        return not self.metric("syncer_queue_depth") and not self.metric("syncer_api_requests_in_flight")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--name", default="scale", help="name of the result files")
    parser.add_argument("--sizes", default="1000,2000,5000,10000", help="numbers of pods, rising")
    parser.add_argument("--crowd", type=int, default=5000, help="pods of the namespace that must not delay 40 others; 0 leaves that out")
    parser.add_argument("--keep", action="store_true", help="leave the lab running")
    arguments = parser.parse_args(argv)
    sizes = [int(text) for text in arguments.sizes.split(",") if text]
    found: dict[str, Any] = {}
    try:
        if arguments.crowd:
            with cluster("crowd", scheduler=False, keep=arguments.keep) as (virtual, daemon):
                daemon.start()
                found["fairness"] = asyncio.run(fairness(virtual, arguments.crowd))
                print(json.dumps(found["fairness"]), flush=True)
        if sizes:
            with cluster("scale", scheduler=True, keep=arguments.keep) as (virtual, daemon):
                kwok.start(virtual.host, 1 + sizes[-1] // _PODS_ON_A_NODE)
                daemon.start()
                found["empty_rss_mib"] = round(Meter(daemon).rss(), 1)
                found["sizes"] = [asdict(size) for size in asyncio.run(grow(virtual, daemon, sizes))]
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    text = report(found)
    (RESULTS / f"{arguments.name}.md").write_text(text)
    print(text)
    return 0


@contextmanager
def cluster(name: str, *, scheduler: bool, keep: bool) -> Iterator[tuple[VirtualCluster, Daemon]]:
    """A lab with one virtual cluster, and its syncer, not started yet."""
    lab = Lab(name)
    try:
        HostCluster(lab).up(scheduler=scheduler)
        virtual = VirtualCluster(lab, name)
        virtual.up(namespace=HOST_NAMESPACE, datastore="etcd")
        yield virtual, Daemon(virtual, "--log-level=warning", f"--scan-interval={_SCAN_INTERVAL:g}", python=production())
    finally:
        if not keep:
            teardown.down(lab)


def pod(name: str, namespace: str) -> dict[str, Any]:
    """A pod of ordinary size: labels, two containers, probes and variables."""
    container = {
        "image": "registry.example.com/team/service:1.2.3",
        "env": [{"name": f"SETTING_{number}", "value": f"value-{number}"} for number in range(8)],
        "ports": [{"containerPort": 8080, "name": "http"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "scale", "pod-template-hash": "abc"}},
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [{"name": "app", **container}, {"name": "sidecar", **container, "ports": []}],
        },
    }


async def client(cluster: ControlPlane, side: Side) -> Client:
    """An admin's client of one of the two API servers."""
    return Client(await load_cluster(str(cluster.kubeconfig)), side, request_timeout=120)


async def make(api: Client, namespace: str, names: Sequence[str]) -> None:
    """Create pods, so many at a time."""
    todo = iter(names)

    async def work() -> None:
        for name in todo:
            await api.create(PODS, namespace, pod(name, namespace))

    await asyncio.gather(*(work() for _ in range(_PARALLEL)))


async def make_namespace(api: Client, name: str) -> None:
    """A namespace, once pods can be made in it."""
    await api.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def ready() -> bool:
        try:
            await api.get(SERVICE_ACCOUNTS, Key(name, "default"))
        except NotFound:
            return False
        return True

    await until(ready, every=0.05)


async def grow(virtual: VirtualCluster, daemon: Daemon, sizes: Sequence[int]) -> list[Size]:
    """Measure at each size."""
    meter, found, have = Meter(daemon), [], 0
    async with await client(virtual, Side.VIRTUAL) as api:
        await make_namespace(api, "scale")

        async def running() -> bool:
            waiting, _, _ = await api.list_page(PODS, "scale", field_selector="status.phase!=Running", limit=1)
            return not waiting

        for size in sizes:
            started, cpu = time.monotonic(), meter.cpu()
            await make(api, "scale", [f"pod-{number}" for number in range(have, size)])
            await until(running)
            running_s, spent = time.monotonic() - started, meter.cpu() - cpu
            await until(meter.settled)
            found.append(await rest(daemon, meter, size, added=size - have, running_s=running_s, spent=spent))
            print(json.dumps(asdict(found[-1])), flush=True)
            have = size
    return found


async def rest(daemon: Daemon, meter: Meter, pods: int, *, added: int, running_s: float, spent: float) -> Size:
    """Restart the syncer, and see what so many pods cost from then on."""
    daemon.stop(grace=20)
    started = time.monotonic()
    daemon.start()
    await until(meter.settled, every=0.05)
    restart_s, restart_cpu = time.monotonic() - started, meter.cpu()
    idle_from = meter.cpu()
    await asyncio.sleep(_IDLE - restart_s)
    idle = (meter.cpu() - idle_from) / (_IDLE - restart_s)
    scan_s, scan_cpu = await one_scan(meter, pods)
    return Size(
        pods=pods,
        added=added,
        running_s=round(running_s, 1),
        cpu_ms_per_pod=round(1000 * spent / added, 2),
        rss_mib=round(meter.rss(), 1),
        cache_kib_per_pod=round(meter.metric("syncer_cache_bytes") / 1024 / pods, 1),
        idle_cpu_percent=round(100 * idle, 2),
        restart_s=round(restart_s, 1),
        restart_cpu_s=round(restart_cpu, 2),
        scan_s=round(scan_s, 2),
        scan_cpu_s=round(scan_cpu, 2),
    )


async def until(condition: Callable[[], Awaitable[bool]], *, every: float = 0.2) -> None:
    """Until it holds."""
    deadline = time.monotonic() + _TIMEOUT
    while not await condition():
        if time.monotonic() > deadline:
            raise LabError(f"not so after {_TIMEOUT:.0f} s")
        await asyncio.sleep(every)


async def one_scan(meter: Meter, pods: int) -> tuple[float, float]:
    """Wall and CPU seconds of the next full scan: from the first reconcile after rest to the last."""
    before = cpu = began = 0.0

    async def begun() -> bool:
        nonlocal before, cpu, began
        now = meter.reconciled()
        if before and now >= before + 5:
            return True
        before, cpu, began = now, meter.cpu(), time.monotonic()
        return False

    async def done() -> bool:
        return meter.reconciled() >= before + pods

    await until(begun, every=0.05)
    await until(done, every=0.05)
    return time.monotonic() - began, meter.cpu() - cpu


async def fairness(virtual: VirtualCluster, crowd: int) -> dict[str, Any]:
    """`crowd` pods in one namespace at once, beside 40 namespaces that make 10 pods each, one after another: how long those take."""
    seen: dict[str, float] = {}
    changed = asyncio.Condition()
    took: list[float] = []

    async def small(api: Client, namespace: str) -> None:
        for turn in range(10):
            await asyncio.sleep(random.uniform(0, 1.0))
            name, sent = f"pod-{turn}", time.monotonic()
            await api.create(PODS, namespace, pod(name, namespace))
            await until_seen({f"{namespace}/{name}"})
            took.append(seen[f"{namespace}/{name}"] - sent)

    async def until_seen(keys: set[str]) -> None:
        async with changed:
            await changed.wait_for(lambda: keys <= seen.keys())

    async with await client(virtual, Side.VIRTUAL) as api, await client(virtual.host, Side.HOST) as host:
        watch = asyncio.create_task(watch_host(host, seen, changed))
        namespaces = [f"small-{number}" for number in range(40)]
        for namespace in (*namespaces, "crowd"):
            await make_namespace(api, namespace)
        names = [f"crowd-{number}" for number in range(crowd)]
        started = time.monotonic()
        making = asyncio.create_task(make(api, "crowd", names))
        await asyncio.gather(*(small(api, namespace) for namespace in namespaces))
        left = sum(f"crowd/{name}" not in seen for name in names)
        await making
        await until_seen({f"crowd/{name}" for name in names})
        total = time.monotonic() - started
        watch.cancel()
    took.sort()
    return {
        "crowd": crowd,
        "crowd_left_when_the_small_ones_were_done": left,
        "p50_s": round(statistics.median(took), 3),
        "p99_s": round(took[int(0.99 * len(took))], 3),
        "max_s": round(took[-1], 3),
        "all_s": round(total, 1),
    }


async def watch_host(host: Client, seen: dict[str, float], changed: asyncio.Condition) -> None:
    """Note when each host pod is first seen, by the namespace and name of its virtual pod."""
    async for event in Watcher(host, PODS, namespace=HOST_NAMESPACE).events():
        if not isinstance(event, Apply):
            continue
        annotations = annotations_of(event.obj)
        key = f"{annotations.get(ANNOTATION_NAMESPACE)}/{annotations.get(ANNOTATION_NAME)}"
        async with changed:
            seen.setdefault(key, time.monotonic())
            changed.notify_all()


def report(found: dict[str, Any]) -> str:
    """The tables in Markdown."""
    lines = [f"# Scale, {datetime.now(UTC):%Y-%m-%d}", "", f"Python {platform.python_version()}, 2 shared cores, simulated nodes."]
    if sizes := found.get("sizes"):
        heads = [
            "pods",
            "all Running, s",
            "CPU ms/pod",
            "RSS MiB",
            "KiB/pod over empty",
            "idle CPU %",
            "restart s",
            "its CPU s",
            "scan s",
            "its CPU s",
        ]
        lines += ["", f"Empty: {found['empty_rss_mib']} MiB.", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for size in sizes:
            extra = 1024 * (size["rss_mib"] - found["empty_rss_mib"]) / size["pods"]
            cells = [
                size["pods"],
                size["running_s"],
                size["cpu_ms_per_pod"],
                size["rss_mib"],
                f"{extra:.1f}",
                size["idle_cpu_percent"],
                size["restart_s"],
                size["restart_cpu_s"],
                size["scan_s"],
                size["scan_cpu_s"],
            ]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    if fair := found.get("fairness"):
        words = (
            f"{fair['crowd']} pods at once in one namespace ({fair['all_s']} s for all) beside 40 namespaces with 10 pods each, one after "
            f"another: a small one's host pod was seen {fair['p50_s']} s (p50), {fair['p99_s']} s (p99), {fair['max_s']} s (max) after it "
            f"was sent; {fair['crowd_left_when_the_small_ones_were_done']} of the crowd were left when they were done."
        )
        lines += ["", words]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())

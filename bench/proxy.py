"""`make bench-proxy`: what the front door costs beside going to the virtual API server directly, both in one run.

Requests and watches go to a real virtual API server, directly and through a running syncer in turn. Tunnels need a kubelet, which is not
here: they go to a server on the loopback, directly and through a front door of the same code in a process of its own. The load is a raw
asyncio client (bench/proxyload.py). Writes `bench/results/<name>.json` and `.md`. Shared machines are noisy: the ratios count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import proxyload as load
from bench.profile import sampled
from bench.run import HOST_NAMESPACE, RESULTS, production
from e2e.daemon import Daemon
from e2e.errors import LabError
from e2e.lab import pki, teardown
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab
from e2e.lab.virtual import VirtualCluster
from syncer.kube.types import CONFIGMAPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.proxyload import Place

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_OBJECTS = 2000
_BYTES = 4000
"""Of data in each object: with its metadata an object is as large as a small pod."""
_STREAM = 256 << 20
_WATCHES = 1000
_STALLED = 20
NAMESPACE = "bench"


class Process(NamedTuple):
    """CPU seconds and memory of a process so far."""

    pid: int

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when it ran through; missed targets are in the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.proxy", description=__doc__)
    parser.add_argument("--name", default="proxy", help="name of the result files")
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is taken in turn; the table has medians")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each round of requests lasts")
    parser.add_argument("--parts", default="requests,watches,tunnels,memory", help="what to measure")
    parser.add_argument("--profile", type=Path, help="directory for py-spy's samples of the front door under requests and under streams")
    parser.add_argument("--keep", action="store_true", help="leave the lab running")
    arguments = parser.parse_args(argv)
    parts = set(arguments.parts.split(","))
    found: dict[str, Any] = {"cpus": os.cpu_count(), "python": platform.python_version(), "rounds": arguments.rounds}
    try:
        if "tunnels" in parts:
            found["tunnels"] = tunnels(arguments.rounds)
        if parts - {"tunnels"}:
            lab = Lab("bench-proxy")
            try:
                found |= against_api_server(lab, parts, arguments)
            finally:
                if not arguments.keep:
                    teardown.down(lab)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    RESULTS.mkdir(exist_ok=True)
    text = report(found)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"{arguments.name}.md").write_text(text)
    print(text)
    return 0


def against_api_server(lab: Lab, parts: set[str], arguments: argparse.Namespace) -> dict[str, Any]:
    host = HostCluster(lab)
    host.up(scheduler=False)
    virtual = VirtualCluster(lab, "bench")
    virtual.up(namespace=HOST_NAMESPACE, datastore="etcd")
    fill(virtual)
    daemon = Daemon(virtual, "--log-level=warning", f"--max-connections={_WATCHES + 500}", python=production())
    daemon.start()
    process = Process(daemon.pid)
    files = load.Files(
        virtual.tls / "server-ca.crt", (Path(), Path()), Path(), (virtual.tls / "client-admin.crt", virtual.tls / "client-admin.key")
    )
    direct, through = (load.Place(port, files.asking()) for port in (virtual.port("apiserver"), daemon.proxy_port))
    found: dict[str, Any] = {"kubernetes": virtual.version}
    if "requests" in parts:
        found["requests"] = asyncio.run(requests(direct, through, process, arguments.rounds, arguments.seconds))
    if arguments.profile:
        with sampled(daemon, arguments.profile / "requests.raw"):
            asyncio.run(load.ask(through, CONFIGMAPS.path(NAMESPACE, "one"), 10, 10.0))
    if "watches" in parts:
        found["watches"] = asyncio.run(watches(virtual, direct, through, process, arguments.rounds))
    if "memory" in parts:
        found["memory"] = asyncio.run(memory(through, process))
    daemon.stop()
    return found


def fill(virtual: VirtualCluster) -> None:
    """Objects to be read: `one`, and many of another kind that the syncer does not care for."""
    api = virtual.api
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    data = {"text": "x" * _BYTES}
    for name in ("one", *(f"many-{number}" for number in range(_OBJECTS))):
        labels = {"bench": "one" if name == "one" else "many"}
        api.request(
            "POST",
            CONFIGMAPS.path(NAMESPACE),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data},
        )


async def requests(direct: Place, through: Place, door: Process, rounds: int, seconds: float) -> dict[str, Any]:
    """Plain GETs of one object at 1, 10 and 50 connections."""
    path, found = CONFIGMAPS.path(NAMESPACE, "one"), {}
    for connections in (1, 10, 50):
        taken = []
        for _ in range(rounds):
            straight = await load.ask(direct, path, connections, seconds)
            before = door.cpu()
            proxied = await load.ask(through, path, connections, seconds)
            cpu = (door.cpu() - before) / len(proxied)
            taken.append(
                {
                    "direct_per_s": len(straight) / seconds,
                    "through_per_s": len(proxied) / seconds,
                    "per_s_ratio": len(proxied) / len(straight),
                    **{f"direct_{name}_ms": value for name, value in latency(straight).items()},
                    **{f"through_{name}_ms": value for name, value in latency(proxied).items()},
                    "added_p50_ms": latency(proxied)["p50"] - latency(straight)["p50"],
                    "cpu_us": 1e6 * cpu,
                    "per_core_s": 1 / cpu,
                }
            )
        found[str(connections)] = medians(taken)
    return found


async def watches(virtual: VirtualCluster, direct: Place, through: Place, door: Process, rounds: int) -> dict[str, Any]:
    """Events of a watch as fast as it goes, and how much later one comes at an easy pace."""
    taken = []
    path = f"{CONFIGMAPS.path(NAMESPACE)}?watch=1&resourceVersion=0&labelSelector=bench%3Dmany"
    for _ in range(rounds):
        straight = await replay(direct, path)
        before = door.cpu()
        proxied = await replay(through, path)
        cpu = door.cpu() - before
        taken.append(
            {"direct_per_s": straight, "through_per_s": proxied, "per_s_ratio": proxied / straight, "cpu_us": 1e6 * cpu / _OBJECTS}
        )
    found = medians(taken)
    count = 300
    version = (await asyncio.to_thread(virtual.api.get, CONFIGMAPS.path(NAMESPACE), limit="1"))["metadata"]["resourceVersion"]
    path = f"{CONFIGMAPS.path(NAMESPACE)}?watch=1&resourceVersion={version}&labelSelector=bench%3Done"
    pair = [load.Lines(path, count) for _ in range(2)]
    for place, lines in zip((direct, through), pair, strict=True):
        await place.connect(lines)
        await lines.began
    for number in range(count):
        body = {"data": {"number": str(number)}}
        await asyncio.to_thread(
            virtual.api.request, "PATCH", CONFIGMAPS.path(NAMESPACE, "one"), body, content_type="application/merge-patch+json"
        )
    async with asyncio.timeout(60):
        await asyncio.gather(*(lines.enough for lines in pair))
    added = [late - early for early, late in zip(pair[0].times, pair[1].times, strict=False)]
    for lines in pair:
        lines.transport.abort()
    return found | {f"added_{name}_ms": value for name, value in latency(added).items()}


async def replay(place: Place, path: str) -> float:
    """Events a second of a watch that begins with all objects."""
    lines = load.Lines(path, _OBJECTS)
    await place.connect(lines)
    async with asyncio.timeout(120):
        await lines.enough
    lines.transport.abort()
    return len(lines.times) / (lines.times[-1] - lines.times[0])


async def memory(through: Place, door: Process) -> dict[str, Any]:
    """What idle watches cost, and readers that do not read."""
    large = load.get(f"{CONFIGMAPS.path(NAMESPACE)}?limit=100000")
    before = door.rss()
    stalled = [await through.open(large) for _ in range(_STALLED)]
    for _, writer in stalled:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a transport that both reads and writes
    peak = 0
    for _ in range(10):
        await asyncio.sleep(0.5)
        peak = max(peak, door.rss())
    for _, writer in stalled:
        writer.transport.abort()
    await asyncio.sleep(2)
    idle = f"{CONFIGMAPS.path('default')}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dnone"
    rested = door.rss()
    held = [await through.open(load.get(idle)) for _ in range(_WATCHES)]
    await asyncio.sleep(2)
    watched = door.rss()
    for _, writer in held:
        writer.transport.abort()
    return {
        "stalled_readers": _STALLED,
        "stalled_answer_mib": (_BYTES * _OBJECTS) >> 20,
        "stalled_mib_each": (peak - before) / _STALLED / 2**20,
        "idle_watches": _WATCHES,
        "idle_watch_kib": (watched - rested) / _WATCHES / 1024,
    }


def tunnels(rounds: int) -> dict[str, Any]:
    """Streams and round trips of tunnels, and the memory of one whose client does not read."""
    with tempfile.TemporaryDirectory() as directory:
        files = made_files(Path(directory))
        with serving(load.serve_tunnels, files) as (port, _), serving(load.serve_door, files, port) as (door_port, door):
            direct, through = (load.Place(where, files.asking()) for where in (port, door_port))
            return asyncio.run(streams(direct, through, door, rounds))


async def streams(direct: Place, through: Place, door: Process, rounds: int) -> dict[str, Any]:
    taken = []
    for _ in range(rounds):
        one: dict[str, float] = {}
        for name, stream in (("down", load.download), ("up", load.upload)):
            one[f"direct_{name}_mb_s"] = await stream(direct, _STREAM)
            before = door.cpu()
            one[f"through_{name}_mb_s"] = await stream(through, _STREAM)
            one[f"{name}_cpu_ms_per_mib"] = 1000 * (door.cpu() - before) / (_STREAM >> 20)
            one[f"{name}_ratio"] = one[f"through_{name}_mb_s"] / one[f"direct_{name}_mb_s"]
        straight, proxied = latency(await load.round_trips(direct, 500)), latency(await load.round_trips(through, 500))
        one |= {"direct_trip_ms": straight["p50"], "through_trip_ms": proxied["p50"], "added_trip_ms": proxied["p50"] - straight["p50"]}
        taken.append(one)
    found = medians(taken)
    before = door.rss()
    _, writer = await through.open(
        f"POST /down/{_STREAM * 4} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"
    )
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a transport that both reads and writes
    await asyncio.sleep(3)
    found["stalled_mib"] = (door.rss() - before) / 2**20
    writer.transport.abort()
    return found


def made_files(directory: Path) -> load.Files:
    """Authorities and certificates of both sides."""
    servers, clients = pki.Authority(directory, "server-ca"), pki.Authority(directory, "client-ca")
    server = servers.issue("server", "server", usage="server", sans=["localhost"])
    client = clients.issue("client", "client", ["system:masters"])
    return load.Files(servers.cert, (server.cert, server.key), clients.cert, (client.cert, client.key))


@contextmanager
def serving(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[int, Process]]:
    """A process that runs `target` and has told its port."""
    context = multiprocessing.get_context("spawn")
    hears, tells = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*arguments, tells), daemon=True)
    process.start()
    try:
        if not hears.poll(60):
            raise LabError(f"{target.__name__} does not start")
        assert process.pid is not None
        yield hears.recv(), Process(process.pid)
    finally:
        process.kill()
        process.join()


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99, in ms."""
    ordered = sorted(seconds)
    return {"p50": 1000 * statistics.median(ordered), "p99": 1000 * ordered[int(0.99 * (len(ordered) - 1))]}


def medians(taken: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure over the rounds."""
    return {name: statistics.median(one[name] for one in taken) for name in taken[0]}


def report(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [
        f"# Front door, {datetime.now(UTC):%Y-%m-%d}",
        "",
        (
            f"{found['cpus']} shared cores, Python {found['python']}, Kubernetes {found.get('kubernetes', 'none')}; medians of "
            f"{found['rounds']} rounds, each direct and through in turn. API server, front door and load share the cores, so requests "
            "a second through are less "
            "than one core would give: that is the last figure. A target that is met is in bold."
        ),
    ]
    if "requests" in found:
        lines += [
            "",
            "## GET of a 4 KB object over TLS",
            "",
            "| connections | direct, /s | through, /s | direct ms p50, p99 | through p50, p99 | added p50 (want 1) | CPU µs | /s a core |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for connections, one in found["requests"].items():
            added = one["added_p50_ms"]
            cells = [
                connections,
                f"{one['direct_per_s']:.0f}",
                f"{one['through_per_s']:.0f}",
                *(f"{one[f'{way}_p50_ms']:.2f}, {one[f'{way}_p99_ms']:.2f}" for way in ("direct", "through")),
                mark(f"{added:.2f}", met=added <= 1),
                f"{one['cpu_us']:.0f}",
                f"{one['per_core_s']:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    rows: list[tuple[str, str, str, bool | None]] = []
    if one := found.get("watches"):
        ratio = f"{one['through_per_s']:.0f} of {one['direct_per_s']:.0f}, {one['per_s_ratio']:.2f}"
        rows += [
            ("watch, events/s at full speed, through of direct, ratio", ratio, "", None),
            ("watch, CPU µs an event", f"{one['cpu_us']:.0f}", "", None),
            (
                "watch, added ms p50, p99 at an easy pace",
                f"{one['added_p50_ms']:.2f}, {one['added_p99_ms']:.2f}",
                "1",
                one["added_p50_ms"] <= 1,
            ),
        ]
    if one := found.get("tunnels"):
        for name in ("down", "up"):
            speed, wanted = one[f"through_{name}_mb_s"], 250 / 600
            text = f"{speed:.0f} of {one[f'direct_{name}_mb_s']:.0f}, {one[f'{name}_ratio']:.2f}"
            rows.append((f"tunnel {name}, MB/s through of direct, ratio", text, "250 of 600, 0.42", one[f"{name}_ratio"] >= wanted))
            rows.append((f"tunnel {name}, CPU ms a MiB", f"{one[f'{name}_cpu_ms_per_mib']:.1f}", "", None))
        trip = f"{one['through_trip_ms']:.2f}, {one['added_trip_ms']:.2f}"
        rows.append(("tunnel, ms there and back, added", trip, "", None))
        rows.append(("tunnel, MiB of a client that does not read a GiB", f"{one['stalled_mib']:.1f}", "flat", one["stalled_mib"] < 4))
    if one := found.get("memory"):
        each = one["stalled_mib_each"]
        rows.append((f"list of {one['stalled_answer_mib']} MiB, MiB a reader that does not read", f"{each:.2f}", "flat", each < 1))
        rows.append((f"KiB an idle watch, of {one['idle_watches']}", f"{one['idle_watch_kib']:.0f}", "250", one["idle_watch_kib"] <= 250))
    if rows:
        lines += ["", "## Streams and memory", "", "| figure | measured | target |", "|---|---|---|"]
        lines += [f"| {words} | {mark(text, met=bool(met))} | {target} |" for words, text, target, met in rows]
    return "\n".join([*lines, ""])


def mark(text: str, *, met: bool) -> str:
    return f"**{text}**" if met else text


if __name__ == "__main__":
    sys.exit(main())

"""`make bench-profile`: where the syncer's CPU time goes while pods are made and run on simulated nodes, and in a restart.

Samples the running syncer with py-spy and sums the samples by what the innermost function of a known layer was. Writes
`bench/results/<name>.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.run import RESULTS
from bench.scale import Meter, client, cluster, make, make_namespace, until
from e2e.lab import kwok
from syncer.kube.types import PODS, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.virtual import VirtualCluster

_RATE = 150
_LAYERS = (
    ("selectors.py", "idle"),
    ("syncer/translate/", "decide: translation"),
    ("syncer/resources/", "decide: resources"),
    ("syncer/naming", "decide: translation"),
    ("syncer/kube/codec", "JSON"),
    ("syncer/runtime/store", "caches"),
    ("syncer/sync/caches", "caches"),
    ("syncer/runtime/informer", "informers"),
    ("syncer/kube/watch", "informers"),
    ("syncer/sync/engine", "engine: routing"),
    ("syncer/runtime/work", "engine: queue"),
    ("aiohttp", "HTTP"),
    ("asyncio/sslproto", "TLS"),
    ("ssl.py", "TLS"),
    ("prometheus_client", "metrics"),
    ("syncer/metrics", "metrics"),
    ("structlog", "log"),
    ("syncer/kube/", "HTTP"),
    ("syncer/sync/", "engine: reconcile"),
    ("asyncio/", "event loop"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--name", default="profile", help="name of the result file")
    parser.add_argument("--pods", type=int, default=1000)
    arguments = parser.parse_args()
    with cluster("profile", scheduler=True, keep=False) as (virtual, daemon), tempfile.TemporaryDirectory() as directory:
        kwok.start(virtual.host, 1 + arguments.pods // 900)
        daemon.start()
        meter, raw = Meter(daemon), Path(directory) / "samples"
        with sampled(daemon, raw):
            spent = asyncio.run(load(virtual, meter, arguments.pods))
        text = report(f"{arguments.pods} pods made and run on simulated nodes", raw.read_text(), arguments.pods, spent)
        daemon.stop()
        daemon.start(ready=False)
        with sampled(daemon, raw):
            asyncio.run(until(meter.settled))
        text += report(f"a restart with {arguments.pods} pods in sync", raw.read_text(), arguments.pods, meter.cpu())
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join(
        [
            f"# Profile, {datetime.now(UTC):%Y-%m-%d}",
            "",
            "Shares of the syncer's busy time, by the innermost known layer of each sample, and by the innermost function of the syncer.",
            text,
        ]
    )
    (RESULTS / f"{arguments.name}.md").write_text(text)
    print(text)
    return 0


@contextmanager
def sampled(daemon: Daemon, raw: Path) -> Iterator[None]:
    """Have what the syncer does meanwhile written to `raw`, a line for each stack and how often it was seen."""
    options = [f"--pid={daemon.pid}", f"--rate={_RATE}", "--format=raw", f"--output={raw}", "--duration=3600"]
    spy = subprocess.Popen([Path(sys.executable).with_name("py-spy"), "record", *options], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        spy.wait(60)


async def load(virtual: VirtualCluster, meter: Meter, pods: int) -> float:
    """Have pods made and run; CPU seconds that it cost the syncer."""
    async with await client(virtual, Side.VIRTUAL) as api:
        await make_namespace(api, "scale")
        before = meter.cpu()
        await make(api, "scale", [f"pod-{number}" for number in range(pods)])

        async def running() -> bool:
            waiting, _, _ = await api.list_page(PODS, "scale", field_selector="status.phase!=Running", limit=1)
            return not waiting

        await until(running)
        await until(meter.settled)
        return meter.cpu() - before


def report(what: str, samples: str, pods: int, spent: float) -> str:
    """Shares by layer and by function, idle time left out."""
    layers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if any("_bootstrap" in frame for frame in frames):
            continue  # an idle thread of the resolver's pool
        layer = next((name for frame in reversed(frames) for part, name in _LAYERS if part in frame), "other")
        if layer == "idle":
            continue
        layers[layer] += int(count)
        own = next((frame for frame in reversed(frames) if "syncer/" in frame), "")
        if own:
            functions[re.sub(r":\d+\)$", ")", own)] += int(count)
    total = layers.total()
    lines = [
        "",
        f"## {what}: {1000 * spent / pods:.2f} ms of CPU a pod",
        "",
        "| layer | share |",
        "|---|---|",
        *(f"| {name} | {100 * count / total:.1f} % |" for name, count in layers.most_common()),
        "",
        "| function | share |",
        "|---|---|",
        *(f"| `{name}` | {100 * count / total:.1f} % |" for name, count in functions.most_common(25)),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())

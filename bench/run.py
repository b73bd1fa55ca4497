"""`make bench`: the shared load driver against the running code, and a table of its figures beside the targets.

Two API servers and etcd on this machine, no node and no scheduler, as the figures of the Go original were taken. Writes
`bench/results/<name>.json` (what the driver measured) and `bench/results/<name>.md` (the table).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from e2e.daemon import ROOT, Daemon
from e2e.errors import LabError
from e2e.lab import process, teardown
from e2e.lab.host import HostCluster
from e2e.lab.state import Lab
from e2e.lab.virtual import VirtualCluster

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
DRIVER = Path(__file__).parent / "syncbench.py"
HOST_NAMESPACE = "bench"


class Figure(NamedTuple):
    """A line of the table: where the driver put it, what the Go original has, what is wanted, and which way is better."""

    words: str
    path: str
    original: float
    target: float
    more_is_better: bool = False


PLAIN = (
    Figure("create 1 pod → host pod, ms p50", "create1.ms_from_send.p50", 11.8, 9),
    Figure("create 1 pod → host pod, ms p99", "create1.ms_from_send.p99", 17.7, 14),
    Figure("… of that after the API server's answer, ms p50", "create1.ms_from_ack.p50", 6.2, 3),
    Figure("delete 1 pod → host pod gone, ms p50", "delete1.ms_from_send.p50", 15.6, 15.6),
    Figure("burst of 1000: host pods/s", "burst.per_s", 166, 200, more_is_better=True),
    Figure("burst of 1000: CPU s of the syncer", "burst.use.syncer_cpu_s", 1.83, 1.0),
    Figure("idle with 1000 pods: CPU s a minute", "idle.cpu_s_per_min", 0.12, 0.1),
    Figure("RSS MiB, empty", "empty_rss_mib", 92, 60),
    Figure("RSS MiB, 1000 pods", "idle.use.syncer_rss_mib", 119, 75),
    Figure("host status → virtual status, ms p50", "status1.ms_from_send.p50", 13.8, 9),
    Figure("host status → virtual status, ms p99", "status1.ms_from_send.p99", 20, 14),
    Figure("1000 statuses: per s", "status_bulk.per_s", 150.3, 150.3, more_is_better=True),
    Figure("1000 label changes: per s", "churn.per_s", 128.2, 128.2, more_is_better=True),
    Figure("warm start, 1000 in sync, 60 drifts: all repaired, s", "warm_start.all_repaired_s", 1.41, 1.2),
    Figure("delete 1000: per s", "delete.per_s", 121, 200, more_is_better=True),
    Figure("cold start, 1000 to make: all, s", "cold_start.all_s", 4.0, 4.0),
)
TOKEN = (
    Figure("create 1 pod → host pod, ms p50", "create1.ms_from_send.p50", 22.7, 15),
    Figure("create 1 pod → host pod, ms p99", "create1.ms_from_send.p99", 38.6, 22),
    Figure("burst of 1000: host pods/s", "burst.per_s", 93, 130, more_is_better=True),
    Figure("burst of 1000: CPU s of the syncer", "burst.use.syncer_cpu_s", 3.8, 1.8),
    Figure("RSS MiB, 1000 pods", "idle.use.syncer_rss_mib", 144, 144),
    Figure("delete 1000: per s", "delete.per_s", 89, 89, more_is_better=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the driver ran through; missed targets are in the table, not in the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--name", default="latest", help="name of the result files")
    parser.add_argument("--runs", type=int, default=3, help="runs of each kind; the table has their medians")
    parser.add_argument("--pods", type=int, default=1000, help="pods in the bulk phases")
    parser.add_argument("--phases", default="", help="phases of the driver, comma separated; default: all")
    parser.add_argument("--kinds", default="plain,token", help="pods without and with an automounted service account token")
    parser.add_argument("--keep", action="store_true", help="leave the lab running")
    arguments = parser.parse_args(argv)
    lab = Lab("bench")
    try:
        host = HostCluster(lab)
        host.up(scheduler=False)
        virtual = VirtualCluster(lab, "bench")
        virtual.up(namespace=HOST_NAMESPACE, datastore="etcd")
        found = {kind: drive(virtual, kind, arguments) for kind in arguments.kinds.split(",")}
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if not arguments.keep:
            teardown.down(lab)
    text = report(found, arguments.pods)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"{arguments.name}.md").write_text(text)
    print(text)
    return 0


def drive(virtual: VirtualCluster, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of the driver; `kind` is "plain" or "token"."""
    daemon = Daemon(virtual, "--log-level=warning", python=production())
    out = virtual.dir / f"bench-{kind}.json"
    log = virtual.dir / f"bench-{kind}.log"
    phases = arguments.phases or (
        "create1,delete1,burst,idle,status1,status_bulk,churn,warm_start,delete,cold_start,delete_cold"
        if kind == "plain"
        else "create1,delete1,burst,idle,delete"
    )
    command = [
        sys.executable,
        str(DRIVER),
        f"--virtual-kubeconfig={virtual.kubeconfig}",
        f"--host-kubeconfig={virtual.host.kubeconfig}",
        f"--virtual-namespace=bench-{kind}",
        f"--host-namespace={HOST_NAMESPACE}",
        f"--syncer-cmd={shlex.join(daemon.command())}",
        f"--syncer-log={log}",
        *(f"--watch-pid={name}={pid}" for name, pid in servers(virtual)),
        f"-n={arguments.pods}",
        f"--repeat={arguments.runs}",
        f"--phases={phases}",
        "--quiet-wait=5",
        f"--out={out}",
        *(["--automount"] if kind == "token" else []),
    ]
    if subprocess.run(command, check=False).returncode != 0:
        raise LabError(f"the load driver failed; the end of the syncer's log:\n{log.read_text()[-2000:] if log.exists() else '(none)'}")
    measured: dict[str, Any] = json.loads(out.read_text())
    measured["args"] = {name: value for name, value in measured["args"].items() if not isinstance(value, str) or "/" not in value}
    return measured


def production() -> Path:
    """A Python with the syncer's own dependencies and no others, as in its image: structlog, for one, loads rich where it finds it."""
    environment = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "syncer" / "production"
    command = [os.environ.get("UV", "uv"), "sync", "--quiet", "--frozen", "--no-dev", "--compile-bytecode"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment)}, check=True)
    return environment / "bin" / "python"


def servers(virtual: VirtualCluster) -> list[tuple[str, int]]:
    """Name and pid of what the driver accounts for by name: the API servers and their etcds."""
    return [
        (f"{side}-{name}", pid)
        for side, cluster in (("virtual", virtual), ("host", virtual.host))
        for name in process.names(cluster.dir)
        if (pid := process.pid_of(cluster.dir, name)) is not None
    ]


def report(found: dict[str, dict[str, Any]], pods: int) -> str:
    """The table in Markdown."""
    one = next(iter(found.values()))
    lines = [
        f"# Bench of {datetime.now(UTC):%Y-%m-%d}",
        "",
        (
            f"{one['cpus']} shared cores, Python {platform.python_version()}, Kubernetes {one['virtual_version']} (virtual) and "
            f"{one['host_version']} (host), etcd without fsync, {pods} pods, medians of {len(one['runs'])} runs. "
            "Ratio: ours to the target; better than the target is in bold."
        ),
    ]
    for kind, figures in (("plain", PLAIN), ("token", TOKEN)):
        if kind not in found:
            continue
        title = "Pods with a service account token" if kind == "token" else "Pods without a token"
        lines += ["", f"## {title}", "", "| figure | Go original | target | ours | ratio |", "|---|---|---|---|---|"]
        for figure in figures:
            value = look_up(found[kind]["median"], figure.path)
            if value is None:
                continue
            ratio = value / figure.target
            met = ratio >= 1 if figure.more_is_better else ratio <= 1
            shown = f"{value:g}"
            lines.append(f"| {figure.words} | {figure.original:g} | {figure.target:g} | {f'**{shown}**' if met else shown} | {ratio:.2f} |")
    return "\n".join([*lines, ""])


def look_up(tree: Any, path: str) -> float | None:
    """The number at a dotted path, None when there is none."""
    for part in path.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return None
        tree = tree[part]
    return float(tree) if isinstance(tree, int | float) else None


if __name__ == "__main__":
    sys.exit(main())

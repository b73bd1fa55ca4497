"""`syncer …` as a platform engineer types it, on the host of a lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from e2e.daemon import ROOT

if TYPE_CHECKING:
    from e2e.lab.host import HostCluster


def syncer(host: HostCluster, *arguments: str, answer: str = "", timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run it as the host's administrator; `answer` is what is typed."""
    environ = {**os.environ, "KUBECONFIG": str(host.kubeconfig)}
    command = [sys.executable, "-m", "syncer", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, input=answer, capture_output=True, text=True, timeout=timeout, check=False)


def syncer_json(host: HostCluster, *arguments: str) -> tuple[int, Any]:
    """Exit code, and what it prints with -o json."""
    done = syncer(host, *arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)

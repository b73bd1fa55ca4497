"""The program as a person runs it: a command line, its exit code and its words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from e2e.daemon import ROOT
from e2e.kubernetes import binaries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from e2e.lab.host import HostCluster

_TIMEOUT = 150.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def succeeded(self) -> Done:
        """Itself; AssertionError with its words if it failed."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}{self.err}"
        return self


@dataclass(frozen=True)
class Commands:
    """`syncer` for the host of a kubeconfig, with helm and kubectl on its PATH."""

    kubeconfig: Path
    directory: Path
    """Its home."""

    @staticmethod
    def on(host: HostCluster) -> Commands:
        """As the host's administrator, at home in the lab."""
        return Commands(host.kubeconfig, host.lab.dir)

    def environment(self) -> dict[str, str]:
        """That of the process: nothing of the person's own that could change what it does."""
        places = [str(binaries.ensure(name)[name].parent) for name in ("helm", "kubectl")]
        path = os.pathsep.join([*places, os.environ["PATH"]])
        return {"PATH": path, "HOME": str(self.directory), "KUBECONFIG": str(self.kubeconfig)}

    def start(self, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Begin `syncer WORDS`, which Ctrl-C ends, as in a terminal: what a shell starts in the background ignores it."""
        return subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "syncer", *words],
            env={**self.environment(), **(environment or {})},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, environment: Mapping[str, str] | None = None, answer: str = "") -> Done:
        """Run it to its end; `answer` is what is typed."""
        with self.start(*words, environment=environment) as process:
            try:
                out, err = process.communicate(answer, timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"syncer {' '.join(words)} takes more than {_TIMEOUT:.0f} s\n{out}{err}") from None
        return Done(process.returncode, out, err)

    def read(self, *words: str) -> tuple[int, Any]:
        """Exit code, and what it prints with -o json."""
        done = self.run(*words, "-o", "json")
        assert done.out, done.err
        return done.code, json.loads(done.out)

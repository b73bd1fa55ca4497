"""The helm program: run, with what it complains of in words."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from syncer.errors import ConfigError, SyncerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncer.releases.hosts import Host

OLDEST = (3, 14)
"""The first with `upgrade --reset-then-reuse-values`."""
CHART = "syncer"
"""Our chart's name; a release of another one is somebody else's."""

_STATES = ("--deployed", "--failed", "--pending", "--superseded", "--uninstalling")
_INSTALL = f"install Helm {OLDEST[0]}.{OLDEST[1]} or newer, see https://helm.sh/docs/intro/install/"
_NOISE = re.compile(r"^(WARNING: Kubernetes configuration file|.*\bwarnings?\.go:\d+\])")
_PREFIXES = re.compile(r"^(Error: |(INSTALLATION|UPGRADE|UNINSTALLATION) FAILED: |execution error at \([^)]*\): |(?:uninstall: )?Release )")
_OUT_OF_OUR_HANDS = re.compile(
    r"cluster unreachable|connection refused|i/o timeout|handshake timeout|no such host|deadline exceeded", re.IGNORECASE
)
_TAKEN = re.compile(r"cannot re-use a name that is still in use|release: already exists")


@dataclass(frozen=True)
class Record:
    """What Helm remembers of a release: `status` as in `helm list`, such as deployed, failed or pending-install."""

    name: str
    namespace: str
    status: str
    chart: str
    revision: str = ""

    @property
    def blocked(self) -> str:
        """What to do where Helm is, or was, in the middle of a change, and refuses the next one; "" elsewhere."""
        if not self.status.startswith("pending"):
            return ""
        # Back to the former revision; the first one has none, but can be completed in this way.
        back = f"helm rollback {self.name}{f' {self.revision}' if self.status == 'pending-install' else ''} --namespace={self.namespace}"
        return (
            f"Helm is at work on {self.name} in namespace {self.namespace}, or was killed ({self.status}); if nobody is, run `{back}`, "
            f"or clear up with `syncer delete {self.name} --namespace={self.namespace}`"
        )

    @property
    def ours(self) -> bool:
        """Whether it is a release of our chart."""
        return self.chart.rpartition("-")[0] == CHART


def complaint(text: str) -> str:
    """What helm writes to its standard error, without its own ceremony."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not _NOISE.match(line)]
    said = "\n".join(lines)
    while (shorter := _PREFIXES.sub("", said, count=1)) != said:
        said = shorter
    return said or "it does not say why"


def version_of(text: str) -> tuple[int, int] | None:
    """Major and minor of what `helm version` prints."""
    found = re.search(r"v(\d+)\.(\d+)\.", text)
    return (int(found[1]), int(found[2])) if found else None


def records(text: str) -> list[Record]:
    """Of what `helm list --output=json` prints."""
    listed = json.loads(text or "[]") or []
    return [
        Record(item["name"], item["namespace"], item.get("status") or "", item.get("chart") or "", item.get("revision") or "")
        for item in listed
    ]


class Helm:
    """The helm program, for one host cluster. Raises ConfigError for what a person can mend, SyncerError for the rest."""

    def __init__(self, program: str, host: Host, environ: Mapping[str, str]) -> None:
        self._program = program
        self._environ = dict(environ)
        self._where = (f"--kubeconfig={host.kubeconfig}", f"--kube-context={host.context}")

    @classmethod
    async def find(cls, host: Host, environ: Mapping[str, str]) -> Self:
        """That of PATH. Raises ConfigError if there is none."""
        program = await asyncio.to_thread(shutil.which, "helm", path=environ.get("PATH"))
        if program is None:
            raise ConfigError(f"the program helm is not on PATH; {_INSTALL}")
        return cls(program, host, environ)

    async def check(self) -> None:
        """Raise ConfigError if it is too old."""
        said = await self.run("version", "--template={{.Version}}")
        found = version_of(said)
        if found is None or found < OLDEST:
            raise ConfigError(f"{self._program} is {said.strip() or 'of an unknown version'}, which is too old; {_INSTALL}")

    async def records(self, name: str, namespace: str = "") -> list[Record]:
        """The releases of that name, in all states; of all namespaces unless one is named."""
        where = (f"--namespace={namespace}",) if namespace else ("--all-namespaces",)
        pattern = f"--filter=^{re.escape(name)}$"
        return records(await self.run("list", *self._where, *where, *_STATES, pattern, "--output=json"))

    async def apply(self, name: str, namespace: str, arguments: Sequence[str], *, upgrade: bool) -> None:
        """Install, or also upgrade, without waiting for what the objects are about."""
        verb = ("upgrade", "--install") if upgrade else ("install",)  # of two at once one fails; but both succeed with --replace
        try:
            await self.run(*verb, name, *arguments, *self._where, f"--namespace={namespace}")
        except ConfigError as error:
            if not _TAKEN.search(str(error)):
                raise
            raise ConfigError(
                f"Helm has a release {name} in namespace {namespace} by now: somebody else made it at the same time, "
                "or `helm uninstall --keep-history` left it; --upgrade goes on with it"
            ) from None

    async def values(self, name: str, namespace: str) -> dict[str, Any]:
        """All values of a release, the chart's own among them."""
        text = await self.run("get", "values", name, *self._where, f"--namespace={namespace}", "--all", "--output=json")
        values: dict[str, Any] = json.loads(text) or {}
        return values

    async def uninstall(self, name: str, namespace: str) -> None:
        """Delete the objects of a release and its record. It is no error if some, or all, are gone."""
        await self.run("uninstall", name, *self._where, f"--namespace={namespace}", "--ignore-not-found", "--cascade=background")

    async def run(self, *arguments: str) -> str:
        """What it prints."""
        process = await asyncio.create_subprocess_exec(
            self._program,
            *arguments,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said, complained = await process.communicate()
        except asyncio.CancelledError:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            raise
        if process.returncode == 0:
            return said.decode(errors="replace")
        words = complaint(complained.decode(errors="replace"))
        kind = SyncerError if _OUT_OF_OUR_HANDS.search(words) else ConfigError
        raise kind(f"helm {arguments[0]}: {words}")

"""Builds binaries from Go modules. A go.mod names the packages, `go build` does the rest."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.errors import LabError
from e2e.kubernetes.catalogue import FOLDERS, KUBERNETES, MODULES, Folder, cache_directory, folder_of

if TYPE_CHECKING:
    from collections.abc import Callable

GO = "1.26"
_TOOLCHAIN = "go1.26.8"


def build(folder: Folder, binary: str, version: str, target: Path, *, tick: Callable[[float], None]) -> None:
    """Build one binary into the file `target`. `tick` is called with the seconds gone, now and then, while it runs."""
    directory = _module_directory(folder, version)
    flags = _link_flags(folder, version)
    _go("build", "-trimpath", "-ldflags", flags, "-o", str(target), folder.package(binary), directory=directory, tick=tick)


def module_source(binary: str) -> Path:
    """The source directory, in Go's module cache, of the module that a binary is built from; read only."""
    folder = folder_of(binary)
    answer = _go("mod", "download", "-json", f"{folder.module}@{folder.checked_in_version}", directory=MODULES / folder.name)
    return Path(json.loads(answer)["Dir"])


def _module_directory(folder: Folder, version: str) -> Path:
    """The directory of the go.mod: the checked-in one if the version is its own, else one made in the cache."""
    if not folder.is_kubernetes or version == folder.checked_in_version:
        return MODULES / folder.name
    directory = cache_directory() / "kubernetes" / version / "modules" / folder.name
    if not (directory / "go.sum").exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "go.mod").write_text(_kubernetes_go_mod(folder, version))
        _go("mod", "tidy", directory=directory)
    return directory


def _kubernetes_go_mod(folder: Folder, version: str) -> str:
    """A go.mod for another Kubernetes version.

    Kubernetes refers to its staging modules by path; which there are differs by version and stands in its own go.mod. They are published
    as v0.<minor>.<patch>.
    """
    answer = json.loads(_go("mod", "download", "-json", f"{KUBERNETES}@{version}", directory=MODULES / folder.name))
    its = Path(answer["GoMod"]).read_text()
    staging = re.findall(r"^\s*(\S+) => \./staging/src/", its, re.MULTILINE)
    godebug = re.search(r"^godebug (?:\(\s*)?(default=\S+)", its, re.MULTILINE)
    published = version.replace("v1.", "v0.", 1)
    tools = [folder_of(name).package(name) for name in _binaries_in(folder.name)]
    return "\n".join(
        [
            f"module syncer.test/{folder.name}",
            f"go {GO}.0",
            f"godebug {godebug[1] if godebug else f'default=go{GO}'}",
            *(f"tool {tool}" for tool in tools),
            f"require {KUBERNETES} {version}",
            *(f"replace {module} => {module} {published}" for module in staging),
            "",
        ]
    )


def _binaries_in(folder_name: str) -> list[str]:
    return [name for folder in FOLDERS if folder.name == folder_name for name in folder.binaries]


def _link_flags(folder: Folder, version: str) -> str:
    variables = dict.fromkeys(folder.version_variables, version)
    if folder.is_kubernetes:
        # Without these a server says that it is v0.0.0-master.
        major, minor, _ = version.removeprefix("v").split(".")
        facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        variables |= {f"k8s.io/{lib}/version.{key}": value for lib in ("component-base", "client-go") for key, value in facts.items()}
    return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in variables.items())])


def _go(*arguments: str, directory: Path, tick: Callable[[float], None] | None = None) -> str:
    """Run go; its standard output. LabError with the end of its messages if it fails."""
    with subprocess.Popen(
        ["go", *arguments],
        cwd=directory,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, messages = _communicate(process, tick)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)  # an interrupt must not leave compilers behind
            raise
    if process.returncode != 0:
        end = "\n".join(messages.strip().splitlines()[-15:])
        raise LabError(f"`go {' '.join(arguments)}` in {directory} failed:\n{end}")
    return out


def _communicate(process: subprocess.Popen[str], tick: Callable[[float], None] | None) -> tuple[str, str]:
    for seconds in itertools.count(15, 15):
        try:
            return process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            if tick is not None:
                tick(seconds)
    raise AssertionError("itertools.count never ends")


@functools.cache
def _environment() -> dict[str, str]:
    """The environment of go: one in which it is of the version that Kubernetes can be built with."""
    remedy = f"install {_TOOLCHAIN} from https://go.dev/dl/ and put its bin directory first on PATH"
    if shutil.which("go") is None:
        raise LabError(f"Kubernetes must be built here, as no release could be downloaded, but there is no `go` on PATH: {remedy}")
    plain = {**os.environ, "CGO_ENABLED": "0"}
    found = ""
    for environment in (plain, {**plain, "GOTOOLCHAIN": _TOOLCHAIN}):  # the second makes go fetch that toolchain as a module
        answer = subprocess.run(["go", "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=False)
        if answer.stdout.startswith(f"go{GO}"):
            return environment
        found = found or answer.stdout.strip() or "an unknown version"
    raise LabError(
        f"Kubernetes must be built with Go {GO}, but `go` is {found} (1.27 breaks /openapi/v2, and with it kubectl apply): {remedy}"
    )

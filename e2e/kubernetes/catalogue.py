"""Which binaries there are, and where each can come from.

Each folder of `modules/` is a go.mod and go.sum whose `tool` directives name what is built; the version that it requires of its main module
is the version of its binaries. One holds a program of ours besides.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from e2e.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping

MODULES = Path(__file__).parent / "modules"
KUBERNETES = "k8s.io/kubernetes"
OLDER = "v1.34.4"
"""The version on one side in tests of two versions at once."""
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Release:
    """An official download; `{v}` is the version without its v, `{arch}` the architecture, `{name}` the binary.

    `checksums` is a file that holds the SHA-256 digest, alone or on the line that names the download. An `archive` is a tar file with
    the binaries in it; otherwise the download is the binary.
    """

    url: str
    checksums: str
    archive: bool

    def urls(self, name: str, version: str) -> tuple[str, str]:
        """The URL of the download and of its checksums."""
        words = {"name": name, "v": version.removeprefix("v"), "arch": ARCHITECTURE}
        url = self.url.format(**words)
        return url, self.checksums.format(url=url, **words)


@dataclass(frozen=True)
class Folder:
    """A folder of `modules/`: a set of binaries of one module and version.

    `binaries` maps a binary's name to its package below the module. `version_command` is how a binary that is found on PATH is asked for
    its version; without one PATH is not searched, because the name is too common. `version_variables` are set at link time. Of an `own`
    folder the one binary is built from the Go source in it, and `module` is what that is written for.
    """

    name: str
    module: str
    binaries: Mapping[str, str]
    version_command: tuple[str, ...] = ()
    version_variables: tuple[str, ...] = ()
    release: Release | None = None
    own: bool = False

    @property
    def is_kubernetes(self) -> bool:
        """Whether its version follows KUBERNETES_VERSION."""
        return self.module == KUBERNETES

    @property
    def checked_in_version(self) -> str:
        """The version that the checked-in go.mod requires, e.g. v1.36.3."""
        text = (MODULES / self.name / "go.mod").read_text()
        match = re.search(rf"^(?:require)?\s*{re.escape(self.module)} (v\S+)", text, re.MULTILINE)
        if match is None:
            raise LabError(f"{MODULES / self.name / 'go.mod'} does not require {self.module}: restore the file")
        return match[1]

    def version(self, kubernetes_version: str) -> str:
        """The version of its binaries, given the Kubernetes version that is wanted."""
        if self.own:
            return f"{self.checked_in_version}-{self._digest()}"
        return kubernetes_version if self.is_kubernetes else self.checked_in_version

    def package(self, binary: str) -> str:
        """The import path of a binary."""
        module = f"syncer.test/{self.name}" if self.own else self.module
        return f"{module}/{self.binaries[binary]}".rstrip("/")

    def _digest(self) -> str:
        """Of all that is in the folder."""
        return sha256(b"\0".join(path.read_bytes() for path in sorted((MODULES / self.name).iterdir()))).hexdigest()[:12]


_GITHUB = "https://github.com/{repository}/releases/download/"


def _github(repository: str, file: str, checksums: str, *, archive: bool = True) -> Release:
    base = _GITHUB.replace("{repository}", repository)
    return Release(base + file, checksums if checksums.startswith("{url}") else base + checksums, archive)


FOLDERS = (
    Folder(
        "kubernetes",
        KUBERNETES,
        {name: f"cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")},
        version_command=("--version",),
        release=Release("https://dl.k8s.io/v{v}/bin/linux/{arch}/{name}", "{url}.sha256", archive=False),
    ),
    Folder(
        "kubernetes",
        KUBERNETES,
        {"kubectl": "cmd/kubectl"},
        version_command=("version", "--client"),
        release=Release("https://dl.k8s.io/v{v}/bin/linux/{arch}/{name}", "{url}.sha256", archive=False),
    ),
    Folder("e2e", KUBERNETES, {"agnhost": "test/images/agnhost"}),  # published as an image only
    Folder(
        "etcd",
        "go.etcd.io/etcd/server/v3",
        {"etcd": ""},
        version_command=("--version",),
        release=_github("etcd-io/etcd", "v{v}/etcd-v{v}-linux-{arch}.tar.gz", "v{v}/SHA256SUMS"),
    ),
    Folder(
        "kine",
        "github.com/k3s-io/kine",
        {"kine": ""},
        version_command=("--version",),
        version_variables=("github.com/k3s-io/kine/pkg/version.Version",),
        release=_github("k3s-io/kine", "v{v}/kine-{arch}", "v{v}/sha256sum-{arch}.txt", archive=False),
    ),
    Folder(
        "containerd",
        "github.com/containerd/containerd/v2",
        {"containerd": "cmd/containerd", "containerd-shim-runc-v2": "cmd/containerd-shim-runc-v2", "ctr": "cmd/ctr"},
        version_command=("-v",),
        version_variables=("github.com/containerd/containerd/v2/version.Version",),
        release=_github("containerd/containerd", "v{v}/containerd-{v}-linux-{arch}.tar.gz", "{url}.sha256sum"),
    ),
    Folder(
        "cni",
        "github.com/containernetworking/plugins",
        {
            "bridge": "plugins/main/bridge",
            "loopback": "plugins/main/loopback",
            "ptp": "plugins/main/ptp",
            "host-local": "plugins/ipam/host-local",
            "portmap": "plugins/meta/portmap",
            "firewall": "plugins/meta/firewall",
        },
        version_variables=("github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",),
        release=_github("containernetworking/plugins", "v{v}/cni-plugins-linux-{arch}-v{v}.tgz", "{url}.sha256"),
    ),
    Folder(
        "coredns",
        "github.com/coredns/coredns",
        {"coredns": ""},
        version_command=("-version",),
        release=_github("coredns/coredns", "v{v}/coredns_{v}_linux_{arch}.tgz", "{url}.sha256"),
    ),
    Folder(  # its releases have no checksums, so they are not used
        "kwok",
        "sigs.k8s.io/kwok",
        {"kwok": "cmd/kwok"},
        version_command=("--version",),
        version_variables=("sigs.k8s.io/kwok/pkg/consts.Version",),
    ),
    Folder(
        "local-path-provisioner", "github.com/rancher/local-path-provisioner", {"local-path-provisioner": ""}
    ),  # published as an image only
    Folder("metrics-server", "sigs.k8s.io/metrics-server", {"metrics-server": "cmd/metrics-server"}),  # published as an image only
    Folder(
        "helm",
        "helm.sh/helm/v3",
        {"helm": "cmd/helm"},
        version_command=("version", "--short"),
        version_variables=("helm.sh/helm/v3/internal/version.version",),
        release=Release("https://get.helm.sh/helm-v{v}-linux-{arch}.tar.gz", "{url}.sha256sum", archive=True),
    ),
    Folder(  # 3.7 has a package that its published module lacks
        "traefik",
        "github.com/traefik/traefik/v3",
        {"traefik": "cmd/traefik"},
        version_command=("version",),
        version_variables=("github.com/traefik/traefik/v3/pkg/version.Version",),
        release=_github("traefik/traefik", "v{v}/traefik_v{v}_linux_{arch}.tar.gz", "v{v}/traefik_v{v}_checksums.txt"),
    ),
    Folder("informer", "k8s.io/client-go", {"informer": ""}, own=True),
    Folder("promrules", "github.com/prometheus-operator/prometheus-operator", {"promrules": ""}, own=True),
)


def folder_of(binary: str) -> Folder:
    """The folder that a binary comes from."""
    for folder in FOLDERS:
        if binary in folder.binaries:
            return folder
    known = ", ".join(sorted(name for folder in FOLDERS for name in folder.binaries))
    raise LabError(f"no binary called {binary!r}; there are {known}")


def kubernetes_version(version: str | None = None, *, side: Literal["", "HOST", "VIRTUAL"] = "") -> str:
    """The Kubernetes version to use, e.g. v1.36.3: `version`, else what HOST_KUBERNETES_VERSION or VIRTUAL_KUBERNETES_VERSION say of that
    side, else KUBERNETES_VERSION, else the checked-in one."""
    named = os.environ.get(f"{side}_KUBERNETES_VERSION") if side else None
    wanted = version or named or os.environ.get("KUBERNETES_VERSION") or FOLDERS[0].checked_in_version
    if not re.fullmatch(r"v?\d+\.\d+\.\d+", wanted):
        raise LabError(f"Kubernetes version {wanted!r}: write it with all three numbers, e.g. KUBERNETES_VERSION=1.35.4")
    return f"v{wanted.removeprefix('v')}"


def cache_directory() -> Path:
    """Where binaries are kept: `${XDG_CACHE_HOME:-~/.cache}/syncer`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "syncer"

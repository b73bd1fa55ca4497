"""Container images, assembled from what is on this machine: no registry is asked for anything.

An image is a list of files in one layer, written as an OCI archive and kept in `~/.cache/syncer/images` under a digest of what went in.
Images carry upstream's names where manifests of Kubernetes 1.36 use them; what they hold is ours:

- busybox: Debian's busybox-static, with bash-static as `sh`, because busybox's own drops environment variables such as `data-1`;
- agnhost: Kubernetes' test server with busybox beside it, so that `sh`, `wget` and `nslookup` work in there;
- pause: a shell that waits; coredns: the binary.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.errors import LabError
from e2e.kubernetes import binaries
from e2e.kubernetes.catalogue import ARCHITECTURE, cache_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

PAUSE = "registry.k8s.io/pause:3.10.2"
BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Link:
    """A symbolic link in an image."""

    target: str


Files = Mapping[str, Path | str | Link | None]


@dataclass(frozen=True)
class Image:
    """What an image is made of.

    `files` maps paths without leading slash to a file of this machine, to text, to a Link, or to None for a directory. A file keeps its
    mode, text is executable if it starts with #!. All belongs to root.
    """

    tags: Sequence[str]
    files: Files
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Sequence[str] = ()
    ports: Sequence[int] = ()
    user: str = ""
    directory: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def standard() -> list[Path]:
    """Archives of the images that every node has."""
    return [build(image) for image in (pause(), busybox(), agnhost(), coredns())]


def pause() -> Image:
    """The process that holds a pod's namespaces."""
    wait = '#!/bin/sh\ntrap "exit 0" TERM INT\nwhile :; do sleep 2147483 & wait $!; done\n'
    box: Files = {"bin/busybox": _program("busybox"), "bin/sh": Link("busybox"), "bin/sleep": Link("busybox")}
    return Image((PAUSE, "registry.k8s.io/pause:3.10"), {**box, "pause": wait}, entrypoint=["/pause"])


def busybox() -> Image:
    """A shell and small tools."""
    return Image((BUSYBOX, "docker.io/library/busybox:1.37", "lab.local/busybox:1"), _box(), command=["sh"])


def agnhost() -> Image:
    """Kubernetes' test server: guestbook, netexec, serve-hostname and many more."""
    files: Files = {**_box(), "agnhost": binaries.ensure("agnhost")["agnhost"], "agnhost-2": Link("agnhost"), "uploads": None}
    return Image((AGNHOST, "registry.k8s.io/e2e-test-images/agnhost:2.55"), files, entrypoint=["/agnhost"], command=["pause"])


def coredns() -> Image:
    """CoreDNS."""
    return Image((COREDNS,), {**_base(), "coredns": binaries.ensure("coredns")["coredns"]}, entrypoint=["/coredns"], ports=[53])


def build(image: Image) -> Path:
    """The image as an OCI archive for `containerd.import_images()`; made unless there is one of the same content."""
    sources = [(name, _digest(source.read_bytes()) if isinstance(source, Path) else repr(source)) for name, source in image.files.items()]
    facts = [list(image.tags), sources, _settings(image)]
    name = image.tags[0].rpartition("/")[2].replace(":", "-")
    path = cache_directory() / "images" / f"{name}-{_digest(repr(facts).encode())[7:19]}.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        _write(image, new)
        new.replace(path)
        for old in path.parent.glob(f"{name}-????????????.tar"):
            if old != path:
                old.unlink()
    return path


def _base() -> Files:
    return {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": "root:x:0:\nnogroup:x:65534:\n",
        "root": None,
        "proc": None,
        "sys": None,
        "dev": None,
        "run": None,
        "tmp": None,
    }


def _box() -> Files:
    program = _program("busybox")
    tools = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    links: Files = {f"bin/{tool}": Link("busybox") for tool in tools}
    return {**_base(), **links, "bin/busybox": program, "bin/bash": _program("bash-static"), "bin/sh": Link("bash")}


def _program(name: str) -> Path:
    path = Path("/usr/bin") / name
    if not path.exists():
        raise LabError(f"{path} is missing: apt-get install busybox-static bash-static")
    return path


def _write(image: Image, path: Path) -> None:
    layer = _layer(image.files)
    config = _json({
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {key: value for key, value in _settings(image).items() if value},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    })  # fmt: skip
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("config.v1+json", config),
        "layers": [_descriptor("layer.v1.tar", layer)],
    })  # fmt: skip
    tagged = [_descriptor("manifest.v1+json", manifest) | {"annotations": {"io.containerd.image.name": tag}} for tag in image.tags]
    index = _json({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": tagged})
    blobs = {f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (layer, config, manifest)}
    with tarfile.open(path, "w") as archive:
        for name, content in {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **blobs}.items():
            _add(archive, name, content)


def _settings(image: Image) -> dict[str, Any]:
    return {
        "Env": [*([] if any(one.startswith("PATH=") for one in image.environment) else [_PATH]), *image.environment],
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "User": image.user,
        "WorkingDir": image.directory,
        "Labels": dict(image.labels),
        "ExposedPorts": {f"{port}/tcp": {} for port in image.ports},
    }


def _layer(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for name, source in files.items():
            match source:
                case Path():
                    _add(layer, name, source.read_bytes(), source.stat().st_mode & 0o777)
                case str():
                    _add(layer, name, source.encode(), 0o755 if source.startswith("#!") else 0o644)
                case Link():
                    link = tarfile.TarInfo(name)
                    link.type, link.linkname = tarfile.SYMTYPE, source.target
                    layer.addfile(link)
                case None:
                    directory = tarfile.TarInfo(name)
                    directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                    layer.addfile(directory)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _digest(blob), "size": len(blob)}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

"""Kubeconfig files with everything inside them, so that they may be copied anywhere on this machine."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, server: str, ca: Path, cert: Path, key: Path, context: str, *, namespace: str = "default") -> Path:
    """Write a kubeconfig for a client certificate, readable by its owner only; gives `path` back."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": _data(ca)}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context, "namespace": namespace}}],
        "users": [{"name": context, "user": {"client-certificate-data": _data(cert), "client-key-data": _data(key)}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with open(new, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        yaml.safe_dump(content, file, sort_keys=False)
    return new.replace(path)


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()

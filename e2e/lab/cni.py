"""The pod network: one bridge on the node, addresses from the range that the cluster gave to the node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def configure(directory: Path, pod_range: str) -> None:
    """Write the configuration that containerd watches for; with it the node in `directory` becomes Ready.

    There is no masquerading: pods meet nobody who does not have a route to them.
    """
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,  # a pod reaches itself through its Service
        "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_range}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    # written in place: containerd reads it again when a file is written, not when one is moved there
    text = json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": [bridge, ports]}, indent=1)
    (directory / "cni" / "10-lab.conflist").write_text(text)

"""Takes a lab down, whatever state it is in."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from e2e.lab import fence, node, process
from e2e.lab.host import HostCluster
from e2e.lab.virtual import virtual_clusters

if TYPE_CHECKING:
    from e2e.lab.state import Lab


def down(lab: Lab) -> None:
    """End everything of a lab and delete its directory. A lab that does not exist is fine, so is one that crashed half way."""
    if not lab.dir.exists():
        return
    with lab.locked():
        node.down(lab)
        for cluster in (*virtual_clusters(lab), HostCluster(lab)):
            cluster.stop(grace=0)
        process.kill_strays(lab.dir)
        if lab.read().get("fenced"):
            fence.down(lab.dir)
        shutil.rmtree(lab.dir)

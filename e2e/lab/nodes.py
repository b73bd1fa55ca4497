"""Gives a host cluster something to run pods on: the real node, or simulated ones and a sentence that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2e.errors import LabError
from e2e.lab import kwok, node
from e2e.lab.virtual import virtual_clusters

if TYPE_CHECKING:
    from e2e.lab.host import HostCluster

_REMEMBERED = "simulated-nodes"


def start(host: HostCluster, *, simulated: int | None = None) -> str | None:
    """Start nodes and wait until they are Ready: the real one, unless this machine cannot have it or `simulated` asks for so many others.

    None if the node is real; else a sentence for the user: that nodes are simulated, and why. A lab that had simulated nodes by
    choice gets them again; `start_real()` changes that.
    """
    count = simulated or host.lab.read().get(_REMEMBERED)
    why = f"{count} asked for" if count else node.why_not()
    if why is None:
        start_real(host)
        return None
    if node.is_up(host.lab):
        raise LabError(f"lab {host.lab.name!r} has a real node: simulated ones beside it would take its pods; take the lab down first")
    if count:
        host.lab.remember(_REMEMBERED, count)
    names = kwok.start(host, count or 1)
    return f"nodes are SIMULATED ({', '.join(names)}): pods say that they run, but nothing does ({why})"


def start_real(host: HostCluster) -> None:
    """Start the real node and let its pods reach the virtual clusters; simulated nodes go away.

    LabError, in words, if this machine cannot have one.
    """
    host.lab.remember(_REMEMBERED, None)
    kwok.stop(host)
    node.up(host)
    for virtual in virtual_clusters(host.lab):
        if virtual.running():
            virtual.connect()

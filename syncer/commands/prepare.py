"""`syncer prepare`: what has to be there before the control plane starts; as an init container of its pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncer.flags import OF_A_RELEASE, add_flags, read_flags

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from syncer.terminal import Terminal

USAGE = "syncer prepare [FLAG…]"
DESCRIPTION = """\
Make what a control plane beside the syncer needs before it starts: with --control-plane-files certificates and kubeconfigs,
with --service-range the host's range of Service addresses. It can be run again, and beside other replicas."""
_OWN = "What to make"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to prepare, and for which virtual cluster."""
    group = parser.add_argument_group(_OWN)
    group.add_argument(
        "--service-range",
        action="store_true",
        help="find out the host's range of Service addresses, by dry runs, and tell it in the ConfigMap vc-NAME-service-cidr",
    )
    group.add_argument("--wait-for", metavar="HOST:PORT", default="", help="at the end, wait until somebody listens there")
    names = ("set-owner", "control-plane-files", "certificate-life", "cluster-domain", "log-format", "log-level")
    add_flags(parser, (*OF_A_RELEASE, *names))


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], _terminal: Terminal) -> int:
    """Until all is there."""
    from syncer import log
    from syncer.controlplane.preparation import prepare

    chosen, _ = read_flags(arguments, environ)
    log.configure(chosen.log_format, chosen.log_level)
    await prepare(chosen, service_range=arguments.service_range, wait_for=arguments.wait_for)
    return 0

"""`syncer connect`: a kubeconfig for a virtual cluster that works from here."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from syncer.kube.types import Key, Obj
    from syncer.releases.connection import Connection, Wishes
    from syncer.releases.contexts import Entry
    from syncer.releases.credentials import Endpoint
    from syncer.releases.hosts import Host
    from syncer.terminal import Terminal

USAGE = "syncer connect NAME [-n NAMESPACE] [FLAG…] [-- COMMAND…]"
TAKES_PROGRAM = True
DESCRIPTION = """\
Make a context for a virtual cluster, or run a command with one. Where no load balancer or node port of it answers from here, a port of
this machine leads to it: then the command stays, through restarts of both ends, until Ctrl-C brings back the former context."""
EPILOG = """\
With -- COMMAND the exit code is the command's, and 128 and the signal's number if it was killed. Ctrl-C ends a forwarded port with 0.

For example:
  syncer connect demo
  syncer connect demo -- kubectl get namespaces
  syncer connect demo --service-account=default/robot --cluster-role=view --print > robot.kubeconfig
"""
_LONGEST_TOKEN = 1 << 32
_RENEW_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which virtual cluster, where the kubeconfig goes, how it is reached, and as whom."""
    from syncer.releases.hosts import add_release_arguments, add_timeout_argument

    add_release_arguments(parser)
    add_timeout_argument(parser, "2m", "until it is ready")

    where = parser.add_argument_group(
        "Kubeconfig (default: the context is added to the one in use, and made current)"
    ).add_mutually_exclusive_group()
    where.add_argument(
        "--update-current",
        metavar="BOOL",
        nargs="?",
        const=True,
        default=True,
        type=_switch,
        help="whether the context is made current (default: true)",
    )
    where.add_argument("--kube-config", metavar="FILE", help="add it to this kubeconfig instead, which is made if there is none")
    where.add_argument("--print", action="store_true", help="print a kubeconfig of its own instead")

    way = parser.add_argument_group("Way")
    way.add_argument("--server", metavar="URL", type=_endpoint, help="where it is reached, instead of finding that out")
    way.add_argument("--address", metavar="IP", type=_address, default="127.0.0.1", help="where to listen (default: 127.0.0.1)")
    way.add_argument("--local-port", metavar="PORT", type=_port, default=0, help="where to listen (default: any that is free)")

    account = parser.add_argument_group("Limited access (default: that of its administrator)")
    account.add_argument("--service-account", metavar="NS/NAME", type=_account, help="connect as this one, which is made if there is none")
    account.add_argument("--cluster-role", metavar="NAME", default="", help="a ClusterRole to give to it")
    account.add_argument(
        "--token-expiration", metavar="SECONDS", type=_seconds, default=86400, help="how long its token is good for (default: 86400, a day)"
    )


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """The exit code of what follows --, or 0."""
    from syncer.errors import ConfigError
    from syncer.releases.connection import Wishes
    from syncer.releases.hosts import hosts_of

    if arguments.cluster_role and arguments.service_account is None:
        raise ConfigError("--cluster-role: is given to a service account; name one with --service-account")
    if arguments.program and (arguments.print or arguments.kube_config):
        raise ConfigError("a command after -- has a kubeconfig of its own; drop --print and --kube-config")
    wishes = Wishes(
        endpoint=arguments.server,
        address=arguments.address,
        local_port=arguments.local_port,
        service_account=arguments.service_account,
        cluster_role=arguments.cluster_role,
        token_seconds=arguments.token_expiration,
    )
    return await _connect(await hosts_of(arguments, environ), arguments.namespace, wishes, arguments, environ, terminal)


async def _connect(
    hosts: list[Host], namespace: str, wishes: Wishes, arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal
) -> int:
    import time

    from syncer.errors import NETWORK_ERRORS, ApiError
    from syncer.releases import kubeconfigs
    from syncer.releases.connection import connected, find_near
    from syncer.releases.programs import run_program
    from syncer.releases.waiting import Progress

    name: str = arguments.name
    # It only adds a context, so that of another virtual cluster may be one that nothing answers at any more.
    host, release = await find_near(hosts, name, namespace, passable=(ApiError, *NETWORK_ERRORS))
    progress = Progress(f"waiting for {name}", terminal.say, time.monotonic, arguments.timeout)
    async with await host.connect() as client, connected(client, release, host.context, wishes, progress, terminal.say) as connection:
        if connection.expires:
            terminal.say(f"the token is good until {connection.expires}")
        if arguments.program:
            async with (
                _temporary(connection.entry) as file,
                _renewing(connection, lambda entry: kubeconfigs.write(file, entry.standalone())),
            ):
                return await run_program(arguments.program, {**environ, "KUBECONFIG": str(file)})
        return await _hand_over(connection, arguments, environ, terminal)


@asynccontextmanager
async def _temporary(entry: Entry) -> AsyncIterator[Path]:
    from syncer.releases.kubeconfigs import temporary

    with ExitStack() as stack:
        file = await asyncio.to_thread(stack.enter_context, temporary(entry.standalone()))
        try:
            yield file
        finally:
            await asyncio.to_thread(stack.close)


async def _hand_over(connection: Connection, arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    from syncer.releases import kubeconfigs
    from syncer.releases.hosts import kubeconfig_files

    if arguments.print:
        terminal.print(kubeconfigs.dump(connection.entry.standalone()).rstrip())
        return await _stay(connection, terminal, "")
    files = kubeconfig_files(environ, arguments.kube_config or arguments.kubeconfig)
    place = Place(files, current=bool(arguments.kube_config) or arguments.update_current)
    former = await asyncio.to_thread(place.enter, connection.entry)
    context = connection.entry.context
    if arguments.kube_config:
        words = f"the kubeconfig {arguments.kube_config} leads to it"
    else:
        words = f"the current context is now {context}" if place.current else f"there is now a context {context}"
    if not connection.forwarded:
        terminal.say(words if arguments.kube_config or not place.current else f"{words}; `syncer disconnect` leads back")
        return 0
    try:
        async with _renewing(connection, place.enter):
            return await _stay(connection, terminal, words)
    finally:
        if not arguments.kube_config:
            now = await asyncio.to_thread(place.leave, former)
            terminal.say(f"the current context is {now}" if now else "no context is current")


class Place:
    """The kubeconfig that gets the context, which is made current there, or not. Its methods block."""

    def __init__(self, files: list[Path], *, current: bool) -> None:
        self.files = files
        self.current = current
        self._entry: Entry | None = None

    def enter(self, entry: Entry) -> str:
        """Add the context, or make it what it is now unless somebody else has, and return the one that was current before."""
        from syncer.releases import contexts, kubeconfigs

        former = contexts.current(kubeconfigs.read(self.files))
        had = self._entry

        def edit(document: Obj) -> Obj:
            if had is not None and not contexts.has(document, had):
                return document
            document = contexts.with_entry(document, entry)
            return contexts.with_current(document, entry.context) if self.current and had is None else document

        kubeconfigs.change(kubeconfigs.to_write(self.files), edit)
        self._entry = entry
        return former

    def leave(self, former: str) -> str:
        """Take the context away, as nothing answers there any more, and return the one that is current now."""
        from syncer.releases import contexts, kubeconfigs

        entry = self._entry
        if entry is not None:
            known = contexts.names(kubeconfigs.read(self.files))
            kubeconfigs.change(kubeconfigs.to_write(self.files), lambda document: contexts.left(document, entry, former, known))
        return contexts.current(kubeconfigs.read(self.files))


@asynccontextmanager
async def _renewing(connection: Connection, write: Callable[[Entry], object]) -> AsyncIterator[None]:
    """Meanwhile, have an entry written whose certificates are others by now."""
    from syncer.errors import NETWORK_ERRORS, SyncerError

    async def follow() -> None:
        last = connection.entry
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                entry = await connection.renewed()
                if entry != last:
                    await asyncio.to_thread(write, entry)
                last = entry
            except (SyncerError, *NETWORK_ERRORS):
                continue  # what is there may still do, and the next time comes soon

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _stay(connection: Connection, terminal: Terminal, words: str) -> int:
    """Until somebody ends it, if anything has to go on running here."""
    from syncer.releases.programs import ENDINGS, handling

    if connection.forwarded:
        ended = asyncio.Event()
        with handling(ENDINGS, lambda _: ended.set()):
            terminal.say("; ".join(filter(None, (words, f"{connection.entry.cluster['server']} leads to it until Ctrl-C"))))
            await ended.wait()
    return 0


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _endpoint(text: str) -> Endpoint:
    from syncer.releases.endpoints import endpoint_of

    try:
        return endpoint_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _account(text: str) -> Key:
    from syncer.releases.credentials import service_account

    try:
        return service_account(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address; write 127.0.0.1 or 0.0.0.0") from None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; write a number up to 65535")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 600 <= int(text) < _LONGEST_TOKEN:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 600 on, which is the least that Kubernetes grants")
    return int(text)

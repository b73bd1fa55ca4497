"""From here to a virtual cluster: what goes into a kubeconfig for it, and what has to run meanwhile so that it works."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from syncer.errors import NETWORK_ERRORS, ConfigError, Forbidden, NoSuchCluster, NotFound, SyncerError, told
from syncer.kube.types import PODS, SECRETS, Key, is_deleting, key_of
from syncer.releases import contexts
from syncer.releases.credentials import CONFIG, bind, credentials_in, make_token, open_virtual, with_token
from syncer.releases.endpoints import front_services, listening, problem, reachable
from syncer.releases.hosts import hosts_of
from syncer.releases.portforward import LOOPBACK, PortForward
from syncer.releases.readiness import until, why
from syncer.releases.release import SELECTOR, Release, Status, find_release

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from syncer.kube.client import Client
    from syncer.kube.types import Obj
    from syncer.releases.credentials import Credentials, Endpoint
    from syncer.releases.hosts import Host
    from syncer.releases.waiting import Progress

PORT = 8443
"""Of the syncer in its pod, as of the Go original's."""
DAY = 86400

_POD_SECONDS = 1.0
_PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Wishes:
    """How to connect. `endpoint` is where others will connect to, None for whatever works from here."""

    endpoint: Endpoint | None = None
    address: str = LOOPBACK
    local_port: int = 0
    service_account: Key | None = None
    cluster_role: str = ""
    token_seconds: int = DAY


@dataclass(frozen=True)
class Connection:
    """`entry` is for a kubeconfig, and works for as long as the port is forwarded, if it is; `expires` is that of a token.

    `renewed` asks the host for the entry as it should be by now, since certificates do not last, and raises SyncerError or a network
    error. A token is not renewed.
    """

    entry: contexts.Entry
    forwarded: bool
    renewed: Callable[[], Awaitable[contexts.Entry]] = field(repr=False)
    expires: str = ""


class Pods:
    """The pod of a control plane for the next connection. Many that come at once ask once."""

    def __init__(self, host: Client, release: Release) -> None:
        self._host = host
        self._key = Key(release.namespace, release.name)
        self._lock = asyncio.Lock()
        self._found: Key | None = None
        self._until = 0.0

    async def find(self) -> Key:
        """One that is ready. Raises SyncerError if there is none."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._found is None or now >= self._until:
                self._found = None
                namespace, name = self._key
                pods = await self._host.list_all(PODS, namespace, label_selector=f"{SELECTOR},release={name}")
                self._found, self._until = choose_pod(pods), now + _POD_SECONDS
            if self._found is None:
                raise SyncerError(f"no pod of {self._key} is ready")
            return self._found


def choose_pod(pods: Iterable[Obj]) -> Key | None:
    """The newest one that is ready, and not about to go."""
    usable = [pod for pod in pods if _is_ready(pod) and not is_deleting(pod)]
    return key_of(max(usable, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""))) if usable else None


def home(hosts: Sequence[Host], name: str, namespace: str) -> tuple[Host, str] | None:
    """The host, one of these, and the namespace of the virtual cluster, where the context above tells that it leads into that itself."""
    for above, host in pairwise(hosts):
        known = contexts.origin(above.context)
        if known is not None and (known.name, known.host) == (name, host.context) and namespace in ("", known.namespace):
            return host, known.namespace
    return None


async def find_near(hosts: Sequence[Host], name: str, namespace: str, passable: tuple[type[Exception], ...] = ()) -> tuple[Host, Release]:
    """The virtual cluster of that name on the first of these hosts that has one: the first ones may be virtual clusters themselves.

    Raises NoSuchCluster, of the last host, and what else a host answers, so that a namesake on the next one is not taken for it. Only
    `passable` errors are passed over, and any of the virtual cluster that is looked for itself: it need not run to be found on its host.
    """
    for host, below in pairwise(hosts):
        try:
            return host, await _release_on(host, name, namespace)
        except (SyncerError, *NETWORK_ERRORS) as error:
            if isinstance(error, (NoSuchCluster, *passable)):
                continue
            if found := home((host, below), name, namespace):
                return below, await _release_on(below, name, found[1])
            kind = ConfigError if isinstance(error, ConfigError) else SyncerError
            raise kind(f"context {host.context}: {told(error)}; if {name} is not in there, write --context={below.context}") from None
    return hosts[-1], await _release_on(hosts[-1], name, namespace)


async def _release_on(host: Host, name: str, namespace: str) -> Release:
    async with await host.connect() as client:
        return await find_release(client, name, namespace)


@asynccontextmanager
async def nearest(arguments: argparse.Namespace, environ: Mapping[str, str]) -> AsyncIterator[tuple[Client, Release]]:
    """The virtual cluster that a command line means, by `add_release_arguments`, with its host. Raises as `find_near` does."""
    host, release = await find_near(await hosts_of(arguments, environ), arguments.name, arguments.namespace)
    async with await host.connect() as client:
        yield client, release


@asynccontextmanager
async def connected(
    host: Client, release: Release, context: str, wishes: Wishes, progress: Progress, say: Callable[[str], None]
) -> AsyncIterator[Connection]:
    """Wait until the virtual cluster is ready, and stay connected. `context` is that of the host.

    Raises ConfigError for what a person has to mend, TooLate when it is not ready in time.
    """
    require_running(release)
    pods = Pods(host, release)
    credentials = await _administrator(host, release, progress)
    endpoint = wishes.endpoint or await _exposed(host, release, credentials, say)
    # A token is asked for from here, wherever it is to be used.
    near = None if wishes.endpoint else endpoint
    expires = ""
    async with AsyncExitStack() as stack:
        if near is None and (endpoint is None or wishes.service_account is not None):
            forward = PortForward(host, pods.find, PORT, say=say, address=wishes.address, local_port=wishes.local_port)
            await stack.enter_async_context(forward)
            near = listening(forward.address, forward.local_port)
            await _answers(credentials, near, forward, progress)
        if near is not None and wishes.service_account is not None:
            credentials, expires = await _limited(credentials, near, wishes.service_account, wishes)
        if endpoint is not None:
            await stack.aclose()
        there = endpoint or near
        assert there is not None
        name = contexts.Origin(release.name, release.namespace, context).context
        entry = contexts.Entry(name, there.cluster(credentials), credentials.user, credentials.namespace)

        async def renewed() -> contexts.Entry:
            if wishes.service_account is not None:
                return entry
            now = credentials_in(await host.get(SECRETS, Key(release.namespace, f"vc-{release.name}")))
            return contexts.Entry(name, there.cluster(now), now.user, now.namespace)

        yield Connection(entry, endpoint is None, renewed, expires)


def require_running(release: Release) -> None:
    """Raise ConfigError for one that will not be ready, however long one waits."""
    if release.status is Status.PAUSED:
        command = f"syncer resume {release.name} --namespace={release.namespace}"
        raise ConfigError(f"{release.name} in namespace {release.namespace} is paused; start it again with `{command}`")
    if release.status is Status.DELETING:
        raise ConfigError(f"{release.name} in namespace {release.namespace} is being deleted")


async def _administrator(host: Client, release: Release, progress: Progress) -> Credentials:
    """What the Secret has, as soon as that is written and a pod is ready."""
    key = Key(release.namespace, f"vc-{release.name}")
    found: list[Obj] = []

    async def reason() -> str:
        pods = await host.list_all(PODS, release.namespace, label_selector=f"{SELECTOR},release={release.name}")
        if choose_pod(pods) is None:
            late = progress.wants_reason or progress.elapsed + 1 >= progress.limit
            return await why(host, Key(release.namespace, release.name), release.stateful_set) if late else "it is starting"
        try:
            secret = await host.get(SECRETS, key)
        except NotFound:
            return f"its syncer has not written the Secret {key} yet"
        except Forbidden as error:
            raise ConfigError(f"{error.message}; ask for get of the Secret {key.name} in the namespace {key.namespace}") from None
        found[:] = [secret]
        return "" if CONFIG in (secret.get("data") or {}) else f"the Secret {key} has no key {CONFIG}"

    see = f"kubectl --namespace={release.namespace} describe pod {release.name}-0"
    await until(reason, progress, f"look with `{see}`, or give it longer with --timeout")
    return credentials_in(found[0])


async def _answers(credentials: Credentials, endpoint: Endpoint, forward: PortForward, progress: Progress) -> None:
    async def reason() -> str:
        wrong = await problem(credentials, endpoint, _PROBE_SECONDS)
        if wrong and forward.refused is not None:
            raise forward.refused
        return wrong

    await until(reason, progress, "look at the log of its container syncer")


async def _exposed(host: Client, release: Release, credentials: Credentials, say: Callable[[str], None]) -> Endpoint | None:
    services = await front_services(host, release.name, release.namespace)
    found, why = await reachable(host, services, credentials)
    if why:
        say(f"{why}; so a port of this machine leads to it")
    return found


async def _limited(credentials: Credentials, endpoint: Endpoint, account: Key, wishes: Wishes) -> tuple[Credentials, str]:
    async with await open_virtual(credentials, endpoint) as virtual:
        token, expires = await make_token(virtual, account, wishes.token_seconds)
        if wishes.cluster_role:
            await bind(virtual, account, wishes.cluster_role)
    return with_token(credentials, token), expires


def _is_ready(pod: Obj) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)

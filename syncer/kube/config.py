"""How to reach an API server and as whom, kept up to date while files, certificates and tokens rotate.

A `Cluster` is asked for its headers and its TLS context at each request. Every ten seconds at most, such a request looks
whether the files behind it changed; credentials of an exec plugin are renewed at 80 % of their life, in a process of their
own (`exec_credentials`). A refresh that fails is logged and the old credentials stay in use: the API server decides.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from syncer.errors import ConfigError
from syncer.kube.kubeconfig import SERVICE_ACCOUNT, Access, Item, is_overtaken, read_kubeconfig, read_service_account
from syncer.kube.plugins import Credential, run_plugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger("syncer.kube")

CHECK_SECONDS = 10.0
"""Least time between two looks at the files, and between two runs of a plugin."""


@dataclass(eq=False)
class Cluster:
    """One API server: its address, its TLS context (None for plain HTTP) and its credentials.

    Made by `load_cluster`; made directly (address and context only) it never refreshes anything. Address, namespace,
    proxy and context are read once. After a rotation `ssl` is another context, so that new connections are made with it.
    """

    server: str
    ssl: ssl.SSLContext | None = None
    namespace: str = "default"
    token: str = field(default="", repr=False)
    server_name: str | None = None
    proxy: str | None = None
    read: Callable[[], Access] | None = field(default=None, repr=False)
    ask: Callable[[], Awaitable[Credential]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._headers = _authorization(self.token)
        self._lock = asyncio.Lock()
        self._access: Access | None = None
        self._credential = Credential()
        self._identity: tuple[object, ...] = ()
        self._asked_at = self._due = float("-inf")
        self._problem = ""

    async def headers(self) -> dict[str, str]:
        """Authorization, when there is any; not to be modified. Never raises, whatever happened to the files."""
        if self._access is not None:
            now = _now()
            # While one request looks at the files, the others go on with what is known, unless that is worthless.
            if now >= self._due and (not self._lock.locked() or now >= self._credential.expires):
                await self.refresh(since=self._due)
        return self._headers

    async def refresh(self, *, since: float | None = None, force: bool = False) -> None:
        """Take over what changed on disk; `force` (after a 401) reads and asks even where nothing seems to have changed.

        Does nothing when another refresh began at or after `since` (loop time): its outcome is as new as ours would be.
        """
        since = _now() if since is None else since
        async with self._lock:
            if self._access is None or self._due - CHECK_SECONDS >= since:
                return
            self._due = _now() + CHECK_SECONDS
            try:
                access = self._access
                if force or await asyncio.to_thread(is_overtaken, access):
                    access = await asyncio.to_thread(self._read)
                await self.take(access, force=force)
            except ConfigError as error:
                if str(error) != self._problem:
                    log.warning("credentials.refresh_failed", problem=str(error), server=self.server)
                self._problem = str(error)
            else:
                self._problem = ""

    async def take(self, access: Access, *, force: bool = True) -> None:
        """Use these credentials from now on; ConfigError, and nothing changed, when they cannot be used."""
        if access.server != self.server:
            raise ConfigError(f"the kubeconfig now names server {access.server} instead of {self.server}; restart to follow it")
        self._due = _now() + CHECK_SECONDS
        credential = self._credential
        if access.plugin and self._must_ask(access, force):
            assert self.ask is not None
            self._asked_at = _now()
            credential = await self.ask()
        identity = _identity(access, credential)
        if identity != self._identity:
            self.ssl = await asyncio.to_thread(_tls_context, access, credential)
            if self._access is not None:
                log.info("credentials.changed", server=self.server)
        self.token = credential.token or access.token
        self._headers = _authorization(self.token)
        self._access, self._credential, self._identity = access, credential, identity

    def _read(self) -> Access:
        assert self.read is not None
        return self.read()

    def _must_ask(self, access: Access, force: bool) -> bool:
        now = _now()
        if now < self._asked_at + CHECK_SECONDS:
            return False
        return force or access is not self._access or now >= self._credential.renew


async def load_cluster(kubeconfig: str | None, *, context: str = "") -> Cluster:
    """The cluster that a kubeconfig's (current) context names; None means the one that this pod runs in.

    Raises ConfigError, in one line that names the file, the field and what to do.
    """
    if kubeconfig is None:
        return await open_cluster(partial(read_service_account, SERVICE_ACCOUNT, os.environ))
    path = Path(kubeconfig)
    # From here on the context is fixed: somebody's `kubectl config use-context` must not move a running daemon.
    context = context or (await asyncio.to_thread(read_kubeconfig, path)).context
    return await open_cluster(partial(read_kubeconfig, path, context), partial(run_plugin, path, context))


async def open_cluster(read: Callable[[], Access], ask: Callable[[], Awaitable[Credential]] | None = None) -> Cluster:
    """A cluster whose files are read by `read` and whose plugin (if the files want one) is run by `ask`."""
    access = await asyncio.to_thread(read)
    cluster = Cluster(access.server, None, access.namespace, server_name=access.server_name, proxy=access.proxy, read=read, ask=ask)
    await cluster.take(access)
    return cluster


def _now() -> float:
    return asyncio.get_running_loop().time()


def _authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _identity(access: Access, credential: Credential) -> tuple[object, ...]:
    """Everything that a TLS context is made of."""
    return (access.certificate_authority, access.insecure, access.certificate, access.key, credential.certificate, credential.key)


def _tls_context(access: Access, credential: Credential) -> ssl.SSLContext | None:
    if not access.server.startswith("https:"):
        return None
    authority = access.certificate_authority
    try:
        context = ssl.create_default_context(cadata=authority.value.decode("ascii", errors="ignore") or None)
    except ssl.SSLError as error:
        raise ConfigError(f"{authority.place}: holds no PEM certificate ({_reason(error)}); paste the CA again") from None
    # CAs made by hand or by old tools lack the key usage extension that RFC 5280 wants and Kubernetes never asked for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = access.certificate, access.key
    if credential.certificate:
        certificate, key = Item("client certificate of the exec plugin", credential.certificate), Item("", credential.key)
    if certificate.value:
        _load_chain(context, certificate, key)
    return context


def _load_chain(context: ssl.SSLContext, certificate: Item, key: Item) -> None:
    """The ssl module reads certificates from files only. These live for this call and nobody else can open them."""
    with tempfile.NamedTemporaryFile(dir=_memory()) as stream:
        stream.write(certificate.value.rstrip(b"\n") + b"\n" + key.value)
        stream.flush()
        try:
            # An empty password: an encrypted key must fail instead of asking the terminal.
            context.load_cert_chain(stream.name, password="")
        except ssl.SSLError as error:
            remedy = "both must be PEM, belong together and not be encrypted"
            raise ConfigError(f"{certificate.place}: is not usable with its key ({_reason(error)}); {remedy}") from None


def _memory() -> str | None:
    """A directory in memory, where the platform has one: works on a read-only root file system and leaves no key on a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 (files in it are made with mode 0600 and a random name)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "unreadable").lower().replace("_", " ")

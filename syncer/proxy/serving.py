"""What the front door is served with: a certificate of the virtual cluster's authority, and whose client certificates count.

The files are the virtual control plane's: it writes them when it first starts, and may replace them at any time. Each
change makes a new TLS context for the connections to come; those that are open keep theirs.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from syncer.errors import NETWORK_ERRORS, ConfigError, SyncerError
from syncer.proxy.certificates import LIFE, Unusable, issue_served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from syncer.proxy.certificates import Served

log = structlog.get_logger("syncer.proxy")

_LOOK_AGAIN = 2.0
_PATIENCE = 5
"""How many looks pass after a failure, unless a file or name changes: each attempt is a process."""

_Mark = tuple[int, int, int] | None
"""Inode, size and modification time of a file, None while there is none."""


@dataclass(frozen=True, slots=True)
class _Basis:
    """What a context was made for."""

    authority: tuple[_Mark, _Mark]
    client_ca: _Mark
    names: frozenset[str]


class ServingCertificate:
    """Keeps `context` fit for new connections: `begin` makes the first one, `run` those that follow.

    The files are PEM; `names` tells the host names and IP addresses of the moment, and never fails. It is asked, and the files
    are looked at, `every` so many seconds. `wall` is epoch seconds, `life` how many of them a certificate is good for.
    `issue` is `certificates.issue_served`, or behaves like it.
    """

    def __init__(
        self,
        *,
        ca_cert: Path,
        ca_key: Path,
        client_ca: Path,
        names: Callable[[], Awaitable[frozenset[str]]],
        wall: Callable[[], float] = time.time,
        life: float = LIFE,
        issue: Callable[..., Awaitable[Served]] = issue_served,
        every: float = _LOOK_AGAIN,
    ) -> None:
        self._ca_cert = ca_cert
        self._ca_key = ca_key
        self._client_ca = client_ca
        self._names = names
        self._wall = wall
        self._life = life
        self._issue = issue
        self._every = every
        self._context: ssl.SSLContext | None = None
        self._served: Served | None = None
        self._basis: _Basis | None = None
        self._told = ""

    @property
    def context(self) -> ssl.SSLContext:
        """For a connection that begins now; only valid once `begin` has returned."""
        assert self._context is not None
        return self._context

    @property
    def served(self) -> Served | None:
        """What new connections are served with; None before `begin` has returned."""
        return self._served

    async def begin(self) -> None:
        """Have the first certificate issued.

        Raises ConfigError for a file that is missing or none of its kind, which may be mended by the virtual control plane; another
        SyncerError or a network error when it cannot be issued now.
        """
        await self._renew(await self._look())

    async def run(self) -> None:
        """Renew what has changed or is near its end, until cancelled."""
        failed: _Basis | None = None
        patience = 0
        while True:
            await asyncio.sleep(self._every)
            basis = await self._look()
            patience -= 1
            if self._is_fit(basis) or (basis == failed and patience > 0):
                continue
            try:
                await self._renew(basis)
            except (SyncerError, *NETWORK_ERRORS) as error:
                failed, patience = basis, _PATIENCE
                self._tell(str(error) or type(error).__name__)
            else:
                failed, self._told = None, ""

    def _is_fit(self, basis: _Basis) -> bool:
        return basis == self._basis and self._served is not None and self._wall() < self._served.renew_at

    def _tell(self, words: str) -> None:
        if words != self._told:
            assert self._served is not None
            log.warning("proxy.certificate_not_renewed", error=words, expires_at=_time(self._served.expires_at))
        self._told = words

    async def _look(self) -> _Basis:
        marks = await asyncio.to_thread(lambda: [_mark(path) for path in (self._ca_cert, self._ca_key, self._client_ca)])
        return _Basis(authority=(marks[0], marks[1]), client_ca=marks[2], names=await self._names())

    async def _renew(self, basis: _Basis) -> None:
        """A context for `basis`, which was looked at before the files are read: what is written since is seen the next time."""
        served, had = self._served, self._basis
        fresh = (
            served is None or had is None or (basis.authority, basis.names) != (had.authority, had.names) or self._wall() >= served.renew_at
        )
        if served is None or fresh:
            served = await self._reissue(basis.names)
        self._context = await asyncio.to_thread(self._make_context, served)
        self._served, self._basis = served, basis
        log.info("proxy.certificate", renewed=fresh, names=len(basis.names), expires_at=_time(served.expires_at))
        if fresh and served.last:
            log.warning(
                "proxy.authority_near_its_end",
                expires_at=_time(served.expires_at),
                remedy="renew the virtual cluster's own authority (--server-ca-cert); the certificate cannot outlast it",
            )

    async def _reissue(self, names: frozenset[str]) -> Served:
        ca = await asyncio.to_thread(_read, "--server-ca-cert", self._ca_cert)
        key = await asyncio.to_thread(_read, "--server-ca-key", self._ca_key)
        try:
            return await self._issue(ca, key, names, life=self._life)
        except Unusable as error:
            flag, path = ("--server-ca-cert", self._ca_cert) if error.field == "ca" else ("--server-ca-key", self._ca_key)
            raise ConfigError(
                f"{flag}: {path} {error}; give the file by which the virtual control plane signs serving certificates"
            ) from None

    def _make_context(self, served: Served) -> ssl.SSLContext:
        trusted = _read("--client-ca-cert", self._client_ca)
        try:
            context = client_context(trusted)
        except (ssl.SSLError, ValueError):
            raise ConfigError(
                f"--client-ca-cert: {self._client_ca} holds no certificate in PEM form; give the virtual cluster's --client-ca-file"
            ) from None
        served.load(context)
        return context


def client_context(client_ca: str) -> ssl.SSLContext:
    """A server's context, with no certificate yet, whose clients may show one that `client_ca` (PEM) vouches for, as kube-apiserver's may.

    Raises SSLError or ValueError when `client_ca` holds none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # logs, exec and port-forward cannot be had over HTTP/2
    context.verify_mode = ssl.CERT_OPTIONAL
    # As Go does it: authorities need not say all that RFC 5280 asks for, and one that another issued is trusted alone.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    context.num_tickets = 0  # nobody is let in again without his certificate, which may have expired
    context.load_verify_locations(cadata=client_ca)
    return context


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(flag: str, path: Path) -> str:
    try:
        return path.read_text("ascii", errors="ignore")  # some have comments around what counts
    except OSError as error:
        raise ConfigError(f"{flag}: {path} cannot be read ({error.strerror}); the virtual control plane writes it when it starts") from None


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

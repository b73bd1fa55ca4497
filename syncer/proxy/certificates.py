"""Serving certificates: of the front door by the virtual cluster's authority, of the admission webhook by one of our own.

Our own authority is the same for all replicas, and is kept in a Secret of the host namespace; serving certificates are each
process's own. They are issued by a process of its own, `python -m syncer.proxy.authority`, because the library for it would cost the
daemon 9 MB for good. Keys go through pipes: nothing is written to a disk, an argument list or a log.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from syncer.errors import AlreadyExists, Conflict, NotFound, SyncerError
from syncer.kube import codec
from syncer.kube.types import Key, Obj
from syncer.proxy.ownsecret import OwnSecret, content_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

    from syncer.kube.client import Client

log = structlog.get_logger("syncer.proxy")

PATIENCE = 60.0
"""Seconds that issuing may take; it is a tenth of one unless the machine is overloaded."""

LIFE = 365 * 86400.0
"""Seconds that serving certificates are good for, unless it is said otherwise."""
_RENEW_AFTER = 0.8
"""Of a certificate's life: then there is time left to find out why there is no other."""
_TRIES = 3
"""How often another replica may be quicker; each time there is an authority to go on with."""
_CA, _CA_KEY = "ca.crt", "ca.key"


class Unusable(SyncerError):
    """An authority that can issue nothing. `field` is `ca` or `ca_key`, the message what is wrong with that."""

    def __init__(self, field_name: str, why: str) -> None:
        super().__init__(why)
        self.field = field_name


@dataclass(frozen=True, slots=True)
class Served:
    """A serving certificate with the chain to its root, and its key (PEM texts), with its life in epoch seconds.

    `last` tells that it ends with its authority.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    issued_at: float
    expires_at: float
    last: bool = False

    @property
    def renew_at(self) -> float:
        """When to have the next one issued, in epoch seconds; never if that would end no later."""
        return float("inf") if self.last else self.issued_at + _RENEW_AFTER * (self.expires_at - self.issued_at)

    def load(self, context: ssl.SSLContext) -> None:
        """Have new connections of `context` served with it."""
        # The ssl module reads files only; this one is memory, and has no name that anybody else could open.
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(self.certificate + self.key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Certificates(Served):
    """The same, with the PEM texts of the authority of our own that issued it.

    `ca` is what to trust: the authority first, then its predecessors that have not expired.
    """

    ca: bytes = field(kw_only=True)
    ca_key: bytes = field(repr=False, kw_only=True)


async def issue_certificates(previous: Certificates | None = None, *, life: float = LIFE, patience: float = PATIENCE) -> Certificates:
    """A serving certificate for the loopback, good for `life` seconds, of the authority of `previous` if that lasts, else of a new one.

    Raises SyncerError when the helper process fails.
    """
    authority = {} if previous is None else {"ca": previous.ca.decode(), "ca_key": previous.ca_key.decode()}
    answer = await ask_authority({**authority, "life": life}, "issuing the certificate of the admission webhook", patience)
    return Certificates(**_served(answer), ca=answer["ca"].encode(), ca_key=answer["ca_key"].encode())


async def issue_served(ca: str, ca_key: str, names: Iterable[str], *, life: float = LIFE, patience: float = PATIENCE) -> Served:
    """A fresh serving certificate for these host names and IP addresses, of the authority `ca` (PEM), whose key is RSA or EC.

    Raises Unusable when that can issue none, SyncerError when the helper process fails.
    """
    request = {"ca": ca, "ca_key": ca_key, "names": sorted(names), "life": life}
    answer = await ask_authority(request, "issuing the serving certificate of the front door", patience)
    if "refused" in answer:
        raise Unusable(answer["refused"], answer["why"])
    return Served(**_served(answer), last=answer["last"])


def _served(answer: Mapping[str, Any]) -> dict[str, Any]:
    pems = {name: answer[name].encode() for name in ("certificate", "key")}
    return {**pems, "issued_at": float(answer["issued"]), "expires_at": float(answer["expires"])}


def secret_key(namespace: str, name: str) -> Key:
    """Where the authority of the virtual cluster `name` is kept."""
    return Key(namespace, f"vc-{name}-webhook")


class SharedAuthority:
    """The authority of all replicas of the virtual cluster `name`, in a Secret. `owner` is its ownerReference, if it is to have one.

    `life`, in seconds, is that of the serving certificates; the authority's own is years.
    """

    def __init__(self, host: Client, *, namespace: str, name: str, owner: Obj | None, life: float = LIFE) -> None:
        self.key = secret_key(namespace, name)
        self._secret = OwnSecret(host, self.key, name=name)
        self._owners = [] if owner is None else [owner]
        self._life = life

    async def bundle(self) -> bytes:
        """What API servers are to trust now (PEM); nothing when the Secret is gone."""
        secret = await self._secret.read()
        return b"" if secret is None else self._parse(secret).ca

    async def issue(self, previous: Certificates | None = None) -> Certificates:
        """A serving certificate of the authority in the Secret, which is made, or renewed when near its end, by whoever comes first.

        A Secret that is gone is made again with the authority of `previous`. Raises SyncerError, ApiError or a network error.
        """
        for _ in range(_TRIES):
            secret = await self._secret.read()
            given = self._parse(secret) if secret is not None else previous
            issued = await issue_certificates(given, life=self._life)
            if secret is not None and given is not None and issued.ca == given.ca:
                return issued
            try:
                await self._secret.write({_CA: issued.ca, _CA_KEY: issued.ca_key}, secret, self._owners)
            except (AlreadyExists, Conflict, NotFound):
                continue  # another replica was first
            log.info("admission.authority_kept", key=str(self.key), new=given is None or issued.ca != given.ca)
            return issued
        raise SyncerError(f"the Secret {self.key} on the host keeps changing while it is read")

    def _parse(self, secret: Obj) -> Certificates:
        try:
            ca, ca_key = (content_of(secret)[name] for name in (_CA, _CA_KEY))
        except KeyError:
            raise SyncerError(f"the Secret {self.key} on the host holds no {_CA} and {_CA_KEY}; delete it, and it is made again") from None
        return Certificates(b"", b"", 0.0, 0.0, ca=ca, ca_key=ca_key)


async def ask_authority(request: Mapping[str, Any], what: str, patience: float = PATIENCE) -> Mapping[str, Any]:
    """What `python -m syncer.proxy.authority` answers; `what` is for messages. Raises SyncerError when that fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "syncer.proxy.authority", stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(patience):
            output, errors = await process.communicate(codec.dumps(request))
    except TimeoutError:
        raise SyncerError(f"{what} took longer than {patience:g} s; is the machine overloaded?") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise SyncerError(f"{what} failed: {lines[-1] if lines else f'exit code {process.returncode}'}")
    answer: Mapping[str, Any] = codec.loads(output)
    return answer

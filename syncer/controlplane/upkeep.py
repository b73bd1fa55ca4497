"""Makes the certificates of a control plane, shares among replicas what has to be the same, and renews the rest in time.

The authorities and the key that signs tokens are in the Secret `vc-NAME-certs`: whoever comes first makes it. From these each replica
issues certificates of its own into its volume. Those of etcd, which has no rights on the host, are in the Secret `vc-NAME-etcd`, which
the kubelet mounts into its pods and keeps up to date there. All who use them read them again when they change
(docs/adr/0011-control-plane-certificates.md).

Whoever loses the authorities has lost all tokens and kubeconfigs, and etcd, which read its authority at its start. So more than one object
owns the Secrets, and the garbage collector takes them only when all of these are gone, as with the release.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from syncer.controlplane.files import read_files, write_files
from syncer.controlplane.identities import (
    AUTHORITIES,
    ETCD_CA,
    SIGNING_KEY,
    Bundle,
    Pair,
    bundle_of,
    files_of_pod,
    identities_of_etcd,
    identities_of_pod,
)
from syncer.errors import NETWORK_ERRORS, AlreadyExists, Conflict, NotFound, SyncerError
from syncer.kube.types import Key
from syncer.proxy.certificates import ask_authority
from syncer.proxy.ownsecret import OwnSecret, content_of, goes_with

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from syncer.controlplane.identities import Identity
    from syncer.kube.client import Client
    from syncer.kube.types import Obj

log = structlog.get_logger("syncer.controlplane")

_TRIES = 5
"""How often another replica may be quicker."""
_LOOKS = 20.0
"""Looks in a certificate's life."""
_SELDOM = 600.0
"""Longest pause between two looks."""
_PURPOSE = "issuing the certificates of the control plane"


class Upkeep:
    """Of the control plane of the virtual cluster `name`, whose files are below `directory`. Safe beside others and when cut off.

    `life` is how many seconds certificates last; `wall` tells epoch seconds; `owners` finds the ownerReferences that the Secrets are to
    have now, none if that is unknown.
    """

    def __init__(
        self,
        host: Client,
        *,
        directory: Path,
        name: str,
        namespace: str,
        cluster_domain: str,
        life: float,
        owners: Callable[[], Awaitable[Sequence[Obj]]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._shared = OwnSecret(host, Key(namespace, f"vc-{name}-certs"), name=name)
        self._etcd = OwnSecret(host, Key(namespace, f"vc-{name}-etcd"), name=name)
        self._owners = owners
        self._of_pod = identities_of_pod(cluster_domain)
        self._of_etcd = identities_of_etcd(f"{name}-etcd")
        self._life = life
        self._wall = wall
        self._bundle: Bundle | None = None
        self._renew_at = {"pod": 0.0, "etcd": 0.0}
        self.problem = ""
        """Why certificates cannot be renewed now; "" when they can."""

    async def refresh(self) -> None:
        """Make, renew and write what is missing or near its end. Raises SyncerError, ApiError or a network error."""
        owners = await self._owners()
        bundle = await self._agree(owners)
        await self._refresh_etcd(bundle, owners)
        await self._refresh_pod(bundle)
        self._bundle = bundle

    async def run(self) -> None:
        """The same again and again, until cancelled."""
        while True:
            await asyncio.sleep(min(_SELDOM, self._life / _LOOKS))
            try:
                await self.refresh()
            except (SyncerError, OSError, *NETWORK_ERRORS) as error:
                words = str(error) or type(error).__name__
                if words != self.problem:
                    log.warning("controlplane.not_renewed", error=words, due=self._due())
                self.problem = words
            else:
                self.problem = ""

    def _due(self) -> float:
        return min(self._renew_at.values())

    async def _agree(self, owners: Sequence[Obj]) -> Bundle:
        """What the Secret holds. One that is gone is made again, of what we have had."""
        for _ in range(_TRIES):
            if (secret := await self._shared.read()) is not None:
                bundle = self._parse(secret)
                if goes_with(secret, owners):
                    return bundle
                data = {}
            else:
                bundle = self._bundle or await self._make()
                data = bundle.data()
            try:
                await self._shared.write(data, secret, owners)
            except (AlreadyExists, Conflict, NotFound):
                continue  # another replica was first
            log.info("controlplane.authorities_kept", key=str(self._shared.key), new=secret is None and self._bundle is None)
            return bundle
        raise SyncerError(f"the Secret {self._shared.key} on the host keeps changing while it is read")

    def _parse(self, secret: Obj) -> Bundle:
        try:
            return bundle_of(content_of(secret))
        except SyncerError as error:
            raise SyncerError(
                f"the Secret {self._shared.key} on the host: {error}; restore it, or delete it while a replica runs, "
                "which makes it again of what it has"
            ) from None

    async def _make(self) -> Bundle:
        answer = await ask_authority({"authorities": AUTHORITIES, "keys": [SIGNING_KEY]}, "making the authorities of the control plane")
        pairs = {name: Pair(**pair) for name, pair in answer["authorities"].items()}
        return Bundle(pairs, answer["keys"][SIGNING_KEY])

    async def _refresh_etcd(self, bundle: Bundle, owners: Sequence[Obj]) -> None:
        for _ in range(_TRIES):
            secret = await self._etcd.read()
            had = {name: content.decode("ascii", errors="replace") for name, content in content_of(secret or {}).items()}
            static = {"ca.crt": bundle.authorities[ETCD_CA].certificate}
            issued = await self._issue("etcd", bundle, self._of_etcd, had) if self._is_due("etcd", bundle, self._of_etcd, had) else {}
            changed = {name: text for name, text in (static | issued).items() if had.get(name) != text}
            if not changed and secret is not None and goes_with(secret, owners):
                return
            try:
                await self._etcd.write({name: text.encode() for name, text in changed.items()}, secret, owners)
            except (AlreadyExists, Conflict, NotFound):
                continue
            log.info("controlplane.written", key=str(self._etcd.key), what=sorted(changed))
            return
        raise SyncerError(f"the Secret {self._etcd.key} on the host keeps changing while it is read")

    async def _refresh_pod(self, bundle: Bundle) -> None:
        names = [f"{name}.{end}" for name in self._of_pod for end in ("crt", "key")]
        had = await asyncio.to_thread(read_files, self._directory, names)
        issued = await self._issue("pod", bundle, self._of_pod, had) if self._is_due("pod", bundle, self._of_pod, had) else {}
        written = await asyncio.to_thread(write_files, self._directory, files_of_pod(bundle) | issued)
        if written:
            log.info("controlplane.written", directory=str(self._directory), what=written)

    def _is_due(self, whose: str, bundle: Bundle, wanted: Mapping[str, Identity], had: Mapping[str, str]) -> bool:
        """Whether to have a look into the certificates, which takes a process."""
        complete = all(f"{name}.{end}" in had for name in wanted for end in ("crt", "key"))
        return not complete or bundle != self._bundle or self._wall() >= self._renew_at[whose]

    async def _issue(self, whose: str, bundle: Bundle, wanted: Mapping[str, Identity], had: Mapping[str, str]) -> dict[str, str]:
        """Files of the certificates that are new, their keys first: a key that is there is kept, so that the two always fit."""
        there = {
            name: {"certificate": had.get(f"{name}.crt", ""), "key": had.get(f"{name}.key", "")} for name in wanted if f"{name}.key" in had
        }
        request = {
            "authorities": {name: {"certificate": pair.certificate, "key": pair.key} for name, pair in bundle.authorities.items()},
            "wanted": {name: identity.request() for name, identity in wanted.items()},
            "had": there,
            "life": self._life,
            "now": self._wall(),
        }
        answer = await ask_authority(request, _PURPOSE)
        self._renew_at[whose] = float("inf") if answer["renew_at"] is None else float(answer["renew_at"])
        issued: dict[str, Pair] = {name: Pair(**pair) for name, pair in answer["issued"].items()}
        keys = {f"{name}.key": pair.key for name, pair in issued.items()}
        return keys | {f"{name}.crt": pair.certificate for name, pair in issued.items()}

"""Certificates of the admission webhook: an authority of our own, and a serving certificate for this machine's loopback.

They are issued by a process of its own, `python -m syncer.proxy.authority`, because the library for it would cost the
daemon 9 MB for good. Keys go through pipes: nothing is written to a disk or an argument list.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.errors import SyncerError
from syncer.kube import codec

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 60.0
"""Seconds that issuing may take; it is a tenth of one unless the machine is overloaded."""

_RENEW_BEFORE = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts of an authority and of the serving certificate it issued; `expires_at` is the latter's end in epoch seconds."""

    ca: bytes
    ca_key: bytes = field(repr=False)
    certificate: bytes
    key: bytes = field(repr=False)
    expires_at: float

    @property
    def renew_at(self) -> float:
        """When to have the next one issued, in epoch seconds: a month before this one expires."""
        return self.expires_at - _RENEW_BEFORE


async def issue_certificates(previous: Certificates | None = None, *, patience: float = PATIENCE) -> Certificates:
    """A fresh serving certificate, of the authority of `previous` if that lasts long enough, else of a new one.

    Raises SyncerError when the helper process fails.
    """
    request = {} if previous is None else {"ca": previous.ca.decode(), "ca_key": previous.ca_key.decode()}
    answer: Mapping[str, str] = codec.loads(await _run(codec.dumps(request), patience))
    pems = {name: answer[name].encode() for name in ("ca", "ca_key", "certificate", "key")}
    return Certificates(**pems, expires_at=float(answer["expires"]))


async def _run(request: bytes, patience: float) -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "syncer.proxy.authority", stdin=pipe, stdout=pipe, stderr=pipe)
    what = "issuing the certificate of the admission webhook"
    try:
        async with asyncio.timeout(patience):
            output, errors = await process.communicate(request)
    except TimeoutError:
        raise SyncerError(f"{what} took longer than {patience:g} s; is the machine overloaded?") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise SyncerError(f"{what} failed: {lines[-1] if lines else f'exit code {process.returncode}'}")
    return output

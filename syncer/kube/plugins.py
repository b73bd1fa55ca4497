"""Runs the program that asks a kubeconfig's exec plugin or auth provider for credentials.

It is a process of its own because the library that knows these plugins costs 39 MB of memory once imported.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.errors import ConfigError
from syncer.kube import codec

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60.0
"""Seconds that a plugin may take; it may have to ask an identity provider far away."""

RENEW_AT = 0.8
"""The part of a credential's life after which a new one is asked for."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plugin handed out; `renew` and `expires` are loop times, infinite when the plugin told none."""

    token: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    renew: float = float("inf")
    expires: float = float("inf")


async def run_plugin(kubeconfig: Path, context: str, *, patience: float = PATIENCE) -> Credential:
    """New credentials for the user of `context`; ConfigError when there are none to be had."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "syncer.kube.exec_credentials",
        str(kubeconfig),
        context,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    place = f"{kubeconfig}: user of context {context}"
    try:
        async with asyncio.timeout(patience):
            output, errors = await process.communicate()
    except TimeoutError:
        raise ConfigError(
            f"{place}: the credential plugin gave no answer within {patience:g} s; run `kubectl version` to see why"
        ) from None
    finally:
        # The plugin is a child of that process: both are of one session, so both go.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise ConfigError(f"{place}: {lines[-1] if lines else f'the credential plugin ended with code {process.returncode}'}")
    return _credential(output)


def _credential(output: bytes) -> Credential:
    answer = codec.loads(output)
    now, expires, renew = asyncio.get_running_loop().time(), float("inf"), float("inf")
    if (moment := answer.get("expiry")) is not None:
        life = max(0.0, moment - time.time())
        expires, renew = now + life, now + life * RENEW_AT
    return Credential(
        token=answer.get("token") or "",
        certificate=(answer.get("cert") or "").encode(),
        key=(answer.get("key") or "").encode(),
        renew=renew,
        expires=expires,
    )

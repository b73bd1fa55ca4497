"""Asks a kubeconfig's exec plugin or auth provider for credentials: `python -m syncer.kube.exec_credentials KUBECONFIG CONTEXT`.

Prints one JSON object, `{token, cert, key, expiry}` (PEM texts, seconds since the epoch; what there is not is null), or
one line on standard error and exit code 1. Runs as a process of its own (see `plugins`), since the library it needs is
large; nothing else imports it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import json
import os
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import kube_config
from kubernetes_asyncio.config.config_exception import ConfigException
from kubernetes_asyncio.config.dateutil import parse_rfc3339
from kubernetes_asyncio.config.exec_provider import ExecProvider
from kubernetes_asyncio.config.kube_config import ConfigNode, KubeConfigLoader
from kubernetes_asyncio.config.openid import OpenIDRequestor

LEAST_LIFE = 60.0
"""Seconds; a token with less than this is as good as expired."""


class VerifyingRequestor(OpenIDRequestor):
    """The library's own does not check the identity provider's certificate, and hands it refresh token and client secret."""

    def _get_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self._ssl_ca_cert))


class Unusable(Exception):
    """There are no credentials; the message says why and what to do."""


async def ask(kubeconfig: Path, context: str) -> dict[str, Any]:
    """What the user of `context` is given right now."""
    document = yaml.safe_load(kubeconfig.read_bytes())  # noqa: ASYNC240 (this loop runs nothing else)
    user = _user(document, context)
    if "exec" in user:
        return await _ask_exec(user["exec"], kubeconfig.parent)
    return await _ask_auth_provider(document, kubeconfig, context, user["auth-provider"])


def _user(document: dict[str, Any], context: str) -> dict[str, Any]:
    name = next(entry["context"]["user"] for entry in document["contexts"] if entry["name"] == context)
    user: dict[str, Any] = next(entry["user"] for entry in document["users"] if entry["name"] == name)
    return user


async def _ask_exec(section: Any, directory: Path) -> dict[str, Any]:
    if not isinstance(section, dict) or not section.get("command"):
        raise Unusable("exec.command: is missing; name the program that hands out credentials")
    if section.get("interactiveMode") == "Always":
        raise Unusable("exec.interactiveMode: Always cannot work without a terminal; use a plugin that asks nobody")
    command = str(section["command"])
    if os.sep in command:
        # As in client-go: relative to the kubeconfig; a bare name is looked up in PATH.
        section = section | {"command": str(directory / command)}
    try:
        status = await ExecProvider(ConfigNode("exec", section)).run()
    except FileNotFoundError:
        hint = section.get("installHint") or "install it, or correct the path"
        raise Unusable(f"exec.command: there is no program {command}; {hint}") from None
    except OSError as error:
        raise Unusable(f"exec.command: {command} cannot be run ({error.strerror}); make it executable") from None
    except ConfigException as error:
        # Most plugins ask for it and do without it, so it is worth mentioning only when one failed.
        without = (
            ", or pass the cluster in exec.args: exec.provideClusterInfo is not supported" if section.get("provideClusterInfo") else ""
        )
        raise Unusable(f"exec.command: {command}: {error}; run it by hand to see why{without}") from None
    token, cert, key = status.get("token"), status.get("clientCertificateData"), status.get("clientKeyData")
    if not token and not (cert and key):
        raise Unusable(f"exec.command: {command} printed neither a token nor a certificate with its key; run it by hand to see why")
    expiry = _timestamp(status.get("expirationTimestamp"))
    return {"token": token, "cert": cert, "key": key, "expiry": expiry if expiry is not None or not cert else _end_of(cert)}


async def _ask_auth_provider(document: Any, kubeconfig: Path, context: str, section: Any) -> dict[str, Any]:
    name = section.get("name") if isinstance(section, dict) else None
    if name not in ("oidc", "gcp"):
        raise Unusable(f"auth-provider.name: {name} is not supported; use oidc or gcp, or better an exec plugin")

    def persist(changed: Any) -> None:
        """An identity provider may take back the old refresh token when it hands out a new one."""
        if os.access(kubeconfig, os.W_OK):
            kubeconfig.write_text(yaml.safe_dump(changed))

    config = section.get("config") or {}
    known = str(config.get("id-token") or "")
    if name == "oidc" and known:
        if (end := _end_of_token(known)) is None or end > time.time() + LEAST_LIFE:
            return {"token": known, "cert": None, "key": None, "expiry": end}
        del config["id-token"]  # makes the library ask for a new one; it cannot tell the age of every token itself
    if config.get("idp-certificate-authority") and not config.get("idp-certificate-authority-data"):
        raise Unusable("auth-provider.config.idp-certificate-authority: is not supported; use idp-certificate-authority-data")
    kube_config.OpenIDRequestor = VerifyingRequestor  # type: ignore[attr-defined]  # imported there, not meant to be replaced
    loader = KubeConfigLoader(document, active_context=context, config_base_path=str(kubeconfig.parent), config_persister=persist)
    try:
        await loader.load_and_set(Configuration())
    except (ConfigException, aiohttp.ClientError) as error:
        raise Unusable(f"auth-provider: {error}; log in again with kubectl") from None
    token = getattr(loader, "token", "").removeprefix("Bearer ")
    if not token:
        raise Unusable("auth-provider: gave no token; log in again with kubectl")
    return {"token": token, "cert": None, "key": None, "expiry": _end_of_token(token) or _timestamp(config.get("expiry"))}


def _timestamp(moment: Any) -> float | None:
    if not moment:
        return None
    if isinstance(moment, str):
        moment = parse_rfc3339(moment)
    return float(moment.timestamp()) if isinstance(moment, dt.datetime) else None


def _end_of(certificate: str) -> float:
    from cryptography import x509  # only plugins that hand out certificates without a date need it

    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc.timestamp()


def _end_of_token(token: str) -> float | None:
    """The `exp` of a JWT; None for any other token."""
    try:
        payload = token.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).get("exp")
    except (IndexError, ValueError, binascii.Error, AttributeError):
        return None
    return float(end) if isinstance(end, (int, float)) else None


def main() -> int:
    """Exit code: 0 with credentials on standard output, 1 with a reason on standard error."""
    kubeconfig, context = sys.argv[1:]
    try:
        answer = asyncio.run(ask(Path(kubeconfig), context))
    except Exception as error:  # noqa: BLE001 (whatever the library raises, its reader gets one line)
        text = str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
        print(" ".join(text.split()), file=sys.stderr)  # noqa: T201 (this is how it answers)
        return 1
    print(json.dumps(answer))  # noqa: T201 (this is how it answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())

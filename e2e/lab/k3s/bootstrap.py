"""What servers on one datastore have to share: authorities and the key of service accounts, kept there, sealed with the token.

k3s does the same, in its own format: https://docs.k3s.io/architecture, https://docs.k3s.io/cli/token.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY = b"/bootstrap"


class BootstrapError(Exception):
    """Says why the shared files cannot be had."""


def seal(files: Mapping[str, bytes], token: str) -> bytes:
    """The files, by name, as only those can read them who know the token."""
    salt, nonce = os.urandom(16), os.urandom(12)
    plain = json.dumps({name: content.decode() for name, content in files.items()}).encode()
    sealed = AESGCM(_key(token, salt)).encrypt(nonce, plain, KEY)
    return json.dumps({"salt": salt.hex(), "nonce": nonce.hex(), "sealed": base64.b64encode(sealed).decode()}).encode()


def unseal(data: bytes, token: str) -> dict[str, bytes]:
    """What was sealed. BootstrapError if it was with another token."""
    try:
        found = json.loads(data)
        salt, nonce, sealed = bytes.fromhex(found["salt"]), bytes.fromhex(found["nonce"]), base64.b64decode(found["sealed"])
        files = json.loads(AESGCM(_key(token, salt)).decrypt(nonce, sealed, KEY))
    except InvalidTag:
        raise BootstrapError("bootstrap data already found and encrypted with different token") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BootstrapError(f"the datastore holds something else than bootstrap data: {error}") from None
    return {name: content.encode() for name, content in files.items()}


def _key(token: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(token.encode())


@dataclass(frozen=True)
class Etcd:
    """An etcd, by its JSON gateway; the first of the endpoints that answers is asked."""

    endpoints: Sequence[str]
    context: ssl.SSLContext | None = None

    @classmethod
    def at(cls, endpoints: str, ca: str = "", cert: str = "", key: str = "") -> Etcd:
        """One at addresses with commas between, with files of certificates."""
        context = None
        if "https://" in endpoints:
            context = ssl.create_default_context(cafile=ca or None)
            if cert:
                context.load_cert_chain(cert, key or None)
        return cls([one.strip().rstrip("/") for one in endpoints.split(",")], context)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key. OSError if nobody answers."""
        found = self._ask("range", {"key": _text(key)}).get("kvs")
        return base64.b64decode(found[0]["value"]) if found else None

    def create(self, key: bytes, value: bytes) -> bool:
        """Whether the key was not there, and now has this value. OSError if nobody answers."""
        body = {
            "compare": [{"key": _text(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            "success": [{"request_put": {"key": _text(key), "value": _text(value)}}],
        }
        return bool(self._ask("txn", body).get("succeeded"))

    def _ask(self, what: str, body: object) -> dict[str, Any]:
        failures = []
        for endpoint in self.endpoints:
            request = urllib.request.Request(f"{endpoint}/v3/kv/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=5, context=self.context) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as error:
                failures.append(f"{endpoint}: {error.code} {error.read(500).decode(errors='replace')}")
            except (OSError, ValueError) as error:
                failures.append(f"{endpoint}: {error}")
        raise OSError("; ".join(failures))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

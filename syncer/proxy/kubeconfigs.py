"""Secrets of the host with the kubeconfig of the virtual cluster's administrator, which lead to the front door.

They are what vcluster writes, where its command line and others look for it. Whoever may read them is the virtual
cluster's administrator.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any

import structlog
import yaml

from syncer.errors import NETWORK_ERRORS, AlreadyExists, ConfigError, Conflict, FenceClosed, Forbidden, NotFound, SyncerError
from syncer.kube.kubeconfig import is_overtaken, read_kubeconfig
from syncer.kube.types import SECRETS, Key, Obj, labels_of
from syncer.naming import LABEL_CLUSTER, LABEL_HOME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from syncer.kube.client import Client
    from syncer.kube.kubeconfig import Access

log = structlog.get_logger("syncer.proxy")

CONFIG, AUTHORITY, CERTIFICATE, KEY = "config", "certificate-authority", "client-certificate", "client-key"
_LOOK_AGAIN = 5.0
_LOOKS = 12
"""After so many looks at the kubeconfig that find nothing new, the Secrets are compared all the same."""

Data = dict[str, bytes]


def secret_key(namespace: str, name: str) -> Key:
    """Where the kubeconfig of the virtual cluster `name` is always kept."""
    return Key(namespace, f"vc-{name}")


def secret_data(access: Access, *, server: str, context: str) -> Data:
    """What the Secrets hold for `access` to a virtual cluster: its credentials, but another `server`.

    `context` names context, cluster and user; they keep their names when it is "". Raises ConfigError for credentials that have to
    be asked of a program.
    """
    if access.plugin:
        raise ConfigError("its user has a credential plugin, which others may not have; give one with a client certificate or a token")
    cluster: Obj = {"server": server}
    if access.certificate_authority.value:
        cluster["certificate-authority-data"] = _base64(access.certificate_authority.value)
    elif access.insecure:
        cluster["insecure-skip-tls-verify"] = True
    user: Obj = {}
    if access.certificate.value:
        user |= {"client-certificate-data": _base64(access.certificate.value), "client-key-data": _base64(access.key.value)}
    if access.token:
        user["token"] = access.token
    cluster_name, user_name = context or access.cluster, context or access.user or access.context
    chosen: Obj = {"cluster": cluster_name, "user": user_name}
    if access.namespace != "default":
        chosen["namespace"] = access.namespace
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster_name, "cluster": cluster}],
        "contexts": [{"name": context or access.context, "context": chosen}],
        "current-context": context or access.context,
        "users": [{"name": user_name, "user": user}],
    }
    return {
        CONFIG: yaml.safe_dump(config, sort_keys=False, width=float("inf")).encode(),
        AUTHORITY: access.certificate_authority.value,
        CERTIFICATE: access.certificate.value,
        KEY: access.key.value,
    }


def may_take_over(secret: Obj, data: Data, labels: Mapping[str, str]) -> bool:
    """Whether a Secret that is there already is ours to write: by its labels, or as one that vcluster, which sets none, wrote for us.

    That one tells the same authority; so another virtual cluster's is never overwritten.
    """
    had = labels_of(secret)
    if any(label in had for label in labels):
        return labels.items() <= had.items()
    found = secret.get("data") or {}
    try:
        return CONFIG in found and bool(data[AUTHORITY]) and b64decode(found.get(AUTHORITY) or "") == data[AUTHORITY]
    except (Base64Error, TypeError):
        return False


def changes(secret: Obj, data: Data, labels: Mapping[str, str], owner: Obj | None) -> Obj:
    """The merge patch that makes `secret` hold that, with these labels, and with that ownerReference beside its others; {} for none."""
    patch: Obj = {}
    metadata = secret.get("metadata") or {}
    found = secret.get("data") or {}
    if wrong := {name: text for name, text in _encoded(data).items() if (found.get(name) or "") != text}:
        patch["data"] = wrong
    wanted: Obj = {}
    if not labels.items() <= labels_of(secret).items():
        wanted["labels"] = dict(labels)
    owners = metadata.get("ownerReferences") or []
    if owner is not None and owner not in owners:
        same = (owner["kind"], owner["name"])
        wanted["ownerReferences"] = [*(other for other in owners if (other.get("kind"), other.get("name")) != same), owner]
    if wanted or patch:
        patch["metadata"] = {**wanted, "uid": metadata.get("uid"), "resourceVersion": metadata.get("resourceVersion")}
    return patch


class KubeconfigSecrets:
    """Writes the Secrets and keeps them as they are to be, while `run` runs; only in the replica that leads.

    `kubeconfig` is the file that the virtual control plane wrote; `extra` is another Secret, besides the one that is always written
    in `namespace`; `server` and `context` are as for `secret_data`. `owner` is the ownerReference of Secrets in `namespace`.
    `require` raises FenceClosed when nothing may be written.
    """

    def __init__(
        self,
        host: Client,
        *,
        kubeconfig: Path,
        name: str,
        namespace: str,
        server: str,
        context: str = "",
        extra: Key | None = None,
        owner: Obj | None,
        require: Callable[[], None],
        every: float = _LOOK_AGAIN,
    ) -> None:
        self._host = host
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._server = server
        self._context = context
        self._owner = owner
        self._require = require
        self._every = every
        self._keys = tuple(dict.fromkeys((secret_key(namespace, name), *([extra] if extra is not None else ()))))
        self._labels = {LABEL_CLUSTER: name, LABEL_HOME: namespace}
        self._told: dict[object, str] = {}
        self._source: tuple[Access, Data] | None = None

    async def run(self) -> None:
        """Until cancelled: writes what is missing or different, at once when the kubeconfig has changed, else every minute."""
        written: Data | None = None
        while True:
            for _ in range(_LOOKS):
                if (data := await self._read()) is not None and data != written:
                    done = [await self._keep(key, data) for key in self._keys]
                    written = data if all(done) else None
                await asyncio.sleep(self._every)
            written = None

    async def _read(self) -> Data | None:
        try:
            if self._source is None or await asyncio.to_thread(is_overtaken, self._source[0]):
                access = await asyncio.to_thread(read_kubeconfig, self._kubeconfig)
                self._source = access, secret_data(access, server=self._server, context=self._context)
        except ConfigError as error:
            self._tell("source", f"--kube-config: {error}")
            return None
        self._told.pop("source", None)
        return self._source[1]

    async def _keep(self, key: Key, data: Data) -> bool:
        """Whether the Secret is now as it is to be."""
        try:
            self._require()
            await self._write(key, data)
        except (FenceClosed, AlreadyExists, Conflict) as error:
            log.debug("kubeconfig.not_now", key=str(key), error=str(error))
        except Forbidden as error:
            self._tell(key, f"{error.message}; grant get, create and patch of Secrets in the namespace {key.namespace}")
        except (SyncerError, *NETWORK_ERRORS) as error:
            self._tell(key, str(error) or type(error).__name__)
        else:
            self._told.pop(key, None)
            return True
        return False

    async def _write(self, key: Key, data: Data) -> None:
        owner = self._owner if key.namespace == self._namespace else None
        try:
            secret = await self._host.get(SECRETS, key)
        except NotFound:
            await self._create(key, data, owner)
            return
        if not may_take_over(secret, data, self._labels):
            raise SyncerError(f"the Secret {key} is not of this virtual cluster, so it is left alone; rename or delete it")
        if patch := changes(secret, data, self._labels, owner):
            await self._host.patch(SECRETS, key, patch)
            log.info("kubeconfig.written", key=str(key), new=False)

    async def _create(self, key: Key, data: Data, owner: Obj | None) -> None:
        metadata: Obj = {"name": key.name, "namespace": key.namespace, "labels": self._labels}
        if owner is not None:
            metadata["ownerReferences"] = [owner]
        await self._host.create(
            SECRETS,
            key.namespace,
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": _encoded(data)},
        )
        log.info("kubeconfig.written", key=str(key), new=True)

    def _tell(self, about: object, words: str) -> None:
        if self._told.get(about) != words:
            log.warning("kubeconfig.not_written", **({"key": str(about)} if isinstance(about, Key) else {}), error=words)
        self._told[about] = words


def _encoded(data: Data) -> dict[str, Any]:
    return {name: _base64(value) for name, value in data.items()}


def _base64(value: bytes) -> str:
    return b64encode(value).decode()

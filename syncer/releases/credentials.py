"""Who one is to a virtual cluster: its administrator by the Secret on the host, or a service account with a token of its own.

Of a kubeconfig in a Secret only what stands in it is taken: no program that it wants to be run, and no file of this machine that it names.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.errors import AlreadyExists, ConfigError, NotFound
from syncer.kube.client import Client
from syncer.kube.config import open_cluster
from syncer.kube.kubeconfig import Access, Item
from syncer.kube.types import SERVICE_ACCOUNTS, Key, Resource, Side, key_of
from syncer.releases import kubeconfigs

if TYPE_CHECKING:
    from typing import Any

    from syncer.kube.types import Obj

CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
CONFIG = "config"
"""Key of the kubeconfig in the Secret."""
SHORTEST_TOKEN = 600
"""Seconds; Kubernetes grants no less."""

_CERTIFICATE, _KEY, _TOKEN, _AUTHORITY = "client-certificate-data", "client-key-data", "token", "certificate-authority-data"


@dataclass(frozen=True)
class Credentials:
    """Parts of a kubeconfig: of `user` those that say who one is, and of `cluster` those by which the API server is known."""

    cluster: Obj
    user: Obj = field(repr=False)
    namespace: str = ""

    def client(self, endpoint: Endpoint) -> Access:
        """What a client of that API server needs."""
        user = {name: Item(f"Secret: {name}", _decoded(self.user, name)) for name in (_CERTIFICATE, _KEY)}
        return Access(
            context="",
            server=endpoint.server,
            namespace="default",
            certificate_authority=Item(f"Secret: {_AUTHORITY}", _decoded(self.cluster, _AUTHORITY)),
            certificate=user[_CERTIFICATE],
            key=user[_KEY],
            token=self.user.get(_TOKEN, ""),
            insecure=bool(self.cluster.get("insecure-skip-tls-verify")),
            server_name=endpoint.server_name or None,
            proxy=None,
            plugin=False,
            files=(),
        )


@dataclass(frozen=True)
class Endpoint:
    """The URL of an API server, and the name in its certificate if that is another."""

    server: str
    server_name: str = ""

    def cluster(self, credentials: Credentials) -> Obj:
        """Of a kubeconfig."""
        named = {"tls-server-name": self.server_name} if self.server_name else {}
        return {**credentials.cluster, "server": self.server, **named}


async def open_virtual(credentials: Credentials, endpoint: Endpoint, *, request_timeout: float = 30.0) -> Client:
    """A client, to be entered. Raises ConfigError."""
    access = credentials.client(endpoint)
    return Client(await open_cluster(lambda: access), Side.VIRTUAL, request_timeout=request_timeout)


def credentials_in(secret: Obj) -> Credentials:
    """Those of the administrator. Raises ConfigError."""
    place = f"Secret {key_of(secret)}"
    try:
        text = b64decode((secret.get("data") or {}).get(CONFIG) or "", validate=True).decode()
    except (Base64Error, UnicodeError):
        raise ConfigError(f"{place}: {CONFIG}: is not a kubeconfig; delete the Secret, and the syncer writes it anew") from None
    document = kubeconfigs.load(text, place)
    chosen = _entry(document, "contexts", "context", document.get("current-context"), place)
    cluster = _entry(document, "clusters", "cluster", chosen.get("cluster"), place)
    user = _entry(document, "users", "user", chosen.get("user"), place)
    found = Credentials(
        {name: cluster[name] for name in (_AUTHORITY, "insecure-skip-tls-verify") if cluster.get(name)},
        {name: user[name] for name in (_CERTIFICATE, _KEY, _TOKEN) if isinstance(user.get(name), str)},
        namespace if isinstance(namespace := chosen.get("namespace"), str) else "",
    )
    if not found.user:
        raise ConfigError(
            f"{place}: has neither a client certificate nor a token in it; what would run a program or read a file is not taken"
        )
    return found


def with_token(credentials: Credentials, token: str) -> Credentials:
    """The same cluster, for the holder of a token."""
    return Credentials(credentials.cluster, {_TOKEN: token}, credentials.namespace)


def service_account(text: str) -> Key:
    """What --service-account says: NAMESPACE/NAME, or a NAME in kube-system as the Go original has it. Raises ValueError."""
    namespace, slash, name = text.rpartition("/")
    if not name or "/" in namespace or (slash and not namespace):
        raise ValueError(f"{text!r} is not a service account; write NAMESPACE/NAME")
    return Key(namespace or "kube-system", name)


async def make_token(virtual: Client, account: Key, seconds: int) -> tuple[str, str]:
    """A token of a service account, which is made if there is none, and when it expires. Raises ConfigError."""
    metadata = {"name": account.name, "namespace": account.namespace}
    try:
        await virtual.create(SERVICE_ACCOUNTS, account.namespace, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    except AlreadyExists:
        pass
    except NotFound:
        missing = account.namespace
        raise ConfigError(f"the virtual cluster has no namespace {missing!r}; make it with kubectl create namespace {missing}") from None
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
    answer = await virtual.create(SERVICE_ACCOUNTS, account.namespace, request, name=account.name, subresource="token")
    return answer["status"]["token"], answer["status"]["expirationTimestamp"]


async def bind(virtual: Client, account: Key, cluster_role: str) -> None:
    """Let the service account have that ClusterRole, and none that it was given here before. Raises ConfigError if there is no such."""
    try:
        await virtual.get(CLUSTER_ROLES, Key("", cluster_role), metadata_only=True)
    except NotFound:
        raise ConfigError(
            f"the virtual cluster has no ClusterRole {cluster_role!r}; kubectl get clusterroles shows those that it has"
        ) from None
    wanted = binding(account, cluster_role)
    key = Key("", wanted["metadata"]["name"])
    try:
        await virtual.create(CLUSTER_ROLE_BINDINGS, "", wanted)
    except AlreadyExists:
        found = await virtual.get(CLUSTER_ROLE_BINDINGS, key)
        if all(found.get(part) == wanted[part] for part in ("roleRef", "subjects")):
            return
        # The role of a binding cannot be changed.
        await virtual.delete(CLUSTER_ROLE_BINDINGS, key, uid=found["metadata"]["uid"])
        await virtual.create(CLUSTER_ROLE_BINDINGS, "", wanted)


def binding(account: Key, cluster_role: str) -> Obj:
    """One for each service account. No other can have its name, as neither part of that can have a colon."""
    group = CLUSTER_ROLE_BINDINGS.group
    return {
        "apiVersion": CLUSTER_ROLE_BINDINGS.api_version,
        "kind": CLUSTER_ROLE_BINDINGS.kind,
        "metadata": {"name": f"syncer:connect:{account.namespace}:{account.name}"},
        "roleRef": {"apiGroup": group, "kind": CLUSTER_ROLES.kind, "name": cluster_role},
        "subjects": [{"kind": SERVICE_ACCOUNTS.kind, "namespace": account.namespace, "name": account.name}],
    }


def _entry(document: Obj, key: str, kind: str, name: Any, place: str) -> Obj:
    for one in document.get(key) or []:
        if isinstance(one, dict) and one.get("name") == name and isinstance(one.get(kind), dict):
            found: Obj = one[kind]
            return found
    raise ConfigError(f"{place}: {CONFIG}: has no {kind} {name!r}; delete the Secret, and the syncer writes it anew")


def _decoded(section: Obj, name: str) -> bytes:
    try:
        return b64decode(str(section.get(name) or ""), validate=True)
    except Base64Error:
        raise ConfigError(f"the Secret's kubeconfig: {name}: is not base64; delete the Secret, and the syncer writes it anew") from None

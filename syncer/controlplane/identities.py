"""Who is who in a control plane of Kubernetes' own parts: authorities, certificates and kubeconfigs, and the files that they are in.

Paths are those of k3s below its data directory, where it has the file too, so that the syncer's defaults find it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import yaml

from syncer.errors import SyncerError

if TYPE_CHECKING:
    from collections.abc import Mapping

Usage = Literal["client", "server"]

SERVER_CA, CLIENT_CA, REQUEST_HEADER_CA, ETCD_CA = "server-ca", "client-ca", "request-header-ca", "etcd-ca"
AUTHORITIES = (SERVER_CA, CLIENT_CA, REQUEST_HEADER_CA, ETCD_CA)
SIGNING_KEY = "service"
"""What service account tokens are signed with."""
API_SERVER = "https://127.0.0.1:6443"
"""Where the parts in the pod find it."""
_TLS = "server/tls"
_ADMIN = "k3s-config"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM texts."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """What all replicas of a control plane have to share: `authorities` by name, and the key that tokens are signed with."""

    authorities: Mapping[str, Pair]
    signing_key: str

    def data(self) -> dict[str, bytes]:
        """As in a Secret."""
        found = {f"{SIGNING_KEY}.key": self.signing_key}
        for name, pair in self.authorities.items():
            found |= {f"{name}.crt": pair.certificate, f"{name}.key": pair.key}
        return {name: text.encode() for name, text in found.items()}


def bundle_of(data: Mapping[str, bytes]) -> Bundle:
    """The reverse of `Bundle.data`. Raises SyncerError that names what is missing."""
    texts = {name: content.decode("ascii", errors="replace") for name, content in data.items()}
    needed = [f"{SIGNING_KEY}.key", *(f"{name}.{end}" for name in AUTHORITIES for end in ("crt", "key"))]
    if missing := [name for name in needed if "-----BEGIN " not in texts.get(name, "")]:
        raise SyncerError(f"{', '.join(missing)}: missing, or no PEM text")
    pairs = {name: Pair(texts[f"{name}.crt"], texts[f"{name}.key"]) for name in AUTHORITIES}
    return Bundle(pairs, texts[f"{SIGNING_KEY}.key"])


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate that is wanted. `names` are the host names and IP addresses that it serves."""

    authority: str
    common_name: str
    organizations: tuple[str, ...] = ()
    usages: tuple[Usage, ...] = ("client",)
    names: tuple[str, ...] = ()

    def request(self) -> dict[str, Any]:
        """As the helper process wants it."""
        return asdict(self)


def identities_of_pod(cluster_domain: str) -> dict[str, Identity]:
    """Certificates in the API server's pod, by path without its ending (`.crt`, and `.key` for the key)."""
    service = "kubernetes.default.svc"
    names = (*_LOOPBACK, "kubernetes", "kubernetes.default", service, f"{service}.{cluster_domain}")
    return {
        f"{_TLS}/serving-kube-apiserver": Identity(SERVER_CA, "kube-apiserver", usages=("server",), names=names),
        f"{_TLS}/client-kube-apiserver": Identity(CLIENT_CA, "system:apiserver", ("system:masters",)),
        f"{_TLS}/client-controller": Identity(CLIENT_CA, "system:kube-controller-manager"),
        f"{_TLS}/client-auth-proxy": Identity(REQUEST_HEADER_CA, "system:auth-proxy"),
        f"{_TLS}/etcd/client": Identity(ETCD_CA, "kube-apiserver"),
        f"{_ADMIN}/client-admin": Identity(CLIENT_CA, "system:admin", ("system:masters",)),
    }


def files_of_pod(bundle: Bundle) -> dict[str, str]:
    """The other files there, by path."""
    server_ca = bundle.authorities[SERVER_CA].certificate
    found = {f"{_TLS}/{SIGNING_KEY}.key": bundle.signing_key}
    for name in (SERVER_CA, CLIENT_CA):  # with keys: the syncer and the controller manager sign by them
        pair = bundle.authorities[name]
        found |= {f"{_TLS}/{name}.crt": pair.certificate, f"{_TLS}/{name}.key": pair.key}
    return found | {
        f"{_TLS}/{REQUEST_HEADER_CA}.crt": bundle.authorities[REQUEST_HEADER_CA].certificate,
        f"{_TLS}/etcd/server-ca.crt": bundle.authorities[ETCD_CA].certificate,
        "server/cred/controller.kubeconfig": kubeconfig("../tls/server-ca.crt", "../tls/client-controller"),
        # All that CoreDNS may see is in this directory.
        f"{_ADMIN}/server-ca.crt": server_ca,
        f"{_ADMIN}/kube-config.yaml": kubeconfig("server-ca.crt", "client-admin"),
    }


def identities_of_etcd(name: str) -> dict[str, Identity]:
    """Certificates of all members of etcd, whose Service is `name`, and that by which they find one another `name`-headless."""
    names = (*_LOOPBACK, name, f"*.{name}-headless")
    return {
        "server": Identity(ETCD_CA, "etcd", usages=("server", "client"), names=names),
        # Without names: those of a client's certificate are looked up by etcd and have to lead to where it connects from.
        "client": Identity(ETCD_CA, "etcd"),
    }


def kubeconfig(authority: str, client: str) -> str:
    """For the API server in the same pod, by files, so that whoever uses it sees them renewed. Paths are relative to the kubeconfig."""
    name = "default"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": API_SERVER, "certificate-authority": authority}}],
        "users": [{"name": name, "user": {"client-certificate": f"{client}.crt", "client-key": f"{client}.key"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return yaml.safe_dump(config, sort_keys=False)

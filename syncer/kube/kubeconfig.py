"""What a kubeconfig, or the files that a pod finds its API server with, say right now.

Reading is synchronous and complete: every file that a field names is read too, so that the result is all there is to
know, and reading again is all there is to noticing a rotation. What cannot be used is a ConfigError of one line that
names the file, the field and the remedy. Values of credentials never appear in messages or in `repr`.

Rules are those of client-go's `clientcmd`: `…-data` goes before the file, a token file before a token, relative paths
are relative to the kubeconfig. Basic authentication (gone since Kubernetes 1.19) and impersonation are refused.
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import yaml

from syncer.errors import ConfigError
from syncer.kube.proxies import proxy_from_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Fingerprint: TypeAlias = tuple[str, int, int, int]
"""Path, inode, size and modification time (ns) of a file at the moment it was read."""


@dataclass(frozen=True, slots=True)
class Item:
    """The content of a field, and where it came from, for error messages. `value` is b"" when the field is absent."""

    place: str = ""
    value: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """Where an API server is and who we are to it. `context`, `cluster` and `user` are what a kubeconfig calls them.

    `certificate_authority` is empty for the system's; `proxy` and `server_name` are None when not set; `plugin` says that
    token and client certificate have to be asked of the user's `exec` or `auth-provider` section.
    """

    context: str
    server: str
    namespace: str
    certificate_authority: Item
    certificate: Item
    key: Item
    token: str = field(repr=False)
    insecure: bool
    server_name: str | None
    proxy: str | None
    plugin: bool
    files: tuple[Fingerprint, ...]
    cluster: str = ""
    user: str = ""


def is_overtaken(access: Access) -> bool:
    """Whether one of the files that it was read from is another now, or gone."""
    for path, *known in access.files:
        try:
            status = Path(path).stat()
        except OSError:
            return True
        if known != [status.st_ino, status.st_size, status.st_mtime_ns]:
            return True
    return False


def read_kubeconfig(path: Path, context: str = "") -> Access:
    """What `path` says about `context`, or about its current-context when that is ""."""
    files: list[Fingerprint] = []
    root = _Section(path, "", _parse(path, _read(path, "", "give the path of a kubeconfig that this user may read", files)), files)
    context = context or root.text("current-context")
    if not context:
        raise ConfigError(f"{path}: current-context: is not set; set it or name a context")
    chosen = root.named("contexts", "context", context)
    cluster_name = chosen.required("cluster")
    cluster = root.named("clusters", "cluster", cluster_name)
    user = root.named("users", "user", name) if (name := chosen.text("user")) else _Section(path, "users", {}, files)

    server = _server(cluster)
    authority, insecure = cluster.content("certificate-authority"), cluster.flag("insecure-skip-tls-verify")
    if insecure and authority.value:
        raise ConfigError(
            f"{cluster.place('insecure-skip-tls-verify')}: contradicts {authority.place.removeprefix(f'{path}: ')}; remove one of them"
        )
    for unsupported in ("username", "password"):
        if user.value.get(unsupported):
            raise ConfigError(
                f"{user.place(unsupported)}: basic authentication is not supported by Kubernetes; use a token or a client certificate"
            )
    for unsupported in ("as", "as-uid", "as-groups", "as-user-extra"):
        if user.value.get(unsupported):
            raise ConfigError(f"{user.place(unsupported)}: impersonation is not supported; use credentials of that user")
    certificate, key = user.content("client-certificate"), user.content("client-key")
    if bool(certificate.value) != bool(key.value):
        have, lack = ("client-certificate", "client-key") if certificate.value else ("client-key", "client-certificate")
        raise ConfigError(f"{user.place(lack)}: is missing although {have} is set; add {lack} or {lack}-data")
    return Access(
        context=context,
        server=server,
        namespace=chosen.text("namespace") or "default",
        certificate_authority=authority,
        certificate=certificate,
        key=key,
        token=_token(user),
        insecure=insecure,
        server_name=cluster.text("tls-server-name") or None,
        proxy=_proxy(cluster, server),
        plugin=bool(user.value.get("exec") or user.value.get("auth-provider")),
        files=tuple(files),
        cluster=cluster_name,
        user=chosen.text("user"),
    )


def read_service_account(directory: Path, environ: Mapping[str, str]) -> Access:
    """What kubelet put into this container: the token, CA and namespace of its service account, the API server's address."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise ConfigError("KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT: not set, so this is not a pod; give a kubeconfig")
    files: list[Fingerprint] = []
    remedy = "set automountServiceAccountToken: true on the pod, or give a kubeconfig"
    token = _clean_token(f"{directory / 'token'}: token", _read(directory / "token", "token", remedy, files), remedy)
    authority = _read(directory / "ca.crt", "CA certificate", remedy, files)
    namespace = _read(directory / "namespace", "namespace", remedy, []).decode(errors="replace").strip()
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Access(
        context="",
        server=server,
        namespace=namespace or "default",
        certificate_authority=Item(f"{directory / 'ca.crt'}: CA certificate", authority),
        certificate=Item(),
        key=Item(),
        token=token,
        insecure=False,
        server_name=None,
        proxy=proxy_from_environment(server, environ),
        plugin=False,
        files=tuple(files),
    )


def with_certificate(access: Access, certificate: Path | None, key: Path | None) -> Access:
    """The same API server with that client certificate (PEM files) and no other credentials; with none at all for None.

    Raises ConfigError for a file that cannot be read.
    """
    files: list[Fingerprint] = []
    remedy = "give the path of a PEM file that this user may read"
    items = (Item() if path is None else Item(str(path), _read(path, "", remedy, files)) for path in (certificate, key))
    chain, private = items
    return replace(access, certificate=chain, key=private, token="", plugin=False, files=(*access.files, *files))


class _Section:
    """One mapping of the kubeconfig, which knows its place in the file."""

    def __init__(self, file: Path, name: str, value: Any, files: list[Fingerprint]) -> None:
        self._file = file
        self._name = name
        self._files = files
        if not isinstance(value, dict):
            raise ConfigError(f"{file}: {name or 'content'}: is not a mapping; write a kubeconfig as `kubectl config view --raw` prints it")
        self.value: dict[str, Any] = value

    def place(self, field_name: str) -> str:
        return f"{self._file}: {self._name}.{field_name}" if self._name else f"{self._file}: {field_name}"

    def text(self, field_name: str) -> str:
        value = self.value.get(field_name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise ConfigError(f"{self.place(field_name)}: is a {type(value).__name__}, not a string; put the value in quotes")
        return value.strip()

    def required(self, field_name: str) -> str:
        value = self.text(field_name)
        if not value:
            raise ConfigError(f"{self.place(field_name)}: is missing; add it")
        return value

    def flag(self, field_name: str) -> bool:
        value = self.value.get(field_name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.place(field_name)}: is neither true nor false; write one of them without quotes")
        return value

    def named(self, list_name: str, kind: str, name: str) -> _Section:
        """The mapping called `kind` of the entry called `name`; the first one wins, as in client-go."""
        entries = self.value.get(list_name) or []
        if not isinstance(entries, list):
            raise ConfigError(f"{self.place(list_name)}: is not a list; write one entry with name and {kind} for each")
        for entry in entries:
            if isinstance(entry, dict) and entry.get("name") == name:
                return _Section(self._file, f"{list_name}[{name}].{kind}", entry.get(kind) or {}, self._files)
        known = ", ".join(sorted(str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry))
        raise ConfigError(f"{self.place(list_name)}: has no entry called {name!r}; known: {known or 'none'}")

    def content(self, field_name: str) -> Item:
        """What `<field>-data` holds, else what the file named by `<field>` holds, else nothing."""
        if data := self.text(f"{field_name}-data"):
            place = self.place(f"{field_name}-data")
            try:
                return Item(place, base64.b64decode(data, validate=True))
            except (binascii.Error, ValueError):
                raise ConfigError(f"{place}: is not base64; paste it again as one line") from None
        if file := self.text(field_name):
            return Item(f"{self.place(field_name)} ({file})", self.file(field_name, file))
        return Item()

    def file(self, field_name: str, name: str) -> bytes:
        path = self._file.parent / name
        try:
            return _read(path, "", "", self._files)
        except ConfigError as error:
            raise ConfigError(f"{self.place(field_name)}: {error}; correct the path or its permissions") from None


def _parse(path: Path, content: bytes) -> Any:
    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (both are safe loaders; the first is ten times as fast)
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigError(f"{path}: is not YAML: {error.problem}{line}; write a kubeconfig") from None
    except (yaml.YAMLError, UnicodeError):
        raise ConfigError(f"{path}: is not text; write a kubeconfig") from None


def _read(path: Path, what: str, remedy: str, files: list[Fingerprint]) -> bytes:
    """The content of a file; its fingerprint, taken from the very file that was read, is added to `files`."""
    try:
        with path.open("rb") as stream:
            content = stream.read()
            status = os.fstat(stream.fileno())
    except OSError as error:
        parts = [f"{path}", what, f"cannot be read ({error.strerror})"]
        raise ConfigError(": ".join(part for part in parts if part) + (f"; {remedy}" if remedy else "")) from None
    files.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return content


def _server(cluster: _Section) -> str:
    server = cluster.required("server")
    try:
        parts = urlsplit(server)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{cluster.place('server')}: {server!r} is not a URL of an API server; write https://HOST:PORT")
    return server.rstrip("/")


def _token(user: _Section) -> str:
    if name := user.text("tokenFile"):
        place = f"{user.place('tokenFile')} ({name})"
        return _clean_token(place, user.file("tokenFile", name), "write nothing but the token")
    return _clean_token(user.place("token"), user.text("token").encode(), "write nothing but the token")


def _clean_token(place: str, content: bytes, remedy: str) -> str:
    """Without the line break that editors add; what an HTTP header cannot carry is refused."""
    token = content.decode("ascii", errors="replace").strip()
    if not all("!" <= character <= "~" for character in token):
        raise ConfigError(f"{place}: holds characters that a token cannot have; {remedy}")
    if content and not token:
        raise ConfigError(f"{place}: is empty; {remedy}")
    return token


def _proxy(cluster: _Section, server: str) -> str | None:
    proxy = cluster.text("proxy-url")
    if not proxy:
        return proxy_from_environment(server, os.environ)
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise ConfigError(f"{cluster.place('proxy-url')}: only http:// and https:// proxies are supported; write one of these")
    return proxy

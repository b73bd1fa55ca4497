"""Which HTTP proxy the environment wants for an API server. Rules as in Go's `golang.org/x/net/http/httpproxy`,

because operators write NO_PROXY for Go programs: networks (10.0.0.0/8) count, and the machine itself is never proxied.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from syncer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def proxy_from_environment(server: str, environ: Mapping[str, str]) -> str | None:
    """URL of the proxy for `server` by HTTPS_PROXY or HTTP_PROXY (or in lower case) and NO_PROXY; None for a direct connection."""
    parts = urlsplit(server)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    if not proxy:
        return None
    host, port = (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)
    exceptions = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if _is_local(host) or any(_covers(item.strip().lower(), host, port) for item in exceptions.split(",")):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise ConfigError(f"{name.upper()}: only http:// and https:// proxies are supported; write one of these, or add {host} to NO_PROXY")
    return proxy


def _is_local(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _covers(item: str, host: str, port: int) -> bool:
    """Whether one entry of NO_PROXY (*, address, network, domain or .domain, each but the first two with :port) means the host."""
    if item in ("", "*"):
        return item == "*"
    address = _address(host)
    if "/" in item:
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    exact = _address(item.strip("[]"))
    if exact is None and ":" in item:
        item, _, item_port = item.rpartition(":")
        if item_port != str(port):
            return False
        exact = _address(item.strip("[]"))
    if exact is not None or address is not None:
        return exact == address
    item = item.removeprefix("*")
    return host.endswith(item) if item.startswith(".") else host == item or host.endswith(f".{item}")

from __future__ import annotations

import pytest

from syncer.errors import ConfigError
from syncer.kube.proxies import proxy_from_environment

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("server", "exceptions", "proxied"),
    [
        pytest.param("https://api.example", "", True, id="no exceptions"),
        pytest.param("https://api.example", "*", False, id="everything"),
        pytest.param("https://api.example", "example", False, id="domain"),
        pytest.param("https://api.example", ".example", False, id="subdomains"),
        pytest.param("https://example", ".example", True, id="subdomains only"),
        pytest.param("https://api.example", "*.example", False, id="star"),
        pytest.param("https://notexample", "example", True, id="not a suffix of a label"),
        pytest.param("https://API.example", " other , api.EXAMPLE ", False, id="case and blanks"),
        pytest.param("https://api.example:6443", "api.example:6443", False, id="with port"),
        pytest.param("https://api.example:6443", "api.example:443", True, id="other port"),
        pytest.param("https://10.96.0.1", "10.0.0.0/8", False, id="network"),
        pytest.param("https://11.96.0.1", "10.0.0.0/8", True, id="other network"),
        pytest.param("https://10.96.0.1", "10.96.0.1", False, id="address"),
        pytest.param("https://10.96.0.1", "10.96.0.1:443", False, id="address with port"),
        pytest.param("https://10.96.0.1", "0.1", True, id="addresses have no suffixes"),
        pytest.param("https://[fd00::1]", "fd00::/8", False, id="network of IPv6"),
        pytest.param("https://[fd00::1]:6443", "[fd00::1]:6443", False, id="address of IPv6 with port"),
        pytest.param("https://10.96.0.1", "10.0.0.0/99", True, id="garbage"),
        pytest.param("https://localhost:6443", "", False, id="this machine"),
        pytest.param("https://127.0.0.1:6443", "", False, id="loopback"),
        pytest.param("https://[::1]:6443", "", False, id="loopback of IPv6"),
    ],
)
def test_exceptions(server: str, exceptions: str, proxied: bool) -> None:
    environ = {"HTTPS_PROXY": PROXY, "NO_PROXY": exceptions}
    assert proxy_from_environment(server, environ) == (PROXY if proxied else None)


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": "proxy:3128"}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "example"}, None),
    ],
)
def test_variables(environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_from_environment("https://api.example", environ) == proxy


def test_plain_http_has_a_variable_of_its_own() -> None:
    assert proxy_from_environment("http://api.example", {"HTTP_PROXY": PROXY}) == PROXY


def test_unsupported_kinds_say_so() -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY: only http:// and https:// proxies are supported"):
        proxy_from_environment("https://api.example", {"HTTPS_PROXY": "socks5://proxy"})

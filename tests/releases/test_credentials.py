from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import yaml

from syncer.errors import ConfigError
from syncer.kube.types import Key
from syncer.releases.credentials import Endpoint, binding, credentials_in, service_account, with_token

AUTHORITY, CERTIFICATE, KEY = (b64encode(text).decode() for text in (b"authority", b"certificate", b"key"))
USER = {"client-certificate-data": CERTIFICATE, "client-key-data": KEY}


def secret(cluster: Any = None, user: Any = None, **context: str) -> dict[str, Any]:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", **context}}],
        "clusters": [
            {
                "name": "c",
                "cluster": cluster
                if cluster is not None
                else {"server": "https://localhost:8443", "certificate-authority-data": AUTHORITY},
            }
        ],
        "users": [{"name": "u", "user": user if user is not None else USER}],
    }
    return holding(yaml.safe_dump(document).encode())


def holding(content: bytes) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": "vc-a"}, "data": {"config": b64encode(content).decode()}}


def test_what_stands_in_the_secret() -> None:
    found = credentials_in(secret(namespace="chosen"))
    assert (found.cluster, found.user, found.namespace) == ({"certificate-authority-data": AUTHORITY}, USER, "chosen")
    access = found.client(Endpoint("https://1.2.3.4", "localhost"))
    assert (access.server, access.server_name, access.proxy, access.plugin) == ("https://1.2.3.4", "localhost", None, False)
    assert (access.certificate_authority.value, access.certificate.value, access.key.value) == (b"authority", b"certificate", b"key")
    assert CERTIFICATE not in repr(found)


def test_no_program_is_run_and_no_file_is_read_for_it() -> None:
    hostile = {
        "exec": {"command": "/bin/sh"},
        "auth-provider": {"name": "x"},
        "tokenFile": "/etc/shadow",
        "client-key": "/home/me/.ssh/id_rsa",
        "as": "system:admin",
        "token": {"not": "text"},
    }
    cluster = {
        "server": "https://x",
        "certificate-authority": "/etc/passwd",
        "proxy-url": "http://evil.test",
        "tls-server-name": "evil.test",
    }
    found = credentials_in(secret(cluster, {**USER, **hostile}))
    assert (found.cluster, found.user) == ({}, USER)
    with pytest.raises(ConfigError, match="neither a client certificate nor a token"):
        credentials_in(secret(user=hostile))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b"a: [", b"contexts: []", b"current-context: c\ncontexts: [{name: c, context: text}]"]
)
def test_what_is_no_kubeconfig(content: bytes) -> None:
    with pytest.raises(ConfigError, match="vc-a"):
        credentials_in(holding(content))
    with pytest.raises(ConfigError, match="vc-a"):
        credentials_in({"metadata": {"name": "vc-a"}, "data": {"config": "%"}})


def test_a_token_takes_the_place_of_the_administrator() -> None:
    limited = with_token(credentials_in(secret()), "t")
    assert (limited.user, limited.cluster) == ({"token": "t"}, {"certificate-authority-data": AUTHORITY})


@pytest.mark.parametrize(("text", "key"), [("default/robot", Key("default", "robot")), ("robot", Key("kube-system", "robot"))])
def test_service_accounts(text: str, key: Key) -> None:
    assert service_account(text) == key


@pytest.mark.parametrize("text", ["", "/", "a/", "/b", "a/b/c"])
def test_what_is_no_service_account(text: str) -> None:
    with pytest.raises(ValueError, match="NAMESPACE/NAME"):
        service_account(text)


def test_bindings_of_two_accounts_never_meet() -> None:
    names = {binding(Key(*key), "view")["metadata"]["name"] for key in (("a-b", "c"), ("a", "b-c"), ("a", "b"))}
    assert len(names) == 3

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from syncer.errors import ConfigError
from syncer.kube.kubeconfig import read_kubeconfig, read_service_account

if TYPE_CHECKING:
    from tests.kube.conftest import Files

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_reads_every_field(files: Files, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"the CA")
    (tmp_path / "token").write_bytes(b"from-file\n")
    files.cluster |= {"server": "https://api.example:6443/k8s/", "certificate-authority": "ca.pem", "tls-server-name": "kubernetes"}
    files.cluster |= {"proxy-url": "http://proxy:3128"}
    files.user |= {"client-certificate-data": "Y2VydA==", "client-key-data": "a2V5", "token": "ignored", "tokenFile": "token"}
    files.context["namespace"] = "team"
    access = read_kubeconfig(files.write())
    assert (access.context, access.server, access.namespace) == ("now", "https://api.example:6443/k8s", "team")
    assert (access.certificate_authority.value, access.certificate.value, access.key.value) == (b"the CA", b"cert", b"key")
    assert (access.token, access.insecure, access.server_name, access.proxy) == ("from-file", False, "kubernetes", "http://proxy:3128")
    assert not access.plugin
    assert [Path(name).name for name, *_ in access.files] == ["kubeconfig", "ca.pem", "token"]


def test_data_goes_before_files(files: Files) -> None:
    files.cluster |= {"certificate-authority": "/does/not/exist", "certificate-authority-data": "Y2E="}
    assert read_kubeconfig(files.write()).certificate_authority.value == b"ca"


def test_a_named_context_goes_before_the_current_one(files: Files) -> None:
    document = files.document()
    assert read_kubeconfig(files.write(), "now").context == document["current-context"]
    with pytest.raises(ConfigError, match="has no entry called 'other'; known: now"):
        read_kubeconfig(files.path, "other")


def test_a_context_without_a_user_is_anonymous(files: Files) -> None:
    del files.context["user"]
    access = read_kubeconfig(files.write())
    assert (access.token, access.certificate.value, access.plugin) == ("", b"", False)


@pytest.mark.parametrize("section", ["exec", "auth-provider"])
def test_plugins_are_noticed(files: Files, section: str) -> None:
    files.user[section] = {"command": "x"}
    assert read_kubeconfig(files.write()).plugin


def test_credentials_do_not_show(files: Files) -> None:
    files.user |= {"token": "secret-token", "client-certificate-data": "c2VjcmV0", "client-key-data": "c2VjcmV0"}
    shown = repr(read_kubeconfig(files.write()))
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        pytest.param("cluster", {"server": None}, "clusters[there].cluster.server: is missing; add it", id="no server"),
        pytest.param(
            "cluster", {"server": "10.0.0.1:6443"}, "clusters[there].cluster.server: '10.0.0.1:6443' is not a URL", id="no scheme"
        ),
        pytest.param("cluster", {"server": "https://a:b"}, "is not a URL of an API server; write https://HOST:PORT", id="bad port"),
        pytest.param("cluster", {"server": 12}, "clusters[there].cluster.server: is a int, not a string", id="server not text"),
        pytest.param(
            "cluster", {"certificate-authority": "ca"}, "ca: cannot be read (No such file or directory); correct", id="no CA file"
        ),
        pytest.param("cluster", {"certificate-authority-data": "%%"}, "certificate-authority-data: is not base64", id="garbled CA"),
        pytest.param("cluster", {"insecure-skip-tls-verify": "yes"}, "skip-tls-verify: is neither true nor false", id="flag not a flag"),
        pytest.param(
            "cluster", {"insecure-skip-tls-verify": True, "certificate-authority-data": "Y2E="}, "contradicts clusters[there]", id="both"
        ),
        pytest.param("cluster", {"proxy-url": "socks5://proxy"}, "proxy-url: only http:// and https://", id="socks"),
        pytest.param("user", {"username": "a", "password": "b"}, "users[me].user.username: basic authentication", id="basic"),
        pytest.param("user", {"as": "admin"}, "users[me].user.as: impersonation", id="impersonation"),
        pytest.param("user", {"token": 123}, "users[me].user.token: is a int, not a string; put the value in quotes", id="number as token"),
        pytest.param("user", {"token": "to ken"}, "users[me].user.token: holds characters", id="space in token"),
        pytest.param("user", {"tokenFile": "none"}, "users[me].user.tokenFile: ", id="no token file"),
        pytest.param("user", {"client-certificate-data": "Y2E="}, "users[me].user.client-key: is missing although", id="no key"),
        pytest.param("user", {"client-key-data": "Y2E="}, "users[me].user.client-certificate: is missing although", id="no cert"),
        pytest.param("context", {"cluster": "other"}, "clusters: has no entry called 'other'; known: there", id="unknown cluster"),
        pytest.param("context", {"cluster": None}, "contexts[now].context.cluster: is missing; add it", id="no cluster"),
        pytest.param("context", {"user": "other"}, "users: has no entry called 'other'; known: me", id="unknown user"),
    ],
)
def test_errors_name_file_field_and_remedy(files: Files, part: str, change: dict[str, Any], message: str) -> None:
    getattr(files, part).update(change)
    with pytest.raises(ConfigError) as caught:
        read_kubeconfig(files.write())
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{files.path}: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "content: is not a mapping", id="empty"),
        pytest.param(b"- 1", "content: is not a mapping", id="list"),
        pytest.param(b"\xff\x00\x01", "is not text", id="binary"),
        pytest.param(b"a: [1\nb: 2", "is not YAML", id="broken"),
        pytest.param(b"a: b", "current-context: is not set", id="no context"),
        pytest.param(b"current-context: a\ncontexts: {}", "contexts: has no entry called 'a'; known: none", id="empty contexts"),
        pytest.param(b"current-context: a\ncontexts: {a: b}", "contexts: is not a list", id="contexts not a list"),
        pytest.param(b"current-context: a\ncontexts: [{name: a, context: 5}]", "contexts[a].context: is not a mapping", id="bad entry"),
    ],
)
def test_garbled_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_kubeconfig(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/none: cannot be read \(No such file or directory\); give the path of a kubeconfig"):
        read_kubeconfig(tmp_path / "none")


@pytest.mark.parametrize(("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")])
def test_service_account(tmp_path: Path, host: str, server: str) -> None:
    for name, content in {"token": "abc\n", "ca.crt": "the CA", "namespace": "team\n"}.items():
        (tmp_path / name).write_text(content)
    access = read_service_account(tmp_path, POD | {"KUBERNETES_SERVICE_HOST": host})
    assert (access.server, access.namespace, access.token, access.certificate_authority.value) == (server, "team", "abc", b"the CA")


def test_outside_of_a_pod(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"KUBERNETES_SERVICE_HOST.*give a kubeconfig"):
        read_service_account(tmp_path, {})


def test_a_pod_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"token: cannot be read.*automountServiceAccountToken"):
        read_service_account(tmp_path, POD)


def test_an_empty_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="token: token: is empty"):
        read_service_account(tmp_path, POD)

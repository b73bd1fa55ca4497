"""How binaries are found, downloaded and checked; a web server on loopback stands for the official ones."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

from e2e.errors import LabError
from e2e.kubernetes import binaries
from e2e.kubernetes.catalogue import FOLDERS, MODULES, Release, folder_of, kubernetes_version
from e2e.kubernetes.release import Downloads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.apiserver


@pytest.fixture
def site() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server: its address, and the files that it serves by path."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class gave it
            """Nothing: pytest shows what matters."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()
    thread.join()


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_a_plain_download_is_checked_and_made_executable(site: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, files = site
    files |= {"/v1.2.3/tool": b"content", "/v1.2.3/tool.sha256": digest(b"content")}
    release = Release(f"{address}/v{{v}}/{{name}}", "{url}.sha256", archive=False)
    assert Downloads().fetch(release, ["tool"], "v1.2.3", tmp_path)
    assert (tmp_path / "tool").read_bytes() == b"content"
    assert (tmp_path / "tool").stat().st_mode & 0o111


def test_only_the_binary_is_taken_from_an_archive(site: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, files = site
    packed = archive({"x-1/bin/tool": b"content", "x-1/README": b"read me", "../../escape": b"no"})
    sums = digest(b"other") + b"  x-2.tgz\n" + digest(packed) + b"  x-1.tgz\n"
    files |= {"/x-1.tgz": packed, "/sums": sums}
    release = Release(f"{address}/x-{{v}}.tgz", f"{address}/sums", archive=True)
    assert Downloads().fetch(release, ["tool"], "v1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tool"]


@pytest.mark.parametrize(
    "sums", [b"", b"nonsense", digest(b"something else"), digest(b"content") + b"  other\n" + digest(b"x") + b"  tool\n"]
)
def test_what_does_not_match_its_checksum_is_refused(site: tuple[str, dict[str, bytes]], tmp_path: Path, sums: bytes) -> None:
    address, files = site
    files |= {"/tool": b"content", "/tool.sha256": sums}
    with pytest.raises(LabError, match="does not match its checksum"):
        Downloads().fetch(Release(f"{address}/{{name}}", "{url}.sha256", archive=False), ["tool"], "v1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_release_or_network_is_no_error(
    site: tuple[str, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, _ = site
    downloads = Downloads()
    assert not downloads.fetch(Release(f"{address}/{{name}}", "{url}.sha256", archive=False), ["tool"], "v1", tmp_path)
    nowhere = Release("http://127.0.0.1:1/{name}", "{url}.sha256", archive=False)
    assert not downloads.fetch(nowhere, ["tool"], "v1", tmp_path)
    assert not downloads.fetch(nowhere, ["tool"], "v1", tmp_path)
    said = capsys.readouterr().err
    assert "HTTP 404" in said
    assert said.count("cannot be reached") == 1  # remembered for the run


@pytest.mark.parametrize(("says", "fits"), [("v1.36.9", True), ("v1.35.3", False), ("garbage", False)])
def test_binaries_of_others_are_used_if_their_minor_version_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, *, fits: bool
) -> None:
    program = tmp_path / "kube-apiserver"
    program.write_text(f"#!/bin/sh\necho Kubernetes {says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    found = binaries.ensure("kube-apiserver", version="1.36.3")["kube-apiserver"]
    assert (found == program) == fits


def test_every_binary_has_a_go_mod_that_builds_it() -> None:
    for folder in FOLDERS:
        assert folder.checked_in_version.startswith("v")
        text = (MODULES / folder.name / "go.mod").read_text()
        for name in folder.binaries:
            assert f"{folder.package(name)}\n" in text
            assert name in folder_of(name).binaries


def test_versions_are_demanded_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_VERSION", "1.35.4")
    assert kubernetes_version() == "v1.35.4"
    assert kubernetes_version("v1.34.4") == "v1.34.4"
    with pytest.raises(LabError, match="all three numbers"):
        kubernetes_version("1.36")
    with pytest.raises(LabError, match="no binary called 'k3s'"):
        binaries.ensure("k3s")

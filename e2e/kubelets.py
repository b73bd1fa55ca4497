"""Asks the kubelet of a virtual Node, as a monitoring agent does: by the Node's host name or address, at the front door."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from syncer.translate.kubelets import host_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon


class Kubelet:
    """The kubelet of `node` as the front door of `daemon` answers for it, asked with the administrator's certificate or a `token`.

    It is called by its host name unless it is `called` otherwise.
    """

    def __init__(self, daemon: Daemon, node: str, token: str = "", *, called: str = "") -> None:
        tls = daemon.virtual.tls
        self._daemon = daemon
        self._name = called or host_name(node)
        self._headers = {"Host": f"{self._name}:10250", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
        if not token:
            self._context.load_cert_chain(tls / "client-admin.crt", tls / "client-admin.key")

    @contextmanager
    def asked(self, path: str, method: str = "GET") -> Iterator[http.client.HTTPResponse]:
        """Its answer, to be read; its certificate is checked for what it is called."""
        connection = http.client.HTTPSConnection(self._name, timeout=60)
        plain = socket.create_connection(("127.0.0.1", self._daemon.proxy_port), 60)
        connection.sock = self._context.wrap_socket(plain, server_hostname=self._name)
        try:
            connection.request(method, path, headers=self._headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body, of a Status the message."""
        with self.asked(path, method) as answer:
            text = answer.read().decode()
            is_status = answer.status >= 400 and answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(text)["message"] if is_status else text

    def json(self, path: str) -> Any:
        """A decoded answer, that has to be one."""
        status, text = self.get(path)
        assert status == 200, text
        return json.loads(text)

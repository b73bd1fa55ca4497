"""A small blocking client for an API server: what the lab itself and the arrangement of tests need."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import urllib3
import yaml

from e2e.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Obj = dict[str, Any]
UNREACHABLE = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError)
"""What a request raises when the API server is not there; `ApiFailure` is an answer of it."""


class ApiFailure(LabError):
    """An API server refused a request; `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One API server, as the user of a kubeconfig file; for any number of threads.

    Connections are kept, as most of what a short request costs both sides is TLS with certificates of both. One that the server
    has closed meanwhile is noticed before it is used, so restarts of the server do not matter.
    """

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        address = urlsplit(cluster["server"])
        self.server: str = cluster["server"]
        self._host, self._port = address.hostname or "", address.port or 443
        self._context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pem.flush()
            self._context.load_cert_chain(pem.name)
        self._connections = urllib3.HTTPSConnectionPool(self._host, self._port, maxsize=16, retries=False, ssl_context=self._context)
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout: float = 10.0,
        params: Mapping[str, str] = {},
    ) -> Any:
        """The decoded answer (text if it is not JSON). ApiFailure for a refusal, one of UNREACHABLE if there is no answer."""
        answer = self._connections.request(
            method,
            f"{path}?{urlencode(params)}" if params else path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            timeout=timeout,
        )
        text = answer.data.decode()
        content = json.loads(text) if answer.headers.get("Content-Type", "").startswith("application/json") else text
        if answer.status >= 400:
            reason = content.get("message", text) if isinstance(content, dict) else text
            raise ApiFailure(answer.status, f"{method} {self.server}{path}: {answer.status} {reason}")
        return content

    def watch(self, path: str, resource_version: str, **params: str) -> Iterator[Obj]:
        """Every watch event after a resourceVersion as it comes, until the server ends the watch. Raises as `request`."""
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._context)
        try:
            query = urlencode({**params, "watch": "1", "resourceVersion": resource_version})
            connection.request("GET", f"{path}?{query}")
            answer = connection.getresponse()
            if answer.status >= 400:
                raise ApiFailure(answer.status, f"WATCH {self.server}{path}: {answer.status} {answer.read().decode()}")
            for line in answer:
                yield json.loads(line)
        finally:
            connection.close()

    def get(self, path: str, **params: str) -> Any:
        """GET a path, e.g. /api/v1/namespaces/default/pods."""
        return self.request("GET", path, params=params)

    def find(self, path: str) -> Obj | None:
        """GET an object; None if it does not exist."""
        try:
            found: Obj = self.get(path)
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise
        return found

    def apply(self, obj: Obj) -> Obj:
        """Server-side apply an object with our fields forced; the namespace defaults to "default"."""
        applied: Obj = self.request(
            "PATCH", self.path_of(obj), obj, content_type="application/apply-patch+yaml", params={"fieldManager": "lab", "force": "true"}
        )
        return applied

    def delete(self, path: str) -> None:
        """Delete an object, or do nothing if it does not exist."""
        try:
            self.request("DELETE", path)
        except ApiFailure as failure:
            if failure.status != 404:
                raise

    def ready(self) -> bool:
        """Whether /readyz says ok."""
        try:
            return bool(self.request("GET", "/readyz", timeout=2.0) == "ok")
        except (ApiFailure, *UNREACHABLE):
            return False

    def serves(self, api_version: str, kind: str) -> bool:
        """Whether its version, as it is configured, has this type; not for the core group."""
        try:
            self._resource(f"/apis/{api_version}", kind)
        except ApiFailure as failure:
            if failure.status != 404:
                raise
            return False
        except LabError:
            return False
        return True

    def path_of(self, obj: Obj) -> str:
        """The path of an object, by its apiVersion, kind, namespace and name."""
        version, metadata = obj["apiVersion"], obj["metadata"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural, namespaced = self._resource(root, obj["kind"])
        middle = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
        return f"{root}{middle}/{plural}/{metadata['name']}"

    def _resource(self, root: str, kind: str) -> tuple[str, bool]:
        if (root, kind) not in self._kinds:
            for resource in self.get(root)["resources"]:
                if "/" not in resource["name"]:
                    self._kinds[root, resource["kind"]] = resource["name"], resource["namespaced"]
        if (root, kind) not in self._kinds:
            raise LabError(f"{self.server} serves no {kind} in {root}")
        return self._kinds[root, kind]


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    """Wait until `condition()` is true. LabError names `what` when the time is up.

    A server that is not there counts as false, and so does an answer that lacks what the condition looks at.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            if condition():
                return
        except (ApiFailure, *UNREACHABLE, LookupError, TypeError, ValueError) as error:
            last = f" (last: {type(error).__name__}: {error})"
        else:
            last = ""
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not so after {timeout:.0f} s{last}")
        time.sleep(0.05)

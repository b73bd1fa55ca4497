from __future__ import annotations

import pytest

from syncer.proxy.requests import RequestInfo, is_clear, parse

DEPLOYMENTS = "/apis/apps/v1/namespaces/a/deployments"
CADVISOR = "/api/v1/nodes/n:10250/proxy/metrics/cadvisor"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/version", RequestInfo("get", "/version")),
        ("GET", "/api", RequestInfo("get", "/api")),
        ("GET", "/api/v1", RequestInfo("get", "/api/v1")),
        ("GET", "/apis/apps/v1", RequestInfo("get", "/apis/apps/v1")),
        ("GET", "/api/v1/namespaces", RequestInfo("list", "/api/v1/namespaces", "", "v1", resource="namespaces")),
        ("GET", "/api/v1/namespaces/a", RequestInfo("get", "/api/v1/namespaces/a", "", "v1", "a", "namespaces", "a")),
        (
            "PUT",
            "/api/v1/namespaces/a/finalize",
            RequestInfo("update", "/api/v1/namespaces/a/finalize", "", "v1", "a", "namespaces", "a", "finalize"),
        ),
        ("GET", "/api/v1/namespaces/a/pods", RequestInfo("list", "/api/v1/namespaces/a/pods", "", "v1", "a", "pods")),
        ("GET", "/api/v1/namespaces/a/pods?watch=1", RequestInfo("watch", "/api/v1/namespaces/a/pods", "", "v1", "a", "pods")),
        ("GET", "/api/v1/namespaces/a/pods?watch=false", RequestInfo("list", "/api/v1/namespaces/a/pods", "", "v1", "a", "pods")),
        ("GET", "/api/v1/watch/pods", RequestInfo("watch", "/api/v1/watch/pods", "", "v1", "", "pods")),
        ("DELETE", "/api/v1/namespaces/a/pods", RequestInfo("deletecollection", "/api/v1/namespaces/a/pods", "", "v1", "a", "pods")),
        ("POST", DEPLOYMENTS, RequestInfo("create", DEPLOYMENTS, "apps", "v1", "a", "deployments")),
        (
            "POST",
            "/api/v1/namespaces/a/pods/p/exec?command=ls",
            RequestInfo("create", "/api/v1/namespaces/a/pods/p/exec", "", "v1", "a", "pods", "p", "exec"),
        ),
        ("GET", CADVISOR, RequestInfo("get", CADVISOR, "", "v1", "", "nodes", "n:10250", "proxy", "/metrics/cadvisor")),
        ("GET", "/api/v1/nodes/n/proxy/", RequestInfo("get", "/api/v1/nodes/n/proxy/", "", "v1", "", "nodes", "n", "proxy", "/")),
        ("OPTIONS", "/api/v1/pods", RequestInfo("options", "/api/v1/pods")),
    ],
)  # fmt: skip
def test_what_a_request_is_about(method: str, path: str, expected: RequestInfo) -> None:
    assert parse(method, path) == expected


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/nodes", "/api/v1/nodes/", "/a%20b", "/api/v1/pods?fieldSelector=a%2Fb&x=//", "/apis/%E2%82%AC"]
)
def test_clear_paths(path: str) -> None:
    assert is_clear(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "api/v1",
        "*",
        "https://elsewhere/api/v1",
        "//api/v1",
        "/api//v1",
        "/api/v1/namespaces/a/pods/../../b/pods",
        "/api/v1/./pods",
        "/api/v1/namespaces/a%2Fpods",
        "/api/v1/namespaces/a%2fpods",
        "/api/v1/%2e%2e/x",
        "/api/v1/%252e",
        "/api\\v1",
        "/api/%5Cv1",
        "/a\x00b",
        "/a%00",
        "/a b",
    ],
)
def test_unclear_paths(path: str) -> None:
    assert not is_clear(path)

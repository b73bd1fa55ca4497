"""`syncer status` of an installed virtual cluster: through a forwarded port, which is the only way to the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.commands import Commands
from e2e.lab.api import ApiFailure

if TYPE_CHECKING:
    from e2e.installed import Install, Installed

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

NAME, NAMESPACE = "asked", "team-asked"


@pytest.fixture(scope="module")
def asked(install: Install) -> Installed:
    return install(NAME, NAMESPACE)


def test_it_is_healthy(asked: Installed) -> None:
    code, document = Commands.on(asked.host).read("status", NAME)
    assert (code, document["problems"]) == (0, [])
    assert document["release"]["status"] == "Running"
    assert [(pod["name"], pod["role"]) for pod in document["pods"]] == [(f"{NAME}-0", "leads")]
    page = document["page"]
    assert (page["name"], page["namespace"]) == (NAME, NAMESPACE)
    assert [server["reachable"] for server in page["servers"]] == [True, True]
    assert {"pods", "services", "tokens"} <= {loop["name"] for loop in page["loops"] if loop.get("alive")}
    told = Commands.on(asked.host).run("status", NAME, f"--namespace={NAMESPACE}")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"{NAME} in {NAMESPACE}: healthy\n")
    assert Commands.on(asked.host).run("status", "nobody").code == 3


def test_nobody_reaches_the_page_from_outside_of_the_pod(asked: Installed) -> None:
    """As the host's API server does for whoever may proxy to pods, and as any pod of the node could."""
    proxied = f"{asked.path}/pods/{NAME}-0:8081/proxy"
    assert asked.host.api.get(f"{proxied}/healthz") == "ok\n"
    with pytest.raises(ApiFailure, match="only for who is inside"):
        asked.host.api.get(f"{proxied}/status")


def test_without_the_right_to_it_what_the_host_knows_is_told(asked: Installed) -> None:
    rules = [
        {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods", "configmaps", "events", "persistentvolumeclaims"], "verbs": ["get", "list"]},
    ]
    kubeconfig = asked.host.grant(NAMESPACE, "looker", rules)
    code, document = Commands.on(asked.host).read("status", NAME, f"--namespace={NAMESPACE}", f"--kubeconfig={kubeconfig}")
    assert (code, document["page"]) == (1, None)
    assert "pods/portforward" in document["problems"][0]
    assert [(pod["name"], pod["phase"], pod["ready"]) for pod in document["pods"]] == [(f"{NAME}-0", "Running", True)]
    assert document["owner"]["virtualUID"] == asked.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]

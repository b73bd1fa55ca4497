from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.naming import Names
from syncer.translate.podspec import host_pod_spec


@dataclass(frozen=True, kw_only=True)
class Policy:
    cluster_domain: str = "cluster.local"
    service_account: str = ""
    translate_images: Mapping[str, str] = field(default_factory=dict)
    enforced_tolerations: tuple[Obj, ...] = ()
    node_selector: str = ""
    enforce_node_selector: bool = True


def make_pod(**spec: Any) -> Obj:
    """A pod with what every API server fills in, and `spec` over it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "default", "uid": "u-1", "labels": {"app": "web"}, "generation": 1},
        "spec": {
            "containers": [{"name": "app", "image": "nginx:1"}],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": True,
            "schedulerName": "default-scheduler",
            "serviceAccountName": "builder",
            **spec,
        },
    }


NAMES = Names("vc", "tenants")


@pytest.fixture
def names() -> Names:
    return NAMES


@pytest.fixture
def pod() -> Callable[..., Obj]:
    return make_pod


@pytest.fixture
def policy() -> Callable[..., Policy]:
    return Policy


@pytest.fixture
def on_host() -> Callable[..., Obj]:
    """The host spec of a pod, with arguments that matter to no test unless it says so."""

    def translate(virtual: Obj, *, policy: Policy | None = None, **changes: Any) -> Obj:
        arguments: dict[str, Any] = {
            "api_address": "10.1.0.1",
            "dns_address": "10.1.0.10",
            "services": (),
            "token_secret": "web-0-token",
            "namespaces_matching": lambda _selector: pytest.fail("asked for namespaces"),
            **changes,
        }
        return host_pod_spec(NAMES, policy or Policy(), virtual, **arguments)

    return translate

"""One right at a time is missing on the host: what it is for is off and told, all else works, and nobody runs into a 403 for ever."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from e2e.daemon import Daemon
from e2e.lab.api import wait_until
from syncer import resources
from syncer.resources import ALL
from syncer.sync.rights import needed_rights, rules
from syncer.sync.spec import Right

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from _pytest.mark.structures import ParameterSet

    from e2e.fixtures import StartVirtual
    from e2e.lab.virtual import VirtualCluster

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

WANTED = resources.chosen({name for name, on in resources.known().items() if on})
NEEDED = needed_rights(WANTED)
LEAST = {
    (right.group, right.resource): right.verbs for right in needed_rights([spec for spec in WANTED if not spec.dispensable], optional=False)
}
OPTIONAL = [
    replace(right, verbs=verbs)
    for right in NEEDED
    if (verbs := tuple(verb for verb in right.verbs if verb not in LEAST.get((right.group, right.resource), ())))
]

_OFTEN = ("pods/status", "ingresses", "persistentvolumes")


@pytest.fixture(scope="module")
def virtual(virtual_cluster: StartVirtual) -> Iterator[VirtualCluster]:
    found = virtual_cluster("limited")
    yield found
    found.remove(wait=False)


def grant(virtual: VirtualCluster, granted: Sequence[Right]) -> Path:
    return virtual.host.grant(virtual.host_namespace, "limited", rules(granted), rules(granted, cluster=True))


def without(missing: Right) -> list[Right]:
    """All rights but these verbs."""
    found = []
    for right in NEEDED:
        if (right.group, right.resource) == (missing.group, missing.resource):
            right = replace(right, verbs=tuple(verb for verb in right.verbs if verb not in missing.verbs))
        if right.verbs:
            found.append(right)
    return found


def everything(virtual: VirtualCluster, name: str) -> None:
    """A pod that uses what rights may be missing for, a Service without selector with Endpoints, an Ingress and a claim."""
    metadata = {"name": name, "namespace": "default"}
    pod = {
        "containers": [{"name": "app", "image": "app:1", "resources": {"requests": {"cpu": "1m"}}}],
        "readinessGates": [{"conditionType": "example.com/ready"}],
        "priorityClassName": "limited",
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
    }
    rule = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": name, "port": {"number": 80}}}}]}}
    for body in (
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "limited"}, "value": 7},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}},
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": metadata,
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}],
        },
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": {"rules": [rule]}},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata,
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}}},
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
    ):
        virtual.api.apply(body)


def _parameters() -> list[ParameterSet]:
    """A few at every run, all of them at the long ones."""
    return [
        pytest.param(right, id=right.resource.replace("/", "-"), marks=[] if right.resource in _OFTEN else [pytest.mark.long])
        for right in OPTIONAL
    ]


@pytest.mark.parametrize("missing", _parameters())
def test_one_is_missing(virtual: VirtualCluster, missing: Right) -> None:
    kubeconfig = grant(virtual, without(missing))
    daemon = Daemon(virtual, f"--host-kube-config={kubeconfig}", name="limited")
    daemon.start()
    try:
        name = f"without-{missing.resource.replace('/', '-')}"
        everything(virtual, name)
        host = f"{name}-x-default-x-{virtual.name}"
        path = f"/api/v1/namespaces/{virtual.host_namespace}"
        for plural in ("pods", "services", "persistentvolumeclaims"):
            wait_until(lambda plural=plural: virtual.host.api.find(f"{path}/{plural}/{host}") is not None, f"{plural} {host}")  # type: ignore[misc]  # bound at once
        rows = [line for line in daemon.log() if line["event"] == "extent.row" and missing.resource in line.get("why", "")]
        assert rows, "the table names it"
        assert daemon.get("/readyz")[0] == 200
        assert daemon.metrics_sum('syncer_api_requests_total{code="403"') == 0
    finally:
        daemon.stop()


def test_a_right_that_is_withdrawn_and_given_again_is_noticed(virtual: VirtualCluster) -> None:
    """`syncer rights` tells; the syncer itself asks every few minutes."""
    (ingresses,) = (right for right in OPTIONAL if right.resource == "ingresses")
    kubeconfig = grant(virtual, without(ingresses))
    command = [
        sys.executable, "-m", "syncer", "rights", f"--name={virtual.name}",
        f"--target-namespace={virtual.host_namespace}", f"--host-kube-config={kubeconfig}",
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "ingresses" in told
    assert "Role lacks create, delete, get, list, patch, watch of ingresses.networking.k8s.io" in told
    asked_for = subprocess.run([*command, "--sync=ingresses"], capture_output=True, text=True, check=False)
    assert (asked_for.returncode, "cannot run: ingresses: Role lacks" in asked_for.stdout) == (1, True)
    grant(virtual, NEEDED)
    assert "lacks" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_printed_rules_are_enough(virtual: VirtualCluster) -> None:
    command = [sys.executable, "-m", "syncer", "rights", "--yaml", f"--name={virtual.name}", f"--target-namespace={virtual.host_namespace}"]
    role, cluster_role = yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    kubeconfig = virtual.host.grant(virtual.host_namespace, "printed", role["rules"], cluster_role["rules"])
    daemon = Daemon(virtual, f"--host-kube-config={kubeconfig}", name="printed")
    daemon.start()
    try:
        on = {line["loop"]: line.get("why") for line in daemon.log() if line["event"] == "extent.row" and line["on"]}
        assert on == {spec.name: None for spec in ALL if spec.default and not spec.part_of}
    finally:
        daemon.stop()

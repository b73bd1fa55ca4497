"""The default Role is enough, and no more than that: the host's audit log of a tenant's life has no refusal, and every verb."""

from __future__ import annotations

import functools
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from e2e.guestbook import is_ready, kubectl
from e2e.lab import audit
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.installed import Install, Installed
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

NAMES = ("first", "second")
"""Of each kind one whose name is free on the host, and one whose name somebody has at first."""
GATE = "lab.local/gate"
EVERYBODY = frozenset(
    {("authorization.k8s.io", "selfsubjectrulesreviews", "create"), ("authorization.k8s.io", "selfsubjectaccessreviews", "create")}
)
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
KINDS = {
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "services": "/api/v1",
    "endpoints": "/api/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "pods": "/api/v1",
    "ingresses": "/apis/networking.k8s.io/v1",
}


def objects(name: str) -> list[Obj]:
    """One of everything that is synced."""
    script = "until [ -e /tmp/stop ]; do sleep 1; done"
    container = {
        "name": "main",
        "image": BUSYBOX,
        "stdin": True,
        "command": ["sh", "-c", script],
        "envFrom": [{"configMapRef": {"name": name}}, {"secretRef": {"name": name}}],
        "resources": {"requests": {"cpu": "5m"}},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0, "readinessGates": [{"conditionType": GATE}]}
    waiting = {**pod, "nodeSelector": {"nobody": "has-this"}, "volumes": [{"name": "c", "persistentVolumeClaim": {"claimName": name}}]}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}, "storageClassName": ""}
    port = {"port": 80, "protocol": "TCP"}
    rule = {"host": f"{name}.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend(name)}]}}
    by_hand = {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.7"]}], "ports": [port]}
    labels = {"kubernetes.io/service-name": f"{name}-sliced"}
    return [
        make("v1", "ConfigMap", name, data={"A": "1"}),
        make("v1", "Secret", name, stringData={"B": "2"}),
        make("v1", "PersistentVolumeClaim", name, spec=claim),
        make("v1", "Service", name, spec={"ports": [port]}),
        make("v1", "Service", f"{name}-sliced", spec={"ports": [port]}),
        make("v1", "Endpoints", name, subsets=[{"addresses": [{"ip": "192.0.2.7"}], "ports": [port]}]),
        make("discovery.k8s.io/v1", "EndpointSlice", f"{name}-sliced", labels, **by_hand),
        make("networking.k8s.io/v1", "Ingress", name, spec={"rules": [rule]}),
        make("v1", "Pod", name, spec=pod),
        make("v1", "Pod", f"{name}-waiting", spec=waiting),
    ]


def backend(name: str) -> Obj:
    return {"service": {"name": name, "port": {"number": 80}}}


def make(version: str, kind: str, name: str, labels: dict[str, str] | None = None, **content: Any) -> Obj:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default", "labels": labels or {}}, **content}


@pytest.fixture(scope="module")
def host(prepared_node: HostCluster) -> Iterator[HostCluster]:
    """One that does not stream lists, as those before 1.34: else nobody would ever `list`."""
    audit.start(prepared_node)
    restart(prepared_node, "--feature-gates=WatchList=false")
    yield prepared_node
    restart(prepared_node)


def restart(host: HostCluster, *flags: str) -> None:
    host.stop_apiserver()
    host.start_apiserver(*flags)


def obstacles() -> list[Obj]:
    """Objects of somebody else that have the names which the second of each kind needs on the host."""
    spec = {"containers": [{"name": "main", "image": BUSYBOX}], "nodeSelector": {"nobody": "has-this"}}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}, "storageClassName": ""}
    found = [
        make("v1", "ConfigMap", "second"),
        make("v1", "Secret", "second"),
        make("v1", "PersistentVolumeClaim", "second", spec=claim),
        make("v1", "Endpoints", "second"),
        make("discovery.k8s.io/v1", "EndpointSlice", "second-sliced", addressType="IPv4", endpoints=[]),
        make("networking.k8s.io/v1", "Ingress", "second", spec={"defaultBackend": backend("nobody")}),
        make("v1", "Pod", "second", spec=spec),
    ]
    for obj in found:
        obj["metadata"] |= {"namespace": audit.NAMESPACE, "name": f"{obj['metadata']['name']}-x-default-x-blue"}
    return found


def plural(obj: Obj) -> str:
    kind: str = obj["kind"].lower()
    return kind if kind.endswith("ts") and kind != "secrets" else f"{kind}es" if kind.endswith("ss") else f"{kind}s"


@pytest.fixture(scope="module")
def blue(host: HostCluster, install: Install) -> Installed:
    """One with a tenant who has done all there is to do."""
    blue = install("blue", audit.NAMESPACE)
    in_the_way = obstacles()
    for obj in in_the_way:
        host.api.apply(obj)
    for name in NAMES:
        for obj in objects(name):
            blue.api.apply(obj)
    for obj in in_the_way:
        wait_until(functools.partial(has_asked, host, plural(obj)), f"the name of a {obj['kind']} is found taken", 60)
        host.api.delete(host.api.path_of(obj))
    for name in NAMES:
        wait_until(functools.partial(is_running, blue, name), f"pod {name} runs", 120)
    change(blue)
    use(blue)
    lose(blue)
    return blue


def has_asked(host: HostCluster, resource: str) -> bool:
    return any((one.resource, one.verb, one.name) == (resource, "get", one.name) and "second" in one.name for one in requests(host))


def is_running(blue: Installed, name: str) -> bool:
    pod = blue.api.get(f"/api/v1/namespaces/default/pods/{name}")
    return bool(pod["status"].get("phase") == "Running")


def change(blue: Installed) -> None:
    """Change what can be changed."""
    for obj in objects("first"):
        path = blue.api.path_of(obj)
        blue.api.request("PATCH", path, {"metadata": {"labels": {"changed": "yes"}}}, content_type=MERGE)
        kind = plural(obj)
        at = f"{KINDS[kind]}/namespaces/{audit.NAMESPACE}/{kind}/{obj['metadata']['name']}-x-default-x-blue"
        wait_until(functools.partial(has_label, blue.host, at), f"the label of {at}", 30)
    pod = "/api/v1/namespaces/default/pods/first"
    conditions = [{"type": GATE, "status": "True"}]
    blue.api.request("PATCH", f"{pod}/status", {"status": {"conditions": conditions}}, content_type=STRATEGIC)
    wait_until(lambda: is_ready(blue.api.get(pod)), "the gate is open", 30)
    sizes = {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "6m"}}}]}}
    blue.api.request("PATCH", f"{pod}/resize", sizes, content_type=STRATEGIC)
    wait_until(functools.partial(has_used, blue.host, "pods/resize"), "the pod is resized", 30)


def has_label(host: HostCluster, path: str) -> bool:
    return (host.api.get(path)["metadata"].get("labels") or {}).get("changed") == "yes"


def has_used(host: HostCluster, resource: str, verb: str = "patch") -> bool:
    return any((one.resource, one.verb) == (resource, verb) for one in requests(host))


def use(blue: Installed) -> None:
    """kubectl with containers, by both protocols."""
    blue.kubectl("debug", "first", f"--image={BUSYBOX}", "--attach=false", "--profile=general", "-c", "debug", "--", "sleep", "1d")
    blue.kubectl("logs", "first", "-c", "main")
    for websockets in ("true", "false"):
        chosen = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websockets, "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets}
        with going(blue, chosen, "exec", "first", "-c", "main", "--", "true") as command:
            assert command.wait(30) == 0
        with going(blue, chosen, "attach", "first", "-c", "main"), going(blue, chosen, "port-forward", "pod/first", ":80") as forward:
            assert forward.stdout is not None
            assert "Forwarding from" in forward.stdout.readline()
            verb = "get" if websockets == "true" else "create"
            for what in ("attach", "portforward"):
                wait_until(functools.partial(has_used, blue.host, f"pods/{what}", verb), f"{what} by {verb}", 30)


@contextmanager
def going(blue: Installed, environment: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """kubectl while it runs; then it is killed."""
    command = [str(blue.binary("kubectl")), f"--kubeconfig={blue.kubeconfig}", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}) as process:
        try:
            yield process
        finally:
            process.kill()


def lose(blue: Installed) -> None:
    """Delete everything, then lose the data of the control plane, and start the syncer twice on what is there instead."""
    for name in NAMES:
        for obj in reversed(objects(name)):
            blue.api.delete(blue.api.path_of(obj))
    for kind, root in KINDS.items():
        at = f"{root}/namespaces/{audit.NAMESPACE}/{kind}"
        wait_until(functools.partial(is_empty, blue.host, at), f"{kind} of the tenant are gone", 60)
    blue.host.api.delete(f"{blue.path}/pods/blue-0")
    wait_until(functools.partial(has_used, blue.host, "events", "create"), "the loss is told", 90)
    wait_until(functools.partial(restarted, blue), "the syncer has been told to end", 60)
    wait_until(functools.partial(has_used, blue.host, "events", "patch"), "the loss is told again", 90)


def restarted(blue: Installed) -> bool:
    """Whether its process could be told to end."""
    command = ["exec", "blue-0", "--container=syncer", "--", "python3", "-c", "import os; os.kill(1, 15)"]
    return not kubectl(blue.host, f"--namespace={blue.host_namespace}", *command, check=False)


def is_empty(host: HostCluster, path: str) -> bool:
    found = host.api.get(path, labelSelector="vcluster.loft.sh/managed-by=blue")["items"]
    return not [one for one in found if "default" in one["metadata"]["name"]]


def used(host: HostCluster) -> set[tuple[str, str, str]]:
    return {(request.group, request.resource, request.verb) for request in requests(host) if request.resource}


def requests(host: HostCluster) -> list[audit.Request]:
    return [one for one in audit.requests(host) if one.user == f"system:serviceaccount:{audit.NAMESPACE}:vc-blue"]


def granted(blue: Installed) -> set[tuple[str, str, str]]:
    role = blue.host.api.get(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{audit.NAMESPACE}/roles/vc-blue")
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_nothing_is_refused(blue: Installed) -> None:
    assert [one for one in requests(blue.host) if one.code == 403] == []


def test_every_verb_of_the_role_is_used(blue: Installed) -> None:
    assert sorted(granted(blue) - used(blue.host)) == []


def test_nothing_is_asked_for_that_the_role_does_not_have(blue: Installed) -> None:
    assert used(blue.host) - granted(blue) - EVERYBODY == set()

"""Two replicas of a control plane on the real node: one syncs, both serve, and when the one dies the other goes on."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.controlplanes import k8s_values, kill_container, run_web, web
from e2e.errors import LabError
from e2e.guestbook import is_ready
from e2e.lab import k8s_images, node
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.installed import Install, Installed
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(400)]

WITHIN = 15.0
"""Seconds from the last word of a leader that is killed to the next one."""


@pytest.fixture(scope="module", params=["k8s", pytest.param("k3s", marks=pytest.mark.long)])
def pair(request: pytest.FixtureRequest, prepared_node: HostCluster, install: Install) -> Installed:
    """Two replicas, ready: with an etcd of the chart's own, or with one that somebody else runs."""
    node.import_images(prepared_node.lab, *k8s_images.build())
    namespace = f"pair-{request.param}"
    values = k8s_values() if request.param == "k8s" else datastore(prepared_node, namespace)
    installed = install(f"pair-{request.param}", namespace, {**values, "replicas": 2}, ready=False)
    installed.wait_ready(2)
    return installed


def datastore(host: HostCluster, namespace: str) -> Obj:
    """An etcd in the namespace; the values by which k3s uses it."""
    host.create_namespace(namespace)
    url = "http://0.0.0.0:2379"
    command = ["etcd", "--data-dir=/data/etcd", f"--listen-client-urls={url}", "--advertise-client-urls=http://datastore:2379"]
    container = {
        "name": "etcd",
        "image": k8s_images.tag("etcd"),
        "command": command,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    metadata = {"name": "datastore", "namespace": namespace, "labels": {"app": "datastore"}}
    spec = {"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]}
    host.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    service = {"selector": {"app": "datastore"}, "ports": [{"port": 2379}]}
    host.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    data = {"endpoint": "http://datastore:2379", "token": "shared by both"}
    host.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
    return {"vcluster": {"datastore": {"existingSecret": "datastore"}}}


def lease(pair: Installed) -> Any:
    return pair.host.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{pair.host_namespace}/leases/vcluster-{pair.name}-controller")


def leader(pair: Installed) -> Any:
    """The pod that leads."""
    holder = lease(pair)["spec"]["holderIdentity"]
    (found,) = (pod for pod in pair.pods() if holder.startswith(f"{pod['metadata']['name']}-"))
    return found


def directly(pair: Installed, pod: Any, credentials: str = "") -> Path:
    """A kubeconfig for what this replica serves, with these credentials, or those of the moment."""
    config = yaml.safe_load(credentials or pair.kubeconfig.read_text())
    config["clusters"][0]["cluster"] |= {"server": f"https://{pod['status']['podIP']}:8443"}
    path = pair.directory / f"{pod['metadata']['name']}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def ask(pair: Installed, pod: Any, *words: str, credentials: str = "") -> str:
    """What kubectl prints, having asked this replica."""
    command = [str(pair.binary("kubectl")), f"--kubeconfig={directly(pair, pod, credentials)}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise LabError(f"{pod['metadata']['name']}: {done.stderr}")
    return done.stdout


def test_one_syncs_and_both_serve(pair: Installed) -> None:
    run_web(pair, "served")
    pods = pair.pods()
    assert len(pods) == 2
    for pod in pods:
        assert "served" in ask(pair, pod, "get", "pods", "--output=name")
        assert ask(pair, pod, "logs", "served") == "serving\n"
        assert ask(pair, pod, "exec", "served", "--", "cat", "/tmp/www/index.html").strip() == "served"
    assert sum(leads(pod) for pod in pods) == 1


def leads(pod: Any) -> bool:
    """As its metrics tell."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8081/metrics", timeout=10) as answer:
        return "\nsyncer_leader 1" in answer.read().decode()


def test_services_get_addresses_from_either(pair: Installed) -> None:
    """Each API server calls the webhook of the syncer beside it."""
    for number, pod in enumerate(pair.pods()):
        ask(pair, pod, "create", "service", "clusterip", f"from-{number}", "--tcp=80")
        address = pair.api.get(f"/api/v1/namespaces/default/services/from-{number}")["spec"]["clusterIP"]
        (host,) = (
            one
            for one in pair.host.api.get(f"{pair.path}/services", labelSelector=f"vcluster.loft.sh/managed-by={pair.name}")["items"]
            if one["metadata"]["name"].startswith(f"from-{number}-")
        )
        assert host["spec"]["clusterIP"] == address


def test_only_the_leader_tells_its_credentials(pair: Installed) -> None:
    """Both replicas have certificates of their own; those of the leader are written, once."""
    led = leader(pair)["metadata"]["name"]
    written = {name: pair.logs("syncer", name).count('"kubeconfig.written"') for name in (pod["metadata"]["name"] for pod in pair.pods())}
    assert written == {name: int(name == led) for name in written}


def names(pair: Installed) -> list[str]:
    """Of the tenant, as annotations of host pods tell: each once, if nothing is doubled."""
    return sorted(pod["metadata"]["annotations"]["vcluster.loft.sh/object-name"] for pod in pair.tenant_pods())


def goes_on(pair: Installed, name: str) -> None:
    """Have a pod made, which the other replica serves meanwhile, and wait for its host pod."""
    wait_until(lambda: any(try_apply(pair, pod, name) for pod in pair.pods()), "one of the replicas takes a pod", 60)
    wait_until(lambda: name in names(pair), f"the host pod of {name}", 60)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def try_apply(pair: Installed, pod: Any, name: str) -> bool:
    if not pod["status"].get("podIP"):
        return False
    command = [str(pair.binary("kubectl")), f"--kubeconfig={directly(pair, pod)}", "apply", "--request-timeout=2s", "-f-"]
    return subprocess.run(command, input=json.dumps(web(name)), capture_output=True, text=True, check=False, timeout=30).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("how", ["pod", "container"])
def test_when_the_leader_is_killed_the_other_goes_on(pair: Installed, how: str) -> None:
    run_web(pair, f"before-{how}")
    before = {pod["metadata"]["uid"] for pod in pair.tenant_pods()}
    led, had, credentials = leader(pair), lease(pair)["spec"], pair.kubeconfig.read_text()
    if how == "pod":
        pair.host.api.request("DELETE", f"{pair.path}/pods/{led['metadata']['name']}", {"gracePeriodSeconds": 0})
    else:
        kill_container(pair, led, "syncer")
    goes_on(pair, f"after-{how}")
    has = lease(pair)["spec"]
    assert has["leaseTransitions"] == had["leaseTransitions"] + 1
    assert (moment(has["acquireTime"]) - moment(had["renewTime"])).total_seconds() < WITHIN
    pair.wait_ready(2)
    wait_until(lambda: is_ready(pair.api.get(f"/api/v1/namespaces/default/pods/after-{how}")), "the new pod is ready", 60)
    assert names(pair) == sorted(set(names(pair)))
    assert before < {pod["metadata"]["uid"] for pod in pair.tenant_pods()}
    for pod in pair.pods():
        for known in (credentials, pair.kubeconfig.read_text()):
            assert f"after-{how}" in ask(pair, pod, "get", "pods", "--output=name", credentials=known)

"""Virtual clusters that share a host namespace, with objects of the same names: nothing is mixed, and one goes without the others."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from e2e.guestbook import is_ready
from e2e.inventory import differences, inventory, wait_same
from e2e.lab import node
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from e2e.installed import Install, Installed
    from e2e.inventory import Where
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.long, pytest.mark.timeout(600)]

SHARED = "shared"
GOING = "a"
STAYING = ("a-b", "red-x-a")
"""The first begins with the name of the one that goes. `web` in `blue` of the second could be called as `web` in `blue-x-red` of `a` is."""
NAMESPACES = ("blue", "blue-x-red")
OBJECTS = yaml.safe_load((Path(__file__).parent / "manifests" / "who.yaml").read_text())["items"]


class Neighbours(NamedTuple):
    """The virtual clusters by name, and what the host had before the one that goes was there."""

    clusters: dict[str, Installed]
    before: dict[Where, str]


@pytest.fixture(scope="module")
def neighbours(install: Install, prepared_node: HostCluster) -> Neighbours:
    """All with the same in them, ready."""
    clusters = {name: install(name, SHARED, ready=False) for name in STAYING}
    for name in STAYING:
        fill(clusters[name])
    before = inventory(prepared_node.api)
    clusters[GOING] = install(GOING, SHARED, ready=False)
    fill(clusters[GOING])
    return Neighbours(clusters, before)


def who(cluster: Installed, namespace: str) -> str:
    """What the pods of a namespace say that they are."""
    return f"{cluster.name}:{namespace}"


def fill(cluster: Installed) -> None:
    """Wait for the virtual cluster, apply the same in it as in the others, and wait for that."""
    cluster.wait_ready()
    for namespace in NAMESPACES:
        cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        metadata = {"name": "who", "namespace": namespace}
        cluster.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"who": who(cluster, namespace)}})
        cluster.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"who": who(cluster, namespace)}})
        for obj in OBJECTS:
            cluster.api.apply({**obj, "metadata": {**obj["metadata"], "namespace": namespace}})
    wait_until(lambda: sum(map(is_ready, virtual_pods(cluster))) == 2 * len(NAMESPACES), f"all runs in {cluster.name}", 120)


def virtual_pods(cluster: Installed) -> list[Obj]:
    found: list[Obj] = cluster.api.get("/api/v1/pods")["items"]
    return found


def pod_of(cluster: Installed, namespace: str, app: str) -> Obj:
    (found,) = [
        pod for pod in virtual_pods(cluster) if pod["metadata"]["namespace"] == namespace and pod["metadata"]["labels"]["app"] == app
    ]
    return found


def shell(cluster: Installed, namespace: str, script: str) -> str:
    """What a shell in the StatefulSet's pod prints."""
    return cluster.kubectl("exec", f"--namespace={namespace}", "peers-0", "--", "sh", "-c", script).strip()


def test_each_has_its_own_pods_and_no_others(neighbours: Neighbours) -> None:
    seen: set[str] = set()
    for cluster in neighbours.clusters.values():
        pods = virtual_pods(cluster)
        found = {(pod["metadata"]["namespace"], pod["metadata"]["labels"]["app"]) for pod in pods}
        assert (found, len(pods)) == ({(namespace, app) for namespace in NAMESPACES for app in ("web", "peers")}, 4)
        recorded = {pod["metadata"]["annotations"]["vcluster.loft.sh/object-uid"] for pod in cluster.tenant_pods()}
        assert recorded == {pod["metadata"]["uid"] for pod in pods}
        addresses = {pod["status"]["podIP"] for pod in pods}
        assert addresses == {pod["status"]["podIP"] for pod in cluster.tenant_pods()}
        assert not addresses & seen
        seen |= addresses


def test_the_same_string_of_two_pairs_is_two_objects(neighbours: Neighbours) -> None:
    """`web` in `blue-x-red` of `a`, and `web` in `blue` of `red-x-a`: taken together by hyphens they would be one."""
    path = f"/api/v1/namespaces/{SHARED}/services"
    services = neighbours.clusters[GOING].host.api.get(path, labelSelector="vcluster.loft.sh/managed-by")["items"]
    found = {
        (service["metadata"]["labels"]["vcluster.loft.sh/managed-by"], service["metadata"]["labels"]["vcluster.loft.sh/namespace"]): service
        for service in services
        if service["metadata"]["annotations"]["vcluster.loft.sh/object-name"] == "web"
    }
    assert len(found) == len(neighbours.clusters) * len(NAMESPACES)
    assert len({service["metadata"]["name"] for service in found.values()}) == len(found)
    assert len({service["spec"]["clusterIP"] for service in found.values()}) == len(found)
    assert "web-x-blue-x-red-x-a" not in {service["metadata"]["name"] for service in found.values()}


def test_each_service_leads_to_its_own_pods(neighbours: Neighbours) -> None:
    for cluster in neighbours.clusters.values():
        for namespace in NAMESPACES:
            mine = who(cluster, namespace)
            for name in ("web", f"web.{namespace}", f"web.{namespace}.svc.cluster.local", "peers-0.peers:8080"):
                assert shell(cluster, namespace, f"wget -qO- http://{name}/who") == mine
            other = next(one for one in NAMESPACES if one != namespace)
            assert shell(cluster, namespace, f"wget -qO- http://web.{other}/who") == who(cluster, other)
            slices = cluster.host.api.get(f"/apis/discovery.k8s.io/v1/namespaces/{SHARED}/endpointslices")["items"]
            address = cluster.api.get(f"/api/v1/namespaces/{namespace}/services/web")["spec"]["clusterIP"]
            (service,) = [
                one for one in cluster.host.api.get(f"{cluster.path}/services")["items"] if one["spec"].get("clusterIP") == address
            ]
            behind = [
                ip
                for one in slices
                if one["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
                for endpoint in one["endpoints"]
                for ip in endpoint["addresses"]
            ]
            assert behind == [pod_of(cluster, namespace, "web")["status"]["podIP"]]


def test_each_name_is_answered_with_its_own_addresses(neighbours: Neighbours) -> None:
    for cluster in neighbours.clusters.values():
        for namespace in NAMESPACES:
            address = pod_of(cluster, namespace, "peers")["status"]["podIP"]
            answer = shell(cluster, namespace, f"nslookup peers.{namespace}.svc.cluster.local").split("Name:")[-1]
            assert answer.split() == [f"peers.{namespace}.svc.cluster.local", "Address:", address], answer
        assert cluster.address in shell(cluster, NAMESPACES[0], "nslookup kubernetes.default.svc.cluster.local")


def test_each_is_told_of_its_own_surroundings(neighbours: Neighbours) -> None:
    clusters = neighbours.clusters.values()
    for cluster in clusters:
        assert shell(cluster, "blue", "echo $WHO $KUBERNETES_SERVICE_HOST") == f"{cluster.name}:blue {cluster.address}"
        told = shell(cluster, "blue", "env; cat /etc/hosts /etc/resolv.conf")
        strange = {one.address for one in clusters if one is not cluster}
        strange |= {pod["status"]["podIP"] for one in clusters if one is not cluster for pod in virtual_pods(one)}
        assert not strange & set(told.replace("=", " ").split())
        assert SHARED not in told


def test_each_has_its_own_logs_and_events(neighbours: Neighbours) -> None:
    for cluster in neighbours.clusters.values():
        for namespace in NAMESPACES:
            assert cluster.kubectl("logs", f"--namespace={namespace}", "deployment/web").strip() == who(cluster, namespace)
        pods = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in virtual_pods(cluster)}
        wait_until(functools.partial(has_started, cluster, pods), f"{cluster.name} has the events of its own pods")
        text = json.dumps(cluster.api.get("/api/v1/events")["items"])
        assert SHARED not in text
        assert not [one.name for one in neighbours.clusters.values() if one is not cluster and who(one, "blue") in text]


def has_started(cluster: Installed, pods: dict[str, str]) -> bool:
    """Whether exactly these pods, names by UID, have an event that tells so."""
    events = cluster.api.get("/api/v1/events")["items"]
    about = [one["involvedObject"] for one in events if one["reason"] == "Started"]
    return {one["uid"]: one["name"] for one in about} == pods


def test_each_has_the_node_and_only_its_own_pods_on_it(neighbours: Neighbours) -> None:
    services = set()
    for cluster in neighbours.clusters.values():
        (found,) = cluster.api.get("/api/v1/nodes")["items"]
        assert found["metadata"]["name"] == node.NAME
        services |= {one["address"] for one in found["status"]["addresses"] if one["type"] == "InternalIP"}
        kubelets = cluster.api.get(f"/api/v1/nodes/{node.NAME}/proxy/pods")["items"]
        assert {pod["metadata"]["uid"] for pod in kubelets} == {pod["metadata"]["uid"] for pod in virtual_pods(cluster)}
    assert len(services) == len(neighbours.clusters), "the node's kubelet has another address in each"


def test_one_goes_and_the_others_stay_as_they_are(neighbours: Neighbours) -> None:
    staying = {name: neighbours.clusters[name] for name in STAYING}
    going = neighbours.clusters[GOING]
    lives = {name: life(cluster) for name, cluster in staying.items()}
    inside = {name: inventory(cluster.api) for name, cluster in staying.items()}
    assert len(inventory(going.host.api).keys() - neighbours.before.keys()) > 30

    going.uninstall()
    wait_same(going.host.api, neighbours.before)
    for name, cluster in staying.items():
        assert life(cluster) == lives[name]
        assert differences(inside[name], inventory(cluster.api)) == []
        assert shell(cluster, "blue-x-red", "wget -qO- http://web.blue/who") == f"{name}:blue"


def life(cluster: Installed) -> dict[str, list[tuple[str, int]]]:
    """Container ids and restarts of each host pod of a virtual cluster, its control plane too, by UID."""
    return {
        pod["metadata"]["uid"]: [(status["containerID"], status["restartCount"]) for status in pod["status"]["containerStatuses"]]
        for pod in [*cluster.pods(), *cluster.tenant_pods()]
    }

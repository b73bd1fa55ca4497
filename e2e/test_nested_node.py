"""A virtual cluster inside a virtual cluster: the chart installed by Helm with the outer one's kubeconfig, both under one name."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from e2e import guestbook
from e2e.errors import LabError
from e2e.installed import Release
from e2e.inventory import inventory, wait_same
from e2e.lab import node, provisioner
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX
from e2e.test_installed_node import CALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.installed import Install, Installed
    from e2e.inventory import Where
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.long, pytest.mark.timeout(600)]

NAME = "deep"
HOST_NAMESPACE, NAMESPACE = "surface", "team"
VALUES = {"storage": {"persistence": True, "size": "1Gi"}, "autoDeletePersistentVolumeClaims": True}
ELECTING = {**VALUES, "syncer": {"extraArgs": ["--leader-elect"]}}
WITH_NODES = {**VALUES, "sync": {"nodes": {"enabled": True}}, "rbac": {"clusterRole": {"create": True}}}
OWN = "vcluster.loft.sh"
LONG = "-".join(["long"] * 12)


class Nested(NamedTuple):
    """Both virtual clusters, and what was where before them."""

    outer: Installed
    inner: Release
    on_host: dict[Where, str]
    in_outer: dict[Where, str]


@pytest.fixture(scope="module")
def storage(prepared_node: HostCluster) -> Iterator[HostCluster]:
    """The host, with a provisioner of volumes."""
    provisioner.start(prepared_node)
    yield prepared_node
    provisioner.stop(prepared_node)


@pytest.fixture(scope="module")
def nested(storage: HostCluster, install: Install) -> Nested:
    """With the guestbook in the inner one, ready."""
    storage.create_namespace(HOST_NAMESPACE)
    on_host = settled(storage)
    outer = install(NAME, HOST_NAMESPACE, VALUES)
    outer.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    in_outer = settled(outer)
    inner = put_inside(outer, ELECTING)
    guestbook.apply(inner)
    guestbook.wait_ready(inner)
    return Nested(outer, inner, on_host, in_outer)


def put_inside(outer: Installed, values: Obj) -> Release:
    """Install another one in it, and wait until it is ready."""
    inner = Release(outer, NAME, NAMESPACE, values)
    inner.install()
    inner.wait_ready()
    return inner


def settled(cluster: guestbook.Cluster) -> dict[Where, str]:
    """The inventory, once every namespace has what the controllers put into each."""

    def is_settled() -> bool:
        counts = [
            len(cluster.api.get(path)["items"])
            for path in ("/api/v1/namespaces", "/api/v1/configmaps?fieldSelector=metadata.name=kube-root-ca.crt")
        ]
        return counts[0] == counts[1]

    wait_until(is_settled, "every namespace has its ConfigMap")
    return inventory(cluster.api)


class Levels(NamedTuple):
    """A pod of the inner virtual cluster, as it is there, in the outer one and on the host."""

    inner: Obj
    outer: Obj
    host: Obj


def levels(nested: Nested, namespace: str, name: str) -> Levels:
    pod = nested.inner.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    (outer,) = [one for one in nested.inner.tenant_pods() if one["metadata"]["annotations"][f"{OWN}/object-uid"] == pod["metadata"]["uid"]]
    (host,) = [one for one in nested.outer.tenant_pods() if one["metadata"]["annotations"][f"{OWN}/object-uid"] == outer["metadata"]["uid"]]
    return Levels(pod, outer, host)


def create_pod(nested: Nested, name: str, namespace: str = "default", **metadata: Any) -> Levels:
    """A pod that waits, with its labels and annotations in files; ready."""
    items = [{"path": path, "fieldRef": {"fieldPath": f"metadata.{path}"}} for path in ("name", "namespace", "labels", "annotations")]
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", "echo hello from $HOSTNAME; sleep 1d"]}
    mounts = [{"name": "told", "mountPath": "/told"}]
    spec = {
        "containers": [{**container, "volumeMounts": mounts}],
        "volumes": [{"name": "told", "downwardAPI": {"items": items}}],
        "terminationGracePeriodSeconds": 0,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, **metadata}, "spec": spec}
    nested.inner.api.apply(pod)
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    wait_until(lambda: guestbook.is_ready(nested.inner.api.get(path)), f"{name} is ready")
    return levels(nested, namespace, name)


def peer(nested: Nested, script: str) -> str:
    """What a shell prints in a pod two levels down, through both front doors."""
    return nested.inner.kubectl("exec", "--namespace=guestbook", "peers-0", "--", "sh", "-c", script).strip()


def test_what_runs_two_levels_down_runs_on_the_node(nested: Nested) -> None:
    guestbook.write_entry(nested.inner, "from-below")
    guestbook.read_entry(nested.inner, "from-below")
    found = levels(nested, "guestbook", "peers-0")
    for pod in found:
        assert pod["spec"]["nodeName"] == node.NAME
        assert pod["status"]["podIP"] == found.host["status"]["podIP"]
        assert pod["status"]["containerStatuses"][0]["containerID"] == found.host["status"]["containerStatuses"][0]["containerID"]
    assert [one["metadata"]["name"] for one in nested.inner.api.get("/api/v1/nodes")["items"]] == [node.NAME]
    kubelets = nested.inner.api.get(f"/api/v1/nodes/{node.NAME}/proxy/pods")["items"]
    pods = nested.inner.api.get("/api/v1/pods")["items"]
    assert {pod["metadata"]["uid"] for pod in kubelets} == {pod["metadata"]["uid"] for pod in pods}


def test_logs_and_exec_pass_both_front_doors(nested: Nested) -> None:
    create_pod(nested, "talker")
    assert nested.inner.kubectl("logs", "talker") == "hello from talker\n"
    assert nested.inner.kubectl("exec", "talker", "--", "hostname") == "talker\n"
    assert nested.inner.kubectl("exec", "--stdin", "talker", "--", "sh", "-c", "cat; exit 3", stdin="ping\n", check=False).startswith(
        "ping\n"
    )
    content = hashlib.sha256(b"x").digest() * 100_000
    (nested.inner.directory / "content").write_bytes(content)
    nested.inner.kubectl("cp", str(nested.inner.directory / "content"), "talker:/tmp/content")
    assert nested.inner.kubectl("exec", "talker", "--", "sha256sum", "/tmp/content").split()[0] == hashlib.sha256(content).hexdigest()
    debugged = nested.inner.kubectl(
        "debug", "talker", f"--image={BUSYBOX}", "--profile=general", "--container=late", "--", "sh", "-c", "echo late"
    )
    wait_until(lambda: nested.inner.kubectl("logs", "talker", "--container=late", check=False) == "late\n", f"debugged: {debugged}")


def test_a_port_is_forwarded_through_both(nested: Nested) -> None:
    path = "/api/v1/namespaces/guestbook/pods/peers-0:8080/proxy/hostname"
    assert nested.inner.kubectl("get", "--raw", path) == "peers-0"
    command = [str(nested.inner.binary("kubectl")), f"--kubeconfig={nested.inner.kubeconfig}", "--namespace=guestbook"]
    with subprocess.Popen([*command, "port-forward", "peers-0", ":8080"], stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            port = forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
            asked = subprocess.run(
                ["busybox", "wget", "-qO-", f"http://127.0.0.1:{port}/hostname"], capture_output=True, text=True, timeout=30, check=True
            )
            assert asked.stdout == "peers-0"
        finally:
            forward.kill()


def test_names_are_those_of_the_inner_one(nested: Nested) -> None:
    for name in ("peers-1.peers", "peers-1.peers.guestbook.svc.cluster.local"):
        assert peer(nested, f"wget -qO- http://{name}:8080/hostname") == "peers-1"
    assert peer(nested, "echo $KUBERNETES_SERVICE_HOST") == nested.inner.address
    assert nested.inner.address in peer(nested, "nslookup kubernetes.default.svc.cluster.local")
    assert nested.inner.address != nested.outer.address
    hosts = [line.split() for line in peer(nested, "cat /etc/hosts").splitlines()]
    assert [line[0] for line in hosts if "kubernetes.default.svc" in line] == [nested.inner.address]
    inner = [pod for pod in guestbook.pods(nested.inner) if pod["metadata"]["name"].startswith("peers-")]
    answer = peer(nested, "nslookup peers.guestbook.svc.cluster.local")
    assert {pod["status"]["podIP"] for pod in inner} <= set(answer.split())
    assert "NXDOMAIN" in peer(nested, f"nslookup {NAME}.{NAMESPACE}.svc.cluster.local || true"), "names of the outer one are not known"


def test_addresses_of_services_are_those_of_the_host(nested: Nested) -> None:
    service = nested.inner.api.get("/api/v1/namespaces/guestbook/services/frontend")
    outer = nested.outer.api.get(f"/api/v1/namespaces/{NAMESPACE}/services", labelSelector=f"{OWN}/managed-by={NAME}")["items"]
    host = nested.outer.host.api.get(f"{nested.outer.path}/services", labelSelector=f"{OWN}/managed-by={NAME}")["items"]
    for services in (outer, host):
        assert service["spec"]["clusterIP"] in {one["spec"]["clusterIP"] for one in services}
    node_port = {"type": "NodePort", "selector": {"app": "peers"}, "ports": [{"port": 80, "targetPort": 8080}]}
    metadata = {"name": "everywhere", "namespace": "guestbook"}
    made = nested.inner.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": node_port})
    port = made["spec"]["ports"][0]["nodePort"]
    assert port in {
        item.get("nodePort") for one in nested.outer.host.api.get(f"{nested.outer.path}/services")["items"] for item in one["spec"]["ports"]
    }

    ask = ("busybox", "timeout", "5", "busybox", "wget", "-qO-", f"http://{node.ADDRESS}:{port}/hostname")

    def answers() -> bool:
        try:
            return node.run(nested.inner.lab, *ask).startswith("peers-")
        except LabError:  # kube-proxy has not heard of it yet
            return False

    wait_until(answers, "the node port leads two levels down")
    nested.inner.api.delete("/api/v1/namespaces/guestbook/services/everywhere")


def test_endpoints_made_by_hand_lead_there(nested: Nested) -> None:
    """In both forms, the older of which the outer one's controllers mirror."""
    address = levels(nested, "guestbook", "peers-1").inner["status"]["podIP"]  # not the asker's own, to which no way leads back
    port = {"port": 8080, "name": "http", "protocol": "TCP"}
    for name in ("sliced", "pointed"):
        spec = {"ports": [{"port": 80, "name": "http"}]}
        nested.inner.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "guestbook"}, "spec": spec})
    nested.inner.api.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "sliced", "namespace": "guestbook", "labels": {"kubernetes.io/service-name": "sliced"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address]}],
            "ports": [port],
        }
    )
    metadata = {"name": "pointed", "namespace": "guestbook"}
    subsets = [{"addresses": [{"ip": address}], "ports": [port]}]
    nested.inner.api.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets})
    for name in ("sliced", "pointed"):
        ask = f"for i in $(seq 20); do timeout 3 wget -qO- http://{name}/hostname && break; sleep 1; done"
        assert peer(nested, ask) == "peers-1"


def test_a_claim_is_a_volume_of_the_host(nested: Nested) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}}
    metadata = {"name": "kept", "namespace": "default"}
    nested.inner.api.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", "echo written >/kept/it; sleep 1d"]}
    spec = {
        "containers": [{**container, "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}],
        "volumes": [{"name": "kept", "persistentVolumeClaim": {"claimName": "kept"}}],
        "terminationGracePeriodSeconds": 0,
    }
    nested.inner.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "keeper", "namespace": "default"}, "spec": spec})
    wait_until(lambda: guestbook.is_ready(nested.inner.api.get("/api/v1/namespaces/default/pods/keeper")), "it has its volume")
    name = nested.inner.api.get("/api/v1/namespaces/default/persistentvolumeclaims/kept")["spec"]["volumeName"]
    assert nested.inner.api.get(f"/api/v1/persistentvolumes/{name}")["spec"]["claimRef"]["name"] == "kept"
    assert nested.outer.host.api.find(f"/api/v1/persistentvolumes/{name}")
    directories = node.run(nested.inner.lab, "find", provisioner.DIRECTORY, "-name", "it").split()
    assert [node.run(nested.inner.lab, "cat", path) for path in directories] == ["written\n"]


def test_a_refusal_of_the_host_is_told_two_levels_down(nested: Nested) -> None:
    count = len(nested.outer.host.api.get(f"{nested.outer.path}/pods")["items"])
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full", "namespace": HOST_NAMESPACE}}
    nested.outer.host.api.apply({**quota, "spec": {"hard": {"pods": str(count)}}})
    path = f"{nested.outer.path}/resourcequotas/full"
    wait_until(lambda: nested.outer.host.api.get(path).get("status", {}).get("used", {}).get("pods") == str(count), "the quota counts")
    try:
        metadata = {"name": "one-too-many", "namespace": "default"}
        spec = {"containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "1d"]}], "terminationGracePeriodSeconds": 0}
        nested.inner.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        pod = "/api/v1/namespaces/default/pods/one-too-many"

        def told() -> Obj:
            return next((one for one in nested.inner.api.get(pod)["status"].get("conditions", ()) if one["type"] == "PodScheduled"), {})

        wait_until(lambda: told().get("reason") == "ExceededQuota", "the condition has come down")
        assert "quota" in told()["message"]
        version = nested.inner.api.get(pod)["metadata"]["resourceVersion"]
        changes = nested.inner.api.watch(
            "/api/v1/namespaces/default/pods", version, fieldSelector="metadata.name=one-too-many", timeoutSeconds="5"
        )
        assert len(list(changes)) < 3, "nobody writes it again and again"
        assert told()["reason"] == "ExceededQuota"
        wait_until(
            lambda: "ExceededQuota" in nested.inner.kubectl("get", "events", "--field-selector=involvedObject.name=one-too-many"),
            "the event",
        )
    finally:
        nested.outer.host.api.delete(path)
    wait_until(lambda: guestbook.is_ready(nested.inner.api.get(pod)), "it runs as soon as there is room")


def test_marks_of_both_are_kept_apart(nested: Nested) -> None:
    labels = {"app": "vcluster", "release": NAME, f"{OWN}/managed-by": "somebody"}
    found = create_pod(nested, "marked", labels=labels, annotations={"told": "this", f"{OWN}/object-name": "another"})
    assert found.outer["metadata"]["labels"][f"{OWN}/managed-by"] == NAME
    assert found.outer["metadata"]["annotations"][f"{OWN}/object-name"] == "marked"
    assert found.host["metadata"]["labels"][f"{OWN}/namespace"] == NAMESPACE
    assert found.host["metadata"]["annotations"][f"{OWN}/object-name"] == found.outer["metadata"]["name"]
    assert "release" not in {**found.outer["metadata"]["labels"], **found.host["metadata"]["labels"]}

    def told(what: str) -> str:
        return nested.inner.kubectl("exec", "marked", "--", "cat", f"/told/{what}")

    assert (told("name"), told("namespace")) == ("marked", "default")
    assert told("labels").splitlines() == ['app="vcluster"', f'release="{NAME}"', f'{OWN}/managed-by="somebody"']
    assert 'told="this"' in told("annotations")
    nested.inner.kubectl("label", "pod", "marked", "app-", "more=yes")
    wait_until(lambda: levels(nested, "default", "marked").host["metadata"]["labels"].get("more") == "yes", "the label is on the host")
    assert "app" not in levels(nested, "default", "marked").host["metadata"]["labels"]


def test_a_name_that_is_cut_twice(nested: Nested) -> None:
    nested.inner.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LONG}})
    found = create_pod(nested, LONG, LONG)
    assert len({pod["metadata"]["name"] for pod in found}) == 3
    assert nested.inner.kubectl("logs", f"--namespace={LONG}", LONG) == f"hello from {LONG}\n"
    nested.inner.api.delete(f"/api/v1/namespaces/{LONG}/pods/{LONG}")


def test_a_pod_reaches_its_api_by_its_token(nested: Nested) -> None:
    container = {"name": "main", "image": "lab.local/syncer:0", "imagePullPolicy": "Never", "command": ["python3", "-c", CALL]}
    spec = {"containers": [container], "restartPolicy": "Never"}
    nested.inner.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller", "namespace": "default"}, "spec": spec})
    path = "/api/v1/namespaces/default/pods/caller"
    wait_until(lambda: nested.inner.api.get(path)["status"]["phase"] in ("Succeeded", "Failed"), "the caller has ended", 60)
    assert nested.inner.kubectl("logs", "caller").split() == ["200", "200"]


def test_events_speak_of_the_inner_one(nested: Nested) -> None:
    create_pod(nested, "eventful")

    def reasons() -> set[str]:
        events = nested.inner.api.get("/api/v1/namespaces/default/events")["items"]
        return {one["reason"] for one in events if one["involvedObject"]["name"] == "eventful"}

    wait_until(lambda: {"Scheduled", "Pulled", "Created", "Started"} <= reasons(), "the host's events have come down both levels")
    text = json.dumps([one["message"] for one in nested.inner.api.get("/api/v1/events")["items"]])
    assert "-x-" not in text
    assert HOST_NAMESPACE not in text
    assert "eventful" in nested.inner.kubectl("get", "events")


def account(nested: Nested) -> Obj:
    """What is in the token by which the inner syncer speaks to its host."""
    script = "print(open('/var/run/secrets/kubernetes.io/serviceaccount/token').read())"
    token = nested.outer.kubectl("exec", f"--namespace={NAMESPACE}", f"{NAME}-0", "--container=syncer", "--", "python3", "-c", script)
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.strip()}}
    status = nested.outer.api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    assert status["authenticated"], status
    claims = token.split(".")[1]
    found: Obj = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return found


def test_the_inner_syncer_is_known_to_the_outer_api_alone(nested: Nested) -> None:
    found = account(nested)
    (pod,) = nested.inner.pods()
    assert found["sub"] == f"system:serviceaccount:{NAMESPACE}:vc-{NAME}"
    assert found["kubernetes.io"]["pod"]["uid"] == pod["metadata"]["uid"]
    rights = nested.outer.api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
    assert not [one for one in rights if one["metadata"]["labels"].get("release") == NAME], "a Role is enough"


def test_its_token_is_renewed(nested: Nested) -> None:
    before = account(nested)
    host, mark = nested.outer.host.api, f"{OWN}/token-expiry"
    secrets = host.get(f"{nested.outer.path}/secrets", labelSelector=f"{OWN}/managed-by={NAME}")["items"]
    (pod,) = [one for one in nested.outer.tenant_pods() if one["metadata"]["annotations"][f"{OWN}/object-name"] == f"{NAME}-0"]
    used = {
        source["secret"]["name"]
        for volume in pod["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "secret" in source
    }
    (secret,) = [one for one in secrets if one["metadata"]["name"] in used]
    assert mark in secret["metadata"]["annotations"], secret["metadata"]["annotations"]
    patch = {"metadata": {"annotations": {mark: None}}}
    path = f"{nested.outer.path}/secrets/{secret['metadata']['name']}"
    host.request("PATCH", path, patch, content_type="application/merge-patch+json")
    wait_until(lambda: account(nested)["exp"] > before["exp"], "the kubelet has mounted another token", 180)
    create_pod(nested, "afterwards")


def test_a_restart_of_either_control_plane_leaves_all_as_it_is(nested: Nested) -> None:
    before, inside = identities(nested.outer.tenant_pods()), identities(guestbook.pods(nested.inner))
    for one in (nested.inner, nested.outer):
        (pod,) = one.pods()
        one.host.api.delete(f"{one.path}/pods/{NAME}-0")
        wait_until(functools.partial(is_another, one, pod["metadata"]["uid"]), "another pod of the control plane", 60)
        one.wait_ready()
        guestbook.wait_ready(nested.inner)
    after = identities(nested.outer.tenant_pods())
    assert identities(guestbook.pods(nested.inner)) == inside
    assert len(before.keys() - after.keys()) == 1, "only the inner control plane's own pod"
    assert {restarts for _, restarts in after.values()} == {0}
    create_pod(nested, "later")


def is_another(release: Release, uid: str) -> bool:
    return any(found["metadata"]["uid"] != uid for found in release.pods())


def identities(pods: list[Obj]) -> dict[str, tuple[str, int]]:
    """Container and restarts of pods, by UID."""
    return {
        pod["metadata"]["uid"]: (status["containerID"], status["restartCount"])
        for pod in pods
        for status in pod["status"]["containerStatuses"][:1]
    }


def test_the_inner_one_goes_and_leaves_nothing_in_the_outer(nested: Nested) -> None:
    nested.inner.uninstall()
    wait_same(nested.outer.api, nested.in_outer)


def test_the_outer_one_goes_and_leaves_nothing_on_the_host(nested: Nested) -> None:
    again = put_inside(nested.outer, WITH_NODES)
    assert not [where for where in inventory(nested.outer.host.api).keys() - nested.on_host.keys() if "clusterrole" in where.plural]
    guestbook.apply(again)
    guestbook.wait_ready(again)
    assert [one["metadata"]["name"] for one in again.api.get("/api/v1/nodes")["items"]] == [node.NAME]
    nested.outer.uninstall()
    wait_same(nested.outer.host.api, nested.on_host)

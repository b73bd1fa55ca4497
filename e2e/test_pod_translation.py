"""A real API server takes what pods are translated to. It plays both parts: fills in the virtual pod, then judges the host pod."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until
from syncer.kube.types import PODS, Key, key_of, labels_of
from syncer.naming import LABEL_MANAGED_BY, Names
from syncer.translate.downward import pod_annotations
from syncer.translate.metadata import host_metadata, metadata_patch, virtual_key
from syncer.translate.podspec import host_pod_spec
from syncer.translate.podupdate import created_annotations, host_ephemeral_update, host_pod_update
from syncer.translate.status import host_gate_conditions, status_patch, virtual_pod_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from e2e.lab.api import Api, Obj
    from e2e.lab.host import HostCluster

pytestmark = pytest.mark.apiserver

VIRTUAL, HOST = "translated-from", "translated-to"
NAMES = Names("vc", HOST)
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Policy:
    cluster_domain: str = "cluster.local"
    service_account: str = ""
    translate_images: Mapping[str, str] = field(default_factory=dict)
    enforced_tolerations: tuple[Obj, ...] = ()
    node_selector: str = ""
    enforce_node_selector: bool = True


@pytest.fixture(scope="module")
def api(host_cluster: HostCluster) -> Iterator[Api]:
    api = host_cluster.api
    for namespace in (VIRTUAL, HOST):
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    api.request(
        "POST",
        "/apis/node.k8s.io/v1/runtimeclasses",
        {"metadata": {"name": "translated"}, "handler": "translated", "overhead": {"podFixed": {"cpu": "100m"}}},
    )
    for namespace in (VIRTUAL, HOST):
        wait_until(partial(exists, api, f"/api/v1/namespaces/{namespace}/serviceaccounts/default"), "no default service account")
    yield api
    for namespace in (VIRTUAL, HOST):
        api.request("DELETE", f"/api/v1/namespaces/{namespace}")
    api.request("DELETE", "/apis/node.k8s.io/v1/runtimeclasses/translated")


def exists(api: Api, path: str) -> bool:
    return api.find(path) is not None


def pods(namespace: str, name: str = "", subresource: str = "") -> str:
    return PODS.path(namespace, name, subresource)


def make(name: str, **spec: Any) -> Obj:
    containers = [{"name": "app", "image": "example.test/app:1"}]
    metadata = {"name": name, "namespace": VIRTUAL, "labels": {"app": "web", "release": "r", "pod-template-hash": "1"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}


def on_host(virtual: Obj) -> Obj:
    spec = host_pod_spec(
        NAMES,
        Policy(),
        virtual,
        api_address="10.1.0.1",
        dns_address="10.1.0.10",
        services=(),
        token_secret="tokens",
        namespaces_matching=lambda _selector: [],
    )
    metadata = host_metadata(NAMES, None, PODS, virtual, annotations=created_annotations(virtual))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def variable(path: str) -> Obj:
    return {"name": "A" + "".join(filter(str.isalpha, path)), "valueFrom": {"fieldRef": {"fieldPath": path}}}


def item(path: str) -> Obj:
    return {"path": path.replace("/", "-"), "fieldRef": {"fieldPath": path}}


def term(**fields: Any) -> Obj:
    return {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}, **fields}


IN_LABELS = "metadata.labels['release']"
FACTS = ["metadata.name", "metadata.namespace", "metadata.uid", IN_LABELS, "metadata.annotations['a']"]
TOKEN = {"serviceAccountToken": {"path": "some/token", "audience": "a", "expirationSeconds": 600}}
GROUPED = {
    "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            term(matchLabelKeys=["pod-template-hash", "release", "absent"]),
            term(namespaces=["a", "b"]),
            term(namespaceSelector={}),
            term(namespaceSelector={"matchLabels": {"a": "b"}}),
        ],
    },
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": term(mismatchLabelKeys=["pod-template-hash"])},
            {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}},
        ],
    },
}
SPREAD = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}

CASES: dict[str, Obj] = {
    "plain": make("plain"),
    "dots.and." + "n" * 200: make("dots.and." + "n" * 200),
    "host network": make("net", hostNetwork=True, hostAliases=[{"ip": "10.1.0.1", "hostnames": ["a"]}]),
    "host network with cluster DNS": make("net-dns", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
    "stable name": make("stable-0", hostname="stable-0", subdomain="stable", setHostnameAsFQDN=True),
    "name override": make("override", hostnameOverride="other.example"),
    "runtime class with overhead": make("sandboxed", runtimeClassName="translated"),
    "all the search domains it may have": make(
        "searches",
        dnsConfig={"searches": [f"d{n}.example" for n in range(32)], "nameservers": ["1.1.1.1", "1.0.0.1", "8.8.8.8"]},
    ),
    "affinity": make("affinity", affinity=GROUPED),
    "spread": make(
        "spread",
        topologySpreadConstraints=[
            {**SPREAD, "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["pod-template-hash", "release"]},
            {**SPREAD, "topologyKey": "zone"},
        ],
    ),
    "downward": make(
        "downward",
        containers=[
            {
                "name": "app",
                "image": "i",
                "env": [variable(path) for path in [*FACTS, "spec.serviceAccountName", "status.podIP", "spec.nodeName", "status.hostIPs"]],
            }
        ],
        volumes=[
            {"name": "v", "downwardAPI": {"items": [item(path) for path in [*FACTS, "metadata.labels", "metadata.annotations"]]}},
        ],
    ),
    "volumes": make(
        "volumes",
        imagePullSecrets=[{"name": "p"}],
        volumes=[
            {"name": "a", "configMap": {"name": "c"}},
            {"name": "b", "secret": {"secretName": "s", "optional": True}},
            {"name": "c", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}, TOKEN]}},
            {"name": "d", "persistentVolumeClaim": {"claimName": "d"}},
            {
                "name": "e",
                "ephemeral": {
                    "volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
                },
            },
            {"name": "f", "csi": {"driver": "d.example", "nodePublishSecretRef": {"name": "s"}}},
            {"name": "g", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.com.example:x", "lun": 0, "secretRef": {"name": "s"}}},
            {"name": "h", "cephfs": {"monitors": ["1.2.3.4"], "secretRef": {"name": "s"}}},
            {"name": "i", "azureFile": {"secretName": "s", "shareName": "x"}},
            {"name": "j", "flexVolume": {"driver": "e.com/d", "secretRef": {"name": "s"}}},
            {"name": "k", "emptyDir": {}},
            {"name": "l", "hostPath": {"path": "/var/log"}},
        ],
    ),
    "claims of devices": make("gpu", resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}]),
}


@pytest.mark.parametrize("case", CASES)
def test_accepted(api: Api, case: str) -> None:
    virtual = api.request("POST", pods(VIRTUAL), CASES[case], params={"dryRun": "All"})
    host = api.request("POST", pods(HOST), on_host(virtual), params={"dryRun": "All", "fieldValidation": "Strict"})
    assert virtual_key(NAMES, PODS, host) == key_of(virtual)
    assert labels_of(host)[LABEL_MANAGED_BY] == "vc"
    # nothing of it is changed or dropped on the way, so that nothing has to be mended right after
    assert host_pod_update(Policy(), virtual, host) is None
    assert metadata_patch(NAMES, None, PODS, virtual, host, annotations=pod_annotations(virtual)) is None


def test_a_running_pod_is_kept_current(api: Api) -> None:
    virtual = api.request(
        "POST", pods(VIRTUAL), make("changing", schedulingGates=[{"name": "a.b/c"}], readinessGates=[{"conditionType": "x.y/z"}])
    )
    host = api.request("POST", pods(HOST), on_host(virtual))
    name, host_name = key_of(virtual).name, NAMES.host_key(Key(VIRTUAL, "changing")).name

    changes = {
        "containers": [{"name": "app", "image": "example.test/app:2"}],
        "activeDeadlineSeconds": 600,
        "tolerations": [*virtual["spec"]["tolerations"], {"key": "k", "operator": "Exists"}],
        "schedulingGates": [{"$patch": "delete", "name": "a.b/c"}],
        "nodeSelector": {"disk": "ssd"},
    }
    labels = {"app": "changed", "release": None}
    virtual = api.request("PATCH", pods(VIRTUAL, name), {"metadata": {"labels": labels}, "spec": changes}, content_type=STRATEGIC)
    body = host_pod_update(Policy(), virtual, host)
    assert body is not None
    host = api.request("PATCH", pods(HOST, host_name), body, content_type=STRATEGIC)
    assert host["spec"]["containers"][0]["image"] == "example.test/app:2"
    assert not host["spec"].get("schedulingGates")
    assert host_pod_update(Policy(), virtual, host) is None

    body = metadata_patch(NAMES, None, PODS, virtual, host, annotations=pod_annotations(virtual))
    host = api.request("PATCH", pods(HOST, host_name), body, content_type=MERGE)
    assert metadata_patch(NAMES, None, PODS, virtual, host, annotations=pod_annotations(virtual)) is None

    debug = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox", "targetContainerName": "app"}]}}
    virtual = api.request("PATCH", pods(VIRTUAL, name, "ephemeralcontainers"), debug, content_type=STRATEGIC)
    body = host_ephemeral_update(NAMES, Policy(), virtual, host, api_address="10.1.0.1", services=())
    host = api.request("PATCH", pods(HOST, host_name, "ephemeralcontainers"), body, content_type=STRATEGIC)
    assert host["spec"]["ephemeralContainers"][0]["name"] == "debug"

    gate = {"type": "x.y/z", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    virtual = api.request("PATCH", pods(VIRTUAL, name, "status"), {"status": {"conditions": [gate]}}, content_type=STRATEGIC)
    host = api.request("PATCH", pods(HOST, host_name, "status"), host_gate_conditions(virtual, host), content_type=STRATEGIC)
    assert host_gate_conditions(virtual, host) is None

    for number in (3, 4):
        seen = {
            "observedGeneration": host["metadata"]["generation"],
            "phase": "Running",
            "startTime": "2026-01-01T00:00:00Z",
            "podIP": f"10.2.0.{number}",
            "podIPs": [{"ip": f"10.2.0.{number}"}],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "R", "observedGeneration": host["metadata"]["generation"]}
                if number == 3
                else {"type": "Ready", "status": "True", "reason": None, "observedGeneration": host["metadata"]["generation"]}
            ],
            "containerStatuses": [
                {
                    "name": "app",
                    "image": "i",
                    "imageID": "i",
                    "ready": False,
                    "restartCount": number,
                    "state": {"waiting": {"reason": "W", "message": f"{host_name} waits"}},
                }
            ],
            "nominatedNodeName": "n" if number == 3 else None,
        }
        if number == 4:
            seen["podIPs"].insert(0, {"$patch": "replace"})
        host = api.request("PATCH", pods(HOST, host_name, "status"), {"status": seen}, content_type=STRATEGIC)
        wanted = virtual_pod_status(NAMES, virtual, host)
        virtual = api.request("PATCH", pods(VIRTUAL, name, "status"), status_patch(virtual, wanted), content_type=STRATEGIC)
        status = virtual["status"]
        assert status["observedGeneration"] == virtual["metadata"]["generation"]
        assert status["podIPs"] == [{"ip": f"10.2.0.{number}"}]
        assert status["containerStatuses"][0]["state"]["waiting"]["message"] == "changing waits"
        assert {condition["type"] for condition in status["conditions"]} == {"PodScheduled", "Ready", "x.y/z"} & {
            condition["type"] for condition in host["status"]["conditions"]
        }
        assert status.get("nominatedNodeName") == ("n" if number == 3 else None)
        assert status_patch(virtual, virtual_pod_status(NAMES, virtual, host)) is None

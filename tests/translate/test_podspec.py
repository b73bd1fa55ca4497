from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from syncer.kube.types import Obj
from syncer.naming import LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.translate.podspec import host_ephemeral_containers, uses_cluster_dns
from syncer.translate.references import Kind

Call = Callable[..., Any]

DNS = {
    "nameservers": ["10.1.0.10"],
    "searches": ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"],
    "options": [{"name": "ndots", "value": "5"}],
}
ALIAS = {"ip": "10.1.0.1", "hostnames": ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]}
API_ENV = [
    {"name": "KUBERNETES_PORT", "value": "tcp://10.1.0.1:443"},
    {"name": "KUBERNETES_PORT_443_TCP", "value": "tcp://10.1.0.1:443"},
    {"name": "KUBERNETES_PORT_443_TCP_ADDR", "value": "10.1.0.1"},
    {"name": "KUBERNETES_PORT_443_TCP_PORT", "value": "443"},
    {"name": "KUBERNETES_PORT_443_TCP_PROTO", "value": "tcp"},
    {"name": "KUBERNETES_SERVICE_HOST", "value": "10.1.0.1"},
    {"name": "KUBERNETES_SERVICE_PORT", "value": "443"},
    {"name": "KUBERNETES_SERVICE_PORT_HTTPS", "value": "443"},
]


def test_a_plain_pod(pod: Call, on_host: Call) -> None:
    virtual = pod()
    before = copy.deepcopy(virtual)
    assert on_host(virtual) == {
        "containers": [{"name": "app", "image": "nginx:1", "env": API_ENV}],
        "automountServiceAccountToken": False,
        "dnsConfig": DNS,
        "dnsPolicy": "None",
        "enableServiceLinks": False,
        "hostAliases": [ALIAS],
        "hostname": "web-0",
        "schedulerName": "default-scheduler",
    }
    assert virtual == before


VERBATIM: Obj = {
    "activeDeadlineSeconds": 30,
    "hostIPC": True,
    "hostPID": True,
    "hostUsers": False,
    "nodeName": "node-1",
    "nodeSelector": {"disk": "ssd"},
    "os": {"name": "linux"},
    "readinessGates": [{"conditionType": "example.com/ready"}],
    "resources": {"limits": {"cpu": "1"}},
    "restartPolicy": "Never",
    "runtimeClassName": "gvisor",
    "schedulingGates": [{"name": "example.com/gate"}],
    "securityContext": {"runAsUser": 1000},
    "shareProcessNamespace": True,
    "someFutureField": {"deep": [{"a": 1}]},
    "terminationGracePeriodSeconds": 5,
    "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
}


def test_what_passes_unchanged(pod: Call, on_host: Call) -> None:
    spec = on_host(pod(**VERBATIM))
    assert {field: spec[field] for field in VERBATIM} == VERBATIM


@pytest.mark.parametrize(
    "field",
    [
        {"serviceAccountName": "builder"},
        {"serviceAccount": "builder"},
        {"priority": 1000},
        {"priorityClassName": "high"},
        {"preemptionPolicy": "Never"},
        {"overhead": {"cpu": "250m"}},
        {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]},
    ],
)
def test_what_is_left_to_the_host(pod: Call, on_host: Call, field: Obj) -> None:
    assert next(iter(field)) not in on_host(pod(**field))


def test_service_account_of_the_host(pod: Call, policy: Call, on_host: Call) -> None:
    spec = on_host(pod(automountServiceAccountToken=True), policy=policy(service_account="vc-workload"))
    assert spec["serviceAccountName"] == "vc-workload"
    assert spec["automountServiceAccountToken"] is False


def test_images(pod: Call, policy: Call, on_host: Call) -> None:
    containers = [{"name": "a", "image": "nginx:1"}, {"name": "b", "image": "nginx:11"}, {"name": "c"}]
    spec = on_host(pod(containers=containers, initContainers=containers), policy=policy(translate_images={"nginx:1": "mirror/nginx:1"}))
    for field in ("containers", "initContainers"):
        assert [item.get("image") for item in spec[field]] == ["mirror/nginx:1", "nginx:11", None]


def test_environment(pod: Call, on_host: Call) -> None:
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.1.0.5", "ports": [{"name": "http", "port": 80}]},
    }
    own = [
        {"name": "KUBERNETES_SERVICE_HOST", "value": "mine"},
        {"name": "URL", "value": "http://$(WEB_SERVICE_HOST)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    env_from = [{"prefix": "WEB_", "configMapRef": {"name": "c"}}]
    virtual = pod(containers=[{"name": "app", "image": "i", "env": own, "envFrom": env_from}])

    def data_keys(kind: Kind, name: str) -> list[str]:
        assert (kind, name) == (Kind.CONFIGMAP, "c")
        return ["PORT", "OTHER"]

    container = on_host(virtual, services=[service], data_keys=data_keys)["containers"][0]
    env = container["env"]
    added = [variable["name"] for variable in env[: -len(own)]]
    assert added == sorted(added)
    assert "KUBERNETES_SERVICE_HOST" not in added
    assert "WEB_PORT" not in added  # comes from envFrom
    assert {"WEB_SERVICE_HOST", "WEB_SERVICE_PORT_HTTP", "WEB_PORT_80_TCP"} <= set(added)
    assert env[-len(own) :] == [
        own[0],
        own[1],
        {"name": "POD", "value": "web-0"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s-x-default-x-vc", "key": "k"}}},
    ]
    assert container["envFrom"] == [{"prefix": "WEB_", "configMapRef": {"name": "c-x-default-x-vc"}}]

    virtual["spec"]["enableServiceLinks"] = False
    env = on_host(virtual, services=[service])["containers"][0]["env"]
    assert not any(variable["name"].startswith("WEB_") for variable in env)


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        (None, [ALIAS]),
        ([{"ip": "1.2.3.4", "hostnames": ["a"]}], [{"ip": "1.2.3.4", "hostnames": ["a"]}, ALIAS]),
        ([{"ip": "10.1.0.1", "hostnames": ["a", "kubernetes"]}], [{"ip": "10.1.0.1", "hostnames": ["a", *ALIAS["hostnames"]]}]),
        ([{**ALIAS, "ip": "10.9.0.1"}], [{**ALIAS, "ip": "10.9.0.1"}]),
        (
            [{"ip": "1.2.3.4", "hostnames": ["kubernetes"]}],
            [{"ip": "1.2.3.4", "hostnames": ["kubernetes"]}, {**ALIAS, "hostnames": ALIAS["hostnames"][1:]}],
        ),
    ],
)
@pytest.mark.parametrize("host_network", [True, False])
def test_host_aliases(pod: Call, on_host: Call, aliases: Any, expected: Any, host_network: bool) -> None:
    assert on_host(pod(hostAliases=aliases, hostNetwork=host_network))["hostAliases"] == expected


@pytest.mark.parametrize(
    ("spec", "virtual_dns"),
    [
        ({"dnsPolicy": None}, True),
        ({"dnsPolicy": "ClusterFirst"}, True),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, False),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, True),
        ({"dnsPolicy": "ClusterFirstWithHostNet"}, True),
        ({"dnsPolicy": "Default"}, False),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}, False),
    ],
)
def test_dns_policy(pod: Call, on_host: Call, spec: Obj, virtual_dns: bool) -> None:
    virtual = pod(**spec)
    host = on_host(virtual)
    assert uses_cluster_dns(virtual) == virtual_dns
    if virtual_dns:
        assert (host["dnsPolicy"], host["dnsConfig"]) == ("None", DNS)
    else:
        assert (host.get("dnsPolicy"), host.get("dnsConfig")) == (spec["dnsPolicy"], spec.get("dnsConfig"))


def test_dns_config_of_the_tenant(pod: Call, policy: Call, on_host: Call) -> None:
    config = {
        "nameservers": ["1.1.1.1", "10.1.0.10", "2.2.2.2", "3.3.3.3"],
        "searches": ["example.com", "svc.vc.internal"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        "future": 1,
    }
    assert on_host(pod(dnsConfig=config), policy=policy(cluster_domain="vc.internal"))["dnsConfig"] == {
        "nameservers": ["10.1.0.10", "1.1.1.1", "2.2.2.2"],
        "searches": ["default.svc.vc.internal", "svc.vc.internal", "vc.internal", "example.com"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        "future": 1,
    }
    options = [{"name": "timeout", "value": "1"}]
    assert on_host(pod(dnsConfig={"options": options}))["dnsConfig"]["options"] == [{"name": "ndots", "value": "5"}, *options]


@pytest.mark.parametrize("searches", [[f"d{number}.example" for number in range(32)], [f"{'d' * 200}.{number}" for number in range(20)]])
def test_dns_limits(pod: Call, on_host: Call, searches: list[str]) -> None:
    result = on_host(pod(dnsConfig={"searches": searches}))["dnsConfig"]["searches"]
    assert len(result) <= 32
    assert len(" ".join(result)) <= 2048
    assert len(result) == 32 or len(" ".join(result)) > 2048 - 203
    assert result == ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", *searches][: len(result)]


def test_without_a_dns_service_a_pod_gets_the_nodes_resolver(pod: Call, on_host: Call) -> None:
    spec = on_host(pod(), dns_address=None)
    assert spec["dnsPolicy"] == "Default"
    assert "nameservers" not in spec["dnsConfig"]
    spec = on_host(pod(dnsConfig={"nameservers": ["1.1.1.1"]}), dns_address=None)
    assert (spec["dnsPolicy"], spec["dnsConfig"]["nameservers"]) == ("None", ["1.1.1.1"])


@pytest.mark.parametrize(
    ("name", "spec", "hostname"),
    [
        ("web-0", {}, "web-0"),
        ("web-0", {"hostname": "mine", "subdomain": "web"}, "mine"),
        ("a.b.c", {}, "a-b-c"),
        ("n" * 62 + "-x", {}, "n" * 62),
        ("n" * 62 + ".x", {}, "n" * 62),
        ("n" * 70, {}, "n" * 63),
    ],
)
def test_hostname(pod: Call, on_host: Call, name: str, spec: Obj, hostname: str) -> None:
    virtual = pod(**spec)
    virtual["metadata"]["name"] = name
    assert on_host(virtual)["hostname"] == hostname


def test_subdomain_goes_and_takes_fqdn_along(pod: Call, on_host: Call) -> None:
    spec = on_host(pod(subdomain="web", setHostnameAsFQDN=True))
    assert "subdomain" not in spec
    assert "setHostnameAsFQDN" not in spec
    assert on_host(pod(setHostnameAsFQDN=False))["setHostnameAsFQDN"] is False


def test_volumes(pod: Call, on_host: Call) -> None:
    access = {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}, "future": 1},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            {"clusterTrustBundle": {"name": "x", "path": "y"}},
        ],
    }
    volumes = [
        {"name": "kube-api-access-abcde", "projected": access},
        {"name": "host", "hostPath": {"path": "/var/log"}},
        {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
        {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "empty", "projected": {"sources": None}},
    ]
    namespace = "metadata.annotations['vcluster.loft.sh/namespace']"
    assert on_host(pod(volumes=volumes))["volumes"] == [
        {
            "name": "kube-api-access-abcde",
            "projected": {
                "defaultMode": 420,
                "sources": [
                    {"secret": {"name": "web-0-token", "items": [{"key": "kube-api-access-abcde.token", "path": "token"}]}, "future": 1},
                    {
                        "configMap": {
                            "name": "kube-root-ca.crt-x-default-x-vc",
                            "items": [{"key": "ca.crt", "path": "ca.crt"}],
                        }
                    },
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": namespace}}]}},
                    {"clusterTrustBundle": {"name": "x", "path": "y"}},
                ],
            },
        },
        {"name": "host", "hostPath": {"path": "/var/log"}},
        {"name": "scratch", "persistentVolumeClaim": {"claimName": "web-0-scratch-x-default-x-vc"}},
        {
            "name": "info",
            "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.annotations['vcluster.loft.sh/labels']"}}]},
        },
        {"name": "empty", "projected": {"sources": []}},
    ]


def test_scheduling(pod: Call, on_host: Call) -> None:
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {"matchLabels": {"team": "x"}}}
    spec = on_host(
        pod(
            affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
            topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "labelSelector": {}}],
        ),
        namespaces_matching=lambda selector: [selector["matchLabels"]["team"]],
    )
    (affinity_term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity_term["labelSelector"] == {"matchLabels": {"app": "web", LABEL_MANAGED_BY: "vc", LABEL_NAMESPACE: "x"}}
    assert spec["topologySpreadConstraints"][0]["labelSelector"] == {"matchLabels": {LABEL_MANAGED_BY: "vc", LABEL_NAMESPACE: "default"}}


def test_ephemeral_containers(pod: Call, names: Names, policy: Call) -> None:
    debug = {
        "name": "debug",
        "image": "busybox",
        "targetContainerName": "app",
        "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    }
    virtual = pod(ephemeralContainers=[debug])
    assert host_ephemeral_containers(
        names, policy(translate_images={"busybox": "mirror/busybox"}), virtual, api_address="10.1.0.1", services=()
    ) == [
        {
            **debug,
            "image": "mirror/busybox",
            "env": [*API_ENV, {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s-x-default-x-vc", "key": "k"}}}],
        }
    ]


def test_a_priority_class_goes_down_by_name_where_the_host_has_it(pod: Call, on_host: Call) -> None:
    virtual = pod(priorityClassName="high", priority=1000, preemptionPolicy="Never")
    assert on_host(virtual, has_priority_class={"high"}.__contains__) == {**on_host(pod()), "priorityClassName": "high"}
    assert on_host(virtual, has_priority_class={"low"}.__contains__) == on_host(pod())


def test_enforced_tolerations_and_nodes(pod: Call, policy: Call, on_host: Call) -> None:
    dedicated = {"key": "dedicated", "operator": "Exists"}
    spec = on_host(pod(tolerations=[{"key": "a"}]), policy=policy(enforced_tolerations=(dedicated,), node_selector="pool=blue"))
    assert spec["tolerations"] == [{"key": "a"}, dedicated]
    assert spec["nodeSelector"] == {"pool": "blue"}
    assert "nodeSelector" not in on_host(pod(), policy=policy(node_selector="pool=blue", enforce_node_selector=False))

"""The Helm chart, rendered: what it makes of values, what it refuses, and whether it asks for the rights that the syncer needs."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.chart import CHART, NAMESPACE, ChartError, helm, objects, render
from syncer import cli, resources, settings
from syncer.sync.mainstays import OF_RELEASE

pytestmark = pytest.mark.apiserver  # for Helm, which is made as Kubernetes is

GOLDEN = Path(__file__).parent / "golden"
SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "replicas": {
        "replicas": 2,
        "vcluster": {"datastore": {"existingSecret": "datastore"}},
        "rbac": {"clusterRole": {"create": True}},
        "proxy": {"metricsServer": {"pods": {"enabled": True}, "nodes": {"enabled": True}}},
        "sync": {"nodes": {"enabled": True, "syncAllNodes": True, "nodeSelector": "team=blue"}},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"prometheus": "main"}},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        },
    },
    "k8s": {"distro": "k8s"},
    "k8s-replicas": {
        "distro": "k8s",
        "replicas": 2,
        "api": {"extraArgs": ["--audit-log-path=-"], "env": [{"name": "GOMAXPROCS", "value": "4"}]},
        "controller": {"extraArgs": ["--v=2"]},
        "etcd": {"replicas": 3, "extraArgs": ["--quota-backend-bytes=8589934592"]},
        "syncer": {"extraArgs": ["--certificate-life=1h", "--log-level=debug"]},
        "clusterDomain": "blue.example",
        "storage": {"className": "fast"},
        "autoDeletePersistentVolumeClaims": True,
        "isolation": {"enabled": True},
    },
    "k8s-older": {
        "distro": "k8s",
        "api": {"image": "registry.k8s.io/kube-apiserver:v1.32.9"},
        "controller": {"image": "registry.k8s.io/kube-controller-manager:v1.32.9"},
        "storage": {"persistence": False},
    },
    "older": {"vcluster": {"image": "rancher/k3s:v1.32.9-k3s1"}},
    "isolated": {
        "isolation": {
            "enabled": True,
            "networkPolicy": {
                "incomingConnections": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
                "hostApiServers": [{"ipBlock": {"cidr": "192.0.2.10/32"}}],
            },
        },
        "sync": {"ingresses": {"enabled": False}, "pods": {"ephemeralContainers": False}},
    },
    "exposed": {
        "service": {"type": "LoadBalancer", "annotations": {"balancer": "internal"}, "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        "ingress": {"enabled": True, "host": "blue.example.com", "ingressClassName": "nginx"},
        "serviceCIDR": "10.96.0.0/12",
        "vcluster": {"image": "rancher/k3s:v1.31.5-k3s1"},
    },
    "deployed": {
        "coredns": {"deployment": True, "replicas": 2, "service": {"annotations": {"team": "blue"}}},
        "init": {
            "manifests": "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n---\n",
            "manifestsTemplate": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: about\ndata:\n  release: {{ .Release.Name }}\n",
        },
        "isolation": {"enabled": True},
    },
    "adapted": {
        "defaultImageRegistry": "registry.example.com/",
        "syncer": {"image": "syncer:dev", "imagePullPolicy": "Never", "extraArgs": ["--disable-sync-resources=ingresses"], "resources": {}},
        "vcluster": {"extraArgs": ["--kube-apiserver-arg=v=2"], "env": [{"name": "K3S_DEBUG", "value": "true"}]},
        "coredns": {"enabled": False},
        "storage": {"persistence": False},
        "serviceAccount": {"create": False, "name": "given"},
        "workloadServiceAccount": {"imagePullSecrets": [{"name": "pull"}]},
        "rbac": {"role": {"excluded": ["pods/exec"], "extraRules": [{"apiGroups": [""], "resources": ["bindings"], "verbs": ["create"]}]}},
        "labels": {"tier": "control"},
        "podLabels": {"team": "blue"},
        "podAnnotations": {"note": "one"},
        "globalAnnotations": {"owner": "platform"},
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"pool": "control"},
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "multiNamespaceMode": {"enabled": False},
    },
}
ALL_OF_THE_CLUSTER = {"rbac": {"clusterRole": {"create": True}}}
GRANTS: list[dict[str, Any]] = [
    {},
    ALL_OF_THE_CLUSTER,
    SHAPES["replicas"],
    {"syncer": {"extraArgs": ["--disable-sync-resources=ingresses,events", "--sync", "-endpoints"]}},
    {"syncer": {"extraArgs": ["--sync=nodes", "--leader-elect", "--proxy-metrics-server=true"]}, **ALL_OF_THE_CLUSTER},
    *({"sync": {word: {"enabled": False}}} for word, default in resources.known().items() if default and word != "pods"),
]
_RIGHTS_FLAGS = ("--name", "--sync", "--disable-sync-resources", "--leader-elect", "--proxy-metrics-server")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def stateful_set(given: dict[str, Any] | None = None, *, release: str = "blue") -> Any:
    return objects(given, release=release)["StatefulSet", release]


def containers(found: Any) -> dict[str, Any]:
    """Of a StatefulSet by name, those that start first too."""
    spec = found["spec"]["template"]["spec"]
    return {container["name"]: container for container in (*spec.get("initContainers", ()), *spec["containers"])}


def stateful_sets(shape: str) -> list[Any]:
    return [obj for (kind, _), obj in objects(SHAPES[shape]).items() if kind == "StatefulSet"]


def test_helm_finds_nothing_to_complain_of() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("shape", SHAPES)
def test_golden(shape: str) -> None:
    path, now = GOLDEN / f"chart-{shape}.yaml", render(SHAPES[shape])
    if os.environ.get("SYNCER_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(now)
    assert path.read_text() == now, "see what has changed by: SYNCER_GOLDEN=write pytest e2e/test_chart.py; git diff e2e/golden"


class TestRights:
    @pytest.mark.parametrize("given", GRANTS, ids=str)
    def test_they_are_those_that_the_syncer_asks_for(self, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        found = objects(given)
        args = containers(found["StatefulSet", "blue"])["syncer"]["args"]
        takes_next = {following for flag, following in itertools.pairwise(args) if flag in _RIGHTS_FLAGS[1:3]}
        asked = [arg for arg in args if arg.partition("=")[0] in _RIGHTS_FLAGS or arg in takes_next]
        with pytest.raises(SystemExit):
            cli.main(["rights", "--yaml", f"--target-namespace={NAMESPACE}", *asked], {})
        wanted = {obj["kind"]: obj for obj in yaml.safe_load_all(capsys.readouterr().out)}
        role = found["Role", wanted["Role"]["metadata"]["name"]]
        assert role["rules"] == wanted["Role"]["rules"]
        if (given.get("rbac") or {}).get("clusterRole"):
            assert found["ClusterRole", wanted["ClusterRole"]["metadata"]["name"]]["rules"] == wanted["ClusterRole"]["rules"]

    def test_nothing_of_the_cluster_by_default(self) -> None:
        assert not {kind for kind, _ in objects() if kind.startswith("Cluster")}

    def test_of_the_cluster_only_what_cannot_be_done_without(self) -> None:
        given = {"sync": {"nodes": {"enabled": True}}, "proxy": {"metricsServer": {"nodes": {"enabled": True}}}}
        rules = objects(given)["ClusterRole", f"vc-blue-v-{NAMESPACE}"]["rules"]
        assert [(rule["apiGroups"], rule["resources"]) for rule in rules] == [([""], ["nodes"]), (["metrics.k8s.io"], ["nodes"])]

    def test_what_is_left_out(self) -> None:
        given = {"rbac": {"role": {"excluded": ["pods/exec"]}}, "sync": {"pods": {"status": False, "ephemeralContainers": False}}}
        before, after = ({rule["resources"][0] for rule in objects(values)["Role", "vc-blue"]["rules"]} for values in ({}, given))
        assert before - after == {"pods/exec", "pods/status", "pods/ephemeralcontainers"}

    def test_bound_to_the_syncers_account_only(self) -> None:
        found = objects(SHAPES["replicas"])
        subjects = [obj["subjects"] for (kind, _), obj in found.items() if kind.endswith("Binding")]
        assert subjects == [[{"kind": "ServiceAccount", "name": "vc-blue", "namespace": NAMESPACE}]] * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"foo": 1}, "additional properties 'foo' not allowed"),
        ({"sync": {"pod": {"enabled": True}}}, "at '/sync': additional properties 'pod' not allowed"),
        ({"sync": {"pods": {"enabled": "yes"}}}, "at '/sync/pods/enabled': got string, want boolean"),
        ({"sync": {"networkpolicies": {"enabled": True}}}, "sync.networkpolicies: not supported; this version does not sync"),
        ({"sync": {"fake-persistentvolumes": {"enabled": False}}}, "at '/sync/fake-persistentvolumes/enabled': value must be true"),
        ({"sync": {"nodes": {"syncAllNodes": True}}}, "set sync.nodes.enabled"),
        ({"sync": {"nodes": {"enableScheduler": True}}}, "the host's scheduler places all pods"),
        ({"replicas": "two"}, "at '/replicas': got string, want integer"),
        ({"replicas": -1}, "at '/replicas': minimum: got -1, want 0"),
        ({"replicas": 2}, "vcluster.datastore.existingSecret"),
        ({"distro": "k0s"}, "distro: k0s is not offered; take k3s or k8s"),
        ({"distro": "k8s", "vcluster": {"extraArgs": ["--v=2"]}}, "vcluster.extraArgs: is of distro: k3s; with k8s write api.extraArgs or"),
        ({"distro": "k8s", "vcluster": {"datastore": {"existingSecret": "x"}}}, "k8s has an etcd of its own"),
        ({"api": {"extraArgs": ["--v=2"]}}, "api.extraArgs: is of distro: k8s; with k3s write vcluster.extraArgs"),
        ({"distro": "k8s", "etcd": {"replicas": 2}}, "at '/etcd/replicas': value must be one of 1, 3, 5"),
        ({"distro": "k8s", "api": {"image": "a/kube-apiserver:v1.35.1"}}, "controller.image: v1.36 is newer than api.image, v1.35"),
        ({"distro": "minikube"}, "at '/distro': value must be one of 'k3s'"),
        ({"service": {"type": "Public"}}, "at '/service/type': value must be one of"),
        ({"syncer": {"extraArgs": "--sync=nodes"}}, "at '/syncer/extraArgs': got string, want array"),
        ({"syncer": {"extraArgs": [1]}}, "at '/syncer/extraArgs/0': got number, want string"),
        ({"syncer": {"extraArgs": ["--target-namespace=other"]}}, "syncer.extraArgs: --target-namespace is for the chart to say"),
        (
            {"vcluster": {"image": "rancher/k3s:v1.30.2-k3s1"}, "sync": {"services": {"enabled": False}}},
            "serviceCIDR: Kubernetes v1.30 has to know the host's range",
        ),
        ({"vcluster": {"baseArgs": ["server"]}}, "write vcluster.extraArgs"),
        ({"coredns": {"config": ".:53 {}"}}, "port 1053"),
        ({"coredns": {"integrated": False, "replicas": 2}}, "set coredns.deployment"),
        ({"rbac": {"role": {"excluded": ["pods"]}}}, "the syncer cannot go without pods"),
        ({"isolation": {"podSecurityStandard": "strict"}}, "at '/isolation/podSecurityStandard': value must be one of"),
        ({"init": {"helm": [{"chart": {}}]}}, "init.helm: not supported; Helm charts are not deployed"),
        ({"openshift": {"enable": True}}, "rbac.role.extraRules"),
        ({"podLabels": {"release": "other"}}, "release is the chart's own label"),
    ],
    ids=str,
)
def test_what_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ChartError, match=re.escape(words)):
        render(given)


def test_classic_values_that_ask_for_nothing_are_accepted() -> None:
    nothing = {
        "multiNamespaceMode": {"enabled": False},
        "init": {"manifests": "---\n", "helm": []},
        "sync": {"networkpolicies": {"enabled": False}, "nodes": {"enableScheduler": False}},
        "openshift": {"enable": False},
        "mapServices": {"fromHost": [], "fromVirtual": []},
        "global": {},
    }
    assert render(nothing) == render()


class TestNames:
    def test_the_longest_are_valid(self) -> None:
        release = "a" * 52
        for (kind, name), obj in objects(
            SHAPES["replicas"] | {"service": {"type": "LoadBalancer"}, "isolation": {"enabled": True}}, release=release
        ).items():
            longest = {"Service": 63, "StatefulSet": 52}.get(kind, 253)
            assert len(name) <= longest, (kind, name)
            assert all(_LABEL.fullmatch(value) for value in obj["metadata"]["labels"].values())
        assert len(f"vc-{release}-owner") <= 253

    @pytest.mark.parametrize("release", ["a" * 53, "a.b", "1st"])
    def test_others_are_refused(self, release: str) -> None:
        with pytest.raises(ChartError, match="the release name"):
            render(release=release)


class TestPod:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_it_fits_the_level_restricted(self, shape: str) -> None:
        for found in stateful_sets(shape):
            spec = found["spec"]["template"]["spec"]
            assert spec["securityContext"]["runAsNonRoot"]
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
            for container in containers(found).values():
                context = container["securityContext"]
                assert context["capabilities"]["drop"] == ["ALL"]
                assert set(context["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
                assert context["allowPrivilegeEscalation"] is False
                assert context["readOnlyRootFilesystem"] is True

    @pytest.mark.parametrize("shape", SHAPES)
    def test_only_the_syncer_has_the_hosts_token(self, shape: str) -> None:
        for found in stateful_sets(shape):
            assert found["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
            with_token = {
                it["name"] for it in containers(found).values() if any(one["name"] == "host-access" for one in it["volumeMounts"])
            }
            assert with_token <= {"syncer", "prepare"}

    @pytest.mark.parametrize("shape", SHAPES)
    def test_what_is_mounted_is_there(self, shape: str) -> None:
        for found in stateful_sets(shape):
            claims = {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", ())}
            volumes = {volume["name"] for volume in found["spec"]["template"]["spec"]["volumes"]}
            mounted = {mount["name"] for container in containers(found).values() for mount in container["volumeMounts"]}
            assert mounted == claims | volumes
            assert not claims & volumes

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_syncer_understands_its_flags(self, shape: str) -> None:
        said = containers(stateful_set(SHAPES[shape]))["syncer"]["args"]
        args = [arg.replace("$(SERVICE_CIDR)", "10.96.0.0/12").removeprefix("--").partition("=") for arg in said]
        chosen, warnings = settings.load({name: [value or "true"] for name, _, value in args}, {"NAMESPACE": NAMESPACE})
        assert (chosen.name, chosen.service_name, chosen.dns_service) == ("blue", "blue", "blue-dns")
        assert (chosen.service_account, chosen.out_kube_config_server, warnings) == ("vc-workload-blue", "", [])

    def test_a_new_version_of_the_chart_restarts_nothing(self, tmp_path: Path) -> None:
        newer = tmp_path / "chart"
        shutil.copytree(CHART, newer)
        described = newer / "Chart.yaml"
        described.write_text(re.sub(r"^version: .*$", "version: 99.0.0", described.read_text(), flags=re.MULTILINE))
        text = helm("template", "blue", str(newer), f"--namespace={NAMESPACE}", "--kube-version=v1.36.0")
        after = next(obj for obj in yaml.safe_load_all(text) if obj and obj["kind"] == "StatefulSet")
        assert after["metadata"]["labels"]["chart"] == "syncer-99.0.0"
        assert after["spec"] == stateful_set()["spec"]

    def test_coredns_is_started_once_there_is_a_kubeconfig(self, tmp_path: Path) -> None:
        shell, option, script = containers(stateful_set())["vcluster"]["lifecycle"]["postStart"]["exec"]["command"]
        kubeconfig = tmp_path / "kube-config.yaml"
        kubeconfig.touch()
        with subprocess.Popen([shell, option, script.replace("/data/k3s-config", str(tmp_path))]) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            kubeconfig.write_text("kind: Config")
            assert process.wait(30) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_selects_the_pods_finds_them(shape: str) -> None:
    found = objects(SHAPES[shape])
    for (kind, name), obj in found.items():
        whose = "blue-etcd" if name.startswith("blue-etcd") else "blue"
        labels = found["StatefulSet", whose]["spec"]["template"]["metadata"]["labels"].items()
        match kind:
            case "Service":
                selector = obj["spec"]["selector"]
            case "StatefulSet" | "PodDisruptionBudget":
                selector = obj["spec"]["selector"]["matchLabels"]
            case "NetworkPolicy" if name.endswith("control-plane"):
                selector = obj["spec"]["podSelector"]["matchLabels"]
            case _:
                continue
        assert selector.items() <= labels, (kind, name)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_is_nothing_secret_in_it(shape: str) -> None:
    found = objects(SHAPES[shape])
    assert not {kind for kind, _ in found if kind == "Secret"}
    for container in containers(found["StatefulSet", "blue"]).values():
        for variable in container.get("env", ()):
            assert "TOKEN" not in variable["name"] or "secretKeyRef" in variable["valueFrom"]


def test_the_services() -> None:
    found = objects(SHAPES["exposed"])
    ports = {
        name: [(port["name"], port["port"], port["targetPort"]) for port in obj["spec"]["ports"]]
        for (kind, name), obj in found.items()
        if kind == "Service"
    }
    assert ports == {
        "blue": [("https", 443, 8443), ("kubelet", 10250, 8443)],
        "blue-lb": [("https", 443, 8443)],
        "blue-headless": [("https", 443, 8443), ("metrics", 8081, 8081)],
        "blue-dns": [("dns", 53, 1053), ("dns-tcp", 53, 1053)],
    }
    assert (found["Service", "blue"]["spec"]["type"], found["Service", "blue-lb"]["spec"]["type"]) == ("ClusterIP", "LoadBalancer")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_syncer_is_told_which_services_pods_count_on(shape: str) -> None:
    """It would make others again, and one that an upgrade removes is not to come back."""
    found = objects(SHAPES[shape])
    services = {name for kind, name in found if kind == "Service"}
    told = found["ConfigMap", "vc-blue-owner"]["metadata"]["annotations"][OF_RELEASE].split(",")
    assert {*told} == services & {"blue", "blue-dns"}


def test_uninstalling_takes_what_the_syncer_made() -> None:
    owner = objects()["ConfigMap", "vc-blue-owner"]
    assert "data" not in owner  # else an upgrade would write over what the fence has recorded


class TestIsolation:
    def test_a_tenants_pods_reach_their_own_and_the_internet(self) -> None:
        policy = objects({"isolation": {"enabled": True}})["NetworkPolicy", "blue-workloads"]["spec"]
        own = {"podSelector": {"matchLabels": {"vcluster.loft.sh/managed-by": "blue"}}}
        control = {"podSelector": {"matchLabels": {"app": "vcluster", "release": "blue"}}}
        assert policy["podSelector"] == own["podSelector"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["ingress"] == [{"from": [own, control]}]
        first, second = policy["egress"]
        assert first["to"][0] == own
        assert [rule["ipBlock"]["cidr"] for rule in first["to"][1:]] == ["0.0.0.0/0", "::/0"]
        assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(first["to"][1]["ipBlock"]["except"])
        assert (second["to"], {port["port"] for port in second["ports"]}) == ([control], {8443, 1053})

    def test_quantities_are_text(self) -> None:
        found = objects({"isolation": {"enabled": True}})
        assert set(map(type, found["ResourceQuota", "blue-quota"]["spec"]["hard"].values())) == {str}

    def test_notes_tell_what_a_chart_cannot_do(self, tmp_path: Path) -> None:
        copy = tmp_path / "chart"  # with its notes as an object, since Helm shows them only where there is a cluster
        shutil.copytree(CHART, copy)
        (copy / "templates" / "NOTES.txt").rename(copy / "notes")
        (copy / "templates" / "shown.yaml").write_text('kind: Notes\ntext: |\n  {{- tpl (.Files.Get "notes") . | nindent 2 }}\n')
        given = ("--set=isolation.enabled=true", f"--namespace={NAMESPACE}", "--kube-version=v1.36.0")
        shown = next(obj for obj in yaml.safe_load_all(helm("template", "blue", str(copy), *given)) if obj["kind"] == "Notes")["text"]
        assert f"kubectl label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=baseline" in shown
        assert "--template='{{.data.config | base64decode}}'" in shown
        assert "incomingConnections" in shown

"""The chart's `distro: k8s`, and what it does for versions that have to be told the host's range of Service addresses."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from e2e.chart import NAMESPACE, ChartError, objects, render
from e2e.test_chart import SHAPES, containers
from syncer.controlplane.identities import identities_of_etcd, identities_of_pod
from syncer.controlplane.ranges import KEY, configmap_key

pytestmark = pytest.mark.apiserver  # for Helm, which is made as Kubernetes is

K8S = [shape for shape, given in SHAPES.items() if given.get("distro") == "k8s"]
FILE = re.compile(r"=(/data/\S+|/certificates/\S+)$")


def parts(shape: str) -> dict[str, Any]:
    """All containers of the control plane and of etcd, by name."""
    found = objects(SHAPES[shape])
    return {**containers(found["StatefulSet", "blue"]), **containers(found["StatefulSet", "blue-etcd"])}


@pytest.mark.parametrize("shape", K8S)
def test_all_files_that_flags_name_are_prepared(shape: str) -> None:
    prepared = {f"/data/{name}.{end}" for name in identities_of_pod("x") for end in ("crt", "key")}
    prepared |= {f"/data/server/tls/{name}" for name in ("server-ca.crt", "server-ca.key", "client-ca.crt", "client-ca.key", "service.key")}
    prepared |= {"/data/server/tls/request-header-ca.crt", "/data/server/tls/etcd/server-ca.crt", "/data/k3s-config/kube-config.yaml"}
    prepared |= {"/data/server/cred/controller.kubeconfig", "/data/etcd"}
    prepared |= {f"/certificates/{name}.{end}" for name in identities_of_etcd("x") for end in ("crt", "key")} | {"/certificates/ca.crt"}
    named = {(name, found[1]) for name, part in parts(shape).items() for arg in part["args"] if (found := FILE.search(arg))}
    assert len(named) > 25
    assert not [one for one in named if one[1] not in prepared]


@pytest.mark.parametrize("shape", K8S)
def test_nothing_needs_a_shell(shape: str) -> None:
    for part in parts(shape).values():
        assert "lifecycle" not in part
        assert "sh" not in " ".join(part.get("command", ())).split()
        assert "exec" not in {kind for probe in ("startupProbe", "livenessProbe", "readinessProbe") for kind in part.get(probe, {})}


@pytest.mark.parametrize("shape", ["older", *K8S])
def test_prepare_understands_its_flags(shape: str) -> None:
    found = containers(objects(SHAPES[shape])["StatefulSet", "blue"])["prepare"]
    assert found["command"] == ["syncer", "prepare"]
    command = [sys.executable, "-m", "syncer", "prepare", *found["args"], "--host-kube-config=/nowhere"]
    done = subprocess.run(command, env={"NAMESPACE": NAMESPACE}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2  # at the host's kubeconfig, after all flags were read
    assert "/nowhere: cannot be read" in done.stderr


def test_members_of_etcd_know_one_another() -> None:
    args = parts("k8s-replicas")["etcd"]["args"]
    (cluster,) = (arg.partition("=")[2] for arg in args if arg.startswith("--initial-cluster="))
    assert cluster.split(",") == [f"blue-etcd-{number}=https://blue-etcd-{number}.blue-etcd-headless:2380" for number in range(3)]
    assert "--etcd-servers=https://blue-etcd:2379" in parts("k8s-replicas")["kube-apiserver"]["args"]
    found = objects(SHAPES["k8s-replicas"])
    assert found["Service", "blue-etcd-headless"]["spec"]["publishNotReadyAddresses"] is True
    assert found["StatefulSet", "blue-etcd"]["spec"]["serviceName"] == "blue-etcd-headless"
    assert found["PodDisruptionBudget", "blue-etcd"]["spec"]["maxUnavailable"] == 1
    assert ("PodDisruptionBudget", "blue-etcd") not in objects(SHAPES["k8s"])


def test_only_the_leader_controls() -> None:
    flags = [parts(shape)["kube-controller-manager"]["args"] for shape in ("k8s", "k8s-replicas")]
    assert ["--leader-elect=false" in flags[0], "--leader-elect=true" in flags[1]] == [True, True]
    assert "--leader-elect" in parts("k8s-replicas")["syncer"]["args"]


def test_etcd_keeps_the_data_and_the_control_plane_nothing() -> None:
    found = objects(SHAPES["k8s-replicas"])
    assert "volumeClaimTemplates" not in found["StatefulSet", "blue"]["spec"]
    (data,) = (one for one in found["StatefulSet", "blue"]["spec"]["template"]["spec"]["volumes"] if one["name"] == "data")
    assert data["emptyDir"] == {"medium": "Memory"}
    etcd = found["StatefulSet", "blue-etcd"]["spec"]
    assert etcd["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    assert etcd["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Delete"}


def test_no_service_of_the_virtual_cluster_leads_to_etcd() -> None:
    found = objects(SHAPES["k8s"])
    labels = found["StatefulSet", "blue-etcd"]["spec"]["template"]["metadata"]["labels"]
    for name in ("blue", "blue-headless", "blue-dns"):
        assert not found["Service", name]["spec"]["selector"].items() <= labels.items()
    assert found["StatefulSet", "blue-etcd"]["metadata"]["labels"]["app"] == "vcluster-etcd"


def test_isolated_etcd_is_reached_by_the_control_plane_only() -> None:
    found = objects(SHAPES["k8s-replicas"])
    control, etcd = ({"app": app, "release": "blue"} for app in ("vcluster", "vcluster-etcd"))
    ingress = found["NetworkPolicy", "blue-etcd"]["spec"]["ingress"]
    assert [(rule["from"][0]["podSelector"]["matchLabels"], rule["ports"]) for rule in ingress] == [
        (control, [{"port": 2379}]),
        (etcd, [{"port": 2380}]),
    ]
    egress = found["NetworkPolicy", "blue-control-plane"]["spec"]["egress"]
    assert {"to": [{"podSelector": {"matchLabels": etcd}}], "ports": [{"port": 2379}]} in egress


def test_a_long_name_is_refused() -> None:
    assert objects({"distro": "k8s"}, release="a" * 47)
    with pytest.raises(ChartError, match="47 at most"):
        render({"distro": "k8s"}, release="a" * 48)


class TestRange:
    @pytest.mark.parametrize(("shape", "part"), [("older", "vcluster"), ("k8s-older", "kube-apiserver")])
    def test_that_is_not_told_is_found_out(self, shape: str, part: str) -> None:
        found = containers(objects(SHAPES[shape])["StatefulSet", "blue"])
        assert "--service-range" in found["prepare"]["args"]
        for name, flag in ((part, "--service-c"), ("syncer", "--service-cidr")):
            (said,) = (arg for arg in found[name]["args"] if arg.startswith(flag))
            assert said.endswith("=$(SERVICE_CIDR)")
            (variable,) = (one for one in found[name]["env"] if one["name"] == "SERVICE_CIDR")
            reference = {"name": configmap_key("", "blue").name, "key": KEY}
            assert variable["valueFrom"] == {"configMapKeyRef": reference}

    @pytest.mark.parametrize("distro", ["k3s", "k8s"])
    def test_that_is_told_wins(self, distro: str) -> None:
        shape = "older" if distro == "k3s" else "k8s-older"
        text = render({**SHAPES[shape], "serviceCIDR": "10.0.0.0/16"})
        assert "SERVICE_CIDR" not in text
        assert "--service-range" not in text
        assert f"--service-c{'idr' if distro == 'k3s' else 'luster-ip-range'}=10.0.0.0/16" in text
        assert text.count("10.0.0.0/16") == 2

    def test_newer_versions_need_none(self) -> None:
        assert "initContainers" not in objects()["StatefulSet", "blue"]["spec"]["template"]["spec"]
        assert "SERVICE_CIDR" not in render({"distro": "k8s"})

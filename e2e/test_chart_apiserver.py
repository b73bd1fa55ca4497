"""The chart's objects as a real API server takes them, and its alerts and dashboard as Prometheus reads them.

`e2e/golden` has the objects of each shape of the chart, see e2e/test_chart.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.chart import NAMESPACE
from e2e.guestbook import kubectl
from e2e.kubernetes import binaries
from e2e.kubernetes.golang import module_source
from e2e.lab.api import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.host import HostCluster

pytestmark = pytest.mark.apiserver

GOLDEN = sorted((Path(__file__).parent / "golden").glob("chart-*.yaml"))
PREVIOUS = sorted((Path(__file__).parent / "golden" / "previous").glob("chart-*.yaml"))
WATCHED = Path(__file__).parent / "golden" / "chart-replicas.yaml"
"""Of the shape with all that Prometheus and Grafana get."""
DEPLOYED = Path(__file__).parent / "golden" / "chart-deployed.yaml"
"""Of the shape with CoreDNS as a Deployment."""
CRDS = ("servicemonitors", "podmonitors", "prometheusrules")
ACCOUNTS = ("vc-blue", "given")
"""Without which an API server takes no pod of theirs."""
OURS = {"namespace": NAMESPACE, "service": "blue-headless"}


@pytest.fixture(scope="module")
def host(host_cluster: HostCluster) -> Iterator[HostCluster]:
    """With the types of the Prometheus operator, and a namespace where pods that do not fit the level `restricted` are warned of."""
    source = module_source("promrules") / "example" / "prometheus-operator-crd"
    crds = [yaml.safe_load((source / f"monitoring.coreos.com_{name}.yaml").read_text()) for name in CRDS]
    for crd in crds:
        host_cluster.api.apply(crd)
    kinds = [crd["spec"]["names"]["kind"] for crd in crds]
    wait_until(lambda: all(host_cluster.api.serves("monitoring.coreos.com/v1", kind) for kind in kinds), "the CRDs are served")
    labels = {"pod-security.kubernetes.io/warn": "restricted"}
    host_cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    for name in ACCOUNTS:
        host_cluster.api.apply(account(name))
    yield host_cluster
    host_cluster.api.delete(f"/api/v1/namespaces/{NAMESPACE}")
    for crd in crds:
        host_cluster.api.delete(host_cluster.api.path_of(crd))


def account(name: str) -> dict[str, Any]:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}  # kubectl warns of whatever has none
    metadata = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def documents(path: Path) -> list[dict[str, Any]]:
    return [obj for obj in yaml.safe_load_all(path.read_text()) if obj]


def apply_strictly(host: HostCluster, path: Path) -> list[str]:
    """What kubectl says, warnings of the API server included."""
    return kubectl(host, "apply", "--dry-run=server", "--validate=strict", "-f", str(path), check=False).splitlines()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_api_server_takes_it_all_without_a_warning(host: HostCluster, path: Path) -> None:
    said = apply_strictly(host, path)
    assert [line for line in said if not line.endswith(" (server dry run)")] == []
    assert len(said) == len(documents(path))


def test_what_the_virtual_cluster_begins_with(host: HostCluster, tmp_path: Path) -> None:
    files = only("ConfigMap", "blue-manifests", DEPLOYED)["data"]
    assert files.keys() == {"coredns.yaml", "init.yaml", "template.yaml"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        said = apply_strictly(host, tmp_path / name)
        assert [line for line in said if not line.endswith(" (server dry run)")] == []
        assert len(said) == len(documents(tmp_path / name))


def test_a_field_that_does_not_exist_would_be_seen(host: HostCluster, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WATCHED.read_text().replace("livenessProbe:", "livenesProbe:").replace("scrapeTimeout:", "scrapeTime:"))
    said = "\n".join(apply_strictly(host, wrong))
    assert 'unknown field "spec.template.spec.containers[0].livenesProbe"' in said
    assert 'unknown field "spec.endpoints[0].scrapeTime"' in said


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_no_key_is_there_twice(path: Path) -> None:
    for document in yaml.compose_all(path.read_text()):
        assert list(twice(document)) == []


def twice(node: yaml.Node | None) -> Iterator[str]:
    """Keys that a parser, kubectl's too, would silently take the last value of."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        yield from {key for key in keys if keys.count(key) > 1}
        for _, value in node.value:
            yield from twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from twice(item)


@pytest.fixture(scope="module")
def upgraded(host: HostCluster) -> Iterator[list[str]]:
    """Namespaces with what the chart was before; the test adds their names."""
    names: list[str] = []
    yield names
    for name in names:
        host.api.delete(f"/api/v1/namespaces/{name}")
        for plural in ("clusterroles", "clusterrolebindings"):
            host.api.delete(f"/apis/rbac.authorization.k8s.io/v1/{plural}/vc-blue-v-{name}")


def in_namespace(path: Path, namespace: str, directory: Path) -> Path:
    """A file of the objects there, without hooks: Helm makes those anew each time."""
    text = path.read_text().replace(NAMESPACE, namespace)
    objects = [obj for obj in yaml.safe_load_all(text) if obj and "helm.sh/hook" not in obj["metadata"].get("annotations", {})]
    file = directory / f"{namespace}-{path.parent.name}.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    return file


@pytest.mark.parametrize("path", PREVIOUS, ids=lambda path: path.stem)
def test_an_api_server_takes_it_all_as_an_upgrade(host: HostCluster, path: Path, upgraded: list[str], tmp_path: Path) -> None:
    namespace = f"before-{path.stem}"
    host.create_namespace(namespace)
    upgraded.append(namespace)
    kubectl(host, "apply", "-f", str(in_namespace(path, namespace, tmp_path)))
    now = in_namespace(path.parents[1] / path.name, namespace, tmp_path)
    said = apply_strictly(host, now)
    assert [line for line in said if not line.endswith(" (server dry run)")] == []
    now.write_text(now.read_text().replace("podManagementPolicy: Parallel", "podManagementPolicy: OrderedReady"))
    assert "updates to statefulset spec for fields other than" in "\n".join(apply_strictly(host, now))


def judge(*arguments: str, given: str) -> dict[str, Any]:
    """What Prometheus' own parser says."""
    program = str(binaries.ensure("promrules")["promrules"])
    done = subprocess.run([program, *arguments], input=given, capture_output=True, text=True, check=True, timeout=60)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def only(kind: str, name: str, path: Path = WATCHED) -> dict[str, Any]:
    (found,) = [obj for obj in documents(path) if (obj["kind"], obj["metadata"]["name"]) == (kind, name)]
    return found


def test_prometheus_takes_the_alerts() -> None:
    rules = only("PrometheusRule", "blue")["spec"]
    said = judge(given=yaml.safe_dump(rules))
    assert said["errors"] == []
    assert len(said["selectors"]) == sum(len(group["rules"]) for group in rules["groups"])
    assert_of_this_release(said["selectors"])


def test_prometheus_understands_the_dashboard() -> None:
    (text,) = only("ConfigMap", "blue-dashboard")["data"].values()
    # Grafana fills in its own variables.
    given = [re.sub(r"\$__\w+", "5m", target["expr"]) for panel in json.loads(text)["panels"] for target in panel["targets"]]
    said = judge("expressions", given=json.dumps(given))
    assert said["errors"] == []
    assert_of_this_release(said["selectors"])


def assert_of_this_release(selectors: list[list[dict[str, Any]]]) -> None:
    for selected in selectors:
        assert selected
        for one in selected:
            ours = one["metric"] == "up" or one["metric"].startswith(("syncer_", "process_"))
            assert (OURS if ours else {"namespace": NAMESPACE}).items() <= one["equal"].items(), one


@pytest.mark.parametrize("bad", ["sum(up) by", "rate(up[5q])", "upp{"])
def test_prometheus_would_not_take_others(bad: str) -> None:
    rules = {"groups": [{"name": "one", "rules": [{"alert": "One", "expr": bad}]}]}
    assert judge(given=yaml.safe_dump(rules))["errors"]
    assert judge("expressions", given=json.dumps([bad]))["errors"]

"""What can be told of the Helm chart without Helm. The rest is in e2e/test_chart.py."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from e2e import chart
from e2e.lab.virtual import _K3S_LEAVES_OUT
from syncer import resources
from syncer.controlplane.preparation import keys_owner_key
from syncer.kube.types import key_of
from syncer.metrics import Measure, Metrics
from syncer.sync.fence import owner_key

FILES = chart.CHART / "files"
_METRIC = re.compile(r"\b(?:syncer|process)_\w+")


@pytest.mark.parametrize("path", chart.made(), ids=lambda path: path.name)
def test_what_is_made_is_current(path: Path) -> None:
    assert path.read_text() == chart.made()[path], "run: python -m e2e.chart"


def test_it_is_of_this_version() -> None:
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (described["version"], described["appVersion"]) == (version("syncer"), version("syncer"))


def test_each_word_of_sync_is_a_value_with_the_same_default() -> None:
    words = next(value for value in chart.values() if value.path == "sync").default
    assert {word: given["enabled"] for word, given in words.items()} == {**resources.known(), "fake-persistentvolumes": True}


def test_k3s_leaves_out_the_same_controllers_as_the_lab() -> None:
    template = (chart.CHART / "templates" / "_names.tpl").read_text()
    found = re.search(r"^(\*,-nodeipam\S+)$", template, re.MULTILINE)
    assert found is not None
    assert found[1].split(",") == ["*", *(f"-{name}" for name in _K3S_LEAVES_OUT)]


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
async def test_metrics_that_are_named_exist(file: str) -> None:
    text = (FILES / file).read_text()
    there = {measure.series for measure in Measure} | set(_METRIC.findall((await Metrics().render()).decode()))
    named = {name.removesuffix("_bucket") for name in _METRIC.findall(text)}
    assert len(named) > 5
    assert named <= there


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def panels() -> list[str]:
    return [target["expr"] for panel in json.loads((FILES / "dashboard.json").read_text())["panels"] for target in panel["targets"]]


def test_for_each_alert_there_is_something_to_do() -> None:
    section = re.search(r"^## Alerts\n(.*?)^## ", (chart.CHART.parents[1] / "docs" / "operations.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| `(\w+)` \| .{20}", section[1], re.MULTILINE)
    assert rows == [alert["alert"] for alert in alerts()]


def labels_of_series() -> dict[str, set[str]]:
    """Those that the syncer gives each of its metrics. Prometheus adds which pod it asked."""
    found = {measure.series: {*measure.labels} for measure in Measure}
    for collector, names in Metrics()._registry._collector_to_names.items():
        if isinstance(collector, MetricWrapperBase):
            found |= {name: {*collector._labelnames, "le"} for name in names}
    return found


@pytest.mark.parametrize("expression", [*(alert["expr"] for alert in alerts()), *panels()])
def test_what_they_sum_by_are_labels_of_the_metrics(expression: str) -> None:
    ours = [labels for name, labels in labels_of_series().items() if re.search(rf"\b{name}\b", expression)]
    grouped = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",")}
    assert not ours or grouped <= set.intersection(*ours) | {"pod"}
    matched = set(re.findall(r"(\w+)(?:=~?|!=|!~)\"", expression))
    assert not ours or matched <= set.intersection(*ours) | {"namespace", "service"}


def test_alerts_are_of_one_release_and_say_what_is_wrong() -> None:
    for alert in alerts():
        selectors = re.findall(r"\{([^}]*)\}", alert["expr"])
        assert selectors, alert["alert"]
        assert all("@namespace@" in selector and "@release@" in selector for selector in selectors), alert["alert"]
        assert alert["annotations"].keys() == {"summary", "description"}
        assert alert["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("shape", ["k8s", "k8s-older", "k8s-replicas"])
def test_the_keys_of_the_control_plane_have_an_owner_of_their_own(shape: str) -> None:
    golden = Path(chart.__file__).parent / "golden" / f"chart-{shape}.yaml"
    made = {(obj["kind"], key_of(obj)) for obj in filter(None, yaml.safe_load_all(golden.read_text()))}
    assert {("ConfigMap", of(chart.NAMESPACE, "blue")) for of in (owner_key, keys_owner_key)} <= made


@pytest.mark.parametrize("shape", ["default", "k8s", "k8s-replicas"])
def test_an_alert_watches_each_volume_of_the_control_plane(shape: str) -> None:
    (expression,) = [alert["expr"] for alert in alerts() if alert["alert"] == "SyncerVolumeFillsUp"]
    patterns = [pattern.replace("@release@", "blue") for pattern in re.findall(r'persistentvolumeclaim=~"([^"]*)"', expression)]
    assert len(patterns) == 2
    golden = Path(chart.__file__).parent / "golden" / f"chart-{shape}.yaml"
    claims = [
        f"{claim['metadata']['name']}-{obj['metadata']['name']}-{member}"
        for obj in filter(None, yaml.safe_load_all(golden.read_text()))
        if obj["kind"] == "StatefulSet"
        for claim in obj["spec"].get("volumeClaimTemplates", ())
        for member in range(obj["spec"]["replicas"])
    ]
    assert claims
    assert not [claim for claim in claims for pattern in patterns if not re.fullmatch(pattern, claim)]


def test_the_dashboard_is_of_one_release() -> None:
    assert all("@namespace@" in text and "@release@" in text for text in panels())


def test_what_is_refused_is_no_value() -> None:
    def paths(values: list[chart.Value]) -> set[str]:
        return {value.path for value in values} | {path for value in values for path in paths([*value.parts])}

    assert not chart.unsupported().keys() & paths(chart.values())


PREVIOUS = sorted((Path(chart.__file__).parent / "golden" / "previous").glob("chart-*.yaml"))
_MAY_CHANGE = {
    "replicas",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "revisionHistoryLimit",
    "ordinals",
}


@pytest.mark.parametrize("path", PREVIOUS, ids=lambda path: path.stem)
def test_what_an_api_server_lets_nobody_change_is_as_it_was(path: Path) -> None:
    """An upgrade would end half way. Of claims even the size is fixed: it is for users to say, and not to change by itself."""

    def fixed(path: Path) -> dict[tuple[str, str], Any]:
        found = {}
        for obj in filter(None, yaml.safe_load_all(path.read_text())):
            match obj["kind"]:
                case "StatefulSet":
                    fields = {name: value for name, value in obj["spec"].items() if name not in _MAY_CHANGE}
                case "Service":
                    fields = {"headless": obj["spec"].get("clusterIP")}
                case "RoleBinding" | "ClusterRoleBinding":
                    fields = obj["roleRef"]
                case _:
                    continue
            found[obj["kind"], obj["metadata"]["name"]] = fields
        return found

    before, now = fixed(path), fixed(path.parents[1] / path.name)
    assert "StatefulSet" in {kind for kind, _ in before}
    assert {name: fields for name, fields in now.items() if name in before} == before


class TestComments:
    def test_they_make_words_and_schema(self) -> None:
        text = "# How many.\n# @schema {minimum: 1}\ncount: 2\n# All of it.\n# @schema {free: true}\nrest: {any: thing}\n"
        text += "# A door.\ndoor:\n  enabled: true\n"
        assert chart.values(text) == [
            chart.Value("count", 2, "How many.", {"minimum": 1}),
            chart.Value("rest", {"any": "thing"}, "All of it.", {"free": True}),
            chart.Value("door", {"enabled": True}, "A door.", {}, (chart.Value("door.enabled", True, "A door.", {}),)),
        ]

    def test_a_key_without_one(self) -> None:
        with pytest.raises(ValueError, match=r"outer\.inner has no comment"):
            chart.values("# Outer.\nouter:\n  inner: 1\n")

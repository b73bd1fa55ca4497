"""What can be told of the Helm chart without Helm. The rest is in e2e/test_chart.py."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from e2e import chart
from e2e.lab.virtual import _K3S_LEAVES_OUT
from syncer import resources
from syncer.metrics import Measure, Metrics

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
    template = (chart.CHART / "templates" / "_k3s.tpl").read_text()
    found = re.search(r"controllers=(\S+)", template)
    assert found is not None
    assert found[1].split(",") == ["*", *(f"-{name}" for name in _K3S_LEAVES_OUT)]


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
async def test_metrics_that_are_named_exist(file: str) -> None:
    text = (FILES / file).read_text()
    there = {measure.series for measure in Measure} | set(_METRIC.findall((await Metrics().render()).decode()))
    named = {name.removesuffix("_bucket") for name in _METRIC.findall(text)}
    assert len(named) > 5
    assert named <= there


def test_alerts_are_of_one_release_and_say_what_is_wrong() -> None:
    alerts = [rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
    for alert in alerts:
        selectors = re.findall(r"\{([^}]*)\}", alert["expr"])
        assert selectors, alert["alert"]
        assert all("@namespace@" in selector and "@release@" in selector for selector in selectors), alert["alert"]
        assert alert["annotations"].keys() == {"summary", "description"}
        assert alert["labels"]["severity"] in ("warning", "critical")


def test_the_dashboard_is_of_one_release() -> None:
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert all("@namespace@" in text and "@release@" in text for text in expressions)


def test_what_is_refused_is_no_value() -> None:
    def paths(values: list[chart.Value]) -> set[str]:
        return {value.path for value in values} | {path for value in values for path in paths([*value.parts])}

    assert not chart.unsupported().keys() & paths(chart.values())


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

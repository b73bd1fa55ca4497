from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from syncer.errors import ConfigError
from syncer.releases.chart import chart_directory

ROOT = Path(__file__).parents[2]


def test_a_checkout_has_it_where_it_is_written() -> None:
    assert chart_directory() == ROOT / "deploy" / "chart"


def test_the_wheel_has_it_where_it_is_looked_for_first() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"deploy/chart": "syncer/chart"}


def test_another_one_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--chart: there is no Chart\.yaml in "):
        chart_directory(str(tmp_path))
    (tmp_path / "Chart.yaml").touch()
    assert chart_directory(str(tmp_path)) == tmp_path

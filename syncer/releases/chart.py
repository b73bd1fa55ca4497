"""Where the Helm chart is that came with this program."""

from __future__ import annotations

from pathlib import Path

import syncer
from syncer.errors import ConfigError

_PACKAGE = Path(syncer.__file__).parent


def chart_directory(given: str = "") -> Path:
    """The chart that was `given`, else that of the package, or of the checkout that this runs from. Raises ConfigError."""
    places = [Path(given)] if given else [_PACKAGE / "chart", _PACKAGE.parent / "deploy" / "chart"]
    for place in places:
        if (place / "Chart.yaml").is_file():
            return place
    if given:
        raise ConfigError(f"--chart: there is no Chart.yaml in {given}; name the directory of an unpacked chart")
    raise ConfigError(
        f"the chart that belongs to this program is missing at {places[0]}: install the package again, or name one with --chart"
    )

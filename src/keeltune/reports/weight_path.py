"""The picture of a weight path: target against source between the start's weights and the tuned ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports import charts
from keeltune.reports.localization import Translator


def chart(interpolation: Mapping[str, Any], say: Translator, height: int = 360) -> str:
    """The points of `interpolation` of `result.json`, on validation rows, named by their share of the way."""
    metric = interpolation["metric"]
    points = [
        charts.NamedPoint(f"{point['share']:g}", (point["source"][metric],), (point["target"][metric],))
        for point in interpolation["points"]
    ]
    x, y = (say("{domain} {metric}", domain=say(domain), metric=metric) for domain in ("source", "target"))
    return charts.plane(points, x, y, height)

"""The page of a learning curve: the shares' scores with their intervals, and what the fit predicts."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from keeltune.reports import charts
from keeltune.reports.localization import translator
from keeltune.reports.templating import environment


def page(card: dict[str, Any], language: str = "en") -> str:
    """`curve.html`, of what `learning_curve.extrapolate` returns."""
    say, twice = translator(language), card["twice"]
    bars = [(say("{n} rows", n=p["rows"]), p["value"], *p["interval"]) for p in card["points"]]
    if twice is not None:
        bars.append((say("{n} rows, predicted", n=twice["rows"]), twice["value"], *twice["interval"]))
    over = say("{metric} on {split}, 95 % interval", metric=card["metric"], split=say(card["split"]))
    return environment(say).get_template("curve.html").render(card=card, chart=Markup(charts.ranges(bars, over)))

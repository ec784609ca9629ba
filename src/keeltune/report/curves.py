"""The page of a learning curve: the shares' scores with their intervals, and what the fit foretells."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from keeltune.report import charts
from keeltune.report.report import environment


def page(card: dict[str, Any]) -> str:
    """`curve.html`, of what `curve.foretold` says."""
    bars = [(f"{p['rows']} rows", p["value"], *p["interval"]) for p in card["points"]]
    bars.append((f"{card['twice']['rows']} rows, foretold", card["twice"]["value"], *card["twice"]["interval"]))
    chart = charts.ranges(bars, f"{card['metric']} on {card['split']}, 95 % interval")
    return environment().get_template("curve.html").render(card=card, chart=Markup(chart))

"""The page of a learning curve: what twice the rows would bring, the picture of it, and the shares' scores."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from keeltune.reports import curve_chart
from keeltune.reports.localization import translator
from keeltune.reports.templating import environment


def page(card: dict[str, Any], language: str = "en") -> str:
    """`curve.html`, of what `extrapolation.extrapolate` returns."""
    say = translator(language)
    score = say("{metric} on {split}", metric=card["metric"], split=say(card["split"]))
    chart = Markup(curve_chart.picture(card, say("training rows, logarithmic"), score))
    return environment(say).get_template("curve.html").render(card=card, chart=chart)

"""The card of `keeltune advise` as a page, and as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from rich.table import Table

from keeltune.reports import charts
from keeltune.reports.localization import Translator, translator
from keeltune.reports.templating import environment


def page(card: dict[str, Any], language: str = "en") -> str:
    """`advice.html` of what `advisor.advise` returns."""
    say = translator(language)
    return environment(say).get_template("advice.html").render(card=card, picture=Markup(picture(card, say)))


def picture(card: dict[str, Any], say: Translator) -> str:
    """Each arm's gain over plain fine-tuning with its interval; the arms themselves where nothing was compared."""
    bars = [
        (say(line["arm"]), line["against_plain"]["gain"], *line["against_plain"]["interval"])
        for line in card["arms"]
        if line["against_plain"]
    ]
    if bars:
        return charts.ranges(bars, say("gain over plain fine-tuning, 95 % interval"))
    alone = [(say(line["arm"]), line["target"], *line["target_interval"]) for line in card["arms"]]
    if alone:
        return charts.ranges(alone, say("target, 95 % interval"))
    return charts.ranges([(say("nothing was run yet"), 0.0, 0.0, 0.0)], say("utility"))


def table(card: dict[str, Any]) -> Table:
    """The arms for a terminal, the best first."""
    rows = Table("arm", "steps", "seeds", "target", "source", "gain over plain", "P(better)")
    for line in card["arms"]:
        against = line["against_plain"]
        rows.add_row(
            line["arm"] + ("" if line["within"] else " (loses too much)"),
            f"{line['rung']:.0%}",
            str(line["seeds"]),
            f"{line['target']:.4f} ({_range(line['target_interval'], '.4f')})",
            "–" if line["source"] is None else f"{line['source']:.4f} ({_range(line['source_interval'], '.4f')})",
            "–" if not against else f"{against['gain']:+.4f} ({_range(against['interval'], '+.4f')})",
            "–" if not against else f"{against['p_better']:.2f}",
        )
    return rows


def _range(pair: Sequence[float], form: str) -> str:
    return f"{pair[0]:{form}} to {pair[1]:{form}}"

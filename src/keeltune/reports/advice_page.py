"""The card of `keeltune advise` as a page, and as a table for a terminal."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from rich.table import Table

from keeltune.reports import charts
from keeltune.reports.localization import Translator, translator
from keeltune.reports.templating import environment
from keeltune.reports.uncertainty import folded, in_a_cell


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
    """The arms for a terminal of 80 columns, the best first, with 95 % intervals; the source where an arm has one."""
    with_source = any(line["source"] is not None for line in card["arms"])
    source = ["source"] if with_source else []
    rows = Table(*folded("arm", "P(better)", "steps", "seeds", "target", *source, "gain over plain"))
    for line in card["arms"]:
        against = line["against_plain"]
        cells = [in_a_cell(line["target"], line["target_interval"], ".4f")]
        if with_source:
            cells.append("–" if line["source"] is None else in_a_cell(line["source"], line["source_interval"], ".4f"))
        rows.add_row(
            line["arm"] + ("" if line["within"] else " (loses too much)"),
            "–" if not against else f"{against['p_better']:.2f}",
            f"{line['rung']:.0%}",
            str(line["seeds"]),
            *cells,
            "–" if not against else in_a_cell(against["gain"], against["interval"], "+.4f"),
        )
    return rows

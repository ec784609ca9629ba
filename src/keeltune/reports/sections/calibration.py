from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from keeltune.reports import charts
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.localization import Translator
from keeltune.reports.sections.section import Section


class Calibration(Section):
    """Whether the model is as often right as its probabilities say, and the temperature that corrects it."""

    order = 50
    template = """\
<h2>{{ _("Calibration") }}</h2>
{{ chart }}
<table><tr><th>{{ _("split") }}</th><th class="n">{{ _("expected calibration error") }}</th>
<th class="n">{{ _("Brier score") }}</th>
<th class="n">{{ _("error at temperature") }}{% if temperature %} {{ "%.3g"|format(temperature) }}{% endif %}</th>
<th class="n">{{ _("predictions") }}</th></tr>
{% for split, c in splits.items() %}<tr><td>{{ _(split) }}</td><td class="n">{{ "%.4f"|format(c.ece) }}</td>
<td class="n">{{ "%.4f"|format(c.brier) }}</td>
<td class="n">{% if c.ece_after is not none %}{{ "%.4f"|format(c.ece_after) }}{% else %}–{% endif %}</td>
<td class="n">{{ c.predictions }}</td></tr>
{% endfor %}</table>
<p class="soft">{{ explained }}</p>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        splits = {name: measured for name, measured in (run.result["calibration"] or {}).items() if measured}
        if not splits:
            return None
        explained = run.say(
            "On the diagonal, an answer given 80 % is right in 80 % of the cases. The temperature is fitted on the "
            "validation rows; keeltune predict --calibrated uses it. The error is positive by chance alone, too."
        )
        return {
            "chart": Markup(_chart(splits, run.say)),
            "splits": splits,
            "temperature": splits.get("validation", {}).get("temperature"),
            "explained": explained,
        }


def _chart(splits: Mapping[str, Any], say: Translator) -> str:
    """Accuracy against confidence; the diagonal is where they agree."""
    series = {say(name): [(c, accuracy) for c, accuracy, _ in measured["bins"]] for name, measured in splits.items()}
    ends = [confidence for points in series.values() for confidence, _ in points]
    series[say("as sure as right")] = [(min(ends), min(ends)), (max(ends), max(ends))]
    return charts.lines(series, say("confidence"), say("accuracy"))

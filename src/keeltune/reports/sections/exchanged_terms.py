from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.row_view import ASKED
from keeltune.reports.sections.section import Section


class ExchangedTerms(Section):
    """How often an answer changes where a term of the text stands for another."""

    order = 130
    template = """\
<h2>{{ _("Exchanged terms") }}</h2>
<table>{{ heads(["terms", "#rows", "#answers that change", "#95 % interval", "#mean change of probability"]) }}
{% for kind, f in flips %}<tr><td>{{ kind }}</td><td class="n">{{ f.rows }}</td>
<td class="n">{{ f.flips }} ({{ "%.1f"|format(100 * f.flip_rate) }} %)</td>
<td class="n">{{ interval([100 * f.interval[0], 100 * f.interval[1]], "%.1f") }} %</td>
<td class="n">{{ "%.3f"|format(f.mean_change) }}</td></tr>
{% endfor %}</table>
{% for e in examples -%}
<p>{{ _("row {n}: ", n=e.row) }}“{{ e.text|truncate(most) }}” {{ e.before }}{{ " → " -}}
“{{ e.changed|truncate(most) }}” {{ e.after }}</p>
{% endfor %}
<p class="soft">{{ explained }}</p>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        say, report = run.say, (run.result["bias"] or {}).get("counterfactual")
        if not report:
            return None
        built_in = run.recipe is None or run.recipe.evaluation.terms is None  # else the kinds' names are the user's
        kinds = [(say(kind) if built_in else kind, flips) for kind, flips in report["by_kind"].items()]
        explained = say(
            "Terms ({terms}) stand for others, such as he for she; an answer should rarely hang on them. Exchanged "
            "texts can be ungrammatical.",
            terms=say(report["terms"]) if built_in else report["terms"],
        )
        return {
            "flips": [(say("all"), report), *kinds],
            "examples": report["examples"] if run.recipe is None or run.recipe.report.texts else [],
            "most": ASKED,
            "explained": explained,
        }

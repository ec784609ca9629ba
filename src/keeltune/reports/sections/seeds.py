from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Seeds(Section):
    """Each seed's scores, of a run of several."""

    order = 30
    template = """\
<h2>{{ _("Seeds") }}</h2>
<table><tr><th>{{ _("split") }}</th><th>{{ _("metric") }}</th>
{%- for n in result.seeds.numbers %}<th class="n">{{ _("seed") }} {{ n }}</th>{% endfor -%}
<th class="n">{{ _("standard deviation") }}</th></tr>
{% for split, metrics in result.seeds["values"].items() %}{% for name, scores in metrics.items() -%}
<tr><td>{{ _(split) }}</td><td>{{ _(name) }}</td>
{%- for score in scores %}<td class="n">{{ "%.4f"|format(score) }}</td>{% endfor -%}
<td class="n">{{ "%.4f"|format(result.seeds.sd[split][name]) }}</td></tr>
{% endfor %}{% endfor %}</table>
<p class="soft">{{ sentences|join(_(" ")) }}</p>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        say, seeds = run.say, run.result["seeds"]
        if not seeds:
            return None
        best = say(
            "Best by validation, and what the run's name stands for elsewhere: {best}. Each seed's own report lies in "
            "its folder.",
            best=seeds["best"],
        )
        failed = [
            say("Seed {seed} failed and was replaced: {reason}.", seed=one["seed"], reason=one["reason"])
            for one in seeds["failed"]
        ]
        return {"sentences": [best, *failed]}

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from keeltune.reports import charts, groups, weight_path
from keeltune.reports.findings import forgetting
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Forgetting(Section):
    """What was learnt of the new domain and forgotten of the old one: sentences, and changes of groups."""

    order = 70
    template = """\
<h2>{{ _("Learnt and forgotten") }}</h2>
{{ chart }}
{% for sentence in sentences %}<p>{{ _(sentence) }}</p>
{% endfor %}
{% if path %}<p>{{ recommended }}</p>
{{ path }}{% endif %}
{% for name, values in changes.items() -%}
<table><tr><th>{{ of(names.column(name), _("source")) }}</th><th class="n">{{ _("rows") }}</th>
<th class="n">{{ _("before") }}</th><th class="n">{{ _("after") }}</th>
<th class="n">{{ _("change, 95 % interval") }}</th></tr>
{% for value, g in values.items() %}<tr><td>{{ names.value(name, value) }}</td>
<td class="n">{{ g.rows if g.rows is not none else "–" }}</td><td class="n">{{ "%.3f"|format(g.before) }}</td>
<td class="n">{{ "%.3f"|format(g.after) }}</td><td class="n">{{ "%+.3f"|format(g.change) }}
{%- if g.get("interval") %} ({{ interval(g.interval, "%+.3f") }})
{%- elif "interval" in g %}{{ _(" ") }}{{ _("({inner})", inner=too_few) }}{% endif %}</td></tr>
{% endfor %}</table>
{% endfor %}
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        say, result = run.say, run.result
        sentences = forgetting.findings(result)
        if not sentences:
            return None
        report, interpolation = result["forgetting"] or {}, result["interpolation"] or {}
        source = report.get("source") or report.get("control") or {}
        by_label = {"label": source["by_label"]} if source.get("by_label") else {}
        changes = {**by_label, **source.get("slices", {})}
        path = bool(interpolation.get("points"))
        return {
            "chart": Markup(_chart(run)),
            "sentences": sentences,
            "path": Markup(weight_path.chart(interpolation, say, height=280)) if path else None,
            "recommended": _recommended(run) if path else None,
            "changes": changes,
            "names": groups.group_names(changes, result["task"], say),
            "too_few": say("too few rows") if run.units.column is None else say("too few rows or clusters"),
        }


def _chart(run: FinishedRun) -> str:
    """The primary metric's change in each domain, with its interval."""
    bars = []
    for domain, change in (run.result["forgetting"] or {}).items():
        if domain in ("source", "control", "target") and change:
            metric = change["metrics"][change["metric"]]
            label = run.say("{what}: {metric}", what=run.say(domain), metric=change["metric"])
            bars.append((label + run.units.mark(change["split"]), metric["change"], *metric["interval"]))
    for name, change in (run.result.get("abilities") or {}).items():
        metric = change["metrics"][change["metric"]]
        ends = metric["interval"] or [metric["change"], metric["change"]]
        bars.append((run.say("{what}: {metric}", what=name, metric=change["metric"]), metric["change"], *ends))
    return charts.ranges(bars, run.say("change since before training, 95 % interval")) if bars else ""


def _recommended(run: FinishedRun) -> str:
    interpolation = run.result["interpolation"]
    return run.say(
        "Between the start (0) and the tuned weights (1), on validation rows; recommended: {share}, {reason}.",
        share=interpolation["recommended"],
        reason=run.say(interpolation["reason"]),
    )

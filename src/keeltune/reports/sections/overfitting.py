from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.findings import overfitting
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Overfitting(Section):
    """The verdict of the overfitting guard, and its signs with their lights."""

    order = 40
    template = """\
<h2>{{ _("Overfitting") }}</h2>
<p>{{ sentences|join(_(" ")) }}</p>
{% if result.overfitting.signals %}<table class="signs">{{ heads(["sign", "", "#value", ""]) }}
{% for s in result.overfitting.signals -%}
<tr><td>{{ _(s.name) }}</td><td class="light {{ s.light }}">{{ _(s.light) }}</td>
<td class="n">{{ "%.3g"|format(s.value) }}</td><td class="prose">{{ _(s.said) }}</td></tr>
{% endfor %}</table>{% endif %}
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        report, say = run.result["overfitting"], run.say
        if not report:
            return None
        averaged = [say("{verdict}.", verdict=sentence) for sentence in overfitting.averaged_weights(run.result)]
        return {"sentences": [say("Verdict: {verdict}.", verdict=report["verdict"]), *averaged]}

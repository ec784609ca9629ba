from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class PredictiveWords(Section):
    """The words that give a label away in the training rows, and how far the answers hang on them."""

    order = 140
    template = """\
<h2>{{ _("Words that tell a label") }}</h2>
<table>{{ heads(["word", "label", "#training rows", "#with the label", "#rows here",
                 "#answers that change without it", "#right where another label is right"]) }}
{% for w in result.bias.words %}<tr><td>{{ w.word }}</td><td>{{ w.label }}</td><td class="n">{{ w.rows }}</td>
<td class="n">{{ "%.0f"|format(100 * w.share) }} %</td><td class="n">{{ w.removed.rows }}</td>
<td class="n">{% if w.removed.rows -%}
{{ w.removed.flips }} ({{ "%.0f"|format(100 * w.removed.flip_rate) }} %){% else %}–{% endif %}</td>
<td class="n">{% if w.against.rows -%}
{{ "%.0f"|format(100 * w.against.value) }} % / {{ w.against.rows }}{% else %}–{% endif %}</td></tr>
{% endfor %}</table>
<p class="soft">{{ explained }}</p>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        if not (run.result["bias"] or {}).get("words"):
            return None
        explained = run.say(
            "Words that nearly only one label's training rows have. Whether they should decide is for you to say: "
            "“excellent” may, a name or a source may not."
        )
        return {"explained": explained}

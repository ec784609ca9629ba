from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section

LISTED = 10


class Mistakes(Section):
    """The test rows whose wrong answer the model was surest of."""

    order = 150
    template = """\
<h2>{{ of(_("Surest mistakes"), _("test")) }}</h2>
<table>{{ heads(["#row", "predicted", "right", "#probability"]) }}
{% for line in mistakes -%}
<tr><td class="n">{{ line.row }}</td><td>{{ line.prediction }}</td><td>{{ line.gold }}</td>
<td class="n">{{ "%.3f"|format(line.probabilities.values()|max) }}</td></tr>
{% endfor %}</table>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        wrong = [line for line in run.predictions("test") if line["score"] < 1 and "probabilities" in line]
        surest = sorted(wrong, key=lambda line: -max(line["probabilities"].values()))
        return {"mistakes": surest[:LISTED]} if surest else None

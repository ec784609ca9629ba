from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Labels(Section):
    """Precision, recall and F1 of each label of the test rows."""

    order = 110
    template = """\
<h2>{{ of(_("By label"), _("test")) }}</h2>
<table>{{ heads(["label", "#precision", "#recall", "#F1", "#rows"]) }}
{% for label, v in by_label.items() %}<tr><td>{{ label }}</td><td class="n">{{ "%.3f"|format(v.precision) }}</td>
<td class="n">{{ "%.3f"|format(v.recall) }}</td><td class="n">{{ "%.3f"|format(v.f1) }}</td>
<td class="n">{{ v.rows }}</td></tr>
{% endfor %}</table>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        by_label = (run.result["metrics"]["test"] or {}).get("by_label")
        return {"by_label": by_label} if by_label else None

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.findings import overruled_labels
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class OverruledLabels(Section):
    """The labels that the reference contradicts, and those that it wins against."""

    order = 90
    template = """\
{% for sentence in sentences %}<p>{{ _(sentence) }}</p>
{% endfor %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        taught = run.result["method"] == "distillation"
        sentences = overruled_labels.findings(run.result["veto"], taught=taught)
        return {"sentences": sentences} if sentences else None

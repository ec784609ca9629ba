from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.findings import teacher
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Teacher(Section):
    """What the teacher knew of the validation rows before training."""

    order = 60
    template = """\
<h2>{{ _("Teacher") }}</h2>
{% for sentence in sentences %}<p>{{ _(sentence) }}</p>
{% endfor %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        sentences = teacher.findings(run.result["reference"]["gate"])
        return {"sentences": sentences} if sentences else None

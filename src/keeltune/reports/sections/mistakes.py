from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section

LISTED = 10


class Mistakes(Section):
    """The rows whose wrong answer the model was surest of."""

    order = 36
    template = """\
<h2>{{ of(_("Surest mistakes"), _(split)) }}</h2>
{% if no_texts %}<p class="soft">{{ no_texts }}</p>
{% endif %}{% for v in views %}{{ row_card(v, [("right", v.right), ("predicted", v.answer)]) }}
{% endfor %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        split = run.scored_split
        wrong = [line for line in run.predictions(split) if line["score"] < 1 and "probabilities" in line]
        surest = sorted(wrong, key=lambda line: -max(line["probabilities"].values()))[:LISTED]
        views = run.views(split, surest)
        return {"views": views, "split": split, "no_texts": run.no_texts(split)} if views else None

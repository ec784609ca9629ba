from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Cost(Section):
    """Speed, padding, precision and memory of the training."""

    order = 170
    template = """\
<h2>{{ _("Cost") }}</h2>
<p>{{ cost }}</p>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any]:
        training = run.result["training"]
        cost = run.say(
            "{examples:.1f} examples a second · {tokens:.0f} tokens a second · {padding:.1f} % padding · {precision} · "
            "peak memory {memory:.2f} GiB.",
            examples=training["examples_per_second"] or 0,
            tokens=training["tokens_per_second"] or 0,
            padding=100 * (training["padding_share"] or 0),
            precision=training["precision"],
            memory=training["peak_memory_bytes"] / 2**30,
        )
        return {"cost": cost}

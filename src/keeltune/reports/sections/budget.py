from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from keeltune.reports import charts
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.localization import Translator
from keeltune.reports.sections.section import Section


class Budget(Section):
    """What a budget bounds, whether it holds, and the weight that held it, over the steps."""

    order = 80
    template = """\
<h2>{{ _("Budget") }}</h2>
<p>{{ sentences|join(_(" ")) }}</p>
{{ chart }}
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        budget, say = run.result["budget"], run.say
        if not budget:
            return None
        measured = say(
            "{kind} at most {limit:.4g}; measured {measured:.4g}, at {share:.3g} of the way from the start.",
            **{name: budget[name] for name in ("kind", "limit", "measured", "share")},
        )
        above = [] if budget["held"] else [say("It is above its limit.")]
        return {"sentences": [measured, *above], "chart": Markup(_charts(budget, say))}


def _charts(budget: Mapping[str, Any], say: Translator) -> str:
    trajectory = budget["trajectory"]
    bounded = {
        say(budget["kind"]): [(step, value) for step, value, _ in trajectory],
        say("limit"): [(step, budget["limit"]) for step, _, _ in trajectory],
    }
    weights = {say("weight"): [(step, weight) for step, _, weight in trajectory]}
    return charts.lines(bounded, say("step"), say(budget["kind"])) + charts.lines(weights, say("step"), say("weight"))

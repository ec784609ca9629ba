from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.findings import method
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Method(Section):
    """How the model was trained, with the formula, the steps and the seed."""

    order = 10
    template = """<p>{{ sentences|join(_(" ")) }}</p>"""

    def values(self, run: FinishedRun) -> Mapping[str, Any]:
        say, result = run.say, run.result
        objective, training = result["objective"], result["training"]
        formula = "L = CE"
        if objective["weight"] is not None:
            formula += f" + {objective['weight']:.3g} · {say(objective['divergence_name'])}"
        steps = say(
            "{steps} steps in {seconds:.0f} s, seed {seed}.",
            **{name: training[name] for name in ("steps", "seconds", "seed")},
        )
        first, *others = (say(sentence) for sentence in method.findings(result))
        return {"sentences": [first, formula + say("."), *others, steps]}

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.row_view import named
from keeltune.reports.sections.section import Section

LISTED = 10


class Confusions(Section):
    """Which label is taken for which, how often, and the row of each pair that the model was surest of."""

    order = 34
    template = """\
<h2>{{ of(_("Labels taken for others"), _(split)) }}</h2>
{% if no_texts %}<p class="soft">{{ no_texts }}</p>
{% endif %}{% for p in pairs %}<div class="pair"><p><b>{{ p.right }}</b> → <b>{{ p.predicted }}</b>
<span class="soft">{{ p.said }}</span></p>
{% if p.view.asked %}{{ row_card(p.view, []) }}{% endif %}</div>
{% endfor %}{% if more %}<p class="soft">{{ more }}</p>
{% endif %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        """None where answers are no single labels, or all are right."""
        split, say = run.scored_split, run.say
        lines = [line for line in run.predictions(split) if "probabilities" in line]
        if not all(isinstance(line[name], str) for line in lines for name in ("gold", "prediction")):
            return None
        ranked = pairs(lines)
        views = run.views(split, [line for _, line in ranked[:LISTED]])
        if not views:
            return None
        of_label = Counter(line["gold"] for line in lines)
        shown = [
            {
                "right": named(line["gold"]),
                "predicted": named(line["prediction"]),
                "said": say("{n} of {all} rows", n=count, all=of_label[line["gold"]]),
                "view": view,
            }
            for (count, line), view in zip(ranked, views, strict=False)
        ]
        hidden = len(ranked) - len(shown)
        more = say("… and {n} more pairs.", n=hidden) if hidden else None
        return {"pairs": shown, "split": split, "no_texts": run.no_texts(split), "more": more}


def pairs(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """How many rows of one label were taken for another one, the commonest pair first, and of each pair the row whose
    answer was given the highest probability."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["gold"] != line["prediction"]:
            found.setdefault((line["gold"], line["prediction"]), []).append(line)
    ranked = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [(len(rows), max(rows, key=lambda line: max(line["probabilities"].values()))) for _, rows in ranked]

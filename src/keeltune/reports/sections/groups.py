from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.evaluation import slices
from keeltune.reports import groups
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.groups import Column
from keeltune.reports.sections.section import Section


class Groups(Section):
    """The score in groups of rows: who is served badly, and how sure that is."""

    order = 120
    template = """\
<h2>{{ of(_("Groups"), _(result.bias.split)) }}</h2>
{% for column, sentences in columns %}<h3>{{ column.name }}</h3>
{{ column.chart }}
<p class="soft">{{ sentences|join(_(" ")) }}</p>
{% endfor %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        columns = groups.columns(run.result, run.say)
        return {"columns": [(column, list(_sentences(column, run))) for column in columns]} if columns else None


def _sentences(column: Column, run: FinishedRun) -> Iterator[str]:
    say, report, before = run.say, column.report, column.before
    if report["gap"] is not None:
        yield say("Worst: {group}, {gap:.3f} worse than the best.", group=column.worst, gap=report["gap"])
    if report["equalised_odds"] is not None:
        yield say("Equalised-odds difference {value:.3f}.", value=report["equalised_odds"])
        if report["equalised_odds_interval"]:
            low, high = (f"{end:.3f}" for end in report["equalised_odds_interval"])
            yield say("({inner})", inner=say("{low} to {high}", low=low, high=high))
    if before and before["gap"] is not None:
        yield say("Before training: gap {gap:.3f}.", gap=before["gap"])
        if before["equalised_odds"] is not None:
            yield say("Equalised-odds difference {value:.3f}.", value=before["equalised_odds"])
    if column.small:
        yield say("*: fewer than {rows} rows, too few to conclude from.", rows=slices.SMALL)
    if column.bare and run.units.column is None:
        yield say("A hollow point has no interval: fewer than {rows} rows.", rows=slices.BARE)
    elif column.bare:
        yield say(
            "A hollow point has no interval: fewer than {rows} rows, or than {clusters} clusters.",
            rows=slices.BARE,
            clusters=FEW_CLUSTERS,
        )
    if column.left_out:
        yield say("… and {n} more groups, which are in result.json.", n=column.left_out)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keeltune.evaluation.forgetting import fell
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section

LISTED = 5
"""Rows of a domain that are shown as lost, and as won."""

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A row's line before training and after it."""


class ChangedRows(Section):
    """The rows that the model answered well before training and badly after it, and the other way round."""

    order = 75
    template = """\
<h2>{{ _("Rows lost and won") }}</h2>
{% for group in groups %}<h3>{{ group.title }}</h3>
{% if group.no_texts %}<p class="soft">{{ group.no_texts }}</p>
{% endif %}{% for old, new in group.rows -%}
{{ row_card(new, [("right", new.right), ("before", old.answer), ("now", new.answer)]) }}
{% endfor %}{% endfor %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        """None where there is no model before training, or nothing changed."""
        target = run.scored_split
        source = next((s for s in ("source", "source_validation") if run.predictions(s)), None)
        splits = {split: run.say("source domain" if split == source else split) for split in (source, target) if split}
        groups = [group for split, name in splits.items() for group in _groups(run, split, name)]
        return {"groups": groups} if groups else None


LOST = "{what}: answered well before and badly now ({shown} of {all} rows)"

WON = "{what}: answered badly before and well now ({shown} of {all} rows)"


def _groups(run: FinishedRun, split: str, name: str) -> Iterator[dict[str, Any]]:
    before = {_place(line): line for line in run.predictions(split, before=True)}
    pairs = [(before[place], line) for line in run.predictions(split) if (place := _place(line)) in before]
    for title, changed in (
        (LOST, [pair for pair in pairs if fell(pair[0]["score"], pair[1]["score"])]),
        (WON, [pair for pair in pairs if fell(pair[1]["score"], pair[0]["score"])]),
    ):
        most = sorted(changed, key=_unlike)[:LISTED]
        views = [run.views(split, lines) for lines in zip(*most, strict=True)] if most else []
        if views and views[0]:
            yield {
                "title": run.say(title, what=name, shown=len(most), all=len(changed)),
                "no_texts": run.no_texts(split),
                "rows": list(zip(*views, strict=True)),
            }


def _place(line: Mapping[str, Any]) -> tuple[Any, Any]:
    return line["row"], line["key"]


def _unlike(pair: Pair) -> tuple[float, float]:
    """The largest change of score first, then the surest answer after training."""
    probabilities = pair[1].get("probabilities") or {}
    return -abs(pair[1]["score"] - pair[0]["score"]), -max(probabilities.values(), default=0.0)

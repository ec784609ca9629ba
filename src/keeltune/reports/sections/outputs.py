from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.localization import Translator
from keeltune.reports.row_view import RowView
from keeltune.reports.sections.section import Section

SHOWN = 10


class Outputs(Section):
    """Written texts beside their references, answers in their passages, transcripts and tagged sentences with their
    errors: some rows, from the worst to the best by their own score."""

    order = 32
    template = """\
<h2>{{ of(_(title), _(split)) }}</h2>
<p class="soft">{{ explained|join(_(" ")) }}</p>
{% if no_texts %}<p class="soft">{{ no_texts }}</p>
{% endif %}{% for v, said in views %}{% if v.both is not none -%}
{{ row_card(v, [(said, v.both)], scored=true) }}{% else -%}
{{ row_card(v, [(said, v.right), ("answer", v.answer)], scored=true) }}{% endif %}
{% endfor %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        task, split, say = run.task, run.scored_split, run.say
        if task is None or task.answer not in ("text", "tags"):
            return None
        lines = [line for line in run.predictions(split) if "gold" in line]
        chosen = from_worst_to_best(lines, SHOWN)
        views = run.views(split, chosen)
        if not views:
            return None
        title, legend = _kind(task.answer, task.passage, task.reads)
        order = say(
            "{n} of {all} rows, evenly spaced from the worst to the best by their own score.", n=len(views),
            all=len(lines),
        )  # fmt: skip
        return {
            "title": title,
            "explained": [order, say(legend)],
            "split": split,
            "no_texts": run.no_texts(split),
            "views": [(view, _said(view, say)) for view in views],
        }


def from_worst_to_best(lines: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most so many lines, evenly spaced in the order of their scores; of equal ones that of the largest loss a
    prediction is the worst."""
    ranked = sorted(lines, key=lambda line: (line["score"], -line.get("loss", 0.0) / (line.get("predictions") or 1.0)))
    if len(ranked) <= most:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (most - 1))] for i in range(most)]


TITLES = {
    "tags": "Tagged sentences",
    "passage": "Answers in their passages",
    "sound": "Transcripts",
    "text": "Outputs beside their references",
}

LEGENDS = {
    "tags": "The spans as they should be beside those that were found; marked: missed, or wrong.",
    "passage": "In the passage the right answers are underlined, and the given answer is shaded.",
    "sound": "As they are compared for WER; struck out: words that were not heard, underlined: words that were heard "
    "instead or besides.",
    "text": "Marked in the reference: what the answer lacks; marked in the answer: what the reference has not.",
}


def _kind(answer: str, passage: str | None, reads: str) -> tuple[str, str]:
    kind = "tags" if answer == "tags" else "passage" if passage else "sound" if reads == "sound" else "text"
    return TITLES[kind], LEGENDS[kind]


def _said(view: RowView, say: Translator) -> str:
    """What stands before a row's right answer."""
    if view.errors is not None:
        substitutions, deletions, insertions = view.errors
        return say(
            "substitutions: {substitutions}, deletions: {deletions}, insertions: {insertions}",
            substitutions=substitutions, deletions=deletions, insertions=insertions,
        )  # fmt: skip
    if view.references > 1:
        return say("the nearest of {n} references", n=view.references)
    return say("right")

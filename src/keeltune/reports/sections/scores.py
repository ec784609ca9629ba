from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.evaluation.test_set_looks import looks_at_test
from keeltune.reports import charts
from keeltune.reports.findings import cut_answers
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Scores(Section):
    """Each split's metrics before and after training, with their intervals, and what the intervals are over."""

    order = 20
    template = """\
<h2>{{ _("Result") }}</h2>
{{ chart }}
<table>
{{ heads(["split", "metric", "#before", "#after", "#95 % interval"]) }}
{% for s in scores %}<tr><td>{{ _(s.split) }}</td><td>{{ _(s.metric) }}</td>
<td class="n">{% if s.before is not none %}{{ "%.4f"|format(s.before) }}{% else %}–{% endif %}</td>
<td class="n">{{ "%.4f"|format(s.after) }}</td>
<td class="n">{% if s.interval %}{{ interval(s.interval) -}}
{% if s.few %} † {{ _("too narrow (clusters: {n})", n=s.few) }}{% endif %}{% endif %}</td></tr>
{% endfor %}</table>
<p class="soft">{{ intervals }}</p>
{{ too_few_clusters(units, few_clusters) }}
{% if normaliser %}<p class="soft">{{ normaliser }}</p>
{% endif %}{% for sentence in cut_answers %}<p>{{ sentence }}</p>
{% endfor %}{% if looks %}<p class="soft">{{ looks|join(_(" ")) }}</p>
{% endif %}"""

    def values(self, run: FinishedRun) -> Mapping[str, Any]:
        chart = _chart(run)
        return {
            "chart": Markup(chart),
            "scores": list(_scores(run)),
            "intervals": _intervals(run),
            "few_clusters": FEW_CLUSTERS,
            "normaliser": _normaliser(run),
            "cut_answers": [run.say(found) for found in cut_answers.findings(run.result["generation"])],
            "looks": _looks(run),
        }


def _scores(run: FinishedRun) -> Iterator[dict[str, Any]]:
    """One line a split and metric: before, after, the interval after, and its clusters where they are too few."""
    metrics, intervals = run.result["metrics"], run.result["intervals"]
    splits = [
        ("validation", metrics["before"]["validation"], metrics["validation"], intervals["validation"]),
        ("test", metrics["before"]["test"], metrics["test"], intervals["test"]),
        ("source", metrics["source"]["before"], metrics["source"]["after"], intervals["source"]["after"]),
    ]
    for split, before, after, ranges in splits:
        for name, value in (after or {}).items():
            if isinstance(value, float):
                yield {
                    "split": "source domain, test" if split == "source" else split,
                    "metric": name,
                    "before": before.get(name) if before else None,
                    "after": value,
                    "interval": (ranges or {}).get(name),
                    "few": run.units.few.get(split),
                }


def _normaliser(run: FinishedRun) -> str | None:
    """How transcripts were made alike before they were compared; None where none were."""
    metrics = run.result["metrics"]
    names = [(metrics[split] or {}).get("normaliser") for split in ("test", "validation")]
    name = next((name for name in names if name is not None), None)
    return None if name is None else run.say("Before WER and CER both sides are normalised: {how}.", how=run.say(name))


def _chart(run: FinishedRun) -> str:
    """The primary metric of each split with its interval; of the source domain before and after."""
    say, result = run.say, run.result
    source, ranges = result["metrics"]["source"], result["intervals"]["source"]
    named = [
        (say(split), split, result["metrics"][split], result["intervals"][split]) for split in ("validation", "test")
    ]
    named += [(say(f"source, {when}"), "source", source[when], ranges[when]) for when in ("before", "after")]
    bars = []
    for name, split, metrics, intervals in named:
        if metrics:
            primary = next(iter(metrics))
            label = say("{what}: {metric}", what=name, metric=primary) + run.units.mark(split)
            bars.append((label, metrics[primary], *intervals[primary]))
    return charts.ranges(bars, _axis(run)) if bars else ""


def _axis(run: FinishedRun) -> str:
    """What a bootstrap interval's draws are of."""
    say, column, seeds = run.say, run.units.column, run.result["seeds"]
    if column is None:
        return say("95 % interval over rows and seeds") if seeds else say("95 % interval over rows")
    if seeds:
        return say("95 % interval over clusters of {column} and seeds", column=column)
    return say("95 % interval over clusters of {column}", column=column)


def _intervals(run: FinishedRun) -> str:
    """What the intervals of the table hold, and what they do not."""
    say, column, seeds = run.say, run.units.column, run.result["seeds"]
    if seeds and column is None:
        return say(
            "Means over {n} seeds. The interval is a bootstrap over rows and seeds: how much the mean would move with "
            "other rows and other seeds.",
            n=len(seeds["numbers"]),
        )
    if seeds:
        return say(
            "Means over {n} seeds. The interval is a bootstrap over clusters of {column} and seeds: how much the mean "
            "would move with other clusters and other seeds. A row that is in no cluster is drawn alone.",
            n=len(seeds["numbers"]),
            column=column,
        )
    if column is None:
        return say(
            "The interval is a percentile bootstrap over rows: how much the score would move with other test rows. "
            "Of a share of right rows, such as accuracy, it is Clopper and Pearson's. "
            "Training noise (other seeds) is not in it."
        )
    return say(
        "The interval is a percentile bootstrap over clusters of {column}: how much the score would move with other "
        "clusters. A row that is in no cluster is drawn alone. Of a share of right rows, such as accuracy, it is "
        "Clopper and Pearson's, of as many rows as the clusters are worth. Training noise (other seeds) is not in it.",
        column=column,
    )


def _looks(run: FinishedRun) -> list[str]:
    """How often the test rows were scored; nothing where no count is kept."""
    looks = looks_at_test(run.folder, run.result)
    if not looks:
        return []
    times = run.say(
        "When this page was written, these test rows had been scored {n} times with what was trained in this folder.",
        n=looks,
    )
    if looks == 1:
        times = run.say(
            "When this page was written, these test rows had been scored once with what was trained in this folder."
        )
    return [times, run.say("Each time that their score decides what is kept, it flatters a little more.")]

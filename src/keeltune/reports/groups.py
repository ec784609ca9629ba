"""Groups of rows on a page: which names are ours, and so said in its language, and each column's picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from keeltune.evaluation import slices
from keeltune.reports import charts
from keeltune.reports.localization import Translator
from keeltune.utils import registry

CHARTED = 20
"""Groups of a column that are charted."""

SMALL = " *"
"""What stands after a group too small to conclude from."""


@dataclass(frozen=True)
class GroupNames:
    """What the columns and values of groups are called: ours in the page's language, the user's as they are."""

    ours: frozenset[str]
    say: Translator

    def column(self, name: str) -> str:
        return self.say(name) if name in self.ours else name

    def value(self, column: str, value: str) -> str:
        return self.say(value) if column in self.ours and column != "label" else value


def group_names(columns: Mapping[str, Iterable[str]], task: str, say: Translator) -> GroupNames:
    """Of {column: its groups}. A column of the data may be called as ours are: then ours is called otherwise
    (`slices.other_group`). The labels are groups of ours in a task that has such a column."""
    ours = set[str]()
    for name, values in (("length", slices.THIRDS), ("words", slices.WORDS)):
        thirds = slices.other_group(name, {name: None})
        column = thirds if thirds in columns else name
        if column in columns and set(columns[column]) <= set(values):
            ours.add(column)
    if task in registry.names("tasks"):  # a task of the user's is not imported for a heading
        ours |= {"label"} & {column.name for column in registry.find("tasks", task).columns}
    return GroupNames(frozenset(ours), say)


@dataclass(frozen=True)
class Column:
    """One column's groups as they are shown.

    `report`: what `evaluation.slices.report` says of it; `before`: the same of the model before training. `small`,
    `bare`: whether a group of so few rows is among them (see `slices`). `left_out`: groups that are not charted.
    """

    name: str
    chart: Markup
    worst: str | None
    report: Mapping[str, Any]
    before: Mapping[str, Any] | None
    small: bool
    bare: bool
    left_out: int


def columns(result: Mapping[str, Any], say: Translator) -> list[Column]:
    """Each column of `bias` that has groups."""
    bias = result["bias"] or {"slices": {}}
    names = group_names({name: report["groups"] for name, report in bias["slices"].items()}, result["task"], say)
    before = bias.get("before") or {}
    return [
        _column(name, report, before.get(name), bias["metric"], names)
        for name, report in bias["slices"].items()
        if report["groups"]
    ]


def _column(
    name: str, report: Mapping[str, Any], before: Mapping[str, Any] | None, metric: str, names: GroupNames
) -> Column:
    """All groups are charted; of many the largest, and the worst in any case."""
    groups, worst = report["groups"], report["worst"]
    charted = set(sorted(groups, key=lambda value: (value != worst, -groups[value]["rows"]))[:CHARTED])
    shown = {value: group for value, group in groups.items() if value in charted}
    bars: list[charts.Range] = []
    for value, group in shown.items():
        small = SMALL if group["small"] else ""
        low, high = group["interval"] or (None, None)
        label = f"{charts.short(names.value(name, value), 18)} ({group['rows']}){small}"
        bars.append((label, group["value"], low, high))
    return Column(
        name=names.column(name),
        chart=Markup(charts.ranges(bars, names.say("{metric}, 95 % interval", metric=metric))),
        worst=None if worst is None else names.value(name, worst),
        report=report,
        before=before,
        small=any(group["small"] for group in shown.values()),
        bare=any(group["interval"] is None for group in shown.values()),
        left_out=len(groups) - len(shown),
    )

"""Groups of rows on a page: which names are ours, and so said in its language, and each column's picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from keeltune.evaluation import slices
from keeltune.reports import charts
from keeltune.reports.localization import Say
from keeltune.utils import registry

CHARTED = 20
"""Groups of a column that are drawn."""

SMALL = " *"
"""What stands beside a group too small to conclude from."""


@dataclass(frozen=True)
class Names:
    """What the columns and values of groups are called: ours in the page's language, the user's as they are."""

    own: frozenset[str]
    say: Say

    def column(self, name: str) -> str:
        return self.say(name) if name in self.own else name

    def value(self, column: str, value: str) -> str:
        return self.say(value) if column in self.own and column != "label" else value


def names(columns: Mapping[str, Iterable[str]], task: str, say: Say) -> Names:
    """Of {column: its groups}. A column of the data may be called as ours are: then ours is called otherwise
    (`slices.beside`). The labels are groups of ours in a task that has such a column."""
    own = set[str]()
    for name, values in (("length", slices.THIRDS), ("words", slices.WORDS)):
        thirds = slices.other_group(name, {name: None})
        ours = thirds if thirds in columns else name
        if ours in columns and set(columns[ours]) <= set(values):
            own.add(ours)
    if task in registry.names("tasks"):  # a task of the user's is not imported for a heading
        own |= {"label"} & {column.name for column in registry.find("tasks", task).columns}
    return Names(frozenset(own), say)


@dataclass(frozen=True)
class Column:
    """One column's groups as they are shown; `before`: the same of the model before training; `small`, `bare`: whether
    such a group is among them (see `slices`)."""

    name: str
    chart: Markup
    worst: str | None
    found: Mapping[str, Any]
    before: Mapping[str, Any] | None
    small: bool
    bare: bool
    left_out: int


def columns(result: Mapping[str, Any], say: Say) -> list[Column]:
    """Each column of `bias`, every group drawn: of many the largest, and the worst in any case."""
    bias = result["bias"] or {"slices": {}}
    called = names({name: each["groups"] for name, each in bias["slices"].items()}, result["task"], say)
    made = []
    for name, each in bias["slices"].items():
        groups, worst = each["groups"], each["worst"]
        drawn = set(sorted(groups, key=lambda value: (value != worst, -groups[value]["rows"]))[:CHARTED])
        shown = {value: group for value, group in groups.items() if value in drawn}
        bars: list[charts.Range] = []
        for value, group in shown.items():
            said = f"{charts.short(called.value(name, value), 18)} ({group['rows']}){SMALL if group['small'] else ''}"
            low, high = group["interval"] or (None, None)
            bars.append((said, group["value"], low, high))
        if bars:
            made.append(
                Column(
                    name=called.column(name),
                    chart=Markup(charts.ranges(bars, f"{bias['metric']}, {say('95 % interval')}")),
                    worst=None if worst is None else called.value(name, worst),
                    found=each,
                    before=(bias.get("before") or {}).get(name),
                    small=any(group["small"] for group in shown.values()),
                    bare=any(group["interval"] is None for group in shown.values()),
                    left_out=len(groups) - len(shown),
                )
            )
    return made

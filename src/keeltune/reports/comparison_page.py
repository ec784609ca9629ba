"""The page of `keeltune compare`: one table and one picture, and the curve between start and end of each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.reports import charts, groups, weight_path
from keeltune.reports.finished_run import read_recipe
from keeltune.reports.localization import Translator, translator
from keeltune.reports.templating import environment
from keeltune.reports.uncertainty import ResampledUnits, folded, in_a_cell, resampled_units
from keeltune.utils.messages import Message

DOMAINS = {"target": "test", "source": "source"}
"""The split that stands for a domain."""


def page(comparison: Mapping[str, Any]) -> str:
    """`compare.html` of what `runs.comparison.compare` returned."""
    say, units = translator(comparison["language"]), _units(comparison)
    paths = [
        (run["name"], Markup(weight_path.chart(run["interpolation"], say)))
        for run in comparison["runs"]
        if (run["interpolation"] or {}).get("points")
    ]
    size = trade_off(comparison, units, say)
    template = environment(say).get_template("compare.html")
    return template.render(
        comparison=comparison,
        picture=Markup(picture(comparison, units, say)),
        units=units,
        names=groups.group_names(comparison["groups"]["slices"], comparison["task"], say),
        marks={domain: units.mark(split) for domain, split in DOMAINS.items()},
        few_clusters=FEW_CLUSTERS,
        paths=paths,
        trade_off=None if size is None else Markup(size),
        dominated=list(dominated(comparison)),
        sizes=sizes(comparison["runs"]),
        value_text=value_text,
        domains=[domain for domain in DOMAINS if any(run[domain] for run in comparison["runs"])],
        front=has_front(comparison),
    )


def _units(comparison: Mapping[str, Any]) -> ResampledUnits:
    """What is drawn: the clusters that one of the runs names are those of all."""
    for run in comparison["runs"]:
        folder = Path(run["folder"])
        if (folder / "recipe.yaml").is_file():
            recipe = read_recipe((folder / "recipe.yaml").read_text(encoding="utf-8"), folder)
            predictions = [folder / "predictions", *sorted(folder.glob("seed-*/predictions"))]
            column = recipe.evaluation.clusters if recipe else None
            units = resampled_units(column, predictions, tuple(DOMAINS.values()))
            if units.column is not None:
                return units
    return ResampledUnits(None, {})


def picture(comparison: Mapping[str, Any], units: ResampledUnits, say: Translator) -> str:
    """Target against source, each run with its intervals; without a source domain the target alone."""
    metric, runs = comparison["metric"], comparison["runs"]
    if not all(run["source"] for run in runs):
        bars = [(run["name"], run["target"]["value"], *run["target"]["interval"]) for run in runs]
        if units.column is None:
            return charts.ranges(bars, say("{metric}, 95 % interval over rows", metric=metric))
        axis = say("{metric}, 95 % interval over clusters of {column}", metric=metric, column=units.column)
        return charts.ranges(bars, axis + units.mark("test"))
    points = [
        charts.NamedPoint(
            run["name"] if run["weight"] is None else f"{run['name']} ({run['weight']:.2g})",
            (run["source"]["value"], *run["source"]["interval"]),
            (run["target"]["value"], *run["target"]["interval"]),
        )
        for run in runs
    ]
    x, y = (
        say("{domain} {metric}", domain=say(domain), metric=metric) + units.mark(DOMAINS[domain])
        for domain in ("source", "target")
    )
    return charts.plane(points, x, y, dials=list(_dials(runs)))


def _dials(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[int]]:
    """Runs that differ in their weight alone, anchored on the same rows: from the smallest to the largest."""
    for anchor in dict.fromkeys(run["anchor"] for run in runs if run["anchor"] is not None):
        indices = [i for i, run in enumerate(runs) if run["anchor"] == anchor]
        if len(indices) > 1:
            yield sorted(indices, key=lambda i: runs[i]["weight"])


def trade_off(comparison: Mapping[str, Any], units: ResampledUnits, say: Translator) -> str | None:
    """Size (or speed) against the target's score with its interval; the runs that nobody dominates are joined."""
    if comparison["trade_off"] is None:
        return None
    runs, by = comparison["runs"], comparison["trade_off"]["by"]
    scale, axis = (1e-6, say("parameters, millions")) if by == "parameters" else (1.0, say("inference, rows a second"))
    points = [
        charts.NamedPoint(run["name"], (scale * run[by],) * 3, (run["target"]["value"], *run["target"]["interval"]))
        for run in runs
    ]
    undominated = [i for i, run in enumerate(runs) if run["name"] not in comparison["trade_off"]["dominated"]]
    y = say("{metric}, 95 % interval", metric=comparison["metric"]) + units.mark("test")
    return charts.plane(points, axis, y, dials=[sorted(undominated, key=lambda i: runs[i][by])])


def dominated(comparison: Mapping[str, Any]) -> Iterator[Message]:
    """A sentence a run that is neither smaller (or quicker) nor better than another one."""
    if (found := comparison["trade_off"]) is None:
        return
    for run, other in found["dominated"].items():
        template = "{run} is dominated by {other}, which is no slower and scores no worse"
        if found["by"] == "parameters":
            template = "{run} is dominated by {other}, which is no larger and scores no worse"
        yield Message(template, run=run, other=other)


SIZES = {
    "parameters": "parameters",
    "trained_parameters": "trained",
    "training_rows_per_second": "rows/s, training",
    "inference_rows_per_second": "rows/s, inference",
    "seconds": "training, s",
}
"""What a run's model costs, and its heading."""


def sizes(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{heading: [each run's value]} of what is known of any run."""
    return {
        heading: ["–" if run[name] is None else short_number(run[name]) for run in runs]
        for name, heading in SIZES.items()
        if any(run[name] is not None for run in runs)
    }


def short_number(value: float) -> str:
    """Three digits of a number, from ten thousand on with a letter for its thousands, millions, billions: 22.7 M."""
    rounded = float(f"{value:.3g}")
    for least, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if rounded >= least:
            return f"{rounded / unit:g} {letter}"
    return f"{value:.0f}" if rounded >= 100 else f"{value:.3g}"


def value_text(value: Any, letters: int = 60) -> str:
    """A recipe's value in a cell, long ones cut."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def tables(comparison: Mapping[str, Any]) -> Iterator[Table]:
    """The same for a terminal of 80 columns: a table a domain, what the runs cost, and how their recipes differ."""
    runs = comparison["runs"]
    for domain in DOMAINS:
        if any(run[domain] for run in runs):
            yield _scores(comparison, domain)
    names = [run["name"] for run in runs]
    costs = Table(*folded("", *names), title="Size and speed")
    costs.add_row("method", *(run["method"] for run in runs))
    if any(run["anchor"] not in (None, "target") for run in runs):
        costs.add_row("anchor", *(run["anchor"] or "–" for run in runs))
    if any(run["weight"] is not None for run in runs):
        costs.add_row("weight", *("–" if run["weight"] is None else f"{run['weight']:.3g}" for run in runs))
    for heading, values in sizes(runs).items():
        costs.add_row(heading, *values)
    yield costs
    if comparison["recipes"]:
        rows = Table(*folded("recipe", *names), title="What differs between the recipes")
        for field, values in comparison["recipes"].items():
            rows.add_row(field, *map(value_text, values))
        yield rows


def _scores(comparison: Mapping[str, Any], domain: str) -> Table:
    """A domain's scores and their changes, each with its 95 % interval."""
    runs, several, both = comparison["runs"], len(comparison["runs"]) > 1, has_front(comparison)
    heads = ["run", comparison["metric"]]
    heads += ["against the first", "p (Holm)"] if several else []
    heads += ["front"] if both else []
    rows = Table(*folded(*heads), title=domain)
    for run in runs:
        score, change = run[domain], (run["against"] or {}).get(domain)
        cells = ["–" if not score else in_a_cell(score["value"], score["interval"], ".4f")]
        if several:
            cells.append("–" if not change else in_a_cell(change["change"], change["interval"], "+.4f"))
            cells.append("–" if not change else f"{change['p_holm']:.2g}")
        rows.add_row(run["name"], *cells, *([("yes" if run["pareto"] else "no")] if both else []))
    return rows


def has_front(comparison: Mapping[str, Any]) -> bool:
    """Whether runs have two scores, so that one may be better in one and worse in the other."""
    return len(comparison["runs"]) > 1 and all(run["source"] for run in comparison["runs"])

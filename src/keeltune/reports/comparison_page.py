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
from keeltune.reports.uncertainty import ResampledUnits, resampled_units

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
    template = environment(say).get_template("compare.html")
    return template.render(
        comparison=comparison,
        picture=Markup(picture(comparison, units, say)),
        units=units,
        names=groups.group_names(comparison["groups"]["slices"], comparison["task"], say),
        marks={domain: units.mark(split) for domain, split in DOMAINS.items()},
        few_clusters=FEW_CLUSTERS,
        paths=paths,
    )


def _units(comparison: Mapping[str, Any]) -> ResampledUnits:
    """What is drawn: the clusters that one of the runs names are those of all."""
    for run in comparison["runs"]:
        folder = Path(run["folder"])
        if (folder / "recipe.yaml").is_file():
            recipe = read_recipe((folder / "recipe.yaml").read_text(encoding="utf-8"))
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


def table(comparison: Mapping[str, Any]) -> Table:
    """The same for a terminal."""
    metric = comparison["metric"]
    columns = ("run", "method", "weight", f"target {metric}", "against the first", f"source {metric}", "against it")
    rows = Table(*columns, "front")
    for run in comparison["runs"]:
        cells = [
            run["name"],
            run["method"] + (f" on {run['anchor']}" if run["anchor"] not in (None, "target") else ""),
            "–" if run["weight"] is None else f"{run['weight']:.3g}",
        ]
        for domain in ("target", "source"):
            score, change = run[domain], (run["against"] or {}).get(domain)
            cells.append("–" if not score else f"{score['value']:.4g}")
            cells.append("–" if not change else f"{change['change']:+.4f} ({change['interval'][0]:+.4f} to "
                         f"{change['interval'][1]:+.4f}), p {change['p_holm']:.2g}")  # fmt: skip
        rows.add_row(*cells, "yes" if run["pareto"] else "")
    return rows

"""The page of `keeltune compare`: one table and one picture, and the curve between start and end of each run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.reports import charts, groups, uncertainty
from keeltune.reports.localization import Say, translator
from keeltune.reports.run_page import environment, path_places, read
from keeltune.reports.uncertainty import Over, mark


def page(comparison: dict[str, Any]) -> str:
    """`compare.html` of what `compare.compare` returned."""
    curves = [
        (line["name"], line["interpolation"])
        for line in comparison["runs"]
        if (line["interpolation"] or {}).get("points")
    ]
    say, over = translator(comparison["language"]), _over(comparison)
    x, y = (f"{say(domain)} {comparison['metric']}" for domain in ("source", "target"))
    template = environment(say).get_template("compare.html")
    return template.render(
        comparison=comparison,
        picture=Markup(picture(comparison, over, say)),
        over=over,
        called=groups.names(comparison["groups"]["slices"], comparison["task"], say),
        narrow={domain: mark(over.few, split) for domain, split in DOMAINS.items()},
        few_clusters=FEW_CLUSTERS,
        curves=[(name, Markup(charts.plane(path_places(found), x, y))) for name, found in curves],
    )


DOMAINS = {"target": "test", "source": "source"}
"""The split that stands for a domain."""


def _over(comparison: dict[str, Any]) -> Over:
    """What is drawn: the clusters that one of the runs names are those of all."""
    for line in comparison["runs"]:
        folder = Path(line["folder"])
        if (folder / "recipe.yaml").is_file():
            made = read((folder / "recipe.yaml").read_text(encoding="utf-8"))
            places = [folder / "predictions", *sorted(folder.glob("seed-*/predictions"))]
            found = uncertainty.over(made.evaluation.clusters if made else None, places, tuple(DOMAINS.values()))
            if found.column is not None:
                return found
    return Over(None, {})


def picture(comparison: dict[str, Any], over: Over, say: Say) -> str:
    """Target against source, each run with its intervals; without a source domain the target alone."""
    metric, lines = comparison["metric"], comparison["runs"]
    if not all(line["source"] for line in lines):
        bars = [(line["name"], line["target"]["value"], *line["target"]["interval"]) for line in lines]
        if over.column is None:
            return charts.ranges(bars, say("{metric}, 95 % bootstrap interval over rows", metric=metric))
        drawn = say("{metric}, 95 % bootstrap interval over clusters of {column}", metric=metric, column=over.column)
        return charts.ranges(bars, drawn + mark(over.few, "test"))
    points = [
        charts.Place(
            line["name"] if line["weight"] is None else f"{line['name']} ({line['weight']:.2g})",
            (line["source"]["value"], *line["source"]["interval"]),
            (line["target"]["value"], *line["target"]["interval"]),
        )
        for line in lines
    ]
    x, y = (f"{say(domain)} {metric}{mark(over.few, DOMAINS[domain])}" for domain in ("source", "target"))
    return charts.plane(points, x, y, dials=list(_dials(lines)))


def _dials(lines: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
    """Runs that differ in their weight alone, held on the same rows: from the smallest to the largest."""
    for anchor in dict.fromkeys(line["anchor"] for line in lines if line["anchor"] is not None):
        there = [i for i, line in enumerate(lines) if line["anchor"] == anchor]
        if len(there) > 1:
            yield sorted(there, key=lambda i: lines[i]["weight"])


def table(comparison: dict[str, Any]) -> Table:
    """The same for a terminal."""
    metric = comparison["metric"]
    made = Table(
        "run", "method", "weight", f"target {metric}", "against the first", f"source {metric}", "against it", "front"
    )
    for line in comparison["runs"]:
        cells = [
            escape(line["name"]),
            line["method"] + _where(line),
            "–" if line["weight"] is None else f"{line['weight']:.3g}",
        ]
        for domain in ("target", "source"):
            found, change = line[domain], (line["against"] or {}).get(domain)
            cells.append("–" if not found else f"{found['value']:.4g}")
            cells.append("–" if not change else f"{change['change']:+.4f} ({change['interval'][0]:+.4f} to "
                         f"{change['interval'][1]:+.4f}), p {change['p_holm']:.2g}")  # fmt: skip
        made.add_row(*cells, "yes" if line["pareto"] else "")
    return made


def _where(line: dict[str, Any]) -> str:
    return f" on {line['anchor']}" if line["anchor"] not in (None, "target") else ""

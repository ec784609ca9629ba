"""What an export says of itself: the table that the command prints, and the README beside the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keeltune.data.dataset import Row
from keeltune.exporters import coverage
from keeltune.reports.card import usage
from keeltune.reports.templating import code
from keeltune.tasks.task import Task


def lines(proof: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The proof as a table: what it is, of torch, of the export, the difference."""
    for name in sorted(proof["metrics"], key=lambda name: (name != proof["metric"], name == "loss")):
        metric = proof["metrics"][name]
        low, high = metric["interval"]
        difference = f"{metric['difference']:+z.4f} ({low:+z.4f} to {high:+z.4f})"
        yield name, f"{metric['torch']:.4f}", f"{metric['exported']:.4f}", difference
    yield "logits, at most", "", "", f"{proof['logits']:.2g}"
    if proof["predictions"] is not None:
        yield "the same predictions", "", "", f"{proof['predictions']:.2%}"
    before, after = (proof["bytes"][side] for side in ("torch", "exported"))
    yield "size in MB", f"{before / 1e6:.2f}", f"{after / 1e6:.2f}", f"× {after / before:.2f}"
    before, after = (proof["rows_per_second"][side] for side in ("torch", "exported"))
    yield "rows a second, one thread", f"{before:.1f}", f"{after:.1f}", f"× {after / before:.2f}"


def card(task: Task, rows: Sequence[Row], proof: Mapping[str, Any]) -> str:
    """The README of an export; it names no path and holds no row of the data."""
    return code().get_template("export_card.md.jinja").render(
        title=f"{proof['task']}, {proof['to']}, by keeltune",
        proof=proof,
        faults="; ".join(proof["faults"]),
        lines=list(lines(proof)),
        program=usage.program(task, rows, onnx=True),
        graphs=" and ".join(f"`{name}`" for name in proof["graphs"]),
        writes=coverage.writes_by_token(task, task.settings.config),
    )  # fmt: skip
